"""Tell the CNI plugin what MTU a workload's interface needs: the underlay's, less the largest encapsulation in use.

In:    deltas (needs, configuration, hosts).   Out: the file ``mtu`` in the state directory, as Felix writes it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence

from calico_kernel.agent import addresses
from calico_kernel.hookspecs import EncapsulationDriver
from calico_kernel.model.nodestate import Delta, EncapsulationNeeds, HostAddresses, ResolvedConfig

log = logging.getLogger(__name__)


class MtuFile:
    def __init__(self, state_dir: str, node: str, drivers: Sequence[EncapsulationDriver]) -> None:
        self._path = os.path.join(state_dir, "mtu")
        self._node, self._drivers = node, drivers
        self._needs = EncapsulationNeeds()
        self._config: ResolvedConfig | None = None
        self._host: HostAddresses | None = None
        self._written: int | None = None

    def saw(self, delta: Delta) -> None:
        """Called in the calculation's thread for every delta; works only when something relevant changed."""
        host = delta.hosts.upserts.get(self._node)
        if not (delta.full or delta.needs is not None or delta.config is not None or host is not None):
            return
        self._needs = delta.needs or self._needs
        self._config = delta.config or self._config
        self._host = host or self._host
        try:
            self._write(self.workload_mtu_bytes())
        except OSError as exc:
            log.warning("cannot write %s: %s; workloads get the MTU of their network configuration", self._path, exc)

    def workload_mtu_bytes(self) -> int:
        if self._config is None:
            return addresses.DEFAULT_MTU_BYTES
        subnets = [self._host.subnet_ipv4, self._host.subnet_ipv6] if self._host else []
        underlay = addresses.underlay_mtu_bytes(self._config.mtu_iface_pattern, addresses.read(), subnets)
        overheads = [0]
        for driver in self._drivers:
            if self._needs.vxlan_ipv4 and "vxlan" in driver.modes:
                overheads.append(driver.overhead_bytes(4))
            if self._needs.vxlan_ipv6 and "vxlan" in driver.modes:
                overheads.append(driver.overhead_bytes(6))
            if self._needs.ipip and "ipip" in driver.modes:
                overheads.append(driver.overhead_bytes(4))
        return underlay - max(overheads)

    def _write(self, mtu_bytes: int) -> None:
        if mtu_bytes == self._written:
            return
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        temporary = f"{self._path}.tmp"
        try:
            with open(temporary, "w", encoding="ascii") as handle:
                handle.write(f"{mtu_bytes}\n")
            os.replace(temporary, self._path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        self._written = mtu_bytes
        log.info("workload MTU is %d", mtu_bytes)
