"""Nodes: their addresses, and their VXLAN tunnel ends.

In:   nodes as stored.   Out: ``HostAddresses`` and ``Vtep`` values; ``NodeInfo`` for routes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from calico_kernel.calc.addresses import address, network, plain
from calico_kernel.calc.outbox import Outbox
from calico_kernel.model.endpoints import NodeSpec
from calico_kernel.model.names import vtep_mac
from calico_kernel.model.nodestate import HostAddresses, Vtep


@attrs.frozen(kw_only=True, slots=True)
class NodeInfo:
    """A node as routes need it. Addresses are bare and canonical, "" where there is none; subnets are networks.

    tunnels: bare addresses of the node's own tunnel ends, of any encapsulation.
    """

    ipv4: str = ""
    ipv6: str = ""
    subnet_ipv4: str = ""
    subnet_ipv6: str = ""
    others: tuple[str, ...] = ()
    tunnels: tuple[str, ...] = ()


class Nodes:
    def __init__(self) -> None:
        self.hosts: Outbox[str, HostAddresses] = Outbox()
        self.vteps: Outbox[str, Vtep] = Outbox()
        self.infos: dict[str, NodeInfo] = {}

    def put(self, name: str, spec: NodeSpec | None) -> bool:
        """Store, replace or (None) forget; True when what routes need has changed.
        Raises ValueError on an address that does not parse, and changes nothing."""
        info = node_info(spec) if spec is not None else None
        changed = self.infos.get(name) != info
        if spec is None or info is None:
            self.infos.pop(name, None)
            self.hosts.set(name, None)
            self.vteps.set(name, None)
            return changed
        as_number = _as_number(spec.bgp.as_number) if spec.bgp is not None else None
        self.infos[name] = info
        self.hosts.set(
            name,
            HostAddresses(
                node=name,
                ipv4=info.ipv4,
                ipv6=info.ipv6,
                subnet_ipv4=_with_length(info.ipv4, info.subnet_ipv4),
                subnet_ipv6=_with_length(info.ipv6, info.subnet_ipv6),
                others=info.others,
                as_number=as_number,
            ),
        )
        self.vteps.set(name, _vtep(name, spec, info))
        return changed


def node_info(spec: NodeSpec) -> NodeInfo:
    """BGP addresses where there are any, else the node's internal, else its external addresses. Raises ValueError."""
    bgp = spec.bgp
    if bgp is not None and (bgp.ipv4_address or bgp.ipv6_address):
        ipv4, ipv6 = bgp.ipv4_address, bgp.ipv6_address
    else:
        ipv4, ipv6 = _typed(spec, 4), _typed(spec, 6)
    tunnels = [
        bgp.ipv4_ipip_tunnel_addr if bgp is not None else "",
        spec.ipv4_vxlan_tunnel_addr,
        spec.ipv6_vxlan_tunnel_addr,
    ]
    if spec.wireguard is not None:
        tunnels += [spec.wireguard.interface_ipv4_address, spec.wireguard.interface_ipv6_address]
    return NodeInfo(
        ipv4=address(ipv4) if ipv4 else "",
        ipv6=address(ipv6) if ipv6 else "",
        subnet_ipv4=str(network(ipv4)) if ipv4 else "",
        subnet_ipv6=str(network(ipv6)) if ipv6 else "",
        others=tuple(dict.fromkeys(_parsable(entry.address for entry in spec.addresses))),
        tunnels=tuple(dict.fromkeys(plain(tunnel) for tunnel in tunnels if tunnel)),
    )


def _typed(spec: NodeSpec, version: int) -> str:
    for kind in ("InternalIP", "ExternalIP"):
        for entry in spec.addresses:
            if entry.type == kind and (":" in entry.address) == (version == 6):
                return entry.address
    return ""


def _parsable(texts: Iterable[str]) -> Iterable[str]:
    """A node may list names among its addresses; they route nothing."""
    for text in texts:
        try:
            yield address(text)
        except ValueError:
            continue


def _with_length(address: str, subnet: str) -> str:
    """The address with the length of its subnet: "172.30.1.11/24"."""
    return f"{address}/{subnet.partition('/')[2]}" if address else ""


def _as_number(written: int | str | None) -> int | None:
    """64512 or "1.10" (asdot: high and low half)."""
    if written is None or isinstance(written, int):
        return written
    high, dot, low = written.partition(".")
    return (int(high) << 16) + int(low) if dot else int(high)


def _vtep(name: str, spec: NodeSpec, info: NodeInfo) -> Vtep | None:
    """A family needs the node's address and its tunnel address; None when neither family has both."""
    families: dict[str, Mapping[str, str]] = {}
    bgp = spec.bgp
    if bgp is not None and bgp.ipv4_address and spec.ipv4_vxlan_tunnel_addr:
        families["4"] = {
            "address_ipv4": plain(spec.ipv4_vxlan_tunnel_addr),
            "parent_ipv4": info.ipv4,
            "mac_ipv4": spec.vxlan_tunnel_mac_addr or vtep_mac(name),
        }
    if bgp is not None and bgp.ipv6_address and spec.ipv6_vxlan_tunnel_addr:
        families["6"] = {
            "address_ipv6": plain(spec.ipv6_vxlan_tunnel_addr),
            "parent_ipv6": info.ipv6,
            "mac_ipv6": spec.vxlan_tunnel_mac_addr_v6 or vtep_mac(name, version=6),
        }
    if not families:
        return None
    return Vtep(node=name, **families.get("4", {}), **families.get("6", {}))
