"""A copied datastore is equal, whatever broke off on the way, and what may not be written is left alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from calico_kernel.client import Client, ensure_initialized
from calico_kernel.client.lock import INFORMATION, is_locked, lock, marker_of, unlock
from calico_kernel.client.migrate import copy, everything
from calico_kernel.errors import DatastoreError, NotPermitted
from calico_kernel.model import keys
from calico_kernel.model.ipam import IpamHost
from calico_kernel.model.keys import IpamHostKey, Key, ResourceKey, ResourceQuery
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.network import GlobalNetworkSet, NetworkSetSpec
from calico_kernel.model.records import Malformed, Value
from calico_kernel.testing.memory_datastore import MemoryDatastore


class Killed(BaseException):
    """Ends the process that copies, for all that the datastores can tell."""


class Mortal(MemoryDatastore):
    """Raises instead of the write number ``left``; ``before_write`` sees each of them."""

    left: float = float("inf")
    writes = 0
    before_write: Callable[[], None] = staticmethod(lambda: None)

    def _count(self) -> None:
        self.before_write()
        self.left -= 1
        if self.left < 0:
            raise Killed
        self.writes += 1

    def put(self, key: Key, value: Value) -> Any:
        self._count()
        return super().put(key, value)

    def update(self, key: Key, value: Value, *, revision: str) -> Any:
        self._count()
        return super().update(key, value, revision=revision)


def network_set(name: str, *nets: str) -> GlobalNetworkSet:
    return GlobalNetworkSet(metadata=ObjectMeta(name=name), spec=NetworkSetSpec(nets=nets))


def contents(store: MemoryDatastore) -> dict[str, bytes]:
    return {keys.path(key): raw for key, raw in store.list_stored(everything())}


@pytest.fixture
def source() -> Mortal:
    store = Mortal()
    client = Client(store=store)
    ensure_initialized(client)
    for number in range(20):
        client.create(network_set(f"s{number:02}", f"10.{number}.0.0/16"))
    store.create(IpamHostKey("n1"), IpamHost())
    store.write_raw(keys.path(ResourceKey("GlobalNetworkPolicy", "", "broken")), b'{"spec": {"order": "first"}}')
    return store


@pytest.fixture
def target() -> Mortal:
    return Mortal()


def test_copy_is_equal_and_only_the_target_is_unlocked(source: Mortal, target: Mortal) -> None:
    before = contents(source)
    told: list[tuple[str, int, int]] = []
    report = copy(source, target, settle_s=0, progress=lambda *seen: told.append(seen))
    assert contents(target) == before
    assert (report.records, report.written, report.verified, report.resumed) == (
        len(before),
        len(before) - 1,
        True,
        False,
    )
    assert report.kinds["GlobalNetworkSet"] == 20 and report.kinds["IpamHost"] == 1
    assert report.undecodable == ["/calico/resources/v3/projectcalico.org/globalnetworkpolicies/broken"]
    assert told[-1] == ("copying", len(before), len(before))
    assert is_locked(source) and not is_locked(target) and report.target_ready
    assert isinstance(target.get(ResourceKey("GlobalNetworkPolicy", "", "broken")).value, Malformed)


def test_what_nodes_report_is_not_carried_and_does_not_make_a_target_used(source: Mortal, target: Mortal) -> None:
    said = b'{"time":"2026-11-21T12:00:00Z","uptime":1,"first_update":true}'
    for store, node in ((source, "n1"), (target, "n2")):
        store.write_raw(keys.path(keys.NodeStatusKey(node)), said)
    assert copy(source, target, settle_s=0).verified
    assert [record.key for record in target.list([keys.StatusQuery()]).records] == [keys.NodeStatusKey("n2")]


def test_cluster_information_of_a_newer_version_is_kept_too(target: Mortal) -> None:
    source, path = Mortal(), keys.path(INFORMATION)
    raw = (
        b'{"kind":"ClusterInformation","apiVersion":"projectcalico.org/v3","metadata":{"name":"default","uid":"u",'
        b'"creationTimestamp":"2026-01-01T00:00:00Z"},"spec":{"clusterGUID":"g","datastoreReady":true,"newer":7}}'
    )
    source.write_raw(path, raw)
    copy(source, target, settle_s=0)
    assert json.loads(contents(target)[path]) == json.loads(raw)


def test_fields_that_this_version_does_not_know_are_kept(source: Mortal, target: Mortal) -> None:
    key = ResourceKey("Tier", "", "new")
    raw = b'{"kind":"Tier","apiVersion":"projectcalico.org/v3","metadata":{"name":"new"},"spec":{"colour":"blue"}}'
    source.write_raw(keys.path(key), raw)
    assert copy(source, target, settle_s=0).undecodable == [
        "/calico/resources/v3/projectcalico.org/globalnetworkpolicies/broken"
    ]
    assert dict(target.list_stored([ResourceQuery("Tier")]))[key] == raw


def test_copy_killed_at_any_write_goes_on_and_ends_equal(source: Mortal) -> None:
    before = contents(source)
    original = [(record.key, record.value) for record in source.list(everything()).records]
    for of_source in (True, False):
        deaths = 0
        while True:
            origin, copied = Mortal(), Mortal()
            for key, value in original:
                origin.create(key, value)  # type: ignore[arg-type]
            (origin if of_source else copied).left = deaths
            try:
                copy(origin, copied, settle_s=0)
            except Killed:
                deaths += 1
            else:
                break
            origin.left = copied.left = float("inf")
            if is_locked(copied):
                with pytest.raises(NotPermitted, match="only a part"):
                    unlock(Client(store=copied))
            done = copied.writes
            report = copy(origin, copied, settle_s=0)
            assert contents(copied) == before
            assert is_locked(origin) and not is_locked(copied)
            assert marker_of(origin.get(INFORMATION).value) is None
            assert report.resumed or not done
        assert deaths > 3


def test_resumed_copy_writes_only_what_is_missing_and_says_where_it_was(source: Mortal, target: Mortal) -> None:
    target.left = 11
    with pytest.raises(Killed):
        copy(source, target, settle_s=0)
    assert is_locked(source) and is_locked(target)
    there = len(contents(target)) - 1
    target.left = float("inf")
    report = copy(source, target, settle_s=0)
    assert report.resumed and report.already_there == there > 0
    assert report.written == report.records - 1 - there


def test_target_that_holds_other_data_is_refused_and_both_are_as_they_were(source: Mortal, target: Mortal) -> None:
    Client(store=target).create(network_set("mine"))
    here, there = contents(source), contents(target)
    with pytest.raises(NotPermitted, match=r"holds 1 records that are not of this copy \(GlobalNetworkSet 1\)"):
        copy(source, target, settle_s=0)
    assert (contents(source), contents(target)) == (here, there)
    report = copy(source, target, overwrite=True, settle_s=0)
    assert report.deleted == 1 and contents(target) == here


def test_datastore_copied_onto_itself_is_refused_and_not_locked(source: Mortal) -> None:
    here = contents(source)
    for overwrite in (False, True):
        with pytest.raises(NotPermitted, match="the same datastore"):
            copy(source, source, overwrite=overwrite, settle_s=0)
    assert contents(source) == here


def test_finished_copy_repeated_changes_nothing(source: Mortal, target: Mortal) -> None:
    copy(source, target, settle_s=0)
    there = contents(target)
    report = copy(source, target, settle_s=0)
    assert report.written == 0 and report.verified and contents(target) == there
    assert is_locked(source) and not is_locked(target)


def test_source_locked_by_hand_gives_a_locked_target(source: Mortal, target: Mortal) -> None:
    lock(Client(store=source))
    assert not copy(source, target, settle_s=0).target_ready
    assert is_locked(target)
    unlock(Client(store=target))
    assert not is_locked(target)


def test_write_that_was_on_its_way_when_the_lock_came_is_copied_too(source: Mortal, target: Mortal) -> None:
    late = network_set("late", "192.0.2.0/24")

    def pause(seconds: float) -> None:
        Client(store=source).create(late)
        time.sleep(seconds)

    copy(source, target, settle_s=0.2, pause=pause)
    assert ResourceKey("GlobalNetworkSet", "", "late") in {record.key for record in target.list(everything()).records}


def test_source_that_keeps_changing_is_named_and_both_stay_locked(source: Mortal, target: Mortal) -> None:
    number = iter(range(1000))

    def write() -> None:
        source.create(ResourceKey("GlobalNetworkSet", "", name := f"x{next(number)}"), network_set(name))

    target.before_write = write
    with pytest.raises(DatastoreError, match="somebody writes in spite of the lock"):
        copy(source, target, settle_s=0)
    assert is_locked(source) and is_locked(target)


def test_target_that_goes_away_half_way_is_said_with_what_to_do(source: Mortal, target: Mortal) -> None:
    def away() -> None:
        if target.writes == 10:
            target.available = False

    target.before_write = away
    with pytest.raises(DatastoreError, match=r"broke off: .*run the same command again") as caught:
        copy(source, target, settle_s=0)
    assert caught.value.kept == "what was copied, and the lock on both"
    target.available, target.before_write = True, lambda: None
    assert copy(source, target, settle_s=0).resumed
    assert is_locked(source) and not is_locked(target)


def test_source_that_is_itself_half_a_copy_is_refused(source: Mortal, target: Mortal) -> None:
    target.left = 11
    with pytest.raises(Killed):
        copy(source, target, settle_s=0)
    target.left = float("inf")
    with pytest.raises(NotPermitted, match="only a part"):
        copy(target, MemoryDatastore(), settle_s=0)


def test_copy_serves_as_a_backup_that_is_restored_over_what_came_after(source: Mortal, target: Mortal) -> None:
    before = contents(source)
    copy(source, target, settle_s=0)
    client = Client(store=source)
    unlock(client)
    client.delete("GlobalNetworkSet", "s03")
    client.create(network_set("later"))
    report = copy(target, source, overwrite=True, settle_s=0)
    assert (report.written, report.deleted) == (1, 1)
    assert contents(source) == before
    assert is_locked(target) and not is_locked(source)
