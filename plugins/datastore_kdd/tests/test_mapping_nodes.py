"""Nodes, profiles, policies and services of Kubernetes as records."""

from __future__ import annotations

import json
from typing import Any

import pytest

from calico_datastore_kdd.collection import Mapping, Reader
from calico_datastore_kdd.mapping import open_mapping
from calico_kernel.errors import NotPermitted
from calico_kernel.model.endpoints import LiveMigration, Node, NodeBGPSpec, NodeInterface, NodeSpec
from calico_kernel.model.ipam import AllocationBlock
from calico_kernel.model.keys import BlockKey, BlockQuery, HandleQuery, ResourceKey, ResourceQuery
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.policy import GlobalNetworkPolicy, NetworkPolicy, Profile
from calico_kernel.model.records import Malformed
from calico_kernel.model.services import KubernetesEndpointSlice, KubernetesService

KEY = ResourceKey("Node", "", "n1")


def reader(kind: str, plural: str, mapping: Mapping | None = None) -> Reader:
    """Of the collection under a path that ends so; the last one, as ours come before those of Kubernetes."""
    selections = (mapping or open_mapping()).collections(ResourceQuery(kind))
    return [one.collection for one in selections if one.collection.plural == plural][-1].reader


def value_of(kind: str, plural: str, document: Any, mapping: Mapping | None = None) -> Any:
    record = reader(kind, plural, mapping).record(json.dumps(document).encode(), whole=True)
    return None if record is None else record.value


def node(annotations: Any = None, labels: Any = None, **spec: Any) -> Any:
    meta = {"name": "n1", "uid": "u", "resourceVersion": "5", "annotations": annotations or {}, "labels": labels or {}}
    addresses = [{"type": "InternalIP", "address": "172.30.0.1"}, {"type": "Hostname", "address": "n1"}]
    return {"metadata": meta, "spec": spec, "status": {"addresses": addresses}}


ANNOTATIONS = {
    "projectcalico.org/IPv4Address": "172.30.0.1/24",
    "projectcalico.org/ASNumber": "64600",
    "projectcalico.org/IPv4IPIPTunnelAddr": "10.0.0.1",
    "projectcalico.org/IPv6VXLANTunnelAddr": "fd00::5",
    "projectcalico.org/VXLANTunnelMACAddrV6": "66:00:00:00:00:01",
    "projectcalico.org/IPv6WireguardInterfaceAddr": "fd00::6",
    "projectcalico.org/WireguardPublicKeyV6": "key",
    "projectcalico.org/Interfaces": '[{"name":"eth0","addresses":["172.30.0.1"]}]',
    "projectcalico.org/labels": '{"rack":"r1"}',
    "projectcalico.org/annotations": '{"why":"x"}',
}


# ── Nodes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_node_reads_from_its_annotations_and_writes_them_back() -> None:
    value: Node = value_of(
        "Node", "nodes", node(ANNOTATIONS, {"zone": "a", "rack": "theirs"}, podCIDRs=["10.0.0.0/24"])
    )
    assert value.metadata.labels == {"rack": "theirs", "zone": "a"}
    assert value.metadata.annotations == {
        "why": "x",
        "projectcalico.org/kube-labels": '{"rack":"theirs","zone":"a"}',
    }
    assert value.spec.bgp == NodeBGPSpec(
        as_number=64600, ipv4_address="172.30.0.1/24", ipv4_ipip_tunnel_addr="10.0.0.1"
    )
    assert value.spec.interfaces == (NodeInterface(name="eth0", addresses=("172.30.0.1",)),)
    assert [(one.type, one.address) for one in value.spec.addresses] == [
        ("CalicoNodeIP", "172.30.0.1/24"),
        ("InternalIP", "172.30.0.1"),
    ]
    assert value.status.pod_cidrs == ("10.0.0.0/24",) and value.spec.orch_refs[0].node_name == "n1"
    request = open_mapping().updating(KEY, value, revision="5")
    written = json.loads(request.body)["metadata"]
    assert written["resourceVersion"] == "5"
    kept = {**ANNOTATIONS}
    del kept["projectcalico.org/labels"]  # Kubernetes has this label now
    assert {name: text for name, text in written["annotations"].items() if text is not None} == kept


