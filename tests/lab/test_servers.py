"""What a lab's servers are started with."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from calico_kernel.host import programs
from calico_kernel.lab import cluster, servers, topology
from calico_kernel.lab.topology import Namespace, Workload


def test_signing_key_is_a_private_key_of_p256_and_new_each_time() -> None:
    pem = servers.signing_key()
    lines = pem.strip().splitlines()
    assert (lines[0], lines[-1]) == ("-----BEGIN EC PRIVATE KEY-----", "-----END EC PRIVATE KEY-----")
    der = base64.b64decode("".join(lines[1:-1]))
    assert der[0] == 0x30 and der[1] == len(der) - 2
    assert der[2:7] == bytes.fromhex("0201010420")
    assert servers.signing_key() != pem


def test_programs_of_kubernetes_are_those_of_kubebuilder_assets_else_the_newest_that_were_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def program(directory: str) -> Path:
        path = tmp_path / directory / "kube-apiserver"
        path.parent.mkdir(parents=True)
        path.touch(mode=0o755)
        return path

    given = program("assets")
    program("calico-kernel/kubernetes-v1.new")
    built = program("calico-kernel/kubernetes-v1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    assert programs.kubernetes_program("kube-apiserver") == str(built)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(given.parent))
    assert programs.kubernetes_program("kube-apiserver") == str(given)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert programs.kubernetes_program("kube-apiserver") is None


def test_node_is_told_the_plugin_and_where_its_server_is() -> None:
    plugins = {}
    for datastore in topology.DATASTORES:
        plugins[datastore] = servers.settings(topology.with_datastore(topology.demo(), datastore))
    assert plugins == {
        "sqlite": {"plugin": "sqlite", "path": servers.SQLITE_PATH},
        "etcd": {"plugin": "etcd", "endpoints": "http://192.0.2.250:2379"},
        "kubernetes": {"plugin": "kdd", "kubeconfig": servers.KUBECONFIG},
    }


def test_namespace_has_the_account_that_a_controller_would_have_made() -> None:
    made = cluster.account_documents(Namespace(name="shop", labels={"a": "b"}, service_accounts={"web": {"c": "d"}}))
    assert [(each["kind"], each["metadata"]["name"], each["metadata"]["labels"]) for each in made] == [
        ("Namespace", "shop", {"a": "b"}),
        ("ServiceAccount", "default", {}),
        ("ServiceAccount", "web", {"c": "d"}),
    ]


def test_pod_is_bound_to_its_node_with_ports_and_account() -> None:
    port = {"name": "http", "protocol": "TCP", "containerPort": 80}
    spec = cluster.pod(Workload(namespace="shop", name="web", node="node1", ports=(port,)))["spec"]
    assert (spec["nodeName"], spec["serviceAccountName"], spec["containers"][0]["ports"]) == (
        "node1",
        "default",
        [port],
    )


@pytest.mark.parametrize("kind", ["Profile", "WorkloadEndpoint"])
def test_what_a_cluster_makes_itself_is_not_applicable_with_the_reason(kind: str) -> None:
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    assert cluster.unsuited([policy, {"apiVersion": "v1", "kind": "Pod"}]) == ""
    assert "here" in cluster.unsuited([policy, {"apiVersion": "projectcalico.org/v3", "kind": kind}])
