"""Several nodes at once, end to end: real agents, real CNI requests, real packets."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator

import pytest

from calico_kernel.testing.lab import Expectation, RunningLab, running

pytestmark = pytest.mark.node

SAME_NODE = ("shop/web", "dev/api")
SAME_RACK = ("shop/web", "shop/api")
OTHER_RACK = ("shop/web", "shop/db")

DATABASE_FOR_API_ONLY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db-from-api, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress]
  ingress:
    - from:
        - podSelector: {matchLabels: {app: api}}
"""

TESTER_CLOSED = """
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: tester-closed, namespace: dev}
spec: {selector: app == 'tester', types: [Ingress]}
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[RunningLab]:
    with running() as started:
        yield started


def received_by_vxlan(lab: RunningLab, node: str) -> int:
    text = lab.run(node, "ip", "-s", "-o", "link", "show", "dev", "vxlan.calico")
    found = re.search(r"RX:\s+bytes\s+packets[^\\]*\\\s*\d+\s+(\d+)", text)
    assert found is not None, text
    return int(found[1])


def everywhere(lab: RunningLab, *, service: str = "tcp/80") -> list[Expectation]:
    workloads = [each.id for each in lab.topology.workloads]
    return [(source, target, service, True) for source, target in itertools.permutations(workloads, 2)]


def test_without_policy_every_workload_reaches_every_other_over_both_families(lab: RunningLab) -> None:
    assert lab.settles([*everywhere(lab), *everywhere(lab, service="udp/53"), *everywhere(lab, service="icmp")]) == []


def test_workloads_reach_the_outside_and_are_reached_from_it(lab: RunningLab) -> None:
    workloads = [each.id for each in lab.topology.workloads]
    out = [(each, "outside", "tcp/80", True) for each in workloads]
    back = [("outside", each, "udp/53", True) for each in workloads]
    assert lab.settles([*out, *back]) == []


@pytest.mark.parametrize(("pair", "tunnelled"), [(SAME_NODE, False), (SAME_RACK, False), (OTHER_RACK, True)])
def test_packets_are_tunnelled_between_racks_and_only_there(
    lab: RunningLab, pair: tuple[str, str], tunnelled: bool
) -> None:
    source, target = pair
    workload = lab.topology.workload(target)
    assert workload is not None
    before = received_by_vxlan(lab, workload.node)
    assert lab.settles([(source, target, "udp/53", True)] * 20, versions=(4,)) == []
    assert (received_by_vxlan(lab, workload.node) - before >= 20) is tunnelled


@pytest.mark.parametrize("pair", [SAME_NODE, SAME_RACK, OTHER_RACK])
def test_largest_packet_of_a_workload_passes_unfragmented(lab: RunningLab, pair: tuple[str, str]) -> None:
    source, target = pair
    mtu = int(re.search(r" mtu (\d+) ", lab.run(source, "ip", "-o", "link", "show", "eth0"))[1])  # type: ignore[index]
    assert mtu == 1500 - 70  # VXLAN over IPv6, the larger of the two overheads
    send = (
        "import socket,sys; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.setsockopt(0,10,2);"
        f"s.connect(('{lab.address(target)}',7)); s.send(bytes({mtu - 28}))"
    )
    count = [
        "iptables",
        "-t",
        "raw",
        "-A",
        "PREROUTING",
        "-p",
        "udp",
        "--dport",
        "7",
        "-m",
        "length",
        "--length",
        str(mtu),
    ]
    lab.run(target, *count)
    lab.run(source, "python3", "-c", send)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if re.search(
            r"^\s*1\s", lab.run(target, "iptables", "-t", "raw", "-L", "PREROUTING", "-v", "-n"), re.MULTILINE
        ):
            break
        time.sleep(0.02)
    else:
        pytest.fail("the packet did not arrive")
    lab.run(target, "iptables", "-t", "raw", "-F", "PREROUTING")


def test_policy_takes_effect_on_every_node_and_goes_again(lab: RunningLab) -> None:
    closed = [
        (each.id, "shop/db", "tcp/80", each.id == "shop/api") for each in lab.topology.workloads if each.id != "shop/db"
    ]
    lab.apply(DATABASE_FOR_API_ONLY)
    try:
        assert lab.settles([*closed, ("outside", "shop/db", "tcp/80", False)]) == []
    finally:
        lab.delete(DATABASE_FOR_API_ONLY)
    assert lab.settles(everywhere(lab)) == []


def test_kubernetes_policy_is_stored_as_calicos_controllers_name_it(lab: RunningLab) -> None:
    lab.apply(DATABASE_FOR_API_ONLY)
    try:
        assert "knp.default.db-from-api" in lab.calicoctl("get", "networkpolicy", "--namespace", "shop")
    finally:
        lab.delete(DATABASE_FOR_API_ONLY)


def test_agents_killed_under_a_stream_of_new_flows_neither_lose_nor_leak_one(lab: RunningLab) -> None:
    flows: list[Expectation] = [
        ("shop/api", "shop/db", "udp/53", True),
        ("shop/web", "shop/db", "udp/53", False),
        ("outside", "shop/db", "tcp/80", False),
        ("dev/web", "office/mail", "udp/53", True),
        ("office/monitor", "dev/api", "sctp/5000", True),
    ]
    lab.apply(DATABASE_FOR_API_ONLY)
    try:
        assert lab.settles(flows) == []
        with lab.streaming(flows, seconds=8) as seen:
            for pause, node in ((0.3, "node3"), (0.7, "node3"), (0.1, "node1"), (1.1, "node3"), (0.4, "node2")):
                time.sleep(pause)
                lab.agent(node, "kill")
                lab.apply(TESTER_CLOSED) if node != "node1" else lab.delete(TESTER_CLOSED)
        assert seen["sent"] > 1000
        assert (seen["lost"], seen["leaked"]) == ([], [])
        for node in ("node1", "node2", "node3"):
            lab.agent(node, "wait")
        assert lab.agent("node3")["starts"] >= 4
        assert lab.settles([("dev/api", "dev/tester", "tcp/80", False), *flows]) == []
    finally:
        lab.delete(DATABASE_FOR_API_ONLY)
        lab.delete(TESTER_CLOSED)
    assert lab.settles(everywhere(lab)) == []


def test_workload_added_under_a_policy_is_never_open_and_gone_when_removed(lab: RunningLab) -> None:
    lab.apply(DATABASE_FOR_API_ONLY)
    try:
        added = {"namespace": "shop", "name": "db2", "node": "node2", "labels": {"app": "db"}}
        lab.client.ask("add_workload", workload=added)
        assert not lab.arrives("shop/web", "shop/db2", "tcp/80")  # at the first try, right after the ADD
        assert lab.settles([("shop/api", "shop/db2", "tcp/80", True), ("outside", "shop/db2", "udp/53", False)]) == []
        address = lab.address("shop/db2")
        lab.client.ask("remove_workload", workload="shop/db2")
        assert address not in lab.run("node2", "ip", "route")
        assert address not in lab.calicoctl("get", "workloadendpoints", "--all-namespaces", "-o", "yaml")
    finally:
        lab.delete(DATABASE_FOR_API_ONLY)


def test_change_made_while_an_agent_is_away_takes_effect_when_it_is_back(lab: RunningLab) -> None:
    lab.agent("node3", "stop")
    try:
        lab.apply(DATABASE_FOR_API_ONLY)
        assert lab.settles([("shop/web", "shop/db", "tcp/80", True)]) == []
        lab.agent("node3", "start")
        assert lab.settles([("shop/web", "shop/db", "tcp/80", False), ("shop/api", "shop/db", "tcp/80", True)]) == []
    finally:
        lab.agent("node3", "start")
        lab.agent("node3", "wait")
        lab.delete(DATABASE_FOR_API_ONLY)
    assert lab.settles([("shop/web", "shop/db", "tcp/80", True)]) == []
