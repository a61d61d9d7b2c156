"""Notices what others do to our rules, sets and interfaces, within a fraction of a second.

In:   rtnetlink notices of links and of routes that go, nftables events, and a look at what is nearly free to ask: the
      nftables generation, IPT_SO_GET_INFO of legacy tables (which send no events), the headers of IP sets.
Out:  which parts are no longer to be trusted (``take``), and ``request_apply``.
Owns: one thread and its sockets. It writes nothing; what it finds, the next apply reads and mends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Collection, Hashable

import attrs

from calico_dp_iptables.netfilter import Netfilter, nft_events
from calico_kernel.host.netlink import Link, Monitor, RouteEntry

FIRST_PAUSE_S = 0.25
MOST_PAUSE_S = 5.0
"""Between two readings that others' changes made us do; grows while they turn out not to concern us."""
SETS_PAUSE_S, SETS_PAUSE_TIMES = 0.75, 80
"""Between two looks at the IP sets, and how many times as long as a look took: with many sets it costs milliseconds,
and whoever destroys one has changed rules before, which is noticed at once."""


@attrs.define
class Suspicion:
    """What may have changed: families (4, 6) whose rules, "sets", and names of interfaces."""

    parts: set[Hashable] = attrs.field(factory=set)
    interfaces: set[str] = attrs.field(factory=set)
    all_interfaces: bool = False

    def __bool__(self) -> bool:
        return bool(self.parts or self.interfaces or self.all_interfaces)


