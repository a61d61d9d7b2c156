"""What is particular to this store: which API group, what Calico left half done, objects of Kubernetes itself."""

from __future__ import annotations

import contextlib
import re
import threading
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from calico_datastore_kdd.collection import CRD_GROUP, V3_GROUP, Collection, Mapping, Selection
from calico_datastore_kdd.listing import Asked
from calico_datastore_kdd.mapping import open_mapping
from calico_datastore_kdd.settings import KubernetesSettings
from calico_datastore_kdd.store import KubernetesDatastore, merged
from calico_datastore_kdd.testing import KubernetesServer
from calico_kernel.calc.calculator import Calculator
from calico_kernel.errors import AlreadyExists, ConfigError, DatastoreUnavailable, NotFound, NotPermitted
from calico_kernel.model.endpoints import Node
from calico_kernel.model.ipam import AllocationBlock, IpamHandle, StoredBlockAffinity
from calico_kernel.model.keys import (
    BlockAffinityKey,
    BlockAffinityQuery,
    BlockKey,
    BlockQuery,
    HandleKey,
    Key,
    Query,
    ResourceKey,
    ResourceQuery,
)
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.testing.datastore import collect, mark_of, names, network_set, set_key

SETS = ResourceQuery("GlobalNetworkSet")
EVERYTHING: Sequence[Query] = (*Calculator.queries(), BlockAffinityQuery())
BLOCK = AllocationBlock(cidr="10.0.0.0/30", allocations=(None,) * 4, unallocated=(0, 1, 2, 3))


@pytest.fixture
def store(empty: KubernetesServer) -> Iterator[KubernetesDatastore]:
    with closing(KubernetesDatastore(KubernetesSettings(kubeconfig=str(empty.kubeconfig), qps=0))) as opened:
        yield opened


def counting(store: KubernetesDatastore) -> list[str]:
    """The requests that it makes from now on."""
    made: list[str] = []
    call = store._api.call

    def counted(method: str, target: str, *rest: Any) -> bytes:
        made.append(f"{method} {target}")
        return call(method, target, *rest)

    store._api.call = counted  # type: ignore[method-assign]
    return made


# ── the group ──


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesServer]:
    """A server without any of Calico's resources."""
    server = KubernetesServer(tmp_path_factory.mktemp("bare"))
    server.start()
    yield server
    server.kill()


def test_cluster_without_calico_says_how_to_install_it_and_works_once_it_is(
    bare: KubernetesServer, install: Callable[..., None]
) -> None:
    settings = KubernetesSettings(kubeconfig=str(bare.kubeconfig))
    with closing(KubernetesDatastore(settings)) as store:
        calls: list[Callable[[], object]] = [
            lambda: store.list([SETS]),
            lambda: store.get(set_key("a")),
            lambda: store.create(set_key("a"), network_set("a")),
            lambda: store.list(Calculator.queries()),
        ]
        for call in calls:
            with pytest.raises(DatastoreUnavailable, match=re.escape("calicoctl crds | kubectl apply")):
                call()
        install(bare, V3_GROUP)
        made = store.create(set_key("a"), network_set("a", "x"))
        assert store.get(set_key("a")) == made
        watch = store.watch([SETS], revision=store.list([SETS]).revision)
        changed = store.put(set_key("a"), network_set("a", "y"))
        assert [event.record for event in collect(watch, bool)] == [changed]
        watch.close()
        kept = bare.request("GET", "/apis/projectcalico.org/v3/globalnetworksets/a")
        assert kept["metadata"]["labels"] == {"mark": "y"}
    with closing(KubernetesDatastore(settings)) as store:
        watch = store.watch([SETS], revision=changed.revision)  # before anything told which group it is
        assert mark_of(store.put(set_key("a"), network_set("a", "z"))) == "z"
        assert [mark_of(event.record) for event in collect(watch, bool)] == ["z"]
        watch.close()
    install(bare, CRD_GROUP)
    with closing(KubernetesDatastore(settings)) as store:  # both: the one where Calico keeps its own
        assert list(store.list([SETS]).records) == []
    chosen = KubernetesSettings(kubeconfig=str(bare.kubeconfig), api_group="ProjectCalico.org/v3")
    with closing(KubernetesDatastore(chosen)) as store:
        assert names(store.list([SETS]).records) == ["a"]


def test_unknown_group_is_refused(kubernetes: KubernetesServer) -> None:
    with pytest.raises(ConfigError, match=r"datastore\.api_group is 'crd'"):
        KubernetesDatastore(KubernetesSettings(kubeconfig=str(kubernetes.kubeconfig), api_group="crd"))


def test_first_request_is_the_only_one(store: KubernetesDatastore) -> None:
    made = counting(store)
    store.list([SETS])
    store.create(set_key("a"), network_set("a"))
    assert [request.split("?")[0] for request in made] == [
        "GET /apis/crd.projectcalico.org/v1/globalnetworksets",
        "POST /apis/crd.projectcalico.org/v1/globalnetworksets",
    ]


