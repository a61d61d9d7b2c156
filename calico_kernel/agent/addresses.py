"""Find this node's own address, as Calico's IP autodetection methods do, and the MTU of what carries its packets.

Reads the host, changes nothing. Calico: ``node/pkg/lifecycle/startup/autodetection``.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable

import attrs

from calico_kernel.errors import ConfigError
from calico_kernel.host.netlink import Netlink

SKIPPED = re.compile(
    r"^(docker.*|cbr.*|dummy.*|virbr.*|lxcbr.*|veth.*|lo|cali.*|tunl.*|flannel.*|kube-ipvs.*|cni.*|vxlan\.calico.*"
    r"|vxlan-v6\.calico.*|wireguard\.cali.*|wg-v6\.cali.*|nodelocaldns.*|podman.*|br-.*)$"
)
"""Interfaces that are never the node's own: Calico's list, and the bridges of podman and docker."""

DEFAULT_MTU_BYTES = 1460


@attrs.frozen
class NodeInterface:
    interface: str
    mtu_bytes: int
    up: bool
    address: ipaddress.IPv4Interface | ipaddress.IPv6Interface


def read() -> list[NodeInterface]:
    """Global-scope addresses of this network namespace, in interface order."""
    with Netlink() as netlink:
        links = {link.index: link for link in netlink.links()}
        return [
            NodeInterface(
                interface=links[found.ifindex].name,
                mtu_bytes=links[found.ifindex].mtu_bytes,
                up=links[found.ifindex].up,
                address=ipaddress.ip_interface(f"{found.address}/{found.prefix_length}"),
            )
            for found in netlink.addresses()
            if found.ifindex in links and found.scope == 0
        ]


def choose(method: str, version: int, found: Iterable[NodeInterface]) -> str:
    """The node's address with prefix length, "" when there is none of that family.

    method: ``first-found``, ``interface=REGEX``, ``skip-interface=REGEX``, ``cidr=CIDR[,CIDR]``, ``can-reach=ADDRESS``,
    ``none``, or an address itself. Raises ConfigError for anything else.
    """
    usable = [a for a in found if a.up and a.address.version == version and not a.address.ip.is_link_local]
    word, _, argument = method.partition("=")
    if word == "none":
        return ""
    if word == "first-found":
        chosen = [a for a in usable if not SKIPPED.match(a.interface)]
    elif word == "interface" and argument:
        chosen = [a for a in usable if any(re.fullmatch(p, a.interface) for p in argument.split(","))]
    elif word == "skip-interface" and argument:
        chosen = [a for a in usable if not any(re.fullmatch(p, a.interface) for p in argument.split(","))]
    elif word == "cidr" and argument:
        nets = [ipaddress.ip_network(cidr, strict=False) for cidr in argument.split(",")]
        chosen = [a for a in usable if any(a.address.ip in net for net in nets)]
    elif word == "can-reach" and argument:
        source = _source_towards(argument, version)
        chosen = [a for a in usable if str(a.address.ip) == source]
    else:
        try:
            fixed = ipaddress.ip_interface(method)
        except ValueError:
            raise ConfigError(
                what=f"{method!r} is not a way to find the node's address",
                todo="use an address, first-found, interface=REGEX, skip-interface=REGEX, cidr=CIDR, can-reach=ADDRESS "
                "or none",
            ) from None
        return str(fixed) if fixed.version == version else ""
    return str(chosen[0].address) if chosen else ""


def _source_towards(target: str, version: int) -> str:
    """The address that the kernel would send from; connecting a UDP socket sends nothing."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((target, 9))
        except OSError:
            return ""
        return str(sock.getsockname()[0])


def underlay_mtu_bytes(pattern: str, found: Iterable[NodeInterface], node_addresses: Iterable[str]) -> int:
    """Smallest MTU among up interfaces that match ``pattern`` or bear a node address; 1460 if there is none (Felix)."""
    wanted = re.compile(pattern)
    own = {ipaddress.ip_interface(address).ip for address in node_addresses if address}
    sizes = [a.mtu_bytes for a in found if a.up and (a.address.ip in own or wanted.match(a.interface))]
    return min(sizes, default=DEFAULT_MTU_BYTES)
