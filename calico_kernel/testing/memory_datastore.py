"""A datastore in memory, for tests: passes the same contract kit as the real ones.

Holds encoded bytes, not objects, so that what a real store would lose or refuse is lost or refused here too.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator, Sequence
from typing import ClassVar

import attrs

from calico_kernel.errors import (
    DatastoreUnavailable,
    RevisionTooOld,
)
from calico_kernel.hookspecs import Datastore, Watch
from calico_kernel.model import keys, storing
from calico_kernel.model.keys import Key, Query
from calico_kernel.model.records import Event, Listing, Record, Value


@attrs.frozen(slots=True)
class Change:
    """``raw`` None: deleted. ``before``: (revision, bytes) that it replaced."""

    revision: int
    path: str
    raw: bytes | None
    before: tuple[int, bytes] | None


class MemoryDatastore(Datastore):
    """``calls`` counts round trips, for tests of how many an operation takes."""

    keeps_status: ClassVar[bool] = True

    def __init__(self) -> None:
        self.available = True
        self.calls = 0
        self._current: dict[str, tuple[int, bytes]] = {}
        self._changes: list[Change] = []
        self._compacted = 0
        self._revision = 0
        self._ends: dict[str, float] = {}
        self._changed = threading.Condition()

    # ── levers for tests ──

    def forget_history(self) -> None:
        with self._changed:
            self._changes.clear()
            self._compacted = self._revision

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        self.set_available(False)
        try:
            yield
        finally:
            self.set_available(True)

    def set_available(self, available: bool) -> None:
        with self._changed:
            self.available = available
            self._changed.notify_all()

    def write_raw(self, path: str, raw: bytes) -> None:
        with self._changed:
            self._append(path, raw)

    # ── Datastore ──

    def create(self, key: Key, value: Value) -> Record:
        raw = storing.encode(key, value)
        with self._call():
            if keys.path(key) in self._current:
                raise storing.exists(key, self._current[keys.path(key)][0])
            return storing.record_of(key, raw, self._append(keys.path(key), raw))

    def update(self, key: Key, value: Value, *, revision: str) -> Record:
        raw = storing.encode(key, value)
        with self._call():
            self._required(key, revision)
            return storing.record_of(key, raw, self._append(keys.path(key), raw))

    def put(self, key: Key, value: Value, *, ttl_s: float | None = None) -> Record:
        raw, at = storing.encode(key, value), keys.path(key)
        storing.check_ttl(key, ttl_s)
        with self._call():
            record = storing.record_of(key, raw, self._append(at, raw))
            if ttl_s is not None:
                self._ends[at] = time.monotonic() + ttl_s
            return record

    def delete(self, key: Key, *, revision: str | None = None) -> Record:
        with self._call():
            there, raw = self._required(key, revision)
            self._append(keys.path(key), None)
            return storing.record_of(key, raw, there)

    def get(self, key: Key) -> Record:
        with self._call():
            there, raw = self._required(key, None)
            return storing.record_of(key, raw, there, whole=True)

    def list(self, queries: Sequence[Query], *, revision: str | None = None) -> Listing:
        with self._call():
            moment = self._revision if revision is None else self._known(revision)
            rows = dict(self._current)
            for change in reversed(self._changes):
                if change.revision <= moment:
                    break
                if change.before is None:
                    rows.pop(change.path, None)
                else:
                    rows[change.path] = change.before
        records = []
        for path in sorted(rows):
            key = keys.parse(path)
            if key is not None and any(keys.matches(query, key) for query in queries):
                at, raw = rows[path]
                records.append(storing.record_of(key, raw, at))
        return Listing(records, str(moment))

    def list_stored(self, queries: Sequence[Query]) -> Sequence[tuple[Key, bytes]]:
        with self._call():
            rows = [(keys.parse(path), raw) for path, (_, raw) in sorted(self._current.items())]
        return [(key, raw) for key, raw in rows if key and any(keys.matches(query, key) for query in queries)]

    def watch(self, queries: Sequence[Query], *, revision: str) -> Watch:
        with self._call():
            return MemoryWatch(self, tuple(queries), self._known(revision))

    # ── inside ──

    @contextlib.contextmanager
    def _call(self) -> Iterator[None]:
        with self._changed:
            self.calls += 1
            self._check_available()
            self._expire()
            yield

    def _check_available(self) -> None:
        if not self.available:
            raise DatastoreUnavailable(what="the datastore in memory is switched off", todo="switch it on")

    def _expire(self) -> float:
        """Delete what is over; returns the moment of the next end."""
        now = time.monotonic()
        for path in [path for path, end in self._ends.items() if end <= now]:
            self._append(path, None)
        return min(self._ends.values(), default=math.inf)

    def _required(self, key: Key, revision: str | None) -> tuple[int, bytes]:
        row = self._current.get(keys.path(key))
        if row is None or (revision is not None and str(row[0]) != revision):
            raise storing.conflict(key, None if row is None else row[0], revision or "")
        return row

    def _known(self, revision: str) -> int:
        if not revision.isdecimal() or not self._compacted <= int(revision) <= self._revision:
            raise RevisionTooOld(what=f"revision {revision} is not kept", todo="list again")
        return int(revision)

    def _append(self, path: str, raw: bytes | None) -> int:
        self._revision += 1
        self._ends.pop(path, None)
        self._changes.append(Change(self._revision, path, raw, self._current.get(path)))
        if raw is None:
            del self._current[path]
        else:
            self._current[path] = (self._revision, raw)
        self._changed.notify_all()
        return self._revision


class MemoryWatch(Watch):
    def __init__(self, store: MemoryDatastore, queries: Sequence[Query], revision: int) -> None:
        self._store = store
        self._queries = queries
        self._position = revision
        self._closed = False

    def next(self, timeout_s: float) -> Sequence[Event]:
        store = self._store
        deadline = time.monotonic() + timeout_s
        with store._changed:
            while not self._closed:
                store._check_available()
                end = store._expire()
                store._known(str(self._position))
                fresh = store._changes[self._position - store._compacted :]
                self._position = store._revision
                events = [event for change in fresh if (event := self._event(change)) is not None]
                now = time.monotonic()
                if events or now >= deadline:
                    return events
                store._changed.wait(max(0.0, min(deadline, end) - now))
        return ()

    def close(self) -> None:
        with self._store._changed:
            self._closed = True
            self._store._changed.notify_all()

    def _event(self, change: Change) -> Event | None:
        key = keys.parse(change.path)
        if key is None or not any(keys.matches(query, key) for query in self._queries):
            return None
        record = None if change.raw is None else storing.record_of(key, change.raw, change.revision)
        return Event(key, record, str(change.revision))