class Watch:
    def __init__(self, log: logging.Logger, request_apply: Callable[[], None], poll_s: float) -> None:
        self._log = log
        self._request_apply = request_apply
        self._poll_s = poll_s
        self._lock = threading.Lock()
        self._suspicion = Suspicion()
        self._expected: dict[Hashable, Hashable] = {}
        self._busy = False
        self._tables: frozenset[tuple[int, str]] = frozenset()
        self._backend = ""
        self._versions: frozenset[int] = frozenset()
        self._sets = False
        self._addresses = False
        self._prefixes: tuple[str, ...] = ()
        self._pause_s = FIRST_PAUSE_S
        self._not_before = self._sets_not_before = 0.0
        self._thread: threading.Thread | None = None
        self._wake_read, self._wake_write = -1, -1
        self._stopping = False
        self._own: Netfilter | None = None

    # ── the driver's side ─────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """From the driver's thread, whose network namespace the watch then shares. Safe twice."""
        if self._thread is None:
            self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            self._own = Netfilter()
            self._thread = threading.Thread(target=self._run, name="iptables-watch", daemon=True)
            self._thread.start()

    def close(self) -> None:
        thread = self._thread
        if thread is None:
            return
        self._stopping = True
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")
        thread.join(timeout=5.0)
        self._thread = None
        for fd in (self._wake_read, self._wake_write):
            os.close(fd)
        if self._own is not None:
            self._own.close()

    def take(self) -> Suspicion:
        """What was noticed since the last call, and what is to be seen now. From now until ``settled`` the watch knows
        that changes are ours."""
        with self._lock:
            if self._own is not None:  # whoever flushes rules may have destroyed their sets since
                self._suspicion.parts |= self._changed(self._own, sets=True)
            found, self._suspicion = self._suspicion, Suspicion()
            self._busy = True
        return found

    def settled(
        self,
        *,
        backend: str,
        versions: Collection[int],
        tables: Collection[tuple[int, str]],
        sets: bool,
        prefixes: tuple[str, ...],
        addresses: bool,
    ) -> None:
        """The apply is over: what is there now is how it should be.

        tables: legacy tables that hold rules of ours. prefixes: what names of interfaces to tell of start with.
        addresses: whether changes of this host's addresses matter."""
        with self._lock:
            self._backend, self._versions, self._sets = backend, frozenset(versions), sets
            self._tables, self._prefixes = frozenset(tables), prefixes
            self._addresses = addresses
            if self._own is not None:
                self._expected = self._look(self._own, sets=True)
            self._busy = False

    def found(self, something: bool) -> None:
        """Whether a reading that a suspicion caused found a difference."""
        with self._lock:
            self._pause_s = FIRST_PAUSE_S if something else min(self._pause_s * 2, MOST_PAUSE_S)

    # ── the thread ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _look(self, netfilter: Netfilter, *, sets: bool) -> dict[Hashable, Hashable]:
        """A few short values, each another when its part was changed by anyone. ``sets``: those of IP sets too."""
        seen: dict[Hashable, Hashable] = {}
        try:
            if self._backend == "nft":
                seen["rules"] = netfilter.nft_generation()
            for version, table in self._tables:
                seen[version, table] = netfilter.legacy_info(version, table)
            if self._sets and sets:
                started = time.monotonic()
                seen["sets"] = netfilter.sets_digest()
                now = time.monotonic()
                self._sets_not_before = now + max(SETS_PAUSE_S, SETS_PAUSE_TIMES * (now - started))
        except OSError as exc:
            self._log.debug("cannot look for changes by others (%s); the refresh timer still does", exc)
        return seen

    def _changed(self, netfilter: Netfilter, *, sets: bool) -> set[Hashable]:
        """The parts that are not as expected; what is seen is what is expected from now on."""
        seen = self._look(netfilter, sets=sets)
        parts: set[Hashable] = set()
        for key, value in self._expected.items():
            if seen.get(key, value) == value:
                continue
            if key == "rules":
                parts |= self._versions
            else:
                parts.add(key[0] if isinstance(key, tuple) else key)
        self._expected.update(seen)
        return parts

    def _check(self, netfilter: Netfilter) -> None:
        with self._lock:
            if self._busy or time.monotonic() < self._not_before:
                return
            parts = self._changed(netfilter, sets=time.monotonic() >= self._sets_not_before)
            if not parts:
                return
            self._suspicion.parts |= parts
            self._not_before = time.monotonic() + self._pause_s
        self._request_apply()

    def _notice(self, monitor: Monitor) -> None:
        touched = False
        for notice in monitor.next(0):
            with self._lock:
                if notice.topic == "address":
                    touched = touched or self._addresses
                elif isinstance(notice.value, RouteEntry):
                    name = _interface_of(notice.value) if notice.deleted else ""
                    if name.startswith(self._prefixes):
                        self._suspicion.interfaces.add(name)
                        touched = True
                elif not isinstance(notice.value, Link):
                    self._suspicion.all_interfaces = touched = True
                elif notice.value.name.startswith(self._prefixes):
                    self._suspicion.interfaces.add(notice.value.name)
                    touched = True
        if touched:
            self._request_apply()

    def _run(self) -> None:
        try:
            with contextlib.ExitStack() as stack:
                netfilter = stack.enter_context(Netfilter())
                monitor = stack.enter_context(Monitor(links=True, addresses=True, routes=True))
                poll = select.poll()
                poll.register(self._wake_read, select.POLLIN)
                poll.register(monitor.fileno(), select.POLLIN)
                events: socket.socket | None = None
                try:
                    events = stack.enter_context(nft_events())
                    poll.register(events.fileno(), select.POLLIN)
                except OSError as exc:
                    self._log.debug("no nftables events here (%s)", exc)
                while not self._stopping:
                    ready = {fd for fd, _ in poll.poll(self._poll_s * 1000 if self._poll_s else None)}
                    if events is not None and events.fileno() in ready:
                        _drain(events)
                    if monitor.fileno() in ready:
                        self._notice(monitor)
                    if self._poll_s:
                        self._check(netfilter)
        except OSError as exc:
            self._log.warning("stopped watching for changes by others: %s; the refresh timers still do", exc)


def _interface_of(route: RouteEntry) -> str:
    """Of a route to one address, which is what workloads have; "" for others, and where the interface has gone."""
    if not route.prefix.endswith(("/32", "/128")):
        return ""
    try:
        return socket.if_indextoname(route.ifindex)
    except OSError:
        return ""


def _drain(sock: socket.socket) -> None:
    while True:
        try:
            sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:  # overflow: as good as a message
            continue
