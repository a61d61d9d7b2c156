"""What becomes of writers, readers and watches when members die, hang, cut connections or are replaced."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from calico_datastore_etcd import proto
from calico_datastore_etcd.settings import EtcdSettings
from calico_datastore_etcd.store import EtcdDatastore
from calico_datastore_etcd.testing import EtcdServer, free_port
from calico_datastore_etcd.watch import EtcdWatch
from calico_kernel.errors import DatastoreUnavailable, RevisionConflict, RevisionTooOld
from calico_kernel.hookspecs import Watch
from calico_kernel.model.ipam import IpamHandle
from calico_kernel.model.keys import HandleKey, HandleQuery
from calico_kernel.model.records import Event
from calico_kernel.testing.datastore import ALL_SETS, mark_of, network_set, set_key
from calico_kernel.testing.datastore_load import feeding
from calico_kernel.testing.faulty_proxy import FaultyProxy
from calico_kernel.testing.patient import PatientDatastore

PATIENCE_S = 30.0


def read_until(watch: Watch, enough: object, events: list[Event]) -> list[Event]:
    """Read on through every unavailability."""
    deadline = time.monotonic() + PATIENCE_S
    while not enough(events):  # type: ignore[operator]
        assert time.monotonic() < deadline, f"only {len(events)} events"
        with contextlib.suppress(DatastoreUnavailable):
            events.extend(watch.next(0.5))
    return events


def test_dead_first_endpoint_is_passed_over(etcd: EtcdServer) -> None:
    store = EtcdDatastore(EtcdSettings(endpoints=f"http://127.0.0.1:{free_port()},{etcd.url}"))
    made = store.create(set_key("a"), network_set("a", 1))
    assert store.get(set_key("a")) == made
    store.close()


def test_hung_server_says_unavailable_in_the_time_set(etcd: EtcdServer) -> None:
    store = EtcdDatastore(EtcdSettings(endpoints=etcd.url, request_timeout_s=0.3))
    store.create(set_key("a"), network_set("a", 1))
    os.kill(etcd.pid, signal.SIGSTOP)
    while Path(f"/proc/{etcd.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "T":
        time.sleep(0.001)  # its threads stop one after the other
    try:
        with pytest.raises(DatastoreUnavailable, match="no answer in time"):
            store.get(set_key("a"))
        with pytest.raises(DatastoreUnavailable, match="may have happened"):
            store.put(set_key("a"), network_set("a", 2))
    finally:
        os.kill(etcd.pid, signal.SIGCONT)
    store.close()


def test_two_members_die_in_turn_and_a_watch_goes_on(tmp_path: Path) -> None:
    servers = [EtcdServer(tmp_path, name=name) for name in ("a", "b", "c")]
    members = {server.name: server.peer_url for server in servers}
    for server in servers:
        server.members = members
        server.spawn()
    try:
        for server in servers:
            server.wait_ready()
        store = EtcdDatastore(EtcdSettings(endpoints=",".join(server.url for server in servers), dial_timeout_s=10))
        watch = store.watch([ALL_SETS], revision=store.list([ALL_SETS]).revision)
        events: list[Event] = []
        for number, server in enumerate(servers[:2]):
            server.kill()
            for _ in range(5):
                with contextlib.suppress(DatastoreUnavailable):  # sent to the old leader, or to none yet
                    store.put(set_key(f"n{number}"), network_set("n", number))
                    break
            read_until(watch, lambda got, n=number: any(e.key == set_key(f"n{n}") for e in got), events)
            server.start()
        revisions = [event.revision for event in events]
        assert len(set(revisions)) == len(revisions)
        watch.close()
        store.close()
    finally:
        for server in servers:
            server.kill()


def test_cluster_made_anew_ends_watches_and_old_revisions(tmp_path: Path) -> None:
    first = EtcdServer(tmp_path, name="first")
    first.start()
    second = EtcdServer(tmp_path, name="second", port=first.port)
    store = EtcdDatastore(EtcdSettings(endpoints=first.url, dial_timeout_s=5))
    try:
        for number in range(5):
            store.put(set_key("a"), network_set("a", number))
        watch = store.watch([ALL_SETS], revision=store.list([ALL_SETS]).revision)
        first.kill()
        second.start()
        with pytest.raises(RevisionTooOld):
            read_until(watch, lambda got: False, [])
        assert store.list([ALL_SETS]).records == []
        with pytest.raises(RevisionTooOld):
            store.watch([ALL_SETS], revision="1000")
    finally:
        store.close()
        first.kill()
        second.kill()


@contextlib.contextmanager
def restored_later(tmp_path: Path) -> Iterator[tuple[EtcdServer, EtcdDatastore, Callable[[], None]]]:
    """A server, a store on it, and what puts the server's data back to where they are now."""
    server = EtcdServer(tmp_path)
    server.start()
    store = EtcdDatastore(EtcdSettings(endpoints=server.url, dial_timeout_s=5))
    for number in range(5):
        store.put(set_key("a"), network_set("a", number))
    server.kill()
    shutil.copytree(tmp_path / server.name, tmp_path / "backup")
    server.start()

    def restore() -> None:
        server.kill()
        shutil.rmtree(tmp_path / server.name)
        shutil.copytree(tmp_path / "backup", tmp_path / server.name)
        server.start()

    try:
        yield server, store, restore
    finally:
        store.close()
        server.kill()


