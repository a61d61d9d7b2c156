"""Block IPAM keeps the IPAM contract."""

from __future__ import annotations

import pytest

from calico_ipam_blocks.ipam import BlocksIpam
from calico_kernel.hookspecs import Datastore, Ipam
from calico_kernel.testing.ipam import IpamContract


class TestBlocksIpam(IpamContract):
    @pytest.fixture
    def ipam(self, datastore: Datastore) -> Ipam:
        return BlocksIpam(datastore)
