"""A lab whose nodes keep their records in an etcd of the lab's own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from calico_kernel.lab import topology
from calico_kernel.testing.lab import RunningLab, running

pytestmark = pytest.mark.node

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"


@pytest.fixture(scope="module")
def lab() -> Iterator[RunningLab]:
    with running(topology.with_datastore(topology.generated(2, 2), "etcd")) as started:
        yield started


def test_every_node_and_the_servers_own_host_use_the_one_etcd(lab: RunningLab) -> None:
    for place in ("node1", "node2", "etcd"):
        assert '"plugin": "etcd"' in lab.run(place, "cat", "/run/calico/calico.yaml")
        listed = json.loads(lab.run(place, "calicoctl", "get", "nodes", "-o", "json"))["items"]
        assert sorted(each["metadata"]["name"] for each in listed) == ["node1", "node2"]
    show = (
        'for p in /proc/[0-9]*; do if [ "$(cat $p/comm)" = etcd ]; then tr "\\0" " " <$p/cmdline; fi; done 2>/dev/null'
    )
    assert "/run/calico-lab/datastore/etcd" in lab.run("etcd", "sh", "-c", f"{show}; true")


def test_recipe_agrees(lab: RunningLab) -> None:
    line = [sys.executable, "-m", "calico_kernel.cli.calico", "lab", "run", str(RECIPES), "--name", lab.client.name]
    done = subprocess.run([*line, "--only", "15-", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert (report["cells"], report["differ"]) == (360, 0)


def test_server_that_is_killed_is_started_again_with_what_it_held(lab: RunningLab) -> None:
    before = lab.agent("etcd")
    lab.agent("etcd", "kill")
    lab.agent("etcd", "wait")
    after = lab.agent("etcd")
    assert after["starts"] == before["starts"] + 1
    assert after["pid"] != before["pid"]
    listed = json.loads(lab.calicoctl("get", "nodes", "-o", "json"))["items"]
    assert len(listed) == 2


def test_another_datastore_for_a_lab_that_runs_is_refused(lab: RunningLab) -> None:
    line = [sys.executable, "-m", "calico_kernel.cli.calico", "lab", "run", str(RECIPES), "--name", lab.client.name]
    done = subprocess.run([*line, "--datastore", "sqlite"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "has its datastore already" in done.stderr
