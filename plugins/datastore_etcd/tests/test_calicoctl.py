"""calicoctl on etcd, configured as Calico's own tool is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from calico_datastore_etcd.testing import EtcdServer

TIER = "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: security}\nspec: {order: 100}\n"
CONFIG = "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nspec:\n  datastoreType: etcdv3\n"


def calicoctl(*arguments: str, text: str = "", **variables: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CALICO_", "ETCD_"))}
    done = subprocess.run(
        [sys.executable, "-m", "calico_kernel.cli.calicoctl", *arguments],
        input=text,
        env={**kept, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_variables_and_file_of_calico_reach_the_same_store(etcd: EtcdServer, tmp_path: Path) -> None:
    file = tmp_path / "calicoctl.cfg"
    file.write_text(CONFIG + f"  etcdEndpoints: {etcd.url}\n")
    calicoctl("apply", "-f", "-", text=TIER, ETCD_ENDPOINTS=etcd.url)
    wrong = {"ETCD_ENDPOINTS": "http://127.0.0.1:1", "ETCD_USERNAME": "nobody", "ETCD_PASSWORD": "x"}
    assert "tier/security" in calicoctl("get", "tiers", "-o", "name", "-c", str(file), **wrong)
