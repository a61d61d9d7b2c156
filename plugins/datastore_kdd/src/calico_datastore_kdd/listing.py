"""Read whole collections, in pages, as of one moment.

In:    selections of calico_datastore_kdd.collection.   Out: records in key order, and the revision to watch from.
Order: the first collection is read as it is now; the others at the revision of that answer, which they share as long as
       they are kept in one etcd. One that cannot be read at that revision is read as it is now, and the revision of the
       listing then is a position for each collection.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import TypeAlias, TypeVar
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from calico_datastore_kdd import faults
from calico_datastore_kdd.api import Api, Refused
from calico_datastore_kdd.collection import Reader, Selection
from calico_kernel.errors import DatastoreUnavailable, RevisionTooOld
from calico_kernel.model import keys, storing
from calico_kernel.model.keys import Query
from calico_kernel.model.records import Record

T = TypeVar("T")
Decode: TypeAlias = "Callable[[Reader, bytes], Sequence[Record]]"

PAGE_OBJECTS = 500
ATTEMPTS = 3
"""A list without a revision starts again when its moment is compacted away between two pages."""
AHEAD = 2
"""Pages that may wait, fetched, for the one that is decoded."""
NOTHING_READ = "1"
"""To watch from after a listing for which nothing was there to be read."""
_CANNOT_BE_READ_AT = (HTTPStatus.BAD_REQUEST, HTTPStatus.GONE, HTTPStatus.UNPROCESSABLE_ENTITY)


class _Meta(Struct, frozen=True):
    resource_version: str = msgspec.field(default="", name="resourceVersion")
    proceed: str = msgspec.field(default="", name="continue")


class _Head(Struct, frozen=True):
    metadata: _Meta = _Meta()


class _Items(Struct, frozen=True):
    items: list[msgspec.Raw] | None = None


_head = msgspec.json.Decoder(_Head)
_items = msgspec.json.Decoder(_Items)


class Asked(Struct, frozen=True):
    """What to read, and the queries that it may answer."""

    selection: Selection
    queries: tuple[Query, ...]


class Fetched(Struct, frozen=True):
    """One page, not decoded yet. ``raw`` None: the collection is not served."""

    asked: Asked
    raw: bytes | None
    revision: str
    more: bool = False


class Positions(Struct, frozen=True):
    """Where a listing ended: ``common`` for all collections but those of ``others`` (path -> revision)."""

    common: str
    others: Mapping[str, str]

    def of(self, selection: Selection) -> str:
        return self.others.get(selection.url, self.common)

    def __str__(self) -> str:
        return ",".join((self.common, *(f"{path}={at}" for path, at in sorted(self.others.items()))))

    @classmethod
    def parse(cls, text: str) -> Positions:
        """Raises RevisionTooOld for what is none."""
        common, *rest = text.split(",")
        others = dict(part.partition("=")[::2] for part in rest)
        if not all(storing.parse_revision(at) for at in (common, *others.values())):
            raise RevisionTooOld(what=f"{text!r} is not a revision of the Kubernetes API", todo="list again")
        return cls(common, others)


class Lister:
    def __init__(self, api: Api, log: logging.Logger, unserved: Callable[[Selection, Refused], None]) -> None:
        """``unserved`` is told of a collection that is not there; it raises unless that counts as empty."""
        self._api, self._log, self._unserved = api, log, unserved

    def read(
        self, reading: Sequence[Asked], at: Positions | None, *, whole: bool = False
    ) -> tuple[list[Record], Positions]:
        """``whole``: the values remember fields that are unknown here, at some cost.
        Raises RevisionTooOld, DatastoreUnavailable, NotPermitted."""
        for attempt in range(ATTEMPTS):
            try:
                return self._list(reading, at, _whole_records if whole else _records)
            except RevisionTooOld:
                if at is not None or attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def _list(self, reading: Sequence[Asked], at: Positions | None, decode: Decode) -> tuple[list[Record], Positions]:
        records: list[Record] = []
        common, others = "", {}
        several = len(reading) > 1
        with storing.collector_resting():
            for fetched in ahead(self._fetch_all(reading, at), lambda first: several or first.more):
                common = common or fetched.revision
                if at is None and fetched.revision != common:
                    others[fetched.asked.selection.url] = fetched.revision
                if fetched.raw is not None:
                    records.extend(_decoded(fetched, decode))
            return in_order(records), at or Positions(common or NOTHING_READ, others)

    # ── fetching: in a thread of its own when there is more than one page ──

    def _fetch_all(self, reading: Sequence[Asked], at: Positions | None) -> Iterator[Fetched]:
        moment = ""
        for asked in reading:
            selection = asked.selection
            try:
                for fetched in self._fetch(asked, moment, at):
                    moment = moment or fetched.revision
                    yield fetched
            except Refused as exc:
                if not faults.is_unserved(exc):
                    raise faults.error_of(exc, subject=f"the list of {selection.collection.name}") from exc
                self._unserved(selection, exc)
                yield Fetched(asked, None, moment)

    def _fetch(self, asked: Asked, moment: str, at: Positions | None) -> Iterator[Fetched]:
        """All pages. ``moment``: to read at if that is possible; ``at``: to read at or not at all."""
        selection = asked.selection
        exact = moment if at is None else at.of(selection)
        try:
            raw = self._get(selection, _exactly(exact))
        except Refused as exc:
            if at is not None or not moment or not (faults.is_too_new(exc) or exc.code in _CANNOT_BE_READ_AT):
                raise
            self._log.info("%s cannot be listed as of %s: %s", selection.collection.name, moment, exc)
            raw = self._get(selection, ())
        while True:
            meta = _meta_of(selection.collection.name, raw)
            yield Fetched(asked, raw, meta.resource_version, bool(meta.proceed))
            if not meta.proceed:
                return
            raw = self._get(selection, [("continue", meta.proceed)])

    def _get(self, selection: Selection, params: Iterable[tuple[str, str]]) -> bytes:
        query = urlencode([*selection.params, ("limit", str(PAGE_OBJECTS)), *params])
        return self._api.call("GET", f"{selection.url}?{query}")


def revision_of(name: str, raw: bytes) -> str:
    """Of the answer to a list of collection ``name``."""
    return _meta_of(name, raw).resource_version


def _meta_of(name: str, raw: bytes) -> _Meta:
    try:
        meta = _head.decode(raw).metadata
    except msgspec.DecodeError as exc:
        raise nonsense(name, exc) from exc
    if not meta.resource_version:
        raise nonsense(name, "it is no list")
    return meta


def _exactly(revision: str) -> Iterable[tuple[str, str]]:
    return (("resourceVersion", revision), ("resourceVersionMatch", "Exact")) if revision else ()


def _decoded(fetched: Fetched, decode: Decode) -> Iterable[Record]:
    collection, queries = fetched.asked.selection.collection, fetched.asked.queries
    assert fetched.raw is not None
    try:
        records = decode(collection.reader, fetched.raw)
    except msgspec.DecodeError as exc:
        raise nonsense(collection.name, exc) from exc
    matches = keys.matches
    if len(queries) == 1:
        query = queries[0]
        return [record for record in records if matches(query, record.key)]
    return [record for record in records if any(matches(query, record.key) for query in queries)]


def _records(reader: Reader, raw: bytes) -> Sequence[Record]:
    return reader.page(raw).records


def _whole_records(reader: Reader, raw: bytes) -> Sequence[Record]:
    found = (reader.record(bytes(item), whole=True) for item in _items.decode(raw).items or ())
    return [record for record in found if record is not None]


def in_order(records: Sequence[Record]) -> list[Record]:
    """By key. Of two with one key (a Kubernetes policy, and a resource that took its name) the first one counts."""
    found: dict[str, Record] = {}
    for record in records:
        found.setdefault(keys.path(record.key), record)
    return [found[path] for path in sorted(found)]


def nonsense(name: str, reason: object) -> DatastoreUnavailable:
    return DatastoreUnavailable(
        what=f"the answer for {name} is not what the Kubernetes API gives ({reason})",
        todo="check that datastore.api_endpoint or the kubeconfig's server is an API server; the call may be repeated",
    )


def ahead(items: Iterator[T], worthwhile: Callable[[T], bool]) -> Iterator[T]:
    """The same items, made by a thread of their own while the one before is used, if after the first that is
    ``worthwhile``."""
    for first in items:
        yield first
        if worthwhile(first):
            yield from _in_thread(items)
            return


def _in_thread(items: Iterator[T]) -> Iterator[T]:
    made: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(AHEAD)
    unwanted = threading.Event()

    def make() -> None:
        failure: BaseException | None = None
        try:
            for item in items:
                made.put((item, None))
                if unwanted.is_set():
                    return
        except BaseException as exc:  # noqa: BLE001  # it is raised where the items are used
            failure = exc
        made.put((None, failure))

    threading.Thread(target=make, name="calico-kdd-list", daemon=True).start()
    try:
        while True:
            item, failure = made.get()
            if failure is not None:
                raise failure
            if item is None:
                return
            yield item
    finally:
        unwanted.set()
        while not made.empty():  # it may wait for room
            made.get_nowait()
