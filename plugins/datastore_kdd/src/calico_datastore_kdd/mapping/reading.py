"""Reading lists, watches and single objects at C speed, whatever their kind is.

In:    raw answers of the API server; from each family the msgspec type of its objects and what to make of one.
Out:   a ``collection.Reader``. The whole answer is decoded in one go; only when one object of it is not what its type
       says is each looked at for itself, so that a bad one costs nobody but itself.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

import msgspec
from msgspec import Struct, field
from msgspec import json as mjson

from calico_datastore_kdd.collection import BOOKMARK, ERROR, GONE, PUT, Page, Reader, WatchEvent
from calico_kernel.model import codec
from calico_kernel.model.codec import without_nulls
from calico_kernel.model.keys import Key
from calico_kernel.model.meta import Wire
from calico_kernel.model.records import Malformed, Record

if TYPE_CHECKING:
    from calico_kernel.model.records import Value

T = TypeVar("T")
Made: TypeAlias = "tuple[Key, Value | Malformed | None, str] | None"
"""Key, value and revision of an object; the value None: it counts as absent. None: it is no record."""


class ListMeta(Wire):
    resource_version: str = ""
    proceed: str = field(default="", name="continue")


class Listed(Struct, Generic[T], frozen=True):
    items: list[T] | None = None
    metadata: ListMeta = ListMeta()


class Watched(Struct, Generic[T], frozen=True):
    type: str
    object: T


class Status(Wire):
    """What stands in an ERROR event, or answers a failed request."""

    code: int = 0
    reason: str = ""
    message: str = ""


class PlainMeta(Wire):
    """What most families read of an object's metadata; who manages its fields is not even decoded."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


class _AnyMeta(Wire):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class _AnyObject(Wire):
    metadata: _AnyMeta = _AnyMeta()


_raw_list = mjson.Decoder(Listed[msgspec.Raw])
_raw_event = mjson.Decoder(Watched[msgspec.Raw])
_any_object = mjson.Decoder(_AnyObject)
_status = mjson.Decoder(Status)
_EVENTS = {"ADDED": PUT, "MODIFIED": PUT, "DELETED": GONE}


class ObjectReader(Reader, Generic[T]):
    """A family says what it makes of a decoded object (``_make``) and of one that its type does not fit
    (``_malformed``)."""

    def __init__(self, object_type: Any) -> None:
        with codec.making:
            self._object: mjson.Decoder[T] = mjson.Decoder(object_type)
            self._list = cast("mjson.Decoder[Listed[T]]", mjson.Decoder(Listed[object_type]))
            self._event = cast("mjson.Decoder[Watched[T]]", mjson.Decoder(Watched[object_type]))
        self._type = object_type

    @abc.abstractmethod
    def _make(self, item: T) -> Made: ...

    @abc.abstractmethod
    def _malformed(self, name: str, namespace: str, raw: bytes, reason: str) -> tuple[Key, Value | Malformed] | None:
        """``raw`` does not fit; None for what was no record anyway."""

    def page(self, raw: bytes) -> Page:
        try:
            found = self._list.decode(raw)
            items, meta = found.items, found.metadata
            records = _records(map(self._make, items or ()))
        except msgspec.ValidationError:
            apart = _raw_list.decode(raw)
            meta = apart.metadata
            records = _records(self._alone(bytes(item)) for item in apart.items or ())
        return Page(records=records, revision=meta.resource_version, proceed=meta.proceed)

    def event(self, line: bytes) -> WatchEvent:
        kind, made, raw = "", cast("Made", None), b""
        try:
            found = self._event.decode(line)
            kind = found.type
            if kind in _EVENTS:
                made = self._make(found.object)
        except msgspec.ValidationError:
            apart = _raw_event.decode(line)
            kind, raw = apart.type, bytes(apart.object)
            if kind in _EVENTS:
                made = self._alone(raw)
        if kind in _EVENTS:
            if made is None:
                return WatchEvent(type=_EVENTS[kind], revision=_any_event(line).metadata.resource_version)
            key, value, revision = made
            record = Record(key, value, revision) if value is not None and kind != "DELETED" else None
            return WatchEvent(type=_EVENTS[kind], key=key, record=record, revision=revision)
        if kind == "ERROR":
            status = _status.decode(bytes(_raw_event.decode(line).object))
            return WatchEvent(type=ERROR, code=status.code, reason=status.reason, message=status.message)
        return WatchEvent(type=BOOKMARK, revision=_any_event(line).metadata.resource_version)

    def record(self, raw: bytes, *, whole: bool = False) -> Record | None:
        made = self._whole(raw) if whole else self._alone(raw)
        return None if made is None or made[1] is None else Record(made[0], made[1], made[2])

    def _whole(self, raw: bytes) -> Made:
        """As ``_alone``; a family whose values remember unread fields does it here."""
        return self._alone(raw)

    def _alone(self, raw: bytes) -> Made:
        try:
            return self._make(self._object.decode(raw))
        except msgspec.ValidationError as exc:
            reason = str(exc)
        try:
            return self._make(msgspec.convert(without_nulls(mjson.decode(raw)), self._type))
        except (msgspec.ValidationError, RecursionError):
            pass
        try:
            meta = _any_object.decode(raw).metadata
        except msgspec.ValidationError:
            return None  # not even a name: nothing that an API server would store
        bad = self._malformed(meta.name, meta.namespace, raw, reason)
        return None if bad is None else (bad[0], bad[1], meta.resource_version)


class PlainReader(ObjectReader[T]):
    """For a family that needs no more than two functions."""

    def __init__(
        self,
        object_type: Any,
        make: Callable[[T], Made],
        key_of: Callable[[str, str], Key | None],
    ) -> None:
        super().__init__(object_type)
        self._make_one, self._key_of = make, key_of

    def _make(self, item: T) -> Made:
        return self._make_one(item)

    def _malformed(self, name: str, namespace: str, raw: bytes, reason: str) -> tuple[Key, Value | Malformed] | None:
        key = self._key_of(name, namespace)
        return None if key is None else (key, Malformed(reason, raw))


def _records(made: Iterable[Made]) -> list[Record]:
    return [Record(one[0], one[1], one[2]) for one in made if one is not None and one[1] is not None]


def _any_event(line: bytes) -> _AnyObject:
    return _any_object.decode(bytes(_raw_event.decode(line).object))
