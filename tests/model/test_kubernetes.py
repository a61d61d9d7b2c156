from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calico_kernel.errors import ValidationError
from calico_kernel.model import documents, kubernetes, pods, validate
from calico_kernel.model.defaults import with_defaults
from calico_kernel.model.endpoints import WorkloadEndpoint
from calico_kernel.model.policy import EntityRule, NetworkPolicy, Profile, Rule, StagedKubernetesNetworkPolicy
from calico_kernel.model.services import KubernetesEndpointSlice, KubernetesService
from calico_kernel.selector import parse

REAL = json.loads((Path(__file__).parent / "data" / "kubernetes.json").read_text())
"""Objects as a real API server returned them."""
K8S = "projectcalico.org/orchestrator == 'k8s'"


def policy(spec: dict[str, Any], **meta: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "web", "namespace": "shop", **meta},
        "spec": {"podSelector": {}, **spec},
    }


def converted(spec: dict[str, Any]) -> NetworkPolicy:
    made = kubernetes.convert(policy(spec))
    assert list(made.problems) == []
    assert isinstance(made.resource, NetworkPolicy)
    assert validate.problems(with_defaults(made.resource), selector_check=parse) == []
    return made.resource


def ingress(**rule: Any) -> tuple[Rule, ...]:
    return converted({"ingress": [rule]}).spec.ingress


def test_policy_is_named_and_placed_as_kube_controllers_do() -> None:
    made = kubernetes.convert(policy({}, labels={"a": "b"}, annotations={"c": "d"})).resource
    assert isinstance(made, NetworkPolicy)
    assert (made.metadata.name, made.metadata.namespace) == ("knp.default.web", "shop")
    assert made.metadata.labels == {} and made.metadata.annotations == {}
    assert (made.spec.tier, made.spec.order, made.spec.types) == ("default", 1000, ("Ingress",))


def test_types_not_given_follow_the_api_server() -> None:
    assert converted({"egress": [{}]}).spec.types == ("Ingress", "Egress")
    assert converted({"egress": []}).spec.types == ("Ingress",)
    assert converted({"policyTypes": ["Egress"]}).spec.types == ("Egress",)


def test_pod_selector_joins_sorted_labels_and_expressions() -> None:
    selector = {
        "matchLabels": {"b": "2", "a": "1"},
        "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["x", "y"]},
            {"key": "d", "operator": "NotIn", "values": ["z"]},
            {"key": "e", "operator": "Exists"},
            {"key": "f", "operator": "DoesNotExist"},
        ],
    }
    assert converted({"podSelector": selector}).spec.selector == (
        f"{K8S} && a == '1' && b == '2' && c in {{ 'x', 'y' }} && d not in {{ 'z' }} && has(e) && ! has(f)"
    )


def test_rule_without_peers_or_ports_allows_everything() -> None:
    assert ingress() == (Rule(action="Allow"),)


def test_peers_become_selectors_of_the_right_scope() -> None:
    pods_only, spaces_only, both, everywhere = ingress(
        **{
            "from": [
                {"podSelector": {"matchLabels": {"a": "1"}}},
                {"namespaceSelector": {"matchLabels": {"n": "1"}}},
                {"podSelector": {"matchLabels": {"a": "1"}}, "namespaceSelector": {"matchLabels": {"n": "1"}}},
                {"namespaceSelector": {}},
            ]
        }
    )
    assert pods_only.source == EntityRule(selector=f"{K8S} && a == '1'")
    assert spaces_only.source == EntityRule(selector=K8S, namespace_selector="n == '1'")
    assert both.source == EntityRule(selector=f"{K8S} && a == '1'", namespace_selector="n == '1'")
    assert everywhere.source == EntityRule(selector=K8S, namespace_selector="all()")


def test_ip_block_becomes_nets_and_not_nets() -> None:
    (rule,) = ingress(**{"from": [{"ipBlock": {"cidr": "10.0.0.7/8", "except": ["10.1.0.0/16"]}}]})
    assert rule.source == EntityRule(nets=("10.0.0.0/8",), not_nets=("10.1.0.0/16",))


def test_ports_are_grouped_by_protocol_and_merged_into_ranges() -> None:
    ports = [
        {"port": 81},
        {"port": 80, "protocol": "TCP"},
        {"port": "http"},
        {"port": 90, "endPort": 95},
        {"port": 53, "protocol": "UDP"},
        {"port": 82},
    ]
    tcp, udp = ingress(ports=ports)
    assert (tcp.protocol, tcp.destination.ports) == ("TCP", ("http", "80:82", "90:95"))
    assert (udp.protocol, udp.destination.ports) == ("UDP", (53,))


