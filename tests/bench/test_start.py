"""``python -m bench start`` and ``policy`` measure what they say, on the datastore that they start themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.node


def bench(*line: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "bench", *line, "--datastore", "etcd", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_start_on_etcd_prints_what_it_took_beside_the_listing(netns: str) -> None:
    result = bench("start", "--workloads", "2", "--policies", "5", "--remote", "250")
    assert result["datastore"] == "etcd"
    for name in ("seconds", "rss_mib", "listing_seconds"):
        assert result[name] > 0


def test_policy_on_etcd_prints_both_directions_beside_the_watch(netns: str) -> None:
    result = bench("policy", "--workloads", "2", "--policies", "3", "--rounds", "1")
    assert result["datastore"] == "etcd"
    for name in ("deny_p50_ms", "allow_p50_ms", "watch_p50_ms"):
        assert result[name] >= 0  # 0: in force before the writer had its acknowledgement
