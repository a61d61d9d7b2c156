"""Hook implementations of calico-encap-vxlan."""

from __future__ import annotations

from calico_kernel.hookspecs import PluginInfo, hookimpl


@hookimpl
def calico_plugin() -> PluginInfo:
    return PluginInfo(
        summary="VXLAN and unencapsulated cluster routes for Calico Kernel",
        hook_api=(1, 0),
        distribution="calico-encap-vxlan",
    )
