"""The datastore over a Kubernetes API.

In:    typed keys and values (calico_kernel.model), from the agent, calicoctl, IPAM and controllers.
Out:   requests to the API server as ``Mapping`` forms them; revisions are its resource versions, as decimal text.
Order: one object is one record; the API server compares and swaps on its resource version. Changes of one kind have one
       order; those of different kinds have none but their revisions.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from collections.abc import Mapping as Environment
from http import HTTPStatus
from typing import TypeAlias, TypeVar

import msgspec

from calico_datastore_kdd import auth, faults
from calico_datastore_kdd.api import Api, Refused
from calico_datastore_kdd.collection import CRD_GROUP, V3_GROUP, Collection, Group, Mapping, Place, Request, Selection
from calico_datastore_kdd.listing import Asked, Lister, Positions, nonsense
from calico_datastore_kdd.mapping import open_mapping
from calico_datastore_kdd.settings import KubernetesSettings
from calico_kernel.errors import AlreadyExists, DatastoreUnavailable, NotFound, RevisionConflict
from calico_kernel.hookspecs import Datastore, Watch
from calico_kernel.model import codec, storing
from calico_kernel.model.keys import Key, Query
from calico_kernel.model.records import Listing, Record, Value

T = TypeVar("T")
Reading: TypeAlias = "list[Asked]"

WRITE_ATTEMPTS = 20
"""Of a ``put``, or a ``delete`` of whatever is there, that others write at the same time."""


class _Name(msgspec.Struct, frozen=True):
    name: str = ""


class _Object(msgspec.Struct, frozen=True):
    metadata: _Name = _Name()


_object = msgspec.json.Decoder(_Object)


class _OtherGroup(Exception):
    """The cluster serves Calico's resources under another group than was assumed."""


