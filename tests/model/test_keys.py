from __future__ import annotations

import pytest

from calico_kernel.errors import PluginError
from calico_kernel.model import keys, kinds
from calico_kernel.model.endpoints import Node
from calico_kernel.model.meta import ObjectMeta, Resource
from calico_kernel.model.policy import NetworkPolicy

PATHS: dict[str, keys.Key] = {
    "/calico/resources/v3/projectcalico.org/nodes/n1": keys.ResourceKey("Node", "", "n1"),
    "/calico/resources/v3/projectcalico.org/networkpolicies/shop/a.b": keys.ResourceKey("NetworkPolicy", "shop", "a.b"),
    "/calico/resources/v3/projectcalico.org/livemigrations/shop/m": keys.ResourceKey("LiveMigration", "shop", "m"),
    "/calico/ipam/v2/assignment/ipv4/block/10.65.0.0-26": keys.BlockKey("10.65.0.0/26"),
    "/calico/ipam/v2/assignment/ipv6/block/fd00::-122": keys.BlockKey("fd00::/122"),
    "/calico/ipam/v2/host/n1/ipv4/block/10.65.0.0-26": keys.BlockAffinityKey("host", "n1", "10.65.0.0/26"),
    "/calico/ipam/v2/virtual/load-balancer/ipv6/block/fd00::-122": keys.BlockAffinityKey(
        "virtual", "load-balancer", "fd00::/122"
    ),
    "/calico/ipam/v2/handle/k8s-pod-network.abc": keys.HandleKey("k8s-pod-network.abc"),
    "/calico/ipam/v2/config": keys.IpamConfigKey(),
    "/calico/ipam/v2/host/n1": keys.IpamHostKey("n1"),
    "/calico/felix/v2/no-region/host/n1/status": keys.NodeStatusKey("n1"),
    "/calico/felix/v2/region-one/host/n1/last_reported_status": keys.LastNodeStatusKey("n1", "region-one"),
    "/calico/felix/v2/no-region/host/n1/workload/k8s/shop%2fweb-1/endpoint/eth0": keys.WorkloadStatusKey(
        "n1", "k8s", "shop/web-1", "eth0"
    ),
    "/calico/felix/v1/host/n1/endpoint/eth0": keys.HostEndpointStatusKey("n1", "eth0"),
}


@pytest.mark.parametrize(("path", "key"), PATHS.items())
def test_key_of_each_sort_has_calicos_path_and_comes_back(path: str, key: keys.Key) -> None:
    assert keys.path(key) == path
    assert keys.parse(path) == key


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/registry/pods/default/x",
        "/calico/resources/v3/projectcalico.org/nodes",
        "/calico/resources/v3/projectcalico.org/nodes/",
        "/calico/resources/v3/projectcalico.org/nodes/a/b",
        "/calico/resources/v3/projectcalico.org/networkpolicies/only-namespace",
        "/calico/resources/v3/projectcalico.org/nonsense/x",
        "/calico/ipam/v2/assignment/ipv4/block/10.65.0.1-26",
        "/calico/ipam/v2/assignment/ipv6/block/10.65.0.0-26",
        "/calico/ipam/v2/assignment/ipv4/block/garbage",
        "/calico/ipam/v2/other/n1/ipv4/block/10.65.0.0-26",
        "/calico/ipam/v2/handle/",
        "/calico/felix/v1/host/h/status",
        "/calico/felix/v2/no-region/host/h/workload/k8s/endpoint/eth0",
        "/calico/felix/v2/no-region/host//status",
    ],
)
def test_path_that_is_not_ours_has_no_key(path: str) -> None:
    assert keys.parse(path) is None


def test_name_with_a_slash_cannot_reach_another_records_path() -> None:
    key = keys.HandleKey("../host/n1%2f")
    assert keys.path(key) == "/calico/ipam/v2/handle/..%2fhost%2fn1%252f"
    assert keys.parse(keys.path(key)) == key


