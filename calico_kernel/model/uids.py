"""The uid of a resource that a Kubernetes object stands for, made from the object's own.

The same transform both ways (Calico: ``ConvertUID``): one uid must not name two objects of one API.
"""

from __future__ import annotations

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def exchanged(uid: str) -> str:
    """Every byte's bits in reverse, but for the two that hold version and variant. Its own inverse. What is no uid
    comes back as it is."""
    digits = uid.replace("-", "")
    if len(digits) != 32:
        return uid
    try:
        plain = bytes.fromhex(digits)
    except ValueError:
        return uid
    turned = bytearray(plain.translate(_REVERSED))
    turned[6], turned[8] = plain[6], plain[8]
    text = turned.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
