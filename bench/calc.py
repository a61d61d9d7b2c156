"""The calculation: bulk shapes as Felix measures itself with, and a steady stream of endpoint updates.

``seconds`` is the calculator's own time, first record to last delta out; making the input is not counted, and the input
is made in small batches of fresh objects, so that what stays in memory is what the calculator keeps. ``peak_rss_mib``
is of the whole process, interpreter and generator included. ``deltas`` counts the changes given out, as Felix counts
messages. Felix' figures (felix/calc/calc_graph_bench_test.go, Go 1.26, two cores) are for information: no test
depends on a time.
"""

from __future__ import annotations

import functools
import gc
import itertools
import json
import logging
import random
import re
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from calico_kernel.calc import Calculator
from calico_kernel.model.endpoints import WorkloadEndpoint, WorkloadEndpointSpec
from calico_kernel.model.keys import Key, ResourceKey
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.network import GlobalNetworkSet, NetworkSetSpec
from calico_kernel.model.nodestate import Delta
from calico_kernel.model.policy import (
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    Profile,
    ProfileSpec,
    Rule,
    Tier,
    TierSpec,
)

log = logging.getLogger(__name__)

Event = tuple[Key, Any]

NODE = "localhost"
MEBI = 1.048576
LOCAL = 200
BATCH = 100
"""Records made and handed over at a time."""
_MODULI = (10, 11, 20, 30, 40)
_MARKERS = [
    "alpha",
    "bravo",
    "charlie",
    "delta",
    "echo",
    "foxtrot",
    "golf",
    "hotel",
    "india",
    "juliett",
    "kilo",
    "lima",
    "mike",
    "november",
    "oscar",
    "papa",
    "quebec",
    "romeo",
    "sierra",
    "tango",
    "uniform",
    "victor",
    "whisky",
    "xray",
    "yankee",
    "zulu",
    "echo",
    "one",
    "two",
    "three",
    "alpha",
]
"""31 places, of which two repeat another's name."""

FELIX: dict[str, tuple[float, float]] = {
    "tags-250k-10k": (5.6, 283),
    "tags-250k-10k-delete": (5.9, 200),
    "netsets-10k-1k": (0.78, 98),
    "netsets-10k-10k": (10.3, 792),
    "netsets-10k-10k-delete": (15.9, 78),
    "isolated-10k": (0.37, 39),
    "isolated-100k": (7.4, 314),
}
"""Shape -> (seconds, MB of heap)."""


# ── input ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def fresh(text: str) -> str:
    """A string object of its own, as decoding gives."""
    return (text + "_")[:-1]


def ip(number: int) -> str:
    """Addresses count up from 10.0.0.1."""
    number += 0x0A000001
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def endpoint(
    namespace: str, name: str, node: str, address: str, labels: dict[str, str], profiles: tuple[str, ...]
) -> Event:
    spec = WorkloadEndpointSpec(
        orchestrator=fresh("k8s"),
        node=fresh(node),
        pod=fresh(name),
        endpoint=fresh("eth0"),
        ip_networks=(f"{address}/32",),
        interface_name=f"cali{name}"[:15],
        profiles=profiles,
    )
    value = WorkloadEndpoint(metadata=ObjectMeta(name=name, namespace=namespace, labels=labels), spec=spec)
    return ResourceKey(fresh("WorkloadEndpoint"), fresh(namespace), fresh(name)), value


def tagged_labels(serial: int) -> dict[str, str]:
    labels = {f"one-in-{n}": f"value-{serial % n}" for n in _MODULI}
    labels[fresh(_MARKERS[serial % 31])] = fresh("true")
    return labels


def tagged_endpoint(serial: int, node: str, labels: dict[str, str] | None = None) -> Event:
    """``serial`` counts from 1."""
    namespace = f"namespace-{serial % 100}"
    return endpoint(
        namespace,
        f"{node}-pod-{serial}",
        node,
        ip(serial - 1),
        tagged_labels(serial) if labels is None else labels,
        (f"kns.{namespace}",),
    )


def tagged_endpoints(remote: int) -> Iterator[Event]:
    for serial in range(1, remote + 1):
        yield tagged_endpoint(serial, "remote")


