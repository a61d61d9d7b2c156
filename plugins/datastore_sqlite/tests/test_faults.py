"""What becomes of the data, and of those who use it, when something happens to the file, its disk or its writers."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from calico_datastore_sqlite.settings import SqliteSettings
from calico_datastore_sqlite.store import SqliteDatastore
from calico_kernel.errors import DatastoreUnavailable, RevisionTooOld
from calico_kernel.model.ipam import AllocationBlock, IpamHandle, StoredBlockAffinity
from calico_kernel.model.keys import BlockAffinityKey, BlockKey, HandleKey
from calico_kernel.testing.datastore import ALL_SETS, collect, mark_of, names, network_set, set_key
from calico_kernel.testing.datastore_load import feeding

WRITER = """
import sys
from calico_datastore_sqlite.settings import SqliteSettings
from calico_datastore_sqlite.store import SqliteDatastore
from calico_kernel.testing.datastore import network_set, set_key

store = SqliteDatastore(SqliteSettings(path=sys.argv[1], durability="normal"))
number = 0
while True:
    store.put(set_key(sys.argv[2]), network_set(sys.argv[2], number))
    store.put(set_key("pair"), network_set("pair", number))
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
    number += 1
"""

RETRY = """
from calico_kernel.errors import DatastoreUnavailable


def retry(key, value):
    try:
        store.put(key, value)
    except DatastoreUnavailable:
        retry(key, value)
