"""What happened to a packet in words, and what would change it.

In:   the ends, port and protocol that somebody asks about, and a Cluster.
Out:  Explanation: the verdict with its trace, and changes. ``data`` makes it JSON, ``render`` text, for ``calicoctl``.

A change is never guessed: each one listed was tried on the cluster (in memory) and evaluated by ``policy.verdict``, and
says what the outcome would then be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from ipaddress import ip_address
from typing import Any

import attrs

from calico_kernel.errors import NotFound
from calico_kernel.model.nodestate import PolicyId
from calico_kernel.model.wellknown import DEFAULT_ALLOW_PROFILE
from calico_kernel.policy.cluster import Address, Cluster, Endpoint, OrderedTier
from calico_kernel.policy.effective import (
    ALLOW_ALL,
    DEFAULT_TIER,
    EffectivePolicy,
    EffectiveProfile,
    EffectiveRule,
    protocol_name,
    protocol_number,
)
from calico_kernel.policy.matching import Packet
from calico_kernel.policy.verdict import PolicyTrace, RuleTrace, Step, TierTrace, Verdict, verdict
from calico_kernel.selector import Equals, parse

NEAREST_SHOWN = 3
EPHEMERAL_PORT = 49_152
"""The source port of a packet that nobody gave one: the first of those that clients take (RFC 6335)."""


@attrs.frozen(slots=True)
class Change:
    """``what`` to do; ``then``: the verdict of the same step after it; ``allowed``: the packet's verdict after it."""

    what: str
    then: str
    allowed: bool


@attrs.frozen(slots=True)
class Explanation:
    """``source``, ``destination``: who holds the addresses, in words. ``changes``: by step of the verdict, in order."""

    packet: Packet
    source: str
    destination: str
    verdict: Verdict
    changes: tuple[tuple[Change, ...], ...]


def explain(packet: Packet, cluster: Cluster) -> Explanation:
    result = verdict(packet, cluster)
    return Explanation(
        packet,
        _place(packet.source, cluster),
        _place(packet.destination, cluster),
        result,
        tuple(tuple(_changes(step, packet, cluster)) for step in result.steps),
    )


def packet_between(
    source: str,
    destination: str,
    cluster: Cluster,
    *,
    protocol: str | int = "TCP",
    port: int | str = 0,
    source_port: int = EPHEMERAL_PORT,
    version: int = 0,
) -> Packet:
    """The packet that a question is about. An end is an address, ``namespace/name`` or the name of a workload (pod or
    endpoint), the name of a host endpoint or of a node. ``port``: a number, or the name of a port of the destination.
    ``version``: 4 or 6; 0 takes IPv4 where both ends have it.
    Raises NotFound for an end or a port that does not exist, or an end without an address of a version that both have;
    ValueError for an unknown protocol or a number that is no port."""
    ends = [_addresses(text, cluster) for text in (source, destination)]
    number = protocol_number(protocol)
    port = _port(port, number, ends[1], destination, cluster)
    wanted = version or {58: 6, 1: 4}.get(number, 0)
    for each in (wanted,) if wanted else (4, 6):
        pair = [next((address for address in end if address.version == each), None) for end in ends]
        if pair[0] is not None and pair[1] is not None:
            if number in (1, 58):
                return Packet.echo(pair[0], pair[1])
            found = Packet(pair[0], pair[1], number, source_port, port)
            return found if found.has_ports else Packet(pair[0], pair[1], number)
    raise NotFound(
        what=f"{source} and {destination} have no addresses of one IP version",
        todo="name ends with addresses of one version, or choose the version with --ip-version",
    )


def _addresses(text: str, cluster: Cluster) -> Sequence[Address]:
    try:
        return [ip_address(text)]
    except ValueError:
        pass
    namespace, slash, name = text.rpartition("/")
    found = [
        endpoint
        for endpoint in (*cluster.workloads, *cluster.host_endpoints)
        if name in (endpoint.workload, endpoint.name) and (not slash or endpoint.namespace == namespace)
    ]
    if len({endpoint.namespace for endpoint in found}) > 1:
        raise NotFound(
            what=f"{text} is the name of workloads in several namespaces "
            f"({', '.join(sorted({endpoint.namespace for endpoint in found}))})",
            todo="say namespace/name",
        )
    addresses = [address for endpoint in found for address in endpoint.addresses]
    node = [address for address, node in cluster.node_addresses.items() if node == text]
    if not addresses and not node:
        raise NotFound(
            what=f"there is no workload, host endpoint or node {text!r} with an address",
            todo="give an address, namespace/pod, or the name of a node",
        )
    return addresses or node


