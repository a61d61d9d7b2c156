"""Laws of the verdict on random clusters: what must never change it, and what must."""

from __future__ import annotations

from random import Random

import pytest

from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.policy import (
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    Rule,
    StagedGlobalNetworkPolicy,
    StagedGlobalNetworkPolicySpec,
    Tier,
    TierSpec,
)
from calico_kernel.policy.explain import data, explain, render
from calico_kernel.policy.verdict import Cluster, verdict
from calico_kernel.testing import generators as g

PACKETS = 12


@pytest.mark.parametrize("seed", range(40))
def test_order_of_resources_never_changes_a_verdict(seed: int) -> None:
    rng = Random(seed)
    resources = g.cluster(rng)
    packets = g.packets(rng, g.addresses_of(resources), PACKETS)
    one = Cluster.from_resources(resources)
    shuffled = list(resources)
    rng.shuffle(shuffled)
    other = Cluster.from_resources(shuffled)
    assert [verdict(p, one) for p in packets] == [verdict(p, other) for p in packets]


@pytest.mark.parametrize("seed", range(40))
def test_policy_that_selects_nobody_and_staged_policy_never_change_a_verdict(seed: int) -> None:
    rng = Random(seed)
    resources = g.cluster(rng)
    packets = g.packets(rng, g.addresses_of(resources), PACKETS)
    deny = (Rule(action="Deny"),)
    idle = GlobalNetworkPolicy(
        metadata=ObjectMeta(name="idle"),
        spec=GlobalNetworkPolicySpec(order=0, selector="app == 'none'", ingress=deny, egress=deny),
    )
    staged = StagedGlobalNetworkPolicy(
        metadata=ObjectMeta(name="s"), spec=StagedGlobalNetworkPolicySpec(order=0, ingress=deny, egress=deny)
    )
    empty_tier = Tier(metadata=ObjectMeta(name="empty"), spec=TierSpec(order=0))
    before, after = Cluster.from_resources(resources), Cluster.from_resources([*resources, idle, staged, empty_tier])
    assert [verdict(p, before) for p in packets] == [verdict(p, after) for p in packets]


@pytest.mark.parametrize("seed", range(30))
def test_deny_everything_first_denies_and_allow_everything_first_allows_between_workloads(seed: int) -> None:
    rng = Random(seed)
    resources = g.cluster(rng)
    addresses = [(v, a) for v, a in g.addresses_of(resources) if a not in g.OUTSIDE[v]]
    packets = g.packets(rng, addresses, PACKETS)
    top = Tier(metadata=ObjectMeta(name="top"), spec=TierSpec(order=-1))
    for rule, expected in ((Rule(action="Deny"), False), (Rule(action="Allow"), True)):
        first = GlobalNetworkPolicy(
            metadata=ObjectMeta(name="first"),
            spec=GlobalNetworkPolicySpec(tier="top", types=("Ingress", "Egress"), ingress=(rule,), egress=(rule,)),
        )
        cluster = Cluster.from_resources([*resources, top, first])
        assert {verdict(p, cluster).allowed for p in packets} == {expected}


@pytest.mark.parametrize("seed", range(30))
def test_every_explanation_can_be_told_and_its_changes_turn_the_step_round(seed: int) -> None:
    rng = Random(seed)
    resources = g.cluster(rng)
    cluster = Cluster.from_resources(resources)
    for packet in g.packets(rng, g.addresses_of(resources), 4):
        explanation = explain(packet, cluster)
        assert data(explanation)["allowed"] is explanation.verdict.allowed
        assert render(explanation).count("\n") >= 2
        for step, changes in zip(explanation.verdict.steps, explanation.changes, strict=True):
            assert all(change.then.startswith("deny") is not (step.outcome == "deny") for change in changes)
            lone = sum(s.outcome == "deny" for s in explanation.verdict.steps) == 1
            if step.outcome == "deny" and lone:
                assert changes and all(change.allowed for change in changes)


def test_generated_clusters_use_every_feature_and_both_verdicts() -> None:
    allowed = denied = 0
    actions: set[str] = set()
    for seed in range(60):
        rng = Random(seed)
        resources = g.cluster(rng)
        cluster = Cluster.from_resources(resources)
        for packet in g.packets(rng, g.addresses_of(resources), 20):
            result = verdict(packet, cluster)
            allowed, denied = allowed + result.allowed, denied + (not result.allowed)
            actions |= {
                trace.rule.action
                for step in result.steps
                for tier in step.tiers
                for policy in tier.policies
                for trace in policy.rules
                if not trace.mismatches
            }
    assert actions == {"allow", "deny", "pass", "log"}
    assert min(allowed, denied) > 200
