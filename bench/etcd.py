"""``python -m bench etcd --endpoints 250000``: the etcd datastore beside the bare calls of the same API, on one server.

Each measurement stands beside its limit, taken in turn on connections of the same kind: a list of workload endpoints
decoded into the model, and the same pages fetched as bytes; a compare-and-swap, and the bare transaction; events of a
watch that starts before they were written, and the same stream read as bytes. Then events while they are written, in
transactions of one and of ten, by a process of its own: how many come is what etcd can write on what is left of the
cores, so those for each second of CPU say what we could take.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench._common import enter_bubble, report

IN_FLIGHT = 64
BATCH = 100
"""Writes of one transaction; etcd takes up to 128."""
PAGE_KEYS = 10_000
"""Of the bare list: pages of the size that the datastore arrives at for such endpoints."""


def endpoint(number: int, mark: int = 0) -> tuple[bytes, bytes]:
    """(path, value) of one workload endpoint as Calico's CNI plugin stores it."""
    from calico_kernel.model import codec, keys
    from calico_kernel.model.endpoints import WorkloadEndpoint, WorkloadEndpointSpec
    from calico_kernel.model.meta import ObjectMeta

    node, pod, namespace = f"node-{number // 100}", f"pod-{number}", f"ns-{number % 200}"
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}/32"
    value = WorkloadEndpoint(
        metadata=ObjectMeta(
            name=f"{node.replace('-', '--')}-k8s-{pod.replace('-', '--')}-eth0",
            namespace=namespace,
            labels={
                "app": f"app-{number % 1000}",
                "tier": f"t{number % 5}",
                "mark": str(mark),
                "projectcalico.org/namespace": namespace,
                "projectcalico.org/orchestrator": "k8s",
                "projectcalico.org/serviceaccount": "default",
            },
        ),
        spec=WorkloadEndpointSpec(
            orchestrator="k8s",
            node=node,
            pod=pod,
            endpoint="eth0",
            container_id=f"{number:064x}",
            ip_networks=(address,),
            interface_name=f"cali{number:011x}",
            profiles=(f"kns.{namespace}", f"ksa.{namespace}.default"),
        ),
    )
    return keys.path(keys.key_of(value)).encode(), codec.encode(value)


class Raw:
    """The API without anything of ours: requests are messages, answers stay bytes."""

    def __init__(self, port: int) -> None:
        import grpc

        from calico_datastore_etcd import proto

        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options)
        self.proto = proto
        self._calls = {name: self._channel.unary_unary(proto.method_path(name)) for name in proto.METHODS}

    def call(self, method: str, request: Any) -> bytes:
        answer: bytes = self._calls[method](request.SerializeToString())
        return answer

    def begin(self, method: str, request: Any) -> Any:
        return self._calls[method].future(request.SerializeToString())

    def put(self, pairs: list[tuple[bytes, bytes]]) -> None:
        proto = self.proto
        put = [proto.RequestOp(request_put=proto.PutRequest(key=key, value=value)) for key, value in pairs]
        self.call("Txn", proto.TxnRequest(success=put))

    def watch(self, create: Any) -> Iterator[bytes]:
        import threading

        def requests() -> Iterator[bytes]:
            yield self.proto.WatchRequest(create_request=create).SerializeToString()
            threading.Event().wait()

        stream: Iterator[bytes] = self._channel.stream_stream(self.proto.WATCH_METHOD)(requests())
        return stream

    def close(self) -> None:
        self._channel.close()


def fill(raw: Raw, count: int, mark: int = 0) -> None:
    for start in range(0, count, BATCH):
        raw.put([endpoint(number, mark) for number in range(start, min(start + BATCH, count))])


def timed(work: Any) -> tuple[float, float, Any]:
    """(seconds, CPU seconds of this process, what it returned)."""
    cpu, start = time.process_time(), time.perf_counter()
    answer = work()
    return time.perf_counter() - start, time.process_time() - cpu, answer


def measure_list(store: Any, raw: Raw, count: int) -> dict[str, Any]:
    from calico_datastore_etcd import proto
    from calico_kernel.model import keys
    from calico_kernel.model.keys import ResourceQuery

    query = ResourceQuery("WorkloadEndpoint")
    prefix = keys.prefix(query).encode()

    def bare() -> int:
        start, found = prefix, 0
        while True:
            request = proto.RangeRequest(key=start, range_end=proto.prefix_end(prefix), limit=PAGE_KEYS)
            page = proto.response_class("Range").FromString(raw.call("Range", request))
            found += len(page.kvs)
            if not page.more:
                return found
            start = page.kvs[-1].key + b"\0"

    bare_s, _, found = timed(bare)
    assert found == count
    list_s, list_cpu_s, listing = timed(lambda: store.list([query]))
    assert len(listing.records) == count
    return {
        "list_s": round(list_s, 3),
        "list_cpu_s": round(list_cpu_s, 3),
        "raw_list_s": round(bare_s, 3),
        "list_ratio": round(list_s / bare_s, 2),
    }


