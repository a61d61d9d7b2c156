"""From a policy's commit to its effect on new flows: ``python -m bench policy --workloads 50 --policies 100``.

One sender opens a new UDP flow every 0.5 ms between two local workloads, the receiver stamps arrivals. Deny latency:
last arrival after the datastore acknowledged the policy; allow latency: first arrival after it acknowledged the
removal. Medians of the rounds. The limit in the same run: the datastore's own time from commit to its watch.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import select
import socket
import statistics
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from bench import _common as common
from calico_kernel.host import netns
from calico_kernel.model.keys import ResourceKey, ResourceQuery
from calico_kernel.model.policy import EntityRule, Rule
from calico_kernel.testing import node as rig

PORT = 9000
INTERVAL_S = 0.0005
QUIET_S = 0.25
PATIENCE_S = 30.0


def _send(workload: str, target: str, stop: Connection) -> None:
    with netns.entered(workload):
        due = time.monotonic()
        while not stop.poll(0):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flow, contextlib.suppress(OSError):
                flow.sendto(b"x", (target, PORT))
            due += INTERVAL_S
            time.sleep(max(0.0, due - time.monotonic()))


def _receive(workload: str, pipe: Connection) -> None:
    """Keeps the newest arrivals; answers (first after T, last) for each T that it is asked for."""
    with netns.entered(workload), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", PORT))
        arrivals: list[float] = []
        while True:
            waiting: list[Any] = [server, pipe]
            ready, _, _ = select.select(waiting, [], [])
            if server in ready:
                server.recv(16)
                arrivals.append(time.monotonic())
            if pipe in ready:
                since = pipe.recv()
                if since is None:
                    return
                later = [stamp for stamp in arrivals[-20000:] if stamp > since]
                pipe.send((later[0] if later else None, arrivals[-1] if arrivals else None))


class Flows:
    """New flows from workload 0 to workload 1."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._stop, stopped = context.Pipe()
        self._processes = [
            context.Process(target=_receive, args=(rig.name_of(1), theirs), daemon=True),
            context.Process(target=_send, args=(rig.name_of(0), rig.address_of(1), stopped), daemon=True),
        ]
        for process in self._processes:
            process.start()

    def close(self) -> None:
        self._stop.send(None)
        self._pipe.send(None)
        for process in self._processes:
            process.join(5)

    def _ask(self, since: float) -> tuple[float | None, float | None]:
        self._pipe.send(since)
        answer: tuple[float | None, float | None] = self._pipe.recv()
        return answer

    def last_arrival(self, since: float) -> float:
        """Wait until nothing arrives any more; the last arrival (``since`` if none came after it)."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            _, last = self._ask(since)
            if (last is None or time.monotonic() - last > QUIET_S) and time.monotonic() - since > QUIET_S:
                return max(last or since, since)
            time.sleep(0.02)
        raise SystemExit("flows were never denied")

    def first_arrival(self, since: float) -> float:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            first, _ = self._ask(since)
            if first is not None:
                return first
            time.sleep(0.002)
        raise SystemExit("flows were never allowed")


def measure(store_rig: rig.NodeRig, rounds: int) -> tuple[list[float], list[float]]:
    store = store_rig.store
    key, deny = rig.policy(
        "aa-deny",
        order=1.0,
        selector="number == '1'",
        types=("Ingress",),
        ingress=(Rule(action="Deny", protocol="UDP", destination=EntityRule(ports=(PORT,))),),
    )
    denied, allowed = [], []
    flows = Flows()
    try:
        flows.first_arrival(time.monotonic())
        for _ in range(rounds):
            store.create(key, deny)
            since = time.monotonic()
            denied.append((flows.last_arrival(since) - since) * 1000)
            store.delete(key)
            since = time.monotonic()
            allowed.append((flows.first_arrival(since) - since) * 1000)
            time.sleep(0.1)
    finally:
        flows.close()
    return denied, allowed


def watch_ms(store_rig: rig.NodeRig, rounds: int) -> float:
    """The datastore alone, from acknowledgement to the watch of another connection."""
    store = store_rig.store
    times = []
    key, value = rig.policy("aa-watch", order=1.0, selector="number == 'none'")
    listing = store.list([ResourceQuery("Tier")])
    watch = store.watch([ResourceQuery("GlobalNetworkPolicy")], revision=listing.revision)
    for _ in range(rounds):
        store.create(key, value)
        since = time.monotonic()
        while not any(event.key == key for event in watch.next(5.0)):
            pass
        times.append((time.monotonic() - since) * 1000)
        store.delete(ResourceKey("GlobalNetworkPolicy", "", "aa-watch"))
        watch.next(5.0)
    watch.close()
    return statistics.median(times)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench policy", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--workloads", type=int, default=50)
    parser.add_argument("--policies", type=int, default=100)
    parser.add_argument("--remote", type=int, default=0, help="endpoints on other nodes")
    parser.add_argument("--rounds", type=int, default=8)
    common.add_datastore_option(parser)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    common.enter_bubble("policy", argv)
    with (
        common.datastore(options.datastore) as store,
        rig.NodeRig(
            workloads=max(options.workloads, 2),
            policy_count=options.policies,
            remote=options.remote,
            progress=not options.json,
            **store,
        ) as node,
    ):
        node.start_agent()
        denied, allowed = measure(node, options.rounds)
        limit = watch_ms(node, options.rounds)
    deny, allow = statistics.median(denied), statistics.median(allowed)
    common.report(
        {
            "datastore": options.datastore,
            "workloads": options.workloads,
            "policies": options.policies,
            "remote": options.remote,
            "deny_p50_ms": round(deny, 2),
            "allow_p50_ms": round(allow, 2),
            "watch_p50_ms": round(limit, 2),
            "deny_over_watch": round(deny / limit, 1) if limit else None,
        },
        as_json=options.json,
    )
    return 0
