"""The part of the datastore's contract that is about time: outages under load, many writers, and what an agent sees.

``DatastoreContract`` has these among its tests. They need what it needs: a store, and its levers.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

from calico_kernel.agent.feed import Batch, Change, Feed
from calico_kernel.calc.calculator import Calculator
from calico_kernel.errors import RevisionTooOld
from calico_kernel.hookspecs import Datastore, Watch
from calico_kernel.model.keys import Key, Query, ResourceKey, path
from calico_kernel.model.network import GlobalNetworkSet
from calico_kernel.model.records import Event, Malformed, Record
from calico_kernel.testing.datastore_programs import EVERYTHING, KEYS, gist, value_of
from calico_kernel.testing.datastore_records import ALL_SETS, network_set, set_key
from calico_kernel.testing.patient import PatientDatastore

BOUND_S = 60.0
"""Of one wait, on a busy machine."""


def set_of(name: str, mark: object) -> tuple[ResourceKey, GlobalNetworkSet]:
    return set_key(name), network_set(name, mark)


def read_until(watch: Watch, enough: Callable[[list[Event]], bool], events: list[Event]) -> None:
    deadline = time.monotonic() + BOUND_S
    while not enough(events):
        assert time.monotonic() < deadline, f"only {len(events)} events"
        events.extend(watch.next(0.5))


class Seen:
    """What a feed passed on: batches, and the newest value by key."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.view: dict[Key, Change] = {}
        self._changed = threading.Condition()

    def sink(self, batch: Batch) -> None:
        with self._changed:
            self.batches.append(batch)
            for change in batch.changes:
                if change.value is None:
                    self.view.pop(change.key, None)
                else:
                    self.view[change.key] = change
            self._changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, BOUND_S), f"{len(self.batches)} batches"

    @property
    def in_syncs(self) -> int:
        return sum(batch.in_sync for batch in self.batches)

    @property
    def changes(self) -> list[Change]:
        return [change for batch in self.batches for change in batch.changes]


@contextlib.contextmanager
def feeding(store: Datastore, queries: Sequence[Query] = (ALL_SETS,)) -> Iterator[tuple[Feed, Seen]]:
    """A feed over ``store``, in sync."""
    seen = Seen()
    feed = Feed(store, queries, seen.sink, retry_min_s=0.02, retry_max_s=0.1)
    feed.start()
    try:
        seen.until(lambda: seen.in_syncs == 1)
        yield feed, seen
    finally:
        feed.stop()
        feed.join(BOUND_S)


class Forgetful(PatientDatastore):
    """Its watches go deaf on demand, and then say "too old": whoever reads one must list again."""

    deaf = False

    def watch(self, queries: Sequence[Query], *, revision: str) -> Watch:
        return _ForgetfulWatch(self, super().watch(queries, revision=revision))


class _ForgetfulWatch(Watch):
    def __init__(self, store: Forgetful, below: Watch) -> None:
        self._store, self._below = store, below
        self._was_deaf = False

    def next(self, timeout_s: float) -> Sequence[Event]:
        if self._store.deaf:
            self._was_deaf = True
            time.sleep(0.01)
            return ()
        if self._was_deaf:
            raise RevisionTooOld(what="what happened meanwhile is not known", todo="list again")
        events = self._below.next(min(timeout_s, 0.05))
        return () if self._store.deaf else events

    def close(self) -> None:
        self._below.close()


