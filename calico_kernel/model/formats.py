"""The formats of single values: which text is acceptable, and its canonical form.

``CHECKS[format](value)`` says what is wrong, or None. ``CANONICAL[format](value)`` returns the form that is stored, or
raises ValueError. Rules are Calico's (client validator and CRD schemas). Pure.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any

from calico_kernel.model.durations import format_duration, parse_duration

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_DNS_LABEL = re.compile(_LABEL)
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_INTERFACE = re.compile(r"[a-zA-Z0-9_.-]{1,15}")
_FILTER_INTERFACE = re.compile(r"[a-zA-Z0-9_.*-]{1,15}")
_INTERFACE_FILTER = re.compile(r"[a-zA-Z0-9:._+-]{1,15}")
_CONTAINER_ID = re.compile(r"[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?")
_PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_NAMED_PORT = re.compile(r"[a-zA-Z0-9_.-]{1,128}")
_MAC = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}|([0-9a-fA-F]{4}\.){2}[0-9a-fA-F]{4}")
_HOST = re.compile(r"[a-zA-Z0-9:._+-]{1,64}")
_WIREGUARD_KEY = re.compile(r"[A-Za-z0-9+/]{43}=")

PROTOCOLS = ("TCP", "UDP", "ICMP", "ICMPv6", "SCTP", "UDPLite")
DSCP_NAMES = frozenset(
    ["DF", "EF", *(f"AF{x}{y}" for x in range(1, 5) for y in range(1, 4)), *(f"CS{x}" for x in range(7))]
)
MAX_AS_NUMBER = 2**32 - 1
MAX_ANNOTATIONS_BYTES = 262144


def address(text: str) -> Address:
    """Raises ValueError. Zones (``fe80::1%eth0``) are not addresses here."""
    if "%" in text:
        raise ValueError(text)
    return ipaddress.ip_address(text)


def network(text: str) -> Network:
    """An address or CIDR whose host bits are zero. Raises ValueError."""
    return ipaddress.ip_network(_cidr_text(text))


def loose_network(text: str) -> Network:
    """An address or CIDR; host bits are dropped. Raises ValueError."""
    return ipaddress.ip_network(_cidr_text(text), strict=False)


def _cidr_text(text: str) -> str:
    _, slash, length = text.partition("/")
    if "%" in text or (slash and not (length.isascii() and length.isdigit())):
        raise ValueError(text)  # ipaddress alone would take netmasks ("10.0.0.0/255.0.0.0")
    return text


# ── checks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _matching(pattern: re.Pattern[str], reason: str) -> Callable[[Any], str | None]:
    return lambda value: None if pattern.fullmatch(value) else reason


def _name(value: str) -> str | None:
    if len(value) > 253:
        return "must be at most 253 characters"
    if not _SUBDOMAIN.fullmatch(value):
        return "must consist of lower case letters, digits, '-' or '.', and begin and end with a letter or digit"
    return None


def dns_label(value: str) -> bool:
    return len(value) <= 63 and _DNS_LABEL.fullmatch(value) is not None


def _network_check(parse: Callable[[str], Network], version: int | None, what: str) -> Callable[[Any], str | None]:
    def check(value: str) -> str | None:
        try:
            found = parse(value)
        except ValueError:
            return f"{value!r} is not {what}"
        return f"{value!r} is not {what}" if version is not None and found.version != version else None

    return check


def _address_check(version: int | None, what: str) -> Callable[[Any], str | None]:
    def check(value: str) -> str | None:
        try:
            found = address(value)
        except ValueError:
            return f"{value!r} is not {what}"
        return f"{value!r} is not {what}" if version is not None and found.version != version else None

    return check


def _ip_port(value: str) -> str | None:
    """``<IPv4>``, ``<IPv6>``, ``<IPv4>:<port>``, ``[<IPv6>]:<port>``."""
    host, port = value, ""
    if value.startswith("["):
        host, bracket, port = value[1:].partition("]:")
        if not bracket:
            return f"{value!r} is not an address with a port"
    elif value.count(":") == 1:
        host, _, port = value.partition(":")
        if not port:
            return f"{value!r} lacks a port after ':'"
    if port and not (len(port) <= 5 and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        return f"port {port!r} is not a number from 1 to 65535"
    try:
        address(host)
    except ValueError:
        return f"{host!r} is not an IP address"
    return None


def _protocol(value: str | int) -> str | None:
    try:
        canonical_protocol(value)
    except ValueError as exc:
        return str(exc)
    return None


def _endpoint_protocol(value: str | int) -> str | None:
    return None if value in ("TCP", "UDP", "SCTP", 6, 17, 132) else f"{value!r} is not TCP, UDP or SCTP"


def _port(value: str | int) -> str | None:
    try:
        canonical_port(value)
    except ValueError as exc:
        return str(exc)
    return None


def _port_name(value: str) -> str | None:
    if len(value) > 15 or not _PORT_NAME.fullmatch(value):
        return (
            f"{value!r} is not a port name: at most 15 lower case letters, digits or single '-', "
            "at least one letter, no '-' at either end"
        )
    return None


def _as_number(value: str | int) -> str | None:
    try:
        canonical_as_number(value)
    except ValueError as exc:
        return str(exc)
    return None


def _dscp(value: str | int) -> str | None:
    try:
        canonical_dscp(value)
    except ValueError as exc:
        return str(exc)
    return None


def _duration(value: str) -> str | None:
    try:
        return None if parse_duration(value) >= 0 else f"{value!r} is negative"
    except ValueError as exc:
        return str(exc)


def _regexp(value: str) -> str | None:
    try:
        re.compile(value)
    except re.error as exc:
        return f"{value!r} is not a regular expression: {exc}"
    return None


def _community(value: str) -> str | None:
    parts = value.split(":")
    top = {2: 0xFFFF, 3: 0xFFFFFFFF}.get(len(parts))
    if top is None or not all(len(p) <= 10 and p.isascii() and p.isdigit() and int(p) <= top for p in parts):
        return f"{value!r} is not a community: 'aa:nn' (each to 65535) or 'aa:nn:mm' (each to 4294967295)"
    return None


def _interface(value: str) -> str | None:
    return None if value == "*" or _INTERFACE.fullmatch(value) else f"{value!r} is not an interface name"


def _filter_interface(value: str) -> str | None:
    return None if value == "*" or _FILTER_INTERFACE.fullmatch(value) else f"{value!r} is not an interface pattern"


def _ignored_interface(value: str) -> str | None:
    return None if value != "*" and _FILTER_INTERFACE.fullmatch(value) else f"{value!r} cannot be ignored"


def _key_value_list(value: str) -> str | None:
    for part in value.split(","):
        if part.strip() and not re.fullmatch(r"[^=]+=.*", part.strip()):
            return f"{part.strip()!r} is not 'key=value'"
    return None


def _log_filters(value: Mapping[str, str]) -> str | None:
    for name in value:
        if not _INTERFACE.fullmatch(name):
            return f"{name!r} is not an interface name"
    return None


def qualified_name(value: str) -> str | None:
    """Kubernetes' rule for label keys: an optional DNS prefix and ``/``, then at most 63 characters."""
    prefix, slash, name = value.rpartition("/")
    if slash and (not prefix or len(prefix) > 253 or not _SUBDOMAIN.fullmatch(prefix)):
        return f"the prefix of {value!r} is not a DNS name"
    if len(name) > 63 or not _QUALIFIED.fullmatch(name):
        return f"{value!r} is not a label key: at most 63 letters, digits, '-', '_' or '.', ends alphanumeric"
    return None


