"""Hook implementations of calico-cni."""

from __future__ import annotations

from calico_kernel.hookspecs import PluginInfo, hookimpl


@hookimpl
def calico_plugin() -> PluginInfo:
    return PluginInfo(
        summary="CNI plugin for Calico Kernel: a tiny executable and the service behind it in the node agent",
        hook_api=(1, 0),
        distribution="calico-cni",
    )
