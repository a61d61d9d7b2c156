"""Block IPAM over a real etcd and a real Kubernetes API, by processes that compete, are killed, and lose their server:
no address twice."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_network
from multiprocessing.synchronize import Event
from pathlib import Path

import attrs
import pytest

from calico_datastore_etcd.settings import EtcdSettings
from calico_datastore_etcd.store import EtcdDatastore
from calico_datastore_etcd.testing import EtcdServer
from calico_datastore_kdd.settings import KubernetesSettings
from calico_datastore_kdd.store import KubernetesDatastore
from calico_datastore_kdd.testing import KubernetesServer
from calico_ipam_blocks.ipam import BlocksIpam
from calico_ipam_blocks.settings import BlocksSettings
from calico_kernel.errors import DatastoreUnavailable, PoolExhausted
from calico_kernel.hookspecs import Datastore
from calico_kernel.model.crds import custom_kinds, definition
from calico_kernel.model.ipam import AllocationBlock
from calico_kernel.model.keys import BlockQuery
from calico_kernel.testing.faulty_proxy import BAD_NETWORK, FaultyProxy
from calico_kernel.testing.ipam import add_node, add_pool, addresses, want
from calico_kernel.testing.patient import PatientDatastore

WORKERS, PROMISES, BOUND_S = 4, 30, 120.0
NODES = ("n0", "n1")
MEND_NOW = BlocksSettings(reclaim_age_s=0, settle_s=0)


@attrs.frozen
class World:
    """``opener`` opens the datastore, in any process; ``restart`` ends its server as a crash does, and starts it."""

    opener: Callable[[], Datastore]
    restart: Callable[[], None]


def on_etcd(url: str) -> Datastore:
    return EtcdDatastore(EtcdSettings(endpoints=url, dial_timeout_s=5))


def on_kubernetes(kubeconfig: str) -> Datastore:
    return KubernetesDatastore(KubernetesSettings(kubeconfig=kubeconfig))


@pytest.fixture(params=["etcd", "etcd through a bad network", "kubernetes"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param.startswith("etcd"):
        etcd = EtcdServer(tmp_path)
        etcd.start()
        store = on_etcd(etcd.url)
        for name in NODES:
            add_node(store, name)
        store.close()
        proxy = FaultyProxy(etcd.port, seed=1)
        if request.param != "etcd":
            proxy.take_chances(BAD_NETWORK)
        url = f"http://127.0.0.1:{proxy.port}"
        yield World(functools.partial(on_etcd, url), lambda: (etcd.kill(), etcd.start())[1])
        proxy.close()
        etcd.kill()
        return
    server = KubernetesServer(tmp_path / "kubernetes")
    server.start()
    server.define(map(definition, custom_kinds()))
    for name in NODES:
        server.request("POST", "/api/v1/nodes", {"metadata": {"name": name}})
    yield World(functools.partial(on_kubernetes, str(server.kubeconfig)), lambda: (server.kill(), server.start())[1])
    server.kill()


def hammer(opener: Callable[[], Datastore], worker: int, journal: str, stop: Event) -> None:
    """Assign and release at random. What was promised is written down after, what is given back before."""
    chance = random.Random(worker)
    ipam = BlocksIpam(opener())
    mine: list[str] = []
    number = 0
    with open(journal, "a", buffering=1) as out:
        while not stop.is_set():
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


def promises(journals: Sequence[Path]) -> int:
    return sum(journal.read_text().count("got ") for journal in journals if journal.exists())


def await_promises(journals: Sequence[Path], wanted: int) -> None:
    deadline = time.monotonic() + BOUND_S
    while promises(journals) < wanted or not all(journal.exists() for journal in journals):
        assert time.monotonic() < deadline, f"only {promises(journals)} promises"
        time.sleep(0.05)


def test_no_address_is_given_twice_over_a_server_that_restarts(world: World, tmp_path: Path) -> None:
    store = PatientDatastore(world.opener())
    try:
        add_pool(store, "four", "10.0.0.0/26", block_size=29)
        context = multiprocessing.get_context("spawn")
        stop = context.Event()
        journals = [tmp_path / f"journal-{number}" for number in range(WORKERS)]
        workers = [
            context.Process(target=hammer, args=(world.opener, number, str(journal), stop))
            for number, journal in enumerate(journals)
        ]
        for worker in workers:
            worker.start()
        await_promises(journals, PROMISES)
        world.restart()
        workers[0].kill()
        await_promises(journals, PROMISES + promises(journals))
        stop.set()
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers[1:]] == [0] * (WORKERS - 1)

        held: dict[str, str] = {}
        for journal in journals:
            mine: dict[str, str] = {}
            for line in journal.read_text().splitlines(keepends=True):
                if not line.endswith("\n"):
                    continue  # the last one of a process that was killed
                words = line.split()
                if words[0] == "got":
                    mine.update(dict.fromkeys(words[2:], words[1]))
                else:
                    mine = {address: handle for address, handle in mine.items() if handle != words[1]}
            assert not held.keys() & mine.keys()
            held |= mine
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
    finally:
        store.close()
