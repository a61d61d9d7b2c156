"""The in-memory address manager keeps the IPAM contract."""

from __future__ import annotations

import pytest

from calico_kernel.hookspecs import Datastore, Ipam
from calico_kernel.testing.ipam import IpamContract
from calico_kernel.testing.memory_ipam import MemoryIpam


class TestMemoryIpam(IpamContract):
    @pytest.fixture
    def ipam(self, datastore: Datastore) -> Ipam:
        return MemoryIpam(datastore)
