"""Requests to the Kubernetes API: connections, time limits, rate, and what its refusals say.

In:    method and path of a request, from calico_datastore_kdd.store and .watch.
Out:   the bytes of an answer, or the lines of a watch. ``Refused`` for what the server answered with an error,
       DatastoreUnavailable for everything that is in the way of an answer.
Owns:  connections that are kept open between requests, and those of watches.

HTTP/1.1 by the standard library, since a request is all that is needed: importing the official client takes most of a
second, and its models would be a second shape of every object. A request that was sent and got no answer is repeated
only if it changes nothing.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from calico_datastore_kdd.auth import Access
from calico_datastore_kdd.limiter import Limiter
from calico_kernel.errors import DatastoreUnavailable

CONNECT_S = 5.0
PAUSES_S = (0.05, 0.2)
"""Between attempts to connect: another server behind the same address may take the next one."""
KEEPALIVE = (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
PIECE_BYTES = 1 << 20
IDLE_CONNECTIONS = 8
ERROR_BYTES = 1 << 20
"""Of an answer that is an error, no more than this is read."""
JSON = "application/json"
_BROKEN = (OSError, http.client.HTTPException)  # ssl.SSLError is an OSError


class Status(msgspec.Struct, frozen=True):
    """What the API says of an error; of https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/
    the fields that we use."""

    message: str = ""
    reason: str = ""
    code: int = 0
    details: dict[str, Any] | None = None


_status = msgspec.json.Decoder(Status)


class Refused(Exception):
    """The server's answer is an error. ``user``: as whom we asked."""

    def __init__(self, method: str, target: str, status: Status, user: str) -> None:
        super().__init__(f"{method} {target}: {status.code} {status.message}")
        self.method, self.target, self.status, self.user = method, target, status, user

    @property
    def code(self) -> int:
        return self.status.code

    @property
    def causes(self) -> list[dict[str, Any]]:
        found = (self.status.details or {}).get("causes")
        return [cause for cause in found if isinstance(cause, dict)] if isinstance(found, list) else []


