"""The CNI benchmark runs against a whole agent, and says what it promises to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from calico_kernel.host import bubble

ROOT = Path(__file__).parents[2]
KEYS = {"count", "parallel", "add_p50_ms", "add_p99_ms", "add_per_s", "del_p50_ms"}


@pytest.mark.node
@pytest.mark.parametrize("parallel", [1, 4])
def test_every_add_and_del_succeeds_and_is_measured(parallel: int) -> None:
    command = [sys.executable, "-m", "bench", "cni", "--json", "--count", "4", "--parallel", str(parallel)]
    own = bubble.command(command)  # ip(8) mounts over /run/netns, where this run's other tests have namespaces
    done = subprocess.run(own, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() >= KEYS
    assert (found["count"], found["parallel"]) == (4, parallel)
    assert found["add_p99_ms"] >= found["add_p50_ms"] > 0
