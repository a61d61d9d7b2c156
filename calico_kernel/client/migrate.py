"""Copy a whole datastore into another: every record that the model knows, as it is stored, but what agents report.

In:    two open ``Datastore``s of any kind.
Out:   the target holds what the source holds, byte for byte: uids, creation times, IPAM, fields that only a newer
       version knows, and what does not decode.

Where the target makes records from objects of another system (``Datastore.derived_from``), it holds what they say:
values are compared instead of bytes, a Node or Pod that is there is given what only we know of it, nothing that is made
of an object is deleted, and what has no object or no place there is left out and told. Where the source is such a
store, what it makes of objects becomes records like others, as Calico's controllers would mirror them.

    mark the source -> may the target be written? -> lock both -> write what differs -> read both back, until equal
    -> mark the source "verified" -> target: marker off, ready as the source was -> source: marker off, stays locked:
    two unlocked copies would hand out the same addresses

Every step can be repeated, and the markers (``calico_kernel.client.lock``) say which of them were taken: after a kill
at any point the same call goes on. Revisions are each store's own and are not carried over.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import msgspec
from msgspec import Struct

from calico_kernel.client import likeness
from calico_kernel.client.client import Client
from calico_kernel.client.common import new_uid, now
from calico_kernel.client.lock import INFORMATION, Marker, marked, marker_of
from calico_kernel.client.setup import ensure_initialized
from calico_kernel.errors import (
    AlreadyExists,
    CalicoError,
    DatastoreError,
    NotFound,
    NotPermitted,
    RevisionConflict,
)
from calico_kernel.model import codec, keys, wellknown
from calico_kernel.model.keys import (
    BlockAffinityQuery,
    BlockQuery,
    HandleQuery,
    IpamConfigKey,
    IpamConfigQuery,
    IpamHostKey,
    IpamHostQuery,
    Key,
    Query,
    ResourceKey,
    ResourceQuery,
)
from calico_kernel.model.kinds import KINDS
from calico_kernel.model.records import Malformed

if TYPE_CHECKING:
    from calico_kernel.hookspecs import Datastore
    from calico_kernel.model.records import Value

SETTLE_S = 5.0
"""What began before the lock (a CNI ADD on its way) has this long to finish before the last comparison."""
PASSES = 5
WRITERS = 8
"""Writes under way at a time: one waits for the disk or the network while another is encoded."""
CHUNK = 256
ENGINE_CONFIG = ResourceKey("IPAMConfiguration", "", "default")
"""What people write; in a store of our own nobody obeys it, in Kubernetes it is the engine's configuration."""

Contents = Mapping[str, tuple[Key, bytes]]
"""By path: the key and the stored bytes."""
Progress = Callable[[str, int, int], None]
"""(what is being done, how many are done, of how many)"""


class CopyReport(Struct, frozen=True, kw_only=True, rename="camel"):
    """What a copy did. Counts are of records.

    resumed:       it went on with one that was broken off, begun at ``begun`` (RFC 3339).
    already_there: equal on the target before anything was written.
    kinds:         records by kind; IPAM's are called ``Block``, ``BlockAffinity``, ``Handle`` and so on.
    undecodable:   copied byte for byte although they do not decode.
    passes:        comparisons of the two until they were equal.
    underived:     path -> what must be in the target's own system for the record to be there ("Pod shop/web").
    homeless:      path -> why the target has no place for such a record.
    adjusted:      path -> fields that are otherwise on the target, whose own objects decide them.
    """

    records: int
    written: int
    deleted: int
    already_there: int
    resumed: bool
    begun: str
    verified: bool
    passes: int
    target_ready: bool
    seconds: float
    kinds: Mapping[str, int]
    undecodable: Sequence[str] = ()
    underived: Mapping[str, str] = {}
    homeless: Mapping[str, str] = {}
    adjusted: Mapping[str, Sequence[str]] = {}


