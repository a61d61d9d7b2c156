"""calicoctl --context: which cluster of a kubeconfig is meant."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from calico_datastore_kdd.testing import KubernetesServer, program


@pytest.fixture
def two(server: KubernetesServer, tmp_path: Path) -> Path:
    """A kubeconfig whose current context is a cluster that does not answer; ``good`` is one that does."""
    text = server.kubeconfig.read_text()
    path = tmp_path / "kubeconfig"
    path.write_text(text)

    def config(*argv: str) -> str:
        done = [program("kubectl"), "config", f"--kubeconfig={path}", *argv]
        return subprocess.run(done, check=True, capture_output=True, text=True).stdout.strip()

    current = config("current-context")
    user = json.loads(config("view", "--raw", "-o", "json"))["contexts"][0]["context"]["user"]
    config("rename-context", current, "good")
    config("set-cluster", "away", "--server=https://127.0.0.1:1", "--insecure-skip-tls-verify=true")
    config("set-context", "bad", "--cluster=away", f"--user={user}")
    config("use-context", "bad")
    return path


def shown(ctl: Any, *argv: str) -> dict[str, dict[str, str]]:
    return {row["key"]: row for row in json.loads(ctl(*argv, "config", "show", "-o", "json").out)}


def test_context_is_that_of_the_option_wherever_the_datastore_is_named(
    ctl: Any, config: Path, tmp_path: Path, two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = f"node: n1\ndatastore: {{plugin: kdd, kubeconfig: {two}, context: bad}}\n"
    theirs = (
        "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\n"
        f"spec: {{datastoreType: kubernetes, kubeconfig: {two}, k8sCurrentContext: bad}}\n"
    )
    for text in (ours, theirs):
        config.write_text(text)
        assert shown(ctl)["datastore.context"]["value"] == "bad"
        row = shown(ctl, "--context", "good")["datastore.context"]
        assert (row["value"], row["origin"]) == ("good", "option --context")
        assert ctl("--context=good", "get", "nodes").status == 0
        assert ctl("get", "nodes", "--context", "good").status == 0
    monkeypatch.delenv("CALICO_CONFIG")
    monkeypatch.setenv("DATASTORE_TYPE", "kubernetes")
    monkeypatch.setenv("KUBECONFIG", str(two))
    monkeypatch.setenv("K8S_CURRENT_CONTEXT", "bad")
    assert ctl("--context=good", "get", "nodes").status == 0


def test_context_that_does_not_exist_is_named(ctl: Any, config: Path, two: Path) -> None:
    config.write_text(f"node: n1\ndatastore: {{plugin: kdd, kubeconfig: {two}}}\n")
    ran = ctl("--context", "lost", "get", "nodes")
    assert ran.status == 1 and "lost" in ran.err


def test_other_datastores_have_no_use_for_a_context(ctl: Any) -> None:
    assert ctl("--context", "good", "get", "nodes").status == 0
