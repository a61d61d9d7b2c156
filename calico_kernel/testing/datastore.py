"""The contract of a datastore, as tests.

A plugin subclasses ``DatastoreContract``, supplies ``store`` and the three small levers below it, and runs all of it.
The in-memory datastore runs it too, so neither can drift.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import ClassVar

import pytest

from calico_kernel.errors import (
    AlreadyExists,
    DatastoreError,
    DatastoreUnavailable,
    NotFound,
    NotPermitted,
    RevisionConflict,
    RevisionTooOld,
)
from calico_kernel.hookspecs import Datastore, Watch
from calico_kernel.model.ipam import AllocationBlock, IpamConfig, IpamHandle, IpamHost, StoredBlockAffinity
from calico_kernel.model.keys import (
    BlockAffinityKey,
    BlockAffinityQuery,
    BlockKey,
    BlockQuery,
    HandleKey,
    HandleQuery,
    IpamConfigKey,
    IpamConfigQuery,
    IpamHostKey,
    Key,
    Query,
    ResourceKey,
    ResourceQuery,
    path,
)
from calico_kernel.model.meta import ObjectMeta, Resource
from calico_kernel.model.network import GlobalNetworkSet, IPPool, IPPoolSpec, NetworkSet
from calico_kernel.model.records import Event
from calico_kernel.testing.datastore_load import LoadContract
from calico_kernel.testing.datastore_programs import run_programs
from calico_kernel.testing.datastore_records import (
    ALL_SETS,
    KIND,
    STEP_S,
    collect,
    count_up,
    count_up_elsewhere,
    mark_of,
    names,
    network_set,
    read_on,
    set_key,
    write_series,
    write_series_elsewhere,
)
from calico_kernel.testing.datastore_values import ValuesContract

__all__ = [
    "ALL_SETS",
    "KIND",
    "STEP_S",
    "DatastoreContract",
    "SharedDatastoreContract",
    "collect",
    "count_up",
    "count_up_elsewhere",
    "mark_of",
    "names",
    "network_set",
    "read_on",
    "set_key",
    "write_series",
    "write_series_elsewhere",
]


class DatastoreContract(ValuesContract, LoadContract):
    # ── what the plugin supplies ──

    sends_ahead: ClassVar[bool] = False
    """Changes may reach a watch's buffer before ``next`` asks for them, and so survive what happens in between."""

    answer_s: ClassVar[float] = 0.0
    """How long a watch may take to say that its revision is too old."""

    program_examples: ClassVar[int] = 20
    """How many random programs are tried."""

    @pytest.fixture
    def store(self) -> Datastore:
        raise NotImplementedError("return an empty datastore")

    def forget_history(self, store: Datastore) -> None:
        """Compact: a list or a watch may start from the newest revision, at most one before it, and none earlier."""
        raise NotImplementedError("compact the history")

    def outage(self, store: Datastore) -> AbstractContextManager[None]:
        """While it is entered, the datastore cannot be reached; what is stored survives."""
        raise NotImplementedError("make the datastore unreachable")

    def write_raw(self, store: Datastore, at: str, raw: bytes) -> None:
        """Store bytes under a path, unchecked, as a broken or newer writer would."""
        raise NotImplementedError("store bytes under a path")

    def another(self, store: Datastore) -> Datastore | None:
        """The same datastore opened once more, if it can be."""
        return None

    # ── single records ──

    def test_created_record_is_read_back_with_its_revision(self, store: Datastore) -> None:
        made = store.create(set_key("a"), network_set("a", "x"))
        read = store.get(set_key("a"))
        assert read == made
        assert mark_of(read) == "x"
        assert isinstance(read.value, Resource)
        assert read.value.metadata.resource_version == read.revision

    def test_resource_version_given_by_the_caller_is_not_stored(self, store: Datastore) -> None:
        value = GlobalNetworkSet(metadata=ObjectMeta(name="a", resource_version="12345"))
        made = store.create(set_key("a"), value)
        assert isinstance(made.value, Resource)
        assert made.value.metadata.resource_version == made.revision != "12345"
        assert value.metadata.resource_version == "12345"

    def test_create_of_an_existing_key_is_refused_and_keeps_the_value(self, store: Datastore) -> None:
        store.create(set_key("a"), network_set("a", "first"))
        with pytest.raises(AlreadyExists):
            store.create(set_key("a"), network_set("a", "second"))
        assert mark_of(store.get(set_key("a"))) == "first"

    def test_update_replaces_and_gives_a_new_revision(self, store: Datastore) -> None:
        first = store.create(set_key("a"), network_set("a", 1))
        second = store.update(set_key("a"), network_set("a", 2), revision=first.revision)
        assert second.revision != first.revision
        assert store.get(set_key("a")) == second

    def test_update_with_stale_revision_raises_and_keeps_newer_value(self, store: Datastore) -> None:
        first = store.create(set_key("a"), network_set("a", 1))
        store.update(set_key("a"), network_set("a", 2), revision=first.revision)
        with pytest.raises(RevisionConflict):
            store.update(set_key("a"), network_set("a", 3), revision=first.revision)
        assert mark_of(store.get(set_key("a"))) == "2"

    def test_update_and_delete_of_a_missing_key_raise_not_found(self, store: Datastore) -> None:
        with pytest.raises(NotFound):
            store.update(set_key("a"), network_set("a"), revision="1")
        with pytest.raises(NotFound):
            store.delete(set_key("a"))
        with pytest.raises(NotFound):
            store.get(set_key("a"))

    def test_put_stores_whatever_is_there(self, store: Datastore) -> None:
        store.put(set_key("a"), network_set("a", 1))
        last = store.put(set_key("a"), network_set("a", 2))
        assert store.get(set_key("a")) == last

    def test_delete_returns_what_was_there(self, store: Datastore) -> None:
        made = store.create(set_key("a"), network_set("a", "x"))
        assert store.delete(set_key("a"), revision=made.revision) == made
        with pytest.raises(NotFound):
            store.get(set_key("a"))

    def test_delete_with_stale_revision_raises_and_keeps_the_record(self, store: Datastore) -> None:
        first = store.create(set_key("a"), network_set("a", 1))
        second = store.put(set_key("a"), network_set("a", 2))
        with pytest.raises(RevisionConflict):
            store.delete(set_key("a"), revision=first.revision)
        assert store.get(set_key("a")) == second

    def test_recreated_key_does_not_accept_the_revision_of_its_predecessor(self, store: Datastore) -> None:
        first = store.create(set_key("a"), network_set("a", 1))
        store.delete(set_key("a"))
        store.create(set_key("a"), network_set("a", 2))
        with pytest.raises(RevisionConflict):
            store.update(set_key("a"), network_set("a", 3), revision=first.revision)

    def test_oversized_value_is_refused_and_nothing_stored(self, store: Datastore) -> None:
        with pytest.raises(DatastoreError):
            store.create(set_key("a"), network_set("a", "x" * 2_000_000))
        with pytest.raises(NotFound):
            store.get(set_key("a"))

    def test_every_kind_of_record_round_trips(self, store: Datastore) -> None:
        block = AllocationBlock(
            cidr="10.0.0.0/30", affinity="host:n1", allocations=(None,) * 4, unallocated=(0, 1, 2, 3), sequence_number=7
        )
        stored: list[tuple[Key, object]] = [
            (BlockKey("10.0.0.0/30"), block),
            (BlockAffinityKey("host", "n1", "10.0.0.0/30"), StoredBlockAffinity(state="pending")),
            (HandleKey("net.id"), IpamHandle(block={"10.0.0.0/30": 1})),
            (IpamConfigKey(), IpamConfig(strict_affinity=True)),
            (IpamHostKey("n1"), IpamHost()),
        ]
        for key, value in stored:
            if isinstance(key, IpamHostKey) and store.derived_from(key):
                with pytest.raises(NotPermitted):
                    store.create(key, value)  # type: ignore[arg-type]
                continue
            made = store.create(key, value)  # type: ignore[arg-type]
            assert made.value == value
            assert store.get(key) == made

    # ── lists ──

    def test_list_of_an_empty_store_has_a_revision_to_watch_from(self, store: Datastore) -> None:
        listing = store.list([ALL_SETS])
        assert list(listing.records) == []
        made = store.create(set_key("a"), network_set("a"))
        watch = store.watch([ALL_SETS], revision=listing.revision)
        assert [event.record for event in collect(watch, bool)] == [made]
        watch.close()

    def test_list_is_in_key_order(self, store: Datastore) -> None:
        for name in ("b", "a.1", "a", "a-1", "c", "a0"):
            store.create(set_key(name), network_set(name))
        records = store.list([ALL_SETS]).records
        paths = [path(record.key) for record in records]
        assert paths == sorted(paths)
        assert len(paths) == 6

    def test_list_matches_namespace_and_name_prefix(self, store: Datastore) -> None:
        for namespace, name in (("one", "x"), ("one", "xy"), ("one", "y"), ("two", "x"), ("onemore", "x")):
            store.create(
                ResourceKey("NetworkSet", namespace, name),
                NetworkSet(metadata=ObjectMeta(name=name, namespace=namespace)),
            )
        assert names(store.list([ResourceQuery("NetworkSet", "one")]).records) == ["x", "xy", "y"]
        assert names(store.list([ResourceQuery("NetworkSet", "one", "x")]).records) == ["x", "xy"]
        assert len(store.list([ResourceQuery("NetworkSet")]).records) == 5

    def test_many_queries_are_answered_as_of_one_moment_without_repeats(self, store: Datastore) -> None:
        store.create(set_key("s"), network_set("s"))
        store.create(
            ResourceKey("IPPool", "", "p"), IPPool(metadata=ObjectMeta(name="p"), spec=IPPoolSpec(cidr="1.0.0.0/8"))
        )
        store.create(BlockAffinityKey("host", "n1", "10.0.0.0/26"), StoredBlockAffinity(state="confirmed"))
        store.create(BlockAffinityKey("host", "n2", "fd00::/122"), StoredBlockAffinity(state="confirmed"))
        store.create(BlockAffinityKey("virtual", "load-balancer", "10.0.1.0/26"), StoredBlockAffinity())
        store.create(BlockKey("10.0.0.0/26"), AllocationBlock(cidr="10.0.0.0/26"))
        if not store.derived_from(IpamHostKey("n1")):
            store.create(IpamHostKey("n1"), IpamHost())
        store.create(HandleKey("h"), IpamHandle())
        store.create(IpamConfigKey(), IpamConfig())
        queries: Sequence[Query] = [
            ALL_SETS,
            ResourceQuery("IPPool"),
            ResourceQuery(KIND, name_prefix="s"),
            BlockAffinityQuery(),
            BlockAffinityQuery(owner="n1"),
            BlockQuery(),
            HandleQuery(),
            IpamConfigQuery(),
        ]
        found = [record.key for record in store.list(queries).records]
        assert len(found) == len(set(found)) == 8
        assert IpamHostKey("n1") not in found
        assert [r.key for r in store.list([BlockAffinityQuery(type="host", version=6)]).records] == [
            BlockAffinityKey("host", "n2", "fd00::/122")
        ]
        assert [r.key for r in store.list([BlockQuery(version=4)]).records] == [BlockKey("10.0.0.0/26")]

    def test_list_at_a_revision_shows_that_moment(self, store: Datastore) -> None:
        store.create(set_key("stays"), network_set("stays", "old"))
        store.create(set_key("goes"), network_set("goes", "old"))
        moment = store.list([ALL_SETS])
        store.put(set_key("stays"), network_set("stays", "new"))
        store.put(set_key("stays"), network_set("stays", "newer"))
        store.delete(set_key("goes"))
        store.create(set_key("comes"), network_set("comes"))
        store.create(set_key("goes"), network_set("goes", "again"))
        then = store.list([ALL_SETS], revision=moment.revision)
        assert list(then.records) == list(moment.records)
        assert then.revision == moment.revision
        assert names(store.list([ALL_SETS]).records) == ["comes", "goes", "stays"]

    def test_list_at_a_forgotten_revision_says_too_old(self, store: Datastore) -> None:
        old = store.create(set_key("a"), network_set("a", 1)).revision
        store.put(set_key("a"), network_set("a", 2))
        store.put(set_key("a"), network_set("a", 3))
        self.forget_history(store)
        with pytest.raises(RevisionTooOld):
            store.list([ALL_SETS], revision=old)
        newest = store.list([ALL_SETS])
        assert list(store.list([ALL_SETS], revision=newest.revision).records) == list(newest.records)

    # ── watches ──

    def test_watch_delivers_creation_change_and_deletion_in_order(self, store: Datastore) -> None:
        start = store.list([ALL_SETS]).revision
        made = store.create(set_key("a"), network_set("a", 1))
        changed = store.update(set_key("a"), network_set("a", 2), revision=made.revision)
        store.delete(set_key("a"))
        watch = store.watch([ALL_SETS], revision=start)
        events = collect(watch, lambda got: len(got) == 3)
        assert [event.record for event in events] == [made, changed, None]
        assert events[2].key == set_key("a")
        assert len({event.revision for event in events}) == 3
        assert list(watch.next(0)) == []
        watch.close()

    def test_watch_from_a_record_starts_after_it(self, store: Datastore) -> None:
        made = store.create(set_key("a"), network_set("a", 1))
        watch = store.watch([ALL_SETS], revision=made.revision)
        assert list(watch.next(0)) == []
        later = store.put(set_key("a"), network_set("a", 2))
        assert [event.record for event in collect(watch, bool)] == [later]
        watch.close()

    def test_watch_delivers_only_what_its_queries_match(self, store: Datastore) -> None:
        start = store.list([ALL_SETS]).revision
        watch = store.watch([ResourceQuery(KIND, name_prefix="web"), HandleQuery()], revision=start)
        store.create(set_key("db"), network_set("db"))
        store.create(HandleKey("h"), IpamHandle())
        store.create(ResourceKey("IPPool", "", "web"), IPPool(metadata=ObjectMeta(name="web")))
        store.create(set_key("web1"), network_set("web1"))
        events = collect(watch, lambda got: len(got) == 2)
        assert {event.key for event in events} == {HandleKey("h"), set_key("web1")}
        watch.close()

    def test_watch_resumed_from_an_event_has_neither_gap_nor_repeat(self, store: Datastore) -> None:
        start = store.list([ALL_SETS]).revision
        write_series(store, "w", 20)
        watch = store.watch([ALL_SETS], revision=start)
        everything = collect(watch, lambda got: len(got) == 40)
        watch.close()
        for at in (0, 7, 38):
            resumed = store.watch([ALL_SETS], revision=everything[at].revision)
            assert collect(resumed, lambda got, n=39 - at: len(got) >= n) == everything[at + 1 :]  # type: ignore[misc]
            resumed.close()

    def test_waiting_watch_is_woken_by_a_write(self, store: Datastore) -> None:
        watch = store.watch([ALL_SETS], revision=store.list([ALL_SETS]).revision)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(watch.next, STEP_S)
            made = store.create(set_key("a"), network_set("a"))
            assert [event.record for event in waiting.result(STEP_S)] == [made]
        watch.close()

    def test_closed_watch_wakes_its_reader_with_nothing(self, store: Datastore) -> None:
        watch = store.watch([ALL_SETS], revision=store.list([ALL_SETS]).revision)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(watch.next, STEP_S)
            time.sleep(0.05)
            watch.close()
            assert list(waiting.result(STEP_S)) == []
        watch.close()
        assert list(watch.next(0)) == []

    def test_watch_from_a_forgotten_revision_says_too_old(self, store: Datastore) -> None:
        old = store.create(set_key("a"), network_set("a", 1)).revision
        store.put(set_key("a"), network_set("a", 2))
        store.put(set_key("a"), network_set("a", 3))
        self.forget_history(store)
        with pytest.raises(RevisionTooOld):
            store.watch([ALL_SETS], revision=old).next(self.answer_s)
        listing = store.list([ALL_SETS])
        watch = store.watch([ALL_SETS], revision=listing.revision)
        made = store.put(set_key("a"), network_set("a", 4))
        assert [event.record for event in collect(watch, bool)] == [made]
        watch.close()

    def test_watch_that_fell_behind_what_is_kept_says_too_old(self, store: Datastore) -> None:
        watch = store.watch([ALL_SETS], revision=store.list([ALL_SETS]).revision)
        write_series(store, "w", 3)
        self.forget_history(store)
        # Either it says so, or the changes were on their way already; a gap it never has.
        events: list[Event] = []
        try:
            events = collect(watch, lambda got: len(got) == 6)
        except RevisionTooOld:
            pass
        else:
            assert self.sends_ahead
            assert [mark_of(event.record) for event in events] == ["0", "w-0", "1", "w-1", "2", "w-2"]
        watch.close()

    def test_quiet_watch_survives_compaction_of_what_others_wrote(self, store: Datastore) -> None:
        watch = store.watch([HandleQuery()], revision=store.list([HandleQuery()]).revision)
        write_series(store, "w", 5)
        assert list(watch.next(0)) == []
        self.forget_history(store)
        made = store.create(HandleKey("h"), IpamHandle())
        assert [event.record for event in collect(watch, bool)] == [made]
        watch.close()

    def test_watch_under_concurrent_threads_has_no_gap_and_no_repeat(self, store: Datastore) -> None:
        listing = store.list([ALL_SETS])
        watch = store.watch([ALL_SETS], revision=listing.revision)
        writers = [threading.Thread(target=write_series, args=(store, f"w{n}", 40)) for n in range(4)]
        self._check_complete(store, watch, writers, 40)

    def _check_complete(self, store: Datastore, watch: Watch, writers: Sequence[object], count: int) -> None:
        for writer in writers:
            writer.start()  # type: ignore[attr-defined]
        events = collect(watch, lambda got: len(got) >= 2 * count * len(writers), 60)
        for writer in writers:
            writer.join()  # type: ignore[attr-defined]
        assert list(watch.next(0.05)) == []
        watch.close()
        assert len({event.revision for event in events}) == len(events) == 2 * count * len(writers)
        shared: list[str] = []
        for number in range(len(writers)):
            own = [mark_of(event.record) for event in events if event.key == set_key(f"w{number}")]
            assert own == [str(n) for n in range(count)]
            shared.extend(f"w{number}-{n}" for n in range(count))
        assert sorted(shared) == sorted(mark_of(e.record) for e in events if e.key == set_key("shared"))
        last = {event.key: event.record for event in events}
        assert [last[record.key] for record in store.list([ALL_SETS]).records] == list(store.list([ALL_SETS]).records)

    # ── everything, in any order ──

    def test_random_programs_give_the_same_results_as_in_memory(self, store: Datastore) -> None:
        run_programs(
            store,
            forget_history=lambda: self.forget_history(store),
            another=lambda: self.another(store),
            examples=self.program_examples,
            answer_s=self.answer_s,
        )

    # ── competition ──

    def test_compare_and_swap_by_threads_loses_no_update(self, store: Datastore) -> None:
        store.create(set_key("n"), network_set("n", 0))
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(count_up, store, "n", 25) for _ in range(4)]:
                done.result()
        assert mark_of(store.get(set_key("n"))) == "100"

    def test_one_of_many_concurrent_creates_wins(self, store: Datastore) -> None:
        def attempt(number: int) -> bool:
            try:
                store.create(set_key("one"), network_set("one", number))
            except AlreadyExists:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(attempt, range(16))) == 1

    # ── unavailability ──

    def test_every_call_says_unavailable_while_it_is_and_works_after(self, store: Datastore) -> None:
        made = store.create(set_key("a"), network_set("a", 1))
        calls: list[Callable[[], object]] = [
            lambda: store.get(set_key("a")),
            lambda: store.list([ALL_SETS]),
            lambda: store.create(set_key("b"), network_set("b")),
            lambda: store.put(set_key("b"), network_set("b")),
            lambda: store.update(set_key("a"), network_set("a", 2), revision=made.revision),
            lambda: store.delete(set_key("a")),
        ]
        with self.outage(store):
            for call in calls:
                with pytest.raises(DatastoreUnavailable) as caught:
                    call()
                assert caught.value.retryable
                assert caught.value.todo
        assert list(store.list([ALL_SETS]).records) == [made]
        store.create(set_key("b"), network_set("b"))

    def test_watch_resumes_after_unavailability_with_no_gap(self, store: Datastore) -> None:
        watch = store.watch([ALL_SETS], revision=store.list([ALL_SETS]).revision)
        first = store.create(set_key("a"), network_set("a", 1))
        assert [event.record for event in collect(watch, bool)] == [first]
        second = store.put(set_key("a"), network_set("a", 2))
        ahead: list[Event] = []
        with self.outage(store), pytest.raises(DatastoreUnavailable):
            read_on(watch, ahead)
        assert self.sends_ahead or not ahead
        third = store.put(set_key("a"), network_set("a", 3))
        later = collect(watch, lambda got: len(ahead) + len(got) == 2)
        assert [event.record for event in (*ahead, *later)] == [second, third]
        watch.close()

    def test_close_twice_is_harmless(self, store: Datastore) -> None:
        store.close()
        store.close()


class SharedDatastoreContract(DatastoreContract):
    """For a datastore that several processes open at once: all of the above, and what they may expect of each other."""

    def opener(self, store: Datastore) -> Callable[[], Datastore]:
        """Something picklable that opens the same datastore in another process."""
        raise NotImplementedError("return a function that opens the same datastore")

    def another(self, store: Datastore) -> Datastore | None:
        return self.opener(store)()

    def test_watch_under_concurrent_processes_has_no_gap_and_no_repeat(self, store: Datastore) -> None:
        opener = self.opener(store)
        watch = store.watch([ALL_SETS], revision=store.list([ALL_SETS]).revision)
        context = multiprocessing.get_context("spawn")
        writers = [context.Process(target=write_series_elsewhere, args=(opener, f"w{n}", 60)) for n in range(3)]
        self._check_complete(store, watch, writers, 60)

    def test_compare_and_swap_by_processes_loses_no_update(self, store: Datastore) -> None:
        opener = self.opener(store)
        store.create(set_key("n"), network_set("n", 0))
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=count_up_elsewhere, args=(opener, "n", 50)) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert mark_of(store.get(set_key("n"))) == "150"
