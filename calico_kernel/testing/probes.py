"""Send real packets through namespaces and see which arrive: many at once, of any protocol, to any port.

In:   (namespace, packet) pairs.   Out: for each whether it got through.
Owns: raw sockets in each namespace, made once; no listeners, so every port can be probed.

A packet got through when its bytes reached a socket in a namespace of the prober; a TCP SYN and an echo request must
also have been answered (a closed port answers with a reset), so the way back is proven as well. Each probe carries a
number of its own; strays are not mistaken for it. One thread, one prober at a time. Root, or a bubble, only.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from functools import partial

import attrs

from calico_kernel.host import netns
from calico_kernel.policy.matching import ICMP_OF_VERSION, Packet
from calico_kernel.testing import wire

PROTOCOLS = (wire.TCP, wire.UDP, wire.SCTP, wire.UDPLITE)
_IP_PKTINFO, _IPV6_PKTINFO = 8, 50  # linux/in.h, linux/in6.h; the socket module lacks the first
_FIRST_PORT, _LAST_PORT = 10_000, 65_000


@attrs.frozen
class Probe:
    """``namespace``: where it is sent from. A packet with ``source_port`` 0 gets a fresh one, so it is a new flow.
    ``one_way``: it got through when it arrived, answered or not."""

    namespace: str
    packet: Packet
    one_way: bool = False


@attrs.define
class _Shot:
    index: int
    wants_answer: bool
    arrived: bool = False
    answered: bool = False

    @property
    def through(self) -> bool:
        return self.arrived and (self.answered or not self.wants_answer)


class Prober:
    """``namespaces``: where packets start and end. Use as a context manager, or ``close``."""

    def __init__(self, namespaces: Iterable[str], *, protocols: Iterable[int] = PROTOCOLS) -> None:
        self._poll = select.epoll()
        self._sockets: dict[tuple[str, int, int], socket.socket] = {}
        self._by_descriptor: dict[int, tuple[socket.socket, int, int]] = {}
        self._nonce = random.randrange(1, 2**30)
        self._port = _FIRST_PORT
        self._shots: dict[int, _Shot] = {}
        for namespace in namespaces:
            netns.run_in(namespace, partial(self._open, namespace, tuple(protocols)))

    def __enter__(self) -> Prober:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._poll.close()
        self._sockets.clear()

    def _open(self, namespace: str, protocols: Sequence[int]) -> None:
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            for protocol in (*protocols, ICMP_OF_VERSION[version]):
                sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
                self._sockets[namespace, protocol, version] = sock
                self._by_descriptor[sock.fileno()] = (sock, protocol, version)
                self._poll.register(sock.fileno(), select.EPOLLIN)

    def measure(
        self,
        probes: Sequence[Probe],
        expected: Sequence[bool] | None = None,
        *,
        timeout_s: float = 1.0,
        quiet_s: float = 0.05,
    ) -> list[bool]:
        """Which probes get through.

        expected: verdicts to hurry for: once all that should arrive have, ``quiet_s`` more proves the rest. Without it,
        it waits until nothing has come for ``quiet_s`` times four. timeout_s: the longest wait.
        """
        shots = [self._send(index, probe) for index, probe in enumerate(probes)]
        began = newest = time.monotonic()
        while (now := time.monotonic()) - began < timeout_s:
            if self._receive(min(quiet_s, timeout_s)):
                newest = time.monotonic()
                continue
            missing = any(want and not shot.through for want, shot in zip(expected or (), shots, strict=False))
            if all(shot.through for shot in shots) or (
                not missing and now - newest >= (quiet_s if expected is not None else 4 * quiet_s)
            ):
                break
        self._shots.clear()
        return [shot.through for shot in shots]

    def _send(self, index: int, probe: Probe) -> _Shot:
        self._nonce = self._nonce % (2**31 - 2) + 1
        packet = probe.packet if probe.packet.source_port else attrs.evolve(probe.packet, source_port=self._next_port())
        shot = self._shots[self._nonce] = _Shot(index, wire.is_answered(packet) and not probe.one_way)
        sock = self._sockets[probe.namespace, packet.protocol, packet.version]
        data = wire.encode(packet, self._nonce)
        source: tuple[int, int, bytes]
        if packet.version == 4:
            source = (socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("i4s4x", 0, packet.source.packed))
        else:
            source = (socket.IPPROTO_IPV6, _IPV6_PKTINFO, packet.source.packed + struct.pack("i", 0))
        # Refused by the sender's own rules, or no route: it does not arrive, which is an answer too.
        with contextlib.suppress(OSError):
            sock.sendmsg([data], [source], 0, (str(packet.destination), 0))
        return shot

    def _next_port(self) -> int:
        self._port = self._port + 1 if self._port < _LAST_PORT else _FIRST_PORT
        return self._port

    def _receive(self, timeout_s: float) -> bool:
        """Take in what is there; whether any probe made progress."""
        progress = False
        for descriptor, _events in self._poll.poll(timeout_s, 256):
            sock, protocol, version = self._by_descriptor[descriptor]
            with contextlib.suppress(BlockingIOError):
                while True:
                    data = sock.recv(2048)
                    if version == 4:  # raw IPv4 sockets deliver the IP header as well
                        data = data[(data[0] & 0x0F) * 4 :]
                    progress |= self._note(protocol, version, data)
        return progress

    def _note(self, protocol: int, version: int, data: bytes) -> bool:
        nonce = wire.decode(protocol, version, data)
        if nonce is not None and nonce in self._shots:
            self._shots[nonce].arrived = True
            return True
        nonce = wire.decode_answer(protocol, version, data)
        if nonce is not None and nonce in self._shots:
            self._shots[nonce].answered = True
            return True
        return False
