"""Hook implementations of calico-dp-iptables."""

from __future__ import annotations

from calico_kernel.hookspecs import PluginInfo, hookimpl


@hookimpl
def calico_plugin() -> PluginInfo:
    return PluginInfo(
        summary="Policy enforcement for Calico Kernel with iptables and ipset",
        hook_api=(1, 0),
        distribution="calico-dp-iptables",
    )
