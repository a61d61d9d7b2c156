"""A small rtnetlink: batched writes, safe dumps, notifications. Standard library only, milliseconds to import.

For hot paths: a route costs microseconds, where general libraries need hundreds. Values and request builders
(``add_route``, ``add_veth``...) come from ``calico_kernel.host.nlvalues``, numbers from ``calico_kernel.host.nlwire``.

    with Netlink() as nl:
        nl.run(add_veth("cali1", "eth0", peer_netns_fd=fd, up=True))          # raises NetlinkError
        errors = nl.execute([replace_route(r) for r in routes])              # one answer for each, in order
        mine = nl.routes(version=4, protocol=80)                             # filtered by the kernel
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from calico_kernel.host import nlvalues as v
from calico_kernel.host import nlwire as w
from calico_kernel.host.nlvalues import (
    FdbEntry,
    InterfaceAddress,
    Link,
    Neighbour,
    NextHop,
    Request,
    RouteEntry,
    Rule,
    VxlanInfo,
    add_address,
    add_link,
    add_route,
    add_rule,
    add_veth,
    delete_address,
    delete_fdb,
    delete_link,
    delete_neighbour,
    delete_route,
    delete_rule,
    replace_address,
    replace_fdb,
    replace_neighbour,
    replace_route,
    set_link,
)

__all__ = [
    "FdbEntry",
    "InterfaceAddress",
    "Link",
    "Monitor",
    "Neighbour",
    "Netlink",
    "NetlinkError",
    "NextHop",
    "Notice",
    "Request",
    "RouteEntry",
    "Rule",
    "VxlanInfo",
    "add_address",
    "add_link",
    "add_route",
    "add_rule",
    "add_veth",
    "delete_address",
    "delete_fdb",
    "delete_link",
    "delete_neighbour",
    "delete_route",
    "delete_rule",
    "replace_address",
    "replace_fdb",
    "replace_neighbour",
    "replace_route",
    "set_link",
]

T = TypeVar("T")

BATCH = 256
"""Messages in one sendmsg: even if all fail, the answers fit in the smallest receive buffer that a kernel gives us."""
_RECEIVE_BYTES = 1 << 18
_DUMP_TRIES = 16
TIMEOUT_S = 10.0
"""The kernel answers within microseconds; a socket that is silent for so long is broken (ETIMEDOUT)."""


class NetlinkError(OSError):
    """The kernel refused one request. ``errno`` as usual; ``reason``: its own words, often empty."""

    def __init__(self, number: int, reason: str = "") -> None:
        super().__init__(number, f"{os.strerror(number)} ({reason})" if reason else os.strerror(number))
        self.reason = reason


def open_socket(netns: int | str | None, *, receive_bytes: int) -> socket.socket:
    """A route socket of this thread's network namespace, or of the one given by descriptor, name or path."""
    if netns is None:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, w.NETLINK_ROUTE)
    else:
        from calico_kernel.host import netns as namespaces

        with namespaces.entered(netns):
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, w.NETLINK_ROUTE)
    try:
        try:
            sock.setsockopt(socket.SOL_SOCKET, 33, receive_bytes)  # SO_RCVBUFFORCE
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        for option in (w.NETLINK_CAP_ACK, w.NETLINK_EXT_ACK, w.NETLINK_GET_STRICT_CHK):
            with contextlib.suppress(OSError):  # an old kernel: longer answers, no words, no filters; handled below
                sock.setsockopt(w.SOL_NETLINK, option, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(TIMEOUT_S), 0))
        sock.bind((0, 0))
    except BaseException:
        sock.close()
        raise
    return sock


