"""Keep the calculation's view equal to the datastore: list, then watch, and list again when the watch was too old.

In:    a Datastore and the queries that the calculation needs.   Out: batches, to ``calico_kernel.agent.loop``.
Owns:  one thread. An outage changes nothing downstream: the last view stays until the datastore is back. Nor does what
       happens while the datastore is locked (``datastoreReady`` false): a migration may have written only a part. Once
       it is unlocked everything is listed again. Felix ends itself then, and waits at its start.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence

import attrs

from calico_kernel.errors import DatastoreError, DatastoreUnavailable, NotPermitted, RevisionTooOld
from calico_kernel.hookspecs import Datastore, Watch
from calico_kernel.model.cluster import ClusterInformation
from calico_kernel.model.keys import Key, Query, ResourceKey, ResourceQuery
from calico_kernel.model.records import Event, Malformed, Record, Value
from calico_kernel.reconcile.backoff import Backoff

log = logging.getLogger(__name__)

WATCH_S = 5.0
WATCH_AGAIN_S = 0.2
"""The first wait after an outage: long enough for a connection that breaks at once, short since readiness waits."""
CLUSTER = ResourceQuery("ClusterInformation")
CLUSTER_KEY = ResourceKey("ClusterInformation", "", "default")
LOCKED = "the datastore is locked (datastoreReady is false)"


@attrs.frozen(slots=True)
class Change:
    """``value`` None: the record is gone. ``revision`` is that of the record, or of its removal."""

    key: Key
    value: Value | Malformed | None
    revision: str


@attrs.frozen(slots=True)
class Batch:
    """``in_sync``: with this batch the view is complete."""

    changes: Sequence[Change]
    in_sync: bool = False


@attrs.define
class FeedState:
    """What health and metrics say of the feed. Written by the feed's thread only."""

    in_sync: bool = False
    connected: bool = False
    locked: bool = False
    trouble: str = "the datastore was not read yet"
    lists: int = 0
    events: int = 0


class Feed(threading.Thread):
    """Runs until ``stop``. ``sink`` may block: that is the back-pressure."""

    def __init__(
        self,
        store: Datastore,
        queries: Sequence[Query],
        sink: Callable[[Batch], None],
        *,
        retry_min_s: float = 0.1,
        retry_max_s: float = 30.0,
    ) -> None:
        super().__init__(name="feed", daemon=True)
        self.state = FeedState()
        self._store, self._sink = store, sink
        self._queries = (*(query for query in queries if query != CLUSTER), CLUSTER)
        self._backoff = Backoff(first_s=retry_min_s, most_s=retry_max_s)
        self._stopping = threading.Event()
        self._watch: Watch | None = None
        self._known: dict[Key, str] = {}
        self._again = threading.Event()

    def restart(self) -> None:
        """List everything again: whoever consumes the batches has lost its view."""
        self._again.set()
        watch = self._watch
        if watch is not None:
            watch.close()

    def stop(self) -> None:
        self._stopping.set()
        watch = self._watch
        if watch is not None:
            watch.close()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                revision = self._list()
                self._backoff.reset()
                self._follow(revision)
            except RevisionTooOld as exc:
                log.info("listing everything again: %s", exc.what)
                if exc.other_history:
                    self._forget_revisions()
            except (DatastoreUnavailable, NotPermitted) as exc:
                self._away(exc)
                self._stopping.wait(self._backoff.next_s())
            except Exception:
                log.exception("the feed broke and starts over with a new listing")
                self.state.trouble = "an unexpected error broke the feed; see the log"
                self._stopping.wait(self._backoff.next_s())

    def _away(self, exc: DatastoreError) -> None:
        said = exc.what if exc.retryable else f"{exc.what}; to do: {exc.todo}"
        if self.state.connected or not self.state.in_sync:
            log.warning("datastore away: %s; the node keeps enforcing what it knows", said)
        self.state.connected = False
        self.state.trouble = said

    def _back(self) -> None:
        if not self.state.connected:
            log.info("datastore connected")
        self.state.connected = True
        self.state.trouble = LOCKED if self.state.locked else ""

    def _list(self) -> str:
        if self._again.is_set():
            self._again.clear()
            self._forget_revisions()
        listing = self._store.list(self._queries)
        self.state.lists += 1
        self._lock(any(is_lock(record) for record in listing.records))
        self._back()
        if self.state.locked:
            return listing.revision
        present = {record.key: record.revision for record in listing.records}
        changes = [Change(key, None, listing.revision) for key in self._known.keys() - present.keys()]
        known = self._known.get
        changes.extend(
            Change(record.key, record.value, record.revision)
            for record in listing.records
            if known(record.key) != record.revision
        )
        self._known = present
        self._sink(Batch(changes, in_sync=True))
        self.state.in_sync = True
        return listing.revision

    def _forget_revisions(self) -> None:
        """So that the next listing is passed on whole, not only what differs."""
        self._known = dict.fromkeys(self._known, "")

    def _follow(self, revision: str) -> None:
        watch = self._watch = self._store.watch(self._queries, revision=revision)
        try:
            while not self._stopping.is_set() and not self._again.is_set():
                try:
                    events = watch.next(WATCH_S if self.state.connected else WATCH_AGAIN_S)
                except DatastoreUnavailable as exc:
                    self._away(exc)
                    self._stopping.wait(self._backoff.next_s())
                    continue
                self._back()
                self._backoff.reset()
                self.state.events += len(events)
                if self.state.locked:
                    if any(event.key == CLUSTER_KEY and not is_lock(event.record) for event in events):
                        return
                    continue
                end = next((number for number, event in enumerate(events) if is_lock(event.record)), None)
                if events[:end]:
                    self._sink(Batch(list(self._changes(events[:end]))))
                if end is not None:
                    if any(event.key == CLUSTER_KEY for event in events[end + 1 :]):
                        return  # unlocked again, perhaps: what is there now decides
                    self._lock(True)
                    self._back()
        finally:
            watch.close()
            self._watch = None

    def _lock(self, locked: bool) -> None:
        if locked and not self.state.locked:
            log.warning("%s: the node keeps enforcing what it knows until it is unlocked", LOCKED)
        elif self.state.locked and not locked:
            log.info("the datastore is unlocked")
        self.state.locked = locked

    def _changes(self, events: Iterable[Event]) -> Iterable[Change]:
        for event in events:
            if event.record is None:
                self._known.pop(event.key, None)
                yield Change(event.key, None, event.revision)
            else:
                self._known[event.key] = event.record.revision
                yield Change(event.key, event.record.value, event.record.revision)


def is_lock(record: Record | None) -> bool:
    """Whether this is ClusterInformation ``default`` and says that the datastore is locked."""
    return (
        record is not None
        and record.key == CLUSTER_KEY
        and isinstance(record.value, ClusterInformation)
        and record.value.spec.datastore_ready is False
    )
