"""What every family of objects answers, and the requests that several of them make.

In:    queries, keys and values of the kinds that a family serves.
Out:   selections, places and requests, to ``mapping.registry``.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import json as mjson

from calico_datastore_kdd.collection import MERGE_PATCH, Collection, Place, Request, Selection
from calico_kernel.errors import DatastoreError, NotPermitted
from calico_kernel.model import codec, storing
from calico_kernel.model.keys import Key, Query
from calico_kernel.model.records import Malformed, Value


class Family(abc.ABC):
    """Read-only, unless a method is overridden."""

    @abc.abstractmethod
    def collections(self) -> Sequence[Collection]: ...

    @abc.abstractmethod
    def selections(self, query: Query) -> Sequence[Selection]: ...

    @abc.abstractmethod
    def place(self, key: Key) -> Place | None:
        """None: not of this family, or nowhere."""

    @abc.abstractmethod
    def derived_from(self, key: Key) -> str: ...

    def creation(self, key: Key, value: Value) -> Request:
        return self.updating(key, value, revision="")

    def updating(self, key: Key, value: Value, *, revision: str) -> Request:
        raise self.read_only(key)

    def completion(self, key: Key, value: Value, answer: bytes) -> Request | None:
        return None

    def deletion(self, key: Key, *, revision: str) -> Request:
        raise self.read_only(key)

    def leftover(self, key: Key, raw: bytes) -> Request | None:
        return None

    def read_only(self, key: Key) -> NotPermitted:
        source = self.derived_from(key)
        return NotPermitted(
            what=f"{storing.describe(key)} cannot be written: it is what {source} of Kubernetes says",
            todo=f"change {source} instead",
        )


def decoded(key: Key, value: Value | Malformed) -> Value:
    """What a copy from another store carries along undecoded. Raises DatastoreError for what does not decode: no object
    of another form can be made of it."""
    found = codec.decode(key, value.raw) if isinstance(value, Malformed) else value
    if isinstance(found, Malformed):
        raise DatastoreError(
            what=f"{storing.describe(key)} does not decode, so no Kubernetes object can be made of it: {found.reason}",
            todo="repair or delete it where it is",
        )
    return found


def url_of(place: Place, subresource: str = "") -> str:
    return place.collection.url(place.namespace, place.name, subresource)


def annotating(place: Place, annotations: Mapping[str, str | None], *, revision: str) -> Request:
    """Set annotations of another system's object, None to remove one, only as of ``revision`` unless "". As Calico does
    it by way of the status, whose writer needs no right to change the rest of the object."""
    meta: dict[str, Any] = {"annotations": dict(annotations)}
    if revision:
        meta["resourceVersion"] = revision
    path = url_of(place, "status")
    return Request(method="PATCH", path=path, body=mjson.encode({"metadata": meta}), content_type=MERGE_PATCH)


def removing(place: Place, *, revision: str = "", uid: str = "") -> Request:
    """Delete an object, only as of ``revision`` (the API server compares it; Calico, written before it could, marks the
    object as deleted first), or only the one with ``uid``."""
    required = {name: text for name, text in (("resourceVersion", revision), ("uid", uid)) if text}
    options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
    if required:
        options["preconditions"] = required
    return Request(method="DELETE", path=url_of(place), body=mjson.encode(options))


def field_selector(**fields: str) -> tuple[tuple[str, str], ...]:
    """``metadata__name="x"`` becomes the parameter ``fieldSelector=metadata.name=x``."""
    terms = [f"{name.replace('__', '.')}={text}" for name, text in fields.items() if text]
    return (("fieldSelector", ",".join(terms)),) if terms else ()
