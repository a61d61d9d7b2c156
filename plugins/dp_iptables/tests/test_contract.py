"""The kernel's contract kit, on both back ends."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from calico_dp_iptables.driver import IptablesDataplane
from calico_dp_iptables.settings import Settings
from calico_kernel.hookspecs import Services
from calico_kernel.testing.dataplane import DataplaneContract
from calico_kernel.testing.node_world import NODE

pytestmark = pytest.mark.node


class _Iptables(DataplaneContract):
    backend = ""

    @pytest.fixture
    def make_dataplane(self, world: object) -> Callable[[], IptablesDataplane]:
        def make() -> IptablesDataplane:
            settings = Settings(backend=self.backend)  # type: ignore[arg-type]
            return IptablesDataplane(settings, Services(node=NODE, log=logging.getLogger("test")))

        return make


class TestLegacy(_Iptables):
    backend = "legacy"


class TestNft(_Iptables):
    backend = "nft"
