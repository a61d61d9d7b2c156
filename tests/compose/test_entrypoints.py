"""What stevedore found is remembered until something is installed; nothing wrong is ever remembered."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from calico_kernel import entrypoints
from calico_kernel.config import load
from calico_kernel.plugins import FAMILIES, load_plugins

STORE = """
@hookimpl
def calico_datastore(settings, services):
    return None
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of the import path, with nothing installed; the cache is elsewhere."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "site").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    return tmp_path / "site"


def install(site: Path, distribution: str, text: str) -> None:
    info = site / f"{distribution}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(text)
    os.utime(site, ns=(time.time_ns(), time.time_ns()))  # two changes within the file system's tick


def test_nothing_is_remembered_before_the_first_search(site: Path) -> None:
    assert entrypoints.recall() == {}


def test_what_was_found_is_recalled_until_something_is_installed(site: Path) -> None:
    install(site, "one", "[calico.datastore]\none = one.plugin\n")
    entrypoints.remember(FAMILIES)
    assert entrypoints.recall()["datastore:one"] == "one.plugin"
    install(site, "two", "[calico.datastore]\ntwo = two.plugin\n")
    assert entrypoints.recall() == {}


def test_word_of_two_distributions_and_word_for_an_attribute_are_left_to_stevedore(site: Path) -> None:
    install(site, "one", "[calico.datastore]\nsame = one.plugin\nwhole = one.plugin:thing\n")
    install(site, "two", "[calico.datastore]\nsame = two.plugin\nown = two.plugin\n")
    entrypoints.remember(FAMILIES)
    found = entrypoints.recall()
    assert found["datastore:own"] == "two.plugin"
    assert "datastore:same" not in found and "datastore:whole" not in found


@pytest.mark.parametrize("damage", [b"", b"{", b'{"path": 1, "targets": {}}', b"[]"])
def test_damaged_memory_counts_as_none(site: Path, damage: bytes) -> None:
    entrypoints.remember(FAMILIES)
    (file,) = (site.parent / "cache/calico-kernel").iterdir()
    file.write_bytes(damage)
    assert entrypoints.recall() == {}


def test_memory_or_home_of_another_user_is_not_used(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entrypoints.remember(FAMILIES)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    assert entrypoints.recall() == {}
    entrypoints.remember(FAMILIES)
    monkeypatch.undo()
    monkeypatch.setenv("HOME", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert entrypoints.recall() == {}


def test_remembered_module_that_is_gone_is_searched_again(make_plugin: Any) -> None:
    make_plugin("datastore", "sometimes", STORE)
    choices = load(None, {"CALICO_DATASTORE": "sometimes", "CALICO_IPAM": "none"}, usual=()).plugins
    load_plugins(choices)
    (file,) = (Path(os.environ["XDG_CACHE_HOME"]) / "calico-kernel").iterdir()
    file.write_bytes(file.read_bytes().replace(b"made_plugin", b"lost_plugin"))
    assert "lost_plugin" in entrypoints.recall()["datastore:sometimes"]
    assert load_plugins(choices).loaded
    assert "made_plugin" in entrypoints.recall()["datastore:sometimes"]


def test_files_of_environments_that_are_gone_do_not_pile_up(site: Path, tmp_path: Path) -> None:
    directory = tmp_path / "cache" / "calico-kernel"
    directory.mkdir()
    for number in range(entrypoints.KEPT + 5):
        left = directory / f"plugins-{number:08x}.json"
        left.write_text("{}")
        os.utime(left, (number, number))
    entrypoints.remember(FAMILIES)
    left_over = {file.name for file in directory.iterdir()}
    assert len(left_over) == entrypoints.KEPT
    assert f"plugins-{0:08x}.json" not in left_over and f"plugins-{entrypoints.KEPT + 4:08x}.json" in left_over
