"""Who is woken, by what, and what is loaded for it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from calico_datastore_sqlite import notify, plugin
from calico_datastore_sqlite.settings import SqliteSettings
from calico_datastore_sqlite.store import SqliteDatastore
from calico_kernel.hookspecs import Services
from calico_kernel.testing.datastore import ALL_SETS, collect, names, network_set, set_key

NEVER_S = 3600.0
WRITE_ONE = """
import sys
from calico_datastore_sqlite.settings import SqliteSettings
from calico_datastore_sqlite.store import SqliteDatastore
from calico_kernel.testing.datastore import network_set, set_key

SqliteDatastore(SqliteSettings(path=sys.argv[1])).put(set_key(sys.argv[2]), network_set(sys.argv[2]))
"""


@pytest.fixture
def settings(tmp_path: Path) -> SqliteSettings:
    return SqliteSettings(path=str(tmp_path / "calico.db"))


def write_elsewhere(settings: SqliteSettings, name: str) -> None:
    subprocess.Popen([sys.executable, "-c", WRITE_ONE, settings.path, name])


def test_write_of_another_process_wakes_a_watch_without_the_slow_look(
    settings: SqliteSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "BACKSTOP_S", NEVER_S)
    store = SqliteDatastore(settings)
    watch = store.watch([ALL_SETS], revision=store.list([ALL_SETS]).revision)
    for name in ("one", "two"):
        write_elsewhere(settings, name)
        assert [event.key for event in watch.next(60)] == [set_key(name)]
    store.close()


def test_watches_of_one_process_share_one_inotify_descriptor(settings: SqliteSettings) -> None:
    store = SqliteDatastore(settings)
    start = store.list([ALL_SETS]).revision
    watches = [store.watch([ALL_SETS], revision=start) for _ in range(50)]
    made = store.create(set_key("a"), network_set("a"))
    for watch in watches:
        assert [event.record for event in collect(watch, bool)] == [made]
        assert list(watch.next(0.001)) == []  # has waited, so notification is on
    descriptors = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_link(fd)]
    assert descriptors.count("anon_inode:inotify") == 1
    store.close()


def _is_link(fd: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{fd}")


def test_without_inotify_a_watch_still_sees_what_others_write_and_says_so(
    settings: SqliteSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class NoInotify:
        def inotify_init1(self, _flags: int) -> int:
            return -1

    monkeypatch.setattr(notify, "_libc", NoInotify)
    store = SqliteDatastore(settings)
    watch = store.watch([ALL_SETS], revision=store.list([ALL_SETS]).revision)
    with caplog.at_level(logging.WARNING):
        write_elsewhere(settings, "one")
        assert [event.key for event in collect(watch, bool)] == [set_key("one")]
    assert "max_user_instances" in caplog.text
    store.close()


def test_plugin_describes_itself_and_opens_the_store_it_was_told_to(settings: SqliteSettings) -> None:
    info = plugin.calico_plugin()
    assert info.settings is SqliteSettings
    store = plugin.calico_datastore(settings, Services(node="n1", log=logging.getLogger("test")))
    store.create(set_key("a"), network_set("a"))
    assert names(store.list([ALL_SETS]).records) == ["a"]
    store.close()


def test_misspelt_setting_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="retian_s"):
        msgspec.convert({"retian_s": 1}, SqliteSettings)


def test_plugin_module_loads_nothing_heavy() -> None:
    code = "import sys, calico_datastore_sqlite.plugin; print('sqlite3' in sys.modules, 'ctypes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
