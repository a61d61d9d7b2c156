"""Our executable as ``calico-ipam``: addresses for interfaces that other plugins make (bridge, here)."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calico_cni import install
from calico_kernel.host import netns as namespaces
from calico_kernel.host.netlink import Netlink

pytestmark = pytest.mark.node
needs_bridge = pytest.mark.skipif(
    not os.access("/usr/lib/cni/bridge", os.X_OK), reason="containernetworking-plugins is not installed"
)


@pytest.fixture
def call(node: Any, tmp_path: Path) -> Callable[..., tuple[int, Any]]:
    """Run a program of the network as a runtime does; (status, what it said)."""
    parser = argparse.ArgumentParser()
    install.configure(parser)
    line = ["install", "--bin-dir", f"{tmp_path}/bin", "--net-dir", f"{tmp_path}/net.d", "--no-config"]
    assert install.run(parser.parse_args(line)) == 0

    def call(program: str, command: str, namespace: str, **more: Any) -> tuple[int, Any]:
        path = f"{tmp_path}/bin:/usr/lib/cni"
        found = next(f"{part}/{program}" for part in path.split(":") if os.path.exists(f"{part}/{program}"))
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": "c1",
            "CNI_NETNS": namespaces.path_of(namespace),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": path,
        }
        conf = {**node.conf("1.0.0"), "type": program, "bridge": "br0", **more}
        done = subprocess.run(
            [found], input=json.dumps(conf).encode(), env=environment, capture_output=True, check=False
        )
        return done.returncode, json.loads(done.stdout or b"{}")

    return call


@needs_bridge
def test_bridge_plugin_takes_its_address_from_calicos_ipam(
    node: Any, workload: Callable[[], str], call: Callable[..., tuple[int, Any]]
) -> None:
    name = workload()
    status, said = call("bridge", "ADD", name)
    assert status == 0, said
    assert [ip["address"] for ip in said["ips"]] == ["10.65.0.0/32"]
    with Netlink(name) as inside:
        link = inside.link("eth0")
        assert link is not None
        assert [a.address for a in inside.addresses(link.index, version=4)] == ["10.65.0.0"]
    assert node.ipam.handles() == {"net1.c1"}
    assert not node.endpoints()
    assert call("bridge", "DEL", name)[0] == 0
    assert node.ipam.handles() == set()


def test_verbs_of_ipam_alone(node: Any, workload: Callable[[], str], call: Callable[..., tuple[int, Any]]) -> None:
    name = workload()
    dual = {"ipam": {"type": "calico-ipam", "assign_ipv6": "true"}}
    status, said = call("calico-ipam", "ADD", name, **dual)
    assert status == 0
    assert said == {
        "cniVersion": "1.0.0",
        "ips": [{"address": "10.65.0.0/32"}, {"address": "fd00:65::/128"}],
        "routes": [{"dst": "10.65.0.0/32"}, {"dst": "fd00:65::/128"}],
        "dns": {},
    }
    assert call("calico-ipam", "ADD", name, **dual) == (0, said)
    assert call("calico-ipam", "CHECK", name, prevResult=said) == (0, {})
    for _ in range(2):
        assert call("calico-ipam", "DEL", name) == (0, {})
    assert call("calico-ipam", "CHECK", name, prevResult=said)[1]["code"] == 103
    assert call("calico-ipam", "ADD", name, ipam={"type": "host-local"})[1]["code"] == 7
    assert node.nothing_left()
