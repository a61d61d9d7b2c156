"""Many pods come and go, and the agent dies meanwhile."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e import figures, workloads
from tests.e2e.cluster import Cluster, is_ready
from tests.e2e.ours import Network

MANY = 50


@pytest.fixture
def crowd(cluster: Cluster, network: Network) -> Iterator[str]:
    """A namespace that is empty again at the end, with every address given back."""
    cluster.apply(workloads.namespace("crowd"))
    yield "crowd"
    cluster.delete("/api/v1/namespaces/crowd")
    cluster.wait("every pod of the namespace to be gone", lambda: not cluster.pods("crowd"), 120)
    cluster.wait("every address to be free", lambda: not network.in_use())
    cluster.wait("the namespace to be gone", lambda: not cluster.exists("/api/v1/namespaces/crowd"))
    assert network.problems() == []


def addresses(pods: list[dict[str, Any]]) -> set[str]:
    return {pod["status"]["podIP"] for pod in pods}


def test_fifty_pods_come_and_go_and_give_back_every_address(cluster: Cluster, network: Network, crowd: str) -> None:
    cluster.apply(workloads.deployment("web", crowd, 2))
    cluster.running(crowd, 2, app="web")
    with network.measured(f"scaled from 2 to {MANY} pods at once, all Running"):
        cluster.scale(crowd, "web", MANY)
        pods = cluster.running(crowd, MANY, timeout_s=180, app="web")
    assert len(addresses(pods)) == MANY
    assert network.in_use() == addresses(pods)
    first, *others = pods
    assert all(workloads.fetches(cluster.netns_of(first), pod["status"]["podIP"]) for pod in others)

    with figures.timed(f"scaled from {MANY} to 2 pods, all gone"):
        cluster.scale(crowd, "web", 2)
        cluster.wait("pods to be gone", lambda: len(cluster.pods(crowd)) == 2, 120)
    left = cluster.running(crowd, 2, app="web")
    cluster.wait("their addresses to be free", lambda: network.in_use() == addresses(left))
    assert network.problems() == []


def test_pods_start_at_a_steady_rate(cluster: Cluster, network: Network, crowd: str) -> None:
    """Measured, not asserted: the whole cluster shares this machine's processors, and sets the pace."""
    count, per_s = 24, 3
    with network.measured(f"{count} pods, {per_s} a second"):
        started_s = time.monotonic()
        for number in range(count):
            node = cluster.nodes[number % len(cluster.nodes)].name
            cluster.apply(workloads.pod(f"steady-{number}", crowd, node, {"app": "steady"}))
            time.sleep(max(0.0, started_s + (number + 1) / per_s - time.monotonic()))
        cluster.running(crowd, count, app="steady")


def test_cni_alone_at_ten_pods_a_second(cluster: Cluster, network: Network, crowd: str) -> None:
    """Our share by itself: the test is the container runtime, for Pods that no kubelet starts."""
    count, per_s, node = 80, 10, cluster.node("node1")
    listed = json.loads(node.path("/etc/cni/net.d/10-calico.conflist").read_text())
    conf = json.dumps({**listed["plugins"][0], "name": listed["name"], "cniVersion": listed["cniVersion"]})
    node.kill("kubelet")
    try:
        for number in range(count):
            cluster.apply(bound(workloads.pod(f"bare-{number}", crowd, node.name), node.name))
            node.run("ip", "netns", "add", f"bare-{number}")

        def call(command: str, number: int) -> float:
            variables = {
                "CNI_COMMAND": command,
                "CNI_CONTAINERID": f"bare-{number}",
                "CNI_NETNS": f"/run/netns/bare-{number}",
                "CNI_IFNAME": "eth0",
                "CNI_PATH": "/opt/cni/bin",
                "CNI_ARGS": f"K8S_POD_NAMESPACE={crowd};K8S_POD_NAME=bare-{number}",
            }
            started_s = time.monotonic()
            node.run("env", *(f"{key}={text}" for key, text in variables.items()), "/opt/cni/bin/calico", stdin=conf)
            return (time.monotonic() - started_s) * 1000

        with ThreadPoolExecutor(32) as pool:
            started_s, adding = time.monotonic(), []
            for number in range(count):
                time.sleep(max(0.0, started_s + number / per_s - time.monotonic()))
                adding.append(pool.submit(call, "ADD", number))
            took_ms = [one.result() for one in adding]
            figures.note_spread(f"CNI alone, {per_s} pods a second: ADD, with the start of its executable", took_ms)
            assert len(network.in_use()) == count
            list(pool.map(lambda number: call("DEL", number), range(count)))
        assert network.in_use() == set()
    finally:
        for number in range(count):
            cluster.delete(f"/api/v1/namespaces/{crowd}/pods/bare-{number}", gracePeriodSeconds=0)
            node.run("ip", "netns", "delete", f"bare-{number}", check=False)
        node.restart_kubelet()


