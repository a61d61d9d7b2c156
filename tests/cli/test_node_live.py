"""calicoctl node run starts a real agent; node status and diags ask it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from calico_datastore_kdd.testing import free_port

PATIENCE_S = 60.0


@pytest.mark.node
def test_agent_that_node_run_started_answers_until_it_is_told_to_stop(ctl: Any, config: Path, tmp_path: Path) -> None:
    text = config.read_text() + "encapsulation: [vxlan]\n"
    health, metrics = free_port(), free_port()
    agent = f"run_dir: {tmp_path}/run, state_dir: {tmp_path}/state, health_port: {health}, metrics_port: {metrics}"
    config.write_text(text + f"agent: {{{agent}}}\n")
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-m", "calico_kernel.cli.calicoctl", "-c", str(config), "node", "run", "--as", "64513"]
    with subprocess.Popen([*command, "--ip6", "none"], stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while "The agent is ready.\n" not in (said := ctl("node", "status").out):
                assert time.monotonic() < deadline and process.poll() is None, said
                time.sleep(0.2)
            assert "Node:       n1, version " in said and "Datastore:  sqlite: in sync\n" in said
            assert "| encapsulation:vxlan | converged " in said
            assert json.loads(ctl("node", "status", "-o", "json").out)["agent"]["pid"] == process.pid
            assert "asNumber: 64513" in ctl("get", "node", "n1", "-o", "yaml").out
            (tmp_path / "out").mkdir()
            assert ctl("node", "diags", "--output-dir", str(tmp_path / "out")).status == 0
            assert len(list((tmp_path / "out").glob("diags-*.tar.gz"))) == 1
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
