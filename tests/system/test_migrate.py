"""A cluster is carried from SQLite to etcd and back: nothing is lost, a killed copy goes on, addresses stay unique."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from calico_datastore_etcd.testing import EtcdServer
from calico_ipam_blocks.ipam import BlocksIpam
from calico_kernel.client import Client, ensure_initialized
from calico_kernel.client.lock import is_locked
from calico_kernel.model.keys import ResourceKey, ResourceQuery
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.network import GlobalNetworkSet, NetworkSetSpec
from calico_kernel.testing.ipam import add_node, add_pool, addresses, want
from tests.system.migration import Place, command, copied, etcd_place, load_golden, sqlite_place

WAIT_S = 30.0


@pytest.fixture
def places(tmp_path: Path, etcd_server: EtcdServer) -> Iterator[tuple[Place, Place, Place]]:
    with contextlib.ExitStack() as stack:
        etcd = etcd_place(stack, tmp_path, etcd_server)
        yield sqlite_place(stack, tmp_path, "first"), etcd, sqlite_place(stack, tmp_path, "last")


def test_what_calico_stored_goes_to_etcd_and_back_key_by_key(places: tuple[Place, Place, Place]) -> None:
    first, etcd, last = places
    load_golden(first.store)
    before = first.contents()
    assert len(before) > 40
    there = copied(first, etcd)
    assert there["verified"] and there["records"] == len(before) and there["kinds"]["Block"] == 2
    assert etcd.contents() == before
    copied(etcd, last)
    assert last.contents() == before
    assert [is_locked(place.store) for place in places] == [True, True, False]


def test_copy_killed_half_way_goes_on_where_it_was(places: tuple[Place, Place, Place]) -> None:
    first, etcd, _ = places
    ensure_initialized(Client(store=first.store))
    for number in range(1500):
        name = f"s{number:04}"
        value = GlobalNetworkSet(metadata=ObjectMeta(name=name), spec=NetworkSetSpec(nets=("10.0.0.0/8",)))
        first.store.create(ResourceKey("GlobalNetworkSet", "", name), value)
    before = first.contents()
    process = subprocess.Popen(command(first, etcd), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + WAIT_S
    while len(etcd.store.list([ResourceQuery("GlobalNetworkSet")]).records) < 100 and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -9
    partial = len(etcd.contents())
    assert 100 <= partial < len(before)
    assert is_locked(first.store) and is_locked(etcd.store)
    report = copied(first, etcd)
    assert report["resumed"] and report["alreadyThere"] == partial - 1
    assert report["written"] == len(before) - partial
    assert etcd.contents() == before


def test_target_with_other_data_is_refused_and_nothing_is_locked(places: tuple[Place, Place, Place]) -> None:
    first, etcd, _ = places
    load_golden(first.store)
    add_pool(etcd.store, "theirs", "10.9.0.0/16")
    ran = subprocess.run(command(first, etcd), capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and "not of this copy (IPPool 1)" in json.loads(ran.stdout)["error"]
    assert not is_locked(first.store) and not is_locked(etcd.store)
    assert copied(first, etcd, "--overwrite")["deleted"] == 1


def test_addresses_go_on_at_the_target_and_none_is_given_twice(places: tuple[Place, Place, Place]) -> None:
    first, etcd, _ = places
    ensure_initialized(Client(store=first.store))
    add_pool(first.store, "main", "10.8.0.0/24")
    for node in ("n0", "n1"):
        add_node(first.store, node)
    ipam = BlocksIpam(first.store)
    held = {f"w{number}": addresses(ipam.assign(want(f"w{number}", f"n{number % 2}"))) for number in range(40)}
    copied(first, etcd)
    ipam = BlocksIpam(etcd.store)
    for handle, mine in held.items():
        assert [one.address for one in ipam.addresses_by_handle(handle)] == list(mine)
    assert not ipam.check()
    for number in range(40, 120):
        held[f"w{number}"] = addresses(ipam.assign(want(f"w{number}", f"n{number % 2}")))
    given = [address for mine in held.values() for address in mine]
    assert len(given) == len(set(given)) == 120
    assert len(ipam.release_by_handle("w3")) == 1 and not ipam.addresses_by_handle("w3")
    assert not ipam.check()
