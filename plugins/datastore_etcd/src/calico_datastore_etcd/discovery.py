"""The members of a cluster as DNS tells them: SRV records ``_etcd-client-ssl._tcp`` and ``_etcd-client._tcp``.

In:    a domain, and the name servers of /etc/resolv.conf.
Out:   addresses, first to be tried first: those with TLS before those without, by priority, and by chance according to
       weight (RFC 2782). etcd's own client and Calico's read the same records.
Owns:  one socket during a lookup.

A resolver of our own, for one question (RFC 1035): importing a library for it takes 170 ms, several times what the rest
of a call of calicoctl does. The names that the records give are resolved by gRPC, as those of ``endpoints`` are.
"""

from __future__ import annotations

import random
import secrets
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from calico_kernel.errors import DatastoreUnavailable

RESOLV_CONF = "/etc/resolv.conf"
PORT = 53
SERVICES = ((True, "_etcd-client-ssl._tcp"), (False, "_etcd-client._tcp"))
_SRV, _OPT, _IN = 33, 41, 1
_RECURSE, _TRUNCATED, _NO_SUCH_NAME = 0x0100, 0x0200, 3
_UDP_BYTES = 1232
"""What a datagram may hold without being cut on its way; a longer answer is asked for again over TCP."""
_MOST_POINTERS = 64

Address = tuple[bool, str]
"""(TLS?, host:port)"""


class DnsError(Exception):
    """No server gave a usable answer."""


class Target(NamedTuple):
    priority: int
    weight: int
    port: int
    host: str


class Servers(NamedTuple):
    addresses: Sequence[str]
    timeout_s: float = 5.0
    attempts: int = 2

    @classmethod
    def read(cls, path: str) -> Servers:
        """As ``resolv.conf(5)`` says; a missing file means a server on this host."""
        addresses, options = [], {"timeout": 5, "attempts": 2}
        try:
            lines = Path(path).read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        for line in lines:
            match line.split():
                case ["nameserver", address, *_]:
                    addresses.append(address)
                case ["options", *given]:
                    for option in given:
                        name, _, number = option.partition(":")
                        if name in options and number.isdecimal():
                            options[name] = max(1, int(number))
        return cls(addresses or ["127.0.0.1"], float(options["timeout"]), options["attempts"])


def members(domain: str, *, within_s: float) -> list[Address]:
    """Where the members of ``domain`` are. Raises DatastoreUnavailable when DNS knows none or does not answer."""
    servers = Servers.read(RESOLV_CONF)
    deadline = time.monotonic() + within_s
    found: list[Address] = []
    problems: list[str] = []
    for secure, service in SERVICES:
        name = f"{service}.{domain.strip('.')}"
        try:
            targets = lookup(name, servers, deadline)
        except DnsError as exc:
            problems.append(str(exc))
            continue
        if not targets:
            problems.append(f"there is no record {name}")
        found += [(secure, f"{target.host}:{target.port}") for target in in_order(targets)]
    if not found:
        raise DatastoreUnavailable(
            what=f"DNS names no member of etcd for {domain}: {'; '.join(problems)}",
            todo="check datastore.discovery_srv, the SRV records, and the servers in /etc/resolv.conf",
        )
    return found


def in_order(targets: Sequence[Target]) -> Iterator[Target]:
    """By priority; among equals one with twice the weight comes first twice as often."""
    left = sorted(targets, key=lambda target: target.priority)
    while left:
        equals = [target for target in left if target.priority == left[0].priority]
        chosen = random.choices(equals, [target.weight or 0.1 for target in equals])[0]
        left.remove(chosen)
        yield chosen


def lookup(name: str, servers: Servers, deadline: float) -> list[Target]:
    """The SRV records of ``name``; [] when there are none. Raises DnsError when no server answers in time."""
    number = secrets.randbelow(1 << 16)
    question = _question(name, number)
    said = "the time was over"
    for _ in range(servers.attempts):
        for server in servers.addresses:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            try:
                return _read(_ask(server, question, min(left_s, servers.timeout_s)), question)
            except (OSError, DnsError, struct.error, IndexError) as exc:
                said = f"{server}: {exc or type(exc).__name__}"
    raise DnsError(f"no answer for {name} ({said})")


# ── messages (RFC 1035, section 4; SRV: RFC 2782; the size of a datagram: RFC 6891) ───────────────────────────────────


def _question(name: str, number: int) -> bytes:
    try:
        labels = [label.encode("idna") for label in name.split(".")]
    except UnicodeError as exc:
        raise DnsError(f"{name} is no name in DNS ({exc})") from exc
    encoded = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    size = b"\0" + struct.pack("!HHIH", _OPT, _UDP_BYTES, 0, 0)
    return struct.pack("!6H", number, _RECURSE, 1, 0, 0, 1) + encoded + struct.pack("!HH", _SRV, _IN) + size


def _ask(server: str, question: bytes, timeout_s: float) -> bytes:
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    deadline = time.monotonic() + timeout_s
    with socket.socket(family, socket.SOCK_DGRAM) as udp:
        udp.connect((server, PORT))
        udp.send(question)
        while True:
            udp.settimeout(max(0.001, deadline - time.monotonic()))
            answer = udp.recv(65535)
            if answer[:2] == question[:2]:
                break  # else a late answer to another question, or a forged one
    if not struct.unpack("!H", answer[2:4])[0] & _TRUNCATED:
        return answer
    with socket.create_connection((server, PORT), max(0.001, deadline - time.monotonic())) as tcp:
        tcp.sendall(struct.pack("!H", len(question)) + question)
        with tcp.makefile("rb") as stream:
            (length,) = struct.unpack("!H", stream.read(2))
            return stream.read(length)


def _read(answer: bytes, question: bytes) -> list[Target]:
    number, flags, questions, answers = struct.unpack("!4H", answer[:8])
    if number != struct.unpack("!H", question[:2])[0] or questions != 1:
        raise DnsError("the answer is to another question")
    code = flags & 0xF
    if code == _NO_SUCH_NAME:
        return []
    if code:
        raise DnsError(f"the server refused (code {code})")
    _, at = _name(answer, 12)
    at += 4
    found = []
    for _ in range(answers):
        _, at = _name(answer, at)
        kind, _, _, length = struct.unpack("!HHIH", answer[at : at + 10])
        at += 10
        if kind == _SRV:
            priority, weight, port = struct.unpack("!HHH", answer[at : at + 6])
            host, _ = _name(answer, at + 6)
            if host:  # "." says that the service is not offered
                found.append(Target(priority, weight, port, host))
        at += length
    return found


def _name(message: bytes, at: int) -> tuple[str, int]:
    """(The name at an offset, the offset after it). Raises IndexError or DnsError for what is none."""
    labels: list[str] = []
    after = 0
    for _ in range(_MOST_POINTERS):
        length = message[at]
        if length >= 0xC0:
            after = after or at + 2
            at = (length & 0x3F) << 8 | message[at + 1]
        elif length:
            labels.append(message[at + 1 : at + 1 + length].decode("ascii", "replace"))
            at += 1 + length
        else:
            return ".".join(labels), after or at + 1
    raise DnsError("a name in the answer has no end")
