"""Pods of a real API server as workload endpoints, as a CNI plugin meets them, and all that agents derive from."""

from __future__ import annotations

import urllib.error
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
from msgspec.structs import replace

from calico_datastore_kdd.settings import KubernetesSettings
from calico_datastore_kdd.store import KubernetesDatastore
from calico_datastore_kdd.testing import KubernetesServer
from calico_kernel.errors import NotFound, NotPermitted, RevisionConflict
from calico_kernel.model.endpoints import WorkloadEndpoint
from calico_kernel.model.keys import ResourceKey, ResourceQuery
from calico_kernel.model.policy import Profile
from calico_kernel.testing.datastore import collect

KEY = ResourceKey("WorkloadEndpoint", "shop", "n1-k8s-web-eth0")
PODS = "/api/v1/namespaces/shop/pods"


@pytest.fixture
def store(empty: KubernetesServer) -> Iterator[KubernetesDatastore]:
    with closing(KubernetesDatastore(KubernetesSettings(kubeconfig=str(empty.kubeconfig), qps=0))) as opened:
        yield opened
    for pod in empty.request("GET", PODS)["items"]:
        remove(empty, pod["metadata"]["name"])


def remove(server: KubernetesServer, name: str, grace_s: int = 0) -> None:
    with suppress(urllib.error.HTTPError):
        server.request("DELETE", f"{PODS}/{name}", {"gracePeriodSeconds": grace_s})


def pod(server: KubernetesServer, name: str = "web", *, node: str = "n1", host: bool = False) -> None:
    account = {"metadata": {"name": "sa", "namespace": "shop"}}
    with suppress(urllib.error.HTTPError):
        server.request("POST", "/api/v1/namespaces/shop/serviceaccounts", account)
    document = {
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {
            "serviceAccountName": "sa",
            "automountServiceAccountToken": False,
            "hostNetwork": host,
            "containers": [{"name": "c", "image": "x", "ports": [{"containerPort": 8080, "name": "http"}]}],
            **({"nodeName": node} if node else {}),
        },
    }
    server.request("POST", PODS, document)


def given(endpoint: Any, address: str = "10.0.0.1/32", container: str = "c1") -> WorkloadEndpoint:
    made: WorkloadEndpoint = replace(
        endpoint, spec=replace(endpoint.spec, ip_networks=(address,), container_id=container)
    )
    return made


def annotations(server: KubernetesServer, name: str = "web") -> dict[str, str]:
    found: dict[str, str] = server.request("GET", f"{PODS}/{name}")["metadata"].get("annotations", {})
    return {key.removeprefix("cni.projectcalico.org/"): text for key, text in found.items()}


def test_an_endpoint_is_there_with_its_pod_and_add_and_del_complete_it(
    empty: KubernetesServer, store: KubernetesDatastore
) -> None:
    listing = store.list([ResourceQuery("WorkloadEndpoint")])
    watch = store.watch([ResourceQuery("WorkloadEndpoint")], revision=listing.revision)
    pod(empty)
    found = store.get(KEY)
    assert isinstance(found.value, WorkloadEndpoint)
    assert found.value.spec.ip_networks == () and found.value.spec.ports[0].name == "http"
    assert found.value.spec.profiles == ("kns.shop", "ksa.shop.sa")
    written = store.update(KEY, given(found.value), revision=found.revision)
    assert annotations(empty) == {"podIP": "10.0.0.1/32", "podIPs": "10.0.0.1/32", "containerID": "c1"}
    assert store.get(KEY) == written and int(written.revision) > int(found.revision)
    store.delete(KEY, revision=written.revision)
    assert annotations(empty) == {"podIP": "", "podIPs": "", "containerID": "c1"}
    left: Any = store.get(KEY).value
    assert left.spec.ip_networks == () and left.spec.container_id == "c1"
    remove(empty, "web")
    events = collect(watch, lambda got: any(event.record is None for event in got))
    assert [event.key for event in events] == [KEY] * len(events)
    networks = [event.record.value.spec.ip_networks for event in events if event.record is not None]  # type: ignore[union-attr]
    assert list(dict.fromkeys(networks)) == [(), ("10.0.0.1/32",)] and networks[-1] == ()
    watch.close()
    with pytest.raises(NotFound):
        store.get(KEY)


