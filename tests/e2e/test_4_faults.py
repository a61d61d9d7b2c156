"""What users and operators meet when something around us fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e import figures, workloads
from tests.e2e.cluster import Cluster, is_ready
from tests.e2e.ours import Network


@pytest.fixture(scope="module")
def place(cluster: Cluster, network: Network) -> Iterator[str]:
    cluster.apply(workloads.namespace("faults"), workloads.deployment("web", "faults", 4))
    cluster.running("faults", 4, app="web")
    yield "faults"
    cluster.delete("/api/v1/namespaces/faults")


def test_kubelet_restarted_leaves_pods_and_their_network_as_they_are(
    cluster: Cluster, network: Network, place: str
) -> None:
    def seen() -> dict[str, tuple[str, str]]:
        pods = cluster.running(place, 4, app="web")
        return {
            pod["metadata"]["uid"]: (pod["status"]["podIP"], pod["status"]["containerStatuses"][0]["containerID"])
            for pod in pods
        }

    before = seen()
    for node in cluster.nodes:
        node.restart_kubelet()
    cluster.apply(workloads.pod("late", place, "node1", {"app": "late"}))
    late = cluster.running(place, 1, app="late")[0]
    assert seen() == before
    assert all(workloads.fetches(cluster.netns_of(late), address) for address, _ in before.values())


def test_api_server_killed_changes_nothing_that_runs_and_all_goes_on_when_it_is_back(
    cluster: Cluster, network: Network, place: str
) -> None:
    pods = cluster.running(place, 4, app="web")
    cluster.apply(workloads.pod("near", place, "node1", {"app": "near"}), workloads.pod("far", place, "node2"))
    near = cluster.netns_of(cluster.running(place, 1, app="near")[0])
    cluster.wait("the other to run", lambda: is_ready(cluster.pod(place, "far")))
    far = cluster.netns_of(cluster.pod(place, "far"))
    only_near = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "only-near", "namespace": place},
        "spec": {
            "podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "near"}}}]}],
        },
    }

    def decided(now: list[dict[str, Any]]) -> bool:
        addresses = [pod["status"]["podIP"] for pod in now]
        return all(workloads.fetches(near, a) and not workloads.fetches(far, a, timeout_s=0.3) for a in addresses)

    cluster.apply(only_near)
    cluster.wait("the policy to hold", lambda: decided(pods))
    cluster.server.kill()
    for _ in range(5):
        assert decided(pods)
        time.sleep(1)
    with figures.timed("API server and etcd killed: from their restart until a new pod runs, with its policy"):
        with figures.timed("  of these, until the server is ready"):
            cluster.server.start()
        with figures.timed("  and then until both agents are"):
            for installed in network.nodes:
                installed.wait_ready()
        cluster.scale(place, "web", 6)
        pods = cluster.running(place, 6, app="web")
        cluster.wait("the policy to hold for all", lambda: decided(pods))
    cluster.delete_object(only_near)
    cluster.wait("the policy to be gone", lambda: all(workloads.fetches(far, p["status"]["podIP"]) for p in pods))
    cluster.scale(place, "web", 4)
    cluster.running(place, 4, app="web")


def test_rights_that_are_too_small_are_named_on_the_pod(cluster: Cluster, network: Network, place: str) -> None:
    with network.without_right("patch", "pods/status"):
        cluster.apply(workloads.pod("refused", place, "node2", {"app": "refused"}))
        message = cluster.wait(
            "an event that names verb and resource",
            lambda: _naming(cluster.events(place, "refused", "FailedCreatePodSandBox"), "patch", "pods/status"),
        )
        figures.note("what the user reads when a right is missing", message[message.index("plugin type") :][:250])
    cluster.running(place, 1, app="refused")


def _naming(messages: list[str], *words: str) -> str:
    return next((message for message in messages if all(word in message for word in words)), "")


def test_deleted_node_is_forgotten_its_addresses_can_be_collected_and_it_can_come_back(
    cluster: Cluster, network: Network, place: str
) -> None:
    """Nothing of ours collects by itself what a node held that is gone for good; an operator does, with calicoctl."""
    node, there = cluster.node("node2"), network.on("node2")
    gone = {pod["status"]["podIP"]: pod for pod in cluster.pods(place) if pod["spec"]["nodeName"] == "node2"}
    assert gone
    node.kill("kubelet")
    there.kill()
    cluster.delete("/api/v1/nodes/node2")
    cluster.wait("the tunnel to forget it", lambda: node.address not in network.on("node1").tunnel_entries())
    for pod in gone.values():  # the controller manager does the same, a minute later
        cluster.delete(f"/api/v1/namespaces/{place}/pods/{pod['metadata']['name']}", gracePeriodSeconds=0)
    cluster.wait("its addresses to be found", lambda: {p["subject"] for p in network.problems()} >= set(gone))
    network.collect()
    assert not set(gone) & network.in_use()

    there.start()  # before its Node exists again
    cluster.wait("the agent to say what it waits for", lambda: "node2 does not exist yet" in there.readiness())
    node.restart_kubelet()
    there.wait_ready()
    cluster.wait("the node to be Ready", lambda: "node2" in cluster.ready_nodes())
    cluster.wait("the tunnel to know it", lambda: node.address in network.on("node1").tunnel_entries())
    cluster.apply(workloads.pod("returned", place, "node2", {"app": "returned"}))
    returned = cluster.running(place, 1, app="returned")[0]
    others = [pod for pod in cluster.running(place, 4, app="web") if pod["spec"]["nodeName"] == "node1"]
    assert others
    cluster.wait(
        "packets to flow both ways",
        lambda: all(
            workloads.fetches(cluster.netns_of(returned), pod["status"]["podIP"])
            and workloads.fetches(cluster.netns_of(pod), returned["status"]["podIP"])
            for pod in others
        ),
    )