def local_endpoints(remote: int) -> Iterator[Event]:
    for serial in range(remote + 1, remote + LOCAL + 1):
        yield tagged_endpoint(serial, NODE)


def default_tier() -> Iterator[Event]:
    yield (
        ResourceKey("Tier", "", "default"),
        Tier(metadata=ObjectMeta(name="default"), spec=TierSpec(order=1_000_000, default_action="Deny")),
    )


def namespaces(count: int) -> Iterator[Event]:
    for number in range(count):
        name = f"kns.namespace-{number}"
        labels = {fresh("pcns.projectcalico.org/name"): f"namespace-{number}"}
        value = Profile(metadata=ObjectMeta(name=name), spec=ProfileSpec(labels_to_apply=labels))
        yield ResourceKey(fresh("Profile"), "", fresh(name)), value


def allow_from(selector: str) -> Rule:
    return Rule(action="Allow", source=EntityRule(selector=selector))


def policy(name: str, spec: GlobalNetworkPolicySpec) -> Event:
    value = GlobalNetworkPolicy(metadata=ObjectMeta(name=name), spec=spec)
    return ResourceKey(fresh("GlobalNetworkPolicy"), "", fresh(name)), value


def tag_policies(count: int) -> Iterator[Event]:
    for number in range(count):
        rules = tuple(allow_from(f"has({_MARKERS[(number + j) % 31]})") for j in range(5))
        selector = f"has({_MARKERS[number % 31]})"
        yield policy(
            f"policy-{number}",
            GlobalNetworkPolicySpec(tier=fresh("default"), selector=selector, ingress=rules, types=("Ingress",)),
        )


def network_sets(count: int) -> Iterator[Event]:
    sizes = itertools.cycle((1, 1, 1, 1, 2, 3, 4, 5, 100, 1000))
    at = 0x10000000 - 0x0A000001
    for number in range(count):
        size = next(sizes)
        name = f"network-set-{number}"
        nets = tuple(f"{ip(at + offset)}/32" for offset in range(size))
        at += size
        labels = {fresh("network-set-name"): fresh(name)}
        value = GlobalNetworkSet(metadata=ObjectMeta(name=name, labels=labels), spec=NetworkSetSpec(nets=nets))
        yield ResourceKey(fresh("GlobalNetworkSet"), "", fresh(name)), value
        rules = (allow_from(f"network-set-name == '{name}'"),)
        yield policy(
            f"policy-{number}",
            GlobalNetworkPolicySpec(tier=fresh("default"), selector=fresh("all()"), ingress=rules, types=("Ingress",)),
        )


def _noise(rng: random.Random, length: int) -> str:
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=length))


def isolated_policies(count: int) -> Iterator[Event]:
    for number in range(count):
        own = f"pcns.projectcalico.org/name == 'customer-{number}'"
        dns = EntityRule(nets=("10.96.0.10/32",), ports=(53,))
        spec = GlobalNetworkPolicySpec(
            tier=fresh("default"),
            selector=own,
            ingress=(allow_from(fresh(own)),),
            egress=(
                Rule(action="Allow", destination=EntityRule(selector=fresh(own))),
                Rule(action="Allow", protocol="UDP", destination=dns),
            ),
            types=("Ingress", "Egress"),
        )
        yield policy(f"isolate-customer-{number}", spec)


def isolated_namespaces(count: int) -> Iterator[Event]:
    rng = random.Random(1)
    for number in range(count):
        name = f"kns.customer-{number}"
        labels = {
            fresh("pcns.projectcalico.org/name"): f"customer-{number}",
            fresh("pcns.customer-id"): _noise(rng, 20),
            fresh("pcns.production"): fresh("true" if number % 2 else "false"),
        }
        value = Profile(metadata=ObjectMeta(name=name), spec=ProfileSpec(labels_to_apply=labels))
        yield ResourceKey(fresh("Profile"), "", fresh(name)), value


