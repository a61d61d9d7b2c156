"""calicoctl and calicoq on what Calico stored in a real API server: the tables are those that Calico wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calico_datastore_kdd.collection import CRD_GROUP
from calico_datastore_kdd.mapping import open_mapping
from calico_datastore_kdd.testing import KubernetesServer
from calico_kernel.cli import calicoctl, calicoq

STORED = Path(__file__).parent / "data" / "calico-kdd.jsonl"
TABLES = Path(__file__).parents[3] / "tests" / "data" / "calico-cli"
ELSEWHERE = {"clusterinformation", "node", "profile", "workloadendpoint"}
"""Of its own identity, or made from objects of Kubernetes."""
FILES = sorted(path for path in TABLES.glob("*.wide.txt") if path.name.split(".")[0] not in ELSEWHERE)
OF_THE_SERVER = ("uid", "resourceVersion", "creationTimestamp", "generation")


@pytest.fixture
def stored(empty: KubernetesServer, tmp_path: Path) -> Path:
    """A configuration for a server with Calico's custom resources in it."""
    group = f"/apis/{CRD_GROUP}"
    collections = {c.plural: c for c in open_mapping(CRD_GROUP).every_collection() if c.path == group}
    kinds = {item["kind"]: item["name"] for item in empty.request("GET", group)["resources"] if "/" not in item["name"]}
    for line in STORED.read_text().splitlines():
        document: dict[str, Any] = json.loads(line)
        if document["apiVersion"] != CRD_GROUP:
            continue
        meta = document["metadata"]
        document["metadata"] = {key: value for key, value in meta.items() if key not in OF_THE_SERVER}
        empty.request("POST", collections[kinds[document["kind"]]].url(meta.get("namespace")), document)
    path = tmp_path / "calico.yaml"
    path.write_text(f"datastore: {{plugin: kdd, kubeconfig: {empty.kubeconfig}}}\n")
    return path


Run = Callable[..., str]


@pytest.fixture
def run(stored: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(program: Any, *argv: str) -> str:
        capsys.readouterr()
        status = program.main([*argv, "-c", str(stored)])
        said = capsys.readouterr()
        assert (status, said.err) == (0, "")
        return said.out

    return run


def test_tables_are_those_that_calico_writes(run: Run) -> None:
    assert len(FILES) >= 13
    for path in FILES:
        kind, output, _ = path.name.split(".")
        expected = path.read_text()
        namespaced = expected.startswith("NAMESPACE")
        if kind == "tier":  # written as plain numbers
            expected = re.sub(r" +(?=\n)", "", expected.replace("1e+06", "1000000").replace("1e+07", "10000000"))
        written = run(calicoctl, "get", kind, "-o", output, *(["-n", "shop"] if namespaced else []))
        if kind == "tier":
            written = re.sub(r" +(?=\n)", "", written)
        assert written == expected, path.name


def test_query_is_answered_from_the_same_objects(run: Run) -> None:
    assert run(calicoq, "policy", "host-untracked", "-r").startswith(
        'Policy "host-untracked" applies to these endpoints:\n  Host endpoint rack1-host1/rack1-host1-eth0; selector'
    )
    assert "  Global network set feed\n" in run(calicoq, "eval", "has(threat) || has(feed) || all()")


def test_diff_says_what_belongs_to_kubernetes(
    stored: Path, empty: KubernetesServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty.request("POST", "/api/v1/nodes", {"metadata": {"name": "of-kubernetes"}})
    file = tmp_path / "node.yaml"
    file.write_text("apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: of-kubernetes}\n")
    try:
        assert calicoctl.main(["diff", "-f", str(file), "-c", str(stored)]) == 1
        assert "Node(of-kubernetes) is made from Node of-kubernetes: what of it is not" in capsys.readouterr().err
    finally:
        empty.request("DELETE", "/api/v1/nodes/of-kubernetes")
