"""Random programs against a datastore: whatever is done to it, in whatever order, it answers as the one in memory does.

In:    an empty store under test, and what makes it forget its history. ``DatastoreContract`` runs this on every store.
Out:   an AssertionError with the shortest program that tells the two apart.

Revisions of the two are numbered differently, so they are mapped, never compared: ``moments`` pairs those of the same
moment. Values are compared by what the program put in, since a store may add to a resource (a uid, a creation time).
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import attrs
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from calico_kernel.errors import AlreadyExists, NotFound, RevisionConflict, RevisionTooOld
from calico_kernel.hookspecs import Datastore, Watch
from calico_kernel.model.ipam import AllocationBlock, IpamConfig, IpamHandle, StoredBlockAffinity
from calico_kernel.model.keys import (
    BlockAffinityKey,
    BlockAffinityQuery,
    BlockKey,
    BlockQuery,
    HandleKey,
    HandleQuery,
    IpamConfigKey,
    IpamConfigQuery,
    Key,
    Query,
    ResourceKey,
    ResourceQuery,
    matches,
)
from calico_kernel.model.meta import ObjectMeta, Resource
from calico_kernel.model.network import GlobalNetworkSet, NetworkSet, NetworkSetSpec
from calico_kernel.model.records import Event, Record, Value
from calico_kernel.testing.memory_datastore import MemoryDatastore

ARRIVAL_S = 20.0
"""Bound of the wait for events that are on their way."""
BLOCK = "10.0.0.0/30"
NAMESPACES = ("shop", "lab")
"""Of the namespaced resources; where a store wants namespaces to exist, they must be there before."""

KEYS: Sequence[Key] = (
    *(ResourceKey("GlobalNetworkSet", "", name) for name in ("a", "ab", "b")),
    *(ResourceKey("NetworkSet", namespace, "a") for namespace in NAMESPACES),
    HandleKey("h1"),
    BlockKey(BLOCK),
    BlockAffinityKey("host", "n1", BLOCK),
    IpamConfigKey(),
)
QUERIES: Sequence[Query] = (
    ResourceQuery("GlobalNetworkSet"),
    ResourceQuery("GlobalNetworkSet", name_prefix="a"),
    ResourceQuery("NetworkSet"),
    ResourceQuery("NetworkSet", "shop"),
    HandleQuery(),
    BlockQuery(version=4),
    BlockAffinityQuery(),
    IpamConfigQuery(),
)
EVERYTHING: Sequence[Query] = tuple(QUERIES[n] for n in (0, 2, 4, 5, 6, 7))

some_keys = st.sampled_from(KEYS)
some_marks = st.integers(0, 99)
some_queries = st.lists(st.sampled_from(QUERIES), min_size=1, max_size=4, unique=True)

Answer: TypeAlias = "Record | type[Exception]"


def value_of(key: Key, mark: int) -> Value:
    """A value that carries ``mark``."""
    if isinstance(key, ResourceKey):
        meta = ObjectMeta(name=key.name, namespace=key.namespace, labels={"mark": str(mark)})
        spec = NetworkSetSpec(nets=("10.0.0.0/8",))
        made: Any = NetworkSet if key.kind == "NetworkSet" else GlobalNetworkSet
        value: Value = made(metadata=meta, spec=spec)
        return value
    if isinstance(key, HandleKey):
        return IpamHandle(block={BLOCK: mark})
    if isinstance(key, BlockKey):
        return AllocationBlock(
            cidr=BLOCK, allocations=(None,) * 4, unallocated=(0, 1, 2, 3), sequence_number=mark, affinity="host:n1"
        )
    if isinstance(key, BlockAffinityKey):
        return StoredBlockAffinity(state=("pending", "confirmed", "pendingDeletion")[mark % 3])
    return IpamConfig(auto_allocate_blocks=True, strict_affinity=mark % 2 == 1, max_blocks_per_host=mark + 1)


def gist(record: Record | None) -> object:
    """What the program put into a record."""
    if record is None:
        return None
    value = record.value
    return record.key, value.metadata.labels["mark"] if isinstance(value, Resource) else value


def kind_of(key: Key) -> str:
    return key.kind if isinstance(key, ResourceKey) else type(key).__name__


def by_kind(events: Iterable[Event]) -> dict[str, list[object]]:
    """The order of changes is promised for each kind only."""
    found: dict[str, list[object]] = {}
    for event in events:
        found.setdefault(kind_of(event.key), []).append((event.key, gist(event.record)))
    return found


@attrs.frozen
class Moment:
    """One moment of both stores, and how many changes there had been."""

    memory: str
    other: str
    changes: int


@attrs.define(eq=False)
class Twins:
    """A watch on each store with the same queries."""

    memory: Watch
    other: Watch


def empty(store: Datastore) -> None:
    for record in store.list(EVERYTHING).records:
        with contextlib.suppress(NotFound):
            store.delete(record.key)


class DatastoreProgram(RuleBasedStateMachine):
    moments: Bundle[Moment] = Bundle("moments")
    watches: Bundle[Twins] = Bundle("watches")

    def __init__(
        self,
        store: Datastore,
        forget_history: Callable[[], None],
        another: Callable[[], Datastore | None],
        answer_s: float,
    ) -> None:
        super().__init__()
        self.other, self.forget_other, self.another, self.answer_s = store, forget_history, another, answer_s
        empty(store)
        self.memory = MemoryDatastore()
        self.last: dict[Key, Moment] = {}
        self.open: list[Twins] = []
        self.changes = self.kept_from = 0
        self.start = self.now()
        self.all_along = self.watch(EVERYTHING, self.start)

    # ── writes ──

    def both(self, call: str, key: Key, *values: Value, at: Moment | None = None) -> None:
        """The same call on both, which must end alike."""
        answers: list[Answer] = []
        for store, revision in ((self.memory, at and at.memory), (self.other, at and at.other)):
            given = {} if revision is None else {"revision": revision}
            try:
                answers.append(getattr(store, call)(key, *values, **given))
            except (AlreadyExists, NotFound, RevisionConflict) as exc:
                answers.append(type(exc))
        one, other = answers
        if not isinstance(one, Record) or not isinstance(other, Record):
            assert one == other, f"{call} {key}: in memory {one}, here {other}"
            return
        assert gist(one) == gist(other)
        self.changes += 1
        if call != "delete":
            self.last[key] = Moment(one.revision, other.revision, self.changes)

    def fresh(self, key: Key, mark: int) -> Value:
        """Other than what is there: a write that changes nothing is none to some stores."""
        wanted = Record(key, value_of(key, mark), "")
        with contextlib.suppress(NotFound):
            if gist(self.memory.get(key)) == gist(wanted):
                return value_of(key, mark + 1)
        return value_of(key, mark)

    @rule(key=some_keys, mark=some_marks)
    def create(self, key: Key, mark: int) -> None:
        self.both("create", key, value_of(key, mark))

    @rule(puts=st.lists(st.tuples(some_keys, some_marks), min_size=1, max_size=6))
    def put(self, puts: Sequence[tuple[Key, int]]) -> None:
        for key, mark in puts:
            self.both("put", key, self.fresh(key, mark))

    @rule(key=some_keys)
    def delete(self, key: Key) -> None:
        self.both("delete", key)

    # Sometimes a revision of its own and fresh, often stale or another key's: what counts is that both refuse alike.

    @rule(key=some_keys, other=some_keys, mark=some_marks)
    def update_at_a_revision_seen_before(self, key: Key, other: Key, mark: int) -> None:
        self.both("update", key, self.fresh(key, mark), at=self.last.get(other, Moment("0", "0", 0)))

    @rule(key=some_keys, mark=some_marks)
    def update_at_its_own_revision(self, key: Key, mark: int) -> None:
        self.both("update", key, self.fresh(key, mark), at=self.last.get(key, Moment("0", "0", 0)))

    @rule(key=some_keys, other=some_keys)
    def delete_at_a_revision_seen_before(self, key: Key, other: Key) -> None:
        self.both("delete", key, at=self.last.get(other, Moment("0", "0", 0)))

    # ── reads ──

    @rule(key=some_keys)
    def get(self, key: Key) -> None:
        answers: list[object] = []
        for store in (self.memory, self.other):
            try:
                answers.append(gist(store.get(key)))
            except NotFound:
                answers.append(NotFound)
        assert answers[0] == answers[1]

    @rule(target=moments)
    def remember_the_moment(self) -> Moment:
        return self.now()

    def now(self) -> Moment:
        return Moment(self.memory.list(EVERYTHING).revision, self.other.list(EVERYTHING).revision, self.changes)

    @rule(moment=moments, queries=some_queries)
    def list_at_a_moment(self, moment: Moment, queries: Sequence[Query]) -> None:
        self.list_at(moment, queries)

    def list_at(self, moment: Moment, queries: Sequence[Query]) -> None:
        here = None
        with self.too_old(moment):
            here = [gist(record) for record in self.other.list(queries, revision=moment.other).records]
        if here is not None and moment.changes >= self.kept_from:
            assert here == [gist(record) for record in self.memory.list(queries, revision=moment.memory).records]

    @rule()
    def compact(self) -> None:
        self.memory.forget_history()
        self.forget_other()
        self.kept_from = self.changes
        self.list_at(self.start, EVERYTHING)

    @rule()
    def open_it_again(self) -> None:
        again = self.another()
        if again is not None:
            assert self.contents(again) == self.contents(self.memory)
            again.close()

    # ── watches ──

    @rule(target=watches, moment=moments, queries=some_queries)
    def watch_from_a_moment(self, moment: Moment, queries: Sequence[Query]) -> Twins:
        if moment.changes < self.kept_from:
            with self.too_old(moment):
                self.other.watch(queries, revision=moment.other).next(self.answer_s)
            moment = self.now()
        return self.watch(queries, moment)

    @rule(target=watches, key=some_keys)
    def watch_from_a_record(self, key: Key) -> Twins:
        queries = [query for query in EVERYTHING if matches(query, key)]
        moment = self.last.get(key)
        if moment is None or moment.changes < self.kept_from:
            moment = self.now()
        return self.watch(queries, moment)

    def watch(self, queries: Sequence[Query], moment: Moment) -> Twins:
        twins = Twins(
            self.memory.watch(queries, revision=moment.memory), self.other.watch(queries, revision=moment.other)
        )
        self.open.append(twins)
        return twins

    @rule(twins=watches)
    def read_watches(self, twins: Twins) -> None:
        self.read(twins)

    def read(self, twins: Twins) -> None:
        """What was sent before it was forgotten still arrives, so here there may be an answer where memory says "too
        old"."""
        try:
            wanted = by_kind(twins.memory.next(0))
        except RevisionTooOld:
            return
        missing, found = sum(map(len, wanted.values())), list[Event]()
        deadline = time.monotonic() + ARRIVAL_S
        while len(found) < missing and time.monotonic() < deadline:
            found += twins.other.next(1.0)
        found += twins.other.next(0)
        assert by_kind(found) == wanted

    @rule(twins=consumes(watches))
    def close_watches(self, twins: Twins) -> None:
        twins.memory.close()
        twins.other.close()

    # ── what always holds ──

    @contextlib.contextmanager
    def too_old(self, moment: Moment) -> Iterator[None]:
        """A moment before the last compaction is "too old"; the one right before it may be."""
        try:
            yield
        except RevisionTooOld:
            assert moment.changes < self.kept_from, "too old, although nothing was forgotten since"
        else:
            assert moment.changes >= self.kept_from - 1, "an answer, although history was forgotten"

    @invariant()
    def same_contents(self) -> None:
        assert self.contents(self.other) == self.contents(self.memory)

    @invariant()
    def every_change_was_told_once(self) -> None:
        self.read(self.all_along)

    @staticmethod
    def contents(store: Datastore) -> list[object]:
        return [gist(record) for record in store.list(EVERYTHING).records]

    def teardown(self) -> None:
        for twins in self.open:
            twins.other.close()


def run_programs(
    store: Datastore,
    *,
    forget_history: Callable[[], None],
    another: Callable[[], Datastore | None] = lambda: None,
    answer_s: float = 0.0,
    examples: int = 20,
    steps: int = 30,
    shrink: bool = True,
) -> None:
    """Run random programs against ``store``, which is emptied before each.

    forget_history, answer_s: as of ``DatastoreContract``. another: opens the same datastore once more. shrink: look for
    the shortest program that fails.
    """
    make_program: Any = functools.partial(DatastoreProgram, store, forget_history, another, answer_s)
    run_state_machine_as_test(
        make_program,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if shrink else [])],
            suppress_health_check=list(HealthCheck),
        ),
    )
