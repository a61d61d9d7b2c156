"""Send real packets between the places of a lab and see which arrive.

In:    probes (source, target, protocol, port, IP version), from calico_kernel.lab.resident.
Out:   for each whether it got through; for a change of policy also when.
Owns:  listening sockets in every place, made when first needed; a fresh source port for each probe: a new flow.

UDP and SCTP count as arrived when the packet is at the target, TCP when the connection is made, ICMP when the echo
comes back. One thread: a probe is sent, then the loop waits; nothing arrives unasked. Runs inside the bubble only.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import attrs

from calico_kernel.host import netns
from calico_kernel.lab import packets

Protocol = Literal["tcp", "udp", "sctp", "icmp"]

_FIRST_PORT, _LAST_PORT = 10240, 65000
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_PENDING_TCP_MOST = 512
_SAMPLE_MOST = 64
_SHOTS_MOST = 20_000


class Probe(NamedTuple):
    """``source`` and ``target`` name places; ``port`` is 0 for icmp."""

    source: str
    target: str
    protocol: Protocol
    port: int
    version: int


@attrs.frozen
class Place:
    """Where packets start and end. ``addresses``: IP version -> bare address."""

    name: str
    netns: str
    addresses: Mapping[int, str]


@attrs.define
class _Shot:
    index: int
    sent: float
    arrived: float | None = None


@attrs.frozen(kw_only=True)
class Followed:
    """What ``follow`` saw. ``agreed``: every probe has its expected verdict. ``changed_at``: monotonic time of the
    last probe that still had the old verdict (was allowed) or of the first that had the new one (was denied)."""

    agreed: bool
    changed_at: float | None
    rounds: int


@attrs.frozen(kw_only=True)
class Streamed:
    """What ``stream`` saw: flows begun, those that should have arrived and did not, and the other way round."""

    sent: int
    lost: Sequence[Probe]
    leaked: Sequence[Probe]


class Prober:
    """All methods from any thread; one runs at a time."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._places = {place.name: place for place in places}
        self._listening: dict[str, set[int]] = {"tcp": set(), "udp": set()}
        self._lock = threading.Lock()
        self._poll = select.epoll()
        self._on_ready: dict[int, Callable[[], None]] = {}
        self._sockets: dict[int, socket.socket] = {}
        self._by_place: dict[str, list[int]] = {}
        self._raw: dict[tuple[str, str, int], socket.socket] = {}
        self._ports: dict[str, int] = {}
        self._nonce = int(time.monotonic() * 1000) & 0x7FFFFFFF
        self._shots: dict[int, _Shot] = {}
        self._pending: dict[int, _Shot] = {}
        for place in list(self._places.values()):
            self._open(place)

    # ── places ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def add(self, place: Place) -> None:
        with self._lock:
            self._forget(place.name)
            self._places[place.name] = place
            self._open(place)

    def remove(self, name: str) -> None:
        with self._lock:
            self._forget(name)
            self._places.pop(name, None)

    def close(self) -> None:
        with self._lock:
            for name in list(self._places):
                self._forget(name)
            self._poll.close()

    def _forget(self, name: str) -> None:
        for descriptor in self._by_place.pop(name, []):
            self._drop(descriptor)
        for key in [key for key in self._raw if key[0] == name]:
            del self._raw[key]

    def _drop(self, descriptor: int) -> None:
        found = self._sockets.pop(descriptor, None)
        self._on_ready.pop(descriptor, None)
        self._pending.pop(descriptor, None)
        if found is not None:
            with contextlib.suppress(OSError):
                self._poll.unregister(descriptor)
            found.close()

    def _watch(self, place: str, sock: socket.socket, ready: Callable[[socket.socket], None]) -> None:
        sock.setblocking(False)
        descriptor = sock.fileno()
        self._sockets[descriptor] = sock
        self._on_ready[descriptor] = lambda: ready(sock)
        self._by_place.setdefault(place, []).append(descriptor)
        self._poll.register(descriptor, select.EPOLLIN)

    def _open(self, place: Place) -> None:
        def listen() -> None:
            for protocol, ports in self._listening.items():
                self._listen(place.name, protocol, ports)
            for version in (4, 6):
                family = socket.AF_INET if version == 4 else socket.AF_INET6
                for protocol, number, ready in (
                    ("sctp", socket.IPPROTO_SCTP, self._sctp_reader(version)),
                    (
                        "icmp",
                        socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6,
                        self._echo_reader(version),
                    ),
                ):
                    sock = socket.socket(family, socket.SOCK_RAW, number)
                    self._raw[place.name, protocol, version] = sock
                    self._watch(place.name, sock, ready)

        netns.run_in(place.netns, listen)

    def _listen(self, place: str, protocol: str, ports: Iterable[int]) -> None:
        for port in sorted(ports):
            try:
                if protocol == "tcp":
                    sock = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=256)
                    self._watch(place, sock, self._accept)
                else:
                    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                    sock.bind(("::", port))
                    self._watch(place, sock, self._receive_udp)
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE:  # a program of the place itself answers there
                    raise

    def _listen_for(self, probes: Iterable[Probe]) -> None:
        """Somebody listens on every port that is probed, in every place: a refused connection means policy."""
        for protocol, known in self._listening.items():
            missing = {probe.port for probe in probes if probe.protocol == protocol} - known
            if not missing:
                continue
            for place in self._places.values():
                netns.run_in(place.netns, partial(self._listen, place.name, protocol, missing))
            known.update(missing)

    # ── arrivals ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _arrived(self, nonce: int) -> None:
        shot = self._shots.get(nonce)
        if shot is not None and shot.arrived is None:
            shot.arrived = time.monotonic()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                connection.close()

    def _receive_udp(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = sock.recv(64)
                if len(data) == 4:
                    self._arrived(int.from_bytes(data))

    def _sctp_reader(self, version: int) -> Callable[[socket.socket], None]:
        def read(sock: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while True:
                    data = sock.recv(256)
                    found = packets.sctp_init_tag(packets.without_ipv4_header(data) if version == 4 else data)
                    if found is not None:
                        self._arrived(found[1])

        return read

    def _echo_reader(self, version: int) -> Callable[[socket.socket], None]:
        def read(sock: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while True:
                    data = sock.recv(256)
                    nonce = packets.echo_reply_nonce(
                        version, packets.without_ipv4_header(data) if version == 4 else data
                    )
                    if nonce is not None:
                        self._arrived(nonce)

        return read

    def _connected(self, sock: socket.socket) -> None:
        shot = self._pending.get(sock.fileno())
        # A reset before the handshake reads as "refused"; "reset" is our own listener hanging up after it.
        if shot is not None and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in (0, errno.ECONNRESET):
            shot.arrived = time.monotonic()
        self._drop(sock.fileno())

    # ── sending ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _next_port(self, place: str) -> int:
        """Never one used recently from this place: an old connection-tracking entry would let the probe through."""
        port = self._ports.get(place, _FIRST_PORT) + 1
        if port > _LAST_PORT:
            port = _FIRST_PORT
        self._ports[place] = port
        return port

    def _send_all(self, probes: Sequence[Probe], indexes: Iterable[int]) -> list[_Shot]:
        grouped: dict[str, list[int]] = {}
        for index in indexes:
            grouped.setdefault(probes[index].source, []).append(index)
        shots: list[_Shot] = []

        def send() -> None:
            for source, group in grouped.items():
                with netns.entered(self._places[source].netns):
                    for index in group:
                        shots.append(self._send(index, probes[index]))
                self._turn(0.0)

        netns.in_thread(send)
        return shots

    def _send(self, index: int, probe: Probe) -> _Shot:
        self._nonce = (self._nonce + 1) & 0x7FFFFFFF or 1
        shot = _Shot(index, time.monotonic())
        self._shots[self._nonce] = shot
        target = self._places[probe.target].addresses.get(probe.version)
        if target is None:
            return shot
        family = socket.AF_INET if probe.version == 4 else socket.AF_INET6
        with contextlib.suppress(OSError):  # no route, or the host's own rules refuse it: it does not arrive
            if probe.protocol == "icmp":
                packet = packets.echo_request(probe.version, self._next_port(probe.source), self._nonce)
                self._raw[probe.source, "icmp", probe.version].sendto(packet, (target, 0))
            elif probe.protocol == "sctp":
                packet = packets.sctp_init(self._next_port(probe.source), probe.port, self._nonce)
                self._raw[probe.source, "sctp", probe.version].sendto(packet, (target, 0))
            elif probe.protocol == "udp":
                with socket.socket(family, socket.SOCK_DGRAM) as sock:
                    self._bind(sock, probe)
                    sock.sendto(self._nonce.to_bytes(4), (target, probe.port))
            else:
                self._connect(family, probe, target, shot)
        return shot

    def _bind(self, sock: socket.socket, probe: Probe) -> None:
        for _ in range(64):
            try:
                sock.bind((self._places[probe.source].addresses[probe.version], self._next_port(probe.source)))
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE:
                    raise
            else:
                return

    def _connect(self, family: int, probe: Probe, target: str, shot: _Shot) -> None:
        while len(self._pending) >= _PENDING_TCP_MOST:
            self._drop(next(iter(self._pending)))
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        try:
            self._bind(sock, probe)
            sock.connect_ex((target, probe.port))
        except OSError:
            sock.close()
            raise
        descriptor = sock.fileno()
        self._sockets[descriptor] = sock
        self._pending[descriptor] = shot
        self._on_ready[descriptor] = lambda: self._connected(sock)
        self._poll.register(descriptor, select.EPOLLOUT)

    def _turn(self, timeout_s: float) -> None:
        for descriptor, _events in self._poll.poll(timeout_s, 256):
            ready = self._on_ready.get(descriptor)
            if ready is not None:
                ready()

    def _drain(self, shots: Sequence[_Shot], until: float) -> None:
        """Wait for arrivals until all have come or time is up."""
        left = [shot for shot in shots if shot.arrived is None]
        while left and (remaining := until - time.monotonic()) > 0:
            self._turn(remaining)
            left = [shot for shot in left if shot.arrived is None]

    def _clear(self) -> None:
        for descriptor in list(self._pending):
            self._drop(descriptor)
        self._shots.clear()

    # ── what is asked of it ───────────────────────────────────────────────────────────────────────────────────────────

    def measure(
        self,
        probes: Sequence[Probe],
        *,
        expected: Sequence[bool] | None = None,
        timeout_s: float = 0.4,
        patience_s: float = 0.0,
    ) -> list[bool]:
        """Which probes get through. Those that differ from ``expected`` are tried again for ``patience_s``."""
        with self._lock:
            self._listen_for(probes)
            results = [False] * len(probes)
            deadline = time.monotonic() + patience_s
            left: Sequence[int] = range(len(probes))
            while left:
                shots = self._send_all(probes, left)
                self._drain(shots, time.monotonic() + timeout_s)
                for shot in shots:
                    results[shot.index] = shot.arrived is not None
                self._clear()
                if expected is None or time.monotonic() >= deadline:
                    break
                left = [index for index, want in enumerate(expected) if results[index] != want]
            return results

    def follow(
        self,
        probes: Sequence[Probe],
        expected: Sequence[bool],
        *,
        applied: Callable[[], bool],
        deadline_s: float,
        settle_s: float = 0.15,
        spacing_s: float = 0.003,
    ) -> Followed:
        """Send new flows again and again until each has had its expected verdict for ``settle_s`` after ``applied``.

        probes: those whose verdict changes; a sample of 64 is followed.
        """
        with self._lock:
            self._listen_for(probes)
            step = max(1, -(-len(probes) // _SAMPLE_MOST))
            chosen = list(range(0, len(probes), step))
            newest_wrong: dict[int, float] = {}  # wanted denied: when the last arrival had been sent
            first_right: dict[int, float] = {}  # wanted allowed: when the first arrival came
            live: list[_Shot] = []
            deadline = time.monotonic() + deadline_s
            rounds = 0
            done_at: float | None = None
            while time.monotonic() < deadline:
                live += self._send_all(probes, chosen)
                rounds += 1
                self._turn(spacing_s)
                now = time.monotonic()
                keep = []
                for shot in live:
                    if shot.arrived is not None:
                        if expected[shot.index]:
                            first_right.setdefault(shot.index, shot.arrived)
                        else:
                            newest_wrong[shot.index] = max(newest_wrong.get(shot.index, 0.0), shot.arrived)
                    elif now - shot.sent < settle_s:
                        keep.append(shot)
                live = keep
                if len(self._shots) > _SHOTS_MOST:
                    self._shots = {nonce: shot for nonce, shot in self._shots.items() if now - shot.sent < 1.0}
                if not applied():
                    continue
                agreed = all(index in first_right for index in chosen if expected[index]) and all(
                    now - newest_wrong.get(index, 0.0) > settle_s for index in chosen if not expected[index]
                )
                if not agreed:
                    done_at = None
                elif done_at is None:
                    done_at = now
                elif now - done_at > settle_s:
                    break
            self._clear()
            stamps = [*newest_wrong.values(), *first_right.values()]
            return Followed(agreed=done_at is not None, changed_at=max(stamps, default=None), rounds=rounds)

    def stream(
        self, probes: Sequence[Probe], expected: Sequence[bool], *, seconds: float, spacing_s: float = 0.005
    ) -> Streamed:
        """Begin a new flow for each probe every ``spacing_s`` for ``seconds``; each has a second to arrive."""
        with self._lock:
            self._listen_for(probes)
            until = time.monotonic() + seconds
            shots: list[_Shot] = []
            while time.monotonic() < until:
                shots += self._send_all(probes, range(len(probes)))
                self._turn(spacing_s)
            self._drain([shot for shot in shots if expected[shot.index]], time.monotonic() + 1.0)
            self._turn(0.0)
            self._clear()
            return Streamed(
                sent=len(shots),
                lost=[probes[shot.index] for shot in shots if expected[shot.index] and shot.arrived is None],
                leaked=[probes[shot.index] for shot in shots if not expected[shot.index] and shot.arrived is not None],
            )
