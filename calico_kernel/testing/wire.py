"""Bytes of probe packets, from the transport header up, and back: every one carries a number to know it by. Pure.

TCP SYN (RFC 9293), UDP (RFC 768), UDP-Lite (RFC 3828), SCTP INIT (RFC 9260), ICMP (RFC 792) and ICMPv6 (RFC 4443);
any other protocol as bare payload. Checksums are right: connection tracking throws away what has a wrong one.
"""

from __future__ import annotations

import struct

from calico_kernel.lab.packets import ECHO_REPLY, sctp_init, sctp_init_tag
from calico_kernel.policy.matching import ICMP_OF_VERSION, Packet

TCP, UDP, SCTP, UDPLITE = 6, 17, 132, 136
_MARK = b"calico-probe"
_SYN, _RST, _ACK = 2, 4, 16


def encode(packet: Packet, nonce: int) -> bytes:
    """``packet`` as bytes for a raw socket of its protocol. ``nonce``: 1 to 2**31 - 1; source_port must not be 0."""
    payload = _MARK + struct.pack("!I", nonce)
    match packet.protocol:
        case 6:
            header = struct.pack(
                "!HHIIBBHHH", packet.source_port, packet.destination_port, nonce, 0, 5 << 4, _SYN, 65535, 0, 0
            )
            return _summed(packet, header, 16)
        case 17 | 136:
            length = 8 + len(payload) if packet.protocol == UDP else 0  # UDP-Lite: 0 covers all
            header = struct.pack("!HHHH", packet.source_port, packet.destination_port, length, 0) + payload
            return _summed(packet, header, 6)
        case 132:
            return sctp_init(packet.source_port, packet.destination_port, nonce)
        case number if number == ICMP_OF_VERSION[packet.version]:
            # The identifier tells one echo from another to connection tracking, as ports do.
            fields = (packet.icmp_type or 0, packet.icmp_code or 0, 0, nonce & 0xFFFF, nonce >> 16)
            header = struct.pack("!BBHHH", *fields) + payload
            return header if packet.version == 6 else _put(header, 2, checksum(header))  # the kernel sums ICMPv6
        case _:
            return payload


def decode(protocol: int, version: int, data: bytes) -> int | None:
    """The nonce of a probe that arrived, without its IP header; None for anything else."""
    if protocol == TCP:
        if len(data) < 20 or data[13] & (_SYN | _ACK | _RST) != _SYN:
            return None
        return int.from_bytes(data[4:8])
    if protocol == SCTP:
        found = sctp_init_tag(data)
        return found[1] if found else None
    if protocol == ICMP_OF_VERSION[version] and data[:1] == bytes([ECHO_REPLY[version]]):
        return None
    at = data.find(_MARK)
    return int(struct.unpack_from("!I", data, at + len(_MARK))[0]) if 0 <= at <= len(data) - len(_MARK) - 4 else None


def decode_answer(protocol: int, version: int, data: bytes) -> int | None:
    """The nonce of the probe that this answers: a reset or SYN-ACK of a TCP SYN, an echo reply; None for the rest."""
    if protocol == TCP:
        if len(data) < 20 or not data[13] & _ACK:
            return None
        return (int.from_bytes(data[8:12]) - 1) & 0xFFFFFFFF
    if protocol == ICMP_OF_VERSION[version] and len(data) >= 8 and data[0] == ECHO_REPLY[version]:
        return int.from_bytes(data[4:6]) | int.from_bytes(data[6:8]) << 16
    return None


def is_answered(packet: Packet) -> bool:
    """Whether the receiving kernel answers such a packet, listener or not."""
    echo = packet.is_icmp and packet.icmp_type in (8, 128) and not packet.icmp_code
    return packet.protocol == TCP or echo


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total = sum(int(word) for word in struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _put(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + struct.pack("!H", value) + data[at + 2 :]


def _summed(packet: Packet, segment: bytes, at: int) -> bytes:
    """``segment`` with its checksum at ``at``, over the pseudo header too."""
    ends = packet.source.packed + packet.destination.packed
    pseudo = ends + struct.pack("!IBBBB", len(segment), 0, 0, 0, packet.protocol)
    return _put(segment, at, checksum(pseudo + segment) or 0xFFFF)  # 0 would say "no checksum"