def everything() -> list[Query]:
    """Queries whose answers are all that a datastore holds: plugins' kinds too, once they are registered. Not what
    agents report of themselves (``keys.is_status``), which they say again wherever they are."""
    ipam: list[Query] = [BlockQuery(), BlockAffinityQuery(), HandleQuery(), IpamConfigQuery(), IpamHostQuery()]
    return [*(ResourceQuery(kind) for kind in KINDS), *ipam]


def copy(
    source: Datastore,
    target: Datastore,
    *,
    overwrite: bool = False,
    partial: bool = False,
    settle_s: float = SETTLE_S,
    progress: Progress = lambda _what, _done, _total: None,
    pause: Callable[[float], None] = time.sleep,
) -> CopyReport:
    """Make ``target`` hold what ``source`` holds, and verify it by reading both back.

    overwrite:  the target may hold something else, which goes.
    partial:    finish even when policies are left out because what they belong to is not in the target's own system.
    Raises NotPermitted when the target holds something else or is the source itself (both are then as they were), and
    DatastoreError when the source keeps changing or a record does not fit. From the moment that both are locked, they
    stay so until a repeated call has finished, or ``calico_kernel.client.lock.unlock``.
    """
    return _Copy(source, target, overwrite, partial, settle_s, progress, pause).run()


