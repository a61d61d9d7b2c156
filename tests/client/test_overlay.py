"""What a write would do, tried without doing it."""

from __future__ import annotations

import pytest

from calico_kernel.client import Client
from calico_kernel.client.overlay import Overlay
from calico_kernel.errors import NotFound
from calico_kernel.model.endpoints import Node
from calico_kernel.model.keys import Key, ResourceKey, ResourceQuery
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.network import GlobalNetworkSet
from calico_kernel.testing.memory_datastore import MemoryDatastore


class Cluster(MemoryDatastore):
    """Its Nodes are another system's objects."""

    def derived_from(self, key: Key) -> str:
        return f"Node {key.name}" if isinstance(key, ResourceKey) and key.kind == "Node" else ""


def test_what_only_another_system_can_make_is_refused_and_the_rest_would_be_stored() -> None:
    store = Cluster()
    tried = Overlay(store)
    client = Client(store=tried)
    with pytest.raises(NotFound, match=r"cannot create Node\(n9\): Node n9 does not exist"):
        client.create(Node(metadata=ObjectMeta(name="n9")))
    client.create(GlobalNetworkSet(metadata=ObjectMeta(name="feed")))
    assert ResourceKey("GlobalNetworkSet", "", "feed") in tried.changed
    assert not store.list([ResourceQuery("GlobalNetworkSet")]).records
