"""Finding the API server and speaking to it as somebody, the ways that kubectl and pods have."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from calico_datastore_kdd import auth
from calico_datastore_kdd.api import Api
from calico_datastore_kdd.settings import KubernetesSettings
from calico_datastore_kdd.store import KubernetesDatastore
from calico_datastore_kdd.testing import KubernetesServer
from calico_kernel.errors import ConfigError, DatastoreUnavailable, NotPermitted
from calico_kernel.model.keys import ResourceQuery

ME = "/apis/authentication.k8s.io/v1/selfsubjectreviews"


def api_of(settings: KubernetesSettings, environment: Mapping[str, str] | None = None, **options: Any) -> Api:
    access = auth.find(settings, environment or {}, **options)
    return Api(access, qps=0, burst=1, request_timeout_s=10, log=logging.getLogger(__name__))


def who_am_i(api: Api) -> Mapping[str, Any]:
    """As whom the server knows us."""
    body = json.dumps({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).encode()
    found: dict[str, Any] = json.loads(api.call("POST", ME, body))["status"]["userInfo"]
    return found


def kubeconfig(path: Path, there: KubernetesServer, user: Mapping[str, Any], **cluster: Any) -> KubernetesSettings:
    entry = {"server": there.url, "certificate-authority": str(there.ca_file)} | cluster
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "k", "cluster": {name: value for name, value in entry.items() if value is not None}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    }
    path.write_text(json.dumps(document))
    return KubernetesSettings(kubeconfig=str(path))


# ── kubeconfig ──


def test_token_and_authority_as_data_are_used(kubernetes: KubernetesServer, tmp_path: Path) -> None:
    data = base64.b64encode(kubernetes.ca_file.read_bytes()).decode()
    settings = kubeconfig(
        tmp_path / "config",
        kubernetes,
        {"token": "token-of-somebody"},
        **{"certificate-authority": None, "certificate-authority-data": data},
    )
    assert who_am_i(api_of(settings))["username"] == "somebody"


def test_client_certificate_as_files_beside_the_kubeconfig_or_as_data_is_used(
    kubernetes: KubernetesServer, authority: Any, tmp_path: Path
) -> None:
    certificate, key = authority.sign("carol", "staff")
    (tmp_path / "mine.crt").write_bytes(certificate.read_bytes())
    (tmp_path / "mine.key").write_bytes(key.read_bytes())
    files = {"client-certificate": "mine.crt", "client-key": "mine.key"}
    data = {f"{name}-data": base64.b64encode((tmp_path / file).read_bytes()).decode() for name, file in files.items()}
    for user in (files, data):
        found = who_am_i(api_of(kubeconfig(tmp_path / "config", kubernetes, user)))
        assert (found["username"], "staff" in found["groups"]) == ("carol", True)


def test_several_files_merge_and_the_first_to_say_something_wins(kubernetes: KubernetesServer, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text(
        "current-context: mixed\n"
        "contexts:\n- name: mixed\n  context: {cluster: k, user: somebody}\n"
        "users:\n- name: somebody\n  user: {token: token-of-somebody}\n"
    )
    kubeconfig(two, kubernetes, {"token": "token-of-admin"})
    paths = os.pathsep.join((str(one), str(tmp_path / "missing"), str(two)))
    environment = {"KUBECONFIG": paths}
    assert who_am_i(api_of(KubernetesSettings(), environment))["username"] == "somebody"
    assert who_am_i(api_of(KubernetesSettings(context="c"), environment))["username"] == "admin"
    with pytest.raises(ConfigError, match=r"no context 'other'.*c, mixed"):
        auth.find(KubernetesSettings(context="other"), environment)


def test_usual_file_of_the_home_directory_is_the_last_resort(kubernetes: KubernetesServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing says where the Kubernetes API is"):
        auth.find(KubernetesSettings(), {"HOME": str(tmp_path)})
    (tmp_path / ".kube").mkdir()
    kubeconfig(tmp_path / ".kube" / "config", kubernetes, {"token": "token-of-somebody"})
    assert who_am_i(api_of(KubernetesSettings(), {"HOME": str(tmp_path)}))["username"] == "somebody"


def test_settings_win_over_the_kubeconfig(kubernetes: KubernetesServer, tmp_path: Path) -> None:
    kubeconfig(tmp_path / "config", kubernetes, {"token": "token-of-somebody"}, server="https://192.0.2.1:1")
    token = tmp_path / "token"
    token.write_text("token-of-admin\n")
    settings = KubernetesSettings(
        kubeconfig_inline=(tmp_path / "config").read_text(), api_endpoint=kubernetes.url, token_file=str(token)
    )
    assert who_am_i(api_of(settings))["username"] == "admin"


def test_impersonated_user_and_groups_are_sent(kubernetes: KubernetesServer, tmp_path: Path) -> None:
    user = {
        "token": "token-of-admin",
        "as": "dave",
        "as-groups": ["ops", "night"],
        "as-user-extra": {"reason": ["test"]},
    }
    found = who_am_i(api_of(kubeconfig(tmp_path / "config", kubernetes, user)))
    assert (found["username"], found["extra"]) == ("dave", {"reason": ["test"]})
    assert {"ops", "night"} <= set(found["groups"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[", "is no kubeconfig"),
        ("just words", "is no kubeconfig"),
        ("{}", "no current-context"),
        ("current-context: x", "no context 'x'"),
        ("clusters: [3]", "an entry that is none"),
        ('{"current-context":"c","contexts":[{"name":"c","context":{"cluster":"k"}}]}', "no cluster 'k'"),
    ],
)
def test_broken_kubeconfig_is_refused_with_what_is_wrong(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(text)
    with pytest.raises(ConfigError, match=says):
        auth.find(KubernetesSettings(kubeconfig=str(tmp_path / "config")), {})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"api_endpoint": "ftp://x"}, "is no URL"),
        ({"api_endpoint": "https://u:p@x"}, "is no URL"),
        ({"api_endpoint": "https://x:port"}, "is no URL"),
        ({"api_endpoint": "http://10.0.0.1:8080", "token": "t"}, "in clear text"),
        ({"api_endpoint": "https://10.0.0.1", "cert_file": "/x"}, "only one of our certificate and its key"),
        ({"kubeconfig": "/does/not/exist"}, "there is no kubeconfig"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: Mapping[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        auth.find(KubernetesSettings(**settings), {})


def test_addresses_are_read_with_and_without_scheme_port_and_path() -> None:
    for given, url in (
        ("10.0.0.1:6443", "https://10.0.0.1:6443"),
        ("https://api.example", "https://api.example:443"),
        ("https://[fd00::1]:6443", "https://[fd00::1]:6443"),
        ("https://rancher.example/k8s/clusters/c-1/", "https://rancher.example:443/k8s/clusters/c-1"),
        ("http://localhost:8001", "http://localhost:8001"),
    ):
        assert auth.find(KubernetesSettings(api_endpoint=given), {}).url == url


def test_plain_kubeconfig_is_read_without_the_official_package(kubernetes: KubernetesServer) -> None:
    script = (
        "import sys; from calico_datastore_kdd.store import KubernetesDatastore as K;"
        "from calico_datastore_kdd.settings import KubernetesSettings as S;"
        f"K(S(kubeconfig={str(kubernetes.kubeconfig)!r}));"
        "print([m for m in ('kubernetes', 'urllib3', 'requests') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


# ── whom to trust ──


def test_server_that_another_authority_signed_is_not_trusted(
    kubernetes: KubernetesServer, authority: Any, tmp_path: Path
) -> None:
    wrong = kubeconfig(tmp_path / "config", kubernetes, {}, **{"certificate-authority": str(authority.certificate)})
    with pytest.raises(DatastoreUnavailable, match="certificate is not to be trusted"):
        who_am_i(api_of(wrong))
    insecure = {"certificate-authority": None, "insecure-skip-tls-verify": True}
    settings = kubeconfig(tmp_path / "config", kubernetes, {"token": "token-of-somebody"}, **insecure)
    assert who_am_i(api_of(settings))["username"] == "somebody"


def test_certificate_must_name_the_host_or_the_name_that_is_given(kubernetes: KubernetesServer, tmp_path: Path) -> None:
    user = {"token": "token-of-somebody"}
    wrong = kubeconfig(tmp_path / "config", kubernetes, user, **{"tls-server-name": "elsewhere.example"})
    with pytest.raises(DatastoreUnavailable, match=r"elsewhere\.example"):
        who_am_i(api_of(wrong))
    right = kubeconfig(tmp_path / "config", kubernetes, user, **{"tls-server-name": "kubernetes.default.svc"})
    assert who_am_i(api_of(right))["username"] == "somebody"


# ── what is replaced while we run ──


def test_rotated_token_is_used_from_the_next_request_on(kubernetes: KubernetesServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("token-of-somebody")
    api = api_of(kubeconfig(tmp_path / "config", kubernetes, {"tokenFile": "token"}))
    assert who_am_i(api)["username"] == "somebody"
    (tmp_path / "new").write_text("token-of-admin")
    (tmp_path / "new").rename(token)
    assert who_am_i(api)["username"] == "admin"
    token.write_text("")
    with pytest.raises(DatastoreUnavailable, match="holds no token"):
        who_am_i(api)
    token.unlink()
    with pytest.raises(DatastoreUnavailable, match="cannot be read"):
        who_am_i(api)


def test_refused_token_is_named_and_a_good_one_put_in_its_place_is_taken(
    calico: KubernetesServer, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("of-nobody")
    store = KubernetesDatastore(kubeconfig(tmp_path / "config", calico, {"tokenFile": str(token)}))
    with pytest.raises(NotPermitted, match="does not take the credentials of user 'u'"):
        store.list([ResourceQuery("IPPool")])
    token.write_text("token-of-admin")
    store.list([ResourceQuery("IPPool")])
    store.close()


def test_expired_certificate_is_replaced_on_disk_and_the_new_one_taken(
    calico: KubernetesServer, authority: Any, tmp_path: Path
) -> None:
    mine, my_key = tmp_path / "mine.crt", tmp_path / "mine.key"
    for source, sink in zip(authority.sign("erin", "system:masters", expired=True), (mine, my_key), strict=True):
        sink.write_bytes(source.read_bytes())
    time.sleep(1.1)  # it is valid for the second in which it was made
    settings = kubeconfig(tmp_path / "config", calico, {"client-certificate": str(mine), "client-key": str(my_key)})
    store = KubernetesDatastore(settings)
    with pytest.raises((NotPermitted, DatastoreUnavailable)):
        store.list([ResourceQuery("IPPool")])
    for source, sink in zip(authority.sign("erin", "system:masters"), (mine, my_key), strict=True):
        sink.write_bytes(source.read_bytes())
    store.list([ResourceQuery("IPPool")])
    store.close()


def test_certificate_that_is_half_replaced_leaves_the_old_one_in_use(
    kubernetes: KubernetesServer, authority: Any, tmp_path: Path
) -> None:
    mine, my_key = tmp_path / "mine.crt", tmp_path / "mine.key"
    pairs = [authority.sign(user, "staff") for user in ("gail", "hugo")]
    for source, sink in zip(pairs[0], (mine, my_key), strict=True):
        sink.write_bytes(source.read_bytes())
    user = {"client-certificate": str(mine), "client-key": str(my_key)}
    api = api_of(kubeconfig(tmp_path / "config", kubernetes, user))
    assert who_am_i(api)["username"] == "gail"
    mine.write_bytes(pairs[1][0].read_bytes())
    assert who_am_i(api)["username"] == "gail"
    my_key.write_bytes(pairs[1][1].read_bytes())
    assert who_am_i(api)["username"] == "hugo"
    my_key.write_bytes(pairs[0][1].read_bytes())
    api.access.renew()  # as after an answer 401
    with pytest.raises(DatastoreUnavailable, match="cannot be used"):
        who_am_i(api)


# ── in a pod ──


def test_service_account_of_the_pod_is_used_and_read_again(kubernetes: KubernetesServer, tmp_path: Path) -> None:
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    kubernetes.request("POST", accounts, {"metadata": {"name": "agent"}})
    request = {"spec": {"audiences": [kubernetes.url], "expirationSeconds": 600}}
    made = kubernetes.request("POST", f"{accounts}/agent/token", request)
    (tmp_path / "token").write_text(made["status"]["token"])
    (tmp_path / "ca.crt").write_bytes(kubernetes.ca_file.read_bytes())
    environment = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(kubernetes.port)}
    api = api_of(KubernetesSettings(), environment, service_account=tmp_path)
    assert who_am_i(api)["username"] == "system:serviceaccount:default:agent"
    (tmp_path / "token").write_text("token-of-somebody")
    assert who_am_i(api)["username"] == "somebody"
    environment["KUBERNETES_SERVICE_HOST"] = "192.0.2.1"  # of a node that has no services yet
    elsewhere = KubernetesSettings(api_endpoint=kubernetes.url)
    assert who_am_i(api_of(elsewhere, environment, service_account=tmp_path))["username"] == "somebody"


# ── through the official package ──


def exec_entry(directory: Path, status: Mapping[str, Any]) -> Mapping[str, Any]:
    """A user whose credentials a program gives, which counts how often it was asked."""
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    (directory / "answer").write_text(json.dumps(answer))
    program = directory / "login"
    program.write_text(f"#!/bin/sh\necho asked >>{directory}/asked\ncat {directory}/answer\n")
    program.chmod(0o755)
    command = {"apiVersion": answer["apiVersion"], "command": str(program), "interactiveMode": "Never"}
    return {"exec": command}


def asked(directory: Path) -> int:
    return len((directory / "asked").read_text().splitlines())


def test_program_of_an_exec_entry_is_asked_again_when_its_token_expires_or_is_refused(
    kubernetes: KubernetesServer, tmp_path: Path
) -> None:
    user = exec_entry(tmp_path, {"token": "token-of-somebody", "expirationTimestamp": "2999-01-01T00:00:00Z"})
    api = api_of(kubeconfig(tmp_path / "config", kubernetes, user))
    assert [who_am_i(api)["username"] for _ in range(3)] == ["somebody"] * 3
    assert asked(tmp_path) == 1
    exec_entry(tmp_path, {"token": "token-of-admin"})
    api.access.renew()  # as after an answer 401
    assert who_am_i(api)["username"] == "admin"
    exec_entry(tmp_path, {"token": "of-nobody"})
    api.access.renew()
    assert api.access.authorization() == "Bearer of-nobody"
    exec_entry(tmp_path, {"token": "token-of-somebody", "expirationTimestamp": "2001-01-01T00:00:00Z"})
    assert who_am_i(api)["username"] == "somebody"  # refused once, and asked anew
    before = asked(tmp_path)
    assert who_am_i(api)["username"] == "somebody"
    assert asked(tmp_path) > before


def test_certificate_of_an_exec_entry_is_used(kubernetes: KubernetesServer, authority: Any, tmp_path: Path) -> None:
    certificate, key = authority.sign("frank", "staff")
    status = {"clientCertificateData": certificate.read_text(), "clientKeyData": key.read_text()}
    assert who_am_i(api_of(kubeconfig(tmp_path / "config", kubernetes, exec_entry(tmp_path, status))))["username"] == (
        "frank"
    )


def test_exec_entry_whose_program_fails_says_what_to_do(kubernetes: KubernetesServer, tmp_path: Path) -> None:
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/false"}}
    with pytest.raises(DatastoreUnavailable, match="run the command of its exec entry by hand"):
        who_am_i(api_of(kubeconfig(tmp_path / "config", kubernetes, user)))


def test_token_of_an_oidc_entry_is_sent(kubernetes: KubernetesServer, tmp_path: Path) -> None:
    parts = ({"alg": "none"}, {"exp": time.time() + 600}, "signature")
    words = [part if isinstance(part, str) else json.dumps(part) for part in parts]
    token = ".".join(base64.urlsafe_b64encode(word.encode()).decode().rstrip("=") for word in words)
    settings = {"id-token": token, "client-id": "c", "idp-issuer-url": "https://idp.example"}
    user = {"auth-provider": {"name": "oidc", "config": settings}}
    access = auth.find(kubeconfig(tmp_path / "config", kubernetes, user), {})
    assert access.authorization() == f"Bearer {token}"


# ── through a proxy ──


@pytest.fixture
def proxy() -> Iterator[tuple[int, list[str]]]:
    """An HTTP proxy that lets everything through: its port, and the heads of the requests that it got."""
    heads: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with source, sink, contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)

    def serve() -> None:
        while True:
            try:
                ours, _ = listener.accept()
            except OSError:
                return
            head = ours.recv(65536).decode()
            heads.append(head)
            host, port = head.split()[1].rsplit(":", 1)
            theirs = socket.create_connection((host, int(port)))
            ours.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            for pair in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1], heads
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_proxy_of_the_kubeconfig_is_used(
    kubernetes: KubernetesServer, proxy: tuple[int, list[str]], tmp_path: Path
) -> None:
    port, heads = proxy
    settings = kubeconfig(
        tmp_path / "config",
        kubernetes,
        {"token": "token-of-somebody"},
        **{"proxy-url": f"http://user:secret@127.0.0.1:{port}"},
    )
    assert who_am_i(api_of(settings))["username"] == "somebody"
    assert heads[0].startswith(f"CONNECT 127.0.0.1:{kubernetes.port} ")
    assert base64.b64encode(b"user:secret").decode() in heads[0]


def test_proxy_of_the_environment_is_used_unless_the_host_is_excluded() -> None:
    settings = KubernetesSettings(api_endpoint="https://10.1.2.3:6443")
    environment = {"HTTPS_PROXY": "http://proxy.example:3128"}
    assert auth.find(settings, environment).proxy == ("proxy.example", 3128, "")
    for excluded in ("10.0.0.0/8", "10.1.2.3", "example,10.1.2.3:6443", "*"):
        assert auth.find(settings, environment | {"NO_PROXY": excluded}).proxy is None
    assert auth.find(settings, environment | {"NO_PROXY": "10.2.0.0/16"}).proxy is not None
    with pytest.raises(ConfigError, match=r"socks5://proxy\.example is none"):
        auth.find(settings, {"HTTPS_PROXY": "socks5://proxy.example"})
