"""TLS with certificates on both sides, and users whose tokens end."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from calico_datastore_etcd.settings import EtcdSettings, with_variables
from calico_datastore_etcd.store import EtcdDatastore
from calico_datastore_etcd.testing import EtcdServer
from calico_kernel.errors import ConfigError, DatastoreUnavailable, NotPermitted
from calico_kernel.testing.datastore import ALL_SETS, collect, network_set, set_key


def openssl(*arguments: str, cwd: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=cwd, check=True, capture_output=True)


def make_authority(directory: Path) -> None:
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
        *("-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem"),
        cwd=directory,
    )


def make_certificate(directory: Path, name: str) -> None:
    openssl(
        *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}"),
        *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
        cwd=directory,
    )
    (directory / f"{name}.ext").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    openssl(
        *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem"),
        cwd=directory,
    )


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[EtcdServer]:
    make_authority(tmp_path)
    make_certificate(tmp_path, "server")
    make_certificate(tmp_path, "calico")
    arguments = (
        *("--cert-file", str(tmp_path / "server.pem"), "--key-file", str(tmp_path / "server.key")),
        *("--client-cert-auth", "--trusted-ca-file", str(tmp_path / "ca.pem")),
    )
    server = EtcdServer(tmp_path, scheme="https", arguments=arguments)
    server.start()
    yield server
    server.kill()


def test_certificates_on_both_sides_are_needed_and_read_again_when_replaced(secure: EtcdServer) -> None:
    here = secure.directory
    other = here / "other"
    other.mkdir()
    make_authority(other)
    make_certificate(other, "calico")
    ours = (here / "calico.pem").read_bytes(), (here / "calico.key").read_bytes()
    (here / "calico.pem").write_bytes((other / "calico.pem").read_bytes())
    (here / "calico.key").write_bytes((other / "calico.key").read_bytes())
    settings = EtcdSettings(
        endpoints=secure.url,
        ca_cert_file=str(here / "ca.pem"),
        cert_file=str(here / "calico.pem"),
        key_file=str(here / "calico.key"),
        dial_timeout_s=0.5,
    )
    store = EtcdDatastore(settings)
    with pytest.raises(DatastoreUnavailable):
        store.get(set_key("a"))
    for path, raw in zip(("calico.pem", "calico.key"), ours, strict=True):
        (here / path).write_bytes(raw)
    made = store.create(set_key("a"), network_set("a", 1))
    watch = store.watch([ALL_SETS], revision=made.revision)
    later = store.put(set_key("a"), network_set("a", 2))
    assert [event.record for event in collect(watch, bool)] == [later]
    watch.close()
    store.close()
    nameless = EtcdDatastore(EtcdSettings(endpoints=secure.url, ca_cert_file=str(here / "ca.pem"), dial_timeout_s=0.3))
    with pytest.raises(DatastoreUnavailable):
        nameless.get(set_key("a"))
    nameless.close()


def test_certificates_as_text_serve_like_files(secure: EtcdServer) -> None:
    ca_cert, cert, key = ((secure.directory / name).read_text() for name in ("ca.pem", "calico.pem", "calico.key"))
    store = EtcdDatastore(EtcdSettings(endpoints=secure.url, ca_cert=ca_cert, cert=cert, key=key))
    store.create(set_key("a"), network_set("a", 1))
    store.close()
    with pytest.raises(ConfigError, match="files or texts"):
        with_variables(EtcdSettings(endpoints=secure.url, ca_cert=ca_cert, key_file="/k"), {})


def field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2, len(value)]) + value


def administer(server: EtcdServer) -> None:
    """Users root and calico, the latter with a role for /calico/; then only users are served."""
    permission = b"\x08\x02" + field(2, b"/calico/") + field(3, b"/calico0")  # 2: read and write
    steps = (
        ("UserAdd", field(1, b"root") + field(2, b"r")),
        ("UserGrantRole", field(1, b"root") + field(2, b"root")),
        ("RoleAdd", field(1, b"calico")),
        ("RoleGrantPermission", field(1, b"calico") + field(2, permission)),
        *(("UserAdd", field(1, name) + field(2, b"secret")) for name in (b"calico", b"nobody")),
        ("UserGrantRole", field(1, b"calico") + field(2, b"calico")),
        ("AuthEnable", b""),
    )
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        for method, request in steps:
            channel.unary_unary(f"/etcdserverpb.Auth/{method}")(request, timeout=10)


def test_user_with_a_password_works_over_restarts_that_end_its_token(tmp_path: Path) -> None:
    server = EtcdServer(tmp_path, arguments=("--bcrypt-cost", "4"))
    server.start()
    try:
        administer(server)
        store = EtcdDatastore(EtcdSettings(endpoints=server.url, username="calico", password="secret"))
        made = store.create(set_key("a"), network_set("a", 1))
        watch = store.watch([ALL_SETS], revision=made.revision)
        server.kill()
        server.start()
        later = store.put(set_key("a"), network_set("a", 2))
        assert [event.record for event in collect(watch, bool)] == [later]
        watch.close()
        store.close()
        for username, password, said in (
            ("calico", "wrong", "refused user 'calico'"),
            ("", "", "refused user ''"),
        ):
            stranger = EtcdDatastore(EtcdSettings(endpoints=server.url, username=username, password=password))
            with pytest.raises(DatastoreUnavailable, match=said):
                stranger.get(set_key("a"))
            stranger.close()
        nobody = EtcdDatastore(EtcdSettings(endpoints=server.url, username="nobody", password="secret"))
        for call in (
            lambda: nobody.get(set_key("a")),
            lambda: nobody.watch([ALL_SETS], revision="1"),
            lambda: nobody.delete(set_key("a")),
        ):
            with pytest.raises(NotPermitted, match="/calico/"):
                call()
        nobody.close()
    finally:
        server.kill()


def test_user_where_the_server_asks_for_none_is_served(etcd: EtcdServer) -> None:
    store = EtcdDatastore(EtcdSettings(endpoints=etcd.url, username="calico", password="secret"))
    store.create(set_key("a"), network_set("a", 1))
    store.close()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"endpoints": "127.0.0.1:2379"}, "datastore.endpoints: '127.0.0.1:2379'"),
        ({"endpoints": "http://a:2379,http://b"}, "'http://b'"),
        ({"cert_file": "/x", "endpoints": "https://a:1"}, "belong together"),
        ({"ca_cert_file": "/no/such/file", "endpoints": "https://a:1"}, "datastore.ca_cert_file: /no/such/file"),
        ({"ca_cert_file": "/no/such/file"}, "every endpoint is http"),
        ({"password": "x"}, "without datastore.username"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_start(given: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        with_variables(EtcdSettings(**given), {})


def test_calicos_variables_complete_the_settings() -> None:
    given = with_variables(
        EtcdSettings(username="ours"),
        {"ETCD_ENDPOINTS": "http://a:1, http://[::1]:2/", "ETCD_USERNAME": "theirs", "ETCD_PASSWORD": "p"},
    )
    assert given.addresses() == [(False, "a:1"), (False, "[::1]:2")]
    assert (given.username, given.password) == ("ours", "p")
