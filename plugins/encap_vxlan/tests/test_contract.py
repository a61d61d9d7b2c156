"""The VXLAN driver keeps the encapsulation contract, in a real network namespace."""

from __future__ import annotations

from typing import Any

import pytest

from calico_kernel.testing.encapsulation import EncapsulationContract, EncapsulationRig

pytestmark = pytest.mark.node


class TestVxlan(EncapsulationContract):
    @pytest.fixture
    def rig(self, namespace: Any) -> EncapsulationRig:
        rig: EncapsulationRig = namespace
        return rig
