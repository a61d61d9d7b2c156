"""Hook implementations of calico-encap-vxlan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calico_encap_vxlan.settings import VxlanSettings
from calico_kernel.hookspecs import EncapsulationDriver, HostNeed, PluginInfo, hookimpl

if TYPE_CHECKING:
    from calico_kernel.hookspecs import Services


@hookimpl
def calico_plugin() -> PluginInfo:
    return PluginInfo(
        summary="VXLAN and unencapsulated cluster routes",
        hook_api=(1, 1),
        settings=VxlanSettings,
        distribution="calico-encap-vxlan",
        host_needs=(
            HostNeed(
                kind="module",
                name="vxlan",
                options=("CONFIG_VXLAN",),
                effect="pools with VXLAN reach no other node; routes of pools without encapsulation are kept",
            ),
        ),
    )


@hookimpl
def calico_encapsulation(settings: VxlanSettings, services: Services) -> EncapsulationDriver:
    from calico_encap_vxlan.driver import VxlanDriver

    return VxlanDriver(settings, services)
