"""``python -m bench etcd`` measures what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_short_run_prints_one_object_with_each_measurement_beside_its_limit() -> None:
    command = [sys.executable, "-m", "bench", "etcd", "--endpoints", "300", "--swaps", "20", "--events", "200"]
    done = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    for ours, limit in (
        ("list_s", "raw_list_s"),
        ("cas_us", "raw_cas_us"),
        ("watch_events_per_s", "raw_watch_events_per_s"),
    ):
        assert result[ours] > 0
        assert result[limit] > 0
