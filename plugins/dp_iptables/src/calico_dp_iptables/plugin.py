"""Hook implementations of calico-dp-iptables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calico_dp_iptables.settings import Settings
from calico_kernel.hookspecs import PluginInfo, hookimpl

if TYPE_CHECKING:
    from calico_kernel.hookspecs import Dataplane, Services


@hookimpl
def calico_plugin() -> PluginInfo:
    return PluginInfo(
        summary="Policy enforcement for Calico Kernel with iptables and ipset",
        hook_api=(1, 0),
        settings=Settings,
        distribution="calico-dp-iptables",
    )


@hookimpl
def calico_dataplane(settings: Any, services: Services) -> Dataplane | None:
    from calico_dp_iptables.driver import IptablesDataplane

    return IptablesDataplane(settings, services)
