"""A container run by podman on our network: its own libcni calls our executable, as every runtime does."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from calico_cni import install
from calico_kernel.host import sysctl
from calico_kernel.host.netlink import InterfaceAddress, Netlink, add_address

pytestmark = pytest.mark.node
SERVER = "192.0.2.1"
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


class Podman:
    """Everything of it in one directory; containers share the machine's /usr."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("rootfs/proc", "rootfs/sys", "rootfs/dev", "rootfs/etc", "rootfs/run", "rootfs/usr", "rootfs/tmp"):
            (directory / name).mkdir(parents=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            (directory / "rootfs" / name).symlink_to(f"usr/{name}")
        (directory / "containers.conf").write_text(
            f'[network]\nnetwork_backend="cni"\ncni_plugin_dirs=["{directory}/bin", "/usr/lib/cni"]\n'
            f'network_config_dir="{directory}/net.d"\n[engine]\ncgroup_manager="cgroupfs"\nevents_logger="none"\n'
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """In a mount namespace of its own, so that what podman mounts is not seen by the agent."""
        where = self.directory
        options = (
            f"--root {where}/root --runroot /run/{where.parent.name[-20:]} --tmpdir {where}/tmp --storage-driver vfs"
        )
        script = f'mount -t cgroup2 cgroup2 /sys/fs/cgroup; exec podman {options} "$@"'
        environment = {"CONTAINERS_CONF": f"{where}/containers.conf", "HOME": str(where), "PATH": _PATH}
        return subprocess.run(
            ["unshare", "--cgroup", "--mount", "sh", "-c", script, "podman", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def container(self, name: str, network: str, script: str) -> subprocess.CompletedProcess[str]:
        """Run a container to its end."""
        mounts = ["-v", "/dev:/dev", "-v", "/usr:/usr:ro"]  # no devpts in a user namespace without group 5
        options = ["--rm", "--name", name, "--cgroups=disabled", "--network", network, *mounts]
        done = self.run("run", *options, "--rootfs", str(self.directory / "rootfs"), "bash", "-c", script)
        if "OCI runtime error" in done.stderr:
            pytest.skip(f"podman cannot run a container in this bubble: {done.stderr.strip()}")
        return done


@pytest.fixture
def podman(node: Any, tmp_path: Path) -> Podman:
    if not (shutil.which("podman") and shutil.which("crun") and Path("/usr/lib/cni/portmap").exists()):
        pytest.skip("podman, crun or containernetworking-plugins is not installed")
    made = Podman(tmp_path / "podman")
    parser = install.argparse.ArgumentParser()
    install.configure(parser)
    line = ["install", "--bin-dir", f"{made.directory}/bin", "--net-dir", f"{made.directory}/net.d"]
    line += ["--network", "blue", "--agent-socket", node.socket_path, "--ipv6", "--cni-version", "0.4.0"]
    assert install.run(parser.parse_args(line)) == 0
    return made


@pytest.fixture
def greeting() -> Iterator[str]:
    """A server outside the node's workloads that greets whoever connects."""
    with Netlink() as nl:
        lo = nl.link("lo")
        assert lo is not None
        nl.run(add_address(InterfaceAddress(lo.index, SERVER, 32)))
    sysctl.write("net/ipv4/ip_forward", 1)
    with socket.create_server((SERVER, 8080)) as server:

        def serve() -> None:
            connection, peer = server.accept()
            with connection:
                connection.sendall(f"hello {peer[0]}\n".encode())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"cat < /dev/tcp/{SERVER}/8080"
        socket.create_connection((SERVER, 8080)).close()
        thread.join(5)


def test_podman_runs_a_container_on_our_network_and_removes_it_whole(node: Any, podman: Podman, greeting: str) -> None:
    seen: list[Any] = []
    node.admit = lambda endpoint: (seen.append(endpoint), endpoint)[1]
    done = podman.container("web", "blue", f"ip -j addr show eth0; {greeting}")
    assert done.returncode == 0, done.stderr
    shown, hello = done.stdout.splitlines()
    held = {entry["local"] for entry in json.loads(shown)[0]["addr_info"] if entry["scope"] == "global"}
    (endpoint,) = seen
    assert held == {network.split("/")[0] for network in endpoint.spec.ip_networks}
    assert len(held) == 2
    assert endpoint.spec.profiles == ("blue",)
    assert hello == f"hello {next(address for address in held if ':' not in address)}"
    assert node.nothing_left()


def test_podman_gives_the_address_that_its_user_asked_for(node: Any, podman: Podman) -> None:
    done = podman.container("web", "blue:ip=10.65.0.77", "ip -4 -o addr show eth0")
    assert done.returncode == 0, done.stderr
    assert "10.65.0.77/32" in done.stdout
    assert node.nothing_left()


def test_podman_shows_why_our_network_refused(node: Any, podman: Podman) -> None:
    node.programmed = False
    listed = podman.directory / "net.d" / "10-calico.conflist"
    listed.write_text(
        listed.read_text().replace('"type": "calico",', '"type": "calico", "policy_setup_timeout_seconds": 1,')
    )
    done = podman.container("web", "blue", "true")
    assert done.returncode != 0
    assert "try again later" in done.stderr
    assert node.nothing_left()
