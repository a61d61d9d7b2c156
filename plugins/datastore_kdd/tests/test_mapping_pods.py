"""Pods as workload endpoints: which are, what is written to them, and which requests find them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_datastore_kdd.collection import MERGE_PATCH, Reader
from calico_datastore_kdd.mapping import open_mapping
from calico_kernel.errors import NotPermitted
from calico_kernel.model import kubernetes
from calico_kernel.model.endpoints import WorkloadEndpoint, WorkloadEndpointSpec
from calico_kernel.model.keys import ResourceKey, ResourceQuery
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.records import Malformed

KEY = ResourceKey("WorkloadEndpoint", "shop", "node--1-k8s-web--1-eth0")


def pod(name: str = "web-1", *, node: str = "node-1", host: bool = False, status: Any = None, **metadata: Any) -> Any:
    meta = {"name": name, "namespace": "shop", "resourceVersion": "5", "uid": "u", "labels": {"app": "web"}, **metadata}
    return {
        "metadata": meta,
        "spec": {"nodeName": node, "serviceAccountName": "sa", "hostNetwork": host, "containers": [{"name": "c"}]},
        "status": status
        or {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
    }


def reader() -> Reader:
    return open_mapping().collections(ResourceQuery("WorkloadEndpoint"))[0].collection.reader


def endpoint_of(document: Any) -> Any:
    record = reader().record(json.dumps(document).encode())
    return None if record is None else record.value


@pytest.mark.parametrize(
    ("changes", "networks"),
    [
        ({}, ("10.0.0.1/32", "fd00::1/128")),
        ({"status": {"phase": "Pending"}}, ()),
        ({"status": {"podIP": "10.0.0.9"}}, ("10.0.0.9/32",)),
        (
            {
                "status": {"phase": "Pending"},
                "annotations": {"cni.projectcalico.org/podIPs": "10.0.0.2/32,fd00::2/128"},
            },
            ("10.0.0.2/32", "fd00::2/128"),
        ),
        ({"status": {"phase": "x"}, "annotations": {"cni.projectcalico.org/podIP": "10.0.0.3/32"}}, ("10.0.0.3/32",)),
        ({"status": {"phase": "x"}, "annotations": {"vpc.amazonaws.com/pod-ips": "10.0.0.4"}}, ("10.0.0.4/32",)),
        ({"status": {"phase": "Succeeded", "podIP": "10.0.0.1"}}, ()),
        ({"status": {"phase": "Failed", "podIP": "10.0.0.1"}}, ()),
        ({"deletionTimestamp": "2026-01-01T00:00:00Z"}, ("10.0.0.1/32", "fd00::1/128")),
        (
            {"deletionTimestamp": "2026-01-01T00:00:00Z", "annotations": {"cni.projectcalico.org/podIP": ""}},
            (),
        ),
        ({"annotations": {"cni.projectcalico.org/podIP": ""}}, ("10.0.0.1/32", "fd00::1/128")),
    ],
)
def test_addresses_come_from_where_they_are_known_and_go_when_the_pod_ends(changes: Any, networks: Any) -> None:
    assert endpoint_of(pod(**changes)).spec.ip_networks == networks


def test_pods_without_a_network_of_their_own_or_a_node_are_no_records() -> None:
    items = [pod(), pod("host", host=True), pod("waiting", node="")]
    page = reader().page(json.dumps({"items": items, "metadata": {"resourceVersion": "9"}}).encode())
    assert [record.key for record in page.records] == [KEY]
    event = reader().event(json.dumps({"type": "MODIFIED", "object": items[1]}).encode())
    assert (event.type, event.key, event.record, event.revision) == ("put", None, None, "5")


def test_a_list_reads_as_the_manifest_does() -> None:
    document = pod(
        annotations={
            "cni.projectcalico.org/floatingIPs": '["1.2.3.4", "2001:db8::1"]',
            "cni.projectcalico.org/allowedSourcePrefixes": '["10.9.0.0/16"]',
            "cni.projectcalico.org/ipv4pools": '["p"]',
            "cni.projectcalico.org/containerID": "abc",
            "kubernetes.io/egress-bandwidth": "10M",
            "other": "x",
        },
        creationTimestamp="2026-01-01T00:00:00Z",
        generateName="web-",
    )
    read = endpoint_of(document)
    made: Any = kubernetes.convert({"apiVersion": "v1", "kind": "Pod", **document}).resource
    assert read.spec == made.spec and read.metadata.labels == made.metadata.labels
    assert read.metadata.resource_version == "5" and read.spec.qos_controls.egress_bandwidth == 10_000_000
    assert read.metadata.annotations.keys() == {
        "cni.projectcalico.org/floatingIPs",
        "cni.projectcalico.org/allowedSourcePrefixes",
        "cni.projectcalico.org/ipv4pools",
    }
    assert [nat.external_ip for nat in read.spec.ip_nats] == ["1.2.3.4", "2001:db8::1"]


def test_a_pod_without_labels_has_those_that_calico_adds() -> None:
    items = [pod(labels={}), pod("node-1", labels={"shop": "sa"}, node="shop"), pod("web-2", labels={})]
    page = reader().page(json.dumps({"items": items}).encode())
    added = {
        "projectcalico.org/namespace": "shop",
        "projectcalico.org/orchestrator": "k8s",
        "projectcalico.org/serviceaccount": "sa",
    }
    labels = [record.value.metadata.labels for record in page.records]  # type: ignore[union-attr]
    assert labels == [added, {"shop": "sa", **added}, added]
    assert {record.value.spec.profiles for record in page.records} == {("kns.shop", "ksa.shop.sa")}  # type: ignore[union-attr]


def test_pods_of_one_kind_share_what_is_equal_and_nothing_else() -> None:
    items = [pod(f"web-{n}", status={"podIP": f"10.0.0.{n}"}) for n in range(1, 4)] + [
        pod("api-1", labels={"app": "api"})
    ]
    page = reader().page(json.dumps({"items": items}).encode())
    first, second, _, other = (record.value for record in page.records)
    assert first.metadata.labels is second.metadata.labels and first.spec.profiles is second.spec.profiles  # type: ignore[union-attr]
    assert first.spec.ip_networks != second.spec.ip_networks  # type: ignore[union-attr]
    assert other.metadata.labels["app"] == "api"  # type: ignore[union-attr]


_few = st.sampled_from(["shop", "sa", "n1", "labels", "node", "profiles"])
_pods = st.builds(
    lambda namespace, node, account, labels: {
        "metadata": {"name": "x", "namespace": namespace, "labels": labels},
        "spec": {"nodeName": node, "serviceAccountName": account},
    },
    _few,
    _few,
    st.one_of(st.just(""), _few),
    st.dictionaries(_few, _few, max_size=3),
)


@given(st.lists(_pods, max_size=8))
def test_what_is_shared_never_shows(documents: Any) -> None:
    together = reader().page(json.dumps({"items": documents}).encode()).records
    assert [record.value for record in together] == [endpoint_of(document) for document in documents]


@pytest.mark.parametrize(
    "changes",
    [
        {"status": {"podIP": "nonsense"}},
        {"annotations": {"cni.projectcalico.org/allowedSourcePrefixes": "no JSON"}},
        {"labels": {"app": 5}},
    ],
)
def test_a_pod_that_cannot_be_read_is_named_and_spoils_no_other(changes: Any) -> None:
    items = [pod(**changes), pod("web-2"), pod("web-3", host=True, labels={"app": 5})]
    page = reader().page(json.dumps({"items": items}).encode())
    bad, good = page.records
    assert bad.key == KEY and isinstance(bad.value, Malformed)
    assert isinstance(good.value, WorkloadEndpoint) and bad.revision == "5"


def test_writing_an_endpoint_annotates_its_pod() -> None:
    value = WorkloadEndpoint(
        metadata=ObjectMeta(annotations={"cni.projectcalico.org/network": "k8s-pod-network"}),
        spec=WorkloadEndpointSpec(ip_networks=("10.0.0.1/32", "fd00::1/128"), container_id="abc"),
    )
    mapping = open_mapping()
    place = mapping.locate(KEY)
    assert place is not None and place.derived and place.url == "/api/v1/namespaces/shop/pods/web-1"
    request = mapping.updating(KEY, value, revision="5")
    assert (request.method, request.path) == ("PATCH", "/api/v1/namespaces/shop/pods/web-1/status")
    assert request.content_type == MERGE_PATCH
    patch = json.loads(request.body)
    assert patch == {
        "metadata": {
            "annotations": {
                "cni.projectcalico.org/podIP": "10.0.0.1/32",
                "cni.projectcalico.org/podIPs": "10.0.0.1/32,fd00::1/128",
                "cni.projectcalico.org/containerID": "abc",
                "cni.projectcalico.org/network": "k8s-pod-network",
            },
            "resourceVersion": "5",
        }
    }
    assert "resourceVersion" not in json.loads(mapping.creation(KEY, value).body)["metadata"]
    patched = endpoint_of(pod(status={"phase": "Pending"}, annotations=patch["metadata"]["annotations"]))
    assert patched.spec.ip_networks == value.spec.ip_networks and patched.spec.container_id == "abc"
    assert patched.metadata.annotations == value.metadata.annotations


def test_an_endpoint_without_addresses_takes_the_annotations_away_and_a_deletion_empties_them() -> None:
    mapping = open_mapping()
    none = json.loads(mapping.updating(KEY, WorkloadEndpoint(), revision="5").body)["metadata"]["annotations"]
    assert set(none.values()) == {None} and len(none) == 4
    gone = json.loads(mapping.deletion(KEY, revision="5").body)["metadata"]
    assert gone["annotations"] == {
        "cni.projectcalico.org/podIP": "",
        "cni.projectcalico.org/podIPs": "",
        "cni.projectcalico.org/network": None,
    }
    assert mapping.derived_from(KEY) == "Pod shop/web-1"


@pytest.mark.parametrize("name", ["node-cni-web-eth0", "node-k8s-web-eth1", "node-k8s-web", "k8s"])
def test_no_pod_can_have_another_name(name: str) -> None:
    key = ResourceKey("WorkloadEndpoint", "shop", name)
    assert open_mapping().locate(key) is None
    with pytest.raises(NotPermitted):
        open_mapping().deletion(key)


@pytest.mark.parametrize(
    ("prefix", "params"),
    [
        ("", ()),
        ("node", ()),
        ("node--1-", (("fieldSelector", "spec.nodeName=node-1"),)),
        ("node--1-k", (("fieldSelector", "spec.nodeName=node-1"),)),
        ("node--1-k8s-web--1", (("fieldSelector", "spec.nodeName=node-1"),)),
        ("node--1-k8s-web--1-eth0", (("fieldSelector", "spec.nodeName=node-1,metadata.name=web-1"),)),
        ("node-cni-", None),
        ("node-k-", None),
    ],
)
def test_a_prefix_that_names_a_node_selects_its_pods(prefix: str, params: Any) -> None:
    found = open_mapping().collections(ResourceQuery("WorkloadEndpoint", "shop", prefix))
    assert [(selection.namespace, selection.params) for selection in found] == (
        [] if params is None else [("shop", params)]
    )
