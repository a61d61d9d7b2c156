"""How an agent makes its node known where Nodes are another system's objects."""

from __future__ import annotations

import pytest

from calico_kernel.agent.registration import register
from calico_kernel.config import AgentSettings
from calico_kernel.errors import DatastoreUnavailable, NotFound
from calico_kernel.model.endpoints import Node
from calico_kernel.model.keys import Key, ResourceKey
from calico_kernel.model.meta import ObjectMeta
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
