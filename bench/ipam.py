"""``python -m bench ipam --processes 8``: addresses assigned per second by many processes on one datastore file.

Each process is a node of its own that assigns one IPv4 address at a time, each under a handle of its own, and gives
none back. Beside it, measured before with the same file and the same processes: the datastore's bare compare-and-swap
rate, each process on a key of its own. An assignment is two writes (the handle, then the block), one trip to the disk.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from calico_datastore_sqlite.settings import SqliteSettings
from calico_datastore_sqlite.store import SqliteDatastore
from calico_ipam_blocks.ipam import BlocksIpam
from calico_kernel.model.endpoints import Node
from calico_kernel.model.ipam import AssignRequest
from calico_kernel.model.keys import ResourceKey
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.network import GlobalNetworkSet, IPPool, IPPoolSpec

Work = Callable[[SqliteDatastore, int, float], list[str]]


def swap(store: SqliteDatastore, number: int, until: float) -> list[str]:
    """Compare-and-swap one small record; returns one entry for each."""
    name = f"swap-{number}"
    key = ResourceKey("GlobalNetworkSet", "", name)
    record = store.create(key, GlobalNetworkSet(metadata=ObjectMeta(name=name)))
    done = 0
    while time.monotonic() < until:
        done += 1
        value = GlobalNetworkSet(metadata=ObjectMeta(name=name, labels={"done": str(done)}))
        record = store.update(key, value, revision=record.revision)
    return [""] * done


def assign(store: SqliteDatastore, number: int, until: float) -> list[str]:
    """Assign addresses one by one; returns them."""
    ipam = BlocksIpam(store)
    found: list[str] = []
    while time.monotonic() < until:
        request = AssignRequest(
            handle=f"bench.{number}.{len(found)}",
            node=f"node-{number}",
            num_ipv4=1,
            attributes={"namespace": "bench", "pod": f"pod-{len(found)}", "node": f"node-{number}"},
            max_blocks=1_000_000,
        )
        found.append(str(ipam.assign(request).addresses[0].address))
    return found


def worker(
    settings: SqliteSettings, work: Work, number: int, seconds: float, ready: Barrier, results: Queue[list[str]]
) -> None:
    store = SqliteDatastore(settings)
    ready.wait()
    results.put(work(store, number, time.monotonic() + seconds))
    store.close()


def measure(settings: SqliteSettings, work: Work, processes: int, seconds: float) -> tuple[float, list[str]]:
    """(results per second, all results) of ``processes`` that work at the same time."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(processes + 1)
    results: Queue[list[str]] = context.Queue()
    running = [
        context.Process(target=worker, args=(settings, work, number, seconds, ready, results))
        for number in range(processes)
    ]
    for process in running:
        process.start()
    ready.wait()
    start = time.monotonic()
    found = [one for _ in running for one in results.get()]
    elapsed = time.monotonic() - start
    for process in running:
        process.join()
    return len(found) / elapsed, found


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench ipam", description=__doc__)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each of the two measurements")
    parser.add_argument("--durability", choices=("full", "normal"), default="full")
    parser.add_argument("--directory", help="where to put the file (default: the system's temporary directory)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        settings = SqliteSettings(
            path=str(Path(directory) / "calico.db"), durability=args.durability, busy_timeout_s=30.0
        )
        store = SqliteDatastore(settings)
        pool = IPPool(metadata=ObjectMeta(name="bench"), spec=IPPoolSpec(cidr="10.0.0.0/8"))
        store.create(ResourceKey("IPPool", "", "bench"), pool)
        for number in range(args.processes):
            name = f"node-{number}"
            store.create(ResourceKey("Node", "", name), Node(metadata=ObjectMeta(name=name)))
        cas_per_s, _ = measure(settings, swap, args.processes, args.seconds)
        addresses_per_s, addresses = measure(settings, assign, args.processes, args.seconds)
        store.close()
    duplicates = sum(times - 1 for times in Counter(addresses).values())
    result = {
        "processes": args.processes,
        "addresses_per_s": round(addresses_per_s, 1),
        "cas_per_s": round(cas_per_s, 1),
        "duplicates": duplicates,
    }
    if args.json:
        print(json.dumps(result))
    else:
        print(f"{args.processes} processes on one SQLite file, durability {args.durability}")
        print(f"  addresses assigned   {addresses_per_s:10,.0f} /s")
        print(f"  bare compare-and-swap{cas_per_s:10,.0f} /s")
        print(f"  duplicates           {duplicates:10}")
    return 1 if duplicates else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
