"""calicoctl explain: from the datastore and from manifests alone, the same verdict with its reasons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

V3 = "apiVersion: projectcalico.org/v3\n"


def endpoint(pod: str, app: str, address: str) -> str:
    return (
        V3 + f"kind: WorkloadEndpoint\nmetadata: {{namespace: shop, labels: {{app: {app}}}}}\n"
        f"spec: {{orchestrator: k8s, node: n1, pod: {pod}, endpoint: eth0, interfaceName: cali{app}, "
        f"ipNetworks: [{address}/32], profiles: [kns.shop]}}\n---\n"
    )


MANIFESTS = (
    endpoint("web-1", "web", "10.65.0.10")
    + endpoint("db-1", "db", "10.65.0.11")
    + "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n"
    + V3
    + "kind: NetworkPolicy\nmetadata: {name: db, namespace: shop}\n"
    "spec: {selector: app == 'db', ingress: [{action: Allow, protocol: TCP, source: {selector: app == 'web'}, "
    "destination: {ports: [5432]}}]}\n"
)


@pytest.fixture
def where(ctl: Any, request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Arguments that say where the resources are: stored, or only in a directory."""
    if request.param == "stored":
        assert ctl("apply", "-f", "-", text=MANIFESTS).status == 0
        return []
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "all.yaml").write_text(MANIFESTS)
    return ["-f", f"{tmp_path}/manifests"]


@pytest.mark.parametrize("where", ["stored", "offline"], indirect=True)
def test_explain_says_what_happens_and_which_rule_decided(ctl: Any, where: list[str]) -> None:
    allowed = ctl("explain", "shop/web-1", "shop/db-1", "--port", "5432", *where)
    assert allowed.status == 0 and "ALLOWED" in allowed.out and "NetworkPolicy(shop/db)" in allowed.out
    denied = ctl("explain", "shop/web-1", "10.65.0.11", "--port", "22", *where)
    assert denied.status == 0 and "DENIED" in denied.out and "what would change it" in denied.out
    data = json.loads(ctl("explain", "shop/db-1", "shop/web-1", "--protocol", "UDP", "-o", "json", *where).out)
    assert data


def test_offline_needs_no_datastore(ctl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "all.yaml").write_text(MANIFESTS)
    monkeypatch.setenv("CALICO_CONFIG", "/nowhere.yaml")
    assert ctl("explain", "shop/web-1", "shop/db-1", "-f", f"{tmp_path}/all.yaml").status == 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("shop/none", "10.0.0.1"), "there is no workload, host endpoint or node 'shop/none'"),
        (("10.0.0.1", "fd00::1"), "no addresses of one IP version"),
        (("10.0.0.1", "10.0.0.2", "--protocol", "XTP"), "XTP"),
        (("10.0.0.1", "10.0.0.2", "--port", "70000"), "port 70000 is not between 0 and 65535"),
        (("10.0.0.1", "10.0.0.2", "--port", "http"), "10.0.0.2 has no port named 'http' of this protocol"),
    ],
)
def test_question_that_cannot_be_answered_says_why(ctl: Any, argv: tuple[str, ...], said: str) -> None:
    ran = ctl("explain", *argv)
    assert ran.status == 1 and said in ran.err


def test_explain_reads_everything_that_calico_stores(ctl: Any) -> None:
    """Nodes list host names among their addresses; the recorded resources have nearly every field."""
    resources = Path(__file__).parent.parent / "model" / "data" / "resources.yaml"
    assert ctl("apply", "-f", str(resources)).status == 0
    ran = ctl("explain", "shop/web-1", "10.65.0.99", "--port", "443")
    assert ran.status == 0 and "from 10.65.0.20" in ran.out


KUBERNETES = """
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, podIP: 10.65.0.10}
---
apiVersion: v1
kind: Pod
metadata: {name: db-1, namespace: shop, labels: {app: db}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, podIP: 10.65.0.11}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]
"""


@pytest.mark.parametrize(("port", "said"), [("5432", "ALLOWED"), ("22", "DENIED")])
def test_kubernetes_manifests_alone_can_be_explained(ctl: Any, tmp_path: Path, port: str, said: str) -> None:
    (tmp_path / "all.yaml").write_text(KUBERNETES)
    ran = ctl("explain", "shop/web-1", "shop/db-1", "--port", port, "-f", f"{tmp_path}/all.yaml")
    assert ran.status == 0 and said in ran.out and "NetworkPolicy(shop/knp.default.db)" in ran.out


def test_a_port_may_be_named_as_the_destination_names_it(ctl: Any, tmp_path: Path) -> None:
    ported = KUBERNETES.replace("[{name: c}]", "[{name: c, ports: [{name: sql, containerPort: 5432}]}]")
    (tmp_path / "all.yaml").write_text(ported)
    ran = ctl("explain", "shop/web-1", "shop/db-1", "--port", "sql", "-f", f"{tmp_path}/all.yaml")
    assert ran.status == 0 and "port 5432" in ran.out
    other = ctl(
        "explain", "shop/web-1", "shop/db-1", "--port", "sql", "--protocol", "UDP", "-f", f"{tmp_path}/all.yaml"
    )
    assert other.status == 1 and "one of its ports: sql (TCP)" in other.err


def test_documents_without_a_say_are_passed_over_and_unknown_ones_are_not(ctl: Any, tmp_path: Path) -> None:
    beside = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\n"
    (tmp_path / "all.yaml").write_text(KUBERNETES + beside)
    ran = ctl("explain", "shop/web-1", "shop/db-1", "-f", f"{tmp_path}/all.yaml")
    assert ran.status == 0 and "Deployment(web) is passed over" in ran.err
    (tmp_path / "all.yaml").write_text(KUBERNETES + beside.replace("apps/v1", "networking.k8s.io/v1"))
    assert ctl("explain", "shop/web-1", "shop/db-1", "-f", f"{tmp_path}/all.yaml").status == 1
