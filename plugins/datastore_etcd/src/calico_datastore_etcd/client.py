"""Calls to the members of one etcd cluster: connecting, failing over, authenticating, and what its errors mean.

In:    requests of calico_datastore_etcd.store and .watch.
Out:   HTTP/2 connections to one member at a time; answers, or this project's errors.
Owns:  the connections and the token of this process.

A call that could not be sent is tried on the next member until ``dial_timeout_s`` is over. One that was sent and got no
answer is repeated only if it changes nothing: a write may have happened, and only its caller can find out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from msgspec import Struct

from calico_datastore_etcd import proto
from calico_datastore_etcd.settings import EtcdSettings
from calico_kernel.errors import ConfigError, DatastoreError, DatastoreUnavailable, NotPermitted, RevisionTooOld

OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),  # as Calico's client: a member that vanished is noticed after 40 s
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),  # a proxy for the web is none for etcd
    # Connections are given up and made anew here, where the files of TLS are read again; a channel that shares its
    # sockets with its predecessor would inherit that one's waiting time.
    ("grpc.use_local_subchannel_pool", 1),
)
DISCOVER_AGAIN_S = 1.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.25
_NOT_SENT = ("failed to connect", "DNS resolution failed", "connections to all backends failing")
_CONNECTION = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)
"""Where another member, or the same one a moment later, may answer."""
_NO_TOKEN = ("invalid auth token", "revision of auth store is old")


Address = tuple[bool, str]
"""(TLS?, host:port)"""


class Connection(Struct, eq=False):
    """One channel to one member, and its calls."""

    address: str
    channel: grpc.Channel
    calls: dict[str, Any]
    watch: Any


class EtcdClient:
    """Thread-safe."""

    def __init__(self, settings: EtcdSettings, log: logging.Logger) -> None:
        self._settings = settings
        self._log = log
        self._addresses = settings.addresses()
        self._lock = threading.Lock()
        self._connections: dict[Address, Connection] = {}
        self._at = 0
        self._discover_after: float | None = 0.0 if settings.discovery_srv else None
        """Before the next connection, DNS is asked for the members, from that moment on; None: it is not."""
        self._token: str | None = None
        self._closed = False
        self.cluster_id = 0
        """Of the cluster that answered last; revisions of two clusters have nothing in common."""

    # ── use ──

    def call(self, method: str, request: Any, *, changes: bool = False) -> Any:
        """The answer. ``changes``: it must not be sent twice. Raises DatastoreUnavailable and, for what etcd refuses,
        RevisionTooOld, NotPermitted or DatastoreError."""
        deadline = time.monotonic() + self._settings.dial_timeout_s
        pause_s, failures, renewed = FIRST_PAUSE_S, 0, False
        while True:
            connection = self.connection()
            try:
                answer = connection.calls[method](
                    request, timeout=self._settings.request_timeout_s, metadata=self.metadata()
                )
            except grpc.RpcError as exc:
                if is_about_token(exc) and not renewed:
                    renewed = True
                    self.forget_token()
                    continue
                error = self.error(exc, connection.address, changes=changes)
                if exc.code() not in _CONNECTION:
                    raise error from exc
                self.failed(connection)
                not_sent = was_not_sent(exc)
                timed_out = exc.code() == grpc.StatusCode.DEADLINE_EXCEEDED
                if (changes and not not_sent) or (timed_out and len(self._addresses) == 1):
                    raise error from exc
                failures += 1
                if failures % len(self._addresses) == 0:
                    if time.monotonic() >= deadline:
                        raise error from exc
                    time.sleep(max(0.0, min(pause_s, deadline - time.monotonic())))
                    pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                continue
            except ValueError as exc:  # grpc's word for a closed channel
                raise self._was_closed() from exc
            self._note_cluster(answer.header.cluster_id)
            return answer

    def open_watch(self, requests: Iterator[Any]) -> tuple[Connection, Any]:
        """A stream of watch responses, and the connection to report with ``failed`` when it breaks."""
        connection = self.connection()
        try:
            # "hasleader": a member that lost the others ends the stream, and we move on.
            return connection, connection.watch(requests, metadata=(*self.metadata(), ("hasleader", "true")))
        except grpc.RpcError as exc:
            raise self.error(exc, connection.address, changes=False) from exc
        except ValueError as exc:
            raise self._was_closed() from exc

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for connection in self._connections.values():
                connection.channel.close()
            self._connections = {}

    # ── members ──

    def connection(self) -> Connection:
        with self._lock:
            if self._closed:
                raise self._was_closed()
            found = self._connections.get(self._addresses[self._at]) if self._addresses else None
            if found is None:
                self._discover()
                address = self._addresses[self._at]
                found = self._connections.get(address)
                if found is None:
                    found = self._connections[address] = self._connect(*address)
            return found

    def failed(self, connection: Connection) -> None:
        """Let go of the connection and turn to the next member, unless another thread did already. It is not closed:
        calls that others have in flight on it end by themselves."""
        with self._lock:
            current = self._addresses[self._at]
            if self._connections.get(current) is connection:
                del self._connections[current]
                self._at = (self._at + 1) % len(self._addresses)
                if len(self._addresses) > 1:
                    self._log.warning(
                        "etcd member %s failed; trying %s", connection.address, self._addresses[self._at][1]
                    )

    def _discover(self) -> None:
        """Where DNS tells the members, ask it, unless it was asked a moment ago. While it does not answer, the members
        known before count on."""
        if self._discover_after is None or time.monotonic() < self._discover_after:
            return
        from calico_datastore_etcd import discovery

        try:
            found = discovery.members(self._settings.discovery_srv, within_s=self._settings.dial_timeout_s)
        except DatastoreUnavailable as exc:
            if not self._addresses:
                raise
            self._log.warning("%s; going on with the members known before", exc.what)
        else:
            if set(found) != set(self._addresses):
                self._log.info("members of etcd by DNS: %s", ", ".join(address for _, address in found))
                self._addresses, self._at = found, 0
        self._discover_after = time.monotonic() + DISCOVER_AGAIN_S

    def _connect(self, secure: bool, address: str) -> Connection:
        if secure:
            credentials = grpc.ssl_channel_credentials(
                self._settings.ca_cert.encode() or read_file("ca_cert_file", self._settings.ca_cert_file),
                self._settings.key.encode() or read_file("key_file", self._settings.key_file),
                self._settings.cert.encode() or read_file("cert_file", self._settings.cert_file),
            )
            channel = grpc.secure_channel(address, credentials, OPTIONS)
        else:
            channel = grpc.insecure_channel(address, OPTIONS)
        return Connection(
            address=address,
            channel=channel,
            calls={
                method: channel.unary_unary(
                    proto.method_path(method),
                    request_serializer=lambda message: message.SerializeToString(),
                    response_deserializer=proto.response_class(method).FromString,
                )
                for method in proto.METHODS
            },
            watch=channel.stream_stream(
                proto.WATCH_METHOD,
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=proto.WatchResponse.FromString,
            ),
        )

    def _note_cluster(self, cluster_id: int) -> None:
        if cluster_id != self.cluster_id:
            if self.cluster_id:
                self._log.warning("another etcd cluster answers now (%x, was %x)", cluster_id, self.cluster_id)
            self.cluster_id = cluster_id

    def _was_closed(self) -> DatastoreUnavailable:
        return DatastoreUnavailable(what=f"the datastore {self._members()} was closed", todo="open it again")

    def _members(self) -> str:
        return ", ".join(address for _, address in self._addresses)

    # ── authentication ──

    def metadata(self) -> Sequence[tuple[str, str]]:
        if not self._settings.username:
            return ()
        if self._token is None:
            self._token = self._authenticate()
        return (("token", self._token),) if self._token else ()

    def forget_token(self) -> None:
        self._token = None

    def _authenticate(self) -> str:
        """A token; "" when the cluster asks for none."""
        connection = self.connection()
        request = proto.AuthenticateRequest(name=self._settings.username, password=self._settings.password)
        try:
            token: str = connection.calls["Authenticate"](request, timeout=self._settings.request_timeout_s).token
        except grpc.RpcError as exc:
            if exc.code() == grpc.StatusCode.FAILED_PRECONDITION:  # "authentication is not enabled"
                return ""
            raise
        return token

    # ── errors ──

    def error(self, exc: grpc.RpcError, address: str, *, changes: bool) -> DatastoreError:
        """What an error of gRPC or etcd means to our callers."""
        code, details = exc.code(), exc.details() or ""
        status = grpc.StatusCode
        kept = "nothing was written"
        if "compacted" in details or "future revision" in details:
            return RevisionTooOld(
                what=f"etcd {address}: {details}",
                todo="list again and watch from there",
                other_history="future" in details,
            )
        if code == status.PERMISSION_DENIED:
            return NotPermitted(
                what=f"etcd {address} does not permit it to user {self._settings.username!r}",
                todo="give the user's role read and write permission on the prefix /calico/ (etcdctl role "
                "grant-permission --prefix=true)",
            )
        if "user name is empty" in details or "authentication failed" in details or is_about_token(exc):
            return DatastoreUnavailable(
                what=f"etcd {address} refused user {self._settings.username!r}: {details}",
                kept=kept,
                todo="check datastore.username and datastore.password",
            )
        if "request is too large" in details or "larger than max" in details:
            return DatastoreError(
                what=f"etcd {address}: {details}", todo="split the record, or raise --max-request-bytes of etcd"
            )
        if "database space exceeded" in details:
            return DatastoreUnavailable(
                what=f"etcd {address} is full: {details}",
                kept=kept,
                todo="compact and defragment it, then etcdctl alarm disarm; or raise --quota-backend-bytes",
            )
        if code in (*_CONNECTION, status.RESOURCE_EXHAUSTED, status.ABORTED):
            said = "no answer in time" if code == status.DEADLINE_EXCEEDED else details
            return DatastoreUnavailable(
                what=f"etcd {address} is not available ({said}; members: {self._members()})",
                kept=kept if not changes or was_not_sent(exc) else "the write may have happened: read the record again",
                todo="check that etcd runs there and can be reached, and datastore.endpoints; the call may be repeated",
            )
        return DatastoreError(what=f"etcd {address}: {code.name}: {details}", todo="look at etcd's log")


def was_not_sent(exc: grpc.RpcError) -> bool:
    return exc.code() == grpc.StatusCode.UNAVAILABLE and any(sign in (exc.details() or "") for sign in _NOT_SENT)


def is_about_token(exc: grpc.RpcError) -> bool:
    return any(sign in (exc.details() or "") for sign in _NO_TOKEN)


def read_file(name: str, path: str) -> bytes | None:
    if not path:
        return None
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as exc:
        raise ConfigError(
            what=f"datastore.{name}: {path} cannot be read: {exc.strerror}", todo="correct the path or its mode"
        ) from exc