def test_port_entry_without_a_port_opens_its_whole_protocol() -> None:
    (rule,) = ingress(ports=[{"port": 80}, {"protocol": "TCP"}, {"port": 81}])
    assert (rule.protocol, rule.destination.ports) == ("TCP", ())


def test_egress_puts_peer_and_ports_at_the_destination() -> None:
    rules = converted(
        {"egress": [{"to": [{"podSelector": {}}], "ports": [{"port": 5, "protocol": "SCTP"}]}]}
    ).spec.egress
    assert rules == (Rule(action="Allow", protocol="SCTP", destination=EntityRule(selector=K8S, ports=(5,))),)


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ({"ports": [{"port": 70000}]}, "spec.ingress[0].ports[0]"),
        ({"ports": [{"port": 9, "endPort": 3}]}, "spec.ingress[0].ports[0]"),
        ({"ports": [{"port": "a", "endPort": 3}]}, "spec.ingress[0].ports[0]"),
        ({"ports": [{"protocol": "FOO", "port": 1}]}, "spec.ingress[0].ports[0]"),
        ({"from": [{"ipBlock": {"cidr": "x"}}]}, "spec.ingress[0].from[0]"),
        ({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10"]}}]}, "spec.ingress[0].from[0]"),
        ({"from": [{"podSelector": {"matchLabels": {"a": "x' || all()"}}}]}, "spec.ingress[0].from[0]"),
        ({"from": [{"podSelector": {"matchLabels": {"a) || has(b": "x"}}}]}, "spec.ingress[0].from[0]"),
        (
            {"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}]},
            "spec.ingress[0].from[0]",
        ),
    ],
)
def test_rule_that_cannot_be_converted_is_left_out_and_reported(rule: dict[str, Any], path: str) -> None:
    made = kubernetes.convert(policy({"ingress": [rule, {"ports": [{"port": 80}]}]}))
    assert isinstance(made.resource, NetworkPolicy)
    assert [p for p, _ in made.problems] == [path]
    assert len(made.resource.spec.ingress) == 1 and made.resource.spec.types == ("Ingress",)


@pytest.mark.parametrize(
    "spec", [{"ingres": []}, {"ingress": [{"form": []}]}, {"podSelector": {"matchLabels": {"a": "'"}}}]
)
def test_policy_that_might_mean_less_than_it_says_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        kubernetes.convert(policy(spec))


def test_namespace_becomes_an_allowing_profile_with_its_labels() -> None:
    document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "blue"}}}
    profile = kubernetes.convert(document).resource
    assert isinstance(profile, Profile)
    assert profile.metadata.name == "kns.shop"
    assert profile.spec.ingress == profile.spec.egress == (Rule(action="Allow"),)
    assert profile.spec.labels_to_apply == {
        "pcns.team": "blue",
        "pcns.kubernetes.io/metadata.name": "shop",
        "pcns.projectcalico.org/name": "shop",
    }


def test_service_account_becomes_a_profile_of_labels_only() -> None:
    meta = {"name": "web", "namespace": "shop", "labels": {"stage": "prod"}}
    document = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta, "secrets": [{"name": "ignored"}]}
    profile = kubernetes.convert(document).resource
    assert isinstance(profile, Profile)
    assert (profile.metadata.name, profile.spec.ingress) == ("ksa.shop.web", ())
    assert profile.spec.labels_to_apply == {"pcsa.stage": "prod", "pcsa.projectcalico.org/name": "web"}


def pod(spec: dict[str, Any] | None = None, status: dict[str, Any] | None = None, **meta: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "nginx", "namespace": "default", "labels": {"app": "web"}, **meta},
        "spec": {"nodeName": "n-1", "serviceAccountName": "sa", "containers": [{"image": "x"}], **(spec or {})},
        "status": {"podIPs": [{"ip": "10.65.0.2"}, {"ip": "fd00::2"}], **(status or {})},
    }


def endpoint(document: dict[str, Any]) -> WorkloadEndpoint:
    made = kubernetes.convert(document).resource
    assert isinstance(made, WorkloadEndpoint)
    assert validate.problems(made) == []
    return made


def test_pod_becomes_the_endpoint_that_calico_shows() -> None:
    made = endpoint(pod())
    assert made.metadata.name == "n--1-k8s-nginx-eth0"
    assert made.metadata.labels == {
        "app": "web",
        "projectcalico.org/namespace": "default",
        "projectcalico.org/orchestrator": "k8s",
        "projectcalico.org/serviceaccount": "sa",
    }
    assert made.spec.interface_name == "calic440f455693"
    assert made.spec.profiles == ("kns.default", "ksa.default.sa")
    assert made.spec.ip_networks == ("10.65.0.2/32", "fd00::2/128")