def _labels(value: Mapping[str, str]) -> str | None:
    for key, text in value.items():
        reason = qualified_name(key)
        if reason:
            return reason
        if len(text) > 63 or (text and not _QUALIFIED.fullmatch(text)):
            return (
                f"the value of {key!r}, {text!r}, is not a label value: at most 63 letters, digits, '-', '_' or '.', "
                "beginning and ending with a letter or digit"
            )
    return None


def _annotations(value: Mapping[str, str]) -> str | None:
    size = 0
    for key, text in value.items():
        reason = qualified_name(key.lower())
        if reason:
            return reason
        size += len(key.encode()) + len(text.encode())
    return f"together {size} bytes, more than {MAX_ANNOTATIONS_BYTES}" if size > MAX_ANNOTATIONS_BYTES else None


CHECKS: dict[str, Callable[[Any], str | None]] = {
    "name": _name,
    "net": _network_check(network, None, "an address or a CIDR whose host bits are zero"),
    "netv4": _network_check(network, 4, "an IPv4 CIDR whose host bits are zero"),
    "netv6": _network_check(network, 6, "an IPv6 CIDR whose host bits are zero"),
    "cidr": _network_check(loose_network, None, "an address or CIDR"),
    "cidrv4": _network_check(loose_network, 4, "an IPv4 address or CIDR"),
    "cidrv6": _network_check(loose_network, 6, "an IPv6 address or CIDR"),
    "with-length": lambda value: None if "/" in value else f"{value!r} lacks a prefix length, such as /32",
    "ip": _address_check(None, "an IP address"),
    "ipv4": _address_check(4, "an IPv4 address"),
    "ipv6": _address_check(6, "an IPv6 address"),
    "ip-port": _ip_port,
    "ip-version": lambda value: None if value in (4, 6) else "must be 4 or 6",
    "mac": _matching(_MAC, "is not a MAC address"),
    "interface": _interface,
    "filter-interface": _filter_interface,
    "ignored-interface": _ignored_interface,
    "interface-filter": _matching(_INTERFACE_FILTER, "is not an interface name or prefix (letters, digits, : . _ + -)"),
    "container-id": _matching(_CONTAINER_ID, "must consist of letters, digits and inner '-'"),
    "port-name": _port_name,
    "protocol": _protocol,
    "endpoint-protocol": _endpoint_protocol,
    "port": _port,
    "asn": _as_number,
    "dscp": _dscp,
    "duration": _duration,
    "regexp": _regexp,
    "community": _community,
    "prometheus-host": _matching(_HOST, "is not a host name or address"),
    "wireguard-key": _matching(_WIREGUARD_KEY, "is not a WireGuard key (44 characters of base64)"),
    "key-value-list": _key_value_list,
    "bpf-log-filters": _log_filters,
    "labels": _labels,
    "annotations": _annotations,
}


