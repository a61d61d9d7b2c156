"""``python -m bench ipam`` measures what it says, and finds no address twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_short_run_prints_one_object_with_the_agreed_keys(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "ipam", "--processes", "2", "--seconds", "0.3", "--json"]
    done = subprocess.run(
        [*command, "--directory", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    result = json.loads(done.stdout)
    assert set(result) == {"processes", "addresses_per_s", "cas_per_s", "duplicates"}
    assert result["processes"] == 2
    assert result["duplicates"] == 0
    assert result["addresses_per_s"] > 0
    assert result["cas_per_s"] > 0
