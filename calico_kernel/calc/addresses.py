"""Text to canonical addresses and prefixes, fast: a regular expression for IPv4, ``ipaddress`` for the rest.

In:   what resources hold.   Out: bare addresses, and set members ("10.0.0.1", "10.0.0.0/8"). Raises ValueError.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_QUAD = rf"(?:{_OCTET}\.){{3}}{_OCTET}"
_SINGLE = re.compile(rf"({_QUAD})(?:/32)?").fullmatch
_SINGLES = re.compile(rf"(?:{_QUAD}(?:/32)?,)+").fullmatch

IpNetwork = IPv4Network | IPv6Network


def bare(text: str) -> str:
    """The one address that ``text`` says: "10.0.0.1", "10.0.0.1/32". Raises ValueError when it says more than one."""
    found = _SINGLE(text)
    if found is not None:
        return found[1]
    interface = ip_interface(text)
    if interface.network.prefixlen != interface.max_prefixlen:
        raise ValueError(f"{text!r} is not a single address")
    return str(interface.ip)


def address(text: str) -> str:
    """The address in ``text``, whatever its prefix length: "172.30.1.11/24" gives "172.30.1.11"."""
    found = _SINGLE(text)
    return found[1] if found is not None else str(ip_interface(text).ip)


def plain(text: str) -> str:
    """An address written without any prefix, canonical."""
    return str(ip_address(text))


def network(text: str) -> IpNetwork:
    """The network that ``text`` says, host bits cleared."""
    return ip_network(text, strict=False)


def prefix(text: str) -> str:
    """Canonical prefix with its length: "10.1.2.3/8" gives "10.0.0.0/8", "10.0.0.1" gives "10.0.0.1/32"."""
    found = _SINGLE(text)
    return f"{found[1]}/32" if found is not None else str(network(text))


def member(net: IpNetwork) -> str:
    """A network as a set member: without its length when it is a single address."""
    return str(net.network_address) if net.prefixlen == net.max_prefixlen else str(net)


def members(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Set members for a list of networks, each once. A /0 becomes two /1, since hash:net cannot hold it.

    Lists are long (thousands) and mostly single IPv4 addresses: those are checked in one pass of one expression.
    """
    if len(texts) > 1 and _SINGLES(joined := ",".join(texts) + ","):
        return tuple(dict.fromkeys(joined.replace("/32", "").split(",")[:-1]))
    found: dict[str, None] = {}
    for text in texts:
        single = _SINGLE(text)
        if single is not None:
            found[single[1]] = None
            continue
        net = network(text)
        for part in net.subnets(new_prefix=1) if net.prefixlen == 0 else (net,):
            found[member(part)] = None
    return tuple(found)
