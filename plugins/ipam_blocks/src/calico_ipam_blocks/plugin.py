"""Hook implementations of calico-ipam-blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calico_ipam_blocks.settings import BlocksSettings
from calico_kernel.errors import ConfigError
from calico_kernel.hookspecs import PluginInfo, Services, hookimpl

if TYPE_CHECKING:
    from calico_kernel.hookspecs import Ipam


@hookimpl
def calico_plugin() -> PluginInfo:
    return PluginInfo(
        summary="Calico's block IPAM on any datastore plugin of Calico Kernel",
        hook_api=(1, 0),
        settings=BlocksSettings,
        distribution="calico-ipam-blocks",
    )


@hookimpl
def calico_ipam(settings: BlocksSettings, services: Services) -> Ipam:
    from calico_ipam_blocks.ipam import BlocksIpam

    if services.datastore is None:
        raise ConfigError(what="block IPAM has no datastore to keep its blocks in", todo="name one under `datastore:`")
    return BlocksIpam(services.datastore, settings, log=services.log)
