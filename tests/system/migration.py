"""What the tests of migration share: a datastore with its configuration, and a copy from one to another."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from calico_datastore_etcd.settings import EtcdSettings
from calico_datastore_etcd.store import EtcdDatastore
from calico_datastore_etcd.testing import EtcdServer
from calico_datastore_sqlite.settings import SqliteSettings
from calico_datastore_sqlite.store import SqliteDatastore
from calico_kernel.client.migrate import everything
from calico_kernel.hookspecs import Datastore
from calico_kernel.model import codec, keys
from calico_kernel.model.records import Malformed

GOLDEN = Path(__file__).parents[1] / "model/data/etcd.jsonl"


class Place:
    """One datastore: its configuration file, and how to look into it."""

    def __init__(self, directory: Path, name: str, datastore: str, store: Datastore) -> None:
        self.config = directory / f"{name}.yaml"
        self.config.write_text(f"node: n1\ndatastore: {datastore}\nipam: blocks\n")
        self.store = store

    def contents(self) -> dict[str, bytes]:
        return {keys.path(key): raw for key, raw in self.store.list_stored(everything())}


def sqlite_place(stack: contextlib.ExitStack, directory: Path, name: str) -> Place:
    path = directory / f"{name}.db"
    store = SqliteDatastore(SqliteSettings(path=str(path)))
    stack.callback(store.close)
    return Place(directory, name, f"{{plugin: sqlite, path: {path}}}", store)


def etcd_place(stack: contextlib.ExitStack, directory: Path, server: EtcdServer) -> Place:
    """With nothing in it."""
    server.wipe()
    store = EtcdDatastore(EtcdSettings(endpoints=server.url))
    stack.callback(store.close)
    return Place(directory, "etcd", f"{{plugin: etcd, endpoints: {server.url}}}", store)


def command(source: Place, target: Place, *more: str) -> list[str]:
    program = [sys.executable, "-m", "calico_kernel.cli.calicoctl", "datastore", "migrate", "copy"]
    return [*program, "--from", str(source.config), "--to", str(target.config), "--settle", "0", "-o", "json", *more]


def copied(source: Place, target: Place, *more: str) -> Any:
    ran = subprocess.run(command(source, target, *more), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    return json.loads(ran.stdout)


def load_golden(store: Datastore) -> None:
    """What Calico stored."""
    for line in GOLDEN.read_text().splitlines():
        one = json.loads(line)
        key = keys.parse(one["key"])
        if key is not None:
            value = codec.decode(key, json.dumps(one["value"]).encode())
            assert not isinstance(value, Malformed)
            store.create(key, value)
