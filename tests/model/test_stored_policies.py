"""ClusterNetworkPolicies of Kubernetes as global policies, and what keeps them closed."""

from __future__ import annotations

from typing import Any

import pytest

from calico_kernel.errors import ValidationError
from calico_kernel.model import kubernetes
from calico_kernel.model.policy import EntityRule, GlobalNetworkPolicySpec, Rule, RuleMetadata
from calico_kernel.model.uids import exchanged

PODS = "projectcalico.org/orchestrator == 'k8s'"


def converted(spec: Any) -> tuple[GlobalNetworkPolicySpec, list[str]]:
    document = {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "x"},
        "spec": {"tier": "Admin", "priority": 3, "subject": {"namespaces": {}}, **spec},
    }
    made: Any = kubernetes.convert(document)
    assert made.resource.metadata.name == "kcnp.x"
    return made.resource.spec, [path for path, _ in made.problems]


def rules(*rules: Any, direction: str = "ingress") -> tuple[tuple[Rule, ...], list[str]]:
    spec, problems = converted({direction: list(rules)})
    return getattr(spec, direction), problems


ANY = [{"namespaces": {}}]


def test_subject_tier_and_order() -> None:
    spec, problems = converted({"tier": "Baseline", "priority": 0})
    assert (spec.tier, spec.order, spec.types, problems) == ("kube-baseline", 0, (), [])
    assert (spec.namespace_selector, spec.selector) == ("all()", PODS)
    both = {"namespaceSelector": {"matchLabels": {"a": "b"}}, "podSelector": {"matchLabels": {"c": "d"}}}
    spec, _ = converted({"subject": {"pods": both}})
    assert (spec.namespace_selector, spec.selector) == ("a == 'b'", f"{PODS} && c == 'd'")


def test_every_peer_and_protocol_makes_a_rule() -> None:
    protocols = [
        {"tcp": {"destinationPort": {"number": 80}}},
        {"tcp": {"destinationPort": {"range": {"start": 81, "end": 90}}}},
        {"udp": {}},
        {"destinationNamedPort": "web"},
    ]
    peers = [{"namespaces": {"matchLabels": {"a": "b"}}}, {"pods": {"podSelector": {"matchLabels": {"c": "d"}}}}]
    made, problems = rules({"name": "r", "action": "Deny", "from": peers, "protocols": protocols})
    sources = (
        EntityRule(namespace_selector="a == 'b'"),
        EntityRule(selector=f"{PODS} && c == 'd'", namespace_selector="all()"),
    )
    ports: list[tuple[str | None, tuple[int | str, ...]]] = [(None, ("web",)), ("TCP", ("80:90",)), ("UDP", ())]
    metadata = RuleMetadata(annotations={"name": "r"})
    assert problems == [] and made == tuple(
        Rule(action="Deny", protocol=protocol, source=source, destination=EntityRule(ports=those), metadata=metadata)
        for protocol, those in ports
        for source in sources
    )


def test_egress_goes_to_networks_too() -> None:
    made, problems = rules({"action": "Pass", "to": [{"networks": ["10.0.0.1/8", "fd00::/8"]}]}, direction="egress")
    assert made == (Rule(action="Pass", destination=EntityRule(nets=("10.0.0.0/8", "fd00::/8"))),) and not problems


def test_a_protocol_without_ports_covers_those_with_and_no_protocol_covers_all() -> None:
    http = {"tcp": {"destinationPort": {"number": 80}}}
    (made,), _ = rules({"action": "Accept", "from": ANY, "protocols": [{"tcp": {}}, http]})
    assert (made.protocol, made.destination.ports) == ("TCP", ())
    (made,), _ = rules({"action": "Accept", "from": ANY, "protocols": [http, {}]})
    assert (made.protocol, made.destination.ports) == (None, ())


@pytest.mark.parametrize(
    "wrong",
    [
        {"from": ANY, "newer": 1},
        {"from": [{"namespaces": {}, "newer": 1}]},
        {"from": [{}]},
        {"from": []},
        {},
        {"from": [{"networks": ["10.0.0.0/8"]}]},
        {"from": [{"namespaces": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}]},
        {"from": ANY, "protocols": [{"icmp": {}}]},
        {"from": ANY, "protocols": [{"tcp": {}, "udp": {}}]},
        {"from": ANY, "protocols": [{"tcp": {"destinationPort": {}}}]},
        {"from": ANY, "protocols": [{"tcp": {"destinationPort": {"range": {"start": 9, "end": 1}}}}]},
        {"from": ANY, "protocols": [{"tcp": {"destinationPort": {"number": 0}}}]},
    ],
)
def test_a_rule_that_cannot_be_converted_closes_what_it_might_have_closed(wrong: Any) -> None:
    fine = {"action": "Accept", "from": ANY}
    for action, left in (("Accept", ()), ("Deny", (Rule(action="Deny"),)), ("Pass", (Rule(action="Deny"),))):
        made, problems = rules({"action": action, **wrong}, fine)
        assert made[:-1] == left and made[-1].action == "Allow"
        assert problems == ["spec.ingress[0]"]


def test_an_action_unknown_here_denies() -> None:
    assert rules({"action": "Reject", "from": ANY}) == ((Rule(action="Deny"),), ["spec.ingress[0]"])


@pytest.mark.parametrize("spec", [{"tier": "Other"}, {"subject": {}}, {"subject": {"newer": {}}}, {"newer": 1}])
def test_a_policy_for_nobody_known_is_refused(spec: Any) -> None:
    with pytest.raises(ValidationError, match="ClusterNetworkPolicy"):
        converted(spec)


def test_a_uid_is_exchanged_both_ways() -> None:
    uid, turned = "00000001-0203-4405-8607-08090a0b0c0d", "00000080-40c0-44a0-86e0-109050d030b0"
    assert exchanged(uid) == turned and exchanged(turned) == uid
    assert exchanged("") == "" and exchanged("no uid") == "no uid"
    assert exchanged("zzzzzzzz-0203-4405-8607-08090a0b0c0d").startswith("zzzz")
