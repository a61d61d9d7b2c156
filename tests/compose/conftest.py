"""Distributions made on the spot: an entry point, a module, metadata; found by the real discovery."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stevedore.extension import ExtensionManager

MakePlugin = Callable[..., str]

HEAD = """
from __future__ import annotations
from calico_kernel.hookspecs import *
from calico_kernel import hookspecs
from calico_kernel.hookspecs import hookimpl, PluginInfo
import msgspec

@hookimpl
def calico_plugin():
    settings = globals().get("Settings")
    return PluginInfo(summary="made by a test", hook_api=HOOK_API, distribution="made-up", settings=settings)
"""


@pytest.fixture
def make_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakePlugin]:
    made: list[str] = []
    before = dict(ExtensionManager.ENTRY_POINT_CACHE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def make(family: str, word: str, body: str, *, head: str = HEAD, also: tuple[tuple[str, str], ...] = ()) -> str:
        module = f"made_plugin_{tmp_path.name.replace('-', '_')}_{len(made)}"
        root = tmp_path / f"site{len(made)}"
        info = root / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (root / f"{module}.py").write_text(head + textwrap.dedent(body))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        lines = [f"[calico.{f}]\n{w} = {module}\n" for f, w in ((family, word), *also)]
        (info / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(str(root))
        ExtensionManager.ENTRY_POINT_CACHE.clear()
        importlib.invalidate_caches()
        made.append(module)
        return module

    yield make
    for module in made:
        sys.modules.pop(module, None)
    ExtensionManager.ENTRY_POINT_CACHE.clear()
    ExtensionManager.ENTRY_POINT_CACHE.update(before)
