"""A process dies between any two writes: no address is given twice, and what is left can be mended."""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from calico_ipam_blocks.ipam import BlocksIpam
from calico_ipam_blocks.settings import BlocksSettings
from calico_kernel.errors import CalicoError, PoolExhausted, RevisionConflict
from calico_kernel.hookspecs import Datastore
from calico_kernel.model.ipam import AllocationBlock, ReleaseRequest
from calico_kernel.model.keys import BlockQuery, HandleQuery, Key
from calico_kernel.model.records import Record, Value
from calico_kernel.testing.ipam import add_node, add_pool, addresses, give_back, want
from calico_kernel.testing.memory_datastore import MemoryDatastore

MEND_NOW = BlocksSettings(reclaim_age_s=0, settle_s=0)


class Died(BaseException):
    """The process is gone: nothing after this runs, no clean-up either."""


class MortalDatastore(MemoryDatastore):
    """Dies at write number ``dies_at``: before it is stored, or after but before the answer arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.dies_at = -1
        self.after = False
        self.dead = False

    def _mortal(self, write: Callable[[], Record]) -> Record:
        if self.dead:
            raise Died
        self.writes += 1
        if self.writes != self.dies_at:
            return write()
        if self.after:
            with suppress(CalicoError):
                write()
        self.dead = True
        raise Died

    def create(self, key: Key, value: Value) -> Record:
        return self._mortal(lambda: MemoryDatastore.create(self, key, value))

    def update(self, key: Key, value: Value, *, revision: str) -> Record:
        return self._mortal(lambda: MemoryDatastore.update(self, key, value, revision=revision))

    def delete(self, key: Key, *, revision: str | None = None) -> Record:
        return self._mortal(lambda: MemoryDatastore.delete(self, key, revision=revision))

    def revive(self) -> None:
        self.dead, self.dies_at = False, -1


def held_twice(store: Datastore) -> list[str]:
    """Addresses that two blocks, or two entries, give out."""
    found: Counter[str] = Counter()
    for record in store.list([BlockQuery()]).records:
        assert isinstance(record.value, AllocationBlock)
        span = ip_network(record.value.cidr)
        found.update(str(span[o]) for o, index in enumerate(record.value.allocations) if index is not None)
    return [address for address, times in found.items() if times > 1]


def assign_dual_stack(ipam: BlocksIpam) -> None:
    ipam.assign(want("h", num_ipv4=2, num_ipv6=1))


def assign_across_blocks(ipam: BlocksIpam) -> None:
    ipam.assign(want("h", count=6))


def assign_exact(ipam: BlocksIpam) -> None:
    ipam.assign(want("h", addresses=(ip_address("10.0.0.9"), ip_address("10.0.0.21"))))


def assign_warm(ipam: BlocksIpam) -> None:
    ipam.assign(want("warm", num_ipv4=1, num_ipv6=1))
    ipam.assign(want("h", num_ipv4=1, num_ipv6=1))


def assign_and_release_by_handle(ipam: BlocksIpam) -> None:
    ipam.assign(want("h", num_ipv4=5, num_ipv6=1))
    ipam.release_by_handle("h")


def assign_and_release_one(ipam: BlocksIpam) -> None:
    got = ipam.assign(want("h", count=2))
    ipam.release(give_back(got)[:1])


def take_over_a_block(ipam: BlocksIpam) -> None:
    ipam.assign(want("theirs", "n2", count=29))
    ipam.release_by_handle("theirs")
    ipam.assign(want("h", "n1"))


def forget_a_node(ipam: BlocksIpam) -> None:
    ipam.assign(want("h", count=5))
    ipam.release_node("n1")


SCENARIOS = (
    assign_dual_stack,
    assign_across_blocks,
    assign_exact,
    assign_warm,
    assign_and_release_by_handle,
    assign_and_release_one,
    take_over_a_block,
    forget_a_node,
)


def world() -> MortalDatastore:
    store = MortalDatastore()
    add_node(store, "n1")
    add_node(store, "n2")
    add_pool(store, "four", "10.0.0.0/27", block_size=30)
    add_pool(store, "six", "fd00:1::/120", block_size=122)
    return store


@pytest.mark.parametrize("after", [False, True], ids=["before-it", "after-it"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_death_at_any_write_gives_nothing_twice_and_is_mended(
    scenario: Callable[[BlocksIpam], None], after: bool
) -> None:
    whole = world()
    scenario(BlocksIpam(whole, MEND_NOW))
    assert whole.writes > 1
    for at in range(1, whole.writes + 1):
        store = world()
        store.dies_at, store.after = at, after
        with suppress(Died):
            scenario(BlocksIpam(store, MEND_NOW))
        store.revive()
        survivor = BlocksIpam(store, MEND_NOW)
        for problem in survivor.check():
            assert problem.kind != "handle-counts-too-little"  # what a handle holds can always be found by it
        survivor.assign(want("next", "n1"))
        survivor.assign(want("other", "n2"))
        assert held_twice(store) == []
        survivor.collect(survivor.check())
        assert list(survivor.check()) == []
        for handle in ("h", "warm", "theirs", "next", "other"):
            survivor.release_by_handle(handle)
        assert list(store.list([HandleQuery()]).records) == []
        assert len(addresses(survivor.assign(want("all", "n1", count=32)))) == 32


# ── many processes on one file, some of them killed ──


def sqlite_store(path: str) -> Datastore:
    from calico_datastore_sqlite.settings import SqliteSettings
    from calico_datastore_sqlite.store import SqliteDatastore

    return SqliteDatastore(SqliteSettings(path=path, durability="normal", busy_timeout_s=20))


def hammer(opener: Callable[[], Datastore], worker: int, journal: str, stop_s: float) -> None:
    """Assign and release at random; write down what was promised, each line before the next request."""
    chance = random.Random(worker)
    ipam = BlocksIpam(opener(), MEND_NOW)
    node = f"n{worker % 3}"
    mine: dict[str, list[ReleaseRequest]] = {}
    deadline = time.monotonic() + stop_s
    number = 0
    with open(journal, "a", buffering=1) as out:
        while time.monotonic() < deadline:
            number += 1
            if chance.random() < 0.03:
                ipam.release_node(f"n{chance.randrange(3)}")
            if mine and (len(mine) > 6 or chance.random() < 0.4):
                handle = chance.choice(list(mine))
                out.write(f"release {handle}\n")
                if chance.random() < 0.5:
                    ipam.release_by_handle(handle)
                else:
                    with suppress(RevisionConflict):
                        ipam.release(mine[handle])
                del mine[handle]
                continue
            handle = f"w{worker}-{os.getpid()}-{number}"
            request = want(handle, node, num_ipv4=chance.choice((1, 1, 2)), num_ipv6=chance.choice((0, 1)))
            try:
                got = ipam.assign(request)
            except PoolExhausted:
                continue
            mine[handle] = list(give_back(got))
            out.write(f"have {handle} {' '.join(str(one.address) for one in got.addresses)}\n")


def holdings(journals: Iterable[Path]) -> dict[str, str]:
    """Address -> the handle that was promised it and never asked for its release. Nobody shares one."""
    promised: dict[str, list[str]] = {}
    for journal in journals:
        for line in journal.read_text().splitlines():
            match line.split():
                case ["have", handle, *found]:
                    promised[handle] = found
                case ["release", handle]:
                    del promised[handle]
    shared = Counter(address for found in promised.values() for address in found)
    assert [address for address, times in shared.items() if times > 1] == []
    return {address: handle for handle, found in promised.items() for address in found}


def test_many_processes_some_killed_never_share_an_address_nor_lose_one(tmp_path: Path) -> None:
    pytest.importorskip("calico_datastore_sqlite", reason="processes share a file, which takes calico-datastore-sqlite")
    opener = functools.partial(sqlite_store, str(tmp_path / "calico.db"))
    store = opener()
    for number in range(3):
        add_node(store, f"n{number}")
    add_pool(store, "four", "10.0.0.0/25", block_size=29)
    add_pool(store, "six", "fd00:1::/121", block_size=125)
    context = multiprocessing.get_context("fork")
    chance = random.Random(7)
    running: list[multiprocessing.process.BaseProcess] = []
    started = 0

    def start(stop_s: float) -> None:
        nonlocal started
        process = context.Process(target=hammer, args=(opener, started, str(tmp_path / f"{started}.log"), stop_s))
        process.start()
        running.append(process)
        started += 1

    for _ in range(5):
        start(5.0)
    end = time.monotonic() + 4.0
    while time.monotonic() < end:
        time.sleep(chance.uniform(0.02, 0.15))
        victim = chance.choice(running)
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        running.remove(victim)
        start(max(0.2, end - time.monotonic()))
    for process in running:
        process.join()
        assert process.exitcode == 0
    assert started > 8
    assert held_twice(store) == []
    promised = holdings(tmp_path.glob("*.log"))
    assert len(promised) > 10
    ipam = BlocksIpam(store, MEND_NOW)
    for address, handle in promised.items():
        assert ipam.inspect(ip_address(address)).handle == handle
    ipam.collect(ipam.check())
    assert list(ipam.check()) == []
    for record in store.list([HandleQuery()]).records:
        ipam.release_by_handle(record.key.handle)  # type: ignore[union-attr]
    assert sum(pool.in_use for pool in ipam.report().pools) == 0
    assert list(ipam.check()) == []
    store.close()
