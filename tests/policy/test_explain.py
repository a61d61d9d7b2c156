"""Explanations: the trace in words, and changes that really change it."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

import pytest

from calico_kernel.errors import NotFound
from calico_kernel.model.endpoints import (
    Node,
    NodeAddress,
    NodeBGPSpec,
    NodeSpec,
    WorkloadEndpoint,
    WorkloadEndpointSpec,
)
from calico_kernel.model.meta import ObjectMeta, Resource
from calico_kernel.model.policy import (
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    Profile,
    ProfileSpec,
    Rule,
    Tier,
    TierSpec,
)
from calico_kernel.policy.explain import data, explain, packet_between, render
from calico_kernel.policy.matching import Packet
from calico_kernel.policy.verdict import Cluster


def pod(name: str, namespace: str, *addresses: str, profiles: tuple[str, ...] = ("open",)) -> WorkloadEndpoint:
    return WorkloadEndpoint(
        metadata=ObjectMeta(name=f"n1-k8s-{name}-eth0", namespace=namespace, labels={"app": name}),
        spec=WorkloadEndpointSpec(node="n1", pod=name, ip_networks=addresses, profiles=profiles),
    )


def ingress(name: str, *rules: Rule, selector: str = "app == 'b'", **spec: Any) -> GlobalNetworkPolicy:
    return GlobalNetworkPolicy(
        metadata=ObjectMeta(name=name),
        spec=GlobalNetworkPolicySpec(selector=selector, types=("Ingress",), ingress=rules, **spec),
    )


BASE: tuple[Resource, ...] = (
    Tier(metadata=ObjectMeta(name="default"), spec=TierSpec(order=1_000_000)),
    Profile(
        metadata=ObjectMeta(name="open"),
        spec=ProfileSpec(ingress=(Rule(action="Allow"),), egress=(Rule(action="Allow"),)),
    ),
    pod("a", "blue", "10.0.0.1", "fd00::1"),
    pod("b", "blue", "10.0.0.2"),
    pod("b", "red", "10.0.0.3", "fd00::3"),
    Node(metadata=ObjectMeta(name="n2"), spec=NodeSpec(bgp=NodeBGPSpec(ipv4_address="172.30.0.2/24"))),
)
PACKET = Packet("10.0.0.1", "10.0.0.2", "TCP", 0, 80)


def changes(*resources: Resource, packet: Packet = PACKET) -> list[tuple[str, bool]]:
    explanation = explain(packet, Cluster.from_resources([*BASE, *resources]))
    return [(change.what, change.allowed) for step in explanation.changes for change in step]


def test_nearest_rule_that_missed_is_named_with_the_field_that_failed() -> None:
    far = Rule(action="Allow", protocol="UDP", source=EntityRule(selector="app == 'zz'"))
    near = Rule(action="Allow", protocol="TCP", destination=EntityRule(ports=(81,)))
    found = changes(ingress("p", far, near))
    assert found[-3] == (
        "let ingress rule 2 (allow) of GlobalNetworkPolicy(p) match: destination.ports wants 81",
        True,
    )
    assert found[-2][0].startswith("add a rule to ingress of GlobalNetworkPolicy(p): Allow, protocol TCP")
    assert found[-1] == ("set the default action of tier default to Pass", True)


def test_denying_rule_is_named_and_removing_it_is_listed_only_if_that_helps() -> None:
    deny = Rule(action="Deny")
    assert ("remove ingress rule 1 (deny) of GlobalNetworkPolicy(p)", True) in changes(
        ingress("p", deny), ingress("q", Rule(action="Allow"))
    )
    assert not any("remove" in what for what, _ in changes(ingress("p", deny)))


def test_rule_that_allowed_is_named_with_what_its_removal_would_do() -> None:
    assert changes(ingress("p", Rule(action="Allow")))[-1] == (
        "remove ingress rule 1 of GlobalNetworkPolicy(p)",
        False,
    )


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ((ingress("p", tier="ghost"),), "create tier ghost with default action Pass"),
        ((pod("b", "blue", "10.0.0.2", profiles=("ghost",)),), "create profile ghost with a rule that allows it"),
        (
            (ingress("p", Rule(action="Allow", protocol="GRE")),),
            "repair GlobalNetworkPolicy(p) (spec.ingress[0]",
        ),
    ],
)
def test_missing_or_broken_referent_is_what_to_mend(resources: tuple[Resource, ...], expected: str) -> None:
    names = {(r.kind, r.metadata.namespace, r.metadata.name) for r in resources}
    base = [r for r in BASE if (r.kind, r.metadata.namespace, r.metadata.name) not in names]
    explanation = explain(PACKET, Cluster.from_resources([*base, *resources]))
    assert any(change.what.startswith(expected) for step in explanation.changes for change in step)


def test_two_denying_steps_say_that_each_must_change() -> None:
    both = GlobalNetworkPolicy(
        metadata=ObjectMeta(name="shut"), spec=GlobalNetworkPolicySpec(types=("Ingress", "Egress"))
    )
    explanation = explain(PACKET, Cluster.from_resources([*BASE, both]))
    assert "2 steps deny: each must change" in render(explanation)
    adding = [change for step in explanation.changes for change in step if change.what.startswith("add a rule")]
    assert [change.allowed for change in adding] == [False, False]


def test_text_names_ends_steps_tiers_policies_and_rules() -> None:
    text = render(explain(PACKET, Cluster.from_resources([*BASE, ingress("p", Rule(action="Allow", protocol="UDP"))])))
    for part in (
        "TCP 10.0.0.1 -> 10.0.0.2 port 80: DENIED",
        "from 10.0.0.1 (workload blue/a, node n1)",
        "egress of workload blue/a: allow, by profile open, rule 1 (allow)",
        "ingress of workload blue/b: deny, by default action of tier default",
        "tier default: deny by default action",
        "rule 1 allow: no match, protocol wants UDP, the packet has TCP",
        "what would change it:",
    ):
        assert part in text


def test_traffic_that_nothing_governs_says_so() -> None:
    text = render(explain(Packet("198.51.100.1", "203.0.113.1", "UDP", 0, 1), Cluster.from_resources(BASE)))
    assert "outside of the cluster" in text and "no policy governs either end" in text


def test_data_is_json_and_holds_the_decision() -> None:
    explanation = explain(PACKET, Cluster.from_resources([*BASE, ingress("p", Rule(action="Allow", protocol="UDP"))]))
    told = json.loads(json.dumps(data(explanation)))
    assert told["allowed"] is False
    rule = told["steps"][1]["tiers"][0]["policies"][0]["rules"][0]
    assert rule["mismatches"] == [{"field": "protocol", "wanted": "UDP", "found": "TCP"}]
    assert told["steps"][1]["changes"]


@pytest.mark.parametrize(
    ("ends", "options", "expected"),
    [
        (("blue/a", "red/b"), {"port": 80}, Packet("10.0.0.1", "10.0.0.3", 6, 49152, 80)),
        (("blue/a", "red/b"), {"version": 6}, Packet("fd00::1", "fd00::3", 6, 49152)),
        (("a", "n2"), {"protocol": "udp", "port": 53}, Packet("10.0.0.1", "172.30.0.2", 17, 49152, 53)),
        (("blue/n1-k8s-a-eth0", "fd00::9"), {}, Packet("fd00::1", "fd00::9", 6, 49152)),
        (("blue/a", "red/b"), {"protocol": 47, "port": 80}, Packet("10.0.0.1", "10.0.0.3", 47)),
        (("blue/a", "red/b"), {"protocol": "ICMPv6"}, Packet.echo("fd00::1", "fd00::3")),
        (("blue/a", "red/b"), {"protocol": "ICMP"}, Packet.echo("10.0.0.1", "10.0.0.3")),
    ],
)
def test_ends_are_addresses_workloads_or_nodes(
    ends: tuple[str, str], options: dict[str, Any], expected: Packet
) -> None:
    assert packet_between(*ends, Cluster.from_resources(BASE), **options) == expected


def test_a_node_is_meant_by_its_own_address_before_those_of_its_tunnels() -> None:
    spec = NodeSpec(
        ipv4_vxlan_tunnel_addr="10.65.0.1",
        addresses=(NodeAddress(address="172.30.9.9", type="InternalIP"), NodeAddress(address="172.30.9.8")),
    )
    cluster = Cluster.from_resources([Node(metadata=ObjectMeta(name="n9"), spec=spec)])
    assert packet_between("n9", "192.0.2.1", cluster, port=80).source == ip_address("172.30.9.9")
    assert [str(address) for address in cluster.node_addresses] == ["172.30.9.9", "172.30.9.8", "10.65.0.1"]


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        (("blue/zz", "red/b"), "no workload"),
        (("b", "red/b"), "several namespaces (blue, red)"),
        (("blue/b", "fd00::3"), "one IP version"),
    ],
)
def test_end_that_cannot_be_found_is_refused_with_what_to_say(ends: tuple[str, str], said: str) -> None:
    with pytest.raises(NotFound) as refused:
        packet_between(*ends, Cluster.from_resources(BASE))
    assert said in str(refused.value)
