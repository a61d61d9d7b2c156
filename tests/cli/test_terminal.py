"""Colours and progress are for people: on a terminal only, colours not where NO_COLOR is set."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

TIER = "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: security}\nspec: {order: 100}\n"


def diff(config: Path, file: Path, *, terminal: bool, **environment: str) -> str:
    """What ``calicoctl diff`` writes to standard output, a terminal or a pipe."""
    argv = [sys.executable, "-m", "calico_kernel.cli.calicoctl", "diff", "-f", str(file), "-c", str(config)]
    given = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | environment
    if not terminal:
        return subprocess.run(argv, env=given, stdout=subprocess.PIPE, text=True, check=False).stdout
    ours, theirs = pty.openpty()
    try:
        subprocess.run(argv, env=given, stdout=theirs, check=False)
        return os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize(
    ("terminal", "environment", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": ""}, True),
        (True, {"NO_COLOR": "1"}, False),
        (False, {}, False),
    ],
)
def test_colours_on_a_terminal_only_and_not_where_no_color_is_set(
    config: Path, tmp_path: Path, terminal: bool, environment: dict[str, str], coloured: bool
) -> None:
    (tmp_path / "tier.yaml").write_text(TIER)
    written = diff(config, tmp_path / "tier.yaml", terminal=terminal, **environment)
    assert "+  order: 100" in written
    assert ("\x1b[" in written) is coloured