# ── canonical forms ───────────────────────────────────────────────────────────────────────────────────────────────────


def canonical_protocol(value: str | int) -> str | int:
    """Digits become the number; names are taken as Calico writes them."""
    if isinstance(value, str):
        if value in PROTOCOLS:
            return value
        if not (value.isascii() and value.isdigit()):
            raise ValueError(f"{value!r} is not a protocol: {', '.join(PROTOCOLS)}, or a number from 1 to 255")
        value = int(value)
    if not 1 <= value <= 255:
        raise ValueError(f"protocol number {value} is not from 1 to 255")
    return value


def canonical_port(value: str | int) -> str | int:
    """A number, ``"80:90"`` with unequal ends, or a name."""
    if isinstance(value, int):
        return _port_number(value)
    first, colon, last = value.partition(":")
    if not colon:
        if value.isascii() and value.isdigit():
            return _port_number(int(value))
        if not _NAMED_PORT.fullmatch(value):
            raise ValueError(f"{value!r} is not a port, a range 'first:last', or a port name")
        return value
    if not all(end.isascii() and end.isdigit() for end in (first, last)):
        raise ValueError(f"{value!r} is not a port range 'first:last'")
    low, high = _port_number(int(first)), _port_number(int(last))
    if low > high:
        raise ValueError(f"port range {value!r} ends before it begins")
    return low if low == high else f"{low}:{high}"


def _port_number(value: int) -> int:
    if not 1 <= value <= 65535:
        raise ValueError(f"port {value} is not from 1 to 65535")
    return value


def canonical_as_number(value: str | int) -> int:
    """A number; ``"1.10"`` is two halves of 16 bits."""
    if isinstance(value, str):
        high, dot, low = value.partition(".")
        halves = (high, low) if dot else (high,)
        if not all(half.isascii() and half.isdigit() for half in halves):
            raise ValueError(f"{value!r} is not an AS number")
        if dot and any(int(half) > 0xFFFF for half in halves):
            raise ValueError(f"{value!r} is not an AS number: each half is at most 65535")
        value = (int(high) << 16) + int(low) if dot else int(high)
    if not 0 <= value <= MAX_AS_NUMBER:
        raise ValueError(f"AS number {value} is not from 0 to {MAX_AS_NUMBER}")
    return value


def canonical_dscp(value: str | int) -> str | int:
    if isinstance(value, str):
        if value in DSCP_NAMES:
            return value
        if not (value.isascii() and value.isdigit()):
            raise ValueError(f"{value!r} is not a DSCP: 0 to 63, DF, EF, AF11-AF43 or CS0-CS6")
        value = int(value)
    if not 0 <= value <= 63:
        raise ValueError(f"DSCP {value} is not from 0 to 63")
    return value


def canonical_duration(value: str) -> str:
    return format_duration(parse_duration(value))


CANONICAL: dict[str, Callable[[Any], Any]] = {
    "protocol": canonical_protocol,
    "endpoint-protocol": canonical_protocol,
    "port": canonical_port,
    "asn": canonical_as_number,
    "dscp": canonical_dscp,
    "duration": canonical_duration,
}