def isolated_pods(count: int, *, local: bool) -> Iterator[Event]:
    rng = random.Random(2 if local else 3)
    every = count // 100
    for number in range(count):
        if (number % every == 0) is not local:
            continue
        labels = {f"unique-{place}": _noise(rng, length) for place, length in enumerate((20, 20, 10, 20, 8))}
        labels |= {f"binary-{place}": fresh("yes" if rng.random() < 0.5 else "no") for place in range(4)}
        labels |= {f"small-{place}": f"choice-{rng.randrange(n)}" for place, n in enumerate((3, 4, 4, 5))}
        labels[fresh("everywhere")] = fresh("same")
        labels[fresh("medium")] = f"release-{rng.randrange(5000)}"
        namespace = f"customer-{number}"
        yield endpoint(
            namespace,
            f"pod-{number}",
            NODE if local else "remote",
            ip(number),
            labels,
            (f"kns.{namespace}",),
        )


def tags(remote: int, policies: int) -> Iterator[Event]:
    return itertools.chain(
        default_tier(), tag_policies(policies), namespaces(100), tagged_endpoints(remote), local_endpoints(remote)
    )


def netsets(remote: int, sets: int) -> Iterator[Event]:
    return itertools.chain(
        default_tier(), namespaces(100), tagged_endpoints(remote), network_sets(sets), local_endpoints(remote)
    )


def isolated(count: int) -> Iterator[Event]:
    return itertools.chain(
        default_tier(),
        isolated_policies(count),
        isolated_namespaces(count),
        isolated_pods(count, local=False),
        isolated_pods(count, local=True),
    )


def without_values(events: Iterable[Event]) -> Iterator[Event]:
    for key, _value in events:
        yield key, None


