"""calicoctl on the Kubernetes datastore: the flags that people know hold there, too."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from calico_datastore_kdd.testing import KubernetesServer, program
from calico_kernel.cli.session import Session
from calico_kernel.model.ipam import AssignRequest

V3 = "apiVersion: projectcalico.org/v3\n"


def policy(name: str, namespace: str = "shop", order: int = 10) -> str:
    return (
        f"{V3}kind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
        f"spec: {{order: {order}, selector: all(), ingress: [{{action: Allow}}]}}\n"
    )


POOL = f"{V3}kind: IPPool\nmetadata: {{name: blue}}\nspec: {{cidr: 10.65.0.0/24}}\n"
TIER = f"{V3}kind: Tier\nmetadata: {{name: security}}\nspec: {{order: 100}}\n"


@pytest.fixture
def on(server: KubernetesServer, config: Path) -> Iterator[KubernetesServer]:
    """``ctl`` works on the cluster, which has the namespaces shop and other and the node n1; all of Calico's goes."""
    config.write_text(f"node: n1\ndatastore: {{plugin: kdd, kubeconfig: {server.kubeconfig}}}\nipam: blocks\n")
    kubectl(server, "create", "namespace", "shop")
    kubectl(server, "create", "namespace", "other")
    kubectl(server, "create", "-f", "-", text="apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n")
    yield server
    plurals = [
        name
        for name in kubectl(server, "api-resources", "--api-group=crd.projectcalico.org", "-o", "name").split()
        if "clusterinformations" not in name
    ]
    kubectl(server, "delete", ",".join(plurals), "--all", "-A", "--wait=false")
    kubectl(server, "delete", "node", "n1")


def kubectl(server: KubernetesServer, *argv: str, text: str = "") -> str:
    command = [program("kubectl"), f"--kubeconfig={server.kubeconfig}", *argv]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False).stdout


@pytest.mark.usefixtures("on")
def test_resources_are_written_read_and_removed_with_every_flag(ctl: Any, tmp_path: Path) -> None:
    text = "---\n".join([TIER, policy("web"), policy("web", "other")])
    assert ctl("create", "-f", "-", text=text).out == "Successfully created 3 resource(s)\n"
    again = ctl("create", "-f", "-", text=text)
    assert again.status == 1 and "resource already exists" in again.err
    assert ctl("create", "--skip-exists", "-f", "-", text=text).status == 0
    (tmp_path / "d/below").mkdir(parents=True)
    (tmp_path / "d/a.yaml").write_text(policy("web", order=20))
    (tmp_path / "d/below/b.yaml").write_text(policy("db"))
    assert ctl("apply", "-f", str(tmp_path / "d")).status == 0
    assert "db" not in ctl("get", "np", "-n", "shop").out
    assert ctl("apply", "-f", str(tmp_path / "d"), "-R").status == 0
    assert ctl("get", "np", "-A", "-o", "name").out.split() == [
        "networkpolicy/other/web",
        "networkpolicy/shop/db",
        "networkpolicy/shop/web",
    ]
    assert ctl("get", "np", "-A", "-o", "ps").out.startswith("NAMESPACE   NAME   TIER")
    exported = json.loads(ctl("get", "np", "web", "-n", "shop", "-o", "json", "--export").out)
    assert exported["spec"]["order"] == 20
    assert not {"uid", "namespace", "resourceVersion", "creationTimestamp"} & {
        key for key, value in exported["metadata"].items() if value
    }
    assert ctl("replace", "-f", "-", text=policy("web", order=30)).status == 0
    assert ctl("patch", "np", "web", "-n", "shop", "-p", "{spec: {order: 40}}").status == 0
    assert ctl("label", "np", "web", "-n", "shop", "a=b").status == 0
    found = json.loads(ctl("get", "-f", "-", "-o", "json", text=policy("web")).out)
    assert (found["spec"]["order"], found["metadata"]["labels"]["a"]) == (40, "b")
    assert ctl("diff", "-f", "-", text=policy("web", order=40)).status == 1
    assert ctl("delete", "np", "web", "db", "-n", "shop").status == 0
    assert ctl("delete", "np", "web", "-n", "shop").status == 1
    assert ctl("delete", "np", "web", "-n", "shop", "--skip-not-exists").status == 0
    assert ctl("delete", "-f", "-", "-s", text=text).status == 0


@pytest.mark.usefixtures("on")
def test_addresses_are_shown_checked_split_and_released(ctl: Any, tmp_path: Path) -> None:
    assert ctl("apply", "-f", "-", text=POOL).status == 0
    session = Session(None)
    given = session.composition.open_ipam().assign(AssignRequest(handle="h1", node="n1", num_ipv4=2))
    session.close()
    first, second = (str(one.address) for one in given.addresses)
    assert "| IP Pool  | 10.65.0.0/24 |       256 |     2 (1%) |" in ctl("ipam", "show").out
    assert f"IP {first} is in use\nHandle ID: h1\n" in ctl("ipam", "show", "--ip", first).out
    assert ctl("ipam", "release", "--ip", second).status == 0
    assert ctl("datastore", "migrate", "lock").out == "Datastore locked.\n"
    assert ctl("ipam", "check", "-o", str(tmp_path / "r.json")).out.endswith("found 1 problems.\n")
    assert ctl("ipam", "split", "2", "--name", "blue").status == 0
    assert ctl("get", "ippools", "-o", "name").out.split() == ["ippool/split-blue-0", "ippool/split-blue-1"]
    released = ctl("ipam", "release", "--from-report", str(tmp_path / "r.json"), "-o", "json")
    assert released.status == 0 and json.loads(released.out)["released"] == [first]
    assert ctl("datastore", "migrate", "unlock").out == "Datastore unlocked.\n"
    assert ctl("ipam", "check").out.endswith("found 0 problems.\n")
    assert ctl("ipam", "configure", "--strictaffinity", "true").status == 0
    assert "| StrictAffinity               | true" in ctl("ipam", "show", "--show-configuration").out
    assert ctl("ipam", "configure", "--strictaffinity", "false").status == 0


def test_diagnostics_hold_the_cluster_and_what_calico_keeps_in_it(
    ctl: Any, on: KubernetesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tarfile

    from calico_kernel.cli import cluster

    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(cluster, "KUBERNETES", ("nodes",))
    monkeypatch.setattr(cluster.Kubectl, "_served", ["nodes", "ippools.crd.projectcalico.org"])  # each takes its time
    ctl("apply", "-f", "-", text=POOL)
    assert ctl("cluster", "diags", "--output-dir", str(tmp_path), "--max-parallelism", "2").status == 0
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {"resources/ippools.yaml", "resources/nodes.yaml", "kubernetes/nodes.yaml"} <= names
    assert "crd/ippools.crd.projectcalico.org.yaml" in names and "ipam/report.json" in names


@pytest.mark.usefixtures("on")
def test_version_and_poll_know_the_cluster(ctl: Any) -> None:
    ctl("apply", "-f", "-", text=TIER)
    assert "Cluster Version:" in ctl("version").out
