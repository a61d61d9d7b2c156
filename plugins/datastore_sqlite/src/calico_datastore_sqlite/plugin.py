"""Hook implementations of calico-datastore-sqlite."""

from __future__ import annotations

from calico_kernel.hookspecs import PluginInfo, hookimpl


@hookimpl
def calico_plugin() -> PluginInfo:
    return PluginInfo(
        summary="Embedded datastore for Calico Kernel: one SQLite file, watched across processes",
        hook_api=(1, 0),
        distribution="calico-datastore-sqlite",
    )
