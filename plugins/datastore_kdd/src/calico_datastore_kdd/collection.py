"""Where the records of the model lie in a Kubernetes API: collections to list and watch, and how to read what they say.

In:    queries, keys and values of the model; raw answers of the API server, as bytes.
Out:   what to ask of the API server (``Selection``, ``Place``, ``Request``), and records, to ``calico_datastore_kdd``'s
       store, which alone speaks to it. Pure: no socket, no clock.

    query  --Mapping.collections-->  selections to list and watch  --bytes-->  Reader.page / Reader.event  --> records
    key    --Mapping.locate------->  one place to get              --bytes-->  Reader.record               --> record
    write  --Mapping.creation / updating / deletion-->  one request, whose answer is the object as it is now

One query may need several collections (policies: our own, and those of Kubernetes), and one collection may serve
several kinds. A record's key tells which query it answers: ask ``keys.matches``.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Literal
from urllib.parse import quote

from msgspec import Struct

from calico_kernel.model import wellknown
from calico_kernel.model.keys import Key, Query
from calico_kernel.model.records import Record, Value

Group = Literal["crd.projectcalico.org/v1", "projectcalico.org/v3"]
CRD_GROUP: Group = wellknown.CRD_GROUP
"""Calico's custom resources under their first group: metadata in an annotation, uids of their own."""
V3_GROUP: Group = "projectcalico.org/v3"
"""The same as custom resources under their own group: stored as they are."""

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"

PUT, GONE, BOOKMARK, ERROR = "put", "gone", "bookmark", "error"


class Page(Struct, frozen=True, kw_only=True):
    """One answer to a list.

    records:  in no particular order; objects that are no record are left out.
    revision: of the list, to watch from once the last page was read ("" where the server gave none).
    proceed:  the ``continue`` token for the next page, "" at the last.
    """

    records: Sequence[Record]
    revision: str
    proceed: str


class WatchEvent(Struct, frozen=True, kw_only=True):
    """One line of a watch.

    type:     ``put``, ``gone``, ``bookmark`` or ``error``.
    key:      of a put or gone, None where the object is no record and never was one (a Pod of its node's network).
    record:   of a put, with the value that it has now. None: the object is there but counts as absent (marked deleted,
              no longer convertible): if the key was known, it is gone.
    revision: of the object, or of a bookmark; "" of an error.
    code:     HTTP status of an error (410: the revision is too old), with its ``reason`` and ``message``.
    """

    type: str
    key: Key | None = None
    record: Record | None = None
    revision: str = ""
    code: int = 0
    reason: str = ""
    message: str = ""


class Reader(abc.ABC):
    """Reads the objects of one collection. Never raises for what one object holds: what does not decode comes back as
    ``Malformed`` under its key, with the reason. Raises ``msgspec.DecodeError`` for an answer that is not the JSON of a
    list, an object or an event at all."""

    @abc.abstractmethod
    def page(self, raw: bytes) -> Page:
        """The answer to a list."""

    @abc.abstractmethod
    def event(self, line: bytes) -> WatchEvent:
        """One line of the answer to a watch."""

    @abc.abstractmethod
    def record(self, raw: bytes, *, whole: bool = False) -> Record | None:
        """One object (the answer to a get, or to a write). None: it is no record, or counts as absent.

        whole: the value remembers fields that are unknown here, for an edit to keep (``codec.decode``)."""


class Collection(Struct, frozen=True, kw_only=True, eq=False):
    """Objects of one plural in one API group.

    name:       in words of people, for logs and metrics ("pods").
    path:       of the group ("/api/v1", "/apis/crd.projectcalico.org/v1").
    optional:   may not be served, and then reads as empty; without one that is not optional, nothing works.
    """

    name: str
    path: str
    plural: str
    namespaced: bool
    reader: Reader
    optional: bool = False

    def url(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """Path of the whole collection, of one namespace's part of it, or of one object."""
        parts = [self.path]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        parts += [quote(part, safe="") for part in (name, subresource) if part]
        return "/".join(parts)


class Selection(Struct, frozen=True, kw_only=True):
    """A list, and the watch after it: of one namespace unless None, narrowed by ``params`` (``labelSelector``,
    ``fieldSelector``). What comes may still be more than was asked for: ``keys.matches`` decides."""

    collection: Collection
    namespace: str | None = None
    params: tuple[tuple[str, str], ...] = ()

    @property
    def url(self) -> str:
        return self.collection.url(self.namespace)


class Place(Struct, frozen=True, kw_only=True):
    """Where the one object of a key is.

    derived: the object belongs to another system. Before anything is written to it, get it: only when its record has
             this very key is it the one that is meant (another Pod may have the same name on another node)."""

    collection: Collection
    namespace: str = ""
    name: str = ""
    derived: bool = False

    @property
    def url(self) -> str:
        return self.collection.url(self.namespace, self.name)


class Request(Struct, frozen=True, kw_only=True):
    """One write. ``path`` begins with a slash and is escaped; ``body`` is b"" for none."""

    method: str
    path: str
    body: bytes = b""
    content_type: str = JSON


class Mapping(abc.ABC):
    """Between the model and one API group. ``calico_datastore_kdd.mapping.open_mapping`` makes one. ``KeyError`` for a
    kind that is not registered."""

    group: Group

    @abc.abstractmethod
    def collections(self, query: Query) -> Sequence[Selection]:
        """What to list and watch to answer a query; () when there never is anything."""

    @abc.abstractmethod
    def every_collection(self) -> Sequence[Collection]:
        """All that any query may need."""

    @abc.abstractmethod
    def locate(self, key: Key) -> Place | None:
        """Where the object of a key is. None: there never is one, the record does not exist. An object there whose
        record has another key (handles that differ in case only, a Pod on another node) is not the one."""

    @abc.abstractmethod
    def creation(self, key: Key, value: Value) -> Request:
        """Make the record. For a derived one, complete its object, which must be there (``Place.derived``): the same
        patch as ``updating`` without revision. Raises NotPermitted where nothing of it may be written."""

    @abc.abstractmethod
    def updating(self, key: Key, value: Value, *, revision: str) -> Request:
        """Replace the record as of ``revision``. A custom resource always needs one; "" patches a derived object as it
        is now. Raises NotPermitted."""

    @abc.abstractmethod
    def completion(self, key: Key, value: Value, answer: bytes) -> Request | None:
        """After ``creation`` or ``updating``, whose answer was ``answer``: the second request for a kind whose status
        the API server keeps apart and that has now another one than ``value``; None for all that is done."""

    @abc.abstractmethod
    def deletion(self, key: Key, *, revision: str = "") -> Request:
        """Remove the record, only as of ``revision`` unless "". The answer for a derived one is the object as it is
        now; for a custom resource the object, or a Status. Raises NotPermitted."""

    @abc.abstractmethod
    def leftover(self, key: Key, raw: bytes) -> Request | None:
        """``raw`` is the object that stands where ``key`` is: the request that removes it when it only awaits its
        deletion (marked ``deleted`` by a Calico that was stopped between its two steps); None when it is in use."""

    @abc.abstractmethod
    def derived_from(self, key: Key) -> str:
        """See ``Datastore.derived_from``."""
