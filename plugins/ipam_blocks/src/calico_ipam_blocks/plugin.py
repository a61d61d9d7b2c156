"""Hook implementations of calico-ipam-blocks."""

from __future__ import annotations

from calico_kernel.hookspecs import PluginInfo, hookimpl


@hookimpl
def calico_plugin() -> PluginInfo:
    return PluginInfo(
        summary="Calico's block IPAM on any datastore plugin of Calico Kernel",
        hook_api=(1, 0),
        distribution="calico-ipam-blocks",
    )
