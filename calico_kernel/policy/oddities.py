"""What may be stored, but hardly means what its author thinks: warnings of ``calicoctl validate``.

In:    a valid resource, with defaults.
Out:   (field path, what is odd), in the order of the fields. Nothing is refused for it: clusters hold such resources.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from typing import Any

from calico_kernel.errors import ValidationError
from calico_kernel.model.meta import Resource
from calico_kernel.model.network import IPPool
from calico_kernel.model.policy import EntityRule, Profile, Rule
from calico_kernel.policy.effective import (
    EffectivePolicy,
    EffectiveRule,
    EffectiveSide,
    RuleError,
    effective_policy,
    effective_rules,
)
from calico_kernel.selector import parse

Oddity = tuple[str, str]

_POLICIES = frozenset({"NetworkPolicy", "GlobalNetworkPolicy", "StagedNetworkPolicy", "StagedGlobalNetworkPolicy"})
_PER_NODE = frozenset({"FelixConfiguration", "BGPConfiguration"})


def oddities(resource: Resource) -> list[Oddity]:
    """Pure; [] for a resource that raises no question. A resource that cannot be read raises none here."""
    if resource.kind in _POLICIES:
        return list(_policy(resource))
    if isinstance(resource, Profile):
        return list(_profile(resource))
    if isinstance(resource, IPPool):
        return list(_pool(resource))
    if resource.kind in _PER_NODE:
        return list(_per_node(resource))
    return []


def _policy(policy: Any) -> Iterator[Oddity]:
    try:
        meant = effective_policy(policy)
    except ValidationError:
        return
    name, tier = policy.metadata.name, meant.tier
    if tier != "default" and not name.startswith(f"{tier}."):
        yield "metadata.name", f"does not begin with its tier, {tier + '.'!r}, by which people and older tools find it"
    if not meant.selector.satisfiable:
        yield "spec.selector", f"can match nothing: {meant.selector.text}"
    yield from _unused_directions(policy.spec, meant)
    yield from _rules("spec.ingress", policy.spec.ingress, meant.inbound)
    yield from _rules("spec.egress", policy.spec.egress, meant.outbound)


def _unused_directions(spec: Any, meant: EffectivePolicy) -> Iterator[Oddity]:
    for name, rules, governs in (("ingress", spec.ingress, meant.ingress), ("egress", spec.egress, meant.egress)):
        if rules and not governs:
            yield f"spec.{name}", f"has no effect: spec.types does not name {name.capitalize()}"


def _profile(profile: Profile) -> Iterator[Oddity]:
    for name, rules in (("ingress", profile.spec.ingress), ("egress", profile.spec.egress)):
        path = f"spec.{name}"
        for index, rule in enumerate(rules):
            if rule.action == "Pass":
                yield f"{path}[{index}].action", "Pass has no later tier to go to: the next profile is asked"
        try:
            yield from _rules(path, rules, effective_rules(rules, "", path=path))
        except RuleError:
            continue


def _rules(path: str, written: Sequence[Rule], meant: Sequence[EffectiveRule]) -> Iterator[Oddity]:
    """``meant`` is another list where a rule cannot be understood and the policy denies; nothing is odd then."""
    if len(written) != len(meant):
        return
    ended = -1
    for index, rule in enumerate(meant):
        if ended >= 0:
            yield f"{path}[{index}]", f"is never reached: {path}[{ended}] decides on every packet"
            return
        for side in ("source", "destination"):
            yield from _side(f"{path}[{index}].{side}", getattr(written[index], side), getattr(rule, side))
        if rule.action != "log" and _matches_everything(rule, written[index]):
            ended = index


def _side(path: str, written: EntityRule, meant: EffectiveSide) -> Iterator[Oddity]:
    if meant.selector is not None and not meant.selector.satisfiable:
        yield f"{path}.selector", f"can match nothing: {meant.selector.text}"
    if meant.nets and meant.not_nets:
        for index, net in enumerate(meant.nets):
            if any(net.version == out.version and net.subnet_of(out) for out in meant.not_nets):  # type: ignore[arg-type]
                yield f"{path}.nets[{index}]", f"{net} is excluded again by notNets"
    if written.not_selector and parse(written.not_selector).text == "all()":
        yield f"{path}.notSelector", "excludes every endpoint and network set"


def _matches_everything(rule: EffectiveRule, written: Rule) -> bool:
    return rule == EffectiveRule(action=rule.action, index=rule.index) and written.http is None


def _pool(pool: IPPool) -> Iterator[Oddity]:
    spec = pool.spec
    network = ip_network(spec.cidr)
    if network.is_loopback:
        yield "spec.cidr", f"{spec.cidr} is the host's own loopback: no packet for it leaves a host"
    elif network.is_multicast:
        yield "spec.cidr", f"{spec.cidr} holds multicast addresses, which no workload can have"
    if not parse(spec.node_selector).satisfiable:
        yield "spec.nodeSelector", "can match no node: nothing is assigned from this pool by itself"
    if spec.block_size == network.max_prefixlen:
        yield "spec.blockSize", "holds one address: each workload costs a block, a claim and a route of its own"


def _per_node(config: Resource) -> Iterator[Oddity]:
    name = config.metadata.name
    if name != "default" and not name.startswith("node."):
        yield "metadata.name", "is neither 'default' nor 'node.<name of a node>': no node reads it"
