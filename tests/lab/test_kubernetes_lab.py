"""A lab whose nodes keep their records in a Kubernetes API server of the lab's own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from calico_kernel.lab import topology
from calico_kernel.testing.lab import RunningLab, running

pytestmark = pytest.mark.node

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"

WRITTEN_BY_HAND = """# A profile of its own
apiVersion: projectcalico.org/v3
kind: Profile
metadata: {name: closed}
spec: {}
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[RunningLab]:
    with running(topology.with_datastore(topology.generated(2, 2), "kubernetes")) as started:
        yield started


TO_A_SERVICE = """# Egress to a service, whose backends its slice names
#
# probe: tcp/80 tcp/8080
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: database-1, namespace: shop, labels: {{kubernetes.io/service-name: database}}}}
addressType: IPv4
ports: [{{name: http, port: 80, protocol: TCP}}]
endpoints: [{{addresses: ["{address}"], conditions: {{ready: true}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: database, namespace: shop}}
spec: {{ports: [{{name: http, port: 80}}]}}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {{name: web-to-database, namespace: shop}}
spec:
  selector: app == 'web'
  types: [Egress]
  egress: [{{action: Allow, destination: {{services: {{name: database, namespace: shop}}}}}}]
"""


def kubectl(lab: RunningLab, *arguments: str) -> Any:
    return json.loads(lab.run("kubernetes", "kubectl", *arguments, "-o", "json"))


def recipes(lab: RunningLab, directory: Path, *more: str) -> Any:
    line = [sys.executable, "-m", "calico_kernel.cli.calico", "lab", "run", str(directory), "--name", lab.client.name]
    done = subprocess.run([*line, *more, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_workloads_are_pods_of_the_cluster_with_the_addresses_that_they_got(lab: RunningLab) -> None:
    assert '"plugin": "kdd"' in lab.run("node1", "cat", "/run/calico/calico.yaml")
    pods = {
        f"{each['metadata']['namespace']}/{each['metadata']['name']}": each
        for each in kubectl(lab, "get", "pods", "--all-namespaces")["items"]
    }
    assert sorted(pods) == sorted(each.id for each in lab.topology.workloads)
    for workload in lab.topology.workloads:
        pod = pods[workload.id]
        assert pod["spec"]["nodeName"] == workload.node
        assert [each["ip"] for each in pod["status"]["podIPs"]] == [
            lab.address(workload.id, version=version) for version in (4, 6)
        ]
    endpoints = json.loads(lab.calicoctl("get", "workloadendpoints", "--all-namespaces", "-o", "json"))["items"]
    assert sorted(f"{one['metadata']['namespace']}/{one['spec']['pod']}" for one in endpoints) == sorted(pods)


def test_recipe_agrees_with_policies_that_the_clusters_server_holds(lab: RunningLab) -> None:
    report = recipes(lab, RECIPES, "--only", "07-", "--only", "25-")
    assert (report["cells"], report["differ"]) == (720, 0)
    assert all(each["changed"] for each in report["scenarios"])
    assert kubectl(lab, "get", "networkpolicies", "--all-namespaces")["items"] == []


def test_services_and_slices_of_the_cluster_are_what_policies_refer_to(lab: RunningLab, tmp_path: Path) -> None:
    (tmp_path / "to-a-service.yaml").write_text(TO_A_SERVICE.format(address=lab.address("shop/db")))
    (scenario,) = recipes(lab, tmp_path)["scenarios"]
    assert scenario["differ"] == 0
    assert scenario["changed"] == 9 * 2 * 2 - 1  # all that shop/web sends, but TCP 80 over IPv4 to shop/db


def test_scenario_that_a_cluster_cannot_hold_is_named_with_the_reason(lab: RunningLab, tmp_path: Path) -> None:
    (tmp_path / "by-hand.yaml").write_text(WRITTEN_BY_HAND)
    report = recipes(lab, tmp_path)
    assert report["cells"] == 0
    assert "Namespaces and ServiceAccounts" in report["scenarios"][0]["not_applicable"]


def test_namespace_that_a_scenario_relabels_is_afterwards_as_before(lab: RunningLab) -> None:
    before = kubectl(lab, "get", "namespace", "shop")["metadata"]["labels"]
    manifest = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: nobody}}\n"
    lab.apply(manifest)
    assert kubectl(lab, "get", "namespace", "shop")["metadata"]["labels"]["team"] == "nobody"
    lab.delete(manifest)
    assert kubectl(lab, "get", "namespace", "shop")["metadata"]["labels"] == before


def test_workload_that_comes_and_goes_leaves_no_pod_and_no_address(lab: RunningLab) -> None:
    workload = {"namespace": "shop", "name": "late", "node": "node2", "labels": {"app": "late"}}
    lab.client.ask("add_workload", workload=workload)
    assert lab.settles([("shop/web", "shop/late", "tcp/80", True)]) == []
    address = lab.address("shop/late")
    lab.client.ask("remove_workload", workload="shop/late")
    names = [each["metadata"]["name"] for each in kubectl(lab, "get", "pods", "-n", "shop")["items"]]
    assert "late" not in names
    assert "is not assigned" in lab.calicoctl("ipam", "show", "--ip", address)


def test_server_that_is_killed_is_started_again_with_what_it_held(lab: RunningLab) -> None:
    before = lab.agent("kubernetes")
    lab.agent("kubernetes", "kill")
    lab.agent("kubernetes", "wait")
    after = lab.agent("kubernetes")
    assert after["starts"] > before["starts"]
    assert after["pid"] != before["pid"]
    assert len(kubectl(lab, "get", "nodes")["items"]) == 2
