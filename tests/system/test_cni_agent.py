"""The executable against the whole agent: SQLite, block IPAM, iptables. Killed half-way, it leaves nothing for good."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest

from calico_kernel.cli.calico import main as calico
from calico_kernel.compose import compose
from calico_kernel.config import load
from calico_kernel.hookspecs import Ipam
from calico_kernel.host import netns as namespaces
from calico_kernel.host.netlink import Netlink
from calico_kernel.model.keys import HandleQuery, ResourceQuery
from calico_kernel.testing.node import NODE, NodeRig

pytestmark = pytest.mark.node
COUNT = 16


@attrs.define
class Runtime:
    """A container runtime: calls the installed executable for containers 0..COUNT-1."""

    rig: NodeRig
    program: str
    conf: dict[str, Any]
    prefix: str

    def namespace(self, number: int) -> str:
        return f"{self.prefix}c{number}"

    def call(self, command: str, number: int, **more: Any) -> tuple[int, dict[str, Any]]:
        environment = {"CNI_COMMAND": command, "CNI_PATH": "/usr/lib/cni"}
        if command != "GC":
            environment |= {
                "CNI_CONTAINERID": f"container-{number}",
                "CNI_NETNS": namespaces.path_of(self.namespace(number)),
                "CNI_IFNAME": "eth0",
                "CNI_ARGS": f"K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-{number}",
            }
        given = json.dumps({**self.conf, **more}).encode()
        done = subprocess.run(
            [self.program], input=given, env=environment, capture_output=True, check=False, timeout=60
        )
        assert not done.stderr, done.stderr.decode()
        return done.returncode, json.loads(done.stdout or b"{}")

    def all(self, command: str) -> list[tuple[int, dict[str, Any]]]:
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda number: self.call(command, number), range(COUNT)))

    @contextlib.contextmanager
    def ipam(self) -> Iterator[Ipam]:
        composition = compose(load(str(self.rig.config)))
        yield composition.open_ipam()
        composition.close()

    def left_after_collection(self) -> dict[str, Any]:
        """A death between its two writes leaves a handle that counts too much. It holds no address, and collecting
        takes it once it is old enough not to be an assignment under way."""
        deadline = time.monotonic() + 20
        while (left := self.left()) and time.monotonic() < deadline:
            with self.ipam() as ipam:
                ipam.collect(ipam.check())
            time.sleep(0.2)
        return left

    def left(self) -> dict[str, Any]:
        """What there is of containers: nothing once all are gone."""
        store = self.rig.store
        with Netlink() as nl:
            links = [link.name for link in nl.links(kind="veth")]
        endpoints = [record.key for record in store.list([ResourceQuery("WorkloadEndpoint")]).records]
        handles = [record.key for record in store.list([HandleQuery()]).records if "container" in str(record.key)]
        with self.ipam() as ipam:
            problems = [problem for problem in ipam.check() if "container" in str(problem)]
        found = {"links": links, "endpoints": endpoints, "handles": handles, "problems": problems}
        return {key: value for key, value in found.items() if value}


@pytest.fixture
def runtime(netns: str) -> Iterator[Runtime]:
    with NodeRig(workloads=0, policy_count=2) as rig:
        rig.start_agent()
        directory = rig.config.parent
        line = ["--bin-dir", f"{directory}/bin", "--net-dir", f"{directory}/net.d", "--no-portmap"]
        line += ["--agent-socket", f"{directory}/run/agent.sock", "--cni-version", "1.1.0"]
        assert calico(["-c", str(rig.config), "cni", "install", *line]) == 0
        listed = json.loads(Path(f"{directory}/net.d/10-calico.conflist").read_text())
        conf = {**listed["plugins"][0], "name": listed["name"], "cniVersion": listed["cniVersion"]}
        made = Runtime(rig, f"{directory}/bin/calico", conf, netns)
        for number in range(COUNT):
            namespaces.create(made.namespace(number))
        try:
            yield made
        finally:
            for number in range(COUNT):
                namespaces.delete(made.namespace(number))


def _kill_under(rig: NodeRig, work: Callable[[], Any], after_s: float) -> Any:
    """Run ``work`` and kill -9 the agent meanwhile."""
    assert rig.agent is not None
    with ThreadPoolExecutor(1) as pool:
        doing = pool.submit(work)
        time.sleep(after_s)
        os.kill(rig.agent.pid, signal.SIGKILL)
        rig.agent.wait()
        return doing.result()


def test_add_returns_with_policy_in_the_kernel_and_check_agrees(runtime: Runtime) -> None:
    answers = runtime.all("ADD")
    assert [status for status, _ in answers] == [0] * COUNT
    said = [said for _, said in answers]
    given = {ip["address"] for one in said for ip in one["ips"]}
    assert len(given) == COUNT
    saves = [f"iptables-{backend}-save" for backend in ("legacy", "nft")]
    rules = "".join(subprocess.run([save], check=True, capture_output=True, text=True).stdout for save in saves)
    assert [one["interfaces"][0]["name"] for one in said if one["interfaces"][0]["name"] not in rules] == []
    for number, one in enumerate(said):
        assert runtime.call("CHECK", number, prevResult=one) == (0, {})
    assert [status for status, _ in runtime.all("DEL")] == [0] * COUNT
    assert runtime.left() == {}


@pytest.mark.parametrize("seed", [1, 2])
def test_agent_killed_under_adds_then_retried_and_deleted_leaves_nothing(runtime: Runtime, seed: int) -> None:
    answers = _kill_under(runtime.rig, lambda: runtime.all("ADD"), random.Random(seed).uniform(0.05, 0.3))
    assert {said["code"] for status, said in answers if status} <= {11}
    runtime.rig.start_agent()
    again = runtime.all("ADD")
    assert [status for status, _ in again] == [0] * COUNT, again
    for (status, before), (_, after) in zip(answers, again, strict=True):
        assert status or before == after
    assert len({ip["address"] for _, said in again for ip in said["ips"]}) == COUNT
    assert [status for status, _ in runtime.all("DEL")] == [0] * COUNT
    assert runtime.left_after_collection() == {}


def test_agent_killed_under_adds_then_gc_leaves_nothing(runtime: Runtime) -> None:
    _kill_under(runtime.rig, lambda: runtime.all("ADD"), 0.15)
    runtime.rig.start_agent()
    status, said = runtime.call("GC", 0, **{"cni.dev/valid-attachments": []})
    assert (status, said) == (0, {})
    for number in range(COUNT):  # the runtime removes its sandboxes, and with them what was never recorded
        namespaces.delete(runtime.namespace(number))
    assert runtime.left_after_collection() == {}


def test_agent_killed_under_dels_then_deleted_again_leaves_nothing(runtime: Runtime) -> None:
    runtime.all("ADD")
    _kill_under(runtime.rig, lambda: runtime.all("DEL"), 0.1)
    runtime.rig.start_agent()
    assert [status for status, _ in runtime.all("DEL")] == [0] * COUNT
    assert runtime.left_after_collection() == {}


def test_endpoint_is_this_nodes(runtime: Runtime) -> None:
    assert runtime.call("ADD", 0)[0] == 0
    (record,) = runtime.rig.store.list([ResourceQuery("WorkloadEndpoint")]).records
    assert getattr(record.value, "spec").node == NODE  # noqa: B009 -- a record's value may be anything
    assert runtime.call("DEL", 0)[0] == 0
