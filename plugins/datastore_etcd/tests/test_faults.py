"""What becomes of writers, readers and watches when members die, hang, cut connections or are replaced."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from calico_datastore_etcd import proto
from calico_datastore_etcd.settings import EtcdSettings
from calico_datastore_etcd.store import EtcdDatastore
from calico_datastore_etcd.testing import EtcdServer, free_port
from calico_kernel.errors import AlreadyExists, DatastoreUnavailable, RevisionConflict, RevisionTooOld
from calico_kernel.hookspecs import Watch
from calico_kernel.model.records import Event
from calico_kernel.testing.datastore import ALL_SETS, mark_of, network_set, set_key

PATIENCE_S = 30.0


def read_until(watch: Watch, enough: object, events: list[Event]) -> list[Event]:
    """Read on through every unavailability."""
    deadline = time.monotonic() + PATIENCE_S
    while not enough(events):  # type: ignore[operator]
        assert time.monotonic() < deadline, f"only {len(events)} events"
        with contextlib.suppress(DatastoreUnavailable):
            events.extend(watch.next(0.5))
    return events


def count_on(store: EtcdDatastore, name: str, until: threading.Event, written: list[int]) -> None:
    """Write 0, 1, 2... by compare-and-swap; where the answer was lost, look whether it happened. Only what is known to
    be stored gets into ``written``."""
    number = 0
    while not until.is_set():
        try:
            there = store.get(set_key(name)) if number else None
            if there is not None and mark_of(there) == str(number):
                pass  # the write whose answer was lost
            elif there is None:
                store.create(set_key(name), network_set(name, 0))
            else:
                store.update(set_key(name), network_set(name, number), revision=there.revision)
        except DatastoreUnavailable:
            continue
        except AlreadyExists:
            assert number == 0
        written.append(number)
        number += 1


class Proxy:
    """Forwards to a member; cuts what it forwards, and delays it, on demand."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[socket.socket] = []
        self.delay_s = 0.0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ours, _ = self._listener.accept()
                try:
                    theirs = socket.create_connection(("127.0.0.1", self._to))
                except OSError:
                    ours.close()
                    continue
                self._pairs += [ours, theirs]
                for pair in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.delay_s:
                    time.sleep(self.delay_s)
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Every connection breaks now; new ones are accepted."""
        pairs, self._pairs = self._pairs, []
        for end in pairs:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.cut()


def check_series(store: EtcdDatastore, name: str, events: list[Event], written: list[int]) -> None:
    """Nothing that was known to be stored is missing, nothing is there twice or out of order."""
    marks = [int(mark_of(event.record)) for event in events if event.key == set_key(name)]
    assert marks == list(range(len(marks)))
    assert marks[: len(written)] == written
    assert mark_of(store.get(set_key(name))) == str(marks[-1])
    revisions = [int(event.revision) for event in events]
    assert revisions == sorted(set(revisions))


def run_under(etcd: EtcdServer, endpoints: str, trouble: list[object]) -> None:
    store = EtcdDatastore(EtcdSettings(endpoints=endpoints, dial_timeout_s=0.5))
    watch = store.watch([ALL_SETS], revision=store.list([ALL_SETS]).revision)
    stop, written = threading.Event(), [[], []]  # type: tuple[threading.Event, list[list[int]]]
    writers = [threading.Thread(target=count_on, args=(store, f"w{n}", stop, written[n])) for n in range(2)]
    for writer in writers:
        writer.start()
    events: list[Event] = []
    for step in trouble:
        before = len(events)
        read_until(watch, lambda got, n=before: len(got) >= n + 40, events)
        step()  # type: ignore[operator]
    before = len(events)
    read_until(watch, lambda got: len(got) >= before + 40, events)
    stop.set()
    for writer in writers:
        writer.join()
    last = {record.key: record.revision for record in store.list([ALL_SETS]).records}
    read_until(watch, lambda got: {e.key: e.revision for e in got} == last, events)
    for number in range(2):
        check_series(store, f"w{number}", events, written[number])
    watch.close()
    store.close()


def test_server_killed_and_restarted_under_load_loses_and_doubles_nothing(etcd: EtcdServer) -> None:
    def restart() -> None:
        etcd.kill()
        etcd.start()

    run_under(etcd, etcd.url, [restart, restart])


def test_connections_cut_and_delayed_under_load_lose_and_double_nothing(etcd: EtcdServer) -> None:
    proxy = Proxy(etcd.port)

    def delay() -> None:
        proxy.delay_s = 0.003

    run_under(etcd, f"http://127.0.0.1:{proxy.port}", [proxy.cut, delay, proxy.cut, proxy.cut])
    proxy.close()


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