def test_container_ports_with_a_name_or_host_port_are_kept() -> None:
    containers = [
        {"ports": [{"name": "http", "containerPort": 80}, {"containerPort": 81}, {"containerPort": 82, "hostPort": 9}]},
        {"ports": [{"name": "odd", "containerPort": 83, "protocol": "ICMP"}]},
    ]
    ports = endpoint(pod({"containers": containers})).spec.ports
    assert [(p.name, p.protocol, p.port, p.host_port) for p in ports] == [("http", "TCP", 80, 0), ("", "TCP", 82, 9)]


def test_addresses_come_from_annotations_until_the_status_has_them() -> None:
    annotations = {pods.POD_IP: "10.65.0.9/32", pods.POD_IPS: "10.65.0.9/32,fd00::9/128"}
    made = endpoint(pod(status={"podIPs": []}, annotations=annotations))
    assert made.spec.ip_networks == ("10.65.0.9/32", "fd00::9/128")


def test_finished_pod_keeps_no_address() -> None:
    assert endpoint(pod(status={"phase": "Succeeded"})).spec.ip_networks == ()
    gone = pod(deletionTimestamp="2026-01-01T00:00:00Z", annotations={pods.POD_IP: ""})
    assert endpoint(gone).spec.ip_networks == ()
    assert endpoint(pod(annotations={pods.POD_IP: ""})).spec.ip_networks != ()


@pytest.mark.parametrize("spec", [{"hostNetwork": True}, {"nodeName": ""}])
def test_pod_without_a_network_of_its_own_has_no_endpoint(spec: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="no endpoint"):
        kubernetes.convert(pod(spec))


def test_floating_and_spoofable_addresses_come_from_annotations() -> None:
    annotations = {pods.FLOATING_IPS: '["192.0.2.1", "2001:db8::1"]', pods.ALLOWED_SOURCES: '["10.9.9.9/24"]'}
    spec = endpoint(pod(annotations=annotations)).spec
    assert [(n.internal_ip, n.external_ip) for n in spec.ip_nats] == [
        ("10.65.0.2", "192.0.2.1"),
        ("fd00::2", "2001:db8::1"),
    ]
    assert spec.allow_spoofed_source_prefixes == ("10.9.9.0/24",)


def test_bandwidth_annotations_are_limited_completed_and_reported() -> None:
    annotations = {
        "kubernetes.io/ingress-bandwidth": "5M",
        "qos.projectcalico.org/ingressBandwidth": "10M",
        "qos.projectcalico.org/ingressPeakrate": "1M",
        "qos.projectcalico.org/egressBurst": "1Mi",
        "qos.projectcalico.org/egressPacketRate": "20k",
        "qos.projectcalico.org/dscp": "EF",
    }
    made = kubernetes.convert(pod(annotations=annotations))
    assert isinstance(made.resource, WorkloadEndpoint)
    qos = made.resource.spec.qos_controls
    assert qos is not None
    assert (qos.ingress_bandwidth, qos.ingress_burst, qos.ingress_peakrate) == (10_000_000, 4 * 1024**3, 0)
    assert (qos.egress_burst, qos.egress_packet_rate, qos.egress_packet_burst, qos.dscp) == (0, 10_000, 5, "EF")
    assert len(made.problems) == 3
    assert endpoint(pod()).spec.qos_controls is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1k", 1000),
        ("1.5Gi", 3 * 1024**3 // 2),
        ("2e3", 2000),
        ("1500m", 2),
        ("7", 7),
        (".5k", 500),
        ("25e-1", 3),
        ("-1", -1),
    ],
)
def test_quantity_is_a_whole_number_rounded_up(text: str, value: int) -> None:
    assert pods.quantity(text) == value


def test_service_and_its_slices_are_mirrored() -> None:
    service = kubernetes.convert(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "db", "namespace": "shop"},
            "spec": {
                "clusterIP": "10.96.0.1",
                "ports": [{"port": 5432, "targetPort": "pg"}],
                "sessionAffinity": "None",
            },
        }
    ).resource
    assert isinstance(service, KubernetesService) and service.spec.cluster_ip == "10.96.0.1"
    piece = kubernetes.convert(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "db-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.65.0.3"], "conditions": {"ready": True}}],
            "ports": [{"port": 5432, "protocol": "TCP", "name": None}],
        }
    ).resource
    assert isinstance(piece, KubernetesEndpointSlice)
    assert (piece.service, piece.endpoints[0].addresses, piece.ports[0].port) == ("db", ("10.65.0.3",), 5432)


