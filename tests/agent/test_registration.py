"""How an agent makes its node known where Nodes are another system's objects."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from calico_kernel.agent.registration import Registration, register
from calico_kernel.config import AgentSettings
from calico_kernel.errors import DatastoreUnavailable, NotFound
from calico_kernel.model.endpoints import Node
from calico_kernel.model.keys import Key, ResourceKey
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.nodestate import Delta, MapDelta
from calico_kernel.model.records import Record, Value
from calico_kernel.testing.memory_datastore import MemoryDatastore

KEY = ResourceKey("Node", "", "node-1")
SETTINGS = AgentSettings(ipv4_address="172.30.0.11/24", ipv6_address="none")


class Cluster(MemoryDatastore):
    """A kubelet makes Nodes; we only complete them."""

    def derived_from(self, key: Key) -> str:
        return f"Node {key.name}" if isinstance(key, ResourceKey) and key.kind == "Node" else ""

    def create(self, key: Key, value: Value) -> Record:
        if self.derived_from(key):
            raise NotFound(what=f"resource does not exist: {key}", todo="create it")
        return super().create(key, value)

    def kubelet_registers(self) -> None:
        super().create(KEY, Node(metadata=ObjectMeta(name="node-1")))


def test_node_that_its_kubelet_has_not_registered_is_waited_for_and_then_gets_its_address() -> None:
    store = Cluster()
    with pytest.raises(DatastoreUnavailable, match="Node node-1 does not exist yet") as raised:
        register(store, "node-1", SETTINGS)
    assert raised.value.retryable and "CALICO_NODE" in raised.value.todo
    store.kubelet_registers()
    register(store, "node-1", SETTINGS)
    node = store.get(KEY).value
    assert isinstance(node, Node) and node.spec.bgp is not None
    assert node.spec.bgp.ipv4_address == "172.30.0.11/24"


def test_node_that_is_made_anew_while_its_agent_runs_gets_its_address_again() -> None:
    store = Cluster()
    store.kubelet_registers()
    kept = Registration("node-1", store, SETTINGS)
    kept.start()
    try:
        kept.saw(Delta(full=True))
        wait_until(lambda: address(store) == "172.30.0.11/24")
        store.delete(KEY)
        kept.saw(Delta(hosts=MapDelta(removes=("node-1",))))
        wait_until(lambda: "does not exist yet" in kept.trouble)
        store.kubelet_registers()
        wait_until(lambda: address(store) == "172.30.0.11/24")
        wait_until(lambda: kept.health().ok)
    finally:
        kept.stop()
        kept.join()


def test_change_of_another_node_is_no_concern() -> None:
    kept = Registration("node-1", Cluster(), SETTINGS)
    assert not kept.concerns(Delta(hosts=MapDelta(removes=("node-2",))))


def address(store: MemoryDatastore) -> str:
    node = store.get(KEY).value
    assert isinstance(node, Node)
    return node.spec.bgp.ipv4_address if node.spec.bgp else ""


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
