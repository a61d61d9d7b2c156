from __future__ import annotations

import struct

from calico_kernel.lab import packets


def test_crc32c_of_the_check_string_is_the_published_value() -> None:
    assert packets.crc32c(b"123456789") == 0xE3069283


def test_crc32c_of_32_zero_bytes_is_that_of_rfc_3720() -> None:
    assert struct.pack("<I", packets.crc32c(bytes(32))) == bytes.fromhex("aa36918a")


def test_sctp_init_carries_its_tag_and_target_port() -> None:
    packet = packets.sctp_init(4000, 9999, 77)
    assert packets.sctp_init_tag(packet) == (9999, 77)
    assert struct.pack("<I", packets.crc32c(packet[:8] + bytes(4) + packet[12:])) == packet[8:12]


def test_other_sctp_chunks_are_no_probes() -> None:
    packet = bytearray(packets.sctp_init(4000, 9999, 77))
    packet[12] = 6
    assert packets.sctp_init_tag(bytes(packet)) is None
    assert packets.sctp_init_tag(b"short") is None


def test_echo_request_of_ipv4_sums_to_all_ones() -> None:
    words = struct.unpack("!6H", packets.echo_request(4, 0xFFFF, 0xFFFFFFFE))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF


def test_echo_reply_gives_its_nonce_back_and_nothing_else_does() -> None:
    assert packets.echo_reply_nonce(4, bytes([0]) + packets.echo_request(4, 9, 5)[1:]) == 5
    assert packets.echo_reply_nonce(6, bytes([129]) + packets.echo_request(6, 9, 6)[1:]) == 6
    assert packets.echo_reply_nonce(4, packets.echo_request(4, 9, 5)) is None
    assert packets.echo_reply_nonce(4, bytes([0]) + packets.echo_request(4, 9, 5)[1:] + b"more") is None
