"""The reference verdict, feature by feature: what each field of a tier, policy, rule, profile or endpoint means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from calico_kernel.model.endpoints import (
    HostEndpoint,
    HostEndpointSpec,
    Node,
    NodeBGPSpec,
    NodeSpec,
    WorkloadEndpoint,
    WorkloadEndpointPort,
    WorkloadEndpointSpec,
)
from calico_kernel.model.felix import FelixConfiguration, FelixConfigurationSpec, ProtoPort
from calico_kernel.model.meta import ObjectMeta, Resource
from calico_kernel.model.network import GlobalNetworkSet, NetworkSet, NetworkSetSpec
from calico_kernel.model.policy import (
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    IcmpFields,
    NetworkPolicy,
    NetworkPolicySpec,
    Profile,
    ProfileSpec,
    Rule,
    ServiceAccountMatch,
    ServiceMatch,
    StagedGlobalNetworkPolicy,
    StagedGlobalNetworkPolicySpec,
    Tier,
    TierSpec,
)
from calico_kernel.model.services import SERVICE_NAME_LABEL, KubernetesEndpointSlice, SliceEndpoint, SlicePort
from calico_kernel.policy.cluster import Address, HostSettings
from calico_kernel.policy.matching import Packet
from calico_kernel.policy.verdict import Cluster, Verdict, verdict

A, B, C = "10.0.0.1", "10.0.0.2", "10.0.1.3"
A6, B6 = "fd00::1", "fd00::2"
NODE_1, NODE_2 = "172.30.0.1", "172.30.0.2"
OUTSIDE = "198.51.100.9"


def workload(
    name: str, namespace: str, address: str | Sequence[str], node: str = "n1", **spec: Any
) -> WorkloadEndpoint:
    labels = spec.pop("labels", {"app": name})
    addresses = [address] if isinstance(address, str) else address
    return WorkloadEndpoint(
        metadata=ObjectMeta(name=f"{node}-k8s-{name}-eth0", namespace=namespace, labels=labels),
        spec=WorkloadEndpointSpec(
            orchestrator="k8s",
            node=node,
            pod=name,
            endpoint="eth0",
            ip_networks=tuple(addresses),
            interface_name=f"cali{name}",
            profiles=spec.pop("profiles", (f"kns.{namespace}",)),
            **spec,
        ),
    )


def profile(name: str, *, allow: bool = True, labels: dict[str, str] | None = None) -> Profile:
    rules = (Rule(action="Allow"),) if allow else ()
    return Profile(
        metadata=ObjectMeta(name=name),
        spec=ProfileSpec(ingress=rules, egress=rules, labels_to_apply=labels or {}),
    )


def global_policy(name: str = "p", selector: str = "app == 'b'", **spec: Any) -> GlobalNetworkPolicy:
    spec.setdefault("types", ("Ingress",))
    return GlobalNetworkPolicy(metadata=ObjectMeta(name=name), spec=GlobalNetworkPolicySpec(selector=selector, **spec))


def namespaced_policy(name: str, namespace: str, selector: str = "", **spec: Any) -> NetworkPolicy:
    spec.setdefault("types", ("Ingress",))
    return NetworkPolicy(
        metadata=ObjectMeta(name=name, namespace=namespace), spec=NetworkPolicySpec(selector=selector, **spec)
    )


def tier(name: str, order: float | None, action: Any = "Deny") -> Tier:
    return Tier(metadata=ObjectMeta(name=name), spec=TierSpec(order=order, default_action=action))


def allow(**fields: Any) -> Rule:
    return Rule(action="Allow", **fields)


def deny(**fields: Any) -> Rule:
    return Rule(action="Deny", **fields)


BASE: tuple[Resource, ...] = (
    tier("default", 1_000_000),
    profile("kns.blue", labels={"pcns.projectcalico.org/name": "blue", "pcns.colour": "blue"}),
    profile("kns.red", labels={"pcns.projectcalico.org/name": "red", "pcns.colour": "red"}),
    profile("ksa.blue.robot", allow=False, labels={"pcsa.role": "robot"}),
    workload("a", "blue", (A, A6), service_account_name="robot", profiles=("kns.blue", "ksa.blue.robot")),
    workload(
        "b",
        "blue",
        (B, B6),
        ports=(
            WorkloadEndpointPort(name="http", protocol="TCP", port=8080),
            WorkloadEndpointPort(name="dns", protocol="UDP", port=53),
            WorkloadEndpointPort(name="dns", protocol="TCP", port=53),
        ),
    ),
    workload("c", "red", C, node="n2"),
    Node(metadata=ObjectMeta(name="n1"), spec=NodeSpec(bgp=NodeBGPSpec(ipv4_address=f"{NODE_1}/24"))),
    Node(metadata=ObjectMeta(name="n2"), spec=NodeSpec(bgp=NodeBGPSpec(ipv4_address=f"{NODE_2}/24"))),
)


def decide(packet: Packet, *resources: Resource, **options: Any) -> Verdict:
    replaced = {(r.kind, r.metadata.namespace, r.metadata.name) for r in resources}
    base = [r for r in BASE if (r.kind, r.metadata.namespace, r.metadata.name) not in replaced]
    forward = verdict(packet, Cluster.from_resources([*base, *resources], **options))
    backward = verdict(packet, Cluster.from_resources([*reversed(resources), *reversed(base)], **options))
    assert forward == backward
    return forward


def tcp(port: int = 80, source: str = A, destination: str = B, source_port: int = 40000) -> Packet:
    return Packet(source, destination, "TCP", source_port, port)


def udp(port: int = 53, source: str = A, destination: str = B) -> Packet:
    return Packet(source, destination, "UDP", 40000, port)


# ── tiers, order, defaults ────────────────────────────────────────────────────────────────────────────────────────────


def test_endpoint_without_policy_is_decided_by_its_profiles() -> None:
    assert decide(tcp()).allowed
    assert not decide(tcp(), profile("kns.blue", allow=False)).allowed


def test_address_unknown_to_calico_is_an_outside_client_or_server() -> None:
    assert decide(tcp(source=OUTSIDE)).allowed
    assert decide(tcp(destination=OUTSIDE)).allowed
    assert decide(tcp(source=OUTSIDE, destination="203.0.113.1")).reason == "no policy governs either end"
    assert not decide(tcp(source=OUTSIDE), global_policy()).allowed


def test_selected_endpoint_is_denied_by_the_tiers_default_unless_a_rule_allows() -> None:
    denied = decide(tcp(), global_policy())
    assert not denied.allowed
    assert "default action of tier default" in denied.reason
    assert decide(tcp(), global_policy(ingress=(allow(),))).allowed


def test_policy_governs_only_its_types() -> None:
    assert decide(tcp(), global_policy(types=("Egress",))).allowed
    assert not decide(tcp(), global_policy(selector="app == 'a'", types=("Egress",))).allowed
    assert not decide(tcp(), global_policy(selector="app == 'a'", types=())).allowed
    assert not decide(tcp(), global_policy(types=())).allowed


def test_both_ends_must_allow() -> None:
    egress = global_policy("e", selector="app == 'a'", types=("Egress",), egress=(allow(protocol="TCP"),))
    assert decide(tcp(), egress).allowed
    result = decide(tcp(), egress, global_policy())
    assert [step.outcome for step in result.steps] == ["allow", "deny"]
    assert not result.allowed


def test_lower_order_comes_first_and_missing_order_last() -> None:
    policies = [
        global_policy("deny-first", order=1, ingress=(deny(protocol="UDP"),)),
        global_policy("allow-second", order=2, ingress=(allow(),)),
        global_policy("deny-last", ingress=(deny(),)),
    ]
    assert decide(tcp(), *policies).allowed
    assert not decide(udp(), *policies).allowed


def test_equal_orders_are_decided_by_name() -> None:
    assert decide(tcp(), global_policy("x1", ingress=(allow(),)), global_policy("x2", ingress=(deny(),))).allowed
    assert not decide(tcp(), global_policy("x2", ingress=(allow(),)), global_policy("x1", ingress=(deny(),))).allowed


def test_tiers_come_in_order_and_one_without_policies_for_the_endpoint_is_skipped() -> None:
    security, other = tier("security", 10), tier("other", 5)
    policies = [
        global_policy("s", tier="security", ingress=(deny(protocol="UDP"), Rule(action="Pass"))),
        global_policy("o", selector="app == 'nobody'", tier="other"),
        global_policy("d", ingress=(allow(),)),
    ]
    assert decide(tcp(), security, other, *policies).allowed
    denied = decide(udp(), security, other, *policies)
    assert not denied.allowed
    assert [t.name for t in denied.steps[-1].tiers] == ["security"]


def test_tier_whose_default_is_pass_hands_on_what_it_did_not_decide() -> None:
    policy = global_policy("s", tier="security", ingress=(deny(protocol="UDP"),))
    assert decide(tcp(), tier("security", 10, "Pass"), policy).allowed
    assert not decide(udp(), tier("security", 10, "Pass"), policy).allowed
    assert not decide(tcp(), tier("security", 10, "Deny"), policy).allowed


def test_pass_in_the_last_tier_leads_to_the_profiles() -> None:
    passing = global_policy(ingress=(Rule(action="Pass"),))
    assert decide(tcp(), passing).allowed
    assert not decide(tcp(), passing, profile("kns.blue", allow=False)).allowed


def test_tier_that_does_not_exist_comes_last_and_denies() -> None:
    ghost = global_policy("g", tier="ghost", ingress=(allow(protocol="UDP"),))
    assert decide(udp(), ghost).allowed
    denied = decide(tcp(), ghost)
    assert not denied.allowed
    assert "absence of tier ghost" in denied.reason
    assert decide(tcp(), ghost, global_policy(ingress=(allow(),))).allowed


def test_profile_that_does_not_exist_denies_even_before_one_that_allows() -> None:
    lost = workload("b", "blue", B, profiles=("ghost", "kns.blue"))
    denied = decide(tcp(), lost)
    assert not denied.allowed
    assert "profile ghost, which does not exist" in denied.reason
    assert decide(tcp(), lost, global_policy(ingress=(allow(),))).allowed


def test_endpoint_without_profiles_and_policy_is_denied_and_the_builtin_profile_allows() -> None:
    assert not decide(tcp(), workload("b", "blue", B, profiles=())).allowed
    assert decide(tcp(), workload("b", "blue", B, profiles=("projectcalico-default-allow",))).allowed


def test_log_decides_nothing_and_staged_policy_does_not_exist() -> None:
    assert decide(tcp(), global_policy(ingress=(Rule(action="Log"), allow()))).allowed
    assert not decide(tcp(), global_policy(ingress=(Rule(action="Log"),))).allowed
    staged = StagedGlobalNetworkPolicy(
        metadata=ObjectMeta(name="s"), spec=StagedGlobalNetworkPolicySpec(selector="all()", types=("Ingress",))
    )
    assert decide(tcp(), staged).allowed


def test_policy_with_a_rule_that_cannot_be_read_denies_only_what_it_governs() -> None:
    broken = global_policy(ingress=(allow(), allow(source=EntityRule(selector="a ="))))
    denied = decide(tcp(), broken)
    assert not denied.allowed
    assert "cannot be read" in denied.reason and "spec.ingress[1]" in denied.reason
    assert decide(tcp(source=B, destination=A), broken).allowed


def test_policy_whose_own_selector_cannot_be_read_counts_as_absent() -> None:
    broken = global_policy(selector="a =")
    assert decide(tcp(), broken).allowed
    assert Cluster.from_resources([broken]).rejected[0][0] == "GlobalNetworkPolicy p"


# ── rule fields ───────────────────────────────────────────────────────────────────────────────────────────────────────

ICMP_8 = IcmpFields(type=8)
UNREACHABLE_3 = IcmpFields(type=3, code=3)
PING = Packet.echo(A, B)
PING6 = Packet.echo(A6, B6)
FIELDS: list[tuple[Rule, Packet, bool]] = [
    (allow(protocol="TCP"), tcp(), True),
    (allow(protocol=6), tcp(), True),
    (allow(protocol="6"), tcp(), True),
    (allow(protocol="UDP"), tcp(), False),
    (allow(protocol="SCTP"), Packet(A, B, "SCTP", 1, 2), True),
    (allow(protocol="UDPLite"), Packet(A, B, 136, 1, 2), True),
    (allow(protocol=47), Packet(A, B, 47), True),
    (allow(not_protocol="TCP"), tcp(), False),
    (allow(not_protocol="TCP"), udp(), True),
    (allow(ip_version=4), tcp(), True),
    (allow(ip_version=6), tcp(), False),
    (allow(ip_version=6), tcp(source=A6, destination=B6), True),
    (allow(protocol="ICMP"), PING, True),
    (allow(protocol="ICMP"), PING6, False),
    (allow(protocol="ICMPv6"), PING6, True),
    (allow(protocol="ICMP", icmp=ICMP_8), PING, True),
    (allow(protocol="ICMP", icmp=ICMP_8), tcp(), False),
    (allow(protocol="ICMP", icmp=IcmpFields(type=8, code=1)), PING, False),
    (allow(protocol="ICMP", icmp=UNREACHABLE_3), Packet(A, B, 1, icmp_type=3, icmp_code=3), True),
    (allow(protocol="ICMP", icmp=UNREACHABLE_3), Packet(A, B, 1, icmp_type=3, icmp_code=1), False),
    (allow(protocol="ICMPv6", icmp=IcmpFields(type=128)), PING6, True),
    (allow(protocol="ICMP", not_icmp=ICMP_8), PING, False),
    (allow(protocol="ICMP", not_icmp=IcmpFields(type=8, code=1)), PING, True),
    (allow(not_icmp=ICMP_8), tcp(), True),
    (allow(protocol="TCP", destination=EntityRule(ports=(80,))), tcp(80), True),
    (allow(protocol="TCP", destination=EntityRule(ports=("70:90", 443))), tcp(80), True),
    (allow(protocol="TCP", destination=EntityRule(ports=("70:90", 443))), tcp(91), False),
    (allow(protocol="TCP", destination=EntityRule(not_ports=("70:90",))), tcp(80), False),
    (allow(protocol="TCP", destination=EntityRule(not_ports=("70:90",))), tcp(91), True),
    (allow(protocol="TCP", source=EntityRule(ports=("40000",))), tcp(80), True),
    (allow(protocol="TCP", source=EntityRule(not_ports=(40000,))), tcp(80), False),
    (allow(protocol="TCP", destination=EntityRule(ports=("http",))), tcp(8080), True),
    (allow(protocol="TCP", destination=EntityRule(ports=("http", 81))), tcp(81), True),
    (allow(protocol="UDP", destination=EntityRule(ports=("http",))), udp(8080), False),
    (allow(destination=EntityRule(ports=("dns",))), udp(53), True),
    (allow(destination=EntityRule(ports=("dns",))), tcp(53), True),
    (allow(protocol="TCP", destination=EntityRule(ports=("dns",))), udp(53), False),
    (allow(destination=EntityRule(ports=("dns",), selector="app == 'b'")), udp(53), True),
    (allow(destination=EntityRule(ports=("dns",), selector="app == 'a'")), udp(53), False),
    (allow(protocol="TCP", destination=EntityRule(not_ports=("http",))), tcp(8080), False),
    (allow(destination=EntityRule(not_ports=("http",))), PING, True),
    (allow(source=EntityRule(nets=("10.0.0.0/24",))), tcp(), True),
    (allow(source=EntityRule(nets=("10.9.0.0/16", "10.0.0.1/32"))), tcp(), True),
    (allow(source=EntityRule(nets=("10.9.0.0/16",))), tcp(), False),
    (allow(source=EntityRule(nets=("10.0.0.0/24",))), tcp(source=A6, destination=B6), False),
    (allow(source=EntityRule(not_nets=("10.0.0.1/32",))), tcp(), False),
    (allow(source=EntityRule(not_nets=("10.0.0.9/32",))), tcp(), True),
    (allow(source=EntityRule(not_nets=("10.0.0.9/32",))), tcp(source=A6, destination=B6), False),
    (allow(source=EntityRule(nets=("10.0.0.0/24",), not_nets=("10.0.0.1/32",))), tcp(), False),
    (allow(source=EntityRule(selector="app == 'a'")), tcp(), True),
    (allow(source=EntityRule(selector="all()")), tcp(source=OUTSIDE), False),
    (allow(source=EntityRule(not_selector="app == 'a'")), tcp(), False),
    (allow(source=EntityRule(not_selector="app == 'a'")), tcp(source=OUTSIDE), True),
    (allow(source=EntityRule(selector="has(app)", not_selector="app == 'a'")), tcp(), False),
    (allow(source=EntityRule(selector="has(app)", not_selector="app == 'a'")), tcp(source=OUTSIDE), False),
    (allow(source=EntityRule(namespace_selector="colour == 'blue'")), tcp(), True),
    (allow(source=EntityRule(namespace_selector="colour == 'red'")), tcp(), False),
    (allow(source=EntityRule(namespace_selector="all()")), tcp(), True),
    (allow(source=EntityRule(namespace_selector="global()")), tcp(), False),
    (allow(source=EntityRule(namespace_selector="projectcalico.org/name == 'red'")), tcp(source=C), True),
    (allow(source=EntityRule(service_accounts=ServiceAccountMatch(names=("robot", "x")))), tcp(), True),
    (allow(source=EntityRule(service_accounts=ServiceAccountMatch(names=("x",)))), tcp(), False),
    (allow(source=EntityRule(service_accounts=ServiceAccountMatch(selector="role == 'robot'"))), tcp(), True),
    (
        allow(source=EntityRule(service_accounts=ServiceAccountMatch(names=("x",), selector="role == 'robot'"))),
        tcp(),
        False,
    ),
    (allow(source=EntityRule(selector="app == 'a'"), destination=EntityRule(nets=("10.9.0.0/16",))), tcp(), False),
]


@pytest.mark.parametrize(("rule", "packet", "expected"), FIELDS)
def test_rule_matches_by_its_fields(rule: Rule, packet: Packet, expected: bool) -> None:
    result = decide(packet, global_policy(ingress=(rule,)))
    assert result.allowed is expected
    trace = result.steps[-1].tiers[0].policies[0].rules[0]
    assert bool(trace.mismatches) is not expected


def test_namespaced_policy_selects_and_matches_in_its_namespace_only() -> None:
    own = namespaced_policy("np", "blue", ingress=(allow(source=EntityRule(selector="has(app)")),))
    assert decide(tcp(), own).allowed
    assert not decide(tcp(source=C), own).allowed
    assert decide(tcp(source=A, destination=C), own).allowed
    everywhere = EntityRule(selector="has(app)", namespace_selector="all()")
    assert decide(tcp(source=C), namespaced_policy("np", "blue", ingress=(allow(source=everywhere),))).allowed


def test_namespaced_negative_selector_still_means_the_own_namespace() -> None:
    policy = namespaced_policy("np", "blue", ingress=(allow(source=EntityRule(not_selector="app == 'zz'")),))
    assert decide(tcp(), policy).allowed
    assert not decide(tcp(source=C), policy).allowed
    assert not decide(tcp(source=OUTSIDE), policy).allowed


def test_namespaced_rule_without_selectors_matches_everybody() -> None:
    policy = namespaced_policy("np", "blue", ingress=(allow(source=EntityRule(nets=("198.51.100.0/24",))),))
    assert decide(tcp(source=OUTSIDE), policy).allowed


@pytest.mark.parametrize(
    ("spec", "selected"),
    [
        ({"selector": "all()", "namespace_selector": "colour == 'blue'"}, True),
        ({"selector": "all()", "namespace_selector": "colour == 'red'"}, False),
        ({"selector": "", "namespace_selector": "all()"}, True),
        ({"selector": "app == 'b'", "service_account_selector": "role == 'robot'"}, False),
    ],
)
def test_global_policy_selects_by_namespace_and_service_account(spec: dict[str, Any], selected: bool) -> None:
    assert decide(tcp(), global_policy(**spec)).allowed is not selected


def test_service_account_selector_of_a_policy_selects_by_the_accounts_labels() -> None:
    policy = global_policy(selector="", service_account_selector="role == 'robot'")
    assert not decide(tcp(source=B, destination=A), policy).allowed
    assert decide(tcp(), policy).allowed


def test_network_sets_are_matched_by_labels_and_namespace() -> None:
    sets = [
        GlobalNetworkSet(
            metadata=ObjectMeta(name="g", labels={"kind": "bad"}), spec=NetworkSetSpec(nets=("198.51.100.0/24",))
        ),
        NetworkSet(
            metadata=ObjectMeta(name="n", namespace="red", labels={"kind": "partner"}),
            spec=NetworkSetSpec(nets=("203.0.113.7",)),
        ),
    ]

    def from_set(source: str, **entity: Any) -> bool:
        policy = global_policy(ingress=(allow(source=EntityRule(**entity)),))
        return decide(tcp(source=source), policy, *sets).allowed

    assert from_set(OUTSIDE, selector="kind == 'bad'")
    assert not from_set("203.0.113.7", selector="kind == 'bad'")
    assert from_set(OUTSIDE, namespace_selector="global()")
    assert not from_set("203.0.113.7", namespace_selector="global()")
    assert from_set("203.0.113.7", selector="kind == 'partner'", namespace_selector="colour == 'red'")
    assert not from_set(OUTSIDE, not_selector="kind == 'bad'")


def test_service_as_destination_needs_address_protocol_and_port_and_as_source_the_address() -> None:
    web = KubernetesEndpointSlice(
        metadata=ObjectMeta(name="web-1", namespace="blue", labels={SERVICE_NAME_LABEL: "web"}),
        address_type="IPv4",
        endpoints=(SliceEndpoint(addresses=(B, "not-an-address")),),
        ports=(SlicePort(port=8080), SlicePort(protocol="UDP", port=None), SlicePort(protocol="?", port=9)),
    )
    service = ServiceMatch(name="web", namespace="blue")
    egress = global_policy(
        selector="app == 'a'", types=("Egress",), egress=(allow(destination=EntityRule(services=service)),)
    )
    assert decide(tcp(8080), egress, web).allowed
    assert not decide(tcp(81), egress, web).allowed
    assert not decide(udp(8080), egress, web).allowed
    assert not decide(tcp(8080), egress).allowed
    ingress = global_policy(selector="app == 'a'", ingress=(allow(source=EntityRule(services=service)),))
    assert decide(tcp(1, source=B, destination=A), ingress, web).allowed
    assert not decide(tcp(1, source=C, destination=A), ingress, web).allowed


def test_configuration_sets_failsafe_ports_and_the_action_towards_the_host() -> None:
    spec = FelixConfigurationSpec(
        default_endpoint_to_host_action="ACCEPT",
        failsafe_inbound_host_ports=(ProtoPort(protocol="tcp", port=8022, net="198.51.100.0/24"),),
        failsafe_outbound_host_ports=(),
    )
    configuration, h = FelixConfiguration(metadata=ObjectMeta(name="default"), spec=spec), host("h1", "n1")
    assert decide(tcp(8022, OUTSIDE, NODE_1), configuration, h).allowed
    assert not decide(tcp(8022, "203.0.113.1", NODE_1), configuration, h).allowed
    assert not decide(tcp(22, OUTSIDE, NODE_1), configuration, h).allowed
    assert not decide(udp(53, NODE_1, OUTSIDE), configuration, h).allowed
    assert decide(tcp(destination=NODE_1), configuration).allowed


def test_workload_may_not_lend_itself_labels_of_a_namespace() -> None:
    labels = {"pcns.colour": "blue", "projectcalico.org/namespace": "blue"}
    liar, packet = workload("liar", "red", "10.0.0.66", labels=labels), tcp(source="10.0.0.66")
    only_blue = global_policy(ingress=(allow(source=EntityRule(namespace_selector="colour == 'blue'")),))
    assert not decide(packet, liar, only_blue).allowed
    own_namespace = namespaced_policy("np", "blue", ingress=(allow(source=EntityRule(selector="all()")),))
    assert not decide(packet, liar, own_namespace).allowed


def test_own_label_wins_over_inherited_and_earlier_profile_over_later() -> None:
    wearing = workload("b", "blue", B, labels={"x": "own"}, profiles=("p1", "p2"))
    profiles = [profile("p1", labels={"x": "1", "y": "1"}), profile("p2", labels={"x": "2", "y": "2", "z": "2"})]
    policy = global_policy(selector="x == 'own' && y == '1' && z == '2'")
    assert not decide(tcp(), wearing, *profiles, policy).allowed


def test_workload_without_addresses_does_not_exist() -> None:
    assert Cluster.from_resources([workload("b", "blue", ())]).workloads == []


def test_endpoint_that_cannot_be_read_counts_as_absent_with_its_reason() -> None:
    cluster = Cluster.from_resources([*BASE, workload("x", "blue", "10.0.0.300")])
    assert [name for name, _ in cluster.rejected] == ["WorkloadEndpoint n1-k8s-x-eth0"]


# ── nodes and host endpoints ──────────────────────────────────────────────────────────────────────────────────────────


def host(name: str, node: str, interface: str = "eth0", **spec: Any) -> HostEndpoint:
    return HostEndpoint(
        metadata=ObjectMeta(name=name, labels={"host": node}),
        spec=HostEndpointSpec(node=node, interface_name=interface, **spec),
    )


def host_policy(name: str = "hp", node: str = "n1", **spec: Any) -> GlobalNetworkPolicy:
    return global_policy(name, selector=f"host == '{node}'", **spec)


def test_workload_to_its_own_node_is_dropped_unless_configured() -> None:
    assert not decide(tcp(destination=NODE_1)).allowed
    accepting = HostSettings(endpoint_to_host_action="Accept")
    assert decide(tcp(destination=NODE_1), settings=accepting).allowed
    egress = global_policy(selector="app == 'a'", types=("Egress",))
    assert not decide(tcp(destination=NODE_1), egress, settings=accepting).allowed
    assert decide(tcp(destination=NODE_2)).allowed


def test_node_always_reaches_its_own_workloads() -> None:
    assert decide(tcp(source=NODE_1), global_policy(), host("h1", "n1")).allowed
    assert not decide(tcp(source=NODE_2), global_policy()).allowed


def test_workload_tunnel_packets_are_denied_unless_configured() -> None:
    assert not decide(udp(4789)).allowed
    assert not decide(Packet(A, B, 4)).allowed
    tolerant = HostSettings(allow_vxlan_from_workloads=True, allow_ipip_from_workloads=True)
    assert decide(udp(4789), settings=tolerant).allowed
    assert decide(Packet(A, B, 4), settings=tolerant).allowed
    assert decide(udp(4789, source=OUTSIDE)).allowed


def test_host_endpoint_without_policy_and_profile_leaves_only_failsafe_ports() -> None:
    h = host("h1", "n1")
    assert decide(tcp(22, OUTSIDE, NODE_1), h).allowed
    assert not decide(tcp(80, OUTSIDE, NODE_1), h).allowed
    assert not decide(tcp(80, NODE_1, OUTSIDE), h).allowed
    assert decide(udp(53, NODE_1, OUTSIDE), h).allowed
    assert decide(tcp(80, OUTSIDE, NODE_1)).allowed
    assert decide(tcp(80, OUTSIDE, NODE_1), host("h1", "n1", profiles=("kns.blue",))).allowed


def test_host_policy_decides_traffic_of_the_node_itself() -> None:
    policy = host_policy(types=("Ingress", "Egress"), ingress=(allow(protocol="TCP"),), egress=(allow(protocol="UDP"),))
    h = host("h1", "n1")
    assert decide(tcp(80, OUTSIDE, NODE_1), h, policy).allowed
    assert not decide(udp(80, OUTSIDE, NODE_1), h, policy).allowed
    assert not decide(tcp(80, NODE_1, OUTSIDE), h, policy).allowed
    assert decide(udp(80, NODE_1, NODE_2), h, policy).allowed


def test_forwarded_traffic_meets_only_policies_that_apply_on_forward() -> None:
    h = host("h2", "n2")
    normal = host_policy(node="n2", ingress=())
    assert decide(tcp(destination=C), h, normal).allowed
    forward = host_policy(node="n2", apply_on_forward=True, ingress=(allow(protocol="UDP"),))
    assert not decide(tcp(destination=C), h, forward).allowed
    assert decide(udp(destination=C), h, forward).allowed
    assert not decide(tcp(22, destination=C), h, forward).allowed  # failsafe ports are the node's own
    leaving = host_policy(node="n2", apply_on_forward=True, types=("Egress",))
    assert not decide(tcp(source=C), h, leaving).allowed
    assert decide(tcp(source=A), h, leaving, host("h1", "n1")).allowed


def test_untracked_policy_comes_first_and_never_denies_by_default() -> None:
    h = host("h1", "n1", profiles=("kns.blue",))
    untracked = host_policy(do_not_track=True, apply_on_forward=True, ingress=(deny(protocol="UDP"),))
    assert not decide(udp(80, OUTSIDE, NODE_1), h, untracked).allowed
    assert decide(tcp(80, OUTSIDE, NODE_1), h, untracked).allowed
    assert not decide(udp(80, OUTSIDE, B), h, untracked).allowed
    allowing = host_policy(do_not_track=True, apply_on_forward=True, ingress=(allow(protocol="UDP"),))
    closing = host_policy("z", ingress=())
    assert decide(udp(80, OUTSIDE, NODE_1), h, allowing, closing).allowed
    assert not decide(tcp(80, OUTSIDE, NODE_1), h, allowing, closing).allowed
    everywhere = host("h1", "n1", interface="*", profiles=("kns.blue",))
    assert decide(udp(80, OUTSIDE, NODE_1), everywhere, untracked).allowed


def test_untracked_hook_lets_replies_from_failsafe_ports_in() -> None:
    h = host("h1", "n1")
    untracked = host_policy(do_not_track=True, apply_on_forward=True, ingress=(deny(),))
    assert decide(tcp(40000, OUTSIDE, NODE_1, source_port=179), h, untracked).allowed
    assert not decide(tcp(40000, OUTSIDE, NODE_1), h, untracked).allowed


def test_pre_dnat_policy_filters_what_enters_the_node_or_its_workloads() -> None:
    h = host("h1", "n1", profiles=("kns.blue",))
    pre_dnat = host_policy(pre_dnat=True, apply_on_forward=True, ingress=(deny(protocol="UDP"),))
    assert not decide(udp(80, OUTSIDE, B), h, pre_dnat).allowed
    assert decide(tcp(80, OUTSIDE, B), h, pre_dnat).allowed
    assert decide(udp(80, B, OUTSIDE), h, pre_dnat).allowed
    assert decide(udp(80, A, B), h, pre_dnat).allowed


def test_host_policy_kinds_do_not_concern_workloads() -> None:
    for fields in ({"do_not_track": True}, {"pre_dnat": True}):
        assert decide(tcp(), global_policy(apply_on_forward=True, **fields)).allowed
    assert not decide(tcp(), global_policy(apply_on_forward=True)).allowed


def test_interface_chooses_the_host_endpoint() -> None:
    closed, opened = host("a-closed", "n1", "eth1"), host("b-open", "n1", "eth0", profiles=("kns.blue",))
    packet = tcp(80, OUTSIDE, NODE_1)
    assert decide(packet, closed, opened, uplinks={"n1": "eth0"}).allowed
    assert not decide(packet, closed, opened, uplinks={"n1": "eth1"}).allowed
    assert decide(packet, closed, uplinks={"n1": "eth0"}).allowed
    assert not decide(packet, host("star", "n1", "*"), uplinks={"n1": "eth0"}).allowed
    assert not decide(packet, host("by-address", "n1", "", expected_ips=(NODE_1,)), uplinks={"n1": "eth0"}).allowed
    assert decide(packet, host("elsewhere", "n1", "", expected_ips=(NODE_2,)), uplinks={"n1": "eth0"}).allowed


def test_selector_in_a_rule_sees_host_endpoints_by_their_expected_addresses() -> None:
    address: Address | str = "172.31.0.5"
    h = host("h3", "n3", expected_ips=(address,))
    assert decide(
        tcp(source=address),
        h,
        global_policy(ingress=(allow(source=EntityRule(selector="host == 'n3'")),)),
        host_policy("out", "n3", types=("Egress",), egress=(allow(),)),
    ).allowed


def test_packet_of_two_versions_is_refused() -> None:
    with pytest.raises(ValueError, match="one IP version"):
        Packet(A, B6, "TCP")
