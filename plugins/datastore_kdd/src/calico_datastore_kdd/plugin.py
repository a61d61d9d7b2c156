"""Hook implementations of calico-datastore-kdd."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calico_datastore_kdd.settings import KubernetesSettings
from calico_kernel.hookspecs import PluginInfo, Services, hookimpl

if TYPE_CHECKING:
    from calico_kernel.hookspecs import Datastore


@hookimpl
def calico_plugin() -> PluginInfo:
    return PluginInfo(
        summary="Kubernetes datastore for Calico Kernel: Calico's custom resources, and the cluster's own objects",
        hook_api=(1, 1),
        settings=KubernetesSettings,
        distribution="calico-datastore-kdd",
    )


@hookimpl
def calico_datastore(settings: KubernetesSettings, services: Services) -> Datastore:
    import os

    from calico_datastore_kdd.store import KubernetesDatastore

    return KubernetesDatastore(settings, os.environ, services.log)
