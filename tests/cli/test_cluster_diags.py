"""calicoctl cluster diags: from any datastore, and from a real API server by the real kubectl."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from calico_datastore_kdd.testing import KubernetesServer, program
from calico_kernel.cli import cluster
from calico_kernel.cli.cluster import Pod, chosen_pods, pods_of_calico

POOL = """
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: blue, annotations: {note: "password: hush"}}
spec: {cidr: 10.1.0.0/24}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: peer}
spec: {peerIP: 192.0.2.1, asNumber: 64512, password: {secretKeyRef: {name: bgp, key: p}}}
"""


def unpacked(directory: Path) -> dict[str, str]:
    (archive,) = directory.glob("calico-diagnostics-*.tar.gz")
    with tarfile.open(archive) as tar:
        members = [(member, tar.extractfile(member)) for member in tar]
        return {m.name.partition("/")[2]: opened.read().decode() for m, opened in members if opened is not None}


@pytest.fixture
def no_kubernetes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")


@pytest.mark.usefixtures("no_kubernetes")
def test_datastore_alone_gives_resources_addresses_and_versions(ctl: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    ctl("apply", "-f", "-", text=POOL)
    ran = ctl("cluster", "diags", "--output-dir", str(tmp_path / "out"))
    assert ran.status == 0 and "Diagnostic bundle created at " in ran.out
    found = unpacked(tmp_path / "out")
    assert "name: blue" in found["resources/ippools.yaml"] and "hush" not in "".join(found.values())
    assert "name: bgp" in found["resources/bgppeers.yaml"]
    assert json.loads(found["ipam/report.json"])["pools"][0]["cidr"] == "10.1.0.0/24"
    assert json.loads(found["cluster/versions.json"])["clusterGUID"]
    assert "version -o yaml: " in found["LEFT_OUT.txt"]


@pytest.mark.usefixtures("no_kubernetes")
def test_datastore_that_is_away_is_noted_and_the_rest_collected(ctl: Any, config: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    config.write_text("datastore: {plugin: sqlite, path: /proc/none/x.db}\n")
    assert ctl("cluster", "diags", "--output-dir", str(tmp_path / "out")).status == 0
    found = unpacked(tmp_path / "out")
    assert "the datastore: " in found["LEFT_OUT.txt"] and "cluster/versions.json" in found


@pytest.mark.usefixtures("no_kubernetes")
def test_many_of_a_kind_are_written_one_a_line(ctl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(cluster, "MOST_AS_YAML", 2)
    ctl("cluster", "diags", "--output-dir", str(tmp_path / "out"))
    ctl("apply", "-f", "-", text=POOL)
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    ctl("cluster", "diags", "--output-dir", str(tmp_path / "out"))
    lines = unpacked(tmp_path / "out")["resources/tiers.jsonl"].splitlines()
    assert {json.loads(line)["metadata"]["name"] for line in lines} >= {"default", "kube-admin"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--since", "1d"], "invalid duration for since flag (try 10s, 5m, or 1h): 1d"),
        (["--max-logs", "-1"], "negative value for max-logs flag"),
        (["--max-parallelism", "0"], "at least 1"),
        (["--output-dir", "/nowhere"], "no directory /nowhere"),
    ],
)
def test_wrong_flag_is_refused_before_anything_is_collected(ctl: Any, given: list[str], said: str) -> None:
    ran = ctl("cluster", "diags", *given)
    assert ran.status == 1 and said in ran.err and ran.out == ""


# ── pods ──


def pod(name: str, node: str, component: str = "c") -> Pod:
    return Pod("calico-system", name, node, component, ["calico-node"], [])


def test_of_each_component_the_pods_of_nodes_in_focus_come_first() -> None:
    pods = [pod("a", "n1"), pod("b", "n2"), pod("c", "n3"), pod("x", "n1", "other")]
    assert [one.name for one in chosen_pods(pods, ["n3", "n9"], 2)] == ["c", "a", "x"]
    assert chosen_pods(pods, [], 0) == []


def test_pods_are_known_by_namespace_or_name_and_restarts_by_their_states() -> None:
    def item(namespace: str, name: str, **status: Any) -> dict[str, Any]:
        metadata = {"namespace": namespace, "name": name, "ownerReferences": [{"name": "calico-node"}]}
        return {"metadata": metadata, "spec": {"nodeName": "n1", "containers": [{"name": "c"}]}, "status": status}

    states = [{"name": "c", "restartCount": 1}, {"name": "d", "lastState": {"terminated": {}}}, {"name": "e"}]
    ended = [{"name": "i", "lastState": {"terminated": {"exitCode": 1}}}]
    items = [
        item("calico-system", "typha-x", containerStatuses=states),
        item("kube-system", "calico-node-y", initContainerStatuses=ended),
        item("shop", "web"),
        {},
    ]
    found = list(pods_of_calico({"items": items}))
    assert [(one.name, one.component, one.restarted) for one in found] == [
        ("typha-x", "calico-system/calico-node", ["c"]),
        ("calico-node-y", "kube-system/calico-node", ["i"]),
    ]


# ── kubectl ──


def test_kubernetes_gives_objects_events_and_descriptions_of_pods(
    ctl: Any, tmp_path: Path, server: KubernetesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubectl = [program("kubectl"), f"--kubeconfig={server.kubeconfig}"]
    meta = "metadata: {name: calico-node-x, namespace: calico-system}"
    subprocess.run([*kubectl, "create", "namespace", "calico-system"], check=True, capture_output=True)
    subprocess.run(
        [*kubectl, "create", "configmap", "c", "-n", "calico-system", "--from-literal=etcd_password=hush"],
        check=True,
        capture_output=True,
    )
    made = (
        f"apiVersion: v1\nkind: Pod\n{meta}\n"
        "spec: {nodeName: n1, automountServiceAccountToken: false, containers: [{name: calico-node, image: x}]}\n"
    )
    subprocess.run([*kubectl, "create", "serviceaccount", "default", "-n", "calico-system"], check=False)
    subprocess.run([*kubectl, "create", "-f", "-"], input=made, text=True, check=True, capture_output=True)
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    monkeypatch.setenv("PATH", f"{Path(kubectl[0]).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(cluster, "KUBERNETES", ("pods", "configmaps", "nosuchkind"))
    monkeypatch.setattr(cluster, "IN_NODE", (("ip-link.txt", "ip link"),))
    (tmp_path / "out").mkdir()
    ran = ctl("cluster", "diags", "--output-dir", str(tmp_path / "out"), "--since=1h", "--max-parallelism=2")
    assert ran.status == 0
    found = unpacked(tmp_path / "out")
    assert "name: calico-node-x" in found["kubernetes/pods.yaml"] and "calico-node-x" in found["kubernetes/pods.txt"]
    assert "hush" not in "".join(found.values()) and "etcd_password" in found["kubernetes/configmaps.yaml"]
    assert "Node:" in found["nodes/n1/calico-system/calico-node-x.txt"] and "nosuchkind" not in found["LEFT_OUT.txt"]
    for word in ("logs --since=1h -n calico-system calico-node-x", "-c calico-node -- ip link"):  # no kubelet answers
        assert word in found["LEFT_OUT.txt"]