class LoadContract:
    away_s: ClassVar[float] = 0.8
    """How long the datastore is away in one outage under load: longer than a call tries."""

    def outage(self, store: Datastore) -> AbstractContextManager[None]:
        raise NotImplementedError

    def write_raw(self, store: Datastore, at: str, raw: bytes) -> None:
        raise NotImplementedError

    # ── outages ──

    def test_datastore_away_under_load_loses_and_doubles_nothing(self, store: Datastore) -> None:
        """Two writers and a reader go on through two outages, in each of which the server, if there is one, is
        restarted."""
        patient = PatientDatastore(store, patience_s=BOUND_S)
        watch = patient.watch([ALL_SETS], revision=patient.list([ALL_SETS]).revision)
        stop, written = threading.Event(), {"w0": 0, "w1": 0}

        def write(writer: str) -> None:
            while not stop.is_set():
                patient.put(*set_of(writer, written[writer]))
                written[writer] += 1

        writers = [threading.Thread(target=write, args=(writer,)) for writer in written]
        for thread in writers:
            thread.start()
        events: list[Event] = []
        try:
            for _ in range(2):
                here = len(events)
                read_until(watch, lambda got, n=here: len(got) >= n + 10, events)  # type: ignore[misc]
                with self.outage(store):
                    time.sleep(self.away_s)
            here = len(events)
            read_until(watch, lambda got: len(got) >= here + 10, events)
        finally:
            stop.set()
            for thread in writers:
                thread.join()
        read_until(watch, lambda got: len(got) >= sum(written.values()), events)
        assert list(watch.next(0.2)) == []
        for writer, count in written.items():
            marks = [gist(event.record) for event in events if event.key.name == writer]  # type: ignore[union-attr]
            assert marks == [(set_of(writer, 0)[0], str(number)) for number in range(count)]
        watch.close()

    # ── many writers, several kinds ──

    def test_lists_and_watches_agree_while_many_write_records_of_several_kinds(self, store: Datastore) -> None:
        first = store.list(EVERYTHING)
        watch = store.watch(EVERYTHING, revision=first.revision)
        wanted: dict[Key, list[object]] = defaultdict(list)

        def write(own: Sequence[Key]) -> None:
            for number in range(25):
                for key in own:
                    record = store.put(key, value_of(key, number))
                    wanted[key].append(gist(record))
                    if number % 6 == 5:
                        store.delete(key, revision=record.revision)
                        wanted[key].append(None)

        writers = [threading.Thread(target=write, args=(KEYS[number::3],)) for number in range(3)]
        for thread in writers:
            thread.start()
        listings = [first]
        while any(thread.is_alive() for thread in writers):
            listings.append(store.list(EVERYTHING))
            time.sleep(0.05)
        for thread in writers:
            thread.join()
        total = sum(map(len, wanted.values()))
        events: list[Event] = []
        read_until(watch, lambda got: len(got) >= total, events)
        assert list(watch.next(0.1)) == []
        watch.close()
        told: dict[Key, list[Event]] = defaultdict(list)
        for event in events:
            told[event.key].append(event)
        assert {key: [gist(event.record) for event in of_key] for key, of_key in told.items()} == dict(wanted)
        for of_key in told.values():
            revisions = [int(event.revision) for event in of_key]
            assert revisions == sorted(set(revisions))
        # Each listing lies on the way that the watch tells of: every record in it was told, and what follows leads on.
        for listing in listings:
            for record in listing.records:
                assert any(event.record == record for event in told[record.key])
        for listing in listings[:: max(1, len(listings) // 4)]:
            self._check_replay(store, {record.key: record for record in listing.records}, listing.revision)

    def _check_replay(self, store: Datastore, state: dict[Key, Record], revision: str) -> None:
        """A listing and the changes after it make what is there now."""
        now = {record.key: record for record in store.list(EVERYTHING).records}
        watch = store.watch(EVERYTHING, revision=revision)
        deadline = time.monotonic() + BOUND_S
        while state != now:
            assert time.monotonic() < deadline, "the changes after a listing do not lead to what is there"
            for event in watch.next(0.5):
                before = state.get(event.key)
                assert before is None or int(event.revision) > int(before.revision)
                if event.record is None:
                    state.pop(event.key, None)
                else:
                    state[event.key] = event.record
        assert list(watch.next(0)) == []
        watch.close()

    # ── what an agent sees ──

    def test_feed_is_in_sync_once_for_each_listing_and_tells_each_change_once(self, store: Datastore) -> None:
        patient = PatientDatastore(store)
        patient.put(*set_of("there", 0))
        with feeding(store) as (feed, seen):
            patient.put(*set_of("a", 1))
            seen.until(lambda: set_of("a", 1)[0] in seen.view)
            with self.outage(store):
                deadline = time.monotonic() + BOUND_S
                while feed.state.connected:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                assert feed.state.in_sync  # what was known counts on
            patient.put(*set_of("a", 2))
            last = patient.put(*set_of("b", 1))
            seen.until(lambda: last.key in seen.view)
            assert seen.in_syncs == feed.state.lists
            told = [(change.key, change.revision) for change in seen.changes]
            assert len(set(told)) == len(told) == 4

    def test_new_listing_yields_only_what_differs(self, store: Datastore) -> None:
        patient = Forgetful(store)
        for name in ("stays", "changes", "goes", "is made anew"):
            patient.put(*set_of(name.replace(" ", "-"), 0))
        with feeding(patient) as (feed, seen):
            patient.deaf = True
            time.sleep(0.1)
            patient.put(*set_of("changes", 1))
            patient.delete(set_of("goes", 0)[0])
            patient.delete(set_of("is-made-anew", 0)[0])
            patient.put(*set_of("is-made-anew", 0))
            patient.put(*set_of("comes", 0))
            patient.deaf = False
            seen.until(lambda: seen.in_syncs == 2)
            changes = {change.key.name: change.value for change in seen.batches[-1].changes}  # type: ignore[union-attr]
            assert set(changes) == {"changes", "goes", "is-made-anew", "comes"}
            assert changes["goes"] is None
            patient.put(*set_of("later", 0))
            seen.until(lambda: set_of("later", 0)[0] in seen.view)
            assert seen.in_syncs == feed.state.lists == 2

    def test_malformed_values_are_counted_with_their_reason_and_stop_nothing(self, store: Datastore) -> None:
        patient = PatientDatastore(store)
        queries = Calculator.queries()
        bad = [ResourceKey(kind, "", "bad") for kind in ("GlobalNetworkPolicy", "GlobalNetworkSet", "IPPool", "Tier")]
        patient.list(queries)  # whatever is prepared at the first use is there from here on
        for key in bad[:2]:
            self.write_raw(store, path(key), b'{"spec":7}')
        with feeding(store, queries) as (_, seen):
            for key in bad[2:]:
                self.write_raw(store, path(key), b'{"spec":7}')
            made = patient.put(*set_of("good", 0))
            seen.until(lambda: made.key in seen.view and all(key in seen.view for key in bad))
            calculator = Calculator("n1")
            calculator.update((change.key, change.value) for change in seen.changes)
            calculator.in_sync()
            assert calculator.flush() is not None
            assert set(calculator.problems) == set(bad)
            assert all(calculator.problems.values())
            assert all(isinstance(seen.view[key].value, Malformed) for key in bad)
            patient.delete(bad[0])
            seen.until(lambda: bad[0] not in seen.view)
            calculator.update([(bad[0], None)])
            assert set(calculator.problems) == set(bad[1:])
