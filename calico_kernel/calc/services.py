"""What the endpoint slices of services hold, for the services that active rules name.

In:   endpoint slices as they are stored.   Out: members of service sets, and each member that comes or goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

from calico_kernel.calc.addresses import plain
from calico_kernel.model.services import KubernetesEndpointSlice
from calico_kernel.selector.ids import service_id

_PROTOCOLS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}


class Slice:
    """One endpoint slice: its service, addresses (bare), and (protocol, port) pairs."""

    __slots__ = ("addresses", "ports", "service")

    def __init__(self, service: str, addresses: tuple[str, ...], ports: tuple[tuple[str, int], ...]) -> None:
        self.service = service
        self.addresses = addresses
        self.ports = ports

    @classmethod
    def of(cls, written: KubernetesEndpointSlice) -> Slice:
        """Addresses that are names are left out, ports without a number too; a missing protocol is TCP."""
        addresses: dict[str, None] = {}
        for endpoint in written.endpoints:
            for text in endpoint.addresses:
                try:
                    addresses[plain(text)] = None
                except ValueError:
                    continue
        ports = tuple(
            (_PROTOCOLS.get(port.protocol or "TCP", "tcp"), port.port)
            for port in written.ports
            if port.port is not None
        )
        return cls(f"{written.metadata.namespace}/{written.service}", tuple(addresses), ports)

    def members(self, with_ports: bool) -> Collection[str]:
        if not with_ports:
            return self.addresses
        return {f"{address},{protocol}:{port}" for address in self.addresses for protocol, port in self.ports}


class Services:
    def __init__(self, changed: Callable[[str, bool, str, bool], None]) -> None:
        self._changed = changed
        self._slices: dict[tuple[str, str], Slice] = {}
        self._by_service: dict[str, set[tuple[str, str]]] = {}
        self._active: dict[tuple[str, bool], Counter[str]] = {}

    @staticmethod
    def set_id(service: str, with_ports: bool) -> str:
        namespace, _, name = service.partition("/")
        return service_id(namespace, name, with_ports=with_ports)

    def put(self, key: tuple[str, str], slice_: Slice | None) -> None:
        """Store, replace or (None) forget the slice (namespace, name)."""
        old = self._slices.pop(key, None)
        if old is not None:
            named = self._by_service[old.service]
            named.discard(key)
            if not named:
                del self._by_service[old.service]
        if slice_ is not None:
            self._slices[key] = slice_
            self._by_service.setdefault(slice_.service, set()).add(key)
        for with_ports in (False, True):
            if slice_ is not None:
                self._count(slice_, with_ports, 1)  # add before take away: what stays is never seen to go
            if old is not None:
                self._count(old, with_ports, -1)

    def activate(self, service: str, with_ports: bool) -> None:
        counts = self._active[service, with_ports] = Counter[str]()
        for key in self._by_service.get(service, ()):
            counts.update(self._slices[key].members(with_ports))

    def deactivate(self, service: str, with_ports: bool) -> None:
        self._active.pop((service, with_ports), None)

    def members(self, service: str, with_ports: bool) -> Collection[str]:
        return self._active[service, with_ports].keys()

    def _count(self, slice_: Slice, with_ports: bool, step: int) -> None:
        counts = self._active.get((slice_.service, with_ports))
        if counts is None:
            return
        for member in slice_.members(with_ports):
            counts[member] += step
            if counts[member] == (1 if step > 0 else 0):
                self._changed(slice_.service, with_ports, member, step > 0)
            if not counts[member]:
                del counts[member]
