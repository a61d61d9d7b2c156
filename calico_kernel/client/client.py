"""Create, update, apply, delete, get and list resources.

In:    resources (``calico_kernel.model``) and keys.
Out:   compare-and-swap writes to a ``Datastore``. Rules of single kinds stand in ``calico_kernel.client.rules``.

Two levels, as in Calico: ``create`` and ``update`` take a resource whole (an update must carry the uid, the creation
time and the revision that was read); ``apply`` and ``replace`` take what a person wrote and keep the stored metadata
beside the labels and annotations given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from calico_kernel.client import rules
from calico_kernel.client.common import key_of, name_of, new_uid, now, with_metadata
from calico_kernel.errors import (
    AlreadyExists,
    DatastoreError,
    NotFound,
    RevisionConflict,
    ValidationError,
)
from calico_kernel.hookspecs import Datastore, Ipam, Validator
from calico_kernel.model import unread
from calico_kernel.model.keys import ResourceKey, ResourceQuery
from calico_kernel.model.kinds import KINDS
from calico_kernel.model.meta import ObjectMeta, Resource
from calico_kernel.model.records import Malformed, Record

R = TypeVar("R", bound=Resource)
Problems = list[tuple[str, str]]
"""(field path, reason)"""

CONFLICT_TRIES = 5
CONFLICT_PAUSE_S = 0.2


class ResourceList(Struct, frozen=True, kw_only=True):
    """``items`` in key order; ``malformed``: what is stored but does not decode, how it counts, and why."""

    items: Sequence[Any]
    revision: str
    malformed: Sequence[tuple[ResourceKey, str]] = ()


class Client(Struct, frozen=True, kw_only=True, eq=False):
    """The resource client. Thread-safe when its datastore is.

    ipam:        called when a rule needs the address manager; None means that addresses are not managed here.
    validators:  the plugins' checks, run after the kernel's own before every write.
    pause:       waits that many seconds; tests replace it.
    """

    store: Datastore
    ipam: Callable[[], Ipam] | None = None
    validators: Sequence[Validator] = ()
    pause: Callable[[float], None] = time.sleep

    # ── whole resources ───────────────────────────────────────────────────────────────────────────────────────────

    def create(self, resource: R) -> R:
        """Store a new resource. Raises ValidationError, AlreadyExists, NotFound (its tier), NotPermitted."""
        return self._create(resource, overlap_allowed=False)

    def create_unsafe(self, resource: R) -> R:
        """As ``create``, without the comparison with other pools and blocks: a pool is being split."""
        return self._create(resource, overlap_allowed=True)

    def _create(self, resource: R, *, overlap_allowed: bool) -> R:
        meta = resource.metadata
        problems = []
        if not meta.name and resource.kind != "WorkloadEndpoint":
            hint = " (generateName is not supported)" if meta.generate_name else ""
            problems.append(("metadata.name", f"must be set to create a resource{hint}"))
        if meta.resource_version:
            problems.append(("metadata.resourceVersion", "must not be set to create a resource"))
        self._check_namespace(resource, problems)
        rules.before_create(self, resource)
        given = resource  # with what it remembers of another: a part of a pool
        resource = rules.prepare(resource)
        rules.validate(resource, self.validators, problems)
        rules.check_new(self, resource, overlap_allowed=overlap_allowed)
        changes: dict[str, Any] = {}
        if not meta.creation_timestamp:
            changes["creation_timestamp"] = now()
        if not meta.uid:
            changes["uid"] = new_uid()
        resource = unread.carried(given, with_metadata(resource, **changes))
        with _Named(resource, new=True):
            stored: R = self._value(self.store.create(key_of(resource), resource))
        return stored

    def update(self, resource: R) -> R:
        """Replace a stored resource whose revision is the one given. Raises ValidationError, NotFound,
        RevisionConflict, NotPermitted."""
        meta = resource.metadata
        problems = [
            (f"metadata.{field}", "must be set to update a resource")
            for field, value in (
                ("resourceVersion", meta.resource_version),
                ("creationTimestamp", meta.creation_timestamp),
                ("uid", meta.uid),
            )
            if not value
        ]
        self._check_namespace(resource, problems)
        return self._write(resource, problems)

    def _write(self, resource: R, problems: Problems, *, over: Resource | None = None) -> R:
        rules.before_update(self, resource)
        over = over or resource
        resource = rules.prepare(resource)
        rules.validate(resource, self.validators, problems)
        rules.check_changed(self, resource)
        resource = unread.carried(over, resource)
        with _Named(resource):
            record = self.store.update(key_of(resource), resource, revision=resource.metadata.resource_version)
            stored: R = self._value(record)
        return stored

    def delete(self, kind: str, name: str, namespace: str = "", *, revision: str | None = None) -> Resource | None:
        """Remove a resource and what goes with it. Returns what was stored, None when that did not decode.
        Raises NotFound, RevisionConflict, NotPermitted (built-in or still in use)."""
        key = ResourceKey(kind, namespace, name)
        self._need_namespace(kind, namespace)
        revision = rules.before_delete(self, key, revision)
        with _Named(key):
            record = self.store.delete(key, revision=revision)
        return None if isinstance(record.value, Malformed) else rules.after_read(record.value)

    def delete_unsafe(self, kind: str, name: str, namespace: str = "") -> None:
        """Remove the record alone: a pool whose parts have taken over its blocks."""
        key = ResourceKey(kind, namespace, name)
        with _Named(key):
            self.store.delete(key)

    def get(self, kind: str, name: str, namespace: str = "") -> Any:
        """Raises NotFound, and DatastoreError for a stored value that does not decode."""
        key = ResourceKey(kind, namespace, name)
        self._need_namespace(kind, namespace)
        built_in = rules.built_in(key)
        if built_in is not None:
            return built_in
        with _Named(key):
            return self._value(self.store.get(key))

    def list(self, kind: str, namespace: str | None = None, name_prefix: str = "") -> ResourceList:
        """Everything of a kind as of one moment; ``namespace`` None or "" means all of them."""
        query = ResourceQuery(kind, namespace or None, name_prefix)
        listing = self.store.list([query])
        items: list[Any] = []
        malformed: list[tuple[ResourceKey, str]] = []
        for record in listing.records:
            if not isinstance(record.key, ResourceKey):
                continue
            if isinstance(record.value, Malformed):
                kept = "counts as absent" if record.value.instead is None else "denies in the directions it governs"
                malformed.append((record.key, f"{kept}: {record.value.reason}"))
            else:
                items.append(rules.after_read(_filled(record)))
        items += [one for one in rules.built_ins(kind) if one.metadata.name.startswith(name_prefix)]
        return ResourceList(items=items, revision=listing.revision, malformed=malformed)

    # ── what a person wrote ───────────────────────────────────────────────────────────────────────────────────────

    def apply(self, resource: R) -> R:
        """Create, or replace what is there."""
        rules.refuse_read_only(resource, "apply")
        try:
            return self.create_from(resource, resource_version="")
        except AlreadyExists:
            return self.replace(resource)

    def create_from(self, resource: R, *, resource_version: str | None = None) -> R:
        """Create from a document: of its metadata, only name, namespace, labels and annotations count."""
        rules.refuse_read_only(resource, "create")
        meta = resource.metadata
        kept = ObjectMeta(
            name=meta.name,
            generate_name=meta.generate_name,
            namespace=meta.namespace,
            resource_version=meta.resource_version if resource_version is None else resource_version,
            labels=meta.labels,
            annotations=meta.annotations,
        )
        return self.create(msgspec.structs.replace(resource, metadata=kept))

    def replace(self, resource: R) -> R:
        """Replace from a document: the stored metadata is kept, labels and annotations are the document's.

        A resourceVersion in the document must be the current one; without one, a conflict is tried again. A stored
        value that does not decode is overwritten.
        """
        rules.refuse_read_only(resource, "update")
        key = key_of(resource)
        self._need_namespace(key.kind, key.namespace)
        given = resource.metadata.resource_version
        for left in reversed(range(CONFLICT_TRIES)):
            try:
                return self._write(self._over_stored(resource, key, given), [])
            except RevisionConflict:
                if given or not left:
                    raise
                self.pause(CONFLICT_PAUSE_S)
        raise AssertionError("the last try returns or raises")

    def _over_stored(self, resource: R, key: ResourceKey, given: str) -> R:
        if rules.built_in(key) is not None:
            return resource
        with _Named(key):
            record = self.store.get(key)
        if given and given != record.revision:
            raise RevisionConflict(
                what=f"update conflict: {name_of(key)}: resource version {given!r} is out of date "
                f"(latest: {record.revision})",
                kept="the stored resource",
                todo="take the latest resource and make the change in it again",
            )
        meta = resource.metadata
        if isinstance(record.value, Malformed):
            stored = ObjectMeta(name=key.name, namespace=key.namespace, uid=new_uid(), creation_timestamp=now())
        else:
            stored = _filled(record).metadata
        merged = msgspec.structs.replace(
            stored,
            labels=meta.labels,
            annotations=meta.annotations,
            resource_version=record.revision,
            uid=stored.uid or new_uid(),
            creation_timestamp=stored.creation_timestamp or now(),
        )
        return msgspec.structs.replace(resource, metadata=merged)

    def change(self, kind: str, name: str, namespace: str, edit: Callable[[Any], Any]) -> Any:
        """Read, edit, update; again when somebody else wrote in between. ``edit`` is pure. Stored fields that this
        version does not know are kept."""
        for left in reversed(range(CONFLICT_TRIES)):
            try:
                stored = self.get(kind, name, namespace)
                return self._write(edit(stored), [], over=stored)
            except RevisionConflict:
                if not left:
                    raise
                self.pause(CONFLICT_PAUSE_S)
        raise AssertionError("the last try returns or raises")

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _value(self, record: Record) -> Any:
        if isinstance(record.value, Malformed):
            assert isinstance(record.key, ResourceKey)
            raise DatastoreError(
                what=f"the stored value of {name_of(record.key)} does not decode: {record.value.reason}",
                kept="the stored bytes; the resource counts as absent",
                todo="apply a correct document over it, or delete it",
            )
        return unread.carried(record.value, rules.after_read(_filled(record)))

    def _check_namespace(self, resource: Resource, problems: Problems) -> None:
        if KINDS[resource.kind].namespaced and not resource.metadata.namespace:
            problems.append(("metadata.namespace", f"a {resource.kind} belongs to a namespace"))
        if not KINDS[resource.kind].namespaced and resource.metadata.namespace:
            problems.append(("metadata.namespace", f"a {resource.kind} belongs to no namespace"))

    def _need_namespace(self, kind: str, namespace: str) -> None:
        if KINDS[kind].namespaced and not namespace:
            raise ValidationError(kind, [("metadata.namespace", f"a {kind} belongs to a namespace")])


class _Named:
    """Says which resource an error is about, in the words of Calico's client. ``new``: it is being created, so what is
    not found is something else: its namespace, or the object that it would be made from."""

    def __init__(self, subject: Resource | ResourceKey, *, new: bool = False) -> None:
        self.key = subject if isinstance(subject, ResourceKey) else key_of(subject)
        self.new = new

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, exc: BaseException | None, _trace: object) -> None:
        name = name_of(self.key)
        if isinstance(exc, NotFound) and self.new:
            raise NotFound(what=f"cannot create {name}: {exc.what}", todo=exc.todo) from exc
        if isinstance(exc, NotFound):
            raise NotFound(what=f"resource does not exist: {name}", todo="correct the name, or create it") from exc
        if isinstance(exc, AlreadyExists):
            raise AlreadyExists(
                what=f"resource already exists: {name}",
                kept="the stored resource",
                todo="use apply or replace to change it",
            ) from exc
        if isinstance(exc, RevisionConflict):
            raise RevisionConflict(
                what=f"update conflict: {name}", kept="what somebody else wrote", todo="read it again, then decide anew"
            ) from exc


def _filled(record: Record) -> Any:
    """The value with its revision, whether or not the store filled it in."""
    value: Any = record.value
    if value.metadata.resource_version == record.revision:
        return value
    return with_metadata(value, resource_version=record.revision)
