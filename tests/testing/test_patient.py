"""Calls whose answer was lost are told for certain: done once, each of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from calico_kernel.errors import AlreadyExists, DatastoreUnavailable, NotFound, RevisionConflict
from calico_kernel.hookspecs import Datastore
from calico_kernel.model.keys import Key
from calico_kernel.model.records import Record, Value
from calico_kernel.testing import patient
from calico_kernel.testing.datastore import ALL_SETS, mark_of, network_set, set_key
from calico_kernel.testing.memory_datastore import MemoryDatastore
from calico_kernel.testing.patient import PatientDatastore

KEY = set_key("a")


class Lossy(MemoryDatastore):
    """``lose``: for each of the next writes, whether it happens before its answer is lost (True), or not (False)."""

    lose: list[bool]

    def create(self, key: Key, value: Value) -> Record:
        return self._maybe(lambda: super(Lossy, self).create(key, value))

    def update(self, key: Key, value: Value, *, revision: str) -> Record:
        return self._maybe(lambda: super(Lossy, self).update(key, value, revision=revision))

    def put(self, key: Key, value: Value, *, ttl_s: float | None = None) -> Record:
        return self._maybe(lambda: super(Lossy, self).put(key, value, ttl_s=ttl_s))

    def delete(self, key: Key, *, revision: str | None = None) -> Record:
        return self._maybe(lambda: super(Lossy, self).delete(key, revision=revision))

    def _maybe(self, write: Callable[[], Record]) -> Record:
        if not self.lose:
            return write()
        if self.lose.pop(0):
            write()
        raise DatastoreUnavailable(what="the answer was lost", todo="read again")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient, "SETTLE_S", 0.0)
    monkeypatch.setattr(patient, "QUIET_S", 0.0)


def opened(*lose: bool) -> tuple[Datastore, Lossy]:
    below = Lossy()
    below.lose = list(lose)
    return PatientDatastore(below), below


@pytest.mark.parametrize("lose", [(), (True,), (False,), (False, False, True), (False, True)])
def test_each_write_happens_once_whether_its_answer_came_or_not(lose: tuple[bool, ...]) -> None:
    store, below = opened()
    watch = below.watch([ALL_SETS], revision="0")
    below.lose = list(lose)
    made = store.create(KEY, network_set("a", 1))
    below.lose = list(lose)
    changed = store.update(KEY, network_set("a", 2), revision=made.revision)
    below.lose = list(lose)
    last = store.put(KEY, network_set("a", 3))
    below.lose = list(lose)
    assert store.delete(KEY) == last
    assert [event.record for event in watch.next(0)] == [made, changed, last, None]


def test_what_another_did_meanwhile_stands_in_the_way() -> None:
    store, below = opened(False)
    stale = MemoryDatastore.create(below, KEY, network_set("a", 1))
    MemoryDatastore.update(below, KEY, network_set("a", 2), revision=stale.revision)
    with pytest.raises(RevisionConflict):
        store.update(KEY, network_set("a", 3), revision=stale.revision)
    below.lose = [False]
    with pytest.raises(AlreadyExists):
        store.create(KEY, network_set("a", 4))
    below.lose = [False]
    with pytest.raises(NotFound):
        store.delete(set_key("b"))
    assert mark_of(store.get(KEY)) == "2"


def test_patience_ends() -> None:
    below = MemoryDatastore()
    store = PatientDatastore(below, patience_s=0.05)
    with below.outage(), pytest.raises(DatastoreUnavailable):
        store.get(KEY)
