"""A container run by containerd on our network, from the places where ``calico cni install`` puts things."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from calico_cni import install

pytestmark = pytest.mark.node

SCRIPT = """
set -e
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /etc/cni/net.d
mount -t tmpfs tmpfs /opt
mkdir -p /opt/cni
ln -s {where}/bin /opt/cni/bin
cp {where}/net.d/* /etc/cni/net.d/
containerd -c {where}/config.toml > {where}/log 2>&1 &
daemon=$!
trap 'kill $daemon; wait' EXIT
for _ in $(seq 100); do ctr -a {socket} version > /dev/null 2>&1 && break; sleep 0.1; done
timeout 30 ctr -a {socket} run --rm --cni --config {where}/spec.json web
"""
UNUSED = ["grpc.v1.cri", *(f"snapshotter.v1.{name}" for name in ("aufs", "btrfs", "devmapper", "zfs"))]


def specification(rootfs: Path, *command: str) -> dict[str, Any]:
    """An OCI container that shares the machine's /usr; no devpts, whose group a user namespace has not got."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": list(command),
            "env": ["PATH=/usr/sbin:/usr/bin"],
            "cwd": "/",
        },
        "root": {"path": str(rootfs)},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "mount", "ipc", "uts")]},
    }


@pytest.fixture
def where(node: Any, tmp_path: Path) -> Path:
    """Files of one containerd, with our plugin installed for it."""
    programs = all(shutil.which(name) for name in ("containerd", "ctr", "runc", "containerd-shim-runc-v2"))
    if not (programs and Path("/etc/cni/net.d").is_dir() and Path("/opt").is_dir()):
        pytest.skip("containerd or runc is not installed")
    for name in ("proc", "sys", "dev", "usr"):
        (tmp_path / "rootfs" / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (tmp_path / "rootfs" / name).symlink_to(f"usr/{name}")
    disabled = json.dumps([f"io.containerd.{name}" for name in UNUSED])
    short = f"/run/{tmp_path.name[-20:]}"  # a socket's path is at most 107 bytes
    (tmp_path / "config.toml").write_text(
        f'version = 2\nroot = "{tmp_path}/root"\nstate = "{short}"\ndisabled_plugins = {disabled}\n'
        f'[grpc]\n  address = "{short}.sock"\n'
    )
    (tmp_path / "script").write_text(SCRIPT.format(where=tmp_path, socket=f"{short}.sock"))
    parser = argparse.ArgumentParser()
    install.configure(parser)
    line = ["install", "--bin-dir", f"{tmp_path}/bin", "--net-dir", f"{tmp_path}/net.d", "--ipv6", "--no-portmap"]
    assert install.run(parser.parse_args([*line, "--agent-socket", node.socket_path])) == 0
    return tmp_path


def test_containerd_runs_a_container_on_our_network_and_removes_it_whole(node: Any, where: Path) -> None:
    seen: list[Any] = []
    node.admit = lambda endpoint: (seen.append(endpoint), endpoint)[1]
    (where / "spec.json").write_text(json.dumps(specification(where / "rootfs", "/usr/sbin/ip", "-o", "addr")))
    done = subprocess.run(
        ["unshare", "--cgroup", "--mount", "bash", str(where / "script")],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    log = where / "log"
    if not seen and "runc" in done.stderr:
        pytest.skip(f"containerd cannot run a container in this bubble: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr + (log.read_text()[-3000:] if log.exists() else "")
    (endpoint,) = seen
    assert len(endpoint.spec.ip_networks) == 2
    assert all(network in done.stdout for network in endpoint.spec.ip_networks)
    assert endpoint.spec.container_id.endswith("web")
    assert node.nothing_left()
