"""What the tests of datastores write and read: small resources that carry a mark, and writers of series of them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable

from calico_kernel.errors import RevisionConflict
from calico_kernel.hookspecs import Datastore, Watch
from calico_kernel.model.keys import ResourceKey, ResourceQuery
from calico_kernel.model.meta import ObjectMeta, Resource
from calico_kernel.model.network import GlobalNetworkSet, NetworkSetSpec
from calico_kernel.model.records import Event, Record

KIND = "GlobalNetworkSet"
ALL_SETS = ResourceQuery(KIND)
STEP_S = 20.0
"""Bound of one wait on a busy machine; nothing waits so long when all is well."""


def set_key(name: str) -> ResourceKey:
    return ResourceKey(KIND, "", name)


def network_set(name: str, mark: object = "", by: str = "") -> GlobalNetworkSet:
    """A small resource that carries ``mark``, and who wrote it."""
    labels = {"mark": str(mark), **({"by": by} if by else {})}
    return GlobalNetworkSet(metadata=ObjectMeta(name=name, labels=labels), spec=NetworkSetSpec(nets=("10.0.0.0/8",)))


def mark_of(record: Record | None) -> str:
    assert record is not None
    assert isinstance(record.value, Resource), record.value
    return record.value.metadata.labels["mark"]


def names(records: Iterable[Record]) -> list[str]:
    return [record.key.name for record in records if isinstance(record.key, ResourceKey)]


def collect(watch: Watch, enough: Callable[[list[Event]], bool], timeout_s: float = STEP_S) -> list[Event]:
    """Events of ``watch`` until ``enough`` says so."""
    events: list[Event] = []
    deadline = time.monotonic() + timeout_s
    while not enough(events):
        assert time.monotonic() < deadline, f"only {len(events)} events in {timeout_s} s"
        events.extend(watch.next(1.0))
    return events


def read_on(watch: Watch, into: list[Event]) -> None:
    """Read until ``next`` raises."""
    deadline = time.monotonic() + STEP_S
    while time.monotonic() < deadline:
        into.extend(watch.next(1.0))


def write_series(store: Datastore, writer: str, count: int, *, shared: str = "shared") -> None:
    """``count`` puts to a key of its own, each followed by one to a key that all writers fight for."""
    for number in range(count):
        store.put(set_key(writer), network_set(writer, number))
        store.put(set_key(shared), network_set(shared, f"{writer}-{number}"))


def write_series_elsewhere(opener: Callable[[], Datastore], writer: str, count: int) -> None:
    """``write_series`` in a process of its own."""
    store = opener()
    write_series(store, writer, count)
    store.close()


def count_up_elsewhere(opener: Callable[[], Datastore], name: str, times: int) -> None:
    """Increment the mark of ``name`` by compare-and-swap, ``times`` times."""
    store = opener()
    count_up(store, name, times)
    store.close()


def count_up(store: Datastore, name: str, times: int) -> None:
    by = f"{os.getpid()}-{threading.get_ident()}"
    for _ in range(times):
        while True:
            found = store.get(set_key(name))
            try:
                store.update(set_key(name), network_set(name, int(mark_of(found)) + 1, by), revision=found.revision)
            except RevisionConflict:
                continue
            break