def _port(port: int | str, protocol: int, addresses: Sequence[Address], end: str, cluster: Cluster) -> int:
    if isinstance(port, int) or port.isdecimal():
        if int(port) > 65535 or int(port) < 0:
            raise ValueError(f"port {port} is not between 0 and 65535")
        return int(port)
    named = [
        (known.name, known.protocol, known.port)
        for endpoint in (*cluster.workloads, *cluster.host_endpoints)
        if not set(addresses).isdisjoint(endpoint.addresses)
        for known in endpoint.ports
    ]
    for name, of, number in named:
        if (name, of) == (port, protocol):
            return number
    listed = ", ".join(sorted({f"{name} ({protocol_name(of)})" for name, of, _ in named})) or "none"
    raise NotFound(
        what=f"{end} has no port named {port!r} of this protocol", todo=f"give a number, or one of its ports: {listed}"
    )


def _place(address: Address, cluster: Cluster) -> str:
    workload = cluster.workload_at(address)
    if workload:
        return f"{workload}, node {workload.node}"
    node = cluster.node_at(address)
    return f"node {node}" if node else "outside of the cluster"


# ── what would change it ──────────────────────────────────────────────────────────────────────────────────────────────


def _changes(step: Step, packet: Packet, cluster: Cluster) -> Iterator[Change]:
    """Single edits that would turn this step's answer round, each tried."""
    edits = _ways_to_deny(step, cluster) if step.outcome != "deny" else _ways_to_allow(step, packet, cluster)
    for what, edited in edits:
        after = verdict(packet, edited)
        same = next((s for s in after.steps if _point(s) == _point(step)), None)
        if same is None or (same.outcome == "deny") != (step.outcome == "deny"):
            yield Change(what, str(same) if same else f"{step.hook} policy no longer speaks of it", after.allowed)


def _point(step: Step) -> tuple[str, str, str, str, str]:
    return step.endpoint.kind, step.endpoint.namespace, step.endpoint.name, step.direction, step.hook


Edit = tuple[str, Cluster]


def _ways_to_deny(step: Step, cluster: Cluster) -> Iterator[Edit]:
    """Take away what allowed."""
    if step.tiers and step.tiers[-1].outcome == "allow":
        policy = step.tiers[-1].policies[-1]
        index = policy.rules[-1].rule.index
        yield (
            f"remove {step.direction} rule {index + 1} of {policy.id}",
            _edit_rules(cluster, policy.id, step.direction, partial(_without, index=index)),
        )
    elif step.profiles and step.profiles[-1].outcome == "allow":
        yield (
            f"select {step.endpoint} by a policy of type {step.direction.capitalize()} with no rule for this, "
            f"in tier {DEFAULT_TIER}",
            _selecting(cluster, step.endpoint),
        )


def _ways_to_allow(step: Step, packet: Packet, cluster: Cluster) -> Iterator[Edit]:
    """Add what would allow, or take away what denied."""
    if step.hook == "host":
        settings = attrs.evolve(cluster.settings, endpoint_to_host_action="Accept")
        yield (
            "set defaultEndpointToHostAction to Accept in FelixConfiguration",
            attrs.evolve(cluster, settings=settings),
        )
    elif step.hook == "tunnel":
        settings = attrs.evolve(cluster.settings, allow_vxlan_from_workloads=True, allow_ipip_from_workloads=True)
        what = "set allowVXLANPacketsFromWorkloads or allowIPIPPacketsFromWorkloads in FelixConfiguration"
        yield what, attrs.evolve(cluster, settings=settings)
    elif step.tiers and step.tiers[-1].outcome == "deny":
        yield from _open_tier(step, step.tiers[-1], packet, cluster)
    elif step.profiles and step.profiles[-1].missing:
        name = step.profiles[-1].name
        opened = EffectiveProfile(name=name, inbound=ALLOW_ALL, outbound=ALLOW_ALL)
        yield f"create profile {name} with a rule that allows it", _profile(cluster, opened)
    elif not step.profiles:
        yield (
            f"select {step.endpoint} by a policy that allows it, or give it a profile that does",
            _with_profile(cluster, step.endpoint, DEFAULT_ALLOW_PROFILE),
        )
    else:
        name = step.profiles[-1].name
        opened = EffectiveProfile(name=name, inbound=ALLOW_ALL, outbound=ALLOW_ALL)
        yield f"let profile {name} allow it, or select {step.endpoint} by a policy that does", _profile(cluster, opened)


