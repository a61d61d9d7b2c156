"""The agent's unix socket: framed JSON requests of local programs, routed to services by name.

Frame: 4 bytes length (big endian), then UTF-8 JSON. Request {"service": NAME, "request": {...}}; answer {"ok": true,
"result": {...}} or {"ok": false, "error": {"code": ..., "msg": ..., "details": ...}}. File descriptors sent along
(SCM_RIGHTS) reach the service as ``request["_fds"]`` and are closed after it. Only root and the agent's own user may
talk; one request a connection; sizes and times are limited, so a bad client costs one thread for a few seconds.
"""

from __future__ import annotations

import array
import contextlib
import json
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from calico_kernel.errors import CalicoError, ConfigError
from calico_kernel.hookspecs import LocalService

log = logging.getLogger(__name__)

MOST_BYTES = 1 << 20
MOST_FDS = 4
IO_TIMEOUT_S = 5.0
THREADS = 32
TRY_AGAIN, INVALID, INTERNAL = 11, 7, 999  # CNI spec, "Well-known Error Codes"


def refuse_where_served(path: str) -> None:
    """Raises ConfigError when an agent answers on the socket ``path``, or none ever could."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            answered = probe.connect_ex(path) == 0
        except (OSError, ValueError) as exc:  # not an address: too long, or with a zero byte
            raise ConfigError(what=f"cannot serve {path}: {exc}", todo="set a shorter agent.run_dir") from exc
        if answered:
            raise ConfigError(
                what=f"a node agent runs: it serves {path}", todo="stop it; a second one needs its own agent.run_dir"
            )


class LocalSocket:
    """Serves until ``close``. Raises ConfigError when the path cannot be bound or another agent serves it."""

    def __init__(self, path: str, services: Mapping[str, LocalService]) -> None:
        self._path = path
        self._services = services
        self._pool = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="local")
        self._listener = self._bind(path)
        self._thread = threading.Thread(target=self._accept, name="local-socket", daemon=True)
        self._closed = threading.Event()

    @staticmethod
    def _bind(path: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            refuse_where_served(path)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            mask = os.umask(0o177)
            try:
                listener.bind(path)
            finally:
                os.umask(mask)
            listener.listen(128)
        except OSError as exc:
            listener.close()
            raise ConfigError(
                what=f"cannot serve {path}: {exc.strerror or exc}", todo="check the directory's owner and mode"
            ) from exc
        except BaseException:
            listener.close()
            raise
        return listener

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop taking requests, let those under way finish, remove the file."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._closed.is_set():
                    return
                log.exception("accepting on the local socket failed")
                self._closed.wait(0.1)
                continue
            try:
                self._pool.submit(self._serve, connection)
            except RuntimeError:  # closing
                connection.close()

    def _serve(self, connection: socket.socket) -> None:
        fds: list[int] = []
        with connection:
            try:
                connection.settimeout(IO_TIMEOUT_S)
                if not self._permitted(connection):
                    answer = _error(INVALID, "this user may not talk to the node agent")
                else:
                    answer = self._answer(_receive(connection, fds), fds)
            except _BadRequestError as exc:
                answer = _error(INVALID, f"the request was refused: {exc}")
            except OSError:
                return
            finally:
                for fd in fds:
                    os.close(fd)
            with contextlib.suppress(OSError):
                data = json.dumps(answer, separators=(",", ":")).encode()
                connection.sendall(struct.pack(">I", len(data)) + data)

    @staticmethod
    def _permitted(connection: socket.socket) -> bool:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _pid, uid, _gid = struct.unpack("3i", raw)
        return uid in (0, os.geteuid())

    def _answer(self, frame: Mapping[str, Any], fds: list[int]) -> dict[str, Any]:
        name, request = frame.get("service"), frame.get("request")
        service = self._services.get(name) if isinstance(name, str) else None
        if service is None or not isinstance(request, dict):
            known = ", ".join(sorted(self._services)) or "nothing"
            return _error(INVALID, f"no such service: {name!r}", f"this agent serves: {known}")
        try:
            return {"ok": True, "result": service.handle({**request, "_fds": fds})}
        except CalicoError as exc:
            code = getattr(exc, "cni_code", TRY_AGAIN if exc.retryable else INTERNAL)
            return _error(code, exc.what, f"kept: {exc.kept}; to do: {exc.todo}")
        except Exception as exc:
            log.exception("service %s failed", name)
            return _error(INTERNAL, f"the node agent failed: {type(exc).__name__}", "its log has the details")


class _BadRequestError(Exception):
    pass


def _error(code: int, msg: str, details: str = "") -> dict[str, Any]:
    return {"ok": False, "error": {"code": code, "msg": msg, "details": details}}


def _wait(connection: socket.socket, deadline: float) -> None:
    """One deadline for the whole request: bytes that drip do not keep a thread."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise _BadRequestError("it took too long")
    connection.settimeout(left)


def _receive(connection: socket.socket, fds: list[int]) -> Mapping[str, Any]:
    """One frame; descriptors that came with it are appended to ``fds``."""
    deadline = time.monotonic() + IO_TIMEOUT_S
    head = b""
    while len(head) < 4:
        _wait(connection, deadline)
        part, ancillary, _flags, _address = connection.recvmsg(4 - len(head), socket.CMSG_SPACE(MOST_FDS * 4))
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
                fds.extend(numbers)
        if not part:
            raise _BadRequestError("it ended early")
        head += part
    (length,) = struct.unpack(">I", head)
    if length > MOST_BYTES:
        raise _BadRequestError(f"{length} bytes are more than {MOST_BYTES}")
    body = bytearray()
    while len(body) < length:
        _wait(connection, deadline)
        part = connection.recv(min(65536, length - len(body)))
        if not part:
            raise _BadRequestError("it ended early")
        body += part
    try:
        frame = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise _BadRequestError(f"it is not JSON: {exc}") from None
    if not isinstance(frame, dict):
        raise _BadRequestError("it is not a JSON object")
    return frame
