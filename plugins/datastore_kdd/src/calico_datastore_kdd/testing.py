"""A real Kubernetes API server for tests, the lab and benchmarks, with an etcd of its own, on loopback.

In:    the programs ``etcd`` (Debian: etcd-server) and ``kube-apiserver`` (``tools/kubernetes/build.sh``), found as
       calico_kernel.host.programs says.
Out:   two processes, stopped by their pids. Ports are free ones, kept over restarts. ``kubeconfig`` is of an
       administrator; ``kubeconfig_for`` makes one for any user and groups, for RBAC to judge.
"""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from calico_kernel.errors import UnsupportedError
from calico_kernel.host.programs import kubernetes_assets, kubernetes_program

START_S = 120.0
DEFINED_S = 60.0
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def program(name: str) -> str:
    """Path of a Kubernetes program. Raises UnsupportedError, saying how to get it."""
    found = kubernetes_program(name)
    if found:
        return found
    assets = kubernetes_assets()
    raise UnsupportedError(
        what=f"there is no program {name}" + (f" in KUBEBUILDER_ASSETS ({assets})" if assets else ""),
        todo="build it once with tools/kubernetes/build.sh, or set KUBEBUILDER_ASSETS to the directory that has it",
    )


@attrs.define
class KubernetesServer:
    """``arguments``: further options of kube-apiserver; one that is given here again wins."""

    directory: Path
    arguments: Sequence[str] = ()
    address: str = "127.0.0.1"
    port: int = attrs.field(factory=free_port)
    etcd_port: int = attrs.field(factory=free_port)
    etcd_peer_port: int = attrs.field(factory=free_port)
    _users: dict[str, tuple[str, Sequence[str]]] = attrs.field(factory=dict)
    _etcd: subprocess.Popen[bytes] | None = None
    _server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.port}"

    @property
    def kubeconfig(self) -> Path:
        return self.kubeconfig_for("admin", ("system:masters",))

    @property
    def ca_file(self) -> Path:
        """The server signs its own certificate."""
        return self.directory / "certificates" / "apiserver.crt"

    @property
    def key_file(self) -> Path:
        """Signs service account tokens; a controller manager needs it."""
        return self.directory / "service-accounts.key"

    @property
    def pid(self) -> int:
        assert self._server is not None
        return self._server.pid

    def start(self) -> None:
        """Both, until the server says that it is ready."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.start_etcd()
        self.start_server()
        self.wait_ready()

    def start_etcd(self) -> None:
        client, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{self.etcd_peer_port}"
        self._etcd = self._spawn(
            "etcd",
            *("etcd", "--data-dir", str(self.directory / "etcd")),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"default={peer}"),
            *("--heartbeat-interval", "50", "--election-timeout", "500", "--log-level", "error", "--logger", "zap"),
            *("--quota-backend-bytes", str(8 << 30)),
        )

    def start_server(self) -> None:
        if not self.key_file.exists():
            command = ["openssl", "genrsa", "-out", str(self.key_file), "2048"]
            subprocess.run(command, check=True, capture_output=True)
        self._write_tokens()
        key = str(self.key_file)
        self._server = self._spawn(
            "kube-apiserver",
            *(program("kube-apiserver"), "--etcd-servers", f"http://127.0.0.1:{self.etcd_port}"),
            *("--cert-dir", str(self.directory / "certificates"), "--secure-port", str(self.port)),
            *("--bind-address", self.address, "--advertise-address", self.address),
            *("--service-account-issuer", self.url, "--service-account-key-file", key),
            *("--service-account-signing-key-file", key, "--token-auth-file", str(self.directory / "tokens.csv")),
            *("--authorization-mode", "RBAC", "--service-cluster-ip-range", "10.96.0.0/16"),
            *self.arguments,
        )

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            assert self._server is not None
            try:
                self.request("GET", "/readyz")
            except (urllib.error.URLError, OSError) as exc:
                if self._server.poll() is not None or time.monotonic() > deadline:
                    said = (self.directory / "kube-apiserver.log").read_text(errors="replace")[-3000:]
                    raise UnsupportedError(
                        what=f"kube-apiserver did not start ({exc}): {said}", todo="look at what it said"
                    ) from exc
            else:
                return
            time.sleep(0.05)

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig with a token of its own. Made before ``start_server``, or the server knows the user only after
        its next start; ``admin`` it always knows."""
        path = self.directory / f"{user.replace(':', '.')}.kubeconfig"
        self.directory.mkdir(parents=True, exist_ok=True)
        self._users[user] = (f"token-of-{user.replace(':', '.')}", groups)
        entry = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [
                {
                    "name": "test",
                    "cluster": {"server": self.url, "certificate-authority": str(self.ca_file)},
                }
            ],
            "users": [{"name": user, "user": {"token": self._users[user][0]}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
        }
        path.write_text(json.dumps(entry, indent=1))
        return path

    def request(
        self, method: str, path: str, body: object = None, *, content_type: str = "application/json"
    ) -> dict[str, Any]:
        """One request as the administrator, by the standard library alone. Raises urllib.error.HTTPError."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)
        request.add_header("Authorization", "Bearer token-of-admin")
        request.add_header("Content-Type", content_type)
        context = ssl.create_default_context(cafile=str(self.ca_file)) if self.ca_file.exists() else None
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:
            raw = answer.read()
        return json.loads(raw) if raw.startswith(b"{") else {"text": raw.decode()}

    def define(self, definitions: Iterable[Mapping[str, Any]]) -> None:
        """Create CustomResourceDefinitions, and wait until the first version of each is served."""
        made = list(definitions)
        for document in made:
            self.request("POST", DEFINITIONS, document)
        deadline = time.monotonic() + DEFINED_S
        for document in made:
            spec = document["spec"]
            path = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}?limit=1"
            while True:
                try:
                    self.request("GET", path)
                    break
                except urllib.error.HTTPError as exc:
                    exc.close()
                    assert time.monotonic() < deadline, path
                time.sleep(0.05)

    def compact(self, revision: str = "") -> None:
        """Make etcd forget all history before a revision (now), as the API server has it do every five minutes."""
        newest = revision or self._etcd_call("range", {"key": "AA=="})["header"]["revision"]
        try:
            self._etcd_call("compaction", {"revision": newest})
        except urllib.error.HTTPError as exc:
            if b"required revision has been compacted" not in exc.read():
                raise

    def _etcd_call(self, method: str, body: object) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.etcd_port}/v3/kv/{method}"
        request = urllib.request.Request(url, json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found

    def kill(self, signal_number: int = signal.SIGKILL) -> None:
        """End both as a crash does."""
        self.kill_server(signal_number)
        self.kill_etcd(signal_number)

    def kill_server(self, signal_number: int = signal.SIGKILL) -> None:
        process, self._server = self._server, None
        _end(process, signal_number)

    def kill_etcd(self, signal_number: int = signal.SIGKILL) -> None:
        process, self._etcd = self._etcd, None
        _end(process, signal_number)

    def _write_tokens(self) -> None:
        self.kubeconfig_for("admin", ("system:masters",))
        lines = [f'{token},{user},{user},"{",".join(groups)}"' for user, (token, groups) in self._users.items()]
        (self.directory / "tokens.csv").write_text("\n".join(lines) + "\n")

    def _spawn(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        try:
            with open(self.directory / f"{name}.log", "ab") as log:
                return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        except FileNotFoundError as exc:
            raise UnsupportedError(
                what=f"there is no program {name}", todo="install it: apt-get install etcd-server"
            ) from exc


def _end(process: subprocess.Popen[bytes] | None, signal_number: int) -> None:
    if process is not None:
        process.send_signal(signal_number)
        process.wait()
