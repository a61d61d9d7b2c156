"""Nodes whose datastore goes away and comes back: enforcement never opens, requests are answered, and all converges.

The server of etcd and of Kubernetes is killed. An embedded database has none: there another process takes the write
lock, and is killed while it holds it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from calico_kernel.lab import servers, topology
from calico_kernel.lab.client import LabClient
from calico_kernel.lab.network import LabError
from calico_kernel.lab.topology import Workload
from calico_kernel.testing.lab import Expectation, RunningLab, running

pytestmark = pytest.mark.node

TRY_AGAIN = 11
NODES = ("node1", "node2")

DATABASE_FOR_API_ONLY = """
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db-from-api, namespace: shop}
spec:
  selector: app == 'db'
  types: [Ingress]
  ingress: [{action: Allow, source: {selector: app == 'api'}}]
"""

TESTER_CLOSED = """
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: tester-closed, namespace: dev}
spec: {selector: app == 'tester', types: [Ingress]}
"""

REPORTING = """
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {endpointReportingEnabled: true, endpointReportingDelay: 100ms}
"""
STATUSES = """
import json
from calico_datastore_etcd.settings import EtcdSettings
from calico_datastore_etcd.store import EtcdDatastore
from calico_kernel.model.keys import StatusQuery, path
store = EtcdDatastore(EtcdSettings(endpoints="http://192.0.2.250:2379", variables=False))
records = store.list([StatusQuery()]).records
print(json.dumps({path(r.key): getattr(r.value, "status", "") for r in records}))
"""

FLOWS: list[Expectation] = [
    ("shop/api", "shop/db", "udp/53", True),
    ("shop/web", "shop/db", "udp/53", False),
    ("outside", "shop/db", "tcp/80", False),
    ("dev/web", "office/mail", "udp/53", True),
]


class Outage:
    """The datastore of a lab, to be lost and given back. ``tells``: what calicoctl says then. ``takes_s``: how long
    that lasts; ``refuses_s``: when requests are tried meanwhile."""

    tells = "is not available"
    reads = False
    """It can still be read."""
    takes_s = refuses_s = 4.0

    def __init__(self, lab: RunningLab) -> None:
        self.lab = lab
        self.server = lab.topology.datastore

    def begin(self) -> None:
        self.lab.agent(self.server, "crash")

    def end(self) -> None:
        self.lab.agent(self.server, "start")
        self.lab.agent(self.server, "wait")

    def pass_by(self) -> None:
        """Gone, and back at once by itself."""
        self.lab.agent(self.server, "kill")
        self.lab.agent(self.server, "wait")


class KubernetesOutage(Outage):
    takes_s = refuses_s = 10.0


class HeldDatabase(Outage):
    tells = "stayed locked"
    reads = True
    refuses_s = 18.0  # each who wants to write waits 5 s for the lock

    def begin(self) -> None:
        line, environment = self.lab.client.exec_line("node1", [sys.executable, "-c", HOLD, servers.SQLITE_PATH])
        self.holder = subprocess.Popen(
            line, env={**os.environ, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == b"held\n"

    def end(self) -> None:
        assert self.holder.stdin is not None
        self.holder.stdin.close()
        self.holder.wait()

    def pass_by(self) -> None:
        self.begin()
        time.sleep(0.3)
        self.end()


HOLD = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module", params=topology.DATASTORES)
def outage(request: pytest.FixtureRequest) -> Iterator[Outage]:
    with running(topology.with_datastore(topology.generated(2, 2), request.param)) as started:
        started.apply(DATABASE_FOR_API_ONLY)
        assert started.settles(FLOWS) == []
        kinds = {"sqlite": HeldDatabase, "etcd": Outage, "kubernetes": KubernetesOutage}
        yield kinds[request.param](started)


@pytest.fixture
def lab(outage: Outage) -> RunningLab:
    return outage.lab


def database(number: int) -> Workload:
    """Another one behind the policy."""
    return Workload(namespace="shop", name=f"db{number}", node=NODES[number % 2], labels={"app": "db"})


def described(workload: Workload) -> dict[str, Any]:
    return {name: getattr(workload, name) for name in ("namespace", "name", "node", "labels")}


def becomes(lab: RunningLab, node: str, said: str) -> None:
    deadline = time.monotonic() + 20
    while said not in (answer := lab.agent(node, "readiness"))["text"]:
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)


def stored(lab: RunningLab, kind: str) -> list[str]:
    items = json.loads(lab.calicoctl("get", kind, "--all-namespaces", "-o", "json"))["items"]
    return [each["metadata"]["name"] for each in items]


def nothing_is_left_over(lab: RunningLab) -> None:
    """Of the workloads that came and went: no endpoint and no address."""
    count = len(lab.topology.workloads)
    assert len(stored(lab, "workloadendpoints")) == count
    shown = lab.calicoctl("ipam", "show")
    used = re.findall(r"^\| IP Pool .*?\| +(\d+) \(", shown, re.MULTILINE)
    assert used == [str(count + len(NODES))] * 2, shown  # a node has one of each family for its tunnel


def over(outage: Outage) -> None:
    outage.end()
    for node in NODES:
        outage.lab.agent(node, "wait")


def statuses(lab: RunningLab, workload: Workload) -> dict[str, str]:
    """By Felix' path: what is reported of one workload's endpoints."""
    found = json.loads(lab.run("node1", sys.executable, "-c", STATUSES))
    return {at: said for at, said in found.items() if f"%2f{workload.name}/endpoint/" in at}


@pytest.mark.parametrize("outage", ["etcd"], indirect=True)
def test_endpoint_status_is_reported_when_asked_for_and_goes_with_its_endpoint(lab: RunningLab) -> None:
    workload = database(7)
    lab.client.ask("add_workload", workload=described(workload))
    lab.apply(REPORTING)
    for expected in (["up"], []):
        deadline = time.monotonic() + 20
        while list(statuses(lab, workload).values()) != expected:
            assert time.monotonic() < deadline, statuses(lab, workload)
            time.sleep(0.1)
        if expected:
            (at,) = statuses(lab, workload)
            assert at.startswith(f"/calico/felix/v2/no-region/host/{workload.node}/workload/")
            lab.client.ask("remove_workload", workload=workload.id)
    lab.delete(REPORTING)


def test_while_it_is_away_nothing_opens_requests_are_put_off_and_all_converges_after(
    outage: Outage, lab: RunningLab
) -> None:
    staying, leaving, coming = database(1), database(2), database(3)
    for workload in (staying, leaving):
        lab.client.ask("add_workload", workload=described(workload))
    flows: list[Expectation] = [
        *FLOWS,
        ("shop/api", staying.id, "udp/53", True),
        ("shop/web", staying.id, "udp/53", False),
        ("shop/web", leaving.id, "udp/53", False),
    ]
    assert lab.settles(flows) == []
    with lab.streaming(flows, seconds=outage.refuses_s) as seen:
        lab.apply(TESTER_CLOSED)
        outage.begin()
        for command, workload in (("ADD", coming), ("DEL", leaving)):
            status, said = lab.cni(command, workload)
            assert (status != 0, said.get("code")) == (True, TRY_AGAIN), said
        with pytest.raises(LabError, match=outage.tells):
            lab.delete(TESTER_CLOSED)
        for node in () if outage.reads else NODES:
            becomes(lab, node, "away")
        over(outage)
    assert seen["sent"] > 500
    assert (seen["lost"], seen["leaked"]) == ([], [])
    lab.client.ask("add_workload", workload=described(coming))
    closed: list[Expectation] = [("shop/web", coming.id, "udp/53", False), ("dev/api", "dev/tester", "tcp/80", False)]
    assert lab.settles([*flows, *closed, ("shop/api", coming.id, "udp/53", True)]) == []
    lab.delete(TESTER_CLOSED)
    assert lab.settles([("dev/api", "dev/tester", "tcp/80", True)]) == []
    for workload in (staying, leaving, coming):
        lab.client.ask("remove_workload", workload=workload.id)
    nothing_is_left_over(lab)


def test_lost_again_and_again_under_churn_it_neither_loses_nor_leaks_a_flow(outage: Outage, lab: RunningLab) -> None:
    stop = threading.Event()
    opened: list[str] = []
    rounds = 0

    def churn() -> None:
        """Workloads come and go, each behind the policy from its first moment."""
        nonlocal rounds
        with contextlib.closing(LabClient(lab.client.name)) as client:
            while not stop.is_set():
                rounds += 1
                each = database(10 + rounds)
                client.ask("add_workload", workload=described(each))
                if client.ask("probe", probes=[("shop/web", each.id, "udp", 53, 4)], timeout_s=0.1) != [False]:
                    opened.append(each.id)
                client.ask("remove_workload", workload=each.id)

    churning = threading.Thread(target=churn)
    with lab.streaming(FLOWS, seconds=outage.takes_s) as seen:
        churning.start()
        try:
            for pause_s in (0.5, 0.9, 0.2):
                time.sleep(pause_s)
                outage.pass_by()
                lab.apply(TESTER_CLOSED)
                lab.delete(TESTER_CLOSED)
            while rounds < 3 and churning.is_alive():
                time.sleep(0.05)
        finally:
            stop.set()
            churning.join()
    assert rounds >= 2
    assert opened == []
    assert seen["sent"] > 500
    assert (seen["lost"], seen["leaked"]) == ([], [])
    lab.apply(TESTER_CLOSED)
    assert lab.settles([*FLOWS, ("dev/api", "dev/tester", "tcp/80", False)]) == []
    lab.delete(TESTER_CLOSED)
    assert lab.settles([("dev/api", "dev/tester", "tcp/80", True)]) == []
    nothing_is_left_over(lab)


def test_agent_started_while_it_is_away_waits_for_what_it_needs_and_leaves_enforcement_as_it_was(
    outage: Outage, lab: RunningLab
) -> None:
    with lab.streaming(FLOWS, seconds=outage.takes_s) as seen:
        outage.begin()
        lab.agent("node2", "crash")
        lab.agent("node2", "start")
        if outage.reads:
            lab.agent("node2", "wait")
        else:
            becomes(lab, "node2", "waiting for the datastore: ")
            becomes(lab, "node2", outage.tells)
        status, said = lab.cni("ADD", database(101))
        assert (status != 0, said.get("code")) == (True, TRY_AGAIN), said
        over(outage)
    assert (seen["lost"], seen["leaked"]) == ([], [])
    assert lab.settles(FLOWS) == []
