"""An encapsulation driver in memory, over a world that answers where a packet would go. Passes the contract kit."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network
from typing import ClassVar

import attrs

from calico_kernel.hookspecs import ApplyReport, EncapsulationDriver
from calico_kernel.model.nodestate import (
    Delta,
    Encapsulation,
    EncapsulationNeeds,
    HostAddresses,
    Route,
    RouteKind,
    Vtep,
)
from calico_kernel.testing.encapsulation import EncapsulationRig, Forward


@attrs.define
class World:
    """The routes of one host: prefix -> where to. What is not covered leaves by somebody else's default route."""

    routes: dict[str, Forward] = attrs.field(factory=dict)

    def forward(self, address: str) -> Forward:
        matching = [prefix for prefix in self.routes if ip_address(address) in ip_network(prefix)]
        if not matching:
            return Forward("other")
        return self.routes[max(matching, key=lambda prefix: ip_network(prefix).prefixlen)]


class MemoryEncapsulation(EncapsulationDriver):
    """Keeps ``world.routes`` equal to what the deltas ask for; IPv4 and IPv6 alike, one tunnel for both."""

    modes: ClassVar[frozenset[str]] = frozenset({"vxlan", "none"})

    def __init__(self, node: str, world: World) -> None:
        self._node, self._world = node, world
        self._routes: dict[str, Route] = {}
        self._vteps: dict[str, Vtep] = {}
        self._hosts: dict[str, HostAddresses] = {}
        self._needs = EncapsulationNeeds()

    def overhead_bytes(self, version: int) -> int:
        return 50 if version == 4 else 70

    def update(self, delta: Delta) -> None:
        if delta.full:
            self._routes, self._vteps, self._hosts = {}, {}, {}
        self._needs = delta.needs or self._needs
        self._routes = {
            prefix: route for prefix, route in self._routes.items() if prefix not in set(delta.routes.removes)
        } | dict(delta.routes.upserts)
        self._vteps = {node: end for node, end in self._vteps.items() if node not in set(delta.vteps.removes)} | dict(
            delta.vteps.upserts
        )
        self._hosts = {node: host for node, host in self._hosts.items() if node not in set(delta.hosts.removes)} | dict(
            delta.hosts.upserts
        )

    def apply(self) -> ApplyReport:
        wanted = {
            prefix: forward for prefix, route in self._routes.items() if (forward := self._wanted(route)) is not None
        }
        changes = sum(self._world.routes.get(prefix) != forward for prefix, forward in wanted.items())
        changes += len(self._world.routes.keys() - wanted.keys())
        self._world.routes = wanted
        return ApplyReport(changes=changes)

    def uninstall(self) -> None:
        self._world.routes = {}

    def _wanted(self, route: Route) -> Forward | None:
        if route.node == self._node:
            return Forward("blackhole") if route.block and route.kind & RouteKind.LOCAL_WORKLOAD else None
        if not route.kind & RouteKind.REMOTE_WORKLOAD:
            return None
        tunnelled = route.encapsulation is Encapsulation.VXLAN and not (route.cross_subnet and route.same_subnet)
        if not tunnelled:
            own = self._hosts.get(self._node)
            near = own is not None and ip_address(route.node_address) in ip_interface(own.subnet_ipv4).network
            return Forward("direct", route.node_address) if near else None
        end = self._vteps.get(route.node)
        if end is None or self._node not in self._vteps or not self._needs.vxlan_ipv4:
            return None
        return Forward("tunnel", end.parent_ipv4)


class MemoryRig(EncapsulationRig):
    encapsulation = Encapsulation.VXLAN

    def __init__(self, node: str) -> None:
        self._node = node
        self.world = World()

    def driver(self) -> EncapsulationDriver:
        return MemoryEncapsulation(self._node, self.world)

    def forward(self, address: str) -> Forward:
        return self.world.forward(address)

    def snapshot(self) -> dict[str, Forward]:
        return dict(self.world.routes)

    def damage(self) -> None:
        self.world.routes.popitem()
