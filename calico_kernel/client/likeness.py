"""When the same record looks different in two datastores, and what of that matters. Pure.

In:    keys and stored bytes of both.
Out:   whether they say the same, and which fields do not, to ``calico_kernel.client.migrate``.

A store of our own keeps bytes. A store that is made of another system's objects (Kubernetes) gives each its own uid and
time, and fills in what was left out: there the values count. A record that such a store makes from an object itself (a
Node, a Pod) also says what that object says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import json as mjson

from calico_kernel.model import codec
from calico_kernel.model.keys import Key, ResourceKey
from calico_kernel.model.meta import Resource
from calico_kernel.model.records import Malformed
from calico_kernel.model.wellknown import KUBERNETES_LABELS_ANNOTATION

if TYPE_CHECKING:
    from calico_kernel.hookspecs import Datastore

_OWN = frozenset({"uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"})
"""Metadata that belongs to the object rather than to what it says."""


def made_of_objects(store: Datastore) -> bool:
    """Whether another system's objects are behind its records."""
    return bool(store.derived_from(ResourceKey("Node", "", "any")))


def equal(key: Key, wanted: bytes, held: bytes) -> bool:
    """Whether both say the same, but for whose object it is."""
    return wanted == held or gist(key, wanted) == gist(key, held)


def gist(key: Key, raw: bytes) -> bytes:
    """What the model makes of a record, without the metadata of one object."""
    value = codec.decode(key, raw)
    if isinstance(value, Malformed):
        return raw
    if isinstance(value, Resource):
        meta = msgspec.structs.replace(
            value.metadata, uid="", resource_version="", creation_timestamp=None, generation=0
        )
        value = msgspec.structs.replace(value, metadata=meta)
    return codec.encode(value)


def lost(wanted: bytes, held: bytes) -> list[str]:
    """Fields of ``wanted`` that ``held`` does not have so, as paths; what ``held`` has besides was filled in there."""
    try:
        return list(_lost(mjson.decode(wanted), mjson.decode(held), ""))
    except msgspec.DecodeError:
        return [] if wanted == held else [""]


def _lost(wanted: Any, held: Any, path: str) -> Iterator[str]:
    if isinstance(wanted, dict) and isinstance(held, dict):
        for name, item in wanted.items():
            if not (path == "metadata" and name in _OWN):
                yield from _lost(item, held.get(name), f"{path}.{name}" if path else name)
    elif isinstance(wanted, list) and isinstance(held, list):
        pairs = zip(wanted, held, strict=False)
        if len(wanted) != len(held) or any(next(_lost(item, other, path), None) is not None for item, other in pairs):
            yield path
    elif wanted != held and not (_is_empty(wanted) and _is_empty(held)):
        yield path


def _is_empty(item: Any) -> bool:
    """As good as left out."""
    return item is None or item is False or item in ({}, [], "")


def leaving(key: Key, raw: bytes) -> bytes:
    """A record of a store made of objects as one of our own keeps it: without the note which labels of a Node are
    Kubernetes'."""
    if not isinstance(key, ResourceKey) or key.kind != "Node":
        return raw
    node = codec.decode(key, raw)
    if not isinstance(node, Resource) or KUBERNETES_LABELS_ANNOTATION not in node.metadata.annotations:
        return raw
    return codec.encode(_annotated(node, {KUBERNETES_LABELS_ANNOTATION: None}))


def entering(value: Any, held: Any) -> Any:
    """A Node as it is written over the ``held`` one of a store made of objects, which knows its labels' owners."""
    note = held.metadata.annotations.get(KUBERNETES_LABELS_ANNOTATION) if isinstance(held, Resource) else None
    return _annotated(value, {KUBERNETES_LABELS_ANNOTATION: note}) if note and value.kind == "Node" else value


def _annotated(resource: Any, changes: Mapping[str, str | None]) -> Any:
    annotations = {**resource.metadata.annotations, **changes}
    kept = {name: text for name, text in annotations.items() if text is not None}
    return msgspec.structs.replace(resource, metadata=msgspec.structs.replace(resource.metadata, annotations=kept))
