"""A routing driver in memory, with one peer that remembers what it was told. Passes the contract kit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from calico_kernel.hookspecs import ApplyReport, RoutingDriver
from calico_kernel.model.nodestate import Delta, Route, RouteKind
from calico_kernel.testing.routing import RoutingRig


@attrs.define
class Peer:
    address: str = "172.30.1.1"
    prefixes: set[str] = attrs.field(factory=set)
    withdrawals: int = 0

    def tell(self, prefixes: set[str]) -> int:
        """The whole set; returns how many prefixes changed."""
        changed = len(prefixes ^ self.prefixes)
        self.withdrawals += len(self.prefixes - prefixes)
        self.prefixes = prefixes
        return changed


class MemoryRouting(RoutingDriver):
    def __init__(self, node: str, peer: Peer) -> None:
        self._node, self._peer = node, peer
        self._routes: dict[str, Route] = {}

    def update(self, delta: Delta) -> None:
        kept = {} if delta.full else self._routes
        gone = set(delta.routes.removes)
        self._routes = {prefix: route for prefix, route in kept.items() if prefix not in gone} | dict(
            delta.routes.upserts
        )

    def apply(self) -> ApplyReport:
        local = (route for route in self._routes.values() if route.node == self._node)
        wanted = {
            route.prefix for route in local if route.kind & RouteKind.LOCAL_WORKLOAD and (route.block or route.borrowed)
        }
        return ApplyReport(changes=self._peer.tell(wanted))

    def peers(self) -> Sequence[Mapping[str, Any]]:
        return [{"address": self._peer.address, "state": "Established", "prefixes": len(self._peer.prefixes)}]

    def uninstall(self) -> None:
        self._peer.tell(set())


class MemoryRoutingRig(RoutingRig):
    def __init__(self, node: str) -> None:
        self._node = node
        self.peer = Peer()

    def driver(self) -> RoutingDriver:
        return MemoryRouting(self._node, self.peer)

    def advertised(self) -> set[str]:
        return set(self.peer.prefixes)

    def withdrawals(self) -> int:
        return self.peer.withdrawals
