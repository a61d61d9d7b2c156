"""Writes kept in memory over a datastore that is only read: what would happen, without it happening.

In:    a ``Datastore``.
Out:   a ``Datastore`` for a second ``Client``, which then checks and stores as the real one would, each write seeing
       the ones before; ``changed`` says what became of them. To ``calicoctl diff`` and ``--atomic``.
"""

from __future__ import annotations

from collections.abc import Sequence

from calico_kernel.errors import NotFound, UnsupportedError
from calico_kernel.hookspecs import Datastore, Watch
from calico_kernel.model import keys, storing
from calico_kernel.model.keys import Key, Query
from calico_kernel.model.records import Listing, Record, Value


class Overlay(Datastore):
    """``changed``: by key, what would be stored; None for what would be gone. Not for several threads."""

    def __init__(self, below: Datastore) -> None:
        self._below = below
        self.changed: dict[Key, Record | None] = {}
        self._writes = 0

    def create(self, key: Key, value: Value) -> Record:
        try:
            there = self.get(key)
        except NotFound:
            if isinstance(key, keys.ResourceKey) and self.derived_from(key):
                raise  # only what makes such an object can make it
            return self._write(key, value)
        raise storing.exists(key, storing.parse_revision(there.revision) or None)

    def update(self, key: Key, value: Value, *, revision: str) -> Record:
        self._required(key, revision)
        return self._write(key, value)

    def put(self, key: Key, value: Value, *, ttl_s: float | None = None) -> Record:
        return self._write(key, value)

    def delete(self, key: Key, *, revision: str | None = None) -> Record:
        there = self._required(key, revision)
        self.changed[key] = None
        return there

    def get(self, key: Key) -> Record:
        if key not in self.changed:
            return self._below.get(key)
        found = self.changed[key]
        if found is None:
            raise storing.not_found(key)
        return found

    def list(self, queries: Sequence[Query], *, revision: str | None = None) -> Listing:
        below = self._below.list(queries, revision=revision)
        found = {record.key: record for record in below.records if record.key not in self.changed}
        for key, record in self.changed.items():
            if record is not None and any(keys.matches(query, key) for query in queries):
                found[key] = record
        return Listing(sorted(found.values(), key=lambda record: keys.path(record.key)), below.revision)

    def watch(self, queries: Sequence[Query], *, revision: str) -> Watch:
        raise UnsupportedError(what="what is only tried cannot be watched", todo="watch the datastore itself")

    def derived_from(self, key: Key) -> str:
        return self._below.derived_from(key)

    def _required(self, key: Key, revision: str | None) -> Record:
        there = self.get(key)
        if revision is not None and there.revision != revision:
            raise storing.conflict(key, storing.parse_revision(there.revision), revision)
        return there

    def _write(self, key: Key, value: Value) -> Record:
        self._writes += 1  # a revision below zero is none of a store's
        record = storing.record_of(key, storing.encode(key, value), -self._writes, whole=True)
        self.changed[key] = record
        return record