class Connection(http.client.HTTPConnection):
    """One connection; ``context`` is what it was secured with. ``used``: something was answered on it."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self.context = access.context()
        self.used = False
        self.socket: socket.socket | None = None
        super().__init__(access.host, access.port, timeout=CONNECT_S)
        if access.proxy is not None:
            host, port, login = access.proxy
            self.set_tunnel(access.host, access.port, {"Proxy-Authorization": login} if login else None)
            self.host, self.port = host, port

    def connect(self) -> None:
        super().connect()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE:
            if hasattr(socket, name):
                self.sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if self.context is not None:
            name = self._access.server_name or self._access.host
            self.sock = self.context.wrap_socket(self.sock, server_hostname=name)
        self.socket = self.sock  # which http.client lets go of when the server says that it will close

    def is_stale(self) -> bool:
        """Something came that was not asked for: mostly, that the server has closed it."""
        if self.sock is None:
            return True
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))


class Api:
    """Thread-safe."""

    def __init__(
        self, access: Access, *, qps: float, burst: int, request_timeout_s: float, log: logging.Logger
    ) -> None:
        self.access = access
        self._limiter = Limiter(qps, burst)
        self._timeout_s = request_timeout_s
        self._log = log
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._streams: set[Stream] = set()
        self.closed = False

    def call(self, method: str, target: str, body: bytes = b"", content_type: str = JSON) -> bytes:
        """The body of the answer. ``target``: path and query. Raises Refused, DatastoreUnavailable."""
        answer: bytes = self._attempts(method, target, body, content_type, self._read_answer)
        return answer

    def stream(self, target: str, idle_s: float) -> Stream:
        """A watch that is not open yet. ``idle_s``: when nothing at all comes for so long, it counts as broken."""
        stream = Stream(self, target, idle_s)
        with self._lock:
            self._streams.add(stream)
            closed = self.closed
        if closed:
            stream.close()
        return stream

    def close(self) -> None:
        with self._lock:
            self.closed = True
            idle, self._idle = self._idle, []
            streams, self._streams = self._streams, set()
        for connection in idle:
            connection.close()
        for stream in streams:
            stream.close()

    # ── inside ──

    def _attempts(
        self,
        method: str,
        target: str,
        body: bytes,
        content_type: str,
        finish: Callable[[Connection, http.client.HTTPResponse, float], Any],
        attach: Callable[[Connection], None] | None = None,
    ) -> Any:
        """What ``finish`` makes of a good answer. ``attach`` is told of each connection before it is used, which then
        is its own: it never goes back to the others."""
        deadline = time.monotonic() + self._timeout_s
        renewed, connects, broken = False, 0, 0
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not self._limiter.take(left_s):
                raise self._away("no answer in time", sent=False)
            try:
                connection = self._borrow()
            except _BROKEN as exc:
                if connects == len(PAUSES_S) or isinstance(exc, ssl.SSLCertVerificationError):
                    raise self._away(exc, sent=False) from exc
                time.sleep(PAUSES_S[connects])
                connects += 1
                continue
            reused = connection.used
            try:
                if attach is not None:
                    attach(connection)
                response = self._send(connection, method, target, body, content_type, deadline)
                if response.status < 300:
                    return finish(connection, response, deadline)
                refused = self._refusal(connection, response, method, target, deadline, keep=attach is None)
            except _BROKEN as exc:
                connection.close()
                # A connection that was kept may have been closed by the server just then.
                if method == "GET" and reused and not broken and not isinstance(exc, TimeoutError):
                    broken += 1
                    continue
                raise self._away(exc, sent=method != "GET") from exc
            except BaseException:
                connection.close()
                raise
            if refused.code == http.HTTPStatus.UNAUTHORIZED and not renewed:
                renewed = True
                self.access.renew()
                continue
            wait_s = _pause(response, refused)
            if wait_s is None or wait_s > deadline - time.monotonic():
                raise refused
            self._log.info("the Kubernetes API asks for patience (%s s): %s", wait_s, refused)
            time.sleep(wait_s)

    def _borrow(self) -> Connection:
        context = self.access.context()
        while True:
            with self._lock:
                if self.closed:
                    raise DatastoreUnavailable(what=f"the datastore {self.access.url} was closed", todo="open it again")
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                break
            if connection.context is context and not connection.is_stale():
                return connection
            connection.close()
        connection = Connection(self.access)
        connection.connect()
        return connection

    def _give_back(self, connection: Connection) -> None:
        connection.used = True
        with self._lock:
            if not self.closed and len(self._idle) < IDLE_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()

    def _send(
        self, connection: Connection, method: str, target: str, body: bytes, content_type: str, deadline: float
    ) -> http.client.HTTPResponse:
        authorization = self.access.authorization()
        connection.sock.settimeout(max(0.001, deadline - time.monotonic()))
        connection.putrequest(method, self.access.prefix + target, skip_accept_encoding=True)
        connection.putheader("Accept", JSON)
        connection.putheader("User-Agent", "calico-kernel")
        if authorization:
            connection.putheader("Authorization", authorization)
        for name, value in self.access.headers:
            connection.putheader(name, value)
        if body:
            connection.putheader("Content-Type", content_type)
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body or None)
        return connection.getresponse()

    def _read_answer(self, connection: Connection, response: http.client.HTTPResponse, deadline: float) -> bytes:
        raw = _read(connection, response, deadline)
        if response.will_close:
            connection.close()
        else:
            self._give_back(connection)
        return raw

    def _refusal(
        self,
        connection: Connection,
        response: http.client.HTTPResponse,
        method: str,
        target: str,
        deadline: float,
        *,
        keep: bool,
    ) -> Refused:
        raw = _read(connection, response, deadline, ERROR_BYTES)
        if keep and response.isclosed() and not response.will_close:
            self._give_back(connection)
        else:
            connection.close()
        try:
            status = _status.decode(raw)
        except msgspec.DecodeError:
            status = Status(message=raw[:300].decode("utf-8", "replace").strip() or response.reason)
        # The line of the answer decides, whatever a proxy may have put in its body.
        status = Status(status.message or response.reason, status.reason, response.status, status.details)
        return Refused(method, target, status, self.access.who)

    def _away(self, why: object, *, sent: bool) -> DatastoreUnavailable:
        url = self.access.url
        todo = "check that the API server runs there and can be reached; the call may be repeated"
        if isinstance(why, ssl.SSLCertVerificationError):
            why = f"its certificate is not to be trusted: {why.verify_message}"
            todo = "check datastore.ca_cert_file or the kubeconfig's certificate-authority, and that this is the server"
        elif isinstance(why, TimeoutError):
            why = "no answer in time"
        elif isinstance(why, http.client.IncompleteRead):
            why = "its answer broke off"
        elif isinstance(why, http.client.HTTPException) and not isinstance(why, OSError):
            why = f"what answers there speaks no HTTP ({why!r})"
        return DatastoreUnavailable(
            what=f"the Kubernetes API {url} is not available ({why})",
            kept="the write may have happened: read the record again" if sent else "nothing was written",
            todo=todo,
        )

    def forget(self, stream: Stream) -> None:
        with self._lock:
            self._streams.discard(stream)


class Stream:
    """The lines of one watch; one thread opens and reads, any may close."""

    def __init__(self, api: Api, target: str, idle_s: float) -> None:
        self._api, self._target, self._idle_s = api, target, idle_s
        self._lock = threading.Lock()
        self._closed = False
        self._connection: Connection | None = None
        self._response: http.client.HTTPResponse | None = None

    def open(self) -> None:
        """Raises as ``Api.call``."""
        self._api._attempts("GET", self._target, b"", "", self._opened, self._attach)

    def _attach(self, connection: Connection) -> None:
        with self._lock:
            self._connection = connection
            if self._closed:
                raise ConnectionAbortedError("closed")

    def _opened(self, connection: Connection, response: http.client.HTTPResponse, _deadline: float) -> None:
        assert connection.socket is not None
        connection.socket.settimeout(self._idle_s)
        self._response = response

    def lines(self) -> Iterator[list[bytes]]:
        """Lots of whole lines, as they come, until the server ends the stream in order. Raises DatastoreUnavailable
        when it breaks."""
        assert self._response is not None
        pieces: list[bytes] = []
        while True:
            try:
                piece = self._response.read1(PIECE_BYTES)
            except (*_BROKEN, ValueError, AttributeError) as exc:  # the last two: closed by another thread
                raise self._api._away(exc, sent=False) from exc
            if not piece:
                return
            whole, newline, rest = piece.rpartition(b"\n")
            if newline:
                pieces.append(whole)
                yield b"".join(pieces).split(b"\n")
                pieces.clear()
            if rest:
                pieces.append(rest)

    def close(self) -> None:
        """Wakes the reader."""
        self._api.forget(self)
        with self._lock:
            self._closed = True
            sock = self._connection.socket if self._connection is not None else None
        if sock is not None:
            with contextlib.suppress(OSError):
                # Not the method of SSLSocket, which takes its state away from the thread that reads.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def discard(self) -> None:
        """By the reader, when it is done."""
        self.close()
        if self._response is not None:
            self._response.close()
        if self._connection is not None:
            self._connection.close()


def _read(connection: Connection, response: http.client.HTTPResponse, deadline: float, most: int = 1 << 40) -> bytes:
    """The body, whole, by the deadline: a server that sends a byte now and then does not hold us up."""
    pieces: list[bytes] = []
    size = 0
    while size < most and not response.isclosed():
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        assert connection.socket is not None
        connection.socket.settimeout(left_s)
        piece = response.read1(PIECE_BYTES)
        if not piece:
            break
        pieces.append(piece)
        size += len(piece)
    if size < most:
        if response.length:  # it says how much there was to come
            raise http.client.IncompleteRead(b"", response.length)
        response.close()  # read1 leaves that to us when all of a stated length was read
    return b"".join(pieces)


def _pause(response: http.client.HTTPResponse, refused: Refused) -> float | None:
    """How long the server asks to wait before the same again; None when it does not ask. It was not carried out."""
    if refused.code != http.HTTPStatus.TOO_MANY_REQUESTS:
        return None
    asked = response.headers.get("Retry-After", "")
    return float(asked) if asked.isdecimal() and len(asked) < 6 else 1.0
