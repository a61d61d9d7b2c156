"""A dataplane without a kernel: it keeps the NodeState that it was given and answers "does this packet arrive?".

In:   deltas, as every dataplane gets them.   Out: answers, from parsed rules and the members of IP sets alone.

It knows nothing of selectors, labels or ``policy.verdict``: where both agree, calculation and definition agree. It
stands in for a real dataplane wherever one is needed without root, and rejects what a real one could not hold (a rule
that names a set it was never given).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import attrs

from calico_kernel.hookspecs import ApplyReport, Dataplane, Failure
from calico_kernel.model.nodestate import (
    PORT_PROTOCOLS,
    ActivePolicy,
    ActiveProfile,
    Delta,
    HostAddresses,
    IpSet,
    IpSetKind,
    LocalHostEndpoint,
    LocalWorkload,
    MapDelta,
    Match,
    ParsedRule,
    PolicyId,
    PolicyList,
    PortRange,
    WorkloadEndpointId,
)
from calico_kernel.policy.cluster import HostSettings
from calico_kernel.policy.matching import Packet

Direction = Literal["ingress", "egress"]
Answer = Literal["allow", "deny", "undecided"]
Net = ipaddress.IPv4Network | ipaddress.IPv6Network


@attrs.define
class _Members:
    """A set's members, ready to be asked: addresses and (address, protocol, port) by text, prefixes one by one."""

    texts: set[str]
    prefixes: list[Net]

    @classmethod
    def of(cls, kind: IpSetKind, members: Collection[str]) -> _Members:
        if kind is IpSetKind.IP_PORT:
            return cls(set(members), [])
        return cls(
            {member for member in members if "/" not in member},
            [ipaddress.ip_network(member) for member in members if "/" in member],
        )

    def has_address(self, address: str) -> bool:
        return address in self.texts or any(ipaddress.ip_address(address) in prefix for prefix in self.prefixes)

    def has_port(self, address: str, protocol: int, port: int) -> bool:
        return f"{address},{PORT_PROTOCOLS.get(protocol, '')}:{port}" in self.texts


@attrs.define
class State:
    """NodeState as maps, the part that decides packets."""

    ip_sets: dict[str, IpSet] = attrs.field(factory=dict)
    policies: dict[PolicyId, ActivePolicy] = attrs.field(factory=dict)
    profiles: dict[str, ActiveProfile] = attrs.field(factory=dict)
    workloads: dict[WorkloadEndpointId, LocalWorkload] = attrs.field(factory=dict)
    host_endpoints: dict[str, LocalHostEndpoint] = attrs.field(factory=dict)
    hosts: dict[str, HostAddresses] = attrs.field(factory=dict)

    def taking(self, delta: Delta) -> State:
        """The state after ``delta``; this one stays as it is. Raises KeyError for members of a set never given."""
        old = State() if delta.full else self
        sets = _merged(old.ip_sets, delta.ip_sets)
        for set_id, change in delta.ip_set_members.items():
            have = sets[set_id]
            members = (set(have.members) - set(change.removed)) | set(change.added)
            sets[set_id] = attrs.evolve(have, members=frozenset(members))
        return State(
            ip_sets=sets,
            policies=_merged(old.policies, delta.policies),
            profiles=_merged(old.profiles, delta.profiles),
            workloads=_merged(old.workloads, delta.workloads),
            host_endpoints=_merged(old.host_endpoints, delta.host_endpoints),
            hosts=_merged(old.hosts, delta.hosts),
        )

    def dangling(self) -> list[str]:
        """References to what is not there. A consistent delta never leaves any."""
        lists = [w.policies for w in self.workloads.values()]
        for endpoint in self.host_endpoints.values():
            lists += [endpoint.normal, endpoint.forward, endpoint.untracked, endpoint.pre_dnat]
        wanted = {policy for each in lists for tier in each.tiers for policy in (*tier.ingress, *tier.egress)}
        missing = [f"policy {policy}" for policy in sorted(wanted - self.policies.keys())]
        missing += [f"profile {p}" for p in sorted({p for each in lists for p in each.profiles} - self.profiles.keys())]
        holders: list[ActivePolicy | ActiveProfile] = [*self.policies.values(), *self.profiles.values()]
        rules = [rule for holder in holders for rule in (*holder.inbound, *holder.outbound)]
        used = {set_id for rule in rules for side in (rule.source, rule.destination) for set_id in _sets_of(side)}
        return missing + [f"set {set_id}" for set_id in sorted(used - self.ip_sets.keys())]


def _merged(old: Mapping[Any, Any], change: MapDelta[Any, Any]) -> dict[Any, Any]:
    gone = set(change.removes)
    return {**{key: value for key, value in old.items() if key not in gone}, **change.upserts}


def _sets_of(side: Match) -> Iterable[str]:
    return (*side.ip_sets, *side.named_ports, *side.services, *side.not_ip_sets, *side.not_named_ports)


