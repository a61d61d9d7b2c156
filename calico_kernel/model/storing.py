"""What datastore plugins share: queries as prefixes, bytes as records, and the words for what a write met.

For stores that keep Calico's keys and values as they are and number their revisions.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable, Iterator

from calico_kernel.errors import (
    AlreadyExists,
    DatastoreError,
    NotFound,
    RevisionConflict,
)
from calico_kernel.model import codec, keys
from calico_kernel.model.keys import Key, Query
from calico_kernel.model.records import Record, Value

MAX_VALUE_BYTES = 1_571_840
"""What a record may have in every store, so that each can be moved to any other: etcd's limit for a request, 1.5 MiB,
less the key and the frame."""
MANY = 5000


def encode(key: Key, value: Value) -> bytes:
    """Raises DatastoreError for a value that is too large."""
    raw = codec.encode(value)
    if len(raw) > MAX_VALUE_BYTES:
        raise DatastoreError(
            what=f"{describe(key)} is {len(raw)} bytes, more than the {MAX_VALUE_BYTES} that a record may have",
            todo="split it into several resources",
        )
    return raw


def check_ttl(key: Key, ttl_s: float | None) -> None:
    """Raises ValueError for what may not end by itself."""
    if ttl_s is not None and not (keys.is_status(key) and ttl_s > 0):
        raise ValueError(f"{describe(key)} cannot be put for {ttl_s} s: only a status key can, for more than 0")


def record_of(key: Key, raw: bytes, revision: int, *, whole: bool = False) -> Record:
    """``whole``: for ``get``, whose caller may edit and write back: fields unknown here are kept with the value."""
    at = str(revision)
    return Record(key, codec.decode(key, raw, revision=at, whole=whole), at)


def prefixes(queries: Iterable[Query]) -> list[str]:
    """What to read to answer the queries: sorted, without those that another one covers."""
    kept: list[str] = []
    for prefix in sorted({keys.prefix(query) for query in queries}):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return kept


def parse_revision(revision: str) -> int:
    """0, which no record ever has, for what is no revision of such a store (they are 64 bits wide)."""
    number = int(revision) if revision.isdecimal() and len(revision) < 20 else 0
    return number if number < 1 << 63 else 0


def exists(key: Key, there: int | None) -> AlreadyExists:
    """``there``: the revision of what is there, when it is known."""
    at = "" if there is None else f" (revision {there})"
    return AlreadyExists(what=f"{describe(key)} exists already{at}", todo="update it, or choose another name")


def not_found(key: Key) -> NotFound:
    return NotFound(what=f"{describe(key)} does not exist", todo="check the name, or create it")


def conflict(key: Key, there: int | None, revision: str) -> DatastoreError:
    """``there``: the stored revision, None when there is no such record any more."""
    if there is None:
        return not_found(key)
    return RevisionConflict(
        what=f"{describe(key)} was changed meanwhile (revision {there}, not {revision})",
        kept="the newer value",
        todo="read it again and decide anew",
    )


def describe(key: Key) -> str:
    if isinstance(key, keys.ResourceKey):
        return f"{key.kind} {key.namespace}/{key.name}" if key.namespace else f"{key.kind} {key.name}"
    return keys.path(key)


@contextlib.contextmanager
def collector_resting(count: int = MANY) -> Iterator[None]:
    """No cycle collection while many records are built, which all stay: it would look at each of them again and again,
    for nearly half of the time."""
    rest = count >= MANY and gc.isenabled()
    if rest:
        gc.disable()
    try:
        yield
    finally:
        if rest:
            gc.enable()