"""


def settings(path: Path, **more: object) -> SqliteSettings:
    return SqliteSettings(path=str(path / "calico.db"), durability="normal", **more)  # type: ignore[arg-type]


@contextlib.contextmanager
def opened(path: Path, **more: object) -> Iterator[SqliteDatastore]:
    store = SqliteDatastore(settings(path, **more))
    try:
        yield store
    finally:
        store.close()


def test_new_database_and_its_journal_are_private(tmp_path: Path) -> None:
    with opened(tmp_path / "below" / "deeper") as store:
        store.create(set_key("a"), network_set("a"))
        modes = {
            file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "below" / "deeper").glob("calico.db*")
        }
    assert modes == {"calico.db": 0o600, "calico.db-wal": 0o600, "calico.db-shm": 0o600}


def test_file_open_to_others_is_made_private(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.create(set_key("a"), network_set("a"))
    (tmp_path / "calico.db").chmod(0o644)
    with opened(tmp_path) as store:
        assert names(store.list([ALL_SETS]).records) == ["a"]
        assert stat.S_IMODE((tmp_path / "calico.db").stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "calico.db-wal").stat().st_mode) == 0o600


def test_records_survive_closing_and_opening(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        made = store.create(set_key("a"), network_set("a", 1))
        start = store.list([ALL_SETS]).revision
        later = store.put(set_key("a"), network_set("a", 2))
    with opened(tmp_path) as store:
        assert store.get(set_key("a")) == later
        assert list(store.list([ALL_SETS], revision=start).records) == [made]
        watch = store.watch([ALL_SETS], revision=start)
        assert [event.record for event in watch.next(0)] == [later]


@pytest.mark.parametrize("delay_s", [0.02, 0.05, 0.11, 0.17, 0.23])
def test_writer_killed_at_any_moment_loses_nothing_it_was_told_was_written(tmp_path: Path, delay_s: float) -> None:
    with opened(tmp_path) as store:
        watch = store.watch([ALL_SETS], revision=store.list([ALL_SETS]).revision)
        command = [sys.executable, "-c", WRITER, str(tmp_path / "calico.db")]
        writers = [subprocess.Popen([*command, name], stdout=subprocess.PIPE) for name in ("w0", "w1")]
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()  # it is writing
        time.sleep(delay_s)
        acknowledged = []
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            out, _ = writer.communicate()
            whole = out[: out.rfind(b"\n") + 1].split()
            acknowledged.append(int(whole[-1]) if whole else 0)
        for name, last in zip(("w0", "w1"), acknowledged, strict=True):
            assert last <= int(mark_of(store.get(set_key(name)))) <= last + 1
        store.put(set_key("end"), network_set("end"))
        events = collect(watch, lambda got: bool(got) and got[-1].key == set_key("end"))
        for name in ("w0", "w1"):
            marks = [int(mark_of(event.record)) for event in events if event.key == set_key(name)]
            assert marks == list(range(len(marks)))
            assert marks[-1] == int(mark_of(store.get(set_key(name))))
    check = sqlite3.connect(tmp_path / "calico.db").execute("PRAGMA integrity_check").fetchone()
    assert check == ("ok",)


def test_writer_killed_while_it_compacts_leaves_records_and_history_whole(tmp_path: Path) -> None:
    eager = WRITER.replace('durability="normal"', 'durability="normal", retain_revisions=20')
    with opened(tmp_path, retain_revisions=20) as store:
        for number in range(4):
            writer = subprocess.Popen(
                [sys.executable, "-c", eager, str(tmp_path / "calico.db"), f"w{number}"], stdout=subprocess.PIPE
            )
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.05 + 0.03 * number)
            writer.kill()
            out, _ = writer.communicate()
            last = int(out[: out.rfind(b"\n") + 1].split()[-1])
            assert last <= int(mark_of(store.get(set_key(f"w{number}")))) <= last + 1
        listing = store.list([ALL_SETS])
        assert names(listing.records) == ["pair", "w0", "w1", "w2", "w3"]
        watch = store.watch([ALL_SETS], revision=listing.revision)
        made = store.create(set_key("end"), network_set("end"))
        assert [event.record for event in collect(watch, bool)] == [made]
        assert list(store.list([ALL_SETS], revision=listing.revision).records) == list(listing.records)
    connection = sqlite3.connect(tmp_path / "calico.db")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    dangling = "SELECT count(*) FROM current c LEFT JOIN versions v ON v.revision = c.revision WHERE v.value IS NULL"
    assert connection.execute(dangling).fetchone() == (0,)
    connection.close()


def test_flush_that_fails_is_said_and_the_write_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    store = SqliteDatastore(SqliteSettings(path=str(tmp_path / "calico.db"), durability="full"))
    store.create(set_key("a"), network_set("a"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", broken)
        with pytest.raises(DatastoreUnavailable, match="may not survive a power loss"):
            store.create(set_key("b"), network_set("b"))
    assert names(store.list([ALL_SETS]).records) == ["a", "b"]
    store.put(set_key("b"), network_set("b"))
    store.close()


def test_books_of_an_address_reach_the_disk_with_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fdatasync", flushed.append)
    store = SqliteDatastore(SqliteSettings(path=str(tmp_path / "calico.db"), durability="full"))
    store.create(HandleKey("h"), IpamHandle(block={"10.0.0.0/26": 1}))
    store.create(BlockAffinityKey("host", "n1", "10.0.0.0/26"), StoredBlockAffinity(state="pending"))
    assert flushed == []
    store.create(BlockKey("10.0.0.0/26"), AllocationBlock(cidr="10.0.0.0/26"))
    store.create(set_key("a"), network_set("a"))
    assert len(flushed) == 2
    store.close()


def test_commit_whose_writer_died_before_saying_so_is_still_noticed(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        first = store.create(set_key("a"), network_set("a", 1))
        watch = store.watch([ALL_SETS], revision=first.revision)
        assert list(watch.next(0)) == []
        quiet = sqlite3.connect(tmp_path / "calico.db", isolation_level=None)  # commits, but touches nothing
        quiet.execute("INSERT INTO versions(path, value, previous, at) SELECT path, value, revision, 0 FROM versions"
                      " WHERE revision = (SELECT max(revision) FROM versions)")  # fmt: skip
        quiet.close()
        assert [mark_of(event.record) for event in collect(watch, bool)] == ["1"]


def test_locked_database_is_reported_after_the_bounded_wait_and_recovers(tmp_path: Path) -> None:
    with opened(tmp_path, busy_timeout_s=0.05) as store:
        made = store.create(set_key("a"), network_set("a"))
        holder = sqlite3.connect(tmp_path / "calico.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatastoreUnavailable, match=r"locked by another process.*nothing was written.*fuser"):
            store.put(set_key("a"), network_set("a", 2))
        assert store.get(set_key("a")) == made  # readers are not held up
        holder.execute("ROLLBACK")
        holder.close()
        store.put(set_key("a"), network_set("a", 2))


def test_deleted_database_is_unavailable_and_never_made_anew_by_a_running_process(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.create(set_key("a"), network_set("a"))
        for file in tmp_path.glob("calico.db*"):
            file.unlink()
        for _ in range(2):
            with pytest.raises(DatastoreUnavailable, match=r"put .* back"):
                store.list([ALL_SETS])
        assert not (tmp_path / "calico.db").exists()
        (tmp_path / "calico.db").touch()  # the first moment of a copy
        with pytest.raises(DatastoreUnavailable, match="not a database of this datastore"):
            store.list([ALL_SETS])


def test_replaced_database_ends_watches_with_too_old_and_serves_the_new_content(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path / "other") as other:
        other.create(set_key("new"), network_set("new"))
    with opened(tmp_path) as store, caplog.at_level(logging.WARNING):
        for number in range(50):
            store.put(set_key("old"), network_set("old", number))
        watch = store.watch([ALL_SETS], revision=store.list([ALL_SETS]).revision)
        os.replace(tmp_path / "other" / "calico.db", tmp_path / "calico.db")  # -wal and -shm of the old one stay behind
        with pytest.raises(RevisionTooOld, match="was replaced"):
            collect(watch, bool)
        assert names(store.list([ALL_SETS]).records) == ["new"]
        store.create(set_key("more"), network_set("more"))
        assert "was replaced" in caplog.text
    with opened(tmp_path) as store:
        assert names(store.list([ALL_SETS]).records) == ["more", "new"]


def test_agent_sees_what_a_restored_backup_holds_although_revisions_are_those_of_before(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.put(set_key("a"), network_set("a", "old"))
        with contextlib.closing(sqlite3.connect(tmp_path / "calico.db")) as connection:
            connection.execute("VACUUM INTO ?", (str(tmp_path / "backup.db"),))
        with feeding(store) as (_, seen):
            before = store.put(set_key("a"), network_set("a", "of before"))
            seen.until(lambda: seen.view[set_key("a")].revision == before.revision)
            (tmp_path / "elsewhere").mkdir()
            (tmp_path / "backup.db").rename(tmp_path / "elsewhere" / "calico.db")
            with opened(tmp_path / "elsewhere") as restored:
                after = restored.put(set_key("a"), network_set("a", "restored"))
            (tmp_path / "elsewhere" / "calico.db").rename(tmp_path / "calico.db")
            assert after.revision == before.revision
            seen.until(lambda: seen.view[set_key("a")].value == after.value)


def test_database_replaced_under_a_busy_writer_of_another_process_stays_sound(tmp_path: Path) -> None:
    with opened(tmp_path / "other") as other:
        other.create(set_key("new"), network_set("new"))
    persistent = WRITER.replace("store.put(set_key(sys", "retry(set_key(sys", 1).replace(
        "number = 0", "number = 0\n" + RETRY, 1
    )
    with opened(tmp_path) as store:
        store.create(set_key("old"), network_set("old"))
        writer = subprocess.Popen(
            [sys.executable, "-c", persistent, str(tmp_path / "calico.db"), "w"], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        for _ in range(50):
            writer.stdout.readline()
        os.replace(tmp_path / "other" / "calico.db", tmp_path / "calico.db")
        for _ in range(50):
            store.put(set_key("mine"), network_set("mine"))
            writer.stdout.readline()
        writer.kill()
        writer.communicate()
        assert {"mine", "new"} <= {*names(store.list([ALL_SETS]).records)} <= {"mine", "new", "w", "pair"}
    assert sqlite3.connect(tmp_path / "calico.db").execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_journal_that_another_process_takes_away_while_it_is_opened_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It noticed that the file was replaced, and the journal was that of the old one."""
    with opened(tmp_path) as store:
        store.create(set_key("a"), network_set("a"))
    real, taken = os.open, list[str]()

    def open_once_too_late(path: str, *arguments: int, **more: object) -> int:
        if str(path).endswith("-wal") and not taken:
            taken.append(path)
            os.unlink(path)
        return real(path, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", open_once_too_late)
    with opened(tmp_path) as store:
        store.create(set_key("b"), network_set("b"))
    assert taken
    with opened(tmp_path) as store:
        assert names(store.list([ALL_SETS]).records) == ["a", "b"]


def test_same_file_under_another_inode_number_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    """As when an overlay filesystem copies it up at the first write."""
    with opened(tmp_path) as store:
        made = store.create(set_key("a"), network_set("a"))
        watch = store.watch([ALL_SETS], revision=made.revision)
        store._database.opened().identity = (0, 0)
        later = store.put(set_key("a"), network_set("a", 2))
        assert [event.record for event in watch.next(0)] == [later]
    with opened(tmp_path) as store:
        assert store.get(set_key("a")) == later


def test_revision_of_a_deleted_database_is_too_old_for_its_successor(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        old = store.create(set_key("a"), network_set("a")).revision
    shutil.rmtree(tmp_path)
    with opened(tmp_path) as store, pytest.raises(RevisionTooOld):
        store.watch([ALL_SETS], revision=old)


@pytest.mark.parametrize("content", [b"no database at all" * 100, b""])
def test_file_of_another_kind_is_refused_or_if_empty_taken(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "calico.db").write_bytes(content)
    with opened(tmp_path) as store:
        if content:
            with pytest.raises(DatastoreUnavailable, match="damaged"):
                store.list([ALL_SETS])
            assert (tmp_path / "calico.db").read_bytes() == content
        else:
            assert list(store.list([ALL_SETS]).records) == []


def test_database_of_another_program_is_refused_and_untouched(tmp_path: Path) -> None:
    foreign = sqlite3.connect(tmp_path / "calico.db")
    foreign.execute("CREATE TABLE theirs(x)")
    foreign.commit()
    foreign.close()
    before = (tmp_path / "calico.db").read_bytes()
    with opened(tmp_path) as store, pytest.raises(DatastoreUnavailable, match="not a database of this datastore"):
        store.create(set_key("a"), network_set("a"))
    assert (tmp_path / "calico.db").read_bytes() == before


@pytest.mark.node
def test_full_disk_refuses_writes_keeps_reads_and_recovers(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(small)], check=True)
    try:
        with opened(small) as store:
            made = store.create(set_key("a"), network_set("a", "x"))
            with pytest.raises(DatastoreUnavailable, match=r"no space is left.*free space") as caught:
                fill(store)
            assert "can be read" in caught.value.kept
            assert store.get(set_key("a")) == made
            with pytest.raises(DatastoreUnavailable):
                store.put(set_key("big"), network_set("big", "y" * 100_000))
            subprocess.run(["mount", "-o", "remount,size=20m", str(small)], check=True)
            store.put(set_key("big"), network_set("big", "y" * 100_000))
            assert store.get(set_key("a")) == made
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def fill(store: SqliteDatastore) -> None:
    for number in range(1000):
        store.put(set_key(f"fill{number}"), network_set(f"fill{number}", "y" * 5000))


def test_threads_that_open_it_at_the_same_moment_share_one_opening(tmp_path: Path) -> None:
    for attempt in range(20):
        with opened(tmp_path / str(attempt)) as store:
            together = threading.Barrier(6)

            def write(number: int, store: SqliteDatastore = store, together: threading.Barrier = together) -> None:
                together.wait()
                store.create(set_key(f"k{number}"), network_set(f"k{number}"))

            with ThreadPoolExecutor(6) as pool:
                list(pool.map(write, range(6)))
            assert names(store.list([ALL_SETS]).records) == [f"k{number}" for number in range(6)]
            # Another process sees the same: nobody's journal was mistaken for a stale one.
            with opened(tmp_path / str(attempt)) as other:
                assert len(other.list([ALL_SETS]).records) == 6


def test_threads_that_notice_a_replacement_at_the_same_moment_lose_nothing(tmp_path: Path) -> None:
    for attempt in range(10):
        here = tmp_path / str(attempt)
        with opened(here / "other") as other:
            other.create(set_key("new"), network_set("new"))
        with opened(here) as store:
            store.create(set_key("old"), network_set("old"))
            os.replace(here / "other" / "calico.db", here / "calico.db")
            with ThreadPoolExecutor(6) as pool:
                list(pool.map(lambda n, s=store: s.put(set_key(f"k{n}"), network_set(f"k{n}")), range(12)))  # type: ignore[misc]
            assert len(store.list([ALL_SETS]).records) == 13
        assert sqlite3.connect(here / "calico.db").execute("SELECT count(*) FROM current").fetchone() == (13,)


def test_two_first_starts_on_one_new_file_agree(tmp_path: Path) -> None:
    program = WRITER.replace("while True:", "for _ in range(20):")
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "calico.db"), name], stdout=subprocess.DEVNULL)
        for name in ("a", "b", "c")
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    with opened(tmp_path) as store:
        assert names(store.list([ALL_SETS]).records) == ["a", "b", "c", "pair"]


