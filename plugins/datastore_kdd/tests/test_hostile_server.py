"""An API server that misbehaves, or something else in its place: no call hangs, lies or breaks, and nothing is written
twice."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import attrs
import pytest

from calico_datastore_kdd import watch as watch_module
from calico_datastore_kdd.api import Api, Refused
from calico_datastore_kdd.auth import Access
from calico_datastore_kdd.limiter import Limiter
from calico_datastore_kdd.settings import KubernetesSettings
from calico_datastore_kdd.store import KubernetesDatastore
from calico_kernel.errors import DatastoreError, DatastoreUnavailable, NotPermitted, RevisionTooOld, ValidationError
from calico_kernel.model.keys import ResourceKey, ResourceQuery
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.network import GlobalNetworkSet
from calico_kernel.model.records import Event
from calico_kernel.testing.datastore import read_on

SETS = ResourceQuery("GlobalNetworkSet")
KEY = ResourceKey("GlobalNetworkSet", "", "a")
VALUE = GlobalNetworkSet(metadata=ObjectMeta(name="a"))
STORED = {
    "apiVersion": "crd.projectcalico.org/v1",
    "kind": "GlobalNetworkSet",
    "metadata": {"name": "a", "resourceVersion": "7", "uid": "00000001-0203-4405-8607-08090a0b0c0d"},
}
LIST = {"kind": "GlobalNetworkSetList", "metadata": {"resourceVersion": "99"}, "items": [STORED]}

Serve = Callable[[str, socket.socket], bool | None]


@attrs.define(eq=False)
class Impostor:
    """Reads requests and answers as a test says: ``serve(head, socket)`` returns True to keep the connection."""

    serve: Serve
    heads: list[str] = attrs.field(factory=list)
    _listener: socket.socket = attrs.field(factory=lambda: socket.create_server(("127.0.0.1", 0)))

    def __attrs_post_init__(self) -> None:
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        found: int = self._listener.getsockname()[1]
        return found

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                ours, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(ours,), daemon=True).start()

    def _talk(self, ours: socket.socket) -> None:
        with ours:
            try:
                while head := self._request(ours):
                    self.heads.append(head)
                    if not self.serve(head, ours):
                        return
            except OSError:
                return

    @staticmethod
    def _request(ours: socket.socket) -> str:
        """The head; the body is read and forgotten."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = ours.recv(65536)
            if not piece:
                return ""
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0)
        while len(body) < length:
            body += ours.recv(65536)
        return head.decode()


def answer(status: str, body: object, *headers: str) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(raw)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + raw


def always(raw: bytes) -> Serve:
    def serve(_head: str, ours: socket.socket) -> bool:
        ours.sendall(raw)
        return True

    return serve


@pytest.fixture
def impostor() -> Iterator[Callable[[Serve], Impostor]]:
    made: list[Impostor] = []

    def make(serve: Serve) -> Impostor:
        made.append(Impostor(serve))
        return made[-1]

    yield make
    for one in made:
        one.close()


def opened(server: Impostor, **settings: Any) -> KubernetesDatastore:
    given = {"request_timeout_s": 1.0, "qps": 0.0, "api_group": "crd.projectcalico.org/v1"} | settings
    return KubernetesDatastore(KubernetesSettings(api_endpoint=f"http://127.0.0.1:{server.port}", **given))


def slowly(_head: str, ours: socket.socket) -> None:
    ours.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        ours.sendall(b" ")
        time.sleep(0.02)


def endless_head(_head: str, ours: socket.socket) -> None:
    ours.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        ours.sendall(b"X-More: " + b"x" * 1000 + b"\r\n")


def never(_head: str, ours: socket.socket) -> None:
    ours.recv(1)


RUBBISH: dict[str, Serve] = {
    "slow body": slowly,
    "endless head": endless_head,
    "no answer": never,
    "no http": always(b"220 smtp ready\r\n"),
    "nothing": lambda _head, _ours: None,
    "cut body": lambda _head, ours: ours.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}"),
    "cut chunk": lambda _head, ours: ours.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{}"),
    "bad chunk": always(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}"),
    "html": always(answer("200 OK", b"<html>welcome</html>")),
    "empty": always(answer("200 OK", b"")),
    "not utf-8": always(answer("200 OK", b"\xff\xfe\x00")),
    "deep": always(answer("200 OK", b"[" * 100_000)),
    "another document": always(answer("200 OK", b'{"items":7,"metadata":3}')),
    "server error": always(answer("500 Internal Server Error", b"boom")),
    "bad gateway": always(answer("502 Bad Gateway", b"<html>")),
    "patience": always(answer("429 Too Many Requests", b"", "Retry-After: 60")),
}


