"""Requests of many threads at once: few writes, no address twice, and each is told what became of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from calico_ipam_blocks.ipam import BlocksIpam
from calico_ipam_blocks.settings import BlocksSettings
from calico_kernel.errors import DatastoreUnavailable
from calico_kernel.model.ipam import Address, Assignment
from calico_kernel.model.keys import BlockKey, HandleQuery, Key
from calico_kernel.model.records import Record, Value
from calico_kernel.testing.ipam import add_node, add_pool, addresses, want
from calico_kernel.testing.memory_datastore import MemoryDatastore

MEND_NOW = BlocksSettings(reclaim_age_s=0, settle_s=0)


class SlowDatastore(MemoryDatastore):
    """Each write takes a while, as over a network; counts those of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.write_s = 0.0
        self.blocks_written = 0
        self.before_block: Callable[[], None] | None = None

    def create(self, key: Key, value: Value) -> Record:
        time.sleep(self.write_s)
        return super().create(key, value)

    def update(self, key: Key, value: Value, *, revision: str) -> Record:
        time.sleep(self.write_s)
        if isinstance(key, BlockKey):
            self.blocks_written += 1
            if self.before_block is not None:
                self.before_block()
        return super().update(key, value, revision=revision)


@pytest.fixture
def store() -> SlowDatastore:
    made = SlowDatastore()
    add_node(made, "n1")
    add_pool(made, "four", "10.0.0.0/24", block_size=26)
    add_pool(made, "six", "fd00::/116", block_size=122)
    return made


def at_once(ipam: BlocksIpam, count: int, **wanted: int) -> list[Assignment | Exception]:
    barrier = threading.Barrier(count)

    def one(number: int) -> Assignment | Exception:
        barrier.wait()
        try:
            return ipam.assign(want(f"h{number}", "n1", **wanted))
        except DatastoreUnavailable as exc:
            return exc

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def given(results: list[Assignment | Exception]) -> list[Address]:
    return [address for one in results if isinstance(one, Assignment) for address in addresses(one)]


def test_many_at_once_share_the_writes_of_their_block(store: SlowDatastore) -> None:
    ipam = BlocksIpam(store, MEND_NOW)
    ipam.assign(want("first", "n1"))
    store.write_s, store.blocks_written = 0.02, 0
    found = given(at_once(ipam, 24))
    assert len(set(found)) == 24
    assert store.blocks_written <= 8
    store.write_s = 0.0
    assert ipam.check() == []
    for number in range(24):
        assert len(ipam.release_by_handle(f"h{number}")) == 1
    assert [record.key.handle for record in store.list([HandleQuery()]).records] == ["first"]


def test_both_families_are_given_whole(store: SlowDatastore) -> None:
    ipam = BlocksIpam(store, MEND_NOW)
    ipam.assign(want("first", "n1", num_ipv4=1, num_ipv6=1))
    store.write_s = 0.005
    results = at_once(ipam, 16, num_ipv4=1, num_ipv6=2)
    assert all(isinstance(one, Assignment) and len(one.addresses) == 3 for one in results)
    assert len(set(given(results))) == 48
    assert ipam.check() == []


def test_more_than_the_block_holds_go_on_in_the_next(store: SlowDatastore) -> None:
    ipam = BlocksIpam(store, MEND_NOW)
    ipam.assign(want("first", "n1", count=60))
    store.write_s = 0.002
    assert len(set(given(at_once(ipam, 16)))) == 16
    assert ipam.check() == []


def test_block_that_another_process_wrote_meanwhile_is_read_again(store: SlowDatastore) -> None:
    ipam, other = BlocksIpam(store, MEND_NOW), BlocksIpam(store, MEND_NOW)
    ipam.assign(want("first", "n1"))
    theirs: list[Address] = []

    def interfere() -> None:
        store.before_block = None
        theirs.extend(addresses(other.assign(want("theirs", "n1", count=3))))

    store.before_block, store.write_s = interfere, 0.002
    found = given(at_once(ipam, 12))
    assert len(theirs) == 3
    assert len({*found, *theirs}) == 15
    assert ipam.check() == []


def test_write_that_failed_is_told_to_all_who_waited_for_it_and_what_it_left_can_be_mended(
    store: SlowDatastore,
) -> None:
    ipam = BlocksIpam(store, MEND_NOW)
    ipam.assign(want("first", "n1"))

    def fail() -> None:
        store.before_block = None
        raise DatastoreUnavailable(what="the server is away", todo="wait")

    store.before_block, store.write_s = fail, 0.01
    results = at_once(ipam, 12)
    failed = [one for one in results if isinstance(one, Exception)]
    assert failed
    assert len(set(given(results))) == 12 - len(failed)
    store.write_s = 0.0
    assert {problem.kind for problem in ipam.check()} == {"handle-counts-too-much"}
    ipam.collect(ipam.check())
    assert ipam.check() == []
