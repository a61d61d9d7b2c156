"""Small questions to netfilter that would be too dear as processes: has anything changed, and forget these flows.

Standard library only. Every function works in the network namespace of the socket's maker. Sources: the kernel's
nfnetlink, ipset, nf_tables and ctnetlink headers.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterable
from types import TracebackType

from calico_kernel.host import nlwire as w

_NETLINK_NETFILTER = 12
_CTNETLINK, _IPSET, _NFTABLES = 1, 6, 10
_IPCTNL_MSG_CT_DELETE = 2
_IPSET_CMD_LIST, _IPSET_PROTOCOL = 7, 6
_IPSET_NAME, _IPSET_DATA, _IPSET_REFERENCES = 2, 7, 25
_NFT_MSG_GETGEN = 16
_NFNLGRP_NFTABLES = 7
_NEW_GENERATION = _NFTABLES << 8 | 15
_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY, _CTA_TUPLE_IP, _CTA_FILTER = 1, 2, 1, 25
_FILTER_SOURCE, _FILTER_DESTINATION = 1, 2
_GET_INFO = 64  # IPT_SO_GET_INFO and IP6T_SO_GET_INFO
_INFO_BYTES = 84
_libc = ctypes.CDLL(None, use_errno=True)


class Netfilter:
    """One nfnetlink socket. Not thread-safe: one for each thread."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._sock.bind((0, 0))
        self._sock.settimeout(5.0)
        self._raw: dict[int, socket.socket] = {}

    def close(self) -> None:
        self._sock.close()
        for sock in self._raw.values():
            sock.close()

    def __enter__(self) -> Netfilter:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _request(self, subsystem: int, message: int, flags: int, body: bytes, *, family: int = 0) -> bytes:
        """All that the kernel answers, as it came; the sequence number is always the same, so equal answers are equal
        bytes. Raises OSError."""
        header = w.HEADER.pack(20 + len(body), subsystem << 8 | message, flags | w.NLM_F_REQUEST, 1, 0)
        self._sock.send(header + struct.pack("=BBH", family, 0, 0) + body)
        whole = []
        while True:
            data = self._sock.recv(1 << 18)
            whole.append(data)
            start = 0
            while start + 16 <= len(data):
                size, kind, got_flags, _, _ = w.HEADER.unpack_from(data, start)
                if kind == w.NLMSG_ERROR:
                    code = -w.S32.unpack_from(data, start + 16)[0]
                    if code:
                        raise OSError(code, os.strerror(code))
                    return b"".join(whole)
                if kind == w.NLMSG_DONE or not (got_flags & 2 or flags & w.NLM_F_ACK):  # 2: more parts follow
                    return b"".join(whole)
                start += max((size + 3) & ~3, 16)

    def nft_generation(self) -> int:
        """Number of the present nftables rule set; any change by anyone makes it another. Raises OSError."""
        answer = self._request(_NFTABLES, _NFT_MSG_GETGEN, 0, b"")
        return int.from_bytes(w.attributes(answer, 20).get(1, b""), "big")

    def sets_digest(self) -> int:
        """Of all IP sets' headers (which tell how many members they have): another when any of them changed.
        Raises OSError.

        How many rules refer to a set is left out: nftables lets go of sets some time after the rules are gone, and that
        would look like somebody else's doing."""
        body = w.attr(1, bytes([_IPSET_PROTOCOL])) + w.attr(6 | 0x4000, struct.pack(">I", 4))  # headers only
        answer = self._request(_IPSET, _IPSET_CMD_LIST, w.NLM_F_DUMP, body)
        sets: list[tuple[bytes, tuple[tuple[int, bytes], ...]]] = []
        start = 0
        while start + 16 <= len(answer):
            size = w.HEADER.unpack_from(answer, start)[0]
            told = w.attributes(answer[start + 20 : start + size])
            header = w.attributes(told.get(_IPSET_DATA, b""))
            header.pop(_IPSET_REFERENCES, None)
            sets.append((told.get(_IPSET_NAME, b""), tuple(header.items())))
            start += max((size + 3) & ~3, 16)
        return hash(tuple(sets))

    def legacy_info(self, version: int, table: str) -> bytes:
        """Size, entry points and rule count of a legacy table; b"" when there is no such table. Raises OSError."""
        sock = self._raw.get(version)
        if sock is None:
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            sock = self._raw[version] = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
        buffer = ctypes.create_string_buffer(table.encode(), _INFO_BYTES)
        length = ctypes.c_uint32(_INFO_BYTES)
        level = socket.IPPROTO_IP if version == 4 else socket.IPPROTO_IPV6
        if _libc.getsockopt(sock.fileno(), level, _GET_INFO, buffer, ctypes.byref(length)) != 0:
            number = ctypes.get_errno()
            if number in (errno.ENOENT, errno.ENOPROTOOPT):
                return b""
            raise OSError(number, os.strerror(number))
        return buffer.raw

    def forget_flows(self, addresses: Iterable[str]) -> None:
        """Delete the tracked flows from and to these addresses, in either direction. Raises OSError (EINVAL and
        EOPNOTSUPP where the kernel cannot filter: Linux before 5.8)."""
        for address in addresses:
            packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
            source = 1 if len(packed) == 4 else 3
            family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
            for tuple_kind in (_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY):
                for offset, flag in ((0, _FILTER_SOURCE), (1, _FILTER_DESTINATION)):
                    wanted = [0, 0]
                    wanted[tuple_kind - 1] = flag
                    body = w.nested(tuple_kind, w.nested(_CTA_TUPLE_IP, w.attr(source + offset, packed)))
                    body += w.nested(_CTA_FILTER, w.attr_u32(1, wanted[0]), w.attr_u32(2, wanted[1]))
                    with contextlib.suppress(FileNotFoundError):
                        self._request(_CTNETLINK, _IPCTNL_MSG_CT_DELETE, w.NLM_F_ACK, body, family=family)


def nft_events() -> socket.socket:
    """A socket that becomes readable when somebody (we as well) changed nftables; only the message that ends each
    transaction gets through. Raises OSError."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    try:
        sock.setblocking(False)
        # Classic BPF: load the message type (the machine's byte order; loads are big-endian), keep only NEWGEN.
        kind = int.from_bytes(_NEW_GENERATION.to_bytes(2, "little"), "big") if _LITTLE else _NEW_GENERATION
        code = [(0x28, 0, 0, 4), (0x15, 0, 1, kind), (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0)]
        program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
        filter_program = struct.pack("HL", len(code), ctypes.addressof(program))
        sock.setsockopt(socket.SOL_SOCKET, 26, filter_program)  # SO_ATTACH_FILTER
        sock.bind((0, 0))
        sock.setsockopt(w.SOL_NETLINK, 1, _NFNLGRP_NFTABLES)
    except BaseException:
        sock.close()
        raise
    return sock


_LITTLE = struct.pack("=H", 1) == b"\x01\x00"
