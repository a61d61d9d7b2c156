"""A datastore that is asked again until it answers: what a caller may conclude when calls end as "unavailable".

In:    any ``Datastore`` over a bad connection.
Out:   the same, each call done once and told for certain. Contract tests and random programs run on it unchanged.

The rules, which hold for every store:
- a read may be repeated;
- a write that ended as DatastoreUnavailable happened once or not at all, and a watch from before it tells which: then
  its record is the answer, or what stood in its way is found by doing it again;
- a watch is asked again, and has neither gap nor repeat.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from msgspec.structs import replace

from calico_kernel.errors import DatastoreUnavailable, RevisionTooOld
from calico_kernel.hookspecs import Datastore, Watch
from calico_kernel.model import codec, keys
from calico_kernel.model.keys import (
    BlockAffinityKey,
    BlockAffinityQuery,
    BlockKey,
    BlockQuery,
    HandleKey,
    HandleQuery,
    HostEndpointStatusKey,
    HostEndpointStatusQuery,
    IpamConfigKey,
    IpamConfigQuery,
    IpamHostKey,
    IpamHostQuery,
    Key,
    Query,
    ResourceKey,
    ResourceQuery,
    StatusQuery,
)
from calico_kernel.model.meta import Resource
from calico_kernel.model.records import Event, Listing, Malformed, Record, Value
from calico_kernel.testing.faulty_proxy import FaultyProxy

T = TypeVar("T")
SETTLE_S = 0.1
"""What was on its way when a call broke off has arrived, or is lost, after so long."""
AGAIN_S = 0.01
QUIET_S = 0.3


class PatientDatastore(Datastore):
    """``patience_s``: how long a call is tried for; 0 tries once, and says what the store below says."""

    def __init__(self, below: Datastore, *, patience_s: float = 30.0) -> None:
        self.below, self.patience_s = below, patience_s
        self.keeps_status = below.keeps_status  # type: ignore[misc]

    # ── writes ──

    def create(self, key: Key, value: Value) -> Record:
        return self._write(key, value, lambda: self.below.create(key, value))

    def update(self, key: Key, value: Value, *, revision: str) -> Record:
        return self._write(key, value, lambda: self.below.update(key, value, revision=revision))

    def put(self, key: Key, value: Value, *, ttl_s: float | None = None) -> Record:
        return self._write(key, value, lambda: self.below.put(key, value, ttl_s=ttl_s))

    def delete(self, key: Key, *, revision: str | None = None) -> Record:
        return self._write(key, None, lambda: self.below.delete(key, revision=revision))

    # ── reads ──

    def get(self, key: Key) -> Record:
        return self._again(lambda: self.below.get(key))

    def list(self, queries: Sequence[Query], *, revision: str | None = None) -> Listing:
        return self._again(lambda: self.below.list(queries, revision=revision))

    def list_stored(self, queries: Sequence[Query]) -> Sequence[tuple[Key, bytes]]:
        return self._again(lambda: self.below.list_stored(queries))

    def watch(self, queries: Sequence[Query], *, revision: str) -> Watch:
        return PatientWatch(self, self._again(lambda: self.below.watch(queries, revision=revision)))

    def derived_from(self, key: Key) -> str:
        return self.below.derived_from(key)

    def close(self) -> None:
        self.below.close()

    # ── inside ──

    def _again(self, call: Callable[[], T]) -> T:
        begun = time.monotonic()
        while True:
            try:
                return call()
            except DatastoreUnavailable:
                if time.monotonic() >= begun + self.patience_s:  # which a test may take away meanwhile
                    raise
                time.sleep(AGAIN_S)

    def _write(self, key: Key, value: Value | None, call: Callable[[], Record]) -> Record:
        """``value`` None: a removal."""
        if not self.patience_s:
            return call()
        deadline = time.monotonic() + self.patience_s
        before = self.list([query_of(key)])
        there = next((record for record in before.records if record.key == key), None)
        while True:
            try:
                return call()
            except DatastoreUnavailable:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(SETTLE_S)
            for event in changes_since(self, key, before):
                if event.record is None and value is None and there is not None:
                    return there
                if event.record is not None and value is not None and _same(event.record.value, value):
                    return event.record
                there = event.record


@contextlib.contextmanager
def unreachable(store: PatientDatastore, proxy: FaultyProxy) -> Iterator[None]:
    """For tests that want to see an outage: nobody connects, and calls say at once what they meet. Afterwards the
    network is as bad as before."""
    proxy.refuse()
    store.patience_s, before = 0.0, store.patience_s
    try:
        yield
    finally:
        store.patience_s = before
        proxy.accept()


def changes_since(store: PatientDatastore, key: Key, before: Listing) -> list[Event]:
    """Changes of ``key`` from ``before`` until now, at least."""
    query = query_of(key)
    now = revision_in(store.list([query]), key)
    if now == revision_in(before, key):
        return []
    watch = store.watch([query], revision=before.revision)
    events: list[Event] = []
    deadline = time.monotonic() + store.patience_s
    try:
        while not any(event.record and now and int(event.revision) >= int(now) for event in events):
            assert time.monotonic() < deadline, f"{key} changed, and the watch does not tell"
            found = [event for event in watch.next(QUIET_S) if event.key == key]
            if not found and not now and events:
                break  # it is gone, and what led there was told
            events += found
    except RevisionTooOld:
        return []
    finally:
        watch.close()
    return events


def revision_in(listing: Listing, key: Key) -> str | None:
    return next((record.revision for record in listing.records if record.key == key), None)


class PatientWatch(Watch):
    def __init__(self, store: PatientDatastore, below: Watch) -> None:
        self._store, self._below = store, below

    def next(self, timeout_s: float) -> Sequence[Event]:
        return self._store._again(lambda: self._below.next(timeout_s))

    def close(self) -> None:
        self._below.close()


def _same(stored: Value | Malformed, given: Value) -> bool:
    return codec.encode(_given(stored)) == codec.encode(_given(given))


def _given(value: Value | Malformed) -> Value | Malformed:
    """Without what a store fills in."""
    if not isinstance(value, Resource):
        return value
    return replace(value, metadata=replace(value.metadata, uid="", creation_timestamp=None))


def query_of(key: Key) -> Query:
    """A query that ``key`` answers, and few others."""
    if isinstance(key, ResourceKey):
        return ResourceQuery(key.kind, key.namespace or None, key.name)
    if isinstance(key, BlockAffinityKey):
        return BlockAffinityQuery(key.type, key.owner)
    if isinstance(key, HostEndpointStatusKey):
        return HostEndpointStatusQuery(key.node)
    if keys.is_status(key):
        return StatusQuery()
    plain: dict[type, Query] = {
        BlockKey: BlockQuery(),
        HandleKey: HandleQuery(),
        IpamConfigKey: IpamConfigQuery(),
        IpamHostKey: IpamHostQuery(),
    }
    return plain[type(key)]
