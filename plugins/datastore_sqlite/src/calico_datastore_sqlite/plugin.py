"""Hook implementations of calico-datastore-sqlite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calico_datastore_sqlite.settings import SqliteSettings
from calico_kernel.hookspecs import PluginInfo, Services, hookimpl

if TYPE_CHECKING:
    from calico_kernel.hookspecs import Datastore


@hookimpl
def calico_plugin() -> PluginInfo:
    return PluginInfo(
        summary="Embedded datastore for Calico Kernel: one SQLite file, watched across processes",
        hook_api=(1, 1),
        settings=SqliteSettings,
        distribution="calico-datastore-sqlite",
    )


@hookimpl
def calico_datastore(settings: SqliteSettings, services: Services) -> Datastore:
    from calico_datastore_sqlite.store import SqliteDatastore

    return SqliteDatastore(settings, log=services.log)