@attrs.define
class MemoryKernel:
    """What stays on the node when the agent ends: the state in force, None when there is none; and what others did."""

    enforced: State | None = None
    foreign: list[str] = attrs.field(factory=list)


class MemoryDataplane(Dataplane):
    """``node``: whose state it keeps. ``kernel``: where it puts it in force. ``uplink``: its interface towards the
    network. ``desired`` is what the deltas ask for; only ``apply`` touches the kernel."""

    def __init__(
        self,
        node: str,
        kernel: MemoryKernel | None = None,
        *,
        uplink: str = "eth0",
        settings: HostSettings | None = None,
    ) -> None:
        self.node, self.uplink = node, uplink
        self.kernel = kernel if kernel is not None else MemoryKernel()
        self.settings = settings or HostSettings()
        self.desired: State | None = None
        self._members: dict[str, tuple[IpSet, _Members]] = {}

    # ── as a driver ───────────────────────────────────────────────────────────────────────────────────────────────────

    def update(self, delta: Delta) -> None:
        self.desired = (self.desired or State()).taking(delta)

    def apply(self) -> ApplyReport:
        if self.desired is None:
            return ApplyReport()
        dangling = self.desired.dangling()
        if dangling:
            return ApplyReport(failures=[Failure(subject=what, reason="not given") for what in dangling])
        changes = int(self.kernel.enforced != self.desired)
        self.kernel.enforced = self.desired
        return ApplyReport(programmed=tuple(self.desired.workloads), changes=changes)

    def uninstall(self) -> None:
        self.kernel.enforced = None

    # ── does it arrive? ───────────────────────────────────────────────────────────────────────────────────────────────

    def passes(self, packet: Packet, *, interfaces: Mapping[str, str] | None = None) -> bool:
        """Whether this node lets ``packet`` through, be it sender, receiver, or both. A node that has nothing in force
        does not filter, nor one that the packet never sees. ``interfaces``: address -> interface of the workloads that
        are plugged in, known or not."""
        state = self.kernel.enforced
        if state is None:
            return True
        source, destination = str(packet.source), str(packet.destination)
        sender = next((w for w in state.workloads.values() if source in w.addresses), None)
        receiver = next((w for w in state.workloads.values() if destination in w.addresses), None)
        if interfaces and ((source in interfaces and not sender) or (destination in interfaces and not receiver)):
            return False
        from_self, to_self = self._is_own(source, state), self._is_own(destination, state)
        if not (sender or receiver or from_self or to_self):
            return True
        if sender and not self._leaves_workload(sender, packet, state):
            return False
        if to_self and sender:
            return self.settings.endpoint_to_host_action != "Drop"
        if receiver and from_self:
            return True
        uplink = self._uplink_endpoint(state)
        if uplink and not (sender and receiver):
            outward = not receiver and not to_self
            local = from_self if outward else to_self
            if not self._through_host_endpoint(uplink, packet, outward=outward, local=local, state=state):
                return False
        return not receiver or self._decide(receiver.policies, "ingress", packet, state) == "allow"

    def _is_own(self, address: str, state: State) -> bool:
        have = state.hosts.get(self.node)
        return have is not None and address in (have.ipv4, have.ipv6, *have.others)

    def _leaves_workload(self, sender: LocalWorkload, packet: Packet, state: State) -> bool:
        settings = self.settings
        is_vxlan = packet.protocol == 17 and packet.destination_port == settings.vxlan_port
        if (is_vxlan and not settings.allow_vxlan_from_workloads) or (
            packet.protocol == 4 and not settings.allow_ipip_from_workloads
        ):
            return False
        return self._decide(sender.policies, "egress", packet, state) == "allow"

    def _uplink_endpoint(self, state: State) -> LocalHostEndpoint | None:
        have = state.hosts.get(self.node)
        own = {have.ipv4, have.ipv6, *have.others} if have else set()
        endpoints = [state.host_endpoints[name] for name in sorted(state.host_endpoints)]
        for endpoint in endpoints:
            if endpoint.interface == self.uplink:
                return endpoint
            if not endpoint.interface and own & set(endpoint.expected_addresses):
                return endpoint
        return next((endpoint for endpoint in endpoints if endpoint.interface == "*"), None)

    def _through_host_endpoint(
        self, endpoint: LocalHostEndpoint, packet: Packet, *, outward: bool, local: bool, state: State
    ) -> bool:
        """Raw, then mangle, then filter; the first that accepts lets the packet past the others."""
        direction: Direction = "egress" if outward else "ingress"
        early: list[tuple[PolicyList, bool]] = []
        if endpoint.interface != "*" and (local or not outward):
            early.append((endpoint.untracked, True))
        if not outward:
            early.append((endpoint.pre_dnat, False))
        for policies, stateless in early:
            if not _speaks(policies, direction):
                continue
            if self._is_failsafe(direction, packet, stateless=stateless):
                return True
            answer = self._tiers(policies, direction, packet, state, denies_at_end=False)
            if answer != "undecided":
                return answer == "allow"
        if not local:
            return self._tiers(endpoint.forward, direction, packet, state, denies_at_end=True) != "deny"
        if self._is_failsafe(direction, packet, stateless=False):
            return True
        return self._decide(endpoint.normal, direction, packet, state) == "allow"

    def _is_failsafe(self, direction: Direction, packet: Packet, *, stateless: bool) -> bool:
        inbound, outbound = self.settings.failsafe_inbound, self.settings.failsafe_outbound
        ours, theirs = (inbound, outbound) if direction == "ingress" else (outbound, inbound)
        peer = packet.source if direction == "ingress" else packet.destination
        tries = [(ours, packet.destination_port), *([(theirs, packet.source_port)] if stateless else [])]
        return any(
            safe.protocol == packet.protocol and safe.port == port and (safe.net is None or peer in safe.net)
            for ports, port in tries
            for safe in ports
        )

    def _decide(self, policies: PolicyList, direction: Direction, packet: Packet, state: State) -> Answer:
        """Tiers, then profiles, then deny."""
        answer = self._tiers(policies, direction, packet, state, denies_at_end=True)
        if answer != "undecided":
            return answer
        for name in policies.profiles:
            profile = state.profiles[name]
            action = self._rules(profile.inbound if direction == "ingress" else profile.outbound, packet, state)
            if action is not None and action != "pass":
                return action
        return "deny"

    def _tiers(
        self, policies: PolicyList, direction: Direction, packet: Packet, state: State, *, denies_at_end: bool
    ) -> Answer:
        for tier in policies.tiers:
            listed = tier.ingress if direction == "ingress" else tier.egress
            action = None
            for policy_id in listed:
                policy = state.policies[policy_id]
                action = self._rules(policy.inbound if direction == "ingress" else policy.outbound, packet, state)
                if action is not None:
                    break
            if action is not None and action != "pass":
                return action
            if action is None and listed and denies_at_end and tier.default_action == "Deny":
                return "deny"
        return "undecided"

    def _rules(
        self, rules: Sequence[ParsedRule], packet: Packet, state: State
    ) -> Literal["allow", "deny", "pass"] | None:
        for rule in rules:
            if rule.action != "log" and self._matches(rule, packet, state):
                return rule.action
        return None

    def _matches(self, rule: ParsedRule, packet: Packet, state: State) -> bool:
        if rule.ip_version not in (None, packet.version):
            return False
        if rule.protocol not in (None, packet.protocol) or rule.not_protocol == packet.protocol:
            return False
        if rule.icmp_type is not None and not _icmp(rule.icmp_type, rule.icmp_code, packet):
            return False
        if rule.not_icmp_type is not None and _icmp(rule.not_icmp_type, rule.not_icmp_code, packet):
            return False
        return self._side(rule.source, str(packet.source), packet.source_port, packet, state) and self._side(
            rule.destination, str(packet.destination), packet.destination_port, packet, state
        )

    def _side(self, side: Match, address: str, port: int, packet: Packet, state: State) -> bool:
        def in_set(set_id: str) -> bool:
            return self._asked(set_id, state).has_address(address)

        def in_port_set(set_id: str) -> bool:
            return self._asked(set_id, state).has_port(address, packet.protocol, port)

        if side.nets and not _in_nets(address, side.nets):
            return False
        if side.not_nets:
            same = [net for net in side.not_nets if (":" in net) == (":" in address)]
            if not same or _in_nets(address, same):
                return False
        if not all(map(in_set, side.ip_sets)) or any(map(in_set, side.not_ip_sets)):
            return False
        if not all(map(in_port_set, side.services)):
            return False
        if (side.ports or side.named_ports) and not (
            _in_ranges(port, packet, side.ports) or any(map(in_port_set, side.named_ports))
        ):
            return False
        return not (_in_ranges(port, packet, side.not_ports) or any(map(in_port_set, side.not_named_ports)))

    def _asked(self, set_id: str, state: State) -> _Members:
        """Prepared members of the set, kept until the set is another."""
        ip_set = state.ip_sets[set_id]
        known = self._members.get(set_id)
        if known is None or known[0] is not ip_set:
            known = self._members[set_id] = (ip_set, _Members.of(ip_set.kind, ip_set.members))
        return known[1]


def _speaks(policies: PolicyList, direction: Direction) -> bool:
    return any(tier.ingress if direction == "ingress" else tier.egress for tier in policies.tiers)


def _icmp(icmp_type: int, icmp_code: int | None, packet: Packet) -> bool:
    return packet.is_icmp and packet.icmp_type == icmp_type and icmp_code in (None, packet.icmp_code)


def _in_nets(address: str, nets: Iterable[str]) -> bool:
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(net) for net in nets)


def _in_ranges(port: int, packet: Packet, ranges: Sequence[PortRange]) -> bool:
    return packet.has_ports and any(first <= port <= last for first, last in ranges)
