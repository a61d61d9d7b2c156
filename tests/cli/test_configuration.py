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
        ("{plugin: kdd, qps: -1}", "datastore:kdd.qps is -1"),
        ("{plugin: kdd, burst: 0}", "datastore:kdd.burst is 0"),
        ("{plugin: etcd, dial_timeout_s: 0}", "datastore:etcd.dial_timeout_s is 0"),
    ],
)
def test_check_holds_numbers_to_their_limits(ctl: Any, tmp_path: Path, datastore: str, said: str) -> None:
    file = tmp_path / "calico.yaml"
    file.write_text(f"datastore: {datastore}\n")
    ran = ctl("config", "check", "-c", str(file))
    assert ran.status == 1
    assert said in ran.err
