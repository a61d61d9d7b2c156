"""The in-memory encapsulation driver keeps the contract."""

from __future__ import annotations

import pytest

from calico_kernel.testing.encapsulation import NODE, EncapsulationContract, EncapsulationRig
from calico_kernel.testing.memory_encapsulation import MemoryRig


class TestMemoryEncapsulation(EncapsulationContract):
    @pytest.fixture
    def rig(self) -> EncapsulationRig:
        return MemoryRig(NODE)