class Netlink:
    """One route socket in one network namespace. Not thread-safe: one for each thread."""

    def __init__(self, netns: int | str | None = None) -> None:
        self._sock = open_socket(netns, receive_bytes=1 << 20)
        self._sequence = 0

    def close(self) -> None:
        self._sock.close()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    # ── writing ──

    def execute(self, requests: Sequence[Request]) -> list[NetlinkError | None]:
        """Carry out every request in order, whether or not earlier ones fail; one answer each, None for done.
        Raises OSError only when the socket itself is broken: what was done is then unknown."""
        answers: list[NetlinkError | None] = [None] * len(requests)
        for start in range(0, len(requests), BATCH):
            self._batch(requests[start : start + BATCH], answers, start)
        return answers

    def run(self, *requests: Request) -> None:
        """Like ``execute``, but raises the first error."""
        for error in self.execute(requests):
            if error is not None:
                raise error

    def _batch(self, requests: Sequence[Request], answers: list[NetlinkError | None], offset: int) -> None:
        # Only the last message asks for an answer. The others are answered only when they fail, so a batch that works
        # costs one send and one receive.
        if not requests:
            return
        sequence = first = self._sequence + 1
        pack, parts = w.HEADER.pack, []
        for kind, flags, body in requests:
            parts.append(pack(16 + len(body), kind, flags | w.NLM_F_REQUEST, sequence, 0))
            parts.append(body)
            sequence += 1
        last = self._sequence = sequence - 1
        parts[-2] = pack(16 + len(body), kind, flags | w.NLM_F_REQUEST | w.NLM_F_ACK, last, 0)
        self._sock.send(b"".join(parts))
        done = False
        while not done:
            for answer_kind, answer_flags, number, data in self._receive():
                if answer_kind != w.NLMSG_ERROR or not first <= number <= last:
                    continue  # a late answer to a batch that was given up
                code = -w.S32.unpack_from(data)[0]
                if code:
                    answers[offset + number - first] = NetlinkError(code, _reason(data, answer_flags))
                done = done or number == last

    def _receive(self) -> list[tuple[int, int, int, bytes]]:
        """The messages of one datagram: (type, flags, sequence, body)."""
        try:
            return _split(self._sock.recv(_RECEIVE_BYTES))
        except BlockingIOError:
            raise NetlinkError(errno.ETIMEDOUT, "the kernel did not answer") from None

    # ── reading ──

    def _dump(self, kind: int, body: bytes, answer: int, decode: Callable[[bytes], T]) -> list[T]:
        """All objects of one kind, as of one moment: read again when the kernel says that they changed meanwhile."""
        for _ in range(_DUMP_TRIES):
            found, interrupted = self._dump_once(kind, body, answer, decode)
            if not interrupted:
                return found
        raise NetlinkError(errno.EINTR, f"what is read changed during each of {_DUMP_TRIES} attempts")

    def _dump_once(self, kind: int, body: bytes, answer: int, decode: Callable[[bytes], T]) -> tuple[list[T], bool]:
        self._sequence = sequence = self._sequence + 1
        self._sock.send(w.HEADER.pack(16 + len(body), kind, w.NLM_F_REQUEST | w.NLM_F_DUMP, sequence, 0) + body)
        found: list[T] = []
        interrupted = False
        while True:
            try:
                messages = self._receive()
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    raise
                interrupted = True  # something was lost; the rest is read so that the socket is clean again
                continue
            for got, flags, number, data in messages:
                if number != sequence:
                    continue
                interrupted = interrupted or bool(flags & w.NLM_F_DUMP_INTR)
                if got == answer:
                    found.append(decode(data))
                elif got in (w.NLMSG_DONE, w.NLMSG_ERROR):
                    code = -w.S32.unpack_from(data)[0] if len(data) >= 4 else 0
                    if code:
                        raise NetlinkError(code, _reason(data, flags) if got == w.NLMSG_ERROR else "")
                    return found, interrupted

    def _ask(self, kind: int, body: bytes, answer: int, decode: Callable[[bytes], T]) -> T:
        self._sequence = sequence = self._sequence + 1
        self._sock.send(w.HEADER.pack(16 + len(body), kind, w.NLM_F_REQUEST, sequence, 0) + body)
        while True:
            for got, flags, number, data in self._receive():
                if number != sequence:
                    continue
                if got == answer:
                    return decode(data)
                if got == w.NLMSG_ERROR:
                    raise NetlinkError(-w.S32.unpack_from(data)[0], _reason(data, flags))

    def link(self, name: str = "", *, index: int = 0) -> Link | None:
        """One device, or None when there is none of that name or index."""
        body = w.IFINFOMSG.pack(w.AF_UNSPEC, 0, index, 0, 0) + w.attr_u32(w.IFLA_EXT_MASK, _NO_STATISTICS)
        if not index:
            body += w.attr_text(w.IFLA_IFNAME, name)
        try:
            return self._ask(w.RTM_GETLINK, body, w.RTM_NEWLINK, v.decode_link)
        except NetlinkError as exc:
            if exc.errno == errno.ENODEV:
                return None
            raise

    def links(self, *, kind: str = "") -> list[Link]:
        body = w.IFINFOMSG.pack(w.AF_UNSPEC, 0, 0, 0, 0) + w.attr_u32(w.IFLA_EXT_MASK, _NO_STATISTICS)
        found = self._dump(w.RTM_GETLINK, body, w.RTM_NEWLINK, v.decode_link)
        return [link for link in found if link.kind == kind] if kind else found

    def addresses(self, ifindex: int = 0, *, version: int = 0) -> list[InterfaceAddress]:
        body = w.IFADDRMSG.pack(_FAMILY[version], 0, 0, 0, ifindex)
        found = self._dump(w.RTM_GETADDR, body, w.RTM_NEWADDR, v.decode_address)
        return [entry for entry in found if entry.ifindex == ifindex] if ifindex else found

    def routes(
        self, *, version: int = 4, table: int = w.RT_TABLE_MAIN, protocol: int = 0, ifindex: int = 0
    ) -> list[RouteEntry]:
        """Routes of one table (0: of all), of one protocol and device when those are given."""
        body = w.RTMSG.pack(_FAMILY[version], 0, 0, 0, table if table < 256 else 0, protocol, 0, 0, 0)
        if table:
            body += w.attr_u32(w.RTA_TABLE, table)
        if ifindex:
            body += w.attr_u32(w.RTA_OIF, ifindex)
        try:
            found = self._dump(w.RTM_GETROUTE, body, w.RTM_NEWROUTE, v.decode_route)
        except NetlinkError as exc:
            if exc.errno in (errno.ENOENT, errno.ENODEV):  # nobody has used this table; the device is gone
                return []
            raise
        return [  # the kernel has filtered already, unless it is older than 4.20
            route
            for route in found
            if (not table or route.table == table)
            and (not protocol or route.protocol == protocol)
            and (not ifindex or not route.ifindex or route.ifindex == ifindex)
        ]

    def route_to(self, address: str, *, mark: int = 0) -> RouteEntry:
        """The route that a packet to ``address`` would take now. Raises NetlinkError (ENETUNREACH, EHOSTUNREACH...)."""
        packed = v.pack_address(address)
        family = w.AF_INET if len(packed) == 4 else w.AF_INET6
        body = w.RTMSG.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0) + w.attr(w.RTA_DST, packed)
        if mark:
            body += w.attr_u32(w.RTA_MARK, mark)
        return self._ask(w.RTM_GETROUTE, body, w.RTM_NEWROUTE, v.decode_route)

    def neighbours(self, ifindex: int = 0, *, version: int = 0, proxy: bool = False) -> list[Neighbour]:
        """ARP and NDP entries; with ``proxy``, the addresses that are answered for others instead."""
        body = w.NDMSG.pack(_FAMILY[version], 0, 0, w.NTF_PROXY if proxy else 0, 0)
        if ifindex:
            body += w.attr_u32(w.NDA_IFINDEX, ifindex)
        found = self._dump(w.RTM_GETNEIGH, body, w.RTM_NEWNEIGH, v.decode_neighbour)
        return [entry for entry in found if entry.address and (not ifindex or entry.ifindex == ifindex)]

    def fdb(self, ifindex: int = 0) -> list[FdbEntry]:
        """Forwarding entries of VXLAN and bridge devices."""
        body = w.NDMSG.pack(w.AF_BRIDGE, 0, 0, 0, 0)
        if ifindex:
            body += w.attr_u32(w.NDA_IFINDEX, ifindex)
        found = self._dump(w.RTM_GETNEIGH, body, w.RTM_NEWNEIGH, v.decode_fdb)
        return [entry for entry in found if not ifindex or entry.ifindex == ifindex]

    def rules(self, *, version: int = 4) -> list[Rule]:
        body = w.RTMSG.pack(_FAMILY[version], 0, 0, 0, 0, 0, 0, 0, 0)
        return self._dump(w.RTM_GETRULE, body, w.RTM_NEWRULE, v.decode_rule)


