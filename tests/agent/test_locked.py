"""A locked datastore is not written by the agent: it waits at its start, and tunnel addresses stay as they are."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from calico_kernel.agent.feed import LOCKED
from calico_kernel.agent.node import NodeAgent
from calico_kernel.agent.tunnels import TunnelAddresses
from calico_kernel.client import Client
from calico_kernel.client.lock import lock, unlock
from calico_kernel.compose import compose
from calico_kernel.config import load
from calico_kernel.errors import DatastoreUnavailable
from calico_kernel.hookspecs import Datastore
from calico_kernel.model.keys import ResourceQuery
from calico_kernel.testing.ipam import add_node, add_pool
from calico_kernel.testing.memory_datastore import MemoryDatastore
from calico_kernel.testing.memory_ipam import MemoryIpam

WAIT_S = 15.0


def nodes(store: Datastore) -> int:
    return len(store.list([ResourceQuery("Node")]).records)


def test_agent_that_starts_on_a_locked_datastore_waits_and_writes_nothing(tmp_path: Path) -> None:
    config = tmp_path / "calico.yaml"
    config.write_text(f"node: n1\ndatastore: {{plugin: sqlite, path: {tmp_path}/calico.db}}\n")
    composition = compose(load(str(config)))
    store = composition.open_datastore()
    lock(Client(store=store))
    agent = NodeAgent(composition, {})
    opened = threading.Thread(target=agent._open_datastore)
    opened.start()
    deadline = time.monotonic() + WAIT_S
    while agent._phase != LOCKED and time.monotonic() < deadline:
        time.sleep(0.01)
    assert agent._datastore_health().reason == LOCKED and nodes(store) == 0
    unlock(Client(store=store))
    opened.join(WAIT_S)
    assert not opened.is_alive() and nodes(store) == 1
    composition.close()


def test_tunnel_addresses_wait_for_the_unlock() -> None:
    store = MemoryDatastore()
    add_node(store, "n1")
    add_pool(store, "main", "10.8.0.0/24", vxlan_mode="Always")
    lock(Client(store=store))
    ipam = MemoryIpam(store)
    tunnels = TunnelAddresses("n1", store, ipam)
    with pytest.raises(DatastoreUnavailable, match="locked"):
        tunnels.reconcile()
    assert not ipam.addresses_by_handle("vxlan-tunnel-addr-n1")
    unlock(Client(store=store))
    tunnels.reconcile()
    assert len(ipam.addresses_by_handle("vxlan-tunnel-addr-n1")) == 1