@pytest.mark.parametrize("kind", RUBBISH)
def test_rubbish_for_an_answer_is_unavailability(kind: str, impostor: Callable[[Serve], Impostor]) -> None:
    server = impostor(RUBBISH[kind])
    with closing(opened(server)) as store:
        calls: list[Callable[[], object]] = [
            lambda: store.list([SETS]),
            lambda: store.get(KEY),
            lambda: store.create(KEY, VALUE),
        ]
        for call in calls:
            with pytest.raises(DatastoreUnavailable) as caught:
                call()
            assert caught.value.todo
    assert sum(head.startswith("POST") for head in server.heads) <= 1, "a write was sent again"


def test_redirect_is_not_followed(impostor: Callable[[Serve], Impostor]) -> None:
    server = impostor(always(answer("302 Found", b"", "Location: http://127.0.0.1:1/")))
    with closing(opened(server)) as store, pytest.raises(DatastoreError, match="302"):
        store.list([SETS])


def test_server_that_asks_for_patience_gets_it(impostor: Callable[[Serve], Impostor]) -> None:
    answers = [answer("429 Too Many Requests", b"", "Retry-After: 0")] * 3 + [answer("201 Created", STORED)]

    def serve(_head: str, ours: socket.socket) -> bool:
        ours.sendall(answers.pop(0))
        return True

    server = impostor(serve)
    with closing(opened(server)) as store:
        assert store.create(KEY, VALUE).revision == "7"
    assert len(server.heads) == 4


def test_connection_that_the_server_closed_meanwhile_is_not_used_for_a_write(
    impostor: Callable[[Serve], Impostor],
) -> None:
    def serve(head: str, ours: socket.socket) -> bool:
        ours.sendall(answer("201 Created", STORED) if head.startswith("POST") else answer("200 OK", STORED))
        return False

    server = impostor(serve)
    with closing(opened(server)) as store:
        for _ in range(5):
            store.get(KEY)
            time.sleep(0.01)  # its end of the connection is on its way
            store.create(KEY, VALUE)


@pytest.mark.parametrize(
    ("status", "body", "error", "says"),
    [
        (
            "403 Forbidden",
            {"message": 'globalnetworksets is forbidden: User "x" cannot list it'},
            NotPermitted,
            r'"apiGroups": \["crd.projectcalico.org"\], "resources": \["globalnetworksets"\], "verbs": \["list"\]',
        ),
        ("401 Unauthorized", {"message": "Unauthorized"}, NotPermitted, "does not take the credentials"),
        ("410 Gone", {"message": "too old"}, RevisionTooOld, "list again"),
        ("404 Not Found", b"404 page not found", DatastoreUnavailable, r"calicoctl crds \| kubectl apply"),
        (
            "422 Unprocessable Entity",
            {"message": "bad", "details": {"causes": [{"field": "spec.nets[0]", "message": "no network"}]}},
            ValidationError,
            r"spec.nets\[0\]: no network",
        ),
        ("413 Request Entity Too Large", {"message": "limit is 3145728"}, DatastoreError, "too large"),
        ("409 Conflict", {"message": "odd"}, DatastoreError, "409"),
    ],
)
def test_refusal_becomes_an_error_that_says_what_to_change(
    status: str, body: object, error: type[Exception], says: str, impostor: Callable[[Serve], Impostor]
) -> None:
    server = impostor(always(answer(status, body)))
    with closing(opened(server)) as store, pytest.raises(error, match=says):
        store.list([SETS])


# ── watches ──


def watching(stream: Serve) -> Serve:
    """Lists are answered well, watches by ``stream``."""

    def serve(head: str, ours: socket.socket) -> bool | None:
        if "watch=1" in head.split()[1]:
            return stream(head, ours)
        ours.sendall(answer("200 OK", LIST))
        return True

    return serve


def stream_of(*lines: bytes, wait: bool = True) -> Serve:
    def serve(_head: str, ours: socket.socket) -> None:
        ours.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for line in lines:
            ours.sendall(b"%x\r\n%s\n\r\n" % (len(line) + 1, line))
        if wait:
            ours.recv(1)
        else:
            ours.sendall(b"0\r\n\r\n")

    return serve


def event(kind: str, revision: str) -> bytes:
    meta = {"name": "a", "resourceVersion": revision}
    return json.dumps({"type": kind, "object": STORED | {"metadata": meta}}).encode()


def error_event(code: int) -> bytes:
    status = {"kind": "Status", "code": code, "message": "because", "reason": "Expired"}
    return json.dumps({"type": "ERROR", "object": status}).encode()


