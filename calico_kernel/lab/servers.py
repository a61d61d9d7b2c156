(
    """The server of a lab's datastore: the programs it consists of, how it says that it is ready, how nodes reach it.

In:    a Topology that names a datastore with a server.
Out:   command lines and settings, to calico_kernel.lab.hosts and .cluster. Starts nothing itself.
Owns:  ``DATASTORE_DIR`` of the lab: the servers' data, and what admits to them.

    etcd:        etcd, by plain HTTP.
    kubernetes:  etcd on loopback, and kube-apiserver before it, by HTTPS; nodes show the administrator's token.
"""
    ""
)

from __future__ import annotations

import base64
import json
import os
import secrets
from typing import Any

from calico_kernel.errors import UnsupportedError
from calico_kernel.host.programs import kubernetes_assets, kubernetes_program, which
from calico_kernel.lab.topology import Host, Topology

DATASTORE_DIR = "/run/calico-lab/datastore"
SQLITE_PATH = f"{DATASTORE_DIR}/calico.db"
ETCD_PORT, API_PORT = 2379, 6443
PACKAGES = {"etcd": {"etcd": "etcd-server"}, "kubernetes": {"etcd": "etcd-server"}}
"""Datastore -> program of its server -> package."""

_CLUSTER = f"{DATASTORE_DIR}/kubernetes"
KUBECONFIG = f"{_CLUSTER}/admin.kubeconfig"
CA_FILE = f"{_CLUSTER}/apiserver.crt"
TOKEN = "token-of-the-administrator"
_SIGNING_KEY = f"{_CLUSTER}/service-accounts.key"
_TOKENS = f"{_CLUSTER}/tokens.csv"
_SERVICES = "10.96.0.0/16"


def check(datastore: str) -> None:
    """Raises UnsupportedError, saying how to get what no package has."""
    if datastore == "kubernetes" and kubernetes_program("kube-apiserver") is None:
        assets = kubernetes_assets()
        raise UnsupportedError(
            what="a lab on Kubernetes needs kube-apiserver"
            + (f", and KUBEBUILDER_ASSETS ({assets}) does not have it" if assets else ""),
            todo="build it once with `sh tools/kubernetes/build.sh` (some four minutes, needs Go), or set "
            "KUBEBUILDER_ASSETS to a directory that has it, as setup-envtest fills it",
        )


def settings(topology: Topology) -> dict[str, Any]:
    """What stands under ``datastore:`` in the configuration of a node."""
    if topology.server is None:
        return {"plugin": "sqlite", "path": SQLITE_PATH}
    if topology.datastore == "etcd":
        return {"plugin": "etcd", "endpoints": f"http://{topology.server.ipv4}:{ETCD_PORT}"}
    return {"plugin": "kdd", "kubeconfig": KUBECONFIG}


def environment(topology: Topology) -> dict[str, str]:
    """For whoever works on a host of the lab: where the cluster is."""
    return {"KUBECONFIG": KUBECONFIG} if topology.datastore == "kubernetes" else {}


def program_directories(topology: Topology) -> list[str]:
    """What the PATH on a host of the lab has besides: where kubectl is."""
    kubectl = kubernetes_program("kubectl") if topology.datastore == "kubernetes" else None
    return [os.path.dirname(kubectl)] if kubectl else []


def commands(server: Host, datastore: str) -> list[list[str]]:
    """In the order in which they are started."""
    if datastore == "etcd":
        return [_etcd(f"http://{server.ipv4}:{ETCD_PORT}", server.name)]
    return [_etcd("", server.name), _api_server(server)]


def health(datastore: str) -> str:
    """Asked on the server's own host: 200 when it is ready."""
    if datastore == "etcd":
        return f"http://127.0.0.1:{ETCD_PORT}/health"
    return f"https://127.0.0.1:{API_PORT}/readyz"


def _etcd(url: str, name: str) -> list[str]:
    """One member, for nodes by its address and for a person on the host by loopback; data in the lab's tmpfs."""
    loopback = f"http://127.0.0.1:{ETCD_PORT}"
    listen = f"{url},{loopback}" if url else loopback
    return [
        *(which("etcd") or "etcd", "--name", name, "--data-dir", f"{DATASTORE_DIR}/etcd"),
        *("--listen-client-urls", listen, "--advertise-client-urls", url or loopback),
        *("--heartbeat-interval", "50", "--election-timeout", "500"),  # members on one machine; it leads sooner
        *("--logger", "zap", "--log-level", "warn"),
    ]


def _api_server(server: Host) -> list[str]:
    url = f"https://{server.ipv4}:{API_PORT}"
    return [
        *(kubernetes_program("kube-apiserver") or "kube-apiserver", "--secure-port", str(API_PORT)),
        *("--etcd-servers", f"http://127.0.0.1:{ETCD_PORT}", "--cert-dir", _CLUSTER),  # it signs its own certificate
        *("--bind-address", "0.0.0.0", "--advertise-address", server.ipv4),
        *("--service-account-issuer", url, "--service-account-key-file", _SIGNING_KEY),
        *("--service-account-signing-key-file", _SIGNING_KEY, "--token-auth-file", _TOKENS),
        *("--authorization-mode", "RBAC", "--service-cluster-ip-range", _SERVICES),
        *("--endpoint-reconciler-type", "none", "--v", "0"),
    ]


def prepare(topology: Topology) -> None:
    """Write what the server admits people by, and what they show. Before it is first started."""
    if topology.server is None or topology.datastore != "kubernetes":
        return
    os.makedirs(_CLUSTER, mode=0o700, exist_ok=True)
    _write(_SIGNING_KEY, signing_key())
    _write(_TOKENS, f'{TOKEN},admin,admin,"system:masters"\n')
    server = f"https://{topology.server.ipv4}:{API_PORT}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": server, "certificate-authority": CA_FILE}}],
        "users": [{"name": "admin", "user": {"token": TOKEN}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "admin"}}],
    }
    _write(KUBECONFIG, json.dumps(config, indent=1))


def signing_key() -> str:
    """A fresh key of the curve P-256 as PEM (RFC 5915, without the public half, which readers compute): what
    kube-apiserver signs tokens of service accounts with. Its private half is any number below the order of the curve,
    whose first byte is 255."""
    secret = b"\x7f" + secrets.token_bytes(31)
    curve = bytes.fromhex("06082a8648ce3d030107")
    body = b"\x02\x01\x01" + b"\x04\x20" + secret + b"\xa0\x0a" + curve
    text = base64.b64encode(b"\x30" + bytes([len(body)]) + body).decode()
    lines = "\n".join(text[start : start + 64] for start in range(0, len(text), 64))
    return f"-----BEGIN EC PRIVATE KEY-----\n{lines}\n-----END EC PRIVATE KEY-----\n"


def _write(path: str, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
