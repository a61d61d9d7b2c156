"""Ids of selectors, named ports and services, made from hashes.

All are Calico's, so that sets carry the names operators know. Pure.
"""

from __future__ import annotations

import base64
import hashlib


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