_FAMILY = {0: w.AF_UNSPEC, 4: w.AF_INET, 6: w.AF_INET6}
_NO_STATISTICS = 8  # RTEXT_FILTER_SKIP_STATS: a link's counters are two thirds of its message


def _split(datagram: bytes) -> list[tuple[int, int, int, bytes]]:
    messages, start, end = [], 0, len(datagram)
    unpack = w.HEADER.unpack_from
    while start + 16 <= end:
        size, kind, flags, sequence, _ = unpack(datagram, start)
        if size < 16 or start + size > end:
            break
        messages.append((kind, flags, sequence, datagram[start + 16 : start + size]))
        start += (size + 3) & ~3
    return messages


def _reason(data: bytes, flags: int) -> str:
    """The kernel's words in an error message: after the code and the (capped) copy of the request."""
    if not flags & w.NLM_F_ACK_TLVS or len(data) < 20:
        return ""
    copied = 16 if flags & w.NLM_F_CAPPED else (w.U32.unpack_from(data, 4)[0] + 3) & ~3
    return w.text(w.attributes(data, 4 + copied).get(w.NLMSGERR_ATTR_MSG, b""))


# ── notifications ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Notice(NamedTuple):
    """A change that the kernel told. ``topic``: "link", "address", "route", "neighbour", "fdb", "rule", or "lost": the
    socket overflowed, so anything may have changed and must be read again (``value`` None)."""

    topic: str
    deleted: bool
    value: Link | InterfaceAddress | RouteEntry | Neighbour | FdbEntry | Rule | None


