"""Hook implementations of calico-datastore-kdd."""

from __future__ import annotations

from calico_datastore_kdd.settings import KubernetesSettings
from calico_kernel.hookspecs import PluginInfo, hookimpl


@hookimpl
def calico_plugin() -> PluginInfo:
    return PluginInfo(
        summary="Kubernetes datastore for Calico Kernel: Calico's custom resources, and the cluster's own objects",
        hook_api=(1, 0),
        settings=KubernetesSettings,
        distribution="calico-datastore-kdd",
    )
