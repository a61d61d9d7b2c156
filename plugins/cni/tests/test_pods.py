"""On a datastore whose workload endpoints are Pods of Kubernetes: ADD completes the Pod, DEL takes that back."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest
from msgspec.structs import replace

from calico_kernel.errors import NotFound
from calico_kernel.model import pods
from calico_kernel.model.endpoints import WorkloadEndpoint
from calico_kernel.model.keys import Key, ResourceKey
from calico_kernel.model.records import Record, Value
from calico_kernel.testing.memory_datastore import MemoryDatastore

pytestmark = pytest.mark.node
KEY = ResourceKey("WorkloadEndpoint", "shop", "node--1-k8s-web-eth0")
ARGS = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web"


class Pods(MemoryDatastore):
    """Endpoints and profiles are those of objects that others made; only addresses and container are ours."""

    before_update: Callable[[], None] | None = None

    def derived_from(self, key: Key) -> str:
        return {"WorkloadEndpoint": "Pod shop/web", "Profile": "Namespace shop"}.get(getattr(key, "kind", ""), "")

    def appears(self, uid: str = "u1", **annotations: str) -> None:
        document = {
            "metadata": {
                "name": "web",
                "namespace": "shop",
                "uid": uid,
                "labels": {"app": "web"},
                "annotations": {f"cni.projectcalico.org/{name}": text for name, text in annotations.items()},
            },
            "spec": {"nodeName": "node-1", "serviceAccountName": "shopper"},
        }
        super().create(KEY, pods.workload_endpoint(document).resource)

    def vanishes(self) -> None:
        super().delete(KEY)

    def create(self, key: Key, value: Value) -> Record:
        if self.derived_from(key):
            raise NotFound(what=f"there is no {self.derived_from(key)}")
        return super().create(key, value)

    def update(self, key: Key, value: Value, *, revision: str) -> Record:
        if key != KEY:
            return super().update(key, value, revision=revision)
        if self.before_update is not None:
            act, self.before_update = self.before_update, None
            act()
        pod = self.get(key).value
        assert isinstance(value, WorkloadEndpoint) and isinstance(pod, WorkloadEndpoint)
        given = replace(pod.spec, ip_networks=value.spec.ip_networks, container_id=value.spec.container_id)
        assert not given.mac  # a Pod has no place for it
        return super().update(key, replace(pod, spec=given), revision=revision)

    def delete(self, key: Key, *, revision: str | None = None) -> Record:
        if key != KEY:
            return super().delete(key, revision=revision)
        found = self.get(key)
        assert isinstance(found.value, WorkloadEndpoint)
        bare = replace(found.value, spec=replace(found.value.spec, ip_networks=(), container_id=""))
        return super().update(key, bare, revision=revision or found.revision)

    @property
    def pod(self) -> WorkloadEndpoint:
        value = self.get(KEY).value
        assert isinstance(value, WorkloadEndpoint)
        return value


@pytest.fixture
def store() -> Pods:
    return Pods()


def test_add_completes_the_pod_and_del_takes_it_back(
    node: Any, store: Pods, workload: Callable[[], str], caplog: Any
) -> None:
    caplog.set_level("INFO")
    store.appears()
    seen: list[Any] = []
    node.admit = lambda endpoint: (seen.append(endpoint), endpoint)[1]
    namespace = workload()
    answer = node.add("c1", namespace, args=ARGS)
    assert store.pod.spec.container_id == "c1"
    assert [network.partition("/")[0] for network in store.pod.spec.ip_networks] == answer.addresses
    assert seen[0].metadata.labels["app"] == "web"
    assert seen[0].spec.profiles == ("kns.shop", "ksa.shop.shopper")
    assert any(r.message == "CNI ADD of shop/web" and r.took_ms > 0 for r in caplog.records)
    assert node.run("DEL", "c1", namespace, args=ARGS).status == 0
    assert store.pod.spec.container_id == "" and not store.pod.spec.ip_networks
    assert not (node.links() or node.ipam.handles())


def test_check_and_a_repeated_add_find_all_in_order(node: Any, store: Pods, workload: Callable[[], str]) -> None:
    store.appears()
    namespace = workload()
    first = node.add("c1", namespace, args=ARGS)
    assert node.run("CHECK", "c1", namespace, args=ARGS, conf=node.conf(prevResult=first.said)).status == 0
    again = node.add("c1", namespace, args=ARGS)
    assert again.said["interfaces"] == first.said["interfaces"] and again.addresses == first.addresses


def test_annotations_of_the_pod_choose_its_address(node: Any, store: Pods, workload: Callable[[], str]) -> None:
    store.appears(ipAddrs='["10.65.0.77"]', hwAddr="ee:00:00:00:00:07")
    answer = node.add("c1", workload(), args=ARGS)
    assert answer.addresses == ["10.65.0.77"]
    assert answer.said["interfaces"][-1]["mac"] == "ee:00:00:00:00:07"
    assert node.ipam.requests[0].addresses == (ip_address("10.65.0.77"),)


def test_pod_that_is_not_there_is_to_be_tried_again_and_gets_nothing(node: Any, workload: Callable[[], str]) -> None:
    answer = node.run("ADD", "c1", workload(), args=ARGS)
    assert answer.said["code"] == 11 and "Pod shop/web is not on node node-1" in answer.said["msg"]
    assert not (node.links() or node.ipam.handles())


def test_failed_add_takes_back_what_the_pod_got_though_others_changed_it_since(
    node: Any, store: Pods, workload: Callable[[], str]
) -> None:
    store.appears()

    def touched_then_late(*_: Any) -> bool:
        found = store.get(KEY)
        labels = {**found.value.metadata.labels, "seen": "yes"}
        meta = replace(found.value.metadata, labels=labels)
        MemoryDatastore.update(store, KEY, replace(found.value, metadata=meta), revision=found.revision)
        return False

    node.await_programmed = touched_then_late
    answer = node.run("ADD", "c1", workload(), args=ARGS, conf=node.conf(policy_setup_timeout_seconds=0.05))
    assert answer.status == 1
    assert store.pod.metadata.labels["seen"] == "yes"
    assert store.pod.spec.container_id == "" and not store.pod.spec.ip_networks
    assert not (node.links() or node.ipam.handles())


def test_younger_pod_of_the_same_name_gets_nothing_of_the_former(
    node: Any, store: Pods, workload: Callable[[], str]
) -> None:
    store.appears("u1")

    def replaced() -> None:
        store.vanishes()
        store.appears("u2")

    store.before_update = replaced
    answer = node.run("ADD", "c1", workload(), args=ARGS)
    assert answer.said["code"] == 11 and "was deleted while its network was made" in answer.said["msg"]
    assert store.pod.metadata.uid == "u2" and not store.pod.spec.ip_networks
    assert node.run("DEL", "c1", args=ARGS).status == 0
    assert not (node.links() or node.ipam.handles())
