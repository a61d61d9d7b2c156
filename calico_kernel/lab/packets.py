"""Bytes of the packets that a probe sends by raw sockets: SCTP INIT, ICMP and ICMPv6 echo. Pure.

SCTP: RFC 9260 section 3 (common header, INIT), checksum CRC-32C of its appendix A. ICMP: RFC 792, RFC 4443.
"""

from __future__ import annotations

import struct

ECHO_REQUEST = {4: 8, 6: 128}
ECHO_REPLY = {4: 0, 6: 129}
_INIT = 1
_CASTAGNOLI_REVERSED = 0x82F63B78


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (_CASTAGNOLI_REVERSED if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def sctp_init(source_port: int, target_port: int, tag: int) -> bytes:
    """An INIT whose initiate tag identifies the probe; ``tag`` must not be 0."""
    chunk = struct.pack("!BBHIIHHI", _INIT, 0, 20, tag, 65536, 1, 1, tag)
    packet = struct.pack("!HHII", source_port, target_port, 0, 0) + chunk
    # The checksum travels least significant byte first (RFC 9260 appendix A).
    return packet[:8] + struct.pack("<I", crc32c(packet)) + packet[12:]


def sctp_init_tag(packet: bytes) -> tuple[int, int] | None:
    """(target port, initiate tag) of an INIT, without IP header; None for anything else."""
    if len(packet) < 20 or packet[12] != _INIT:
        return None
    return struct.unpack_from("!H", packet, 2)[0], struct.unpack_from("!I", packet, 16)[0]


def echo_request(version: int, identifier: int, nonce: int) -> bytes:
    """An echo request with ``nonce`` (32 bits) as its data. The identifier is what connection tracking tells flows by.
    The kernel sums ICMPv6 itself."""
    packet = struct.pack("!BBHHHI", ECHO_REQUEST[version], 0, 0, identifier, 1, nonce)
    if version == 6:
        return packet
    total = sum(struct.unpack("!6H", packet))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return packet[:2] + struct.pack("!H", total ^ 0xFFFF) + packet[4:]


def echo_reply_nonce(version: int, packet: bytes) -> int | None:
    """The nonce of an echo reply, without IP header; None for anything else."""
    if len(packet) != 12 or packet[0] != ECHO_REPLY[version]:
        return None
    return int(struct.unpack_from("!I", packet, 8)[0])


def without_ipv4_header(packet: bytes) -> bytes:
    """Raw IPv4 sockets deliver the IP header as well; raw IPv6 sockets do not."""
    return packet[(packet[0] & 0x0F) * 4 :] if packet else packet