class KubernetesDatastore(Datastore):
    def __init__(
        self,
        settings: KubernetesSettings,
        environment: Environment[str, str] | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        """``environment``: of the process, where a kubeconfig and the pod's API server may be named."""
        self._settings = settings
        self._log = log or logging.getLogger(__name__)
        self._api = Api(
            auth.find(settings, environment or {}),
            qps=settings.qps,
            burst=settings.burst,
            request_timeout_s=settings.request_timeout_s,
            log=self._log,
        )
        self._lister = Lister(self._api, self._log, self._unserved)
        self._lock = threading.Lock()
        # As Calico's client, which has no other way to know what Felix calls them.
        self._interface_prefix = (environment or {}).get("FELIX_INTERFACEPREFIX", "").split(",")[0] or "cali"
        self._mapping = self._map(settings.group() or CRD_GROUP)
        self._settled = bool(settings.group())

    # ── writes ──

    def create(self, key: Key, value: Value) -> Record:
        return self._with_group(lambda: self._create(key, value), key)

    def update(self, key: Key, value: Value, *, revision: str) -> Record:
        return self._with_group(lambda: self._update(key, value, revision), key)

    def put(self, key: Key, value: Value, *, ttl_s: float | None = None) -> Record:
        storing.check_ttl(key, ttl_s)
        return self._with_group(lambda: self._put(key, value), key)

    def delete(self, key: Key, *, revision: str | None = None) -> Record:
        return self._with_group(lambda: self._delete(key, revision), key)

    # ── reads ──

    def get(self, key: Key) -> Record:
        return self._with_group(lambda: self._get(key), key)

    def list(self, queries: Sequence[Query], *, revision: str | None = None) -> Listing:
        at = None if revision is None else Positions.parse(revision)
        records, end = self._with_group(lambda: self._lister.read(self._reading(queries), at))
        return Listing(records, str(end))

    def list_stored(self, queries: Sequence[Query]) -> Sequence[tuple[Key, bytes]]:
        """As they would stand in a store of our own."""
        records, _ = self._with_group(lambda: self._lister.read(self._reading(queries), None, whole=True))
        return [(record.key, codec.encode(record.value)) for record in records]

    def watch(self, queries: Sequence[Query], *, revision: str) -> Watch:
        from calico_datastore_kdd.watch import KubernetesWatch

        positions = Positions.parse(revision)
        self._settle()
        return KubernetesWatch(
            self._api,
            [(asked, positions.of(asked.selection)) for asked in self._watched(queries)],
            self._log,
        )

    def derived_from(self, key: Key) -> str:
        return self._mapping.derived_from(key)

    def close(self) -> None:
        self._api.close()

    # ── inside: records ──

    def _get(self, key: Key) -> Record:
        place, raw = self._read(key)
        found = self._record(place, key, raw, whole=True)
        if found is not None:
            return found
        if _object.decode(raw).metadata.name != place.name:
            raise nonsense(storing.describe(key), "it is another object")
        leftover = self._mapping.leftover(key, raw)
        if leftover is not None:
            self._remove(leftover)
        raise storing.not_found(key)

    def _create(self, key: Key, value: Value) -> Record:
        storing.encode(key, value)  # too large for other stores is too large here
        request = self._mapping.creation(key, value)
        place = self._place(key)
        if place.derived:
            self._get(key)
            return self._write(key, value, place, request)
        for _ in range(WRITE_ATTEMPTS):
            try:
                return self._write(key, value, place, request)
            except Refused as exc:
                if exc.status.reason != "AlreadyExists":
                    raise
            try:
                raw = self._call(Request(method="GET", path=place.url))
            except Refused as exc:
                if exc.code != HTTPStatus.NOT_FOUND:
                    raise
                continue  # gone in between
            leftover = self._mapping.leftover(key, raw)
            if leftover is None:
                there = place.collection.reader.record(raw)
                raise storing.exists(key, int(there.revision) if there is not None else None)
            self._remove(leftover)
        raise contended(key)

    def _update(self, key: Key, value: Value, revision: str) -> Record:
        storing.encode(key, value)
        place = self._place(key)
        if place.derived:
            self._get(key)
        if not storing.parse_revision(revision):
            raise storing.conflict(key, self._revision(key), revision)
        try:
            return self._write(key, value, place, self._mapping.updating(key, value, revision=revision))
        except Refused as exc:
            if exc.code == HTTPStatus.NOT_FOUND and not faults.is_unserved(exc):
                raise storing.not_found(key) from exc
            if exc.code != HTTPStatus.CONFLICT:
                raise
            raise storing.conflict(key, self._revision(key), revision) from exc

    def _put(self, key: Key, value: Value) -> Record:
        for _ in range(WRITE_ATTEMPTS):
            there = self._revision(key)
            try:
                return self._create(key, value) if there is None else self._update(key, value, str(there))
            except (AlreadyExists, RevisionConflict):
                continue
            except NotFound:
                if there is None or self._place(key).derived:
                    raise
        raise contended(key)

    def _delete(self, key: Key, revision: str | None) -> Record:
        for _ in range(WRITE_ATTEMPTS):
            found = self._get(key)
            if revision is not None and found.revision != revision:
                raise storing.conflict(key, int(found.revision), revision)
            try:
                self._call(self._mapping.deletion(key, revision=found.revision))
            except Refused as exc:
                if exc.code == HTTPStatus.NOT_FOUND:
                    raise storing.not_found(key) from exc
                if exc.code != HTTPStatus.CONFLICT:
                    raise
                continue
            return found
        raise contended(key)

    # ── inside: requests ──

    def _place(self, key: Key) -> Place:
        place = self._mapping.locate(key)
        if place is None:
            raise storing.not_found(key)
        return place

    def _read(self, key: Key) -> tuple[Place, bytes]:
        place = self._place(key)
        try:
            return place, self._call(Request(method="GET", path=place.url))
        except Refused as exc:
            missing = not faults.is_unserved(exc) or (place.collection.optional and self._settled)
            if exc.code == HTTPStatus.NOT_FOUND and missing:
                raise storing.not_found(key) from exc
            raise

    def _record(self, place: Place, key: Key, raw: bytes, *, whole: bool = False) -> Record | None:
        record = place.collection.reader.record(raw, whole=whole)
        return record if record is not None and record.key == key else None

    def _revision(self, key: Key) -> int | None:
        try:
            return int(self._get(key).revision)
        except NotFound:
            return None

    def _write(self, key: Key, value: Value, place: Place, request: Request) -> Record:
        answer = self._call(request)
        written = self._written(place, key, answer)
        rest = self._mapping.completion(key, value, answer)
        return written if rest is None else self._written(place, key, self._call(rest))

    def _written(self, place: Place, key: Key, answer: bytes) -> Record:
        record = self._record(place, key, answer)
        if record is None:
            raise nonsense(storing.describe(key), "it is not what was written")
        return record

    def _remove(self, leftover: Request) -> None:
        try:
            self._call(leftover)
        except Refused as exc:
            if exc.code not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):  # another one was faster
                raise

    def _call(self, request: Request) -> bytes:
        raw = self._api.call(request.method, request.path, request.body, request.content_type)
        self._settled = self._settled or request.path.startswith(f"/apis/{self._mapping.group}/")
        return raw

    # ── inside: which API group, and where its collections are ──

    def _map(self, group: Group) -> Mapping:
        return open_mapping(group, use_pod_cidr=self._settings.use_pod_cidr, interface_prefix=self._interface_prefix)

    def _reading(self, queries: Sequence[Query]) -> Reading:
        return merged([(query, self._mapping.collections(query)) for query in queries])

    def _watched(self, queries: Sequence[Query]) -> Reading:
        """Of one collection only one selection: two watches would have no order between them."""
        reading = self._reading(queries)
        one = {asked.selection.collection: asked.queries for asked in reading}
        if len(one) == len(reading):
            return reading
        return [Asked(Selection(collection=collection), queries) for collection, queries in one.items()]

    def _with_group(self, operation: Callable[[], T], key: Key | None = None) -> T:
        """Calico's resources are taken to be where they mostly are, which saves a question; when they are not, the
        server is asked, once."""
        assumed = self._mapping
        try:
            return operation()
        except _OtherGroup:
            return operation()
        except Refused as exc:
            if faults.is_unserved(exc):
                self._settle()
                if self._mapping is not assumed:
                    return self._with_group(operation, key)
            raise faults.error_of(exc, key) from exc
        except (msgspec.DecodeError, RecursionError) as exc:
            raise nonsense(storing.describe(key) if key is not None else "the list", exc) from exc

    def _settle(self) -> None:
        """Find out which group is served, unless that is known."""
        with self._lock:
            if self._settled:
                return
            for group in (CRD_GROUP, V3_GROUP):  # as Calico: the first, when both are served
                try:
                    self._api.call("GET", f"/apis/{group}")
                except Refused as exc:
                    if exc.code != HTTPStatus.NOT_FOUND:  # who may not ask takes what was assumed
                        self._log.info("the API group %s cannot be asked for: %s", group, exc)
                        return
                    continue
                if group != self._mapping.group:
                    self._log.info("Calico's resources are in the API group %s", group)
                    self._mapping = self._map(group)
                self._settled = True
                return

    def _unserved(self, selection: Selection, refused: Refused) -> None:
        self._settle()
        other = V3_GROUP if self._mapping.group == CRD_GROUP else CRD_GROUP
        if selection.collection.path == f"/apis/{other}":
            raise _OtherGroup
        if not selection.collection.optional:
            raise faults.not_installed(refused)


def merged(asked: Sequence[tuple[Query, Sequence[Selection]]]) -> Reading:
    """What to read to answer all queries, of which each asks for some: no object twice, and each with the queries that
    it may answer. Selections of one query do not overlap; where those of several might, the whole collection is
    read."""
    of_each: dict[Collection, list[tuple[Query, frozenset[Selection]]]] = {}
    for query, selections in asked:
        for collection in {selection.collection: None for selection in selections}:
            wanted = frozenset(selection for selection in selections if selection.collection is collection)
            of_each.setdefault(collection, []).append((query, wanted))
    found: Reading = []
    for collection, all_wanted in of_each.items():
        queries = tuple(query for query, _ in all_wanted)
        if len({wanted for _, wanted in all_wanted}) == 1:
            one_by_one = sorted(all_wanted[0][1], key=lambda selection: selection.params)
        else:
            one_by_one = [Selection(collection=collection)]
        found.extend(Asked(selection, queries) for selection in one_by_one)
    return found


def contended(key: Key) -> DatastoreUnavailable:
    return DatastoreUnavailable(
        what=f"{storing.describe(key)} is changed by others all the time ({WRITE_ATTEMPTS} attempts)",
        kept="what the others wrote",
        todo="call again",
    )
