"""The configuration of Calico's own calicoctl: its file, its variables, and which of them wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from calico_kernel.config import Config, PluginChoice, load
from calico_kernel.errors import ConfigError

HEAD = "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata:\nspec:\n"


def from_file(tmp_path: Path, spec: str, **environment: str) -> Config:
    path = tmp_path / "calicoctl.cfg"
    path.write_text(HEAD + "".join(f"  {line}\n" for line in spec.splitlines()))
    return load(str(path), environment)


def from_environment(**environment: str) -> Config:
    return load(None, environment, usual=())


def datastore(config: Config) -> PluginChoice:
    (choice,) = config.chosen("datastore")
    return choice


def settings(config: Config) -> Any:
    return {name: value for name, value in datastore(config).settings.plain().items() if name != "variables"}


def test_file_gives_the_datastore_with_its_lines(tmp_path: Path) -> None:
    spec = 'datastoreType: etcdv3\netcdEndpoints: "https://a:2379,https://b:2379"\netcdCACertFile: /ca\n'
    config = from_file(tmp_path, spec + "etcdUsername: u\netcdPassword: p\n")
    assert datastore(config).name == "datastore:etcd"
    assert settings(config) == {
        "endpoints": "https://a:2379,https://b:2379",
        "ca_cert_file": "/ca",
        "username": "u",
        "password": "p",
    }
    assert str(datastore(config).settings.value["endpoints"].origin) == f"{tmp_path}/calicoctl.cfg:6"
    assert [choice.name for choice in config.plugins] == ["datastore:etcd", "ipam:blocks"]


def test_file_replaces_every_variable(tmp_path: Path) -> None:
    config = from_file(
        tmp_path,
        "etcdEndpoints: http://a:2379",
        DATASTORE_TYPE="kubernetes",
        ETCD_USERNAME="u",
        ETCD_PASSWORD="p",
        CALICO_ETCD_ENDPOINTS="http://b:2379",
        CALICO_DATASTORE="sqlite",
        CALICO_DATASTORE_PATH="/x.db",
    )
    assert datastore(config).name == "datastore:etcd"
    assert settings(config) == {"endpoints": "http://a:2379"}
    assert datastore(config).settings.plain()["variables"] is False


def test_prefixed_variable_wins_over_the_bare_one_even_when_empty() -> None:
    config = from_environment(
        ETCD_ENDPOINTS="http://a:2379",
        CALICO_ETCD_ENDPOINTS="http://b:2379",
        ETCD_CA_CERT_FILE="/ca",
        CALICO_ETCD_CA_CERT_FILE="",
    )
    assert settings(config) == {"endpoints": "http://b:2379"}
    assert str(datastore(config).origin) == "environment CALICO_ETCD_ENDPOINTS"


def test_user_without_password_counts_as_neither() -> None:
    assert settings(from_environment(ETCD_ENDPOINTS="http://a:2379", ETCD_USERNAME="u")) == {
        "endpoints": "http://a:2379"
    }


def test_type_alone_decides_when_given(tmp_path: Path) -> None:
    config = from_environment(DATASTORE_TYPE="kubernetes", ETCD_ENDPOINTS="http://a:2379", K8S_API_ENDPOINT="https://k")
    assert datastore(config).name == "datastore:kdd"
    assert settings(config) == {"api_endpoint": "https://k"}


def test_domain_of_discovery_alone_means_etcd(tmp_path: Path) -> None:
    for config in (
        from_environment(ETCD_DISCOVERY_SRV="example.com", KUBECONFIG="/k"),
        from_file(tmp_path, "etcdDiscoverySrv: example.com"),
    ):
        assert datastore(config).name == "datastore:etcd"
        assert settings(config) == {"discovery_srv": "example.com"}


def test_kubeconfig_of_the_home_directory_is_the_default(tmp_path: Path) -> None:
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube/config").write_text("")
    assert settings(from_environment(DATASTORE_TYPE="kubernetes", HOME=str(tmp_path))) == {
        "kubeconfig": f"{tmp_path}/.kube/config"
    }
    assert settings(from_environment(KUBECONFIG="/k", HOME=str(tmp_path)))["kubeconfig"] == "/k"


def test_nothing_given_leaves_the_embedded_store() -> None:
    assert datastore(from_environment(ETCD_USERNAME="u", HOME="/nowhere")).name == "datastore:sqlite"


def test_our_own_file_or_variable_wins_over_calicos_variables(tmp_path: Path) -> None:
    path = tmp_path / "calico.yaml"
    path.write_text("datastore: sqlite\n")
    environment = {"DATASTORE_TYPE": "etcdv3", "ETCD_ENDPOINTS": "http://a:2379", "CALICO_DATASTORE_TYPE": "etcdv3"}
    assert datastore(load(str(path), environment)).name == "datastore:sqlite"
    assert datastore(from_environment(CALICO_DATASTORE="sqlite", **environment)).name == "datastore:sqlite"
    path.write_text("node: n1\n")
    assert datastore(load(str(path), environment)).name == "datastore:etcd"


def test_first_usual_file_that_exists_is_read(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "calicoctl.cfg", tmp_path / "calico.yaml"
    ours.write_text("datastore: {plugin: sqlite, path: /x}\n")
    usual = (str(theirs), str(ours))
    assert load(None, {}, usual=usual).path == str(ours)
    theirs.write_text(HEAD + "  etcdEndpoints: http://a:2379\n")
    assert load(None, {}, usual=usual).path == str(theirs)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("datastoreType: etcd", "calicoctl.cfg:5: datastoreType is 'etcd'; did you mean 'etcdv3'?"),
        ("datastoreType: etcdv3", "no etcd endpoints specified"),
        ("etcdEndpoint: x", "calicoctl.cfg:5: unknown field spec.etcdEndpoint; did you mean 'etcdEndpoints'?"),
        ("etcdEndpoints: [x]", "spec.etcdEndpoints is ['x']"),
        ("etcdPassword: [secret]", "spec.etcdPassword is a value of another type"),
        ("etcdEndpoints: x\netcdDiscoverySrv: y", "etcdEndpoints and etcdDiscoverySrv are both given"),
        ("etcdEndpoints: x\netcdKey: k\netcdCertFile: /c", "certificates are given both as text and as files"),
        ("k8sDisableNodePoll: 1", "spec.k8sDisableNodePoll is 1"),
    ],
)
def test_wrong_field_is_refused_with_its_line(tmp_path: Path, spec: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_file(tmp_path, spec)
    assert said in caught.value.what


@pytest.mark.parametrize("head", ["apiVersion: v1\nkind: CalicoAPIConfig\n", "apiVersion: projectcalico.org/v3\n"])
def test_other_kind_of_document_is_refused(tmp_path: Path, head: str) -> None:
    path = tmp_path / "c.cfg"
    path.write_text(head)
    with pytest.raises(ConfigError, match="write `"):
        load(str(path), {})
