"""The random programs find what is wrong with a datastore: each of these is wrong in one way."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from calico_kernel.hookspecs import Watch
from calico_kernel.model.keys import Key, Query, ResourceKey
from calico_kernel.model.records import Event, Listing, Record, Value
from calico_kernel.testing.datastore_programs import run_programs
from calico_kernel.testing.memory_datastore import MemoryDatastore, MemoryWatch


class DeletesWhatChanged(MemoryDatastore):
    def delete(self, key: Key, *, revision: str | None = None) -> Record:
        return super().delete(key)


class RecreatesOverWhatIsThere(MemoryDatastore):
    def create(self, key: Key, value: Value) -> Record:
        return self.put(key, value)


class ListsThePresent(MemoryDatastore):
    def list(self, queries: Sequence[Query], *, revision: str | None = None) -> Listing:
        return super().list(queries)


class ForgetsNothing(MemoryDatastore):
    def forget_history(self) -> None:
        pass


class DeafWatch(MemoryWatch):
    def next(self, timeout_s: float) -> Sequence[Event]:
        return [event for event in super().next(timeout_s) if event.record is not None]


class LosesDeletions(MemoryDatastore):
    def watch(self, queries: Sequence[Query], *, revision: str) -> Watch:
        return DeafWatch(self, tuple(queries), int(revision))


class DoublingWatch(MemoryWatch):
    def next(self, timeout_s: float) -> Sequence[Event]:
        events = super().next(timeout_s)
        return [event for event in events for _ in range(1 + (event.key == ResourceKey("NetworkSet", "lab", "a")))]


class TellsTwice(MemoryDatastore):
    def watch(self, queries: Sequence[Query], *, revision: str) -> Watch:
        return DoublingWatch(self, tuple(queries), int(revision))


@pytest.mark.parametrize(
    "kind",
    [DeletesWhatChanged, RecreatesOverWhatIsThere, ListsThePresent, ForgetsNothing, LosesDeletions, TellsTwice],
)
def test_programs_find_a_datastore_that_is_wrong(kind: type[MemoryDatastore], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calico_kernel.testing.datastore_programs.ARRIVAL_S", 0.0)
    store = kind()
    with pytest.raises(AssertionError):
        run_programs(store, forget_history=store.forget_history, examples=100, shrink=False)
