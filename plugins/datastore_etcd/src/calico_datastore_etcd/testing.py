"""A real etcd for tests and benchmarks: one member on loopback, with its data in a directory of the caller's.

In:    the program ``etcd`` (Debian: etcd-server).
Out:   one process, stopped by its pid. Its ports are free ones, kept over restarts.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import attrs
import grpc

from calico_datastore_etcd import proto
from calico_kernel.errors import UnsupportedError

START_S = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@attrs.define
class EtcdServer:
    """``arguments``: further options of etcd, e.g. of TLS. ``members``: peer URLs by name, for a cluster of several."""

    directory: Path
    name: str = "one"
    scheme: str = "http"
    arguments: Sequence[str] = ()
    port: int = attrs.field(factory=free_port)
    peer_port: int = attrs.field(factory=free_port)
    members: dict[str, str] = attrs.field(factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def peer_url(self) -> str:
        return f"http://127.0.0.1:{self.peer_port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def spawn(self) -> None:
        """Start it without waiting."""
        members = self.members or {self.name: self.peer_url}
        command = [
            *("etcd", "--name", self.name, "--data-dir", str(self.directory / self.name)),
            *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
            *("--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url),
            *("--initial-cluster", ",".join(f"{name}={url}" for name, url in members.items())),
            *("--heartbeat-interval", "50", "--election-timeout", "500", "--log-level", "error", "--logger", "zap"),
        ]
        try:
            with open(self.directory / f"{self.name}.log", "ab") as log:
                self._process = subprocess.Popen(
                    [*command, *self.arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
        except FileNotFoundError as exc:
            raise UnsupportedError(
                what="there is no program etcd", todo="install it: apt-get install etcd-server"
            ) from exc

    def start(self) -> None:
        self.spawn()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Until it accepts connections and, over plain HTTP, has a leader."""
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (self.directory / f"{self.name}.log").read_text(errors="replace")[-2000:]
                raise UnsupportedError(what=f"etcd did not start: {said}", todo="look at what it said")
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        if self.scheme != "http":
            return True
        try:
            self.call("Range", proto.RangeRequest(key=b"x"), timeout_s=1.0)
        except grpc.RpcError as exc:
            return exc.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        return True

    def call(self, method: str, request: object, *, timeout_s: float = 10.0) -> object:
        """One call of the raw API, on a connection of its own."""
        with grpc.insecure_channel(f"127.0.0.1:{self.port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
            return channel.unary_unary(
                proto.method_path(method),
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=proto.response_class(method).FromString,
            )(request, timeout=timeout_s)

    def wipe(self) -> None:
        """Delete every key; revisions go on."""
        self.call("DeleteRange", proto.DeleteRangeRequest(key=b"\0", range_end=b"\0"))

    def kill(self, signal_number: int = signal.SIGKILL) -> None:
        """End it as a crash does. What it acknowledged is on disk."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal_number)
            process.wait()
