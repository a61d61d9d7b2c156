"""The datastore over an etcd cluster.

In:    typed keys and values (calico_kernel.model), from the agent, calicoctl, IPAM and controllers.
Out:   transactions on keys and values that are byte for byte Calico's; revisions are etcd's, as decimal text.
Order: every write is one etcd transaction on one key and so one revision, for every client the same.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, TypeVar

from calico_datastore_etcd import proto
from calico_datastore_etcd.client import EtcdClient
from calico_datastore_etcd.settings import EtcdSettings
from calico_datastore_etcd.watch import EtcdWatch
from calico_kernel.errors import RevisionTooOld
from calico_kernel.hookspecs import Datastore, Watch
from calico_kernel.model import keys, storing
from calico_kernel.model.keys import Key, Query
from calico_kernel.model.records import Listing, Record, Value

T = TypeVar("T")

FIRST_PAGE_KEYS, PAGE_BYTES = 1000, 8_000_000
"""The first page of a list is small, the others are sized by it. etcd walks the index to the end of the range for each
page, so many small ones are slow in a large range; of large values, as of IPAM, a fixed number may be too many."""
LIST_ATTEMPTS = 3
"""A list without a revision starts again when its moment is compacted away between two pages."""


class EtcdDatastore(Datastore):
    keeps_status: ClassVar[bool] = True

    def __init__(self, settings: EtcdSettings, log: logging.Logger | None = None) -> None:
        self._log = log or logging.getLogger(__name__)
        self._client = EtcdClient(settings, self._log)

    # ── writes ──

    def create(self, key: Key, value: Value) -> Record:
        path, raw = keys.path(key).encode(), storing.encode(key, value)
        answer = self._transact(
            proto.Compare(key=path, target=proto.TARGET_VERSION),  # version 0: there is none
            proto.RequestOp(request_put=proto.PutRequest(key=path, value=raw)),
            path,
        )
        if not answer.succeeded:
            raise storing.exists(key, revision_of(found_instead(answer)))
        return storing.record_of(key, raw, answer.header.revision)

    def update(self, key: Key, value: Value, *, revision: str) -> Record:
        path, raw = keys.path(key).encode(), storing.encode(key, value)
        expected = storing.parse_revision(revision)
        if not expected:
            raise storing.conflict(key, revision_of(self._get(path)), revision)
        answer = self._transact(
            proto.Compare(key=path, target=proto.TARGET_MOD_REVISION, mod_revision=expected),
            proto.RequestOp(request_put=proto.PutRequest(key=path, value=raw)),
            path,
        )
        if not answer.succeeded:
            raise storing.conflict(key, revision_of(found_instead(answer)), revision)
        return storing.record_of(key, raw, answer.header.revision)

    def put(self, key: Key, value: Value, *, ttl_s: float | None = None) -> Record:
        path, raw = keys.path(key).encode(), storing.encode(key, value)
        storing.check_ttl(key, ttl_s)
        # A lease of its own for each put, as Calico's client does: the key leaves the one it was under, which ends by
        # itself soon after. Keeping one alive would cost as many calls, and one more state that a restore can lose.
        lease = 0
        if ttl_s is not None:
            lease = self._client.call("LeaseGrant", proto.LeaseGrantRequest(TTL=math.ceil(ttl_s))).ID
        answer = self._client.call("Put", proto.PutRequest(key=path, value=raw, lease=lease), changes=True)
        return storing.record_of(key, raw, answer.header.revision)

    def delete(self, key: Key, *, revision: str | None = None) -> Record:
        path = keys.path(key).encode()
        removal = proto.DeleteRangeRequest(key=path, prev_kv=True)
        if revision is None:
            removed = self._client.call("DeleteRange", removal, changes=True)
        else:
            expected = storing.parse_revision(revision)
            if not expected:
                raise storing.conflict(key, revision_of(self._get(path)), revision)
            answer = self._transact(
                proto.Compare(key=path, target=proto.TARGET_MOD_REVISION, mod_revision=expected),
                proto.RequestOp(request_delete_range=removal),
                path,
            )
            if not answer.succeeded:
                raise storing.conflict(key, revision_of(found_instead(answer)), revision)
            removed = answer.responses[0].response_delete_range
        if not removed.prev_kvs:
            raise storing.not_found(key)
        old = removed.prev_kvs[0]
        return storing.record_of(key, old.value, old.mod_revision)

    def compact(self) -> str:
        """Make etcd forget all history before now; returns the oldest revision still good for a list. Ordinary use
        needs no call: etcd's ``--auto-compaction-*`` options do it."""
        newest: int = self._client.call("Range", proto.RangeRequest(key=keys.ROOT.encode())).header.revision
        with contextlib.suppress(RevisionTooOld):  # done already
            self._client.call("Compact", proto.CompactionRequest(revision=newest))
        return str(newest)

    # ── reads ──

    def get(self, key: Key) -> Record:
        found = self._get(keys.path(key).encode())
        if found is None:
            raise storing.not_found(key)
        return storing.record_of(key, found.value, found.mod_revision, whole=True)

    def list(self, queries: Sequence[Query], *, revision: str | None = None) -> Listing:
        moment = 0 if revision is None else storing.parse_revision(revision)
        if revision is not None and not moment:
            raise RevisionTooOld(what=f"{revision!r} is not a revision of etcd", todo="list without a revision")
        records, moment = self._list(queries, moment, storing.record_of)
        return Listing(records, str(moment))

    def list_stored(self, queries: Sequence[Query]) -> Sequence[tuple[Key, bytes]]:
        found, _ = self._list(queries, 0, lambda key, raw, _revision: (key, raw))
        return found

    def watch(self, queries: Sequence[Query], *, revision: str) -> Watch:
        at = storing.parse_revision(revision)
        if not at:
            raise RevisionTooOld(what=f"{revision!r} is not a revision of etcd", todo="list again")
        return EtcdWatch(self._client, queries, at, storing.record_of)

    def close(self) -> None:
        self._client.close()

    # ── inside ──

    def _get(self, path: bytes) -> Any:
        found = self._client.call("Range", proto.RangeRequest(key=path)).kvs
        return found[0] if found else None

    def _transact(self, compare: Any, operation: Any, path: bytes) -> Any:
        """One operation if the comparison holds, else what is there."""
        instead = proto.RequestOp(request_range=proto.RangeRequest(key=path))
        request = proto.TxnRequest(compare=[compare], success=[operation], failure=[instead])
        return self._client.call("Txn", request, changes=True)

    def _list(
        self, queries: Sequence[Query], moment: int, make: Callable[[Key, bytes, int], T]
    ) -> tuple[Sequence[T], int]:
        """What ``make`` makes of each record, and the moment."""
        for attempt in range(LIST_ATTEMPTS):
            try:
                return self._list_once(tuple(queries), moment, make)
            except RevisionTooOld:
                if moment or attempt == LIST_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def _list_once(
        self, queries: Sequence[Query], moment: int, make: Callable[[Key, bytes, int], T]
    ) -> tuple[Sequence[T], int]:
        records: list[T] = []
        with storing.collector_resting():
            for prefix in storing.prefixes(queries):
                # Prefixes are sorted and disjoint, so what they give follows each other in order.
                for page in self._pages(prefix.encode(), moment):
                    moment = moment or page.header.revision
                    records.extend(decoded(page.kvs, queries, make))
        if not moment:
            moment = self._client.call("Range", proto.RangeRequest(key=keys.ROOT.encode())).header.revision
        return records, moment

    def _pages(self, prefix: bytes, moment: int) -> Iterator[Any]:
        """All pages as of ``moment``, or of the first one when it is 0. The next is fetched while one is decoded."""

        def fetch(start: bytes, at: int, limit: int) -> Any:
            return self._client.call(
                "Range",
                proto.RangeRequest(key=start, range_end=proto.prefix_end(prefix), limit=limit, revision=at),
            )

        page = fetch(prefix, moment, FIRST_PAGE_KEYS)
        moment = moment or page.header.revision
        limit = max(1, PAGE_BYTES * len(page.kvs) // page.ByteSize())
        with contextlib.ExitStack() as stack:
            fetcher = stack.enter_context(ThreadPoolExecutor(1)) if page.more else None
            while fetcher is not None and page.more:
                following = fetcher.submit(fetch, page.kvs[-1].key + b"\0", moment, limit)
                yield page
                page = following.result()
            yield page


def decoded(found: Iterable[Any], queries: Sequence[Query], make: Callable[[Key, bytes, int], T]) -> Iterator[T]:
    for kv in found:
        key = key_of_path(kv.key)
        if key is not None and any(keys.matches(query, key) for query in queries):
            yield make(key, kv.value, kv.mod_revision)


def key_of_path(path: bytes) -> Key | None:
    try:
        return keys.parse(path.decode())
    except UnicodeDecodeError:
        return None


def revision_of(found: Any) -> int | None:
    return None if found is None else int(found.mod_revision)


def found_instead(answer: Any) -> Any:
    kvs = answer.responses[0].response_range.kvs
    return kvs[0] if kvs else None