class _Copy:
    def __init__(
        self,
        source: Datastore,
        target: Datastore,
        overwrite: bool,
        partial: bool,
        settle_s: float,
        progress: Progress,
        pause: Callable[[float], None],
    ) -> None:
        self.source, self.target = source, target
        self.overwrite, self.partial = overwrite, partial
        self.settle_s, self.progress, self.pause = settle_s, progress, pause
        self.written = self.deleted = self.already = 0
        self.objects = likeness.made_of_objects(target)
        self.leaving = likeness.made_of_objects(source) and not self.objects
        self.underived: dict[str, str] = {}
        self.homeless: dict[str, str] = {}
        self.tried: set[str] = set()
        self.held: Contents = {}

    def run(self) -> CopyReport:
        started = time.monotonic()
        marker, resumed = self._mark_source()
        try:
            resumed = self._admit_target(marker) and resumed
            whole = self._whole(marker)
        except DatastoreError:
            if marker.phase == "checking":
                self._write_information(self.source, None, ready=marker.ready)
            raise
        if whole is not None:
            marker = msgspec.structs.replace(marker, ready=self._finish(self._target_is_ready() or marker.ready))
            self.already = len(whole)
            return self._report(whole, marker, marker.phase == "verified", 1, started)
        marker = msgspec.structs.replace(marker, phase="copying")
        self._write_information(self.source, marker, ready=False)
        try:
            found, passes = self._carry(marker)
        except CalicoError as exc:
            raise DatastoreError(
                what=f"the copy broke off: {exc.what}",
                kept="what was copied, and the lock on both",
                todo=f"{exc.todo}; then run the same command again, it goes on where it was",
            ) from exc
        return self._report(found, marker, resumed, passes, started)

    def _carry(self, marker: Marker) -> tuple[Contents, int]:
        """From the lock of the target to its release: what both hold then, and how often they were compared."""
        locked_at = time.monotonic()
        mine = msgspec.structs.replace(marker, role="target")
        self.target.put(INFORMATION, _stored(marked(self._information(self.source), mine, ready=False)))
        done = self._until_equal(locked_at)
        marker = msgspec.structs.replace(marker, phase="verified")
        self._write_information(self.source, marker, ready=False)
        self._finish(marker.ready)
        return done

    def _finish(self, ready: bool) -> bool:
        """The target is whole: let it go, then the source; should we die between, the next run does the rest."""
        wanted = marked(self._information(self.source), None, ready=ready)
        self.target.put(INFORMATION, _stored(wanted))
        there = self._information(self.target)
        if not self._same(INFORMATION, codec.encode(wanted), codec.encode(there)):
            raise DatastoreError(
                what="ClusterInformation(default) of the target is not what was written",
                kept="the lock on the source",
                todo="see who else writes to the target",
            )
        self._write_information(self.source, None, ready=False)
        return ready

    # ── markers and locks ──

    def _mark_source(self) -> tuple[Marker, bool]:
        """The migration to do, and whether it was begun before."""
        ensure_initialized(Client(store=self.source))
        information = self._information(self.source)
        marker = marker_of(information)
        if marker is not None and marker.role != "source":
            raise NotPermitted(
                what=f"the source holds only a part of what the migration begun at {marker.begun} was to bring",
                todo="finish that migration first",
            )
        ready = information.spec.datastore_ready is not False
        if marker is not None and marker.phase != "checking":
            return marker, True
        marker = Marker(id=new_uid(), role="source", begun=now(), phase="checking", ready=ready)
        self._write_information(self.source, marker, ready=ready)
        return marker, False

    def _admit_target(self, marker: Marker) -> bool:
        """Whether the target holds the beginning of this very copy. Raises NotPermitted when it may not be written."""
        held = self._read(self.target)
        information = held.get(keys.path(INFORMATION))
        theirs = marker_of(self._information(self.target)) if information is not None else None
        if theirs is not None and theirs.id == marker.id:
            if theirs.role == "source":
                raise NotPermitted(
                    what="source and target are the same datastore",
                    todo="name two configurations with different datastores (environment variables count for both)",
                )
            return True
        if marker.phase == "verified" and information is not None and self._whole(marker) is not None:
            return True
        others = [key for path, (key, _) in held.items() if path not in _own_paths() and not self._made_of(key)]
        if others and not self.overwrite and not self._equal(self._read(self.source), held):
            kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(_kinds(others).items()))
            raise NotPermitted(
                what=f"the target holds {len(others)} records that are not of this copy ({kinds})",
                kept="source and target",
                todo="take an empty datastore, or replace all that is there with --overwrite",
            )
        return False

    def _whole(self, marker: Marker) -> Contents | None:
        """What both hold when the target is a finished copy already, made by an earlier run; else None."""
        try:
            there = self._information(self.target)
        except NotFound:
            return None
        if marker_of(there) is not None or there.spec.cluster_guid != self._information(self.source).spec.cluster_guid:
            return None
        found = self._read(self.source)
        return found if marker.phase == "verified" or self._equal(found, self._read(self.target)) else None

    def _target_is_ready(self) -> bool:
        return self._information(self.target).spec.datastore_ready is not False

    def _information(self, store: Datastore) -> Any:
        value: Any = store.get(INFORMATION).value
        if isinstance(value, Malformed):
            raise DatastoreError(
                what=f"ClusterInformation(default) does not decode: {value.reason}",
                todo="restore it from a backup, or delete it and let it be made anew",
            )
        return value

    def _write_information(self, store: Datastore, marker: Marker | None, *, ready: bool) -> None:
        while True:
            record = store.get(INFORMATION)
            value = marked(self._information(store), marker, ready=ready)
            try:
                store.update(INFORMATION, _stored(value), revision=record.revision)
                return
            except RevisionConflict:
                continue

    # ── records ──

    def _read(self, store: Datastore) -> Contents:
        found = {keys.path(key): (key, raw) for key, raw in store.list_stored(everything())}
        if store is not self.source:
            self.held = found
            return found
        if self.leaving:
            return {path: (key, likeness.leaving(key, raw)) for path, (key, raw) in found.items()}
        if self.objects and keys.path(IpamConfigKey()) in found:
            views = (
                ENGINE_CONFIG,
                IpamConfigKey(),
            )  # one object there; here the engine obeys its own record, or is one too
            found.pop(keys.path(views[likeness.made_of_objects(self.source)]), None)
        return found

    def _same(self, key: Key, wanted: bytes, held: bytes) -> bool:
        return wanted == held or (self.objects and likeness.equal(key, wanted, held))

    def _plan(self, wanted: Contents, held: Contents, *, once: bool) -> _Plan:
        """What makes ``held`` equal to ``wanted``, but for ClusterInformation, which says how far the copy is.

        once: what was written already and still differs is as the target's system wants it, which fills in what was
              left out, and lets nobody overrule an object.
        """
        skip = keys.path(INFORMATION)
        puts = []
        for path, (key, raw) in wanted.items():
            if path == skip or path in self.homeless or path in self.underived:
                continue
            if isinstance(key, IpamHostKey) and self._made_of(key):
                continue  # that a node uses IPAM: there are Nodes for that
            there = held.get(path)
            if there is not None and self._same(key, raw, there[1]):
                continue
            if self.objects and there is not None and not likeness.lost(raw, there[1]) and once:
                continue
            if path in self.tried:
                continue
            puts.append((key, raw))
        deletes = [
            key
            for path, (key, _) in held.items()
            if path != skip and path not in wanted and not self._of_an_object(key)
        ]
        return _Plan(puts, deletes)

    def _of_an_object(self, key: Key) -> bool:
        return bool(self._made_of(key)) or (self.objects and key in (ENGINE_CONFIG, IpamConfigKey()))

    def _made_of(self, key: Key) -> str:
        """The target's object that decides the record. The engine's configuration is but another view of our own."""
        return "" if isinstance(key, IpamConfigKey) else self.target.derived_from(key)

    def _equal(self, wanted: Contents, held: Contents) -> bool:
        """Whether the target looks like a whole copy. What another system decides is left aside."""
        theirs = {path for path, (key, _) in (*wanted.items(), *held.items()) if self._of_an_object(key)}
        if self.objects:
            theirs |= {path for path, (key, _) in wanted.items() if _may_be_homeless(key)}
        plan = self._plan(
            {path: one for path, one in wanted.items() if path not in theirs},
            {path: one for path, one in held.items() if path not in theirs},
            once=True,
        )
        return not plan.puts and not plan.deletes

    def _until_equal(self, locked_at: float) -> tuple[Contents, int]:
        """What both hold in the end, and how often they were compared."""
        for number in range(1, PASSES + 1):
            wanted, held = self._read(self.source), self._read(self.target)
            plan = self._plan(wanted, held, once=number > 1)
            if number == 1:
                self.already = len(wanted) - len(plan.puts) - 1
            if not plan.puts and not plan.deletes:
                left = self.settle_s - (time.monotonic() - locked_at)
                if left <= 0:
                    return wanted, number
                self.progress("waiting for writes begun before the lock", 0, 0)
                self.pause(left)
                wanted, held = self._read(self.source), self._read(self.target)
                plan = self._plan(wanted, held, once=number > 1)
                if not plan.puts and not plan.deletes:
                    return wanted, number
            self._apply(plan, len(wanted))
            self._refuse_to_lose_policy()
        raise DatastoreError(
            what=f"source and target still differ after {PASSES} passes: somebody writes in spite of the lock",
            kept="the lock on both",
            todo="stop what writes (controllers, older agents)",
        )

    def _refuse_to_lose_policy(self) -> None:
        lost = [path for path in (*self.underived, *self.homeless) if _is_policy(path)]
        if lost and not self.partial:
            named = ", ".join(f"{path} ({self.underived.get(path) or self.homeless[path]})" for path in lost[:5])
            more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
            raise DatastoreError(
                what=f"{len(lost)} policies or network sets cannot be brought to the target, which lacks what they "
                f"need: {named}{more}",
                kept="what was copied",
                todo="make there what is named, or give them up with --partial",
            )

    def _apply(self, plan: _Plan, total: int) -> None:
        done = total - len(plan.puts)
        with ThreadPoolExecutor(WRITERS) as pool:
            self.progress("copying", done, total)
            for start in range(0, len(plan.puts), CHUNK):
                chunk = plan.puts[start : start + CHUNK]
                self.written += sum(pool.map(self._put, chunk))
                self.progress("copying", done + start + len(chunk), total)
            list(pool.map(self._delete, plan.deletes))
            self.deleted += len(plan.deletes)

    def _put(self, record: tuple[Key, bytes]) -> bool:
        """Whether the target took it."""
        key, raw = record
        value = codec.decode(key, raw)
        if self._made_of(key) and not isinstance(value, Malformed):
            return self._complete(key, value)
        if codec.encode(value) != raw:
            value = Malformed("written by another version", raw)  # the bytes themselves: nothing of them is lost
        if not self.objects:
            self.target.put(key, _stored(value))
            return True
        return self._admitted(key, lambda: self._object(key, _stored(value)))

    def _object(self, key: Key, value: Value) -> None:
        """What is known not to be there is made by one request; ``put`` looks first."""
        if keys.path(key) not in self.held:
            with contextlib.suppress(AlreadyExists):
                self.target.create(key, value)
                return
        self.target.put(key, value)

    def _complete(self, key: Key, value: Any) -> bool:
        """Give an object of the target's system what only we know of it, where it takes that: else ``adjusted`` tells
        what it says instead."""
        path = keys.path(key)
        self.tried.add(path)
        while path in self.held:
            try:
                there = self.target.get(key)
                wanted = likeness.entering(value, there.value)
                self.target.update(key, _stored(wanted), revision=there.revision)
            except RevisionConflict:
                continue  # its own controllers write it too
            except NotPermitted:
                return False
            except NotFound:
                break
            return True
        self.underived[path] = self._made_of(key)
        return False

    def _admitted(self, key: Key, write: Callable[[], object]) -> bool:
        try:
            write()
        except NotFound as exc:
            self.underived[keys.path(key)] = self._made_of(key) or exc.what
        except NotPermitted as exc:
            self.homeless[keys.path(key)] = exc.what
        else:
            return True
        return False

    def _delete(self, key: Key) -> None:
        try:
            self.target.delete(key)
        except NotFound:
            return

    def _adjusted(self, wanted: Contents) -> dict[str, Sequence[str]]:
        if not self.objects:
            return {}
        held = self._read(self.target)
        fields = {
            path: likeness.lost(raw, held[path][1])
            for path, (_, raw) in wanted.items()
            if path in held and path != keys.path(INFORMATION)
        }
        return {path: lost for path, lost in fields.items() if lost}

    def _report(self, found: Contents, marker: Marker, resumed: bool, passes: int, started: float) -> CopyReport:
        return CopyReport(
            records=len(found),
            written=self.written,
            deleted=self.deleted,
            already_there=self.already,
            resumed=resumed,
            begun=marker.begun,
            verified=True,
            passes=passes,
            target_ready=marker.ready,
            seconds=round(time.monotonic() - started, 3),
            kinds=dict(sorted(_kinds(key for key, _ in found.values()).items())),
            undecodable=[path for path, one in found.items() if isinstance(codec.decode(*one), Malformed)],
            underived=dict(sorted(self.underived.items())),
            homeless=dict(sorted(self.homeless.items())),
            adjusted=self._adjusted(found),
        )


class _Plan(Struct, frozen=True):
    puts: Sequence[tuple[Key, bytes]]
    deletes: Sequence[Key]


def _is_policy(path: str) -> bool:
    key = keys.parse(path)
    return isinstance(key, ResourceKey) and key.kind in ("NetworkPolicy", "GlobalNetworkPolicy", "NetworkSet")


def _may_be_homeless(key: Key) -> bool:
    """Kinds that are wholly made of another system's objects there."""
    return isinstance(key, ResourceKey) and key.kind in ("Profile", "WorkloadEndpoint", "BlockAffinity")


def _stored(value: object) -> Value:
    """A ``Malformed`` is written as it was found (``codec.encode``)."""
    return cast("Value", value)


def _own_paths() -> frozenset[str]:
    """What every initialised datastore holds: no data of anybody's."""
    tiers = (keys.path(ResourceKey("Tier", "", name)) for name in wellknown.TIERS)
    return frozenset([keys.path(INFORMATION), *tiers])


def _kinds(found: Iterable[Key]) -> Counter[str]:
    return Counter(_kind_of(key) for key in found)


def _kind_of(key: Key) -> str:
    return key.kind if isinstance(key, ResourceKey) else type(key).__name__.removesuffix("Key")