def test_watch_that_ends_at_once_is_not_opened_in_a_busy_loop(impostor: Callable[[Serve], Impostor]) -> None:
    server = impostor(watching(stream_of(wait=False)))
    with closing(opened(server)) as store:
        watch = store.watch([SETS], revision="9")
        assert list(watch.next(1.0)) == []
        watch.close()
    assert 2 <= len(server.heads) < 15


@pytest.mark.parametrize("line", [b"rubbish", b"{}", b'{"type":"ADDED","object":7}', b"\xff" * 100, error_event(500)])
def test_rubbish_on_a_watch_is_unavailability_and_the_position_stays(
    line: bytes, impostor: Callable[[Serve], Impostor]
) -> None:
    server = impostor(watching(stream_of(event("ADDED", "10"), line)))
    with closing(opened(server)) as store:
        watch = store.watch([SETS], revision="9")
        found = [*watch.next(5)]
        assert [one.revision for one in found] == ["10"]
        with pytest.raises(DatastoreUnavailable):
            read_on(watch, found)
        deadline = time.monotonic() + 5
        while not any("resourceVersion=10&" in head and "watch=1" in head for head in server.heads):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        watch.close()


def test_event_that_comes_in_pieces_is_put_together(impostor: Callable[[Serve], Impostor]) -> None:
    whole = event("ADDED", "10") + b"\n" + event("MODIFIED", "11") + b"\n"

    def serve(_head: str, ours: socket.socket) -> None:
        ours.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for at in range(0, len(whole), 7):
            piece = whole[at : at + 7]
            ours.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        ours.recv(1)

    with closing(opened(impostor(watching(serve)))) as store:
        watch = store.watch([SETS], revision="9")
        found = [*watch.next(5)]
        while len(found) < 2:
            found += watch.next(5)
        assert [one.revision for one in found] == ["10", "11"]
        watch.close()


@pytest.mark.parametrize("as_status", [True, False])
def test_expired_watch_says_too_old_after_what_came_before(
    as_status: bool, impostor: Callable[[Serve], Impostor]
) -> None:
    if as_status:
        serve: Serve = always(answer("410 Gone", {"message": "too old", "code": 410}))
    else:
        serve = stream_of(event("ADDED", "10"), error_event(410))
    with closing(opened(impostor(watching(serve)))) as store:
        watch = store.watch([SETS], revision="9")
        found: list[Event] = []
        with pytest.raises(RevisionTooOld):
            read_on(watch, found)
        assert len(found) == (0 if as_status else 1)
        watch.close()


def test_half_open_watch_is_noticed_and_opened_anew(
    impostor: Callable[[Serve], Impostor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "IDLE_S", 0.2)
    server = impostor(watching(stream_of(event("BOOKMARK", "12"))))
    with closing(opened(server)) as store:
        watch = store.watch([SETS], revision="9")
        deadline = time.monotonic() + 10
        while not any("resourceVersion=12&" in head and "watch=1" in head for head in server.heads):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        watch.close()


def test_closing_ends_every_thread_of_a_watch_that_hangs(impostor: Callable[[Serve], Impostor]) -> None:
    for serve in (never, stream_of(), slowly):
        with closing(opened(impostor(watching(serve)), request_timeout_s=30)) as store:
            watch = store.watch([SETS, ResourceQuery("IPPool")], revision="9")
            watch.next(0.1)
            watch.close()
            assert list(watch.next(5)) == []
    deadline = time.monotonic() + 20
    while any(thread.name.startswith("calico-kdd-") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ── rate ──


def test_no_more_than_the_burst_goes_out_at_once() -> None:
    limiter = Limiter(qps=0.001, burst=3)
    assert [limiter.take(0) for _ in range(5)] == [True, True, True, False, False]
    unlimited = Limiter(qps=0, burst=0)
    assert all(unlimited.take(0) for _ in range(1000))


def test_turn_that_would_come_too_late_is_unavailability(impostor: Callable[[Serve], Impostor]) -> None:
    server = impostor(always(answer("200 OK", STORED)))
    with closing(opened(server, qps=0.001, burst=1)) as store:
        store.get(KEY)
        with pytest.raises(DatastoreUnavailable):
            store.get(KEY)
    assert len(server.heads) == 1


def test_refused_request_says_as_whom_it_was_made(impostor: Callable[[Serve], Impostor]) -> None:
    server = impostor(always(answer("404 Not Found", {"message": "none", "details": {"name": "x"}})))
    access = Access(secure=False, host="127.0.0.1", port=server.port, who="nobody")
    api = Api(access, qps=0, burst=0, request_timeout_s=1, log=logging.getLogger(__name__))
    with pytest.raises(Refused) as caught:
        api.call("GET", "/x")
    assert (caught.value.code, caught.value.user) == (404, "nobody")