def test_a_creation_completes_the_pod_that_is_there_and_makes_none(
    empty: KubernetesServer, store: KubernetesDatastore
) -> None:
    endpoint = given(WorkloadEndpoint())
    with pytest.raises(NotFound):
        store.create(KEY, endpoint)
    pod(empty)
    created: Any = store.create(KEY, endpoint).value
    assert created.spec.ip_networks == ("10.0.0.1/32",) and created.metadata.labels["app"] == "web"
    store.create(KEY, WorkloadEndpoint())  # one without addresses yet is fine too
    assert annotations(empty) == {}


def test_what_changed_meanwhile_is_not_overwritten(empty: KubernetesServer, store: KubernetesDatastore) -> None:
    pod(empty)
    found: Any = store.get(KEY)
    status = {"status": {"phase": "Pending", "message": "kubelet was here"}}
    path = f"{PODS}/web/status"
    empty.request("PATCH", path, status, content_type="application/merge-patch+json")
    with pytest.raises(RevisionConflict):
        store.update(KEY, given(found.value), revision=found.revision)
    with pytest.raises(RevisionConflict):
        store.delete(KEY, revision=found.revision)
    assert annotations(empty) == {}


def test_a_pod_of_the_same_name_on_another_node_is_not_the_one(
    empty: KubernetesServer, store: KubernetesDatastore
) -> None:
    pod(empty, node="n2")
    pod(empty, "waiting", node="")
    pod(empty, "host", host=True)
    for name in ("n1-k8s-web-eth0", "n1-k8s-waiting-eth0", "n1-k8s-host-eth0"):
        key = ResourceKey("WorkloadEndpoint", "shop", name)
        for attempt in (store.get, store.delete, lambda key: store.create(key, given(WorkloadEndpoint()))):
            with pytest.raises(NotFound):
                attempt(key)
    assert annotations(empty) == annotations(empty, "waiting") == {}
    records = store.list([ResourceQuery("WorkloadEndpoint")]).records
    assert [record.key.name for record in records] == ["n2-k8s-web-eth0"]  # type: ignore[union-attr]


def test_a_pod_that_gets_its_node_appears_and_one_that_finishes_has_no_addresses(
    empty: KubernetesServer, store: KubernetesDatastore
) -> None:
    pod(empty, node="")
    listing = store.list([ResourceQuery("WorkloadEndpoint")])
    watch = store.watch([ResourceQuery("WorkloadEndpoint")], revision=listing.revision)
    assert not listing.records
    target = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": "web"},
        "target": {"kind": "Node", "name": "n1"},
    }
    empty.request("POST", f"{PODS}/web/binding", target)
    store.create(KEY, given(WorkloadEndpoint()))
    status = {"status": {"phase": "Succeeded", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}}
    empty.request("PATCH", f"{PODS}/web/status", status, content_type="application/merge-patch+json")
    events = collect(watch, lambda got: len(got) >= 3)
    assert [event.record.value.spec.ip_networks for event in events] == [(), ("10.0.0.1/32",), ()]  # type: ignore[union-attr]
    watch.close()


def test_only_the_pods_of_a_node_are_read_for_it(empty: KubernetesServer, store: KubernetesDatastore) -> None:
    for number, node in enumerate(("n1", "n1", "n2")):
        pod(empty, f"web-{number}", node=node)
    asked: list[str] = []
    call = store._api.call
    store._api.call = lambda method, target, *rest: (asked.append(target), call(method, target, *rest))[1]  # type: ignore[method-assign]
    records = store.list([ResourceQuery("WorkloadEndpoint", name_prefix="n1-")]).records
    assert len(records) == 2 and "fieldSelector=spec.nodeName%3Dn1" in asked[0]


def test_what_kubernetes_decides_cannot_be_written(store: KubernetesDatastore) -> None:
    profile = ResourceKey("Profile", "", "kns.shop")
    found = store.get(profile)
    assert isinstance(found.value, Profile)
    for attempt in (
        lambda: store.create(profile, Profile()),
        lambda: store.put(profile, found.value),
        lambda: store.update(profile, found.value, revision=found.revision),
        lambda: store.delete(profile),
    ):
        with pytest.raises(NotPermitted, match="Namespace shop"):
            attempt()