# ── what Calico left half done ──


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (BlockKey("10.0.0.0/30"), BLOCK),
        (HandleKey("h"), IpamHandle(block={"10.0.0.0/30": 1})),
        (BlockAffinityKey("host", "n1", "10.0.0.0/30"), StoredBlockAffinity(state="confirmed")),
    ],
)
@pytest.mark.parametrize("mend", ["get", "create", "put"])
def test_record_that_awaits_its_deletion_is_absent_and_is_deleted(
    key: Key, value: Any, mend: str, empty: KubernetesServer, store: KubernetesDatastore
) -> None:
    store.create(key, value)
    place = open_mapping().locate(key)
    assert place is not None
    found = empty.request("GET", place.url)
    found["spec"]["deleted"] = "true" if isinstance(key, BlockAffinityKey) else True
    marked = empty.request("PUT", place.url, found)
    queries: list[Query] = [BlockQuery(), BlockAffinityQuery()]
    assert list(store.list(queries).records) == []
    if mend == "get":
        with pytest.raises(NotFound):
            store.get(key)
        with pytest.raises(urllib.error.HTTPError):
            empty.request("GET", place.url)
        return
    made = getattr(store, mend)(key, value)
    assert store.get(key) == made
    assert empty.request("GET", place.url)["metadata"]["uid"] != marked["metadata"]["uid"]


def test_handles_that_differ_in_case_only_are_not_mistaken_for_each_other(store: KubernetesDatastore) -> None:
    store.create(HandleKey("Net.A"), IpamHandle())
    with pytest.raises(NotFound):
        store.get(HandleKey("net.a"))
    with pytest.raises(AlreadyExists):
        store.create(HandleKey("net.a"), IpamHandle())
    with pytest.raises(NotFound):
        store.delete(HandleKey("net.a"))
    assert store.get(HandleKey("Net.A")).value == IpamHandle()


# ── objects of Kubernetes ──


@pytest.fixture
def node(empty: KubernetesServer) -> Iterator[ResourceKey]:
    empty.request("POST", "/api/v1/nodes", {"metadata": {"name": "n1", "labels": {"rack": "r1"}}})
    yield ResourceKey("Node", "", "n1")
    with contextlib.suppress(urllib.error.HTTPError):
        empty.request("DELETE", "/api/v1/nodes/n1")


def test_node_is_read_completed_and_watched_but_never_made_or_removed(
    empty: KubernetesServer, store: KubernetesDatastore, node: ResourceKey
) -> None:
    found = store.get(node)
    assert isinstance(found.value, Node)
    assert found.value.metadata.labels["rack"] == "r1"
    assert store.derived_from(node) == "Node n1"
    watch = store.watch([ResourceQuery("Node")], revision=store.list([ResourceQuery("Node")]).revision)
    changed = store.update(node, found.value, revision=found.revision)
    assert changed.key == node
    with pytest.raises((NotPermitted, NotFound)):
        store.create(ResourceKey("Node", "", "n2"), Node(metadata=ObjectMeta(name="n2")))
    store.delete(node)  # takes back what is ours
    assert empty.request("GET", "/api/v1/nodes/n1")["metadata"]["labels"] == {"rack": "r1"}
    empty.request("DELETE", "/api/v1/nodes/n1")
    events = collect(watch, lambda got: any(event.record is None for event in got))
    assert events[-1].key == node
    watch.close()


def test_everything_that_an_agent_asks_for_is_listed_at_one_moment(
    store: KubernetesDatastore, node: ResourceKey
) -> None:
    listing = store.list(Calculator.queries())
    assert listing.revision.isdecimal()
    profiles = {record.key.name for record in listing.records if is_profile(record.key)}
    assert {"kns.default", "kns.shop"} <= profiles
    assert node in {record.key for record in listing.records}
    watch = store.watch(Calculator.queries(), revision=listing.revision)
    made = store.create(set_key("a"), network_set("a"))
    assert [event.record for event in collect(watch, bool)] == [made]
    watch.close()


def is_profile(key: Key) -> bool:
    return isinstance(key, ResourceKey) and key.kind == "Profile"


# ── many threads ──


def test_threads_share_the_connections_that_there_are(store: KubernetesDatastore) -> None:
    store.create(set_key("a"), network_set("a", 0))
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(30):
                assert mark_of(store.get(set_key("a"))) == "0"
        except BaseException as exc:
            failures.append(exc)
            raise

    threads = [threading.Thread(target=read) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(store._api._idle) <= 8


def test_threads_that_need_a_kind_for_the_first_time_together_get_the_same_collection() -> None:
    def ask(mapping: Mapping) -> list[Collection]:
        return [selection.collection for query in EVERYTHING for selection in mapping.collections(query)]

    with ThreadPoolExecutor(6) as pool:
        for _ in range(20):
            mapping = open_mapping()
            found = list(pool.map(ask, [mapping] * 6))
            assert all(one == found[0] for one in found)


# ── what is read for several queries ──


def test_no_object_is_read_twice_for_several_queries() -> None:
    sets, policies = (
        Collection(name=name, path="/apis/x/v1", plural=name, namespaced=True, reader=None)  # type: ignore[arg-type]
        for name in ("sets", "policies")
    )
    a, b = SETS, ResourceQuery("NetworkPolicy")
    of_one = Selection(collection=sets, namespace="one")
    labelled = [Selection(collection=policies, params=(("labelSelector", text),)) for text in ("!a", "a=b")]
    whole = Selection(collection=policies)
    assert merged([(a, [of_one]), (b, [of_one])]) == [Asked(of_one, (a, b))]
    assert merged([(a, [of_one]), (b, [Selection(collection=sets)])]) == [Asked(Selection(collection=sets), (a, b))]
    assert merged([(a, labelled), (b, labelled)]) == [Asked(one, (a, b)) for one in labelled]
    assert merged([(a, labelled), (b, [whole])]) == [Asked(whole, (a, b))]
    assert merged([(a, [of_one]), (b, [whole])]) == [Asked(of_one, (a,)), Asked(whole, (b,))]
