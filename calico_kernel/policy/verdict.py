"""The definition of what policy means: does this packet arrive, and who decided?

In:   a Packet and a Cluster.   Out: a Verdict with the whole trace.
The packet is the first of its flow: what follows, and replies, are not asked again, except of flows that an untracked
policy let in (nothing remembers those, so each packet has a verdict of its own).
Every dataplane is held to it. It is written for reading: slow, and with nothing left implicit.

    source workload:  egress policy ─┬─► own node: the configured action for packets to the host
                                     └─► host endpoint of its node: forward
    source node:      host endpoint: untracked, normal
                                     ▼
                       the network (an address unknown to Calico is an outside client or server)
                                     ▼
    destination node: host endpoint: untracked, pre-DNAT, then forward (to a workload) or normal (to the node itself)
                                     ▼
    destination workload: ingress policy

Traffic inside one node passes no host endpoint, and a node always reaches its own workloads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import attrs

from calico_kernel.model.nodestate import PolicyId
from calico_kernel.policy.cluster import Cluster, Endpoint, Failsafe, OrderedTier
from calico_kernel.policy.effective import EffectivePolicy, EffectiveProfile, EffectiveRule
from calico_kernel.policy.matching import Mismatch, Packet, mismatches

__all__ = ["Cluster", "Packet", "Verdict", "verdict"]

Direction = Literal["ingress", "egress"]
Hook = Literal["normal", "forward", "untracked", "pre-DNAT", "host", "tunnel"]
Outcome = Literal["allow", "deny", "pass", "no match"]


@attrs.frozen(slots=True)
class RuleTrace:
    """A rule that was looked at. ``mismatches`` empty: it matched."""

    rule: EffectiveRule
    mismatches: tuple[Mismatch, ...] = ()


@attrs.frozen(slots=True)
class PolicyTrace:
    """``rules``: as far as they were looked at; the last one decided unless the outcome is "no match"."""

    id: PolicyId
    outcome: Outcome
    rules: tuple[RuleTrace, ...] = ()
    failed: str = ""


@attrs.frozen(slots=True)
class TierTrace:
    """A tier with policies for this endpoint, direction and hook. ``by_default``: no policy decided, so the tier's
    default action did. ``stored``: False for a tier that does not exist; it comes last and denies by default."""

    name: str
    outcome: Outcome
    policies: tuple[PolicyTrace, ...]
    by_default: bool = False
    stored: bool = True


@attrs.frozen(slots=True)
class ProfileTrace:
    """``missing``: the endpoint names a profile that does not exist, which denies."""

    name: str
    outcome: Outcome
    rules: tuple[RuleTrace, ...] = ()
    missing: bool = False


@attrs.frozen(slots=True, kw_only=True)
class Step:
    """One enforcement point on the packet's way. ``outcome``: "allow" or "deny" when it decided there, "pass" when it
    had nothing against the packet (the next one decides). ``decided_by``: in words, short."""

    endpoint: Endpoint
    direction: Direction
    hook: Hook
    outcome: Outcome
    decided_by: str
    tiers: tuple[TierTrace, ...] = ()
    profiles: tuple[ProfileTrace, ...] = ()

    def __str__(self) -> str:
        where = f"{self.direction} of {self.endpoint}"
        return f"{self.outcome} at {where if self.hook == 'normal' else f'{where} ({self.hook})'} by {self.decided_by}"


@attrs.frozen(slots=True)
class Verdict:
    """``allowed``: the packet passes every step. Steps after a denying one are what they would have said."""

    allowed: bool
    steps: tuple[Step, ...]

    @property
    def decisive(self) -> Step | None:
        """The first step that denied, else the last one that allowed; None when nothing governs the packet."""
        denying = next((step for step in self.steps if step.outcome == "deny"), None)
        allowing = next((step for step in reversed(self.steps) if step.outcome == "allow"), None)
        return denying or allowing

    @property
    def reason(self) -> str:
        return str(self.decisive) if self.decisive else "no policy governs either end"


def verdict(packet: Packet, cluster: Cluster) -> Verdict:
    """Whether ``packet`` arrives, and why. Pure; the same answer for the same arguments, whatever their order."""
    steps = tuple(_journey(packet, cluster))
    return Verdict(all(step.outcome != "deny" for step in steps), steps)


# ── the way of a packet ───────────────────────────────────────────────────────────────────────────────────────────────


def _journey(packet: Packet, cluster: Cluster) -> Iterator[Step]:
    sender, receiver = cluster.workload_at(packet.source), cluster.workload_at(packet.destination)
    source_node = sender.node if sender else cluster.node_at(packet.source)
    destination_node = receiver.node if receiver else cluster.node_at(packet.destination)
    within_one_node = source_node == destination_node and bool(source_node)

    if sender and within_one_node and not receiver:
        yield from _to_own_node(sender, packet, cluster)
        return
    if sender:
        yield _from_workload(sender, packet, cluster)
    if not within_one_node:
        if source_node:
            yield from _leave_node(source_node, packet, cluster, forwarded=sender is not None)
        if destination_node:
            yield from _enter_node(destination_node, packet, cluster, forwarded=receiver is not None)
    if receiver and (sender or not within_one_node):
        yield _evaluate(receiver, "ingress", "normal", packet, cluster)


def _from_workload(sender: Endpoint, packet: Packet, cluster: Cluster) -> Step:
    """Egress policy, but for tunnel packets, by which a workload could reach past it."""
    settings = cluster.settings
    tunnel = ""
    if packet.protocol == 17 and packet.destination_port == settings.vxlan_port:
        tunnel = "" if settings.allow_vxlan_from_workloads else "VXLAN"
    elif packet.protocol == 4:
        tunnel = "" if settings.allow_ipip_from_workloads else "IP-in-IP"
    if tunnel:
        reason = f"the rule that workloads may not send {tunnel}"
        return Step(endpoint=sender, direction="egress", hook="tunnel", outcome="deny", decided_by=reason)
    return _evaluate(sender, "egress", "normal", packet, cluster)


_NEIGHBOUR_DISCOVERY = frozenset({130, 131, 132, 133, 135, 136})


def _to_own_node(sender: Endpoint, packet: Packet, cluster: Cluster) -> Iterator[Step]:
    """Egress policy, then the configured action: the node's host endpoint has no say in it. What IPv6 needs to find its
    neighbours is never policed."""

    def at_host(outcome: Outcome, by: str) -> Step:
        return Step(endpoint=sender, direction="egress", hook="host", outcome=outcome, decided_by=by)

    if packet.version == 6 and packet.is_icmp and packet.icmp_type in _NEIGHBOUR_DISCOVERY:
        yield at_host("allow", "IPv6 neighbour discovery")
        return
    yield _from_workload(sender, packet, cluster)
    action = cluster.settings.endpoint_to_host_action
    yield at_host("deny" if action == "Drop" else "allow", f"defaultEndpointToHostAction {action}")


def _leave_node(node: str, packet: Packet, cluster: Cluster, *, forwarded: bool) -> Iterator[Step]:
    uplink = cluster.uplink_of(node)
    if uplink is None:
        return
    hooks: tuple[Hook, ...] = ("forward",) if forwarded else ("untracked", "normal")
    yield from _until_allowed(uplink, "egress", hooks, packet, cluster)


def _enter_node(node: str, packet: Packet, cluster: Cluster, *, forwarded: bool) -> Iterator[Step]:
    uplink = cluster.uplink_of(node)
    if uplink is None:
        return
    hooks: tuple[Hook, ...] = ("untracked", "pre-DNAT", "forward" if forwarded else "normal")
    yield from _until_allowed(uplink, "ingress", hooks, packet, cluster)


def _until_allowed(
    uplink: Endpoint, direction: Direction, hooks: Sequence[Hook], packet: Packet, cluster: Cluster
) -> Iterator[Step]:
    """The first hook that allows lets the packet past the later ones. A hook without a policy leaves no trace."""
    for hook in hooks:
        step = _evaluate(uplink, direction, hook, packet, cluster)
        if step.tiers or step.outcome != "pass":
            yield step
        if step.outcome == "allow":
            return


# ── one enforcement point ─────────────────────────────────────────────────────────────────────────────────────────────


def _evaluate(endpoint: Endpoint, direction: Direction, hook: Hook, packet: Packet, cluster: Cluster) -> Step:
    """Failsafe ports, then tiers in order, then profiles. What stays undecided is denied at the normal hook, and passes
    the others: those only filter what some policy speaks of."""
    tiers = _applicable(endpoint, direction, hook, cluster.tiers)
    tier_traces: list[TierTrace] = []
    profile_traces: list[ProfileTrace] = []

    def decided(outcome: Outcome, by: str) -> Step:
        return Step(
            endpoint=endpoint,
            direction=direction,
            hook=hook,
            outcome=outcome,
            decided_by=by,
            tiers=tuple(tier_traces),
            profiles=tuple(profile_traces),
        )

    if endpoint.kind == "HostEndpoint" and _is_failsafe(direction, hook, packet, cluster, policed=bool(tiers)):
        return decided("allow", "a failsafe port")

    for tier in tiers:
        trace = _tier(tier, direction, hook, packet, cluster)
        tier_traces.append(trace)
        if trace.outcome in ("allow", "deny"):
            return decided(trace.outcome, _tier_decision(trace))
    if hook != "normal":
        return decided("pass", "no rule of this hook")

    for name in endpoint.profiles:
        profile_trace = _profile(name, cluster.profiles.get(name), direction, packet, cluster)
        profile_traces.append(profile_trace)
        if profile_trace.outcome in ("allow", "deny"):
            return decided(profile_trace.outcome, _profile_decision(profile_trace))
    return decided("deny", "the lack of any policy or profile that allows it")


def _applicable(
    endpoint: Endpoint, direction: Direction, hook: Hook, tiers: Sequence[OrderedTier]
) -> list[OrderedTier]:
    """The tiers with the policies that apply to ``endpoint`` in this direction at this hook; empty tiers drop out."""
    applicable = [
        attrs.evolve(tier, policies=tuple(p for p in tier.policies if _applies(p, endpoint, direction, hook)))
        for tier in tiers
    ]
    return [tier for tier in applicable if tier.policies]


def _applies(policy: EffectivePolicy, endpoint: Endpoint, direction: Direction, hook: Hook) -> bool:
    governs = policy.ingress if direction == "ingress" else policy.egress
    if not governs or policy.staged or (hook == "pre-DNAT" and direction != "ingress"):
        return False
    hooks = hooks_of(policy, of_host=endpoint.kind == "HostEndpoint", interface=endpoint.interface)
    return hook in hooks and policy.selector.matches(endpoint.labels)


def hooks_of(policy: EffectivePolicy, *, of_host: bool, interface: str) -> tuple[Hook, ...]:
    """Where a policy has a say at an endpoint that its selector matches, in the order in which packets come by.

    ``of_host``: the endpoint is a host's, with this ``interface`` ("*" for all). Empty: nowhere.
    """
    early: list[Hook] = []
    if policy.untracked and of_host and interface != "*":  # not supported on a host endpoint for all interfaces
        early.append("untracked")
    if policy.pre_dnat and of_host:
        early.append("pre-DNAT")
    if policy.untracked or policy.pre_dnat:
        return tuple(early)
    return ("forward", "normal") if of_host and policy.apply_on_forward else ("normal",)


def _tier(tier: OrderedTier, direction: Direction, hook: Hook, packet: Packet, cluster: Cluster) -> TierTrace:
    """The first policy with an opinion decides; with none, the tier's default action does, except at the hooks that
    come before connection tracking and NAT, which never deny by default."""
    traces: list[PolicyTrace] = []
    for policy in tier.policies:
        outcome, rules = _rules(policy.inbound if direction == "ingress" else policy.outbound, packet, cluster)
        traces.append(PolicyTrace(policy.id, outcome, rules, policy.failed))
        if outcome != "no match":
            return TierTrace(tier.name, outcome, tuple(traces), stored=tier.stored)
    denies = tier.default_action == "Deny" and hook in ("normal", "forward")
    return TierTrace(tier.name, "deny" if denies else "pass", tuple(traces), by_default=True, stored=tier.stored)


def _profile(
    name: str, profile: EffectiveProfile | None, direction: Direction, packet: Packet, cluster: Cluster
) -> ProfileTrace:
    """A profile has no default: without a match the next one is asked. One that does not exist denies."""
    if profile is None:
        return ProfileTrace(name, "deny", missing=True)
    outcome, rules = _rules(profile.inbound if direction == "ingress" else profile.outbound, packet, cluster)
    return ProfileTrace(name, outcome, rules)


def _rules(rules: Sequence[EffectiveRule], packet: Packet, cluster: Cluster) -> tuple[Outcome, tuple[RuleTrace, ...]]:
    """The first rule that matches decides, except that Log only logs."""
    traces: list[RuleTrace] = []
    for rule in rules:
        trace = RuleTrace(rule, tuple(mismatches(rule, packet, cluster)))
        traces.append(trace)
        if not trace.mismatches and rule.action != "log":
            return rule.action, tuple(traces)
    return "no match", tuple(traces)


def _is_failsafe(direction: Direction, hook: Hook, packet: Packet, cluster: Cluster, *, policed: bool) -> bool:
    """Ports of the host that no policy closes. They do not concern what is forwarded, but the early hooks (present only
    where some policy uses them) cannot tell yet. The untracked hook sees replies too, so it also lets through what
    comes from a failsafe port of the other direction."""
    if hook == "forward" or (hook in ("untracked", "pre-DNAT") and not policed):
        return False
    settings = cluster.settings
    inbound, outbound = settings.failsafe_inbound, settings.failsafe_outbound
    ours, others = (inbound, outbound) if direction == "ingress" else (outbound, inbound)
    peer = packet.source if direction == "ingress" else packet.destination

    def among(ports: Sequence[Failsafe], port: int) -> bool:
        return any(
            (safe.protocol, safe.port) == (packet.protocol, port) and (safe.net is None or peer in safe.net)
            for safe in ports
        )

    return among(ours, packet.destination_port) or (hook == "untracked" and among(others, packet.source_port))


# ── in words ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _tier_decision(trace: TierTrace) -> str:
    if trace.by_default:
        why = "default action of tier" if trace.stored else "absence of tier"
        return f"{why} {trace.name} (after {', '.join(str(policy.id) for policy in trace.policies)})"
    policy = trace.policies[-1]
    if policy.failed:
        return f"tier {trace.name}, {policy.id}, which cannot be read ({policy.failed}) and so denies"
    return f"tier {trace.name}, {policy.id}, {_rule_name(policy.rules[-1])}"


def _profile_decision(trace: ProfileTrace) -> str:
    if trace.missing:
        return f"profile {trace.name}, which does not exist"
    return f"profile {trace.name}, {_rule_name(trace.rules[-1])}"


def _rule_name(trace: RuleTrace) -> str:
    if trace.rule.index < 0:  # one that ``explain`` tries
        return f"the new rule ({trace.rule.action})"
    return f"rule {trace.rule.index + 1} ({trace.rule.action})"