QUERIES: list[tuple[keys.Query, set[keys.Key]]] = [
    (keys.ResourceQuery("Node"), {keys.ResourceKey("Node", "", "n1")}),
    (keys.ResourceQuery("NetworkPolicy"), {keys.ResourceKey("NetworkPolicy", "shop", "a.b")}),
    (keys.ResourceQuery("NetworkPolicy", "sho"), set()),
    (keys.ResourceQuery("NetworkPolicy", "shop", "a."), {keys.ResourceKey("NetworkPolicy", "shop", "a.b")}),
    (keys.ResourceQuery("NetworkPolicy", None, "b"), set()),
    (keys.BlockQuery(), {keys.BlockKey("10.65.0.0/26"), keys.BlockKey("fd00::/122")}),
    (keys.BlockQuery(6), {keys.BlockKey("fd00::/122")}),
    (
        keys.BlockAffinityQuery(),
        {
            keys.BlockAffinityKey("host", "n1", "10.65.0.0/26"),
            keys.BlockAffinityKey("virtual", "load-balancer", "fd00::/122"),
        },
    ),
    (keys.BlockAffinityQuery("host"), {keys.BlockAffinityKey("host", "n1", "10.65.0.0/26")}),
    (keys.BlockAffinityQuery("host", "n1"), {keys.BlockAffinityKey("host", "n1", "10.65.0.0/26")}),
    (keys.BlockAffinityQuery("host", "n1", 6), set()),
    (keys.HandleQuery(), {keys.HandleKey("k8s-pod-network.abc")}),
    (keys.IpamConfigQuery(), {keys.IpamConfigKey()}),
]


@pytest.mark.parametrize(("query", "found"), QUERIES)
def test_query_matches_its_records_and_they_all_have_its_prefix(query: keys.Query, found: set[keys.Key]) -> None:
    matching = {key for key in PATHS.values() if keys.matches(query, key)}
    assert matching == found
    assert all(keys.path(key).startswith(keys.prefix(query)) for key in matching)


def test_every_kind_has_one_class_that_agrees_with_the_register() -> None:
    assert len(kinds.KINDS) >= 28
    for info in kinds.KINDS.values():
        assert (info.type.plural, info.type.namespaced) == (info.plural, info.namespaced)
        assert info.type.__struct_config__.tag == info.kind


@pytest.mark.parametrize(
    ("word", "kind"),
    [("NetworkPolicy", "NetworkPolicy"), ("POLICIES", "NetworkPolicy"), ("gnp", "GlobalNetworkPolicy"), ("no", "Node")],
)
def test_kind_is_found_by_any_of_its_names_in_any_case(word: str, kind: str) -> None:
    found = kinds.lookup(word)
    assert found is not None and found.kind == kind


def test_unknown_word_is_no_kind() -> None:
    assert kinds.lookup("nonsense") is None


class Widget(Resource, tag="Widget"):
    plural = "widgets"
    aliases = ("wd",)


class Impostor(Resource, tag="Impostor"):
    plural = "nodes"


def test_registered_vendor_kind_is_stored_and_found_like_a_built_in_one() -> None:
    kinds.register(Widget)
    try:
        kinds.register(Widget)
        key = keys.key_of(Widget(metadata=keys_meta("w1")))
        assert keys.parse(keys.path(key)) == key == keys.ResourceKey("Widget", "", "w1")
        assert kinds.lookup("WD") is kinds.KINDS["Widget"]
    finally:
        kinds.unregister(Widget)
    assert kinds.lookup("widget") is None


def test_vendor_kind_with_a_taken_plural_is_refused() -> None:
    with pytest.raises(PluginError, match="belongs to Node"):
        kinds.register(Impostor)
    assert kinds.PLURALS["nodes"].type is Node


def test_key_of_a_namespaced_resource_holds_its_namespace() -> None:
    assert keys.key_of(NetworkPolicy(metadata=keys_meta("p", "ns"))) == keys.ResourceKey("NetworkPolicy", "ns", "p")


def keys_meta(name: str, namespace: str = "") -> ObjectMeta:

    return ObjectMeta(name=name, namespace=namespace)
