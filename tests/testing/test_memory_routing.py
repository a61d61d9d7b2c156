"""The in-memory routing driver keeps the contract."""

from __future__ import annotations

import pytest

from calico_kernel.testing.memory_routing import MemoryRoutingRig
from calico_kernel.testing.routing import NODE, RoutingContract, RoutingRig


class TestMemoryRouting(RoutingContract):
    @pytest.fixture
    def rig(self) -> RoutingRig:
        return MemoryRoutingRig(NODE)
