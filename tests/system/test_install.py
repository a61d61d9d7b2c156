"""What ``install/`` holds: a real API server takes it, the tools read it, and it says the same as the code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from calico_cni import install as cni_install
from calico_datastore_kdd.testing import KubernetesServer, program
from calico_kernel.config import AgentSettings

ROOT = Path(__file__).resolve().parents[2]
INSTALL = ROOT / "install"
KUBERNETES = INSTALL / "kubernetes"
OVERLAYS = ("kdd", "kdd-native", "etcd")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesServer]:
    """As nodes' clusters are: pods may be privileged where their namespace allows it."""
    server = KubernetesServer(tmp_path_factory.mktemp("install"), arguments=("--allow-privileged=true",))
    server.start()
    yield server
    server.kill()


def kubectl(server: KubernetesServer, *arguments: str) -> str:
    command = [program("kubectl"), "--kubeconfig", str(server.kubeconfig), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rendered(overlay: str) -> list[dict[str, Any]]:
    command = [program("kubectl"), "kustomize", str(KUBERNETES / "overlays" / overlay)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [document for document in yaml.safe_load_all(text) if document]


def one(documents: list[dict[str, Any]], kind: str, name: str = "calico-node") -> dict[str, Any]:
    (found,) = [each for each in documents if each["kind"] == kind and each["metadata"]["name"].startswith(name)]
    return found


def test_definitions_are_those_that_calicoctl_writes() -> None:
    command = [sys.executable, "-m", "calico_kernel.cli.calicoctl", "crds"]
    environment = {name: value for name, value in os.environ.items() if name != "CALICO_CONFIG"}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert (KUBERNETES / "crds" / "crds.yaml").read_text() == said, "run: make manifests"


def test_everything_for_the_kubernetes_datastore_is_accepted_and_applying_again_changes_nothing(
    cluster: KubernetesServer,
) -> None:
    overlay = str(KUBERNETES / "overlays" / "kdd")
    first = kubectl(cluster, "apply", "--server-side", "-k", overlay)
    assert first.count("serverside-applied") == len(rendered("kdd"))
    diff = subprocess.run(
        [program("kubectl"), "--kubeconfig", str(cluster.kubeconfig), "diff", "--server-side", "-k", overlay],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (diff.returncode, diff.stdout) == (0, "")


def test_everything_for_etcd_is_accepted(cluster: KubernetesServer) -> None:
    kubectl(cluster, "apply", "-f", str(KUBERNETES / "base" / "namespace.yaml"))
    said = kubectl(
        cluster, "apply", "--server-side", "--force-conflicts", "--dry-run=server", "-k", f"{KUBERNETES}/overlays/etcd"
    )
    assert said.count("serverside-applied") == 4


def test_agent_on_etcd_has_no_rights_and_no_token_in_kubernetes() -> None:
    documents = rendered("etcd")
    assert {each["kind"] for each in documents} == {"Namespace", "ServiceAccount", "ConfigMap", "DaemonSet"}
    assert one(documents, "ServiceAccount")["automountServiceAccountToken"] is False
    assert one(documents, "DaemonSet")["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_configuration_of_the_nodes_is_read_without_complaint(overlay: str, tmp_path: Path) -> None:
    data = one(rendered(overlay), "ConfigMap", "calico-config")["data"]
    (tmp_path / "calico.yaml").write_text(data["calico.yaml"])
    checked = subprocess.run(
        [sys.executable, "-m", "calico_kernel.cli.calico", "config", "check", "-c", str(tmp_path / "calico.yaml")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CALICO_NODE": "worker-1"},
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("overlay", "options"), [("kdd", ["--kubernetes"]), ("kdd-native", ["--kubernetes"]), ("etcd", [])]
)
def test_network_configuration_is_what_calico_cni_install_writes(overlay: str, options: list[str]) -> None:
    parser = ArgumentParser()
    cni_install.configure(parser)
    usual = cni_install.configuration(parser.parse_args(["install", *options]))
    shipped = one(rendered(overlay), "ConfigMap", "calico-config")["data"]["10-calico.conflist"]
    assert json.loads(shipped) == usual


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_of_the_agent_run_and_ask_what_the_agent_serves(overlay: str) -> None:
    documents = rendered(overlay)
    spec = one(documents, "DaemonSet")["spec"]["template"]["spec"]
    (agent,), (installer,) = spec["containers"], spec["initContainers"]
    settings = AgentSettings()
    assert agent["args"] == ["node"]
    for probe, path in (("livenessProbe", "/liveness"), ("readinessProbe", "/readiness")):
        asked = agent[probe]["httpGet"]
        assert (asked["host"], asked["port"], asked["path"]) == (settings.health_host, settings.health_port, path)
    assert {settings.run_dir, settings.state_dir} <= {mount["mountPath"] for mount in agent["volumeMounts"]}
    hashed = one(documents, "ConfigMap", "calico-config")["metadata"]["name"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["config"]["configMap"]["name"] == hashed
    from_map = [each["valueFrom"]["configMapKeyRef"]["name"] for each in installer["env"] if "valueFrom" in each]
    assert from_map == [hashed]
    for container in (agent, installer):
        assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)


def test_no_file_names_a_registry() -> None:
    texts = {path: path.read_text() for path in INSTALL.rglob("*") if path.is_file()}
    assert len(texts) >= 14
    for path, text in texts.items():
        for image in re.findall(r"^\s*(?:image:|FROM|newName:|ARG BASE=)\s*(\S+)", text, re.MULTILINE):
            assert "/" not in image, (path, image)
