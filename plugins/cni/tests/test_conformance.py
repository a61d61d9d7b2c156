"""Every verb in every version of the specification, and its errors by number."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import calico_cni
from calico_cni.netconf import VERSIONS
from calico_kernel.host import netns as namespaces
from calico_kernel.host.netlink import Netlink, delete_link, delete_route, set_link
from calico_kernel.model.cluster import ClusterInformation, ClusterInformationSpec
from calico_kernel.model.ipam import AssignRequest, IpamHandle
from calico_kernel.model.keys import HandleKey, ResourceKey
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.testing.ipam import add_pool

pytestmark = pytest.mark.node
CURRENT = [version for version in VERSIONS if version >= "0.3.0"]
DUAL = {"type": "calico-ipam", "assign_ipv6": "true"}


@pytest.mark.parametrize("version", CURRENT)
def test_add_answers_in_the_version_it_was_asked_in(node: Any, workload: Callable[[], str], version: str) -> None:
    said = node.add("c1", workload(), conf=node.conf(version, ipam=DUAL, mtu=1400)).said
    assert said["cniVersion"] == version
    assert [interface["name"] for interface in said["interfaces"]] == ["calic1", "eth0"]
    assert said["interfaces"][1]["sandbox"].startswith("/run/netns/")
    assert ("mtu" in said["interfaces"][1]) == (version >= "1.1.0")
    assert [ip.get("version") for ip in said["ips"]] == (["4", "6"] if version < "1.0.0" else [None, None])
    assert all(ip["interface"] == 1 and "gateway" not in ip for ip in said["ips"])
    assert said["dns"] == {}


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", ""])
def test_oldest_versions_get_one_address_of_each_family(node: Any, workload: Callable[[], str], version: str) -> None:
    said = node.add("c1", workload(), conf=node.conf(version, ipam=DUAL)).said
    assert said["cniVersion"] == (version or "0.2.0")
    assert said["ip4"]["ip"].endswith("/32") and said["ip6"]["ip"].endswith("/128")
    assert "ips" not in said and "interfaces" not in said


@pytest.mark.parametrize("version", VERSIONS)
def test_del_is_silent_in_every_version(node: Any, workload: Callable[[], str], version: str) -> None:
    name = workload()
    node.add("c1", name, conf=node.conf(version))
    answer = node.run("DEL", "c1", name, conf=node.conf(version))
    assert (answer.status, answer.said) == (0, {})
    assert node.nothing_left()


def test_version_is_answered_without_an_agent() -> None:
    shim = Path(calico_cni.__file__).parent / "shim.py"
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(shim)], env={"CNI_COMMAND": "VERSION"}, capture_output=True, check=True
    )
    assert json.loads(done.stdout) == {"cniVersion": "1.1.0", "supportedVersions": list(VERSIONS)}


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_agent_away_is_try_again_later(node: Any, command: str) -> None:
    conf = node.conf("1.1.0", agent_socket="/nowhere/agent.sock")
    answer = node.run(command, "c1", "/proc/self/ns/net", conf=conf)
    assert (answer.status, answer.said["code"]) == (1, 11)
    assert "/nowhere/agent.sock" in answer.said["msg"]


def test_agent_not_in_sync_yet_is_try_again_for_add_and_not_available_for_status(
    node: Any, workload: Callable[[], str]
) -> None:
    name = workload()
    node.service.stop()
    assert node.run("ADD", "c1", name).said["code"] == 11
    assert node.run("STATUS", conf=node.conf("1.1.0")).said["code"] == 50
    assert node.run("DEL", "c1", name).status == 0
    assert node.nothing_left()


def test_locked_datastore_is_try_again_later(node: Any, workload: Callable[[], str]) -> None:
    information = ClusterInformation(
        metadata=ObjectMeta(name="default"), spec=ClusterInformationSpec(datastore_ready=False)
    )
    node.store.create(ResourceKey("ClusterInformation", "", "default"), information)
    assert node.run("ADD", "c1", workload()).said["code"] == 11
    assert node.run("DEL", "c1").said["code"] == 11
    assert node.run("STATUS", conf=node.conf("1.1.0")).said["code"] == 50


def test_datastore_away_is_try_again_later_and_leaves_nothing(node: Any, workload: Callable[[], str]) -> None:
    name = workload()
    with node.store.outage():
        assert node.run("ADD", "c1", name).said["code"] == 11
        assert node.run("DEL", "c1", name).said["code"] == 11
    assert node.nothing_left()


@pytest.mark.parametrize(
    ("environment", "conf", "code"),
    [
        ({"CNI_COMMAND": "FLY"}, {}, 4),
        ({"CNI_CONTAINERID": ""}, {}, 4),
        ({"CNI_CONTAINERID": "../etc"}, {}, 4),
        ({"CNI_CONTAINERID": "-c1"}, {}, 4),
        ({"CNI_IFNAME": ""}, {}, 4),
        ({"CNI_IFNAME": "a/b"}, {}, 4),
        ({"CNI_IFNAME": "sixteencharacter"}, {}, 4),
        ({"CNI_IFNAME": ".."}, {}, 4),
        ({"CNI_NETNS": ""}, {}, 4),
        ({"CNI_NETNS": "/etc/passwd"}, {}, 8),
        ({"CNI_NETNS": "/run/netns/no-such"}, {}, 8),
        ({"CNI_NETNS": "/proc/self/ns/mnt"}, {}, 8),
        ({"CNI_NETNS": "/proc/self/ns/net"}, {}, 8),
        ({"CNI_ARGS": "nonsense"}, {}, 4),
        ({"CNI_ARGS": "IP=10.0.0"}, {}, 7),
        ({}, {"cniVersion": "9.9.9"}, 1),
        ({}, {"cniVersion": 1}, 1),
        ({}, {"name": ""}, 7),
        ({}, {"name": "a b"}, 7),
        ({}, {"name": None}, 7),
        ({}, {"ipam": None}, 7),
        ({}, {"ipam": {"type": "../host-local"}}, 7),
        ({}, {"ipam": {"type": "no-such-ipam"}}, 104),
        ({}, {"ipam": {"type": "calico-ipam", "assign_ipv4": "false"}}, 7),
        ({}, {"ipam": {"type": "calico-ipam", "ipv4_pools": ["fd00::/64"]}}, 7),
        ({}, {"ipam": {"type": "calico-ipam", "ipv4_pools": ["no-such-pool"]}}, 101),
        ({}, {"mtu": "1500"}, 7),
        ({}, {"mtu": 70000}, 7),
        ({}, {"policy_setup_timeout_seconds": -1}, 7),
        ({}, {"require_mtu_file": True}, 11),
        ({}, {"args": {"cni": {"labels": {"app": "web"}}}}, 7),
        ({}, {"args": {"cni": {"labels": [{"key": "b@d key", "value": "x"}]}}}, 100),
        ({}, {"args": {"cni": {"ports": [{"port": 0}]}}}, 7),
        ({}, {"args": {"cni": {"ports": [{"port": 1, "protocol": "ICMP"}]}}}, 7),
        ({}, {"args": {"cni": {"annotations": {"cni.projectcalico.org/ipAddrs": "10.65.0.9"}}}}, 7),
        ({}, {"args": {"cni": {"annotations": {"cni.projectcalico.org/hwAddr": "ff:ff:ff:ff:ff:ff"}}}}, 7),
        ({}, {"args": {"cni": {"annotations": {"cni.projectcalico.org/floatingIPs": '["10.9.9.9"]'}}}}, 7),
        ({}, {"args": {"cni": {"annotations": {"cni.projectcalico.org/ipAddrsNoIpam": '["10.9.9.9"]'}}}}, 7),
        ({}, {"args": {"cni": {"annotations": {"cni.projectcalico.org/ipAddrs": '["192.0.2.1"]'}}}}, 101),
        ({}, {"runtimeConfig": {"mac": "01:00:00:00:00:00"}}, 7),
    ],
)
def test_what_is_wrong_is_refused_by_number_and_leaves_nothing(
    node: Any, workload: Callable[[], str], environment: dict[str, str], conf: dict[str, Any], code: int
) -> None:
    given = {"CNI_NETNS": namespaces.path_of(workload()), "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", **environment}
    answer = node.run(given.pop("CNI_COMMAND", "ADD"), conf={**node.conf(), **conf}, **given)
    assert (answer.status, answer.said["code"]) == (1, code), answer.said
    assert answer.said["msg"]
    assert node.nothing_left()


def test_configuration_that_is_not_json_is_code_6(node: Any) -> None:
    for text in ("", "[]", '{"agent_socket":', "\x00", "{" * 2000):
        conf = text + f' "agent_socket": "{node.socket_path}"'
        assert node.run("ADD", "c1", "/proc/self/ns/net", conf=conf).said["code"] in (6, 11)
    conf = f'"agent_socket" {node.socket_path}'
    answer = node.service.handle({"env": {"CNI_COMMAND": "ADD"}, "config": conf})
    assert json.loads(answer["stdout"])["code"] == 6


def test_no_address_left_is_refused_with_the_reason(node: Any, workload: Callable[[], str]) -> None:
    add_pool(node.store, "tiny", "10.68.0.0/32")
    conf = node.conf(ipam={"type": "calico-ipam", "ipv4_pools": ["tiny"]})
    node.add("c1", workload(), conf=conf)
    answer = node.run("ADD", "c2", workload(), conf=conf)
    assert (answer.status, answer.said["code"]) == (1, 101)
    assert node.ipam.handles() == {"net1.c1"}


# ── CHECK ──


def test_check_needs_a_version_and_a_previous_result(node: Any, workload: Callable[[], str]) -> None:
    name = workload()
    said = node.add("c1", name).said
    assert node.run("CHECK", "c1", name, conf=node.conf("0.3.1", prevResult=said)).said["code"] == 1
    assert node.run("CHECK", "c1", name).said["code"] == 7
    answer = node.run("CHECK", "c1", name, conf=node.conf(prevResult=said))
    assert (answer.status, answer.said) == (0, {})
    assert node.run("CHECK", "c2", name, conf=node.conf(prevResult=said)).said["code"] == 3


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        ("container link down", "is down"),
        ("container link gone", "no interface"),
        ("container mac", "MAC"),
        ("container route", "no route"),
        ("host route", "no route"),
        ("ipam", "IPAM"),
        ("proxy_arp", "proxy_arp"),
        ("result", "prevResult"),
    ],
)
def test_check_says_what_is_not_as_add_left_it(node: Any, workload: Callable[[], str], harm: str, word: str) -> None:
    name = workload()
    said = node.add("c1", name).said
    with Netlink(name) as inside, Netlink() as host:
        if harm == "container link down":
            inside.run(set_link(name="eth0", up=False))
        elif harm == "container link gone":
            inside.run(delete_link(name="eth0"))
        elif harm == "container mac":
            inside.run(set_link(name="eth0", mac="02:00:00:00:00:99"))
        elif harm == "container route":
            inside.run(delete_route(next(r for r in inside.routes() if r.prefix == "0.0.0.0/0")))
        elif harm == "host route":
            inside_address = said["ips"][0]["address"]
            host.run(delete_route(next(r for r in host.routes() if r.prefix == inside_address)))
    if harm == "ipam":
        node.ipam.release_by_handle("net1.c1")
    elif harm == "proxy_arp":
        Path("/proc/sys/net/ipv4/conf/calic1/proxy_arp").write_text("0")
    elif harm == "result":
        said["ips"][0]["address"] = "10.65.0.200/32"
    answer = node.run("CHECK", "c1", name, conf=node.conf(prevResult=said))
    assert answer.status == 1
    assert answer.said["code"] == 103
    assert word in answer.said["msg"] + answer.said.get("details", "")


# ── GC and STATUS ──


@pytest.mark.parametrize("command", ["GC", "STATUS"])
def test_verbs_of_1_1_are_refused_for_older_configurations(node: Any, command: str) -> None:
    answer = node.run(command, conf=node.conf("1.0.0"))
    assert (answer.status, answer.said["code"]) == (1, 1)


def test_gc_removes_what_is_not_listed_of_this_network_only(node: Any, workload: Callable[[], str]) -> None:
    keep, drop, other = workload(), workload(), workload()
    node.add("keep", keep)
    node.add("drop", drop)
    node.add("other", other, conf={**node.conf(), "name": "net2"})
    for container, on in (("half", "node-1"), ("far", "node-2")):  # an ADD that was killed, here and elsewhere
        handle = f"net1.{container}"
        node.ipam.assign(AssignRequest(handle=handle, node=on, num_ipv4=1, attributes={"node": on}))
        node.store.create(HandleKey(handle), IpamHandle(block={"10.65.0.0/26": 1}))
    valid = [{"containerID": "keep", "ifname": "eth0"}]
    answer = node.run("GC", conf=node.conf("1.1.0", **{"cni.dev/valid-attachments": valid}))
    assert (answer.status, answer.said) == (0, {})
    assert {endpoint.spec.container_id for endpoint in node.endpoints().values()} == {"keep", "other"}
    assert node.links() == {"calikeep", "caliother"}
    assert node.ipam.handles() == {"net1.keep", "net2.other", "net1.far"}
    assert node.run("GC", conf=node.conf("1.1.0", **{"cni.dev/valid-attachments": []})).status == 0
    assert node.links() == {"caliother"}


def test_gc_without_the_list_is_refused(node: Any, workload: Callable[[], str]) -> None:
    node.add("c1", workload())
    for wrong in ({}, {"cni.dev/valid-attachments": "all"}, {"cni.dev/valid-attachments": [{"containerID": 1}]}):
        assert node.run("GC", conf=node.conf("1.1.0", **wrong)).said["code"] == 7
    assert len(node.endpoints()) == 1


def test_status_tells_whether_add_can_be_served(node: Any) -> None:
    answer = node.run("STATUS", conf=node.conf("1.1.0"))
    assert (answer.status, answer.said) == (0, {})
    for name in ("four", "six"):
        node.store.delete(ResourceKey("IPPool", "", name))
    answer = node.run("STATUS", conf=node.conf("1.1.0"))
    assert (answer.status, answer.said["code"]) == (1, 50)
    assert "pool" in answer.said["msg"]