def test_a_label_of_kubernetes_never_becomes_one_of_ours() -> None:
    value: Node = value_of("Node", "nodes", node({}, {"zone": "a"}))
    changed = Node(
        metadata=ObjectMeta(
            name="n1",
            labels={**value.metadata.labels, "zone": "b", "rack": "r2"},
            annotations=value.metadata.annotations,
        ),
        spec=NodeSpec(bgp=NodeBGPSpec(ipv4_address="172.30.0.1/24")),
    )
    written = json.loads(open_mapping().creation(KEY, changed).body)["metadata"]["annotations"]
    assert json.loads(written["projectcalico.org/labels"]) == {"rack": "r2"}
    assert written["projectcalico.org/annotations"] is None and "projectcalico.org/kube-labels" not in written


def test_an_annotation_that_makes_no_sense_is_ignored() -> None:
    wrong = {
        "projectcalico.org/IPv4Address": "fd00::1/64",
        "projectcalico.org/ASNumber": "many",
        "projectcalico.org/VXLANTunnelMACAddr": "x",
        "projectcalico.org/labels": "{",
        "projectcalico.org/annotations": '{"a":1}',
        "projectcalico.org/Interfaces": '[{"name":"e","addresses":["x","10.0.0.1"]}]',
    }
    value: Node = value_of("Node", "nodes", node(wrong))
    assert value.spec.bgp is None and value.spec.vxlan_tunnel_mac_addr == "" and value.metadata.labels == {}
    assert value.spec.interfaces == (NodeInterface(name="e", addresses=("10.0.0.1",)),)
    assert value.metadata.annotations == {"projectcalico.org/kube-labels": "null"}


def test_deleting_a_node_takes_our_annotations_from_it() -> None:
    request = open_mapping().deletion(KEY, revision="5")
    annotations = json.loads(request.body)["metadata"]["annotations"]
    assert request.method == "PATCH" and set(annotations.values()) == {None} and set(ANNOTATIONS) <= set(annotations)


def test_with_pod_cidrs_a_node_has_its_tunnel_address_and_its_blocks_from_them() -> None:
    mapping = open_mapping(use_pod_cidr=True)
    annotations = {"projectcalico.org/IPv4IPIPTunnelAddr": "9.9.9.9", "projectcalico.org/WireguardPublicKey": "k"}
    document = node(annotations, podCIDR="10.1.0.0/24", podCIDRs=["10.1.0.0/24", "fd00:1::/64"])
    value: Node = value_of("Node", "nodes", document, mapping)
    assert value.spec.bgp is not None and value.spec.bgp.ipv4_ipip_tunnel_addr == "10.1.0.1"
    assert value.spec.wireguard is not None and value.spec.wireguard.interface_ipv4_address == "10.1.0.1"
    answer = json.dumps({"items": [document, node()]}).encode()
    blocks = [
        record.value
        for selection in mapping.collections(BlockQuery())
        for record in selection.collection.reader.page(answer).records
    ]
    assert blocks == [
        AllocationBlock(cidr="10.1.0.0/24", affinity="host:n1"),
        AllocationBlock(cidr="fd00:1::/64", affinity="host:n1"),
    ]
    assert len(mapping.collections(BlockQuery(4))) == 1 and not mapping.collections(HandleQuery())
    with pytest.raises(NotPermitted, match="podCIDRs"):
        mapping.creation(BlockKey("10.1.0.0/24"), AllocationBlock(cidr="10.1.0.0/24"))


