"""The local socket answers good requests, refuses bad ones with a reason, and stays alive."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import stat
import struct
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from calico_kernel.agent import local_socket, node
from calico_kernel.agent.local_socket import LocalSocket, refuse_where_served
from calico_kernel.config import load
from calico_kernel.errors import ConfigError, DatastoreUnavailable, IpamError
from calico_kernel.hookspecs import LocalService


class Echo(LocalService):
    name: ClassVar[str] = "echo"

    def handle(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        if request.get("fail") == "retry":
            raise DatastoreUnavailable(what="the disk sleeps", todo="wake it")
        if request.get("fail") == "final":
            raise IpamError(what="no", todo="stop")
        if request.get("fail") == "bug":
            raise ZeroDivisionError
        inodes = [os.fstat(fd).st_ino for fd in request["_fds"]]
        return {"said": request.get("say"), "inodes": inodes}


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "agent.sock")


@pytest.fixture
def served(path: str) -> Iterator[LocalSocket]:
    server = LocalSocket(path, {"echo": Echo()})
    server.start()
    yield server
    server.close()


def exchange(path: str, payload: bytes, *, fds: list[int] | None = None, length: int | None = None) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(path)
        head = struct.pack(">I", len(payload) if length is None else length)
        if fds:
            socket.send_fds(sock, [head], fds)
        else:
            sock.sendall(head)
        with contextlib.suppress(OSError):  # the server may have answered and closed already
            sock.sendall(payload)
            sock.shutdown(socket.SHUT_WR)
        data = b""
        while part := sock.recv(65536):
            data += part
    answer: dict[str, Any] = json.loads(data[4:])
    return answer


def ask(path: str, **request: object) -> dict[str, Any]:
    return exchange(path, json.dumps({"service": "echo", "request": request}).encode())


@pytest.mark.usefixtures("served")
def test_a_request_is_answered_and_the_socket_is_private(path: str) -> None:
    assert ask(path, say="hello") == {"ok": True, "result": {"said": "hello", "inodes": []}}
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


@pytest.mark.usefixtures("served")
def test_descriptors_travel_and_are_closed_afterwards(path: str, tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.touch()
    fd = os.open(file, os.O_RDONLY)
    before = len(os.listdir("/proc/self/fd"))
    payload = json.dumps({"service": "echo", "request": {}}).encode()
    answer = exchange(path, payload, fds=[fd])
    os.close(fd)
    assert answer["result"]["inodes"] == [file.stat().st_ino]
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.usefixtures("served")
def test_errors_carry_a_code_that_says_whether_to_try_again(path: str) -> None:
    assert ask(path, fail="retry")["error"]["code"] == local_socket.TRY_AGAIN
    assert ask(path, fail="final")["error"]["code"] == local_socket.INTERNAL
    bug = ask(path, fail="bug")["error"]
    assert bug["code"] == local_socket.INTERNAL
    assert "ZeroDivisionError" in bug["msg"]


RUBBISH = [
    b"",
    b"not json",
    b"[]",
    b"null",
    b"{}",
    b'{"service": 7, "request": {}}',
    b'{"service": "nobody", "request": {}}',
    b'{"service": "echo", "request": 3}',
    b"[" * 100_000,
    b"\xff\xfe\x00",
]


@pytest.mark.usefixtures("served")
def test_a_thousand_bad_requests_are_refused_with_reasons_and_a_good_one_still_works(path: str) -> None:
    for number in range(1000):
        answer = exchange(path, RUBBISH[number % len(RUBBISH)])
        assert answer["ok"] is False
        assert answer["error"]["msg"]
    assert ask(path, say=1)["ok"]


@pytest.mark.usefixtures("served")
def test_an_oversized_or_cut_request_is_refused(path: str) -> None:
    assert "more than" in exchange(path, b"", length=1 << 30)["error"]["msg"]
    assert "ended early" in exchange(path, b"{", length=100)["error"]["msg"]


@pytest.mark.usefixtures("served")
def test_a_client_that_says_nothing_is_dropped(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_socket, "IO_TIMEOUT_S", 0.05)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(path)
        sock.recv(1)  # returns: closed, or an error frame
    assert ask(path, say=1)["ok"]


@pytest.mark.usefixtures("served")
def test_a_second_agent_on_the_same_socket_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="a node agent runs"):
        LocalSocket(path, {})


def test_a_socket_left_by_a_killed_agent_is_taken_over(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    server = LocalSocket(path, {"echo": Echo()})
    server.start()
    assert ask(path, say=1)["ok"]
    server.close()
    assert not os.path.exists(path)


@pytest.mark.usefixtures("served")
def test_many_clients_at_once_are_all_answered(path: str) -> None:
    answers: list[Any] = []
    clients = [threading.Thread(target=lambda n=n: answers.append(ask(path, say=n))) for n in range(64)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(20)
    assert sorted(answer["result"]["said"] for answer in answers) == list(range(64))


def test_while_an_agent_answers_a_second_one_and_uninstall_are_refused_before_they_do_anything(
    served: LocalSocket, path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    file = tmp_path / "calico.yaml"
    file.write_text(f"datastore: {{plugin: sqlite, path: {tmp_path}/none.db}}\nagent: {{socket: {path}}}\n")
    config = load(str(file), {})
    with pytest.raises(ConfigError, match="a node agent runs"):
        node.uninstall(config)
    assert node.run(config) == 1
    assert "a node agent runs" in capsys.readouterr().err
    assert not (tmp_path / "none.db").exists()


def test_a_socket_path_that_the_kernel_does_not_take_is_refused_with_the_setting_to_change() -> None:
    with pytest.raises(ConfigError, match=r"agent\.run_dir"):
        refuse_where_served("/run/" + "x" * 200)
