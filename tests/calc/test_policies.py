"""Which policies apply, in what order, and what a fault in one does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec

from calico_kernel.model.keys import ResourceKey
from calico_kernel.model.nodestate import PolicyId, WorkloadEndpointId
from calico_kernel.model.policy import EntityRule, Rule, StagedKubernetesNetworkPolicy
from calico_kernel.model.records import Malformed

ALLOW = (Rule(action="Allow"),)


def gnp(name: str) -> PolicyId:
    return PolicyId("GlobalNetworkPolicy", "", name)


def only(mapping: dict[Any, Any]) -> Any:
    (value,) = mapping.values()
    return value


def test_policies_are_ordered_by_order_then_name(make: SimpleNamespace) -> None:
    n1 = make.node1(
        make.tier("default", 1_000_000, "Deny"),
        make.workload("w", "10.0.0.1/32"),
        make.global_policy("unordered"),
        make.global_policy("b", order=10),
        make.global_policy("a", order=10),
        make.global_policy("first", order=-1),
        make.policy("a", order=10),
    )
    (tier,) = only(n1.workloads).policies.tiers
    assert [policy.name for policy in tier.ingress] == ["first", "a", "a", "b", "unordered"]
    assert [policy.kind for policy in tier.ingress[1:3]] == ["GlobalNetworkPolicy", "NetworkPolicy"]


def test_tiers_are_ordered_and_a_missing_one_comes_last_and_denies(make: SimpleNamespace) -> None:
    n1 = make.node1(
        make.tier("default", 1_000_000, "Deny"),
        make.tier("late", None, "Pass"),
        make.tier("early", 5, "Pass"),
        make.workload("w", "10.0.0.1/32"),
        *(make.global_policy(f"in-{name}", tier=name) for name in ("", "late", "early", "missing")),
    )
    tiers = only(n1.workloads).policies.tiers
    assert [(tier.name, tier.default_action) for tier in tiers] == [
        ("early", "Pass"),
        ("default", "Deny"),
        ("late", "Pass"),
        ("missing", "Deny"),
    ]
    n1.update(make.tier("missing", 1, "Pass"))
    assert [tier.name for tier in only(n1.workloads).policies.tiers] == ["missing", "early", "default", "late"]
    n1.update(make.gone(make.tier("early")))
    assert [tier.name for tier in only(n1.workloads).policies.tiers] == ["missing", "default", "late", "early"]


def test_types_decide_the_directions(make: SimpleNamespace) -> None:
    n1 = make.node1(
        make.workload("w", "10.0.0.1/32"),
        make.global_policy("in", types=("Ingress",)),
        make.global_policy("out", types=("Egress",)),
        make.global_policy("stored-without"),
    )
    (tier,) = only(n1.workloads).policies.tiers
    assert [policy.name for policy in tier.ingress] == ["in", "stored-without"]
    assert [policy.name for policy in tier.egress] == ["out", "stored-without"]


def test_host_endpoint_has_a_list_for_each_hook(make: SimpleNamespace) -> None:
    n1 = make.node1(
        make.tier("default", 1_000_000, "Deny"),
        make.host_endpoint("h", profiles=("kns.a",)),
        make.host_endpoint("elsewhere", node="n2"),
        make.global_policy("normal"),
        make.global_policy("forward", apply_on_forward=True),
        make.global_policy("untracked", do_not_track=True, apply_on_forward=True),
        make.global_policy("dnat", pre_dnat=True, apply_on_forward=True),
    )
    host = only(n1.host_endpoints)
    names = {
        hook: [(tier.default_action, [p.name for p in tier.ingress], [p.name for p in tier.egress]) for tier in tiers]
        for hook, tiers in (
            ("normal", host.normal.tiers),
            ("forward", host.forward.tiers),
            ("untracked", host.untracked.tiers),
            ("pre_dnat", host.pre_dnat.tiers),
        )
    }
    assert names == {
        "normal": [("Deny", ["forward", "normal"], ["forward", "normal"])],
        "forward": [("Deny", ["forward"], ["forward"])],
        "untracked": [("Pass", ["untracked"], ["untracked"])],
        "pre_dnat": [("Pass", ["dnat"], [])],
    }
    assert host.normal.profiles == ("kns.a",) and host.forward.profiles == ()


def test_workloads_that_the_same_policies_select_share_one_list(make: SimpleNamespace) -> None:
    n1 = make.node1(
        *(make.workload(f"w{n}", f"10.0.0.{n}/32", labels={"n": str(n)}) for n in range(1, 4)),
        make.global_policy("all"),
        make.global_policy("third", "n == '3'"),
    )
    lists = [n1.workloads[WorkloadEndpointId("k8s", f"ns1/w{n}", "eth0")].policies for n in range(1, 4)]
    assert lists[0] is lists[1] and lists[0] is not lists[2]


def test_staged_policy_is_active_but_in_no_list(make: SimpleNamespace) -> None:
    n1 = make.node1(
        make.workload("w", "10.0.0.1/32"), make.staged_policy("p"), make.staged_policy("q", staged_action="Delete")
    )
    assert [(policy.id.name, policy.staged) for policy in n1.policies.values()] == [("p", True)]
    assert only(n1.workloads).policies.tiers == ()


def test_staged_kubernetes_policy_is_active_as_what_it_stands_for(make: SimpleNamespace) -> None:
    key = ResourceKey("StagedKubernetesNetworkPolicy", "ns1", "p")
    staged = msgspec.json.decode(
        b"""{"kind": "StagedKubernetesNetworkPolicy", "metadata": {"name": "p", "namespace": "ns1"}, "spec":
        {"podSelector": {"matchLabels": {"app": "w"}}, "policyTypes": ["Ingress"], "ingress": [{"from": [
        {"podSelector": {"matchLabels": {"app": "x"}}}]}]}}""",
        type=StagedKubernetesNetworkPolicy,
    )
    n1 = make.node1(make.workload("w", "10.0.0.1/32", labels={"app": "w", "projectcalico.org/orchestrator": "k8s"}))
    n1.update((key, staged))
    policy = n1.policies[PolicyId(*msgspec.structs.astuple(key))]
    assert policy.staged and policy.inbound[0].source.ip_sets
    n1.update((key, None))
    assert n1.policies == {}


def test_missing_profile_denies_and_the_built_in_one_allows(make: SimpleNamespace) -> None:
    n1 = make.node1(make.workload("w", "10.0.0.1/32", profiles=("gone", "projectcalico-default-allow")))
    actions = {name: [rule.action for rule in profile.inbound] for name, profile in n1.profiles.items()}
    assert actions == {"gone": ["deny"], "projectcalico-default-allow": ["allow"]}
    n1.update(make.profile("gone", ingress=ALLOW))
    assert [rule.action for rule in n1.profiles["gone"].inbound] == ["allow"]
    assert n1.profiles["gone"].outbound == ()
    n1.update(make.profile("gone"))
    assert n1.profiles["gone"].inbound == ()
    n1.update(make.gone(make.profile("gone")))
    assert [rule.action for rule in n1.profiles["gone"].outbound] == ["deny"]


def test_policy_with_a_rule_that_does_not_parse_denies(make: SimpleNamespace) -> None:
    bad = (Rule(action="Allow", source=EntityRule(selector="oops ==")),)
    n1 = make.node1(make.workload("w", "10.0.0.1/32"), make.global_policy("p", ingress=bad, types=("Ingress",)))
    policy = n1.policies[gnp("p")]
    assert [rule.action for rule in policy.inbound] == ["deny"] and policy.failed
    (key,) = n1.calculator.problems
    assert (key.kind, key.name) == ("GlobalNetworkPolicy", "p")
    n1.update(make.global_policy("p", ingress=ALLOW, types=("Ingress",)))
    assert n1.calculator.problems == {} and not n1.policies[gnp("p")].failed


def test_policy_that_does_not_decode_counts_as_what_stands_in_for_it(make: SimpleNamespace) -> None:
    key, denying = make.global_policy("p", ingress=(Rule(action="Deny"),))
    n1 = make.node1(make.workload("w", "10.0.0.1/32"), make.global_policy("p", ingress=ALLOW))
    n1.update((key, Malformed("no such action", b"", denying)))
    assert [rule.action for rule in n1.policies[gnp("p")].inbound] == ["deny"]
    assert n1.calculator.problems[key] == "no such action"
    n1.update((key, Malformed("nothing to save", b"")))
    assert n1.policies == {} and n1.calculator.problems[key] == "nothing to save"


def test_policy_whose_selector_does_not_parse_is_absent(make: SimpleNamespace) -> None:
    n1 = make.node1(make.workload("w", "10.0.0.1/32"), make.global_policy("p", "a == 'x'"))
    key, value = make.global_policy("p", "oops ==")
    n1.update((key, value))
    assert n1.policies == {} and "oops" in n1.calculator.problems[key]


def test_selector_cannot_reach_out_of_its_namespace(make: SimpleNamespace) -> None:
    n1 = make.node1(
        make.workload("w", "10.0.0.1/32", namespace="ns2"), make.policy("p", selector="all()) || (all()", ingress=ALLOW)
    )
    assert n1.policies == {}
    assert len(n1.calculator.problems) == 1


def test_policy_changed_twice_between_flushes_counts_as_last_seen(make: SimpleNamespace) -> None:
    n1 = make.node1(make.workload("w", "10.0.0.1/32", labels={"a": "1"}), make.global_policy("p", "a == '1'"))
    n1.update(make.global_policy("p", "a == '2'"), make.global_policy("p", "a == '3'"))
    assert n1.policies == {}
    n1.update(make.global_policy("p", "a == '2'"), make.global_policy("p", "a == '1'"))
    assert list(n1.policies) == [gnp("p")]
    n1.update(make.global_policy("p", "a == '2'"), make.gone(make.global_policy("p")))
    assert n1.policies == {} and only(n1.workloads).policies.tiers == ()


def test_change_of_one_rule_gives_out_that_policy_alone(make: SimpleNamespace) -> None:
    n1 = make.node1(make.workload("w", "10.0.0.1/32"), *(make.global_policy(f"p{n}") for n in range(20)))
    delta = n1.update(make.global_policy("p7", ingress=ALLOW))
    assert list(delta.policies.upserts) == [gnp("p7")]
    assert not delta.workloads and not delta.ip_sets


def test_workload_that_leaves_the_node_is_removed_here_and_stays_a_member(make: SimpleNamespace) -> None:
    rule = (Rule(action="Allow", source=EntityRule(selector="app == 'x'")),)
    n1 = make.node1(
        make.workload("w", "10.0.0.1/32"),
        make.workload("m", "10.0.0.2/32", labels={"app": "x"}),
        make.global_policy("p", ingress=rule),
    )
    delta = n1.update(make.workload("m", "10.0.0.2/32", node="n2", labels={"app": "x"}))
    assert list(delta.workloads.removes) == [WorkloadEndpointId("k8s", "ns1/m", "eth0")]
    assert not delta.ip_set_members


def test_counts_are_of_this_node_and_of_the_cluster(make: SimpleNamespace) -> None:
    rule = (Rule(action="Allow", source=EntityRule(selector="app == 'x'")),)
    n1 = make.node1(
        make.workload("w", "10.0.0.1/32"),
        make.workload("r", "10.0.0.2/32", node="n2"),
        make.host_endpoint("h", node="n2"),
        make.network_set("s", "10.0.0.0/8"),
        make.node("n1", "172.16.0.1/24"),
        make.profile("kns.ns1"),
        make.tier("default"),
        make.global_policy("p", ingress=rule),
        make.global_policy("q", "app == 'nowhere'"),
    )
    assert n1.calculator.stats == {
        "active_local_endpoints": 1,
        "active_local_policies": 1,
        "active_local_selectors": 1,
        "cluster_num_hosts": 1,
        "cluster_num_workload_endpoints": 2,
        "cluster_num_host_endpoints": 1,
        "cluster_num_policies": 2,
        "cluster_num_tiers": 1,
        "cluster_num_profiles": 1,
        "label_index_num_endpoints": 4,
        "label_index_num_active_selectors": 1,
    }


def test_lists_stay_shared_however_many_came_before(make: SimpleNamespace) -> None:
    n1 = make.node1(
        make.workload("w1", "10.0.0.1/32"),
        make.workload("w2", "10.0.0.2/32"),
        make.host_endpoint("h"),
        make.global_policy("p0", apply_on_forward=True),
    )
    for number in range(1, 120):
        before = make.gone(make.global_policy(f"p{number - 1}"))
        n1.update(make.global_policy(f"p{number}", apply_on_forward=True), before)
        n1.update(make.workload("w1", "10.0.0.1/32", mac=f"02:00:00:00:00:{number:02x}"))
    lists = {id(workload.policies) for workload in n1.workloads.values()}
    assert len(lists) == 1
