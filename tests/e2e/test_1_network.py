"""Pods on both nodes, and packets between them."""

from __future__ import annotations

from itertools import product

from calico_kernel.host.netlink import Netlink
from calico_kernel.host.netns import path_of
from tests.e2e import workloads
from tests.e2e.cluster import Cluster
from tests.e2e.ours import Network


def _tunnelled_packets(network: Network) -> int:
    count = 0
    for installed in network.nodes:
        with open(installed.node.path("/sys/class/net/vxlan.calico/statistics/tx_packets"), encoding="ascii") as file:
            count += int(file.read())
    return count


def test_pods_of_a_deployment_reach_each_other_within_and_across_nodes(cluster: Cluster, network: Network) -> None:
    cluster.apply(workloads.namespace("first"), workloads.deployment("web", "first", 4))
    pods = cluster.running("first", 4, app="web")
    assert sorted(pod["spec"]["nodeName"] for pod in pods) == ["node1", "node1", "node2", "node2"]
    before = _tunnelled_packets(network)
    for here, there in product(pods, pods):
        assert workloads.fetches(cluster.netns_of(here), there["status"]["podIP"]), (here, there)
    assert _tunnelled_packets(network) > before, "packets between nodes take the tunnel"


def test_node_reaches_its_own_pods_and_pods_reach_the_api_server(cluster: Cluster, network: Network) -> None:
    for pod in cluster.running("first", 4, app="web"):
        assert workloads.fetches(path_of(pod["spec"]["nodeName"]), pod["status"]["podIP"])
        assert workloads.connects(cluster.netns_of(pod), cluster.server.address, cluster.server.port)


def test_host_port_leads_to_its_pod_and_is_gone_with_it(cluster: Cluster, network: Network) -> None:
    """``portmap`` stands after our plugin in the network configuration that is shipped."""
    node, port = cluster.node("node2"), 18080
    given = workloads.pod("published", "first", node.name, {"app": "published"})
    given["spec"]["containers"][0]["ports"][0]["hostPort"] = port
    cluster.apply(given)
    cluster.running("first", 1, app="published")
    here = "/proc/self/ns/net"  # the cluster's bridge, outside every node
    cluster.wait("the port to lead to the pod", lambda: workloads.fetches(here, node.address, port))
    cluster.delete("/api/v1/namespaces/first/pods/published")
    cluster.wait("the port to be closed", lambda: not workloads.fetches(here, node.address, port))


def test_calicoctl_shows_the_pods_as_workload_endpoints(cluster: Cluster, network: Network) -> None:
    shown = network.calicoctl("get", "workloadendpoints", "-n", "first", "-o", "wide")
    for pod in cluster.running("first", 4, app="web"):
        assert pod["metadata"]["name"] in shown and f"{pod['status']['podIP']}/32" in shown


def test_deleted_pods_leave_no_address_and_no_interface(cluster: Cluster, network: Network) -> None:
    cluster.delete("/api/v1/namespaces/first")
    cluster.wait("every pod of the namespace to be gone", lambda: not cluster.pods("first"))
    cluster.wait("every address to be free", lambda: not network.in_use())
    assert network.problems() == []
    for installed in network.nodes:
        with Netlink(installed.node.name) as nl:
            assert [link.name for link in nl.links() if link.name.startswith("cali")] == []
