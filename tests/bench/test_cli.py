"""The start-up benchmark runs every command, and says what it promises to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_command_is_measured_beside_the_bare_interpreter() -> None:
    command = [sys.executable, "-m", "bench", "cli", "--json", "--rounds", "1", "--datastores", "sqlite,etcd"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["rounds"] == 1 and found["python_ratio"] == 1.0
    for name in ("python", "version", "get_sqlite", "get_etcd"):
        assert found[f"{name}_cpu_ms"] > 0 and found[f"{name}_wall_ms"] > 0 and found[f"{name}_ratio"] > 0
