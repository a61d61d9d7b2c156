"""Whatever is done to it, in whatever order, etcd answers as the plain datastore in memory does."""

from __future__ import annotations

import atexit
import functools
import tempfile
import time
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from calico_datastore_etcd.settings import EtcdSettings
from calico_datastore_etcd.store import EtcdDatastore
from calico_datastore_etcd.testing import EtcdServer
from calico_kernel.errors import AlreadyExists, NotFound, RevisionConflict, RevisionTooOld
from calico_kernel.hookspecs import Datastore, Watch
from calico_kernel.model.keys import Query, ResourceQuery
from calico_kernel.model.records import Event, Record
from calico_kernel.testing.datastore import ALL_SETS, KIND, mark_of, network_set, set_key
from calico_kernel.testing.memory_datastore import MemoryDatastore

NAMES = st.sampled_from(["a", "ab", "b", "c"])
QUERIES = st.sampled_from([ALL_SETS, ResourceQuery(KIND, name_prefix="a"), ResourceQuery("NetworkSet")])
ARRIVAL_S = 10.0


@functools.cache
def server() -> EtcdServer:
    directory = tempfile.TemporaryDirectory()
    found = EtcdServer(Path(directory.name))
    found.start()
    atexit.register(directory.cleanup)
    atexit.register(found.kill)
    return found


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
        server().wipe()
        self.memory = MemoryDatastore()
        self.etcd = EtcdDatastore(EtcdSettings(endpoints=server().url))
        self.opened: list[Watch] = []
        self.revisions: dict[str, tuple[str, str]] = {}
        self.kept_from = 0
        self.changes = 0
        self.made_at: dict[tuple[str, str], int] = {}

    def both(self, call: str, key: object, *values: object, revisions: tuple[str, str] | None = None) -> None:
        answers: list[Record | type[Exception]] = []
        for number, twin in enumerate((self.memory, self.etcd)):
            given = {} if revisions is None else {"revision": revisions[number]}
            try:
                answers.append(getattr(twin, call)(key, *values, **given))
            except (AlreadyExists, NotFound, RevisionConflict) as exc:
                answers.append(type(exc))
        one, other = answers
        if isinstance(one, Record) and isinstance(other, Record):
            assert gist(one) == gist(other)
            self.changes += 1
            if call != "delete":
                self.revisions[one.key.name] = (one.revision, other.revision)  # type: ignore[union-attr]
        else:
            assert one == other

    @rule(name=NAMES, mark=st.integers(0, 99))
    def create(self, name: str, mark: int) -> None:
        self.both("create", set_key(name), network_set(name, mark))

    @rule(name=NAMES, mark=st.integers(0, 99))
    def put(self, name: str, mark: int) -> None:
        self.both("put", set_key(name), network_set(name, mark))

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        self.both("delete", set_key(name))

    @rule(name=NAMES, other=NAMES)
    def delete_at_a_revision_seen_before(self, name: str, other: str) -> None:
        self.both("delete", set_key(name), revisions=self.revisions.get(other, ("0", "0")))

    @rule(name=NAMES, other=NAMES, mark=st.integers(0, 99))
    def update_at_a_revision_seen_before(self, name: str, other: str, mark: int) -> None:
        """Sometimes its own and fresh, often stale or another key's: what counts is that both refuse alike."""
        revisions = self.revisions.get(other, ("0", "0"))
        self.both("update", set_key(name), network_set(name, mark), revisions=revisions)

    @rule(target=moments)
    def remember_the_moment(self) -> tuple[str, str]:
        moment = (self.memory.list([ALL_SETS]).revision, self.etcd.list([ALL_SETS]).revision)
        self.made_at[moment] = self.changes
        return moment

    @rule(moment=moments, query=QUERIES)
    def list_at_a_moment(self, moment: tuple[str, str], query: Query) -> None:
        if self.made_at[moment] < self.kept_from:
            return
        then = [
            [gist(record) for record in twin.list([query], revision=revision).records]
            for twin, revision in zip((self.memory, self.etcd), moment, strict=True)
        ]
        assert then[0] == then[1]

    @rule(target=watches, moment=moments, query=QUERIES)
    def watch_from_a_moment(self, moment: tuple[str, str], query: Query) -> tuple[Watch, Watch]:
        if self.made_at[moment] < self.kept_from:
            moment = (self.memory.list([query]).revision, self.etcd.list([query]).revision)
        pair = self.memory.watch([query], revision=moment[0]), self.etcd.watch([query], revision=moment[1])
        self.opened.append(pair[1])
        return pair

    @rule(pair=watches)
    def read_watches(self, pair: tuple[Watch, Watch]) -> None:
        """What etcd had sent before it forgot still arrives, so it may answer where memory says "too old"."""
        try:
            wanted = gists(list(pair[0].next(0)))
        except RevisionTooOld:
            return
        found: list[object] = []
        deadline = time.monotonic() + ARRIVAL_S
        while len(found) < len(wanted) and time.monotonic() < deadline:
            found += gists(list(pair[1].next(1.0)))
        assert found == wanted

    @rule(pair=consumes(watches))
    def close_watches(self, pair: tuple[Watch, Watch]) -> None:
        for watch in pair:
            watch.close()

    @rule()
    def compact(self) -> None:
        self.memory.forget_history()
        self.etcd.compact()
        self.kept_from = self.changes

    @invariant()
    def same_contents(self) -> None:
        if hasattr(self, "etcd"):
            assert self.contents(self.memory) == self.contents(self.etcd)

    def contents(self, twin: Datastore) -> list[object]:
        return [gist(record) for record in twin.list([ALL_SETS]).records]

    def teardown(self) -> None:
        if hasattr(self, "etcd"):
            for watch in self.opened:
                watch.close()
            self.etcd.close()


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
