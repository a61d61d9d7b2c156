"""What the benchmarks share: going on in a bubble, a datastore to measure on, and printing one JSON object."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from calico_kernel.host import bubble


def enter_bubble(command: str, argv: Sequence[str]) -> None:
    """Go on in a bubble: returns only there."""
    if not bubble.inside():
        bubble.enter([sys.executable, "-m", "bench", command, *argv])


def add_datastore_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--datastore",
        choices=("sqlite", "etcd", "kubernetes"),
        default="sqlite",
        help="a server is started for the run",
    )


@contextlib.contextmanager
def datastore(name: str) -> Iterator[dict[str, Any]]:
    """Arguments for a NodeRig on this datastore. A server lives as long as the block. Raises UnsupportedError."""
    if name == "sqlite":
        yield {}
        return
    if name == "kubernetes":
        from bench.kubernetes import cluster

        with cluster() as made:
            settings = {"plugin": "kdd", "kubeconfig": str(made.server.kubeconfig)}
            yield {"datastore": settings, "write": made.write}
        return
    from bench.etcd import BATCH, Raw
    from calico_datastore_etcd.testing import EtcdServer
    from calico_kernel.hookspecs import Datastore
    from calico_kernel.model import codec, keys
    from calico_kernel.model.keys import Key
    from calico_kernel.model.records import Value

    with tempfile.TemporaryDirectory(prefix="calico-bench-") as directory:
        server = EtcdServer(Path(directory))
        server.start()
        raw = Raw(server.port)

        def write(_store: Datastore, records: Iterable[tuple[Key, Value]]) -> None:
            pairs = [(keys.path(key).encode(), codec.encode(value)) for key, value in records]
            for start in range(0, len(pairs), BATCH):
                raw.put(pairs[start : start + BATCH])

        try:
            yield {"datastore": {"plugin": "etcd", "endpoints": server.url}, "write": write}
        finally:
            raw.close()
            server.kill()


def report(result: dict[str, Any], *, as_json: bool) -> None:
    """One JSON object, or a line for each value."""
    if as_json:
        print(json.dumps(result))
        return
    width = max(map(len, result))
    for key, value in result.items():
        print(f"{key:{width}}  {value}")
