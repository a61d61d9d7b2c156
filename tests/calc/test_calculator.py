"""Hand-made states, each with what Felix would make of it."""

from __future__ import annotations

from calico_kernel.calc import Calculator
from calico_kernel.model.endpoints import WorkloadEndpoint, WorkloadEndpointSpec
from calico_kernel.model.keys import ResourceKey
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.nodestate import PolicyId
from calico_kernel.model.policy import EntityRule, NetworkPolicy, NetworkPolicySpec, Rule
from calico_kernel.selector import parse


def test_local_endpoint_without_tier_or_profile_is_denied_by_default() -> None:
    calculator = Calculator("n1")
    key = ResourceKey("WorkloadEndpoint", "a", "n1-k8s-web-eth0")
    endpoint = WorkloadEndpoint(
        metadata=ObjectMeta(name=key.name, namespace="a", labels={"app": "web"}),
        spec=WorkloadEndpointSpec(
            orchestrator="k8s",
            node="n1",
            pod="web",
            endpoint="eth0",
            ip_networks=("10.0.0.1/32",),
            interface_name="cali1",
            profiles=("kns.a",),
        ),
    )
    policy = NetworkPolicy(
        metadata=ObjectMeta(name="p", namespace="a"),
        spec=NetworkPolicySpec(
            selector="app == 'web'",
            types=("Ingress",),
            ingress=(Rule(action="Allow", source=EntityRule(selector="app == 'web'")),),
        ),
    )
    calculator.update([(ResourceKey("NetworkPolicy", "a", "p"), policy), (key, endpoint)])
    assert calculator.flush() is None
    calculator.in_sync()
    delta = calculator.flush()
    assert delta is not None and delta.full
    (workload,) = delta.workloads.upserts.values()
    assert [tier.name for tier in workload.policies.tiers] == ["default"]
    assert workload.policies.tiers[0].ingress == (PolicyId("NetworkPolicy", "a", "p"),)
    assert workload.policies.tiers[0].egress == ()
    assert delta.profiles.upserts["kns.a"].inbound[0].action == "deny"
    selector = parse("(projectcalico.org/namespace == 'a') && (app == 'web')")
    assert delta.ip_sets.upserts[selector.id].members == {"10.0.0.1"}
    assert calculator.flush() is None
