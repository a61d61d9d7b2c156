"""The configuration reference is current, says something of every setting, and every setting of the agent is read."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from calico_kernel.config import AgentSettings

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "config-reference.md").read_text()


def test_reference_is_current() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.config_reference", "--check"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_every_setting_is_described() -> None:
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", TEXT, flags=re.M)
    assert len(rows) >= 20
    assert [name for name, rest in rows if not rest.rsplit(" | ", 1)[1].strip()] == []


@pytest.mark.parametrize("name", [name for name in AgentSettings.__struct_fields__ if name != "socket"])
def test_setting_of_the_agent_is_read_somewhere(name: str) -> None:
    sources = [path for path in (ROOT / "calico_kernel").rglob("*.py") if path.name != "settings.py"]
    assert any(re.search(rf"(settings|agent)\.{name}\b", path.read_text()) for path in sources), name