# ── measuring ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Stopwatch:
    """The calculator's own time, in wall and processor seconds, and what came out."""

    def __init__(self, calculator: Calculator) -> None:
        self.calculator = calculator
        self.seconds = self.cpu_seconds = 0.0
        self.deltas = 0
        self.updates = 0

    def feed(self, events: Iterable[Event], size: int = BATCH) -> None:
        events = iter(events)
        while batch := list(itertools.islice(events, size)):
            self.updates += len(batch)
            self._time(functools.partial(self.calculator.update, batch))

    def sync(self) -> None:
        self._time(self.calculator.in_sync)
        self.flush()

    def flush(self) -> None:
        self._time(self._flush)

    def _flush(self) -> None:
        delta = self.calculator.flush()
        if delta is not None:
            self.deltas += count(delta)

    def _time(self, work: Callable[[], None]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        self.seconds += time.perf_counter() - wall
        self.cpu_seconds += time.process_time() - cpu


def count(delta: Delta) -> int:
    """Changes in a delta; one for each value that came, changed or went."""
    maps = (
        delta.ip_sets,
        delta.policies,
        delta.profiles,
        delta.workloads,
        delta.host_endpoints,
        delta.routes,
        delta.vteps,
        delta.pools,
        delta.hosts,
    )
    changes = sum(len(changed.upserts) + len(changed.removes) for changed in maps)
    return changes + len(delta.ip_set_members) + (delta.config is not None) + (delta.needs is not None)


def bulk(shape: str) -> dict[str, Any]:
    """One of Felix's shapes; with ``-delete``, the local endpoints go after the first delta, in one more flush."""
    name, _, _more = shape.partition("-delete")
    with_delete = name != shape
    family, _, size = name.partition("-")
    sizes = [int(part.replace("k", "000")) for part in size.split("-")]
    watch = Stopwatch(Calculator(NODE))
    gone: Iterable[Event] = ()
    if family == "tags":
        watch.feed(tags(*sizes))
        gone = without_values(local_endpoints(sizes[0]))
    elif family == "netsets":
        watch.feed(netsets(*sizes))
        gone = without_values(local_endpoints(sizes[0]))
    else:
        watch.feed(isolated(*sizes))
    watch.sync()
    if with_delete:
        watch.feed(gone)
        watch.flush()
    return report(shape, watch)


def stream(shape: str, updates: int) -> dict[str, Any]:
    """Endpoint updates on a ``tags`` state: label changes, new endpoints, removed ones; a few of them local. One flush
    for each ten updates."""
    remote = int(shape.removeprefix("stream-").replace("k", "000"))
    watch = Stopwatch(Calculator(NODE))
    watch.feed(tags(remote, 10_000))
    watch.sync()
    gc.collect()
    gc.freeze()
    watch.seconds = watch.cpu_seconds = 0.0
    watch.updates = watch.deltas = 0
    rng = random.Random(7)
    changes = stream_events(rng, remote, updates)
    while batch := list(itertools.islice(changes, 10)):
        watch.feed(batch)
        watch.flush()
    return report(shape, watch)


def stream_events(rng: random.Random, remote: int, updates: int) -> Iterator[Event]:
    fresh_serial = remote + LOCAL + 1
    for number in range(updates):
        serial = rng.randrange(1, remote + 1)
        match number % 5:
            case 0 | 1:  # other labels
                yield tagged_endpoint(serial, "remote", tagged_labels(rng.randrange(1_000_000)))
            case 2:  # a new one
                yield tagged_endpoint(fresh_serial, "remote")
                fresh_serial += 1
            case 3:  # one goes
                key, _value = tagged_endpoint(serial, "remote")
                yield key, None
            case _:  # a local one, with other labels
                local = remote + 1 + rng.randrange(LOCAL)
                yield tagged_endpoint(local, NODE, tagged_labels(rng.randrange(1_000_000)))


def report(shape: str, watch: Stopwatch) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    felix = FELIX.get(shape)
    if felix is not None:
        log.info(
            "%s: %.2f s (%.2f s of processor), Felix %s s: %.2f of it; "
            "%.0f MB in all, Felix %s MB of heap%s: %.2f of it",
            shape,
            watch.seconds,
            watch.cpu_seconds,
            felix[0],
            watch.seconds / felix[0],
            peak * MEBI,
            felix[1],
            " after the deletion" if shape.endswith("-delete") else "",
            peak * MEBI / felix[1],
        )
    elif watch.updates:
        each = watch.cpu_seconds / watch.updates * 1e6
        log.info("%s: %.0f microseconds of processor for each update, flush included", shape, each)
    return {
        "shape": shape,
        "seconds": round(watch.seconds, 3),
        "updates_per_s": round(watch.updates / watch.seconds) if watch.seconds else 0,
        "peak_rss_mib": round(peak, 1),
        "deltas": watch.deltas,
    }


STREAMS = ("stream-10k", "stream-250k")
_KNOWN = re.compile(r"(?:tags|netsets)-\d+k-\d+k(?:-delete)?|(?:isolated|stream)-\d+k").fullmatch


def main(argv: list[str]) -> int:
    import argparse

    parser = argparse.ArgumentParser(prog="python -m bench calc", description="The calculation in bulk and in a stream")
    shapes = ", ".join((*FELIX, *STREAMS))
    parser.add_argument("--shape", default="all", help=f"all, or one of {shapes}, or one like these in other sizes")
    parser.add_argument("--updates", type=int, default=20_000, help="how many updates a stream has")
    parser.add_argument("--json", action="store_true", help="only JSON, one object for each shape: no comparisons")
    options = parser.parse_args(argv)
    if options.json:
        logging.disable()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    if options.shape == "all":
        return every_shape(argv)
    if not _KNOWN(options.shape):
        parser.error(f"unknown shape {options.shape!r}; known are {shapes}")
    is_stream = options.shape.startswith("stream-")
    print(json.dumps(stream(options.shape, options.updates) if is_stream else bulk(options.shape)), flush=True)
    return 0


def every_shape(argv: list[str]) -> int:
    """A process for each: peak memory is the process's."""
    import subprocess

    status = 0
    seconds = {}
    for shape in (*FELIX, *STREAMS):
        command = [sys.executable, "-m", "bench", "calc", *argv, "--shape", shape]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
        print(done.stdout, end="", flush=True)
        status |= done.returncode
        if not done.returncode:
            seconds[shape] = json.loads(done.stdout)["seconds"]
    if all(seconds.get(shape) for shape in STREAMS):
        small, large = (seconds[shape] for shape in STREAMS)
        log.info("an update among 250,000 endpoints takes %.2f of what it takes among 10,000", large / small)
    return status
