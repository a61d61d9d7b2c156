"""Hook implementations of calico-datastore-etcd."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calico_datastore_etcd.settings import EtcdSettings
from calico_kernel.hookspecs import PluginInfo, Services, hookimpl

if TYPE_CHECKING:
    from calico_kernel.hookspecs import Datastore


@hookimpl
def calico_plugin() -> PluginInfo:
    return PluginInfo(
        summary="etcd datastore for Calico Kernel: the keys and values that Calico keeps there",
        hook_api=(1, 1),
        settings=EtcdSettings,
        distribution="calico-datastore-etcd",
    )


@hookimpl
def calico_datastore(settings: EtcdSettings, services: Services) -> Datastore:
    import os

    from calico_datastore_etcd.settings import with_variables
    from calico_datastore_etcd.store import EtcdDatastore

    return EtcdDatastore(with_variables(settings, os.environ), log=services.log)
