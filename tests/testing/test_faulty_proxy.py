"""What the proxy does to a connection is what it was asked for, or what its seed gives."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from calico_kernel.testing.faulty_proxy import CALM, Chances, FaultyProxy

PATIENCE_S = 10.0


@pytest.fixture
def echo_port() -> Iterator[int]:
    """A server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(peer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := peer.recv(65536):
                peer.sendall(data)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def proxy(echo_port: int) -> Iterator[FaultyProxy]:
    made = FaultyProxy(echo_port)
    yield made
    made.close()


def connected(proxy: FaultyProxy) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S)
    made.sendall(b"hello")
    assert received(made, 5) == b"hello"
    return made


def received(connection: socket.socket, count: int) -> bytes:
    """``count`` bytes, or what came before the connection broke."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while len(data) < count and (more := connection.recv(65536)):
            data += more
    return data


def test_calm_proxy_passes_everything_on_in_order(proxy: FaultyProxy) -> None:
    sent = bytes(range(256)) * 4000
    with connected(proxy) as client:
        threading.Thread(target=client.sendall, args=(sent,), daemon=True).start()
        assert received(client, len(sent)) == sent
    assert proxy.faults == 0


def test_cut_breaks_connections_and_new_ones_work(proxy: FaultyProxy) -> None:
    with connected(proxy) as client:
        proxy.cut()
        assert received(client, 1) == b""
    connected(proxy).close()


def test_refusing_proxy_can_not_be_reached_until_it_accepts_at_the_same_port(proxy: FaultyProxy) -> None:
    with connected(proxy) as client:
        proxy.refuse()
        assert received(client, 1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S)
    proxy.accept()
    connected(proxy).close()


def test_frozen_proxy_holds_what_it_got_until_it_thaws(proxy: FaultyProxy) -> None:
    with connected(proxy) as client:
        proxy.freeze()
        client.sendall(b"later")
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(PATIENCE_S)
        proxy.thaw()
        assert received(client, 5) == b"later"


def test_connection_that_chance_cuts_has_passed_on_a_part_only(proxy: FaultyProxy) -> None:
    sent = b"x" * 10_000
    with connected(proxy) as client:
        proxy.take_chances(Chances(cut=1.0))
        client.sendall(sent)
        assert len(received(client, len(sent))) < len(sent)
    assert proxy.faults
    proxy.take_chances(CALM)
    connected(proxy).close()


def test_chance_may_refuse_delay_and_freeze_but_loses_nothing(proxy: FaultyProxy) -> None:
    with connected(proxy) as client:
        proxy.take_chances(Chances(delay=0.5, delay_s=0.002, freeze=0.5, freeze_s=0.002, refuse=1.0))
        for number in range(20):
            client.sendall(b"%02d" % number)
            assert received(client, 2) == b"%02d" % number
        with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", proxy.port)) as refused:
            assert received(refused, 1) == b""
    assert proxy.faults > 10


def test_closed_proxy_leaves_no_thread(echo_port: int) -> None:
    proxy = FaultyProxy(echo_port)
    with connected(proxy):
        proxy.close()
    deadline = time.monotonic() + PATIENCE_S
    while any(thread.name == "faulty-proxy" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
