"""The calculation benchmark runs, and says what it promises to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("shape", "deltas"),
    [("tags-1k-1k", 1531), ("tags-1k-1k-delete", 3060), ("netsets-1k-1k", 2502), ("isolated-1k", 502)],
)
def test_bulk_shape_gives_out_what_its_input_asks_for(shape: str, deltas: int) -> None:
    found = _run(shape)
    assert found["shape"] == shape
    assert found["deltas"] == deltas
    assert list(found) == ["shape", "seconds", "updates_per_s", "peak_rss_mib", "deltas"]


def test_stream_reports_its_rate() -> None:
    found = _run("stream-1k", "--updates", "200")
    assert found["updates_per_s"] > 0 and found["deltas"] > 0


def _run(shape: str, *more: str) -> dict[str, float]:
    command = [sys.executable, "-m", "bench", "calc", "--json", "--shape", shape, *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    found: dict[str, float] = json.loads(done.stdout)
    return found