@pytest.mark.parametrize("writes_since", [0, 3, 20])
def test_cluster_restored_from_a_backup_ends_watches_and_says_that_history_differs(
    tmp_path: Path, writes_since: int
) -> None:
    """Behind where the watch was, there again by other writes, or past it."""
    with restored_later(tmp_path) as (server, store, restore):
        watch = store.watch([ALL_SETS], revision=store.list([ALL_SETS]).revision)
        for number in range(3):
            store.put(set_key("b"), network_set("b", number))
        read_until(watch, lambda got: len(got) == 3, [])
        restore()
        with contextlib.closing(EtcdDatastore(EtcdSettings(endpoints=server.url, dial_timeout_s=5))) as another:
            for number in range(writes_since):
                another.put(set_key("c"), network_set("c", number))
        with pytest.raises(RevisionTooOld) as caught:
            read_until(watch, lambda got: False, [])
        assert caught.value.other_history


def test_agent_sees_what_a_restored_cluster_holds_although_revisions_are_those_of_before(tmp_path: Path) -> None:
    with restored_later(tmp_path) as (server, store, restore), feeding(PatientDatastore(store)) as (_, seen):
        before = store.put(set_key("a"), network_set("a", "of before"))
        seen.until(lambda: seen.view[set_key("a")].revision == before.revision)
        restore()
        with contextlib.closing(EtcdDatastore(EtcdSettings(endpoints=server.url, dial_timeout_s=5))) as another:
            after = another.put(set_key("a"), network_set("a", "restored"))
        assert after.revision == before.revision
        seen.until(lambda: seen.view[set_key("a")].value == after.value)


def test_quiet_watch_that_progress_was_told_to_outlives_compaction_and_a_broken_connection(tmp_path: Path) -> None:
    server = EtcdServer(tmp_path, arguments=("--experimental-watch-progress-notify-interval", "100ms"))
    server.start()
    proxy = FaultyProxy(server.port)
    store = EtcdDatastore(EtcdSettings(endpoints=f"http://127.0.0.1:{proxy.port}", dial_timeout_s=5))
    try:
        watch = store.watch([HandleQuery()], revision=store.list([HandleQuery()]).revision)
        assert isinstance(watch, EtcdWatch)
        for number in range(5):
            newest = store.put(set_key("a"), network_set("a", number)).revision
        deadline = time.monotonic() + PATIENCE_S
        while watch.position < int(newest):
            assert time.monotonic() < deadline, "no progress was told"
            assert list(watch.next(0.1)) == []
        store.compact()
        proxy.cut()
        made = PatientDatastore(store).put(HandleKey("h"), IpamHandle())
        assert [event.record for event in read_until(watch, bool, [])] == [made]
        watch.close()
    finally:
        store.close()
        proxy.close()
        server.kill()


def test_what_is_no_revision_conflicts_and_a_closed_store_says_so(etcd: EtcdServer) -> None:
    store = EtcdDatastore(EtcdSettings(endpoints=etcd.url))
    stale = store.put(set_key("a"), network_set("a", 1)).revision
    store.put(set_key("a"), network_set("a", 2))
    for revision in ("", "0", "-1", "x", "9" * 30, stale):
        with pytest.raises(RevisionConflict):
            store.update(set_key("a"), network_set("a", 3), revision=revision)
        with pytest.raises(RevisionConflict):
            store.delete(set_key("a"), revision=revision)
    assert mark_of(store.get(set_key("a"))) == "2"
    store.close()
    with pytest.raises(DatastoreUnavailable, match="closed"):
        store.get(set_key("a"))


def test_keys_that_are_no_text_are_passed_over(etcd: EtcdServer) -> None:
    store = EtcdDatastore(EtcdSettings(endpoints=etcd.url))
    watch = store.watch([ALL_SETS], revision=store.list([ALL_SETS]).revision)
    prefix = b"/calico/resources/v3/projectcalico.org/globalnetworksets/"
    etcd.call("Put", proto.PutRequest(key=prefix + b"\xff\xfe", value=b"{}"))
    made = store.create(set_key("a"), network_set("a", 1))
    assert list(store.list([ALL_SETS]).records) == [made]
    assert [event.record for event in read_until(watch, bool, [])] == [made]
    watch.close()
    store.close()
