"""calicoctl configured as Calico's own tool is; the rules themselves are in tests/config/test_official.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

V3 = "apiVersion: projectcalico.org/v3\n"


def test_official_configuration_is_shown_with_its_lines_and_without_secrets(
    ctl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "calicoctl.cfg"
    file.write_text(
        V3 + "kind: CalicoAPIConfig\nspec:\n  etcdEndpoints: https://127.0.0.1:1\n  etcdKey: hush\n  etcdCert: c\n"
    )
    rows = {row["key"]: row for row in json.loads(ctl("config", "show", "-o", "json", "-c", str(file)).out)}
    assert rows["datastore.endpoints"] == {
        "key": "datastore.endpoints",
        "value": "https://127.0.0.1:1",
        "origin": f"{file}:4",
    }
    assert rows["datastore.key"]["value"] == "(hidden)"
    monkeypatch.delenv("CALICO_CONFIG")
    monkeypatch.setenv("ETCD_ENDPOINTS", "http://127.0.0.1:1")
    assert "environment ETCD_ENDPOINTS" in ctl("config", "show").out


@pytest.mark.parametrize(
    ("datastore", "said"),
    [
        ("{plugin: kdd, kubeconfig: /nonesuch}", "no kubeconfig /nonesuch"),
        ("{plugin: kdd, api_endpoint: 'https://x', api_group: foo}", "datastore.api_group is 'foo'"),
        ("{plugin: kdd, qps: -1}", "datastore:kdd.qps is -1"),
        ("{plugin: kdd, burst: 0}", "datastore:kdd.burst is 0"),
        ("{plugin: etcd, endpoints: banana}", "'banana' is no URL"),
        ("{plugin: etcd, cert_file: /nonesuch, endpoints: 'https://127.0.0.1:1'}", "key_file belong together"),
    ],
)
def test_check_tells_what_only_the_datastores_plugin_knows(ctl: Any, tmp_path: Path, datastore: str, said: str) -> None:
    file = tmp_path / "calico.yaml"
    file.write_text(f"datastore: {datastore}\n")
    ran = ctl("config", "check", "-c", str(file))
    assert ran.status == 1
    assert said in ran.err


def test_check_of_the_embedded_store_makes_no_file(ctl: Any, tmp_path: Path) -> None:
    file = tmp_path / "calico.yaml"
    file.write_text(f"datastore: {{plugin: sqlite, path: {tmp_path}/made/calico.db}}\n")
    assert ctl("config", "check", "-c", str(file)).status == 0
    assert list(tmp_path.iterdir()) == [file]