def bound(pod: dict[str, Any], node: str) -> dict[str, Any]:
    return {**pod, "spec": {**pod["spec"], "nodeName": node}}


class Intruder:
    """Tries to reach every pod of an app, all the time; remembers where it got through."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, app: str) -> None:
        self._cluster, self._namespace, self._app = cluster, namespace, app
        self._here = cluster.netns_of(cluster.pod(namespace, name))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.tried: set[str] = set()
        self.got_in: list[str] = []

    def __enter__(self) -> Intruder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            for pod in self._cluster.pods(self._namespace, app=self._app):
                address = pod["status"].get("podIP")
                if address and not self._ended.is_set():
                    self.tried.add(address)
                    if workloads.fetches(self._here, address, timeout_s=0.1):
                        self.got_in.append(f"{pod['metadata']['name']} on {pod['spec']['nodeName']}")


def test_agent_killed_while_pods_come_and_go_loses_none_and_opens_nothing(
    cluster: Cluster, network: Network, crowd: str
) -> None:
    agent = network.on("node1")
    only_friends = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "only-friends", "namespace": crowd},
        "spec": {
            "podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}],
        },
    }
    cluster.apply(only_friends, workloads.deployment("web", crowd, 4))
    for name in ("friend", "stranger"):
        cluster.apply(workloads.pod(name, crowd, "node2", {"app": name}))
    first = cluster.running(crowd, 4, app="web")
    friend = cluster.netns_of(cluster.running(crowd, 1, app="friend")[0])
    cluster.running(crowd, 1, app="stranger")

    def friend_reaches(pods: list[dict[str, Any]]) -> bool:
        return all(workloads.fetches(friend, pod["status"]["podIP"]) for pod in pods)

    cluster.wait("a friend to get through", lambda: friend_reaches(first))
    with Intruder(cluster, crowd, "stranger", "web") as intruder:
        cluster.scale(crowd, "web", 10)
        cluster.wait("some of them to run", lambda: sum(map(is_ready, cluster.pods(crowd, app="web"))) >= 6)
        agent.kill()
        cluster.scale(crowd, "web", 16)
        assert friend_reaches(first), "what was there goes on"
        said = cluster.wait("an event that says why pods do not start", lambda: _told(cluster, crowd))
        assert "try again later" in said
        figures.note("what the user reads without an agent", said[said.index("plugin type") :])
        victim = next(pod for pod in first if pod["spec"]["nodeName"] == "node1")["metadata"]["name"]
        cluster.delete(f"/api/v1/namespaces/{crowd}/pods/{victim}")
        with figures.timed("agent killed: from its restart until all 16 pods run"):
            agent.start()
            agent.wait_ready()
            pods = cluster.running(crowd, 16, timeout_s=120, app="web")
        cluster.wait("a friend to get through to all", lambda: friend_reaches(pods))
    assert intruder.got_in == []
    assert intruder.tried >= addresses(first)


def _told(cluster: Cluster, namespace: str) -> str:
    """What an event of any pod says of an agent that is away; "" when there is none."""
    names = [pod["metadata"]["name"] for pod in cluster.pods(namespace)]
    said = [message for name in names for message in cluster.events(namespace, name, "FailedCreatePodSandBox")]
    return next((message for message in said if "the node agent does not answer" in message), "")
