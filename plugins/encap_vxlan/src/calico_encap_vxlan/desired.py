"""What the host should have so that packets reach the blocks of other nodes. Pure.

In:    the parts of NodeState that ``State`` keeps.   Out: ``Wanted``, for one IP version, to ``driver``.

A VTEP goes in before the first route that uses it: a route whose node has no VTEP yet is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_interface
from itertools import chain

import attrs

from calico_kernel.model.nodestate import (
    Delta,
    Encapsulation,
    EncapsulationNeeds,
    HostAddresses,
    ResolvedConfig,
    Route,
    RouteKind,
    Vtep,
)

OVERHEAD_BYTES = {4: 50, 6: 70}
"""Ethernet 14, outer IP 20 or 40, UDP 8, VXLAN 8."""


@attrs.frozen
class Peer:
    """The tunnel end of another node: ``address`` inside the tunnel, ``mac`` of its device, ``underlay`` to send to."""

    address: str
    mac: str
    underlay: str


@attrs.frozen
class Device:
    """Our own tunnel end. ``mtu_bytes`` 0: worked out from the underlay."""

    address: str
    mac: str
    underlay: str
    vni: int
    port: int
    mtu_bytes: int


@attrs.frozen
class Wanted:
    """For one IP version. device: None when no pool needs the tunnel.

    tunnelled:   prefix -> address of the tunnel end that it lies behind.
    onlink:      prefixes on the tunnel device itself (tunnel ends of other nodes).
    direct:      prefix -> address of the node, in our own subnet, that it lies behind.
    blackholes:  own blocks: what is not a workload of ours must not leave again by the default route.
    """

    device: Device | None = None
    peers: frozenset[Peer] = frozenset()
    tunnelled: dict[str, str] = attrs.field(factory=dict)
    onlink: frozenset[str] = frozenset()
    direct: dict[str, str] = attrs.field(factory=dict)
    blackholes: frozenset[str] = frozenset()

    def prefixes(self) -> Iterator[str]:
        """Where any of these routes leads."""
        return chain(self.tunnelled, self.onlink, self.direct, self.blackholes)


@attrs.define
class State:
    """The part of NodeState that concerns cluster routes, kept up to date by deltas."""

    node: str
    config: ResolvedConfig | None = None
    needs: EncapsulationNeeds = attrs.field(factory=EncapsulationNeeds)
    routes: dict[str, Route] = attrs.field(factory=dict)
    vteps: dict[str, Vtep] = attrs.field(factory=dict)
    hosts: dict[str, HostAddresses] = attrs.field(factory=dict)

    def update(self, delta: Delta) -> bool:
        """Take in a delta; True when anything here changed."""
        if delta.full:
            self.routes, self.vteps, self.hosts = {}, {}, {}
        if delta.config is not None:
            self.config = delta.config
        if delta.needs is not None:
            self.needs = delta.needs
        self.routes.update(delta.routes.upserts)
        self.vteps.update(delta.vteps.upserts)
        self.hosts.update(delta.hosts.upserts)
        for prefix in delta.routes.removes:
            self.routes.pop(prefix, None)
        for node in delta.vteps.removes:
            self.vteps.pop(node, None)
        for node in delta.hosts.removes:
            self.hosts.pop(node, None)
        return bool(
            delta.full
            or delta.config is not None
            or delta.needs is not None
            or delta.routes
            or delta.vteps
            or delta.hosts
        )

    def wanted(self, version: int) -> Wanted:
        device = self._device(version)
        peers = {node: peer for node, peer in self._peers(version) if node != self.node} if device else {}
        subnet = self._own_subnet(version)
        tunnelled: dict[str, str] = {}
        direct: dict[str, str] = {}
        onlink: set[str] = set()
        blackholes: set[str] = set()
        for prefix, route in self.routes.items():
            if (":" in prefix) != (version == 6):
                continue
            near = self._near(route, subnet)
            if route.kind & RouteKind.LOCAL_WORKLOAD and route.block and route.node == self.node:
                if not prefix.endswith(("/32", "/128")):
                    blackholes.add(prefix)
            elif route.kind & RouteKind.REMOTE_WORKLOAD:
                if route.encapsulation is Encapsulation.VXLAN and not (route.cross_subnet and route.same_subnet):
                    if route.node in peers:
                        tunnelled[prefix] = peers[route.node].address
                elif near and route.encapsulation is not Encapsulation.IPIP:
                    direct[prefix] = route.node_address
            elif (
                route.kind & RouteKind.REMOTE_TUNNEL
                and route.encapsulation is Encapsulation.VXLAN
                and route.node in peers
                and not (route.cross_subnet and route.same_subnet)
            ):
                onlink.add(prefix)
        return Wanted(
            device=device,
            peers=frozenset(peers.values()),
            tunnelled=tunnelled,
            onlink=frozenset(onlink),
            direct=direct,
            blackholes=frozenset(blackholes),
        )

    def _device(self, version: int) -> Device | None:
        needed = self.needs.vxlan_ipv4 if version == 4 else self.needs.vxlan_ipv6
        own = self.vteps.get(self.node)
        if not needed or own is None or self.config is None:
            return None
        end = _end(own, version)
        if end is None:
            return None
        values = self.config.values
        return Device(
            address=end.address,
            mac=end.mac,
            underlay=end.underlay,
            vni=int(values["vxlan_vni"]),
            port=int(values["vxlan_port"]),
            mtu_bytes=int(values["vxlan_mtu" if version == 4 else "vxlan_mtu_v6"] or 0),
        )

    def _peers(self, version: int) -> Iterator[tuple[str, Peer]]:
        for node, vtep in self.vteps.items():
            end = _end(vtep, version)
            if end is not None:
                yield node, end

    def _own_subnet(self, version: int) -> str:
        own = self.hosts.get(self.node)
        return "" if own is None else own.subnet_ipv4 if version == 4 else own.subnet_ipv6

    @staticmethod
    def _near(route: Route, subnet: str) -> bool:
        """Its node is a neighbour on our own subnet, so it can be a next hop."""
        if not route.node_address or not subnet:
            return False
        return route.same_subnet or ip_address(route.node_address) in ip_interface(subnet).network


def _end(vtep: Vtep, version: int) -> Peer | None:
    if version == 4:
        end = Peer(address=vtep.address_ipv4, mac=vtep.mac_ipv4.lower(), underlay=vtep.parent_ipv4)
    else:
        end = Peer(address=vtep.address_ipv6, mac=vtep.mac_ipv6.lower(), underlay=vtep.parent_ipv6)
    return end if end.address and end.mac and end.underlay else None
