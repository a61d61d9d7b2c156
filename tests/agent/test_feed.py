"""The feed's view always ends equal to the datastore: through outages, compaction, deletions it did not see."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from calico_kernel.agent import feed as feeds
from calico_kernel.agent.feed import Batch, Feed
from calico_kernel.client import Client
from calico_kernel.client.lock import lock, unlock
from calico_kernel.model.keys import Key, ResourceKey, ResourceQuery
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.network import GlobalNetworkSet, NetworkSetSpec
from calico_kernel.testing.memory_datastore import MemoryDatastore

WAIT_S = 10.0


def key(name: str) -> ResourceKey:
    return ResourceKey("GlobalNetworkSet", "", name)


def value(name: str, *nets: str) -> GlobalNetworkSet:
    return GlobalNetworkSet(metadata=ObjectMeta(name=name), spec=NetworkSetSpec(nets=nets))


class View:
    """Folds batches, as the calculation would."""

    def __init__(self) -> None:
        self.nets: dict[Key, tuple[str, ...]] = {}
        self.in_syncs = 0
        self.changed = threading.Condition()

    def sink(self, batch: Batch) -> None:
        with self.changed:
            for change in batch.changes:
                if isinstance(change.value, GlobalNetworkSet):
                    self.nets[change.key] = change.value.spec.nets
                else:
                    self.nets.pop(change.key, None)
            self.in_syncs += batch.in_sync
            self.changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, WAIT_S), self.nets


@pytest.fixture
def store() -> MemoryDatastore:
    return MemoryDatastore()


@pytest.fixture
def view() -> View:
    return View()


@pytest.fixture
def feed(store: MemoryDatastore, view: View) -> Iterator[Feed]:
    feed = Feed(store, [ResourceQuery("GlobalNetworkSet")], view.sink)
    yield feed
    feed.stop()
    feed.join(WAIT_S)
    assert not feed.is_alive()


def test_what_was_there_and_what_comes_later_arrives(store: MemoryDatastore, view: View, feed: Feed) -> None:
    store.create(key("a"), value("a", "10.0.0.0/8"))
    feed.start()
    view.until(lambda: view.in_syncs == 1)
    assert view.nets == {key("a"): ("10.0.0.0/8",)}
    store.create(key("b"), value("b", "11.0.0.0/8"))
    store.delete(key("a"))
    view.until(lambda: view.nets == {key("b"): ("11.0.0.0/8",)})


def test_after_an_outage_the_view_is_whole_again(store: MemoryDatastore, view: View, feed: Feed) -> None:
    store.create(key("a"), value("a"))
    feed.start()
    view.until(lambda: view.in_syncs == 1)
    with store.outage():
        deadline = time.monotonic() + WAIT_S
        while feed.state.connected and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not feed.state.connected
        assert feed.state.trouble
        assert key("a") in view.nets
    store.create(key("b"), value("b"))
    view.until(lambda: set(view.nets) == {key("a"), key("b")})
    assert feed.state.connected


def test_outage_that_ends_is_over_though_nothing_changes(
    store: MemoryDatastore, view: View, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "WATCH_S", 10 * WAIT_S)
    feed.start()
    view.until(lambda: view.in_syncs == 1)
    with store.outage():
        wait_for(lambda: not feed.state.connected)
    wait_for(lambda: feed.state.connected)
    assert not feed.state.trouble


def test_a_datastore_that_is_away_at_first_is_waited_for(store: MemoryDatastore, view: View, feed: Feed) -> None:
    store.create(key("a"), value("a"))
    store.set_available(False)
    feed.start()
    time.sleep(0.1)
    assert view.in_syncs == 0
    store.set_available(True)
    view.until(lambda: view.in_syncs == 1)


def test_a_deletion_that_was_compacted_away_is_noticed_by_the_new_listing(
    store: MemoryDatastore, view: View, feed: Feed
) -> None:
    store.create(key("a"), value("a"))
    store.create(key("b"), value("b"))
    feed.start()
    view.until(lambda: view.in_syncs == 1)
    store.set_available(False)
    time.sleep(0.05)
    store.available = True  # silently: the watch has not been told
    store.delete(key("a"))
    store.forget_history()
    store.create(key("c"), value("c"))
    view.until(lambda: set(view.nets) == {key("b"), key("c")})


def test_a_malformed_value_counts_as_absent(store: MemoryDatastore, view: View, feed: Feed) -> None:
    store.create(key("a"), value("a"))
    feed.start()
    view.until(lambda: view.in_syncs == 1)
    store.write_raw("/calico/resources/v3/projectcalico.org/globalnetworksets/a", b"{not json")
    view.until(lambda: not view.nets)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def test_nothing_of_a_locked_datastore_arrives_until_it_is_unlocked(
    store: MemoryDatastore, view: View, feed: Feed
) -> None:
    client = Client(store=store)
    store.create(key("a"), value("a", "10.0.0.0/8"))
    store.create(key("b"), value("b"))
    feed.start()
    view.until(lambda: view.in_syncs == 1)
    store.create(key("c"), value("c"))
    lock(client)
    wait_for(lambda: feed.state.locked)
    store.delete(key("a"))
    store.create(key("d"), value("d"))
    time.sleep(0.05)
    assert set(view.nets) == {key("a"), key("b"), key("c")}
    assert feed.state.connected and "locked" in feed.state.trouble
    unlock(client)
    view.until(lambda: set(view.nets) == {key("b"), key("c"), key("d")})
    assert not feed.state.locked and not feed.state.trouble
    store.delete(key("b"))
    view.until(lambda: set(view.nets) == {key("c"), key("d")})


def test_datastore_that_is_locked_at_first_is_waited_for(store: MemoryDatastore, view: View, feed: Feed) -> None:
    client = Client(store=store)
    store.create(key("a"), value("a"))
    lock(client)
    feed.start()
    wait_for(lambda: feed.state.locked)
    assert view.in_syncs == 0 and not feed.state.in_sync
    unlock(client)
    view.until(lambda: view.in_syncs == 1 and set(view.nets) == {key("a")})


def test_lock_and_unlock_seen_in_one_batch_lose_nothing(store: MemoryDatastore, view: View, feed: Feed) -> None:
    client = Client(store=store)
    store.create(key("a"), value("a"))
    feed.start()
    view.until(lambda: view.in_syncs == 1)
    with store.outage():
        wait_for(lambda: not feed.state.connected)
        store.available = True  # silently: the watch is told later
        lock(client)
        store.delete(key("a"))
        unlock(client)
        store.create(key("b"), value("b"))
        store.available = False
    view.until(lambda: set(view.nets) == {key("b")})
    assert not feed.state.locked


def test_a_new_listing_passes_on_only_what_differs_unless_the_history_is_another(store: MemoryDatastore) -> None:
    batches: list[Batch] = []
    feed = Feed(store, [ResourceQuery("GlobalNetworkSet")], batches.append)
    for name in ("a", "b", "c"):
        store.create(key(name), value(name))
    feed._list()
    store.delete(key("a"))
    store.put(key("b"), value("b", "10.0.0.0/8"))
    feed._list()
    assert [(change.key, change.value) for change in batches[1].changes if change.value is None] == [(key("a"), None)]
    assert [change.key for change in batches[1].changes] == [key("a"), key("b")]
    feed.restart()
    feed._list()
    assert [change.key for change in batches[2].changes] == [key("b"), key("c")]
