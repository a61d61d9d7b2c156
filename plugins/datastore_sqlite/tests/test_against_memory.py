"""Whatever is done to it, in whatever order, SQLite answers as the plain datastore in memory does."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from calico_datastore_sqlite.settings import SqliteSettings
from calico_datastore_sqlite.store import SqliteDatastore
from calico_kernel.errors import AlreadyExists, NotFound, RevisionConflict, RevisionTooOld
from calico_kernel.hookspecs import Datastore, Watch
from calico_kernel.model.keys import Query, ResourceQuery
from calico_kernel.model.records import Event, Record
from calico_kernel.testing.datastore import ALL_SETS, KIND, mark_of, network_set, set_key
from calico_kernel.testing.memory_datastore import MemoryDatastore

NAMES = st.sampled_from(["a", "ab", "b", "c"])
QUERIES = st.sampled_from([ALL_SETS, ResourceQuery(KIND, name_prefix="a"), ResourceQuery("NetworkSet")])


def gist(record: Record | None) -> tuple[object, str] | None:
    """A record without its revision."""
    return None if record is None else (record.key, mark_of(record))


def gists(events: list[Event]) -> list[object]:
    return [(event.key, gist(event.record)) for event in events]


class Twins(RuleBasedStateMachine):
    """Revisions of the two are numbered differently; ``moments`` pairs those of the same moment."""

    moments: Bundle[tuple[str, str]] = Bundle("moments")
    watches: Bundle[tuple[Watch, Watch]] = Bundle("watches")

    @initialize()
    def open(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.memory = MemoryDatastore()
        self.sqlite = SqliteDatastore(
            SqliteSettings(path=str(self.directory / "calico.db"), durability="normal", busy_timeout_s=1)
        )
        self.revisions: dict[str, tuple[str, str]] = {}
        self.kept_from = 0
        self.changes = 0
        self.made_at: dict[tuple[str, str], int] = {}

    def both(self, call: str, *args: object, **kwargs: object) -> tuple[Record, Record] | type[Exception]:
        answers: list[Record | type[Exception]] = []
        for twin in (self.memory, self.sqlite):
            try:
                answers.append(getattr(twin, call)(*args, **kwargs))
            except (AlreadyExists, NotFound, RevisionConflict) as exc:
                answers.append(type(exc))
        one, other = answers
        if isinstance(one, Record) and isinstance(other, Record):
            assert gist(one) == gist(other)
            return one, other
        assert one == other
        assert isinstance(one, type)
        return one

    def wrote(self, name: str, answer: tuple[Record, Record] | type[Exception]) -> None:
        if isinstance(answer, tuple):
            self.changes += 1
            self.revisions[name] = (answer[0].revision, answer[1].revision)

    @rule(name=NAMES, mark=st.integers(0, 99))
    def create(self, name: str, mark: int) -> None:
        self.wrote(name, self.both("create", set_key(name), network_set(name, mark)))

    @rule(name=NAMES, mark=st.integers(0, 99))
    def put(self, name: str, mark: int) -> None:
        self.wrote(name, self.both("put", set_key(name), network_set(name, mark)))

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        if isinstance(self.both("delete", set_key(name)), tuple):
            self.changes += 1

    @rule(name=NAMES, other=NAMES, mark=st.integers(0, 99))
    def update_at_a_revision_seen_before(self, name: str, other: str, mark: int) -> None:
        """Sometimes its own and fresh, often stale or another key's: what counts is that both refuse alike."""
        given = self.revisions.get(other, ("0", "0"))
        outcomes: list[object] = []
        for twin, revision in zip((self.memory, self.sqlite), given, strict=True):
            try:
                outcomes.append(twin.update(set_key(name), network_set(name, mark), revision=revision))
            except (NotFound, RevisionConflict) as exc:
                outcomes.append(type(exc))
        if isinstance(outcomes[0], Record) and isinstance(outcomes[1], Record):
            self.wrote(name, (outcomes[0], outcomes[1]))
        else:
            assert outcomes[0] == outcomes[1]

    @rule(target=moments)
    def remember_the_moment(self) -> tuple[str, str]:
        moment = (self.memory.list([ALL_SETS]).revision, self.sqlite.list([ALL_SETS]).revision)
        self.made_at[moment] = self.changes
        return moment

    @rule(moment=moments, query=QUERIES)
    def list_at_a_moment(self, moment: tuple[str, str], query: Query) -> None:
        if self.made_at[moment] < self.kept_from:
            return
        then = [
            [gist(record) for record in twin.list([query], revision=revision).records]
            for twin, revision in zip((self.memory, self.sqlite), moment, strict=True)
        ]
        assert then[0] == then[1]

    @rule(target=watches, moment=moments, query=QUERIES)
    def watch_from_a_moment(self, moment: tuple[str, str], query: Query) -> tuple[Watch, Watch]:
        if self.made_at[moment] < self.kept_from:
            moment = (self.memory.list([query]).revision, self.sqlite.list([query]).revision)
        return self.memory.watch([query], revision=moment[0]), self.sqlite.watch([query], revision=moment[1])

    @rule(pair=watches)
    def read_watches(self, pair: tuple[Watch, Watch]) -> None:
        found: list[list[object] | None] = []
        for watch in pair:
            try:
                found.append(gists(list(watch.next(0))))
            except RevisionTooOld:
                found.append(None)
        # SQLite may keep one change more than it was asked to.
        assert found[0] == found[1] or found[0] is None

    @rule(pair=consumes(watches))
    def close_watches(self, pair: tuple[Watch, Watch]) -> None:
        for watch in pair:
            watch.close()

    @rule()
    def compact(self) -> None:
        self.memory.forget_history()
        self.sqlite.compact()
        self.kept_from = self.changes

    @rule()
    def reopen(self) -> None:
        """Watches in memory end with their datastore; those of SQLite are closed by the next read."""
        again = SqliteDatastore(
            SqliteSettings(path=str(self.directory / "calico.db"), durability="normal", busy_timeout_s=1)
        )
        assert [gist(record) for record in again.list([ALL_SETS]).records] == self.contents(self.memory)
        again.close()

    @invariant()
    def same_contents(self) -> None:
        if hasattr(self, "sqlite"):
            assert self.contents(self.memory) == self.contents(self.sqlite)

    def contents(self, twin: Datastore) -> list[object]:
        return [gist(record) for record in twin.list([ALL_SETS]).records]

    def teardown(self) -> None:
        if hasattr(self, "sqlite"):
            self.sqlite.close()
            shutil.rmtree(self.directory)


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
