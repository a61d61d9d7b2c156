"""Every hook says what it is for, and the authors' guide names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pluggy
import pytest

from calico_kernel import hookspecs
from calico_kernel.plugins import FAMILIES

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "plugin-authors.md").read_text()


def _hooks() -> dict[str, Any]:
    manager = pluggy.PluginManager("calico")
    manager.add_hookspecs(hookspecs)
    return dict(vars(manager.hook))


HOOKS = sorted(name for name in _hooks() if name.startswith("calico_"))


def test_hooks_are_all_there() -> None:
    assert len(HOOKS) >= 14 and set(FAMILIES.values()) - {""} <= set(HOOKS)


@pytest.mark.parametrize("name", HOOKS)
def test_hook_has_a_docstring_and_stands_in_the_guide(name: str) -> None:
    assert (getattr(hookspecs, name).__doc__ or "").strip()
    assert name in GUIDE


@pytest.mark.parametrize("name", HOOKS)
def test_no_hook_hides_a_second_answer(name: str) -> None:
    assert not getattr(hookspecs, name).calico_spec["firstresult"]
