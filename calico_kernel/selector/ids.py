"""Names made from hashes: ids of selectors, named ports and services, IP set names and length-limited names.

All are Calico's, so that sets and chains carry the names operators know. Pure.
"""

from __future__ import annotations

import base64
import hashlib

IP_SET_NAME_MAX = 31
"""IPSET_MAXNAMELEN is 32 with the closing NUL."""


def unique_id(prefix: str, content: str) -> str:
    """``prefix:`` and 38 characters of URL-safe base64 of SHA-224 over both."""
    digest = hashlib.sha224(f"{prefix}:{content}".encode()).digest()
    return f"{prefix}:{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def named_port_id(selector_id: str, protocol: str, port_name: str) -> str:
    """Id of the ip_port set of a named port. ``protocol``: ``tcp``, ``udp``, ``sctp``, or ``any`` when the rule names
    none; ``selector_id``: of the selector that narrows the endpoints, that of ``all()`` when there is none."""
    return unique_id("n", f"{selector_id},{protocol},{port_name}")


def service_id(namespace: str, name: str, *, with_ports: bool) -> str:
    """Id of a service's set: (address, protocol, port) members for a destination, addresses alone for a source."""
    return unique_id("svc" if with_ports else "svcnoport", f"{namespace}/{name}")


def ip_set_name(set_id: str, version: int) -> str:
    """The kernel's name of the set: ``cali40`` or ``cali60`` and as much of the id as fits."""
    return f"cali{version}0{set_id}"[:IP_SET_NAME_MAX]


def length_limited_id(prefix: str, suffix: str, max_length: int) -> str:
    """``prefix + suffix`` if it fits, else ``prefix``, ``_`` and a hash that fills up to ``max_length`` characters.

    A suffix that fills the space exactly and begins with ``_`` is hashed too: it would look like a hashed one.
    """
    suffix = suffix or "_"
    whole = len(prefix) + len(suffix)
    if whole > max_length or (whole == max_length and suffix.startswith("_")):
        digest = base64.urlsafe_b64encode(hashlib.sha256(suffix.encode()).digest()).rstrip(b"=").decode()
        return f"{prefix}_{digest}"[:max_length]
    return prefix + suffix