# ── profiles ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_namespace_carries_what_it_asks_of_the_cni_plugin() -> None:
    asked = {"cni.projectcalico.org/ipv4pools": '["blue"]'}
    meta = {"name": "shop", "resourceVersion": "5", "labels": {"a": "b"}, "annotations": {**asked, "other": "x"}}
    value: Profile = value_of("Profile", "namespaces", {"metadata": meta})
    assert value.metadata.annotations == asked and value.metadata.name == "kns.shop"
    assert value.spec.labels_to_apply["pcns.a"] == "b"


def test_profiles_are_found_where_their_names_say_and_cannot_be_written() -> None:
    mapping = open_mapping()
    for name, url, source in (
        ("kns.shop", "/api/v1/namespaces/shop", "Namespace shop"),
        ("ksa.shop.a.b", "/api/v1/namespaces/shop/serviceaccounts/a.b", "ServiceAccount shop/a.b"),
    ):
        key = ResourceKey("Profile", "", name)
        place = mapping.locate(key)
        assert place is not None and place.url == url and place.derived and mapping.derived_from(key) == source
        with pytest.raises(NotPermitted, match=source):
            mapping.creation(key, Profile())
        with pytest.raises(NotPermitted, match=source):
            mapping.deletion(key)
    assert mapping.locate(ResourceKey("Profile", "", "kns.")) is None


@pytest.mark.parametrize(
    ("prefix", "urls"),
    [
        ("", ["/api/v1/namespaces", "/api/v1/serviceaccounts"]),
        ("k", ["/api/v1/namespaces", "/api/v1/serviceaccounts"]),
        ("kns.sh", ["/api/v1/namespaces"]),
        ("ksa.shop.", ["/api/v1/namespaces/shop/serviceaccounts"]),
        ("ksa.shop", ["/api/v1/serviceaccounts"]),
        ("mine", []),
    ],
)
def test_a_prefix_says_which_profiles_are_asked_for(prefix: str, urls: list[str]) -> None:
    found = open_mapping().collections(ResourceQuery("Profile", name_prefix=prefix))
    assert [selection.url for selection in found] == urls


# ── policies ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def policy(spec: Any, name: str = "web") -> Any:
    return {"metadata": {"name": name, "namespace": "shop", "resourceVersion": "5"}, "spec": spec}


def test_a_policy_with_a_rule_unknown_here_keeps_the_others_and_says_so() -> None:
    spec = {
        "podSelector": {"matchLabels": {"app": "web"}},
        "ingress": [
            {"ports": [{"port": 80}]},
            {"ports": [{"port": 81}], "newer": 1},
            {"from": [{"ipBlock": {"cidr": "x"}}]},
        ],
        "policyTypes": ["Ingress"],
    }
    value = value_of("NetworkPolicy", "networkpolicies", policy(spec))
    assert isinstance(value, Malformed) and isinstance(value.instead, NetworkPolicy)
    assert [rule.destination.ports for rule in value.instead.spec.ingress] == [(80,)]
    assert "spec.ingress[1]" in value.reason and "spec.ingress[2]" in value.reason


def test_a_policy_with_a_field_unknown_here_isolates_whom_it_is_for() -> None:
    spec = {"podSelector": {"matchLabels": {"app": "web"}}, "egress": [{}], "policyTypes": ["Egress"], "newer": {}}
    value = value_of("NetworkPolicy", "networkpolicies", policy(spec))
    assert isinstance(value, Malformed) and isinstance(value.instead, NetworkPolicy)
    assert value.instead.spec.types == ("Egress",) and value.instead.spec.egress == ()
    assert value.instead.spec.selector.endswith("app == 'web'")
    untold = value_of("NetworkPolicy", "networkpolicies", policy({"podSelector": {"newer": 1}}))
    assert isinstance(untold, Malformed) and untold.instead is None


