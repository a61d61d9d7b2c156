"""The cluster itself, before anything of ours is in it."""

from __future__ import annotations

import json

from tests.e2e import workloads
from tests.e2e.cluster import Cluster


def test_a_deployment_runs_on_both_nodes(cluster: Cluster) -> None:
    for number, node in enumerate(cluster.nodes, 1):
        ipam = {"type": "host-local", "subnet": f"10.9.{number}.0/24"}
        plugins = [{"type": "ptp", "ipMasq": False, "ipam": ipam}]
        conf = {"cniVersion": "0.4.0", "name": "plain", "plugins": plugins}
        node.write("/etc/cni/net.d/10-plain.conflist", json.dumps(conf))
    cluster.apply(workloads.namespace("shop"), workloads.deployment("web", "shop", 4))
    pods = cluster.running("shop", 4, app="web")
    assert {pod["spec"]["nodeName"] for pod in pods} == {"node1", "node2"}
    here, there = (next(p for p in pods if p["spec"]["nodeName"] == name) for name in ("node1", "node1"))
    assert workloads.fetches(cluster.netns_of(here), there["status"]["podIP"])
