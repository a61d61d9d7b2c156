"""The host side of local workloads' interfaces: routes to their addresses, and sysctls.

In:   local workloads.   Out: link-scope /32 and /128 routes by rtnetlink, sysctls of each interface.
Owns: routes to addresses through workload interfaces, and only those.

The CNI plugin writes them first; here they are kept, mended, and moved when an interface appears, is renamed or goes.
"""

from __future__ import annotations

from typing import Any

from calico_dp_iptables.desired import State
from calico_kernel.hookspecs import Failure, Services
from calico_kernel.model.nodestate import LocalWorkload


class Links:
    def __init__(self, services: Services) -> None:
        self._services = services

    def workload_changed(self, old: LocalWorkload | None, new: LocalWorkload | None) -> None:
        """Desired state only."""

    def apply(self, state: State, failures: list[Failure], now: float) -> int:
        return 0

    def uninstall(self) -> None:
        """Routes go with their interfaces."""

    def close(self) -> None:
        """Nothing is held."""


_ = Any