def _open_tier(step: Step, tier: TierTrace, packet: Packet, cluster: Cluster) -> Iterator[Edit]:
    for policy, near in _nearest(tier.policies):
        why = "; ".join(f"{mismatch.field} wants {mismatch.wanted}" for mismatch in near.mismatches)
        index = near.rule.index
        yield (
            f"let {step.direction} rule {index + 1} ({near.rule.action}) of {policy.id} match: {why}",
            _edit_rules(cluster, policy.id, step.direction, partial(_matching_all, index=index)),
        )
    last = tier.policies[-1]
    if last.failed:
        yield f"remove {last.id}: {last.failed}", _without_policy(cluster, last.id)
        what = f"repair {last.id} ({last.failed}) with a rule that matches: {_rule_text(step, packet)}"
        yield what, _edit_rules(cluster, last.id, step.direction, _allowing_first)
        return
    if not tier.by_default:
        index = last.rules[-1].rule.index
        yield (
            f"remove {step.direction} rule {index + 1} (deny) of {last.id}",
            _edit_rules(cluster, last.id, step.direction, partial(_without, index=index)),
        )
    where = f"{'to' if tier.by_default else 'first in'} {step.direction} of {last.id}"
    yield (
        f"add a rule {where}: {_rule_text(step, packet)}",
        _edit_rules(cluster, last.id, step.direction, _allowing_first),
    )
    if tier.by_default:
        what = "set the default action of tier {} to Pass" if tier.stored else "create tier {} with default action Pass"
        yield what.format(tier.name), _tier_passes(cluster, tier.name)


def _nearest(policies: Sequence[PolicyTrace]) -> list[tuple[PolicyTrace, RuleTrace]]:
    """Rules that were passed over on account of the fewest criteria, and would have let the packet on."""
    missed = [
        (policy, trace)
        for policy in policies
        for trace in policy.rules
        if trace.mismatches and trace.rule.action in ("allow", "pass")
    ]
    missed.sort(key=lambda pair: len(pair[1].mismatches))  # stable: among equals, evaluation order
    fewest = len(missed[0][1].mismatches) if missed else 0
    return [pair for pair in missed if len(pair[1].mismatches) == fewest][:NEAREST_SHOWN]


Rules = tuple[EffectiveRule, ...]


def _matching_all(rules: Rules, index: int) -> Rules:
    return tuple(EffectiveRule(action=r.action, index=r.index) if r.index == index else r for r in rules)


def _without(rules: Rules, index: int) -> Rules:
    return tuple(rule for rule in rules if rule.index != index)


def _allowing_first(rules: Rules) -> Rules:
    return (EffectiveRule(action="allow", index=-1), *rules)


def _edit_rules(cluster: Cluster, policy_id: PolicyId, direction: str, edit: Callable[[Rules], Rules]) -> Cluster:
    def edited(policy: EffectivePolicy) -> EffectivePolicy:
        if policy.id != policy_id:
            return policy
        if direction == "ingress":
            return attrs.evolve(policy, inbound=edit(policy.inbound))
        return attrs.evolve(policy, outbound=edit(policy.outbound))

    tiers = [attrs.evolve(tier, policies=tuple(map(edited, tier.policies))) for tier in cluster.tiers]
    return attrs.evolve(cluster, tiers=tiers)


def _without_policy(cluster: Cluster, policy_id: PolicyId) -> Cluster:
    tiers = [attrs.evolve(t, policies=tuple(p for p in t.policies if p.id != policy_id)) for t in cluster.tiers]
    return attrs.evolve(cluster, tiers=tiers)


def _selecting(cluster: Cluster, endpoint: Endpoint) -> Cluster:
    """With a policy without rules that selects ``endpoint`` (and whatever has the same labels), last of all."""
    labels = " && ".join(str(Equals(label, value)) for label, value in sorted(endpoint.labels.items()))
    added = EffectivePolicy(
        id=PolicyId("GlobalNetworkPolicy", "", "the-new-one"),
        tier=DEFAULT_TIER,
        order=math.inf,
        selector=parse(labels),
        ingress=True,
        egress=True,
    )
    if any(tier.name == DEFAULT_TIER for tier in cluster.tiers):
        tiers = [
            attrs.evolve(tier, policies=(*tier.policies, added)) if tier.name == DEFAULT_TIER else tier
            for tier in cluster.tiers
        ]
    else:
        tiers = [*cluster.tiers, OrderedTier(name=DEFAULT_TIER, default_action="Deny", policies=(added,))]
    return attrs.evolve(cluster, tiers=tiers)


def _tier_passes(cluster: Cluster, name: str) -> Cluster:
    return attrs.evolve(
        cluster,
        tiers=[
            attrs.evolve(tier, default_action="Pass", stored=True) if tier.name == name else tier
            for tier in cluster.tiers
        ],
    )


def _with_profile(cluster: Cluster, endpoint: Endpoint, profile: str) -> Cluster:
    def given(endpoints: Sequence[Endpoint]) -> list[Endpoint]:
        return [attrs.evolve(e, profiles=(*e.profiles, profile)) if e == endpoint else e for e in endpoints]

    return attrs.evolve(cluster, workloads=given(cluster.workloads), host_endpoints=given(cluster.host_endpoints))


def _profile(cluster: Cluster, profile: EffectiveProfile) -> Cluster:
    return attrs.evolve(cluster, profiles={**cluster.profiles, profile.name: profile})