def test_a_cluster_policy_is_a_global_one_in_its_tier() -> None:
    spec = {
        "tier": "Admin",
        "priority": 7,
        "subject": {"namespaces": {}},
        "ingress": [{"name": "r", "action": "Accept", "from": [{"namespaces": {"matchLabels": {"a": "b"}}}]}],
    }
    document = {"metadata": {"name": "x", "resourceVersion": "5"}, "spec": spec}
    value = value_of("GlobalNetworkPolicy", "clusternetworkpolicies", document)
    assert isinstance(value, GlobalNetworkPolicy) and value.metadata.name == "kcnp.x"
    assert value.spec.tier == "kube-admin" and value.spec.order == 7 and value.spec.types == ("Ingress",)
    unknown = value_of("GlobalNetworkPolicy", "clusternetworkpolicies", {**document, "spec": {**spec, "newer": 1}})
    assert isinstance(unknown, Malformed) and unknown.instead is not None
    assert unknown.instead.spec.ingress == ()  # type: ignore[attr-defined]
    absent = value_of("GlobalNetworkPolicy", "clusternetworkpolicies", {**document, "spec": {**spec, "tier": "Other"}})
    assert isinstance(absent, Malformed) and absent.instead is None


def test_policies_of_kubernetes_are_found_by_their_names() -> None:
    mapping = open_mapping()
    place = mapping.locate(ResourceKey("NetworkPolicy", "shop", "knp.default.web"))
    assert place is not None and place.url == "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies/web"
    place = mapping.locate(ResourceKey("GlobalNetworkPolicy", "", "kcnp.web"))
    assert (
        place is not None and place.url.endswith("/v1alpha2/clusternetworkpolicies/web") and place.collection.optional
    )
    assert len(mapping.collections(ResourceQuery("NetworkPolicy"))) == 2
    assert len(mapping.collections(ResourceQuery("NetworkPolicy", name_prefix="knp.default.w"))) == 1
    assert len(mapping.collections(ResourceQuery("NetworkPolicy", name_prefix="web"))) == 1


# ── services and migrations ───────────────────────────────────────────────────────────────────────────────────────────


def test_services_and_slices_read_whether_or_not_they_name_their_kind() -> None:
    meta = {"name": "s", "namespace": "shop", "resourceVersion": "5", "labels": {"kubernetes.io/service-name": "s"}}
    for more in ({}, {"kind": "Service", "apiVersion": "v1"}):
        service = {**more, "metadata": meta, "spec": {"ports": [{"port": 80}], "clusterIP": "10.96.0.1"}}
        value = value_of("KubernetesService", "services", service)
        assert isinstance(value, KubernetesService) and value.spec.cluster_ip == "10.96.0.1"
    ends = {"metadata": meta, "addressType": "IPv4", "endpoints": None, "ports": [{"port": 8080, "name": ""}]}
    found = value_of("KubernetesEndpointSlice", "endpointslices", ends)
    assert isinstance(found, KubernetesEndpointSlice) and found.service == "s" and found.endpoints == ()


@pytest.mark.parametrize(
    ("phase", "there"), [("Pending", False), ("Scheduling", True), ("Failed", True), ("Succeeded", False)]
)
def test_a_migration_is_one_while_it_concerns_the_network(phase: str, there: bool) -> None:
    document = {
        "metadata": {"name": "m", "namespace": "vms", "uid": "u", "resourceVersion": "5"},
        "spec": {"vmiName": "vm"},
        "status": {"phase": phase, "migrationState": {"sourcePod": "virt-launcher-1"}},
    }
    plural = "virtualmachineinstancemigrations"
    value = value_of("LiveMigration", plural, document)
    assert isinstance(value, LiveMigration) == there
    event = reader("LiveMigration", plural).event(json.dumps({"type": "MODIFIED", "object": document}).encode())
    assert event.key == ResourceKey("LiveMigration", "vms", "m") and (event.record is not None) == there
    if there:
        assert value.spec.source.workload.workload_id == "vms/virt-launcher-1"
        assert value.spec.target.selector.endswith("kubevirt.io/migrationJobUID == 'u'")