def measure_swap(store: Any, raw: Raw, times: int) -> dict[str, Any]:
    from calico_datastore_etcd import proto
    from calico_kernel.model import codec, keys
    from calico_kernel.model.keys import ResourceKey
    from calico_kernel.model.meta import ObjectMeta
    from calico_kernel.model.network import GlobalNetworkSet

    values = [GlobalNetworkSet(metadata=ObjectMeta(name="swap", labels={"n": str(n)})) for n in range(2)]
    key = ResourceKey("GlobalNetworkSet", "", "swap")
    record = store.put(key, values[0])
    path, encoded = keys.path(key).encode(), codec.encode(values[0])
    revision = int(record.revision)
    ours: list[float] = []
    bare: list[float] = []
    for n in range(times):  # in turn, so that what else the machine does weighs on both
        start = time.perf_counter()
        record = store.update(key, values[n % 2], revision=str(revision))
        ours.append(time.perf_counter() - start)
        request = proto.TxnRequest(
            compare=[proto.Compare(key=path, target=proto.TARGET_MOD_REVISION, mod_revision=int(record.revision))],
            success=[proto.RequestOp(request_put=proto.PutRequest(key=path, value=encoded))],
            failure=[proto.RequestOp(request_range=proto.RangeRequest(key=path))],
        )
        start = time.perf_counter()
        answer = raw.call("Txn", request)
        bare.append(time.perf_counter() - start)
        revision = proto.response_class("Txn").FromString(answer).header.revision
    middle, bare_middle = sorted(ours)[times // 2], sorted(bare)[times // 2]
    return {
        "cas_us": round(middle * 1e6),
        "raw_cas_us": round(bare_middle * 1e6),
        "cas_ratio": round(middle / bare_middle, 2),
    }


def measure_watch(store: Any, raw: Raw, events: int) -> dict[str, Any]:
    from calico_datastore_etcd import proto
    from calico_kernel.model import keys
    from calico_kernel.model.keys import ResourceQuery

    query = ResourceQuery("WorkloadEndpoint")
    prefix = keys.prefix(query).encode()
    revision = store.list([ResourceQuery("Tier")]).revision
    fill(raw, events, mark=1)
    create = proto.WatchCreateRequest(
        key=prefix, range_end=proto.prefix_end(prefix), start_revision=int(revision) + 1, progress_notify=True
    )

    def bare() -> int:
        found = 0
        for answer in raw.watch(create):
            found += len(proto.WatchResponse.FromString(answer).events)
            if found >= events:
                break
        return found

    def delivered() -> int:
        watch, found = store.watch([query], revision=revision), 0
        while found < events:
            found += len(watch.next(10.0))
        watch.close()
        return found

    bare_s, _, found = timed(bare)
    ours_s, ours_cpu_s, ours = timed(delivered)
    assert found == ours == events
    return {
        "watch_events_per_s": round(events / ours_s),
        "watch_events_per_cpu_s": round(events / ours_cpu_s),
        "raw_watch_events_per_s": round(events / bare_s),
        "watch_ratio": round(ours_s / bare_s, 2),
    }


def write_live(port: int, events: int, size: int, started: Any) -> None:
    """In a process of its own: ``events`` puts in transactions of ``size``, as many under way as etcd takes well."""
    from collections import deque

    raw = Raw(port)
    proto = raw.proto
    made = [endpoint(number, mark=2) for number in range(1000)]
    pending: deque[Any] = deque()
    started.wait()
    for start in range(0, events, size):
        puts = [made[number % 1000] for number in range(start, min(start + size, events))]
        ops = [proto.RequestOp(request_put=proto.PutRequest(key=key, value=value)) for key, value in puts]
        pending.append(raw.begin("Txn", proto.TxnRequest(success=ops)))
        if len(pending) >= IN_FLIGHT:
            pending.popleft().result()
    for each in pending:
        each.result()


def measure_live(store: Any, port: int, events: int, size: int) -> dict[str, Any]:
    """Events of a watch while they are written, in transactions of ``size``: what etcd can write and what we can read
    at once, on the same cores."""
    import multiprocessing

    from calico_kernel.model.keys import ResourceQuery

    query = ResourceQuery("WorkloadEndpoint")
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    writer = context.Process(target=write_live, args=(port, events, size, started))
    writer.start()
    watch = store.watch([query], revision=store.list([ResourceQuery("Tier")]).revision)
    calls = found = 0
    started.set()
    while not found:
        found += len(watch.next(10.0))
    cpu, start = time.process_time(), time.perf_counter()
    first = found
    while found < events:
        found += len(watch.next(10.0))
        calls += 1
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    writer.join()
    watch.close()
    assert found == events
    return {
        f"live_{size}_events_per_s": round((events - first) / seconds),
        f"live_{size}_events_per_cpu_s": round((events - first) / cpu_s),
        f"live_{size}_events_per_call": round((events - first) / calls, 1),
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench etcd", description=__doc__)
    parser.add_argument("--endpoints", type=int, default=250_000)
    parser.add_argument("--swaps", type=int, default=2000)
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    enter_bubble("etcd", argv)
    from calico_datastore_etcd.settings import EtcdSettings
    from calico_datastore_etcd.store import EtcdDatastore
    from calico_datastore_etcd.testing import EtcdServer

    with tempfile.TemporaryDirectory() as directory:
        server = EtcdServer(Path(directory), arguments=("--quota-backend-bytes", str(4 << 30)))
        server.start()
        raw = Raw(server.port)
        store = EtcdDatastore(EtcdSettings(endpoints=server.url, request_timeout_s=60))
        try:
            fill(raw, args.endpoints)
            result = {
                "endpoints": args.endpoints,
                **measure_list(store, raw, args.endpoints),
                **measure_swap(store, raw, args.swaps),
                **measure_watch(store, raw, args.events),
                **measure_live(store, server.port, args.events, 1),
                **measure_live(store, server.port, args.events, 10),
            }
        finally:
            store.close()
            raw.close()
            server.kill()
    report(result, as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
