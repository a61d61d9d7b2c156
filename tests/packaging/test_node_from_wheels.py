"""A node composed of installed wheels alone: every plugin is found by its entry point, and the agent becomes ready."""

from __future__ import annotations

import json
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.node]

READY = """
import signal, subprocess, sys, time, urllib.error, urllib.request
agent = subprocess.Popen([sys.executable, "-m", "calico_kernel.cli.calico", "node", "--config", sys.argv[1]])
try:
    for _ in range(200):
        assert agent.poll() is None, agent.returncode
        try:
            print(urllib.request.urlopen("http://127.0.0.1:9099/readiness").read().decode())
            break
        except (urllib.error.URLError, OSError) as exc:
            reason = exc.read().decode() if isinstance(exc, urllib.error.HTTPError) else exc
            time.sleep(0.1)
    else:
        raise SystemExit(f"never ready: {reason}")
finally:
    agent.send_signal(signal.SIGTERM)
    status = agent.wait(20)
assert status == 0, status
"""


@pytest.mark.usefixtures("netns")
def test_a_node_of_installed_wheels_becomes_ready(
    wheels: Path, make_environment: Callable[..., Callable[..., subprocess.CompletedProcess[str]]], tmp_path: Path
) -> None:
    chosen = sorted(wheels.glob("*.whl"))
    assert len(chosen) >= 6
    python = make_environment(chosen)
    config = tmp_path / "calico.yaml"
    config.write_text(
        textwrap.dedent(
            f"""
            node: wheel-node
            datastore: {{plugin: sqlite, path: {tmp_path}/calico.db}}
            ipam: blocks
            dataplane: iptables
            encapsulation: [vxlan]
            extensions: [cni]
            agent: {{run_dir: {tmp_path}/run, state_dir: {tmp_path}/state, log_format: text}}
            """
        )
    )
    listed = python("-m", "calico_kernel.cli.calico", "plugins", "list", "-o", "json", "--config", str(config))
    assert listed.returncode == 0, listed.stderr
    assert "iptables" in json.dumps(json.loads(listed.stdout))
    checked = python("-m", "calico_kernel.cli.calico", "config", "check", "--config", str(config))
    assert checked.returncode == 0, checked.stderr
    ready = python("-c", READY, str(config))
    assert ready.returncode == 0, ready.stdout + ready.stderr
