"""A short command imports no heavy library: what is not imported costs nothing, on any machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "pyroute2",
    "kubernetes",
    "asyncio",
    "concurrent.futures",
    "ssl",
    "http",
    "pyroaring",
    "hypothesis",
    "pkg_resources",
    "difflib",
    "attr",
    "ctypes",
    "email",
    "hashlib",
    "importlib.metadata",
    "random",
    "shutil",
    "socket",
    "stevedore",
    "calico_kernel.agent",
    "calico_kernel.calc",
    "calico_kernel.lab",
    "calico_kernel.policy",
    "calico_kernel.selector",
    "calico_kernel.cli.write",
)
"""Modules that reading a resource has no use for."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered of earlier runs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def _imported(config: Path | None, *argv: str, status: int = 0) -> set[str]:
    program = (
        "import sys; from calico_kernel.cli.calicoctl import main; status = main(sys.argv[1:]);"
        "print('\\n'.join(sys.modules), file=sys.stderr); sys.exit(status)"
    )
    given = ["-c", str(config)] if config is not None else []
    done = subprocess.run([sys.executable, "-c", program, *given, *argv], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return set(done.stderr.split())


def test_get_imports_nothing_heavy(config: Path) -> None:
    _imported(config, "get", "networkpolicies", "-A")  # stevedore finds the plugins, once
    modules = _imported(config, "get", "networkpolicies", "-A")
    assert "calico_kernel.cli.get" in modules
    assert [name for name in HEAVY if any(m == name or m.startswith(f"{name}.") for m in modules)] == []


@pytest.mark.parametrize(
    "datastore",
    ["{plugin: etcd, endpoints: 'http://127.0.0.1:1', dial_timeout_s: 0.1}", "{plugin: kdd, kubeconfig: KC}"],
)
def test_get_imports_no_more_on_a_server_than_its_client_needs(config: Path, datastore: str) -> None:
    """The server need not be there: the client is loaded, and says so."""
    kubeconfig = config.parent / "kubeconfig"
    kubeconfig.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
        "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1', insecure-skip-tls-verify: true}}]\n"
        "users: [{name: u, user: {token: t}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n"
    )
    config.write_text(f"node: n1\ndatastore: {datastore.replace('KC', str(kubeconfig))}\nipam: none\n")
    _imported(config, "get", "tiers", status=1)
    modules = _imported(config, "get", "tiers", status=1)
    assert {
        "attr",
        "stevedore",
        "importlib.metadata",
        "kubernetes",
        "pyroute2",
        "hypothesis",
        "ctypes",
    } & modules == set()
    assert any(name.startswith(("calico_datastore_etcd.store", "calico_datastore_kdd.store")) for name in modules)


def test_without_a_configuration_file_no_yaml_is_imported(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CALICO_CONFIG")
    monkeypatch.setenv("CALICO_DATASTORE_PATH", str(config.parent / "other.db"))
    assert "yaml" not in _imported(None, "get", "nodes")


def test_help_of_the_version_opens_nothing(config: Path) -> None:
    modules = _imported(config, "version", "--client")
    assert "calico_kernel.compose" not in modules and "stevedore" not in modules and "yaml" not in modules
