"""IPAM by other programs: host-local as Debian ships it, and programs that misbehave."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calico_kernel.model.endpoints import Node, NodeStatus
from calico_kernel.model.keys import ResourceKey
from calico_kernel.model.meta import ObjectMeta

pytestmark = pytest.mark.node
needs_host_local = pytest.mark.skipif(
    not os.access("/usr/lib/cni/host-local", os.X_OK), reason="containernetworking-plugins is not installed"
)


def host_local(directory: Path, *subnets: str, **more: Any) -> dict[str, Any]:
    ranges = [[{"subnet": subnet}] for subnet in subnets]
    return {"type": "host-local", "ranges": ranges, "dataDir": str(directory / "addresses"), **more}


def leases(directory: Path) -> set[str]:
    found = {path.name for path in (directory / "addresses" / "net1").glob("*")}
    return {name for name in found if not name.startswith(("last_reserved", "lock"))}


@needs_host_local
@pytest.mark.parametrize("version", ["0.3.1", "1.0.0", "1.1.0"])
def test_host_local_gives_addresses_that_become_single_and_gateways_go(
    node: Any, workload: Callable[[], str], tmp_path: Path, version: str
) -> None:
    name = workload()
    conf = node.conf(version, ipam=host_local(tmp_path, "10.70.0.0/24", "fd00:70::/64"))
    said = node.add("c1", name, conf=conf).said
    assert [ip["address"] for ip in said["ips"]] == ["10.70.0.2/32", "fd00:70::2/128"]
    assert not any("gateway" in ip for ip in said["ips"])
    assert said["cniVersion"] == version
    assert leases(tmp_path) == {"10.70.0.2", "fd00:70::2"}
    assert node.ipam.requests == []
    if version >= "0.4.0":
        assert node.run("CHECK", "c1", name, conf={**conf, "prevResult": said}).status == 0
    assert node.run("DEL", "c1", name, conf=conf).status == 0
    assert leases(tmp_path) == set()
    assert node.nothing_left()
    assert node.run("DEL", "c1", name, conf=conf).status == 0


@needs_host_local
def test_failed_add_gives_host_local_its_address_back(node: Any, workload: Callable[[], str], tmp_path: Path) -> None:
    node.programmed = False
    answer = node.run("ADD", "c1", workload(), conf=node.conf(ipam=host_local(tmp_path, "10.70.0.0/24")))
    assert answer.said["code"] == 11
    assert leases(tmp_path) == set()
    assert node.nothing_left()


@needs_host_local
def test_same_add_twice_keeps_host_locals_address(node: Any, workload: Callable[[], str], tmp_path: Path) -> None:
    name = workload()
    conf = node.conf(ipam=host_local(tmp_path, "10.70.0.0/24", routes=[{"dst": "10.0.0.0/8"}]))
    first = node.add("c1", name, conf=conf)
    assert node.add("c1", name, conf=conf).said == first.said
    assert leases(tmp_path) == set(first.addresses)


@needs_host_local
def test_routes_of_the_configuration_replace_the_default_ones(
    node: Any, workload: Callable[[], str], tmp_path: Path
) -> None:
    from calico_kernel.host.netlink import Netlink

    first, second = workload(), workload()
    ipam = host_local(tmp_path, "10.70.0.0/24", routes=[{"dst": "10.0.0.0/8"}])
    node.add("c1", first, conf=node.conf(ipam=ipam))
    node.add("c2", second, conf=node.conf(ipam=ipam, include_default_routes=True))
    for name, expected in ((first, {"10.0.0.0/8"}), (second, {"10.0.0.0/8", "0.0.0.0/0"})):
        with Netlink(name) as nl:
            assert {route.prefix for route in nl.routes() if route.gateway} == expected


@needs_host_local
def test_use_pod_cidr_is_the_nodes(node: Any, workload: Callable[[], str], tmp_path: Path) -> None:
    ipam = {"type": "host-local", "subnet": "usePodCidr", "dataDir": str(tmp_path / "addresses")}
    answer = node.run("ADD", "c1", workload(), conf=node.conf(ipam=ipam))
    assert "pod CIDR" in answer.said["msg"]
    status = NodeStatus(pod_cidrs=("fd00:71::/64", "10.71.0.0/24"))
    node.store.create(ResourceKey("Node", "", "node-1"), Node(metadata=ObjectMeta(name="node-1"), status=status))
    name = workload()
    assert node.add("c1", name, conf=node.conf(ipam=ipam)).addresses == ["10.71.0.2"]
    node.store.delete(ResourceKey("Node", "", "node-1"))
    assert node.run("DEL", "c1", name, conf=node.conf(ipam=ipam)).status == 0
    assert leases(tmp_path) == set()


@needs_host_local
def test_gc_gives_host_locals_addresses_back(node: Any, workload: Callable[[], str], tmp_path: Path) -> None:
    conf = node.conf("1.1.0", ipam=host_local(tmp_path, "10.70.0.0/24"))
    node.add("keep", workload(), conf=conf)
    node.add("drop", workload(), conf=conf)
    valid = [{"containerID": "keep", "ifname": "eth0"}]
    assert node.run("GC", conf={**conf, "cni.dev/valid-attachments": valid}).status == 0
    assert leases(tmp_path) == {"10.70.0.2"}
    assert node.run("STATUS", conf=conf).status == 0


@needs_host_local
def test_annotation_for_calicos_ipam_is_refused_with_another(
    node: Any, workload: Callable[[], str], tmp_path: Path
) -> None:
    args = {"cni": {"annotations": {"cni.projectcalico.org/ipAddrs": '["10.70.0.9"]'}}}
    conf = node.conf(ipam=host_local(tmp_path, "10.70.0.0/24"), args=args)
    assert node.run("ADD", "c1", workload(), conf=conf).said["code"] == 7
    assert leases(tmp_path) == set()


SPEAKS = 'if [ "$CNI_COMMAND" = VERSION ]; then echo \'{"supportedVersions":["1.0.0"]}\'; exit 0; fi\n'


@pytest.mark.parametrize(
    ("script", "code", "word"),
    [
        ("echo broken >&2; exit 3", 104, "broken"),
        ('echo \'{"code": 7, "msg": "no subnet"}\'; exit 1', 7, "no subnet"),
        ("echo not json", 104, "no address"),
        ("echo '{}'", 104, "no address"),
        ("yes | head -c 3000000", 104, "no address"),
        ("sleep 30; echo {}", 11, "ran longer"),
        ("exit 0", 104, "no address"),
    ],
)
def test_program_that_misbehaves_is_told_and_leaves_nothing(
    node: Any, workload: Callable[[], str], tmp_path: Path, script: str, code: int, word: str
) -> None:
    program = tmp_path / "odd-ipam"
    program.write_text(f"#!/bin/sh\n{SPEAKS}[ $CNI_COMMAND = DEL ] && exit 0\n{script}\n")
    program.chmod(0o755)
    node.service._verbs.delegates.timeout_s = 1.0
    answer = node.run("ADD", "c1", workload(), conf=node.conf(ipam={"type": "odd-ipam"}), path=str(tmp_path))
    assert (answer.status, answer.said["code"]) == (1, code), answer.said
    assert word in answer.said["msg"] + answer.said.get("details", "")
    assert node.nothing_left()


def test_program_sees_the_runtimes_variables_and_nothing_of_the_agents(
    node: Any, workload: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALICO_SECRET", "x")
    program = tmp_path / "seeing-ipam"
    answer = '{"cniVersion":"1.0.0","ips":[{"address":"10.72.0.9/24"}]}'
    program.write_text(
        f"#!/bin/sh\n{SPEAKS}env > {tmp_path}/env.$CNI_COMMAND; cat > {tmp_path}/stdin; echo '{answer}'\n"
    )
    program.chmod(0o755)
    conf = node.conf(ipam={"type": "seeing-ipam", "own": [1]})
    node.add("c1", workload(), conf=conf, path=str(tmp_path), args="IP=10.72.0.9")
    seen = dict(line.split("=", 1) for line in (tmp_path / "env.ADD").read_text().splitlines())
    assert {key for key in seen if not key.startswith("CNI_")} <= {"PATH", "PWD", "_", "SHLVL", "OLDPWD"}
    assert (seen["CNI_CONTAINERID"], seen["CNI_ARGS"], seen["CNI_PATH"]) == ("c1", "IP=10.72.0.9", str(tmp_path))
    assert json.loads((tmp_path / "stdin").read_text())["ipam"] == {"type": "seeing-ipam", "own": [1]}