def _rule_text(step: Step, packet: Packet) -> str:
    """A rule that allows exactly this, for the reader to generalise."""
    peer = f"source.nets [{packet.source}/{packet.source.max_prefixlen}]"
    if step.direction == "egress":
        peer = f"destination.nets [{packet.destination}/{packet.destination.max_prefixlen}]"
    port = f", destination.ports [{packet.destination_port}]" if packet.has_ports and packet.destination_port else ""
    return f"Allow, protocol {protocol_name(packet.protocol)}, {peer}{port}"


# ── as data and as text ───────────────────────────────────────────────────────────────────────────────────────────────


def data(explanation: Explanation) -> dict[str, Any]:
    """JSON-able: everything that ``render`` shows."""
    packet, result = explanation.packet, explanation.verdict
    return {
        "packet": {
            "source": str(packet.source),
            "destination": str(packet.destination),
            "protocol": protocol_name(packet.protocol),
            "sourcePort": packet.source_port,
            "destinationPort": packet.destination_port,
            "icmpType": packet.icmp_type,
            "icmpCode": packet.icmp_code,
        },
        "source": explanation.source,
        "destination": explanation.destination,
        "allowed": result.allowed,
        "reason": result.reason,
        "steps": [
            {
                "endpoint": str(step.endpoint),
                "direction": step.direction,
                "hook": step.hook,
                "outcome": step.outcome,
                "decidedBy": step.decided_by,
                "tiers": [_tier_data(tier) for tier in step.tiers],
                "profiles": [
                    {"name": p.name, "outcome": p.outcome, "missing": p.missing, "rules": _rules_data(p.rules)}
                    for p in step.profiles
                ],
                "changes": [{"what": c.what, "then": c.then, "allowed": c.allowed} for c in changes],
            }
            for step, changes in zip(result.steps, explanation.changes, strict=True)
        ],
    }


def _tier_data(tier: TierTrace) -> dict[str, Any]:
    return {
        "name": tier.name,
        "stored": tier.stored,
        "outcome": tier.outcome,
        "byDefaultAction": tier.by_default,
        "policies": [
            {
                "kind": policy.id.kind,
                "namespace": policy.id.namespace,
                "name": policy.id.name,
                "outcome": policy.outcome,
                "failed": policy.failed,
                "rules": _rules_data(policy.rules),
            }
            for policy in tier.policies
        ],
    }


def _rules_data(rules: Sequence[RuleTrace]) -> list[dict[str, Any]]:
    return [
        {
            "rule": trace.rule.index + 1,
            "action": trace.rule.action,
            "matched": not trace.mismatches,
            "mismatches": [{"field": m.field, "wanted": m.wanted, "found": m.found} for m in trace.mismatches],
        }
        for trace in rules
    ]


def render(explanation: Explanation) -> str:
    """Plain text, a few lines for each step; no trailing newline."""
    result = explanation.verdict
    lines = [
        f"{explanation.packet}: {'ALLOWED' if result.allowed else 'DENIED'}",
        f"  from {explanation.packet.source} ({explanation.source})",
        f"  to   {explanation.packet.destination} ({explanation.destination})",
    ]
    if not result.steps:
        lines.append("  no policy governs either end")
    for step, changes in zip(result.steps, explanation.changes, strict=True):
        hook = "" if step.hook == "normal" else f" ({step.hook})"
        lines += ["", f"{step.direction} of {step.endpoint}{hook}: {step.outcome}, by {step.decided_by}"]
        for tier in step.tiers:
            lines.append(f"  tier {tier.name}{'' if tier.stored else ' (does not exist)'}: {_tier_text(tier)}")
            for policy in tier.policies:
                lines.append(f"    {policy.id}: {policy.outcome}{f' ({policy.failed})' if policy.failed else ''}")
                lines += _rule_lines(policy.rules, "      ")
        for profile in step.profiles:
            lines.append(f"  profile {profile.name}: {'does not exist' if profile.missing else profile.outcome}")
            lines += _rule_lines(profile.rules, "    ")
        if changes:
            lines.append("  what would change it:")
            lines += [f"    - {c.what}\n      then {c.then}" for c in changes]
    denying = sum(step.outcome == "deny" for step in result.steps)
    if denying > 1:
        lines += ["", f"{denying} steps deny: each must change before the packet arrives."]
    return "\n".join(lines)


def _tier_text(tier: TierTrace) -> str:
    return f"{tier.outcome} by default action" if tier.by_default else tier.outcome


def _rule_lines(rules: Sequence[RuleTrace], indent: str) -> list[str]:
    return [
        f"{indent}rule {trace.rule.index + 1} {trace.rule.action}: "
        + ("no match, " + "; ".join(map(str, trace.mismatches)) if trace.mismatches else "matches")
        for trace in rules
    ]