_NOTICES: dict[int, tuple[str, bool, Callable[[bytes], Any]]] = {
    w.RTM_NEWLINK: ("link", False, v.decode_link),
    w.RTM_DELLINK: ("link", True, v.decode_link),
    w.RTM_NEWADDR: ("address", False, v.decode_address),
    w.RTM_DELADDR: ("address", True, v.decode_address),
    w.RTM_NEWROUTE: ("route", False, v.decode_route),
    w.RTM_DELROUTE: ("route", True, v.decode_route),
    w.RTM_NEWNEIGH: ("neighbour", False, v.decode_neighbour),
    w.RTM_DELNEIGH: ("neighbour", True, v.decode_neighbour),
    w.RTM_NEWRULE: ("rule", False, v.decode_rule),
    w.RTM_DELRULE: ("rule", True, v.decode_rule),
}


class Monitor:
    """Notifications of one network namespace. Subscribe first, then dump: nothing is missed in between."""

    def __init__(
        self,
        *,
        links: bool = False,
        addresses: bool = False,
        routes: bool = False,
        neighbours: bool = False,
        rules: bool = False,
        netns: int | str | None = None,
        receive_bytes: int = 4 << 20,
    ) -> None:
        wanted = {
            (w.RTNLGRP_LINK,): links,
            (w.RTNLGRP_IPV4_IFADDR, w.RTNLGRP_IPV6_IFADDR): addresses,
            (w.RTNLGRP_IPV4_ROUTE, w.RTNLGRP_IPV6_ROUTE): routes,
            (w.RTNLGRP_NEIGH,): neighbours,
            (w.RTNLGRP_IPV4_RULE, w.RTNLGRP_IPV6_RULE): rules,
        }
        self._sock = open_socket(netns, receive_bytes=receive_bytes)
        try:
            for groups, yes in wanted.items():
                for group in groups if yes else ():
                    self._sock.setsockopt(w.SOL_NETLINK, 1, group)  # NETLINK_ADD_MEMBERSHIP
        except BaseException:
            self._sock.close()
            raise

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def next(self, timeout_s: float) -> list[Notice]:
        """All that is waiting, or what comes first within ``timeout_s``; [] when nothing does. ``timeout_s`` 0 only
        looks. Raises OSError (EBADF) after ``close``."""
        poll = select.poll()
        poll.register(self._sock.fileno(), select.POLLIN)
        notices: list[Notice] = []
        wait_ms = max(int(timeout_s * 1000), 0)
        while poll.poll(0 if notices else wait_ms):
            try:
                messages = _split(self._sock.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT))
            except BlockingIOError:
                break
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    raise
                notices.append(Notice("lost", False, None))
                continue
            for kind, _, _, body in messages:
                notice = _notice(kind, body)
                if notice is not None:
                    notices.append(notice)
            if len(notices) >= _NOTICES_AT_ONCE:
                break
        return notices

    def notices(self, timeout_s: float) -> Iterator[Notice]:
        """One by one until nothing has come for ``timeout_s``."""
        while True:
            waiting = self.next(timeout_s)
            if not waiting:
                return
            yield from waiting


_NOTICES_AT_ONCE = 4096


def _notice(kind: int, body: bytes) -> Notice | None:
    known = _NOTICES.get(kind)
    if known is None:
        return None
    topic, deleted, decode = known
    if body[0] == w.AF_BRIDGE:
        if topic == "link":  # a port left or joined a bridge; the device itself is reported as well
            return None
        return Notice("fdb", deleted, v.decode_fdb(body))
    if topic == "route" and w.U32.unpack_from(body, 8)[0] & w.RTM_F_CLONED:
        return None
    return Notice(topic, deleted, decode(body))