def test_forked_child_opens_its_own_connections(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.create(set_key("a"), network_set("a", 1))
        child = os.fork()
        if child == 0:
            store.put(set_key("a"), network_set("a", 2))
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert mark_of(store.get(set_key("a"))) == "2"
        store.put(set_key("a"), network_set("a", 3))


# ── history ──


def test_history_is_kept_to_the_number_of_revisions_asked_for(tmp_path: Path) -> None:
    with opened(tmp_path, retain_revisions=100) as store:
        start = store.list([ALL_SETS]).revision
        for number in range(600):
            store.put(set_key(f"k{number % 7}"), network_set(f"k{number % 7}", number))
        recent = store.list([ALL_SETS])
        for number in range(30):
            store.put(set_key("k0"), network_set("k0", f"again{number}"))
        with pytest.raises(RevisionTooOld):
            store.list([ALL_SETS], revision=start)
        assert list(store.list([ALL_SETS], revision=recent.revision).records) == list(recent.records)
    rows = sqlite3.connect(tmp_path / "calico.db").execute("SELECT count(*) FROM versions").fetchone()[0]
    assert rows < 100 + 7 + 64 + 1


def test_history_older_than_asked_for_is_forgotten_but_no_record_is(tmp_path: Path) -> None:
    with opened(tmp_path, retain_s=-1.0) as store:
        store.create(set_key("quiet"), network_set("quiet"))
        store.create(set_key("gone"), network_set("gone"))
        store.delete(set_key("gone"))
        for number in range(600):
            store.put(set_key("busy"), network_set("busy", number))
        assert names(store.list([ALL_SETS]).records) == ["busy", "quiet"]
    rows = sqlite3.connect(tmp_path / "calico.db").execute("SELECT count(*) FROM versions").fetchone()[0]
    assert rows < 70


def test_deletion_as_last_change_before_compaction_does_not_reuse_its_revision(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.create(set_key("a"), network_set("a"))
        store.delete(set_key("a"))
        at = store.list([ALL_SETS]).revision
        store.compact()
        assert store.create(set_key("a"), network_set("a")).revision != at
