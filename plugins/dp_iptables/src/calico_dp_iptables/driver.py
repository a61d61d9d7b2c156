"""The dataplane driver: deltas in, packets judged.

In:   ``Delta`` (``update``).   Out: rules, sets, routes and sysctls of this node (``apply``).

    update ─► State, Family (desired chains), IpSets, Links
    apply  ─► read once ─► sets in ─► rules, both families at a time ─► sets out ─► flows, routes and sysctls
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from calico_dp_iptables import rules as r
from calico_dp_iptables import static_chains as static
from calico_dp_iptables.desired import Family, State
from calico_dp_iptables.kernel import MOST_LACKS, Kernel
from calico_dp_iptables.names import is_usable_interface
from calico_dp_iptables.options import Options
from calico_dp_iptables.settings import Settings
from calico_dp_iptables.static_chains import Needs
from calico_kernel.hookspecs import ApplyReport, Dataplane, Lack, Services
from calico_kernel.model.nodestate import (
    Delta,
    HostAddresses,
    IpSetKind,
    LocalWorkload,
    MapDelta,
    MembersDelta,
    Vtep,
    WorkloadEndpointId,
)

_OVERRIDES: Mapping[str, r.Target] = {
    "Drop": r.DROP,
    "Accept": r.ACCEPT,
    "LogAndDrop": r.Goto("cali-log-drop"),
    "LogAndAccept": r.Goto("cali-log-accept"),
}


class IptablesDataplane(Dataplane):
    """See ``calico_kernel.hookspecs.Dataplane`` for what is promised."""

    mode = "iptables"

    def __init__(self, settings: Settings | None, services: Services) -> None:
        self.settings = settings or Settings()
        self._log = services.log
        self.state = State()
        self.families = {version: Family(version, self.state) for version in (4, 6)}
        for family in self.families.values():
            family.drop = _OVERRIDES[self.settings.drop_override]
            family.render_static()
            family.render_dispatch()
        self.kernel = Kernel(self.settings, services, self.families)
        self._encapsulated = {4: False, 6: False}
        self._ipip = False
        self._pools: dict[str, bool] = {}
        self._vteps: dict[str, Vtep] = {}
        self._hosts: dict[str, HostAddresses] = {}
        self._special: dict[str, frozenset[str]] = {}
        self._set_ids: set[str] = set()
        self._known: dict[WorkloadEndpointId, LocalWorkload] = {}
        self._claims: dict[str, set[WorkloadEndpointId]] = {}
        self._unprogrammed: set[WorkloadEndpointId] = set()
        self._programmed: set[WorkloadEndpointId] = set()

    # ── update ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def update(self, delta: Delta) -> None:
        if delta.full:
            delta = self._as_difference(delta)
        rendered_all = self._take_config(delta)
        self._take_sets(delta)
        self._take_network(delta)
        state = self.state
        for key, policy in delta.policies.upserts.items():
            if state.policies.get(key) != policy:
                state.policies[key] = policy
                for family in self.families.values():
                    family.policy(policy)
        for name, profile in delta.profiles.upserts.items():
            if state.profiles.get(name) != profile:
                state.profiles[name] = profile
                for family in self.families.values():
                    family.profile(name, profile)
        self._take_workloads(delta)
        self._take_host_endpoints(delta)
        for name in delta.profiles.removes:
            if state.profiles.pop(name, None) is not None:
                for family in self.families.values():
                    family.profile_gone(name)
        for policy_id in delta.policies.removes:
            if state.policies.pop(policy_id, None) is not None:
                for family in self.families.values():
                    family.policy_gone(policy_id)
        for set_id in delta.ip_sets.removes:
            self.kernel.sets.remove(set_id)
            self._set_ids.discard(set_id)
        self._take_needs()
        if rendered_all:
            for family in self.families.values():
                family.render_all()

    def _as_difference(self, delta: Delta) -> Delta:
        """A full state as a change of the one held: what it does not name goes."""

        def gone(known: Iterable[Any], change: MapDelta[Any, Any]) -> MapDelta[Any, Any]:
            return MapDelta(upserts=change.upserts, removes=set(known) - change.upserts.keys())

        state = self.state
        return attrs.evolve(
            delta,
            full=False,
            ip_sets=gone(self._set_ids, delta.ip_sets),
            policies=gone(state.policies, delta.policies),
            profiles=gone(state.profiles, delta.profiles),
            workloads=gone(self._known, delta.workloads),
            host_endpoints=gone(state.host_endpoints, delta.host_endpoints),
            vteps=gone(self._vteps, delta.vteps),
            pools=gone(self._pools, delta.pools),
            hosts=gone(self._hosts, delta.hosts),
        )

    def _take_config(self, delta: Delta) -> bool:
        if delta.config is None:
            return False
        options = Options.from_config(delta.config)
        if options == self.state.options:
            return False
        self.state.options = options
        self.kernel.sets.set_maxelem(options.max_set_size)
        return True

    def _take_sets(self, delta: Delta) -> None:
        for set_id, ip_set in delta.ip_sets.upserts.items():
            self.kernel.sets.replace(set_id, ip_set.kind, ip_set.members)
            self._set_ids.add(set_id)
        for set_id, change in delta.ip_set_members.items():
            self.kernel.sets.change(set_id, change)

    def _take_network(self, delta: Delta) -> None:
        """Pools, hosts and tunnel ends become the sets that static rules use."""
        if delta.needs is not None:
            self._encapsulated = {4: delta.needs.vxlan_ipv4, 6: delta.needs.vxlan_ipv6}
            self._ipip = delta.needs.ipip
        if delta.pools:
            for cidr, pool in delta.pools.upserts.items():
                self._pools[cidr] = pool.nat_outgoing
            for cidr in delta.pools.removes:
                self._pools.pop(cidr, None)
        _merge(self._vteps, delta.vteps)
        _merge(self._hosts, delta.hosts)
        masqueraded = {cidr for cidr, nat in self._pools.items() if nat}
        wanted: dict[str, frozenset[str]] = {}
        if masqueraded:
            wanted[static.MASQUERADED_POOLS_SET] = frozenset(masqueraded)
            wanted[static.POOLS_SET] = frozenset(self._pools)
        if any(self._encapsulated.values()):
            ends = (end for vtep in self._vteps.values() for end in (vtep.parent_ipv4, vtep.parent_ipv6))
            wanted[static.ALL_VXLAN_SET] = frozenset(filter(None, ends))
        if self._ipip or (masqueraded and self.state.options.nat_exclude_hosts):
            addresses = (ip for host in self._hosts.values() for ip in (host.ipv4, host.ipv6, *host.others))
            wanted[static.ALL_HOSTS_SET] = frozenset(filter(None, addresses))
        for set_id, members in wanted.items():
            old = self._special.get(set_id)
            if old is None:
                self.kernel.sets.replace(set_id, IpSetKind.NET, members)
            elif old != members:
                self.kernel.sets.change(set_id, MembersDelta(added=members - old, removed=old - members))
        for set_id in self._special.keys() - wanted.keys():
            self.kernel.sets.remove(set_id)
        self._special = wanted

    def _take_workloads(self, delta: Delta) -> None:
        if not delta.workloads:
            return
        change = self._without_shadowed(delta.workloads)
        # Gone first: an interface and its addresses may have got a new owner in the same delta.
        for key in change.removes:
            gone = self.state.workloads.pop(key, None)
            if gone is None:
                continue
            for family in self.families.values():
                family.workload_gone(key)
            self._unprogrammed.discard(key)
            self._programmed.discard(key)
            self.kernel.links.workload_changed(gone, None)
        for key, workload in change.upserts.items():
            old = self.state.workloads.get(key)
            if old == workload:
                continue
            self.state.workloads[key] = workload
            for family in self.families.values():
                family.workload(workload)
            self._unprogrammed.add(key)
            self._programmed.discard(key)
            self.kernel.links.workload_changed(old, workload)
        for family in self.families.values():
            family.render_dispatch()

    def _without_shadowed(
        self, change: MapDelta[WorkloadEndpointId, LocalWorkload]
    ) -> MapDelta[WorkloadEndpointId, LocalWorkload]:
        """Of several workloads that name one interface the first by its identity counts, as in Calico; the others wait
        until it goes."""
        touched: set[str] = set()
        for key in (*change.removes, *change.upserts):
            old = self._known.pop(key, None)
            if old is not None:
                touched.add(old.interface)
                self._claims[old.interface].discard(key)
        for key, workload in change.upserts.items():
            self._known[key] = workload
            self._claims.setdefault(workload.interface, set()).add(key)
            touched.add(workload.interface)
        removes, upserts = set(change.removes), dict(change.upserts)
        for interface in touched:
            claims = self._claims[interface]
            if not claims:
                del self._claims[interface]
                continue
            first, *others = sorted(claims) if is_usable_interface(interface) else [min(claims)]
            upserts[first] = self._known[first]
            for other in others:
                upserts.pop(other, None)
                removes.add(other)
                self._log.warning("workload %s has to wait: %s is the interface of %s", other, interface, first)
        return MapDelta(upserts=upserts, removes=removes)

    def _take_host_endpoints(self, delta: Delta) -> None:
        if not delta.host_endpoints:
            return
        self.state.host_endpoints.update(delta.host_endpoints.upserts)
        for name in delta.host_endpoints.removes:
            self.state.host_endpoints.pop(name, None)
        for family in self.families.values():
            family.render_host_endpoints()

    def _take_needs(self) -> None:
        """Which static parts exist. A change renders them anew."""
        endpoints = self.state.host_endpoints.values()
        floating = self.state.options.floating_ips and any(w.nats for w in self.state.workloads.values())
        for version, family in self.families.items():
            needs = Needs(
                vxlan=self._encapsulated[version],
                ipip=self._ipip and version == 4,
                nat_outgoing=any(nat and (6 if ":" in cidr else 4) == version for cidr, nat in self._pools.items()),
                floating_ips=floating,
                host_endpoints=bool(endpoints),
                untracked=any(tier.ingress or tier.egress for e in endpoints for tier in e.untracked.tiers),
                pre_dnat=any(tier.ingress for e in endpoints for tier in e.pre_dnat.tiers),
            )
            if needs != self.state.needs[version]:
                self.state.needs[version] = needs
                family.render_static()

    # ── apply ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def apply(self) -> ApplyReport:
        outcome = self.kernel.apply(self.state, time.monotonic())
        if not outcome.blocked:
            self._programmed |= self._unprogrammed
            self._unprogrammed.clear()
        bad = [
            Lack(
                capability=f"interface name {workload.interface!r} of workload {workload.id.workload}",
                effect="it cannot be used in rules; the workload's traffic is denied",
            )
            for workload in self.state.workloads.values()
            if not is_usable_interface(workload.interface)
        ]
        return ApplyReport(
            failures=outcome.failures,
            programmed=frozenset(self._programmed),
            lacks=(*outcome.lacks, *bad[:MOST_LACKS]),
            next_check_s=outcome.next_check_s,
            changes=outcome.changes,
        )

    def resync(self) -> None:
        self.kernel.distrust()

    def uninstall(self) -> None:
        self.kernel.uninstall()

    def close(self) -> None:
        self.kernel.close()


def _merge(known: dict[Any, Any], change: MapDelta[Any, Any]) -> None:
    known.update(change.upserts)
    for key in change.removes:
        known.pop(key, None)
