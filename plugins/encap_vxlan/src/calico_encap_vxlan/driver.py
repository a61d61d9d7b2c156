"""The encapsulation driver: keeps the state, applies it for both IP versions, notices what others change.

In:    deltas (config, needs, routes, vteps, hosts).   Out: devices, forwarding entries, neighbours and routes.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from typing import Any, ClassVar

from calico_encap_vxlan import host
from calico_encap_vxlan.desired import OVERHEAD_BYTES, State, Wanted
from calico_encap_vxlan.settings import VxlanSettings
from calico_kernel.hookspecs import ApplyReport, EncapsulationDriver, Failure, Services
from calico_kernel.host.netlink import (
    FdbEntry,
    InterfaceAddress,
    Link,
    Monitor,
    Neighbour,
    Netlink,
    Notice,
    RouteEntry,
)
from calico_kernel.model.nodestate import Delta

log = logging.getLogger(__name__)


class VxlanDriver(EncapsulationDriver):
    """VXLAN and unencapsulated routes between nodes."""

    modes: ClassVar[frozenset[str]] = frozenset({"vxlan", "none"})

    def __init__(self, settings: VxlanSettings, services: Services) -> None:
        self._settings = settings
        self._state = State(node=services.node)
        self._wanted: dict[int, Wanted] = {}
        self._stale = True
        self._netlink: Netlink | None = None
        self._drift = _DriftWatch(settings, services)

    def overhead_bytes(self, version: int) -> int:
        return OVERHEAD_BYTES[version]

    def update(self, delta: Delta) -> None:
        if self._state.update(delta):
            self._stale = True

    def apply(self) -> ApplyReport:
        self._drift.start()
        if self._netlink is None:
            self._netlink = Netlink()
        if self._stale:
            self._wanted = {version: self._state.wanted(version) for version in (4, 6)}
            self._stale = False
        failures: list[Failure] = []
        changes = 0
        devices: set[int] = set()
        try:
            for version, wanted in self._wanted.items():
                outcome = host.reconcile(self._netlink, version, wanted, self._settings)
                failures += outcome.failures
                changes += outcome.changes
                devices.add(outcome.ifindex)
        except OSError:
            self._netlink.close()
            self._netlink = None
            raise
        self._drift.devices = frozenset(devices - {0})
        self._drift.prefixes = frozenset(prefix for wanted in self._wanted.values() for prefix in wanted.prefixes())
        return ApplyReport(failures=failures, changes=changes, next_check_s=self._settings.check_interval_s)

    def uninstall(self) -> None:
        with Netlink() as netlink:
            for version in (4, 6):
                host.remove(netlink, version, self._settings)

    def close(self) -> None:
        self._drift.stop()
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None


class _DriftWatch:
    """Asks for an apply when somebody touches what is ours, or the underlay changes. Our own writes are noticed as
    well: they cost one more look, which finds nothing to do.

    devices: indexes of our devices.   prefixes: where our routes lead, which another's route may have replaced."""

    def __init__(self, settings: VxlanSettings, services: Services) -> None:
        self._settings, self._request_apply = settings, services.request_apply
        self._names = {settings.device_ipv4, settings.device_ipv6}
        self.devices: frozenset[int] = frozenset()
        self.prefixes: frozenset[str] = frozenset()
        self._thread: threading.Thread | None = None
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="vxlan-drift", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        os.eventfd_write(self._stop, 1)
        if self._thread is not None:
            self._thread.join(5.0)
        os.close(self._stop)

    def _run(self) -> None:
        try:
            with Monitor(links=True, addresses=True, routes=True, neighbours=True) as monitor:
                sources: list[Any] = [monitor, self._stop]
                while True:
                    ready, _, _ = select.select(sources, [], [])
                    if self._stop in ready:
                        return
                    if any(self._matters(notice) for notice in monitor.next(0)):
                        self._request_apply()
        except OSError:
            log.warning("changes by others are noticed by the timer only: the netlink monitor ended", exc_info=True)

    def _matters(self, notice: Notice) -> bool:
        value = notice.value
        if isinstance(value, Link):
            return (
                value.name in self._names or value.index in self.devices or not value.name.startswith(("cali", "veth"))
            )
        if isinstance(value, RouteEntry):
            ours = value.protocol == self._settings.route_protocol
            return ours if notice.deleted else not ours and value.prefix in self.prefixes
        if isinstance(value, (Neighbour, FdbEntry)):
            return notice.deleted and value.ifindex in self.devices
        return value is None or isinstance(value, InterfaceAddress)
