"""Members found through DNS: a real name server in the bubble, whose records come, change and go."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from calico_datastore_etcd import client, discovery
from calico_datastore_etcd.discovery import DnsError, Servers, Target
from calico_datastore_etcd.settings import EtcdSettings, with_variables
from calico_datastore_etcd.store import EtcdDatastore
from calico_datastore_etcd.testing import EtcdServer, free_port
from calico_kernel.errors import ConfigError, DatastoreUnavailable
from calico_kernel.testing.datastore import network_set, set_key
from calico_kernel.testing.faulty_proxy import FaultyProxy

PLAIN, SECURE = "_etcd-client._tcp.example.test", "_etcd-client-ssl._tcp.example.test"
KEY = set_key("a")


@attrs.define
class NameServer:
    """Answers SRV questions from ``zone``: name -> (priority, weight, port, target). ``silent``: says nothing."""

    address: str
    zone: dict[str, list[tuple[int, int, int, str]]] = attrs.field(factory=dict)
    code: int = 0
    silent: bool = False
    asked: list[str] = attrs.field(factory=list)
    over_tcp: int = 0
    _sockets: list[socket.socket] = attrs.field(factory=list)

    def start(self) -> None:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((self.address, 53))
        tcp = socket.create_server((self.address, 53))
        self._sockets = [udp, tcp]
        for serve in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=serve, daemon=True).start()

    def close(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve_udp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                question, peer = self._sockets[0].recvfrom(65535)
                if not question:
                    return
                answer = self.answer(question)
                if self.silent:
                    continue
                if len(answer) > 1232:
                    answer = answer[:2] + struct.pack("!5H", 0x8380, 1, 0, 0, 0) + question[12:]
                self._sockets[0].sendto(answer, peer)

    def _serve_tcp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._sockets[1].accept()
                with peer:
                    self.over_tcp += 1
                    (length,) = struct.unpack("!H", peer.recv(2))
                    answer = self.answer(peer.recv(length))
                    peer.sendall(struct.pack("!H", len(answer)) + answer)

    def answer(self, question: bytes) -> bytes:
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode())
            at += 1 + question[at]
        name = ".".join(labels)
        self.asked.append(name)
        records = self.zone.get(name)
        code = self.code or (0 if records is not None else 3)
        head = question[:2] + struct.pack("!5H", 0x8180 | code, 1, len(records or ()), 0, 0)
        body = question[12 : at + 5]
        for priority, weight, port, target in records or ():
            host = b"".join(bytes([len(label)]) + label.encode() for label in target.split(".") if label) + b"\0"
            body += struct.pack("!HHHIHHHH", 0xC00C, 33, 1, 60, 6 + len(host), priority, weight, port) + host
        return head + body


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    address = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"
    server = NameServer(address)
    server.start()
    file = tmp_path / "resolv.conf"
    file.write_text(f"# of a test\nnameserver {address}\noptions timeout:1 attempts:1\n")
    monkeypatch.setattr(discovery, "RESOLV_CONF", str(file))
    monkeypatch.setattr(client, "DISCOVER_AGAIN_S", 0.0)
    yield server
    server.close()


def opened(**settings: float) -> EtcdDatastore:
    return EtcdDatastore(EtcdSettings(discovery_srv="example.test", **settings))  # type: ignore[arg-type]


# ── with a cluster ──


def test_members_are_those_of_the_records(etcd: EtcdServer, names: NameServer) -> None:
    names.zone = {PLAIN: [(10, 0, etcd.port, "localhost"), (5, 0, free_port(), "localhost")]}
    store = opened()
    made = store.create(KEY, network_set("a", 1))
    assert store.get(KEY) == made
    assert set(names.asked) == {PLAIN, SECURE}
    store.close()


def test_records_are_looked_up_again_when_a_member_fails(etcd: EtcdServer, names: NameServer) -> None:
    first, second = FaultyProxy(etcd.port), FaultyProxy(etcd.port)
    names.zone = {PLAIN: [(0, 0, first.port, "localhost")]}
    store = opened()
    made = store.create(KEY, network_set("a", 1))
    names.zone = {PLAIN: [(0, 0, second.port, "localhost")]}
    first.close()
    assert store.get(KEY) == made
    names.code = 2  # the name server fails, and what it said before counts on
    second.cut()
    assert store.get(KEY) == made
    second.close()
    with pytest.raises(DatastoreUnavailable):
        store.get(KEY)
    store.close()


def test_no_record_says_what_was_looked_for_and_is_tried_again(etcd: EtcdServer, names: NameServer) -> None:
    store = opened()
    with pytest.raises(DatastoreUnavailable, match=f"there is no record {SECURE}; there is no record {PLAIN}"):
        store.get(KEY)
    names.zone = {PLAIN: [(0, 0, 0, ".")]}  # says that there is none
    with pytest.raises(DatastoreUnavailable, match="there is no record"):
        store.get(KEY)
    names.zone = {PLAIN: [(0, 0, etcd.port, "localhost")]}
    store.create(KEY, network_set("a", 1))
    store.close()


# ── what DNS says ──


def test_members_with_tls_come_first_then_by_priority(names: NameServer) -> None:
    names.zone = {
        PLAIN: [(1, 0, 2379, "c.example.test")],
        SECURE: [(20, 0, 2379, "b.example.test"), (10, 0, 2380, "a.example.test")],
    }
    assert discovery.members("example.test.", within_s=5) == [
        (True, "a.example.test:2380"),
        (True, "b.example.test:2379"),
        (False, "c.example.test:2379"),
    ]


def test_answer_too_long_for_a_datagram_is_asked_for_again_over_tcp(names: NameServer) -> None:
    names.zone = {PLAIN: [(number, 0, 2379, f"member-{number:03}.example.test") for number in range(100)]}
    found = discovery.members("example.test", within_s=5)
    assert found == [(False, f"member-{number:03}.example.test:2379") for number in range(100)]
    assert names.over_tcp == 1


def test_next_name_server_is_asked_when_one_is_silent_or_fails(names: NameServer) -> None:
    names.zone = {PLAIN: [(0, 0, 2379, "a.example.test")]}
    silent = NameServer("127.0.77.1", silent=True)
    silent.start()
    servers = Servers(["127.0.77.2", silent.address, names.address], timeout_s=0.1, attempts=1)
    assert discovery.lookup(PLAIN, servers, float("inf")) == [Target(0, 0, 2379, "a.example.test")]
    silent.silent, silent.code = False, 5
    assert discovery.lookup(PLAIN, servers, float("inf")) == [Target(0, 0, 2379, "a.example.test")]
    with pytest.raises(DnsError, match="refused"):
        discovery.lookup(PLAIN, Servers([silent.address]), float("inf"))
    silent.close()


def test_what_answers_hold_never_breaks_the_reader() -> None:
    chance = random.Random(1)
    server = NameServer("", {PLAIN: [(0, 0, 2379, "a.example.test")]})
    question = discovery._question(PLAIN, 7)
    good = server.answer(question)
    assert discovery._read(good, question) == [Target(0, 0, 2379, "a.example.test")]
    loop = good[:12] + b"\xc0\x0c" + good[14:]
    for answer in (loop, b"", *(bytes(chance.randbytes(len(good))) for _ in range(200))):
        with contextlib.suppress(DnsError, struct.error, IndexError):
            discovery._read(question[:2] + answer[2:], question)
    for number in range(len(good)):
        with contextlib.suppress(DnsError, struct.error, IndexError):
            discovery._read(good[:number] + bytes([good[number] ^ 0xFF]) + good[number + 1 :], question)


def test_name_that_dns_cannot_hold_is_said_to_be_none() -> None:
    with pytest.raises(DatastoreUnavailable, match="no name in DNS"):
        discovery.members("x" * 70 + ".test", within_s=1)


def test_weight_decides_among_equals() -> None:
    targets = [Target(1, 90, 1, "heavy"), Target(1, 10, 1, "light"), Target(0, 0, 1, "first")]
    firsts = Counter()  # type: Counter[str]
    for _ in range(300):
        order = [target.host for target in discovery.in_order(targets)]
        assert order[0] == "first"
        firsts[order[1]] += 1
    assert firsts["heavy"] > 2 * firsts["light"]


def test_resolver_file_is_read_as_its_manual_says(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("search a b\nnameserver 192.0.2.1\nnameserver fd00::1 \noptions ndots:2 timeout:3 attempts:x\n")
    assert Servers.read(str(file)) == Servers(["192.0.2.1", "fd00::1"], 3.0, 2)
    assert Servers.read(str(tmp_path / "none")) == Servers(["127.0.0.1"])


# ── settings ──


def test_variable_names_the_domain_unless_members_are_set(etcd: EtcdServer) -> None:
    srv = {"ETCD_DISCOVERY_SRV": "example.test"}
    assert with_variables(EtcdSettings(), srv).discovery_srv == "example.test"
    assert with_variables(EtcdSettings(endpoints=etcd.url), srv).discovery_srv == ""
    with_endpoints = {"ETCD_ENDPOINTS": etcd.url}
    assert with_variables(EtcdSettings(discovery_srv="example.test"), with_endpoints).endpoints == ""
    for settings, environment in (
        (EtcdSettings(endpoints=etcd.url, discovery_srv="example.test"), {}),
        (EtcdSettings(), {**srv, **with_endpoints}),
    ):
        with pytest.raises(ConfigError, match="both set"):
            with_variables(settings, environment)
