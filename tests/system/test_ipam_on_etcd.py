"""Block IPAM over a real etcd, by processes that compete, are killed, and lose their server: no address twice."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

from calico_datastore_etcd.settings import EtcdSettings
from calico_datastore_etcd.store import EtcdDatastore
from calico_datastore_etcd.testing import EtcdServer
from calico_ipam_blocks.ipam import BlocksIpam
from calico_ipam_blocks.settings import BlocksSettings
from calico_kernel.errors import DatastoreUnavailable, PoolExhausted
from calico_kernel.hookspecs import Datastore
from calico_kernel.model.ipam import AllocationBlock
from calico_kernel.model.keys import BlockQuery
from calico_kernel.testing.ipam import add_node, add_pool, addresses, want

WORKERS, SECONDS = 4, 4.0
MEND_NOW = BlocksSettings(reclaim_age_s=0, settle_s=0)


def opened(url: str) -> Datastore:
    return EtcdDatastore(EtcdSettings(endpoints=url, dial_timeout_s=5))


def hammer(opener: Callable[[], Datastore], worker: int, journal: str, seconds: float) -> None:
    """Assign and release at random. What was promised is written down after, what is given back before."""
    chance = random.Random(worker)
    ipam = BlocksIpam(opener())
    mine: list[str] = []
    deadline = time.monotonic() + seconds
    number = 0
    with open(journal, "a", buffering=1) as out:
        while time.monotonic() < deadline:
            number += 1
            if mine and (len(mine) > 8 or chance.random() < 0.4):
                handle = mine.pop(chance.randrange(len(mine)))
                out.write(f"release {handle}\n")
                with contextlib.suppress(DatastoreUnavailable):
                    ipam.release_by_handle(handle)
                continue
            handle = f"w{worker}.{number}"
            try:
                got = ipam.assign(want(handle, f"n{worker % 2}", count=chance.randrange(1, 4)))
            except (PoolExhausted, DatastoreUnavailable):
                continue
            out.write(f"got {handle} {' '.join(map(str, addresses(got)))}\n")
            mine.append(handle)


def test_no_address_is_given_twice_over_a_server_that_restarts(tmp_path: Path) -> None:
    server = EtcdServer(tmp_path)
    server.start()
    try:
        store = opened(server.url)
        for number in range(2):
            add_node(store, f"n{number}")
        add_pool(store, "four", "10.0.0.0/26", block_size=29)
        context = multiprocessing.get_context("spawn")
        opener = functools.partial(opened, server.url)
        workers = [
            context.Process(target=hammer, args=(opener, number, str(tmp_path / f"journal-{number}"), SECONDS))
            for number in range(WORKERS)
        ]
        for worker in workers:
            worker.start()
        time.sleep(SECONDS / 2)
        server.kill()
        server.start()
        workers[0].kill()
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers[1:]] == [0] * (WORKERS - 1)

        held: dict[str, str] = {}
        promised = 0
        for number in range(WORKERS):
            mine: dict[str, str] = {}
            for line in (tmp_path / f"journal-{number}").read_text().splitlines(keepends=True):
                if not line.endswith("\n"):
                    continue  # the last one of a process that was killed
                words = line.split()
                if words[0] == "got":
                    promised += 1
                    mine.update(dict.fromkeys(words[2:], words[1]))
                else:
                    mine = {address: handle for address, handle in mine.items() if handle != words[1]}
            assert not held.keys() & mine.keys()
            held |= mine
        assert promised > 20
        # Each address that its holder still relies on belongs to that holder, and so to nobody else.
        ipam = BlocksIpam(store, MEND_NOW)
        owners = {str(one.address): handle for handle in set(held.values()) for one in ipam.addresses_by_handle(handle)}
        assert {address: owners.get(address) for address in held} == held
        found: Counter[str] = Counter()
        for record in store.list([BlockQuery()]).records:
            assert isinstance(record.value, AllocationBlock)
            span = ip_network(record.value.cidr)
            found.update(str(span[n]) for n, index in enumerate(record.value.allocations) if index is not None)
        assert not [address for address, times in found.items() if times > 1]
        ipam.collect(ipam.check())
        assert list(ipam.check()) == []
        store.close()
    finally:
        server.kill()
