"""``calico lab run`` whole: two recipes measured, and a difference that is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from calico_kernel.lab import topology
from calico_kernel.testing.lab import RunningLab, running

pytestmark = pytest.mark.node

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"


@pytest.fixture(scope="module")
def lab() -> Iterator[RunningLab]:
    with running(topology.generated(2, 1)) as started:
        yield started


def run(lab: RunningLab, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "FORCE_COLOR"}
    line = [sys.executable, "-m", "calico_kernel.cli.calico", "lab", "run", str(RECIPES), "--name", lab.client.name]
    return subprocess.run([*line, *options], capture_output=True, text=True, check=False, env=environment)


def test_two_recipes_agree_and_leave_nothing_behind(lab: RunningLab) -> None:
    done = run(lab, "--only", "02-", "--only", "21-", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert [each["name"] for each in report["scenarios"]] == ["02-limit-to-some-pods", "21-tier-with-pass"]
    assert (report["cells"], report["differ"]) == (720, 0)
    assert all(each["changed"] > 0 and each["enforced_ms"] is not None for each in report["scenarios"])
    assert json.loads(lab.calicoctl("get", "networkpolicies", "--all-namespaces", "-o", "json"))["items"] == []
    tiers = json.loads(lab.calicoctl("get", "tiers", "-o", "json"))["items"]
    assert "security" not in [each["metadata"]["name"] for each in tiers]


def test_packet_that_something_else_drops_is_reported_and_fails_the_run(lab: RunningLab) -> None:
    drop = ["INPUT", "-p", "udp", "--dport", "53", "-s", lab.address("shop/api"), "-j", "DROP"]
    lab.run("shop/db", "iptables", "-A", *drop)
    try:
        done = run(lab, "--only", "02-")
    finally:
        lab.run("shop/db", "iptables", "-D", *drop)
    assert done.returncode == 1
    assert "\033" not in done.stdout
    assert "1 differ" in done.stdout
    wrong = next(line for line in done.stdout.splitlines() if "expected allowed, measured denied" in line)
    assert "shop/api -> shop/db UDP 53 over IPv4" in wrong
    assert "knp.default.db-from-api" in wrong