def test_staged_kubernetes_policy_stands_for_a_staged_policy() -> None:
    document = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "StagedKubernetesNetworkPolicy",
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": {"podSelector": {"matchLabels": {"a": "b"}}, "ingress": [{"ports": [{"port": 80}]}]},
    }
    staged = documents.to_resource(document)
    assert isinstance(staged, StagedKubernetesNetworkPolicy)
    made = kubernetes.staged_policy(with_defaults(staged))
    assert (made.spec.staged_action, made.spec.selector) == ("Set", f"{K8S} && a == 'b'")
    assert made.spec.ingress[0].destination.ports == (80,)


def test_other_kubernetes_kinds_are_not_supported() -> None:
    document = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}}
    assert not kubernetes.supported(document)
    with pytest.raises(ValidationError, match="cannot convert Deployment"):
        kubernetes.convert(document)


def test_real_pod_becomes_the_endpoint_that_calico_showed() -> None:
    made = kubernetes.convert(REAL["Pod"]).resource
    shown = {
        "kind": "WorkloadEndpoint",
        "apiVersion": "projectcalico.org/v3",
        "metadata": {
            "name": "rack1--host1-k8s-web--1-eth0",
            "namespace": "shop",
            "uid": "0d6c01bd-24ab-42e9-9fe2-6f59816afcd0",
            "creationTimestamp": "2026-11-21T08:41:14Z",
            "labels": {
                "app": "web",
                "projectcalico.org/namespace": "shop",
                "projectcalico.org/orchestrator": "k8s",
                "projectcalico.org/serviceaccount": "web",
            },
        },
        "spec": {
            "orchestrator": "k8s",
            "node": "rack1-host1",
            "containerID": "f00dfeedcafe0001",
            "pod": "web-1",
            "endpoint": "eth0",
            "serviceAccountName": "web",
            "ipNetworks": ["10.65.37.192/32", "fd65::9769:4590:9c40:2622:25c0/128"],
            "profiles": ["kns.shop", "ksa.shop.web"],
            "interfaceName": "cali751425ce827",
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080, "hostPort": 0, "hostIP": ""}],
        },
    }
    assert documents.to_builtins(made) == shown


def test_real_namespace_and_service_account_become_the_profiles_that_calico_showed() -> None:
    namespace, account = (kubernetes.convert(REAL[kind]).resource for kind in ("Namespace", "ServiceAccount"))
    assert isinstance(namespace, Profile) and isinstance(account, Profile)
    assert namespace.spec.labels_to_apply == {
        "pcns.kubernetes.io/metadata.name": "shop",
        "pcns.projectcalico.org/name": "shop",
        "pcns.team": "blue",
    }
    assert account.spec.labels_to_apply == {"pcsa.projectcalico.org/name": "web", "pcsa.stage": "prod-eu"}


def test_real_network_policy_is_converted_whole() -> None:
    made = kubernetes.convert(REAL["NetworkPolicy"])
    assert list(made.problems) == [] and isinstance(made.resource, NetworkPolicy)
    spec = made.resource.spec
    assert spec.selector == f"{K8S} && app == 'api' && rev not in {{ 'old', 'older' }}"
    # one rule for each protocol (by name) and peer
    assert [(rule.protocol, rule.destination.ports) for rule in spec.ingress] == [
        *[("SCTP", (9,))] * 3,
        *[("TCP", ("http", "8000:8100"))] * 3,
    ]
    assert [rule.source.selector or rule.source.nets for rule in spec.ingress[:3]] == [
        f"{K8S} && app == 'web'",
        f"{K8S} && has(role)",
        ("203.0.113.0/24",),
    ]
    assert spec.egress[0].destination == EntityRule(selector=K8S, namespace_selector="all()", ports=(53,))


def test_pod_without_labels_has_those_that_calico_adds() -> None:
    """Alone, and with a service account, whose profiles are made from the same two names."""
    for spec in ({"nodeName": "n1"}, {"nodeName": "n1", "serviceAccountName": "web"}):
        document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "shop"}, "spec": spec}
        labels = kubernetes.convert(document).resource.metadata.labels
        assert labels["projectcalico.org/namespace"] == "shop"
        assert labels.get("projectcalico.org/serviceaccount", "") == spec.get("serviceAccountName", "")
