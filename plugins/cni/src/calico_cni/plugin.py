"""Hook implementations of calico-cni."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from calico_cni.settings import CniSettings
from calico_kernel.hookspecs import CliCommand, LocalService, PluginInfo, Services, hookimpl

if TYPE_CHECKING:
    import argparse


@hookimpl
def calico_plugin() -> PluginInfo:
    return PluginInfo(
        summary="CNI plugin for Calico Kernel: a tiny executable and the service behind it in the node agent",
        hook_api=(1, 0),
        settings=CniSettings,
        distribution="calico-cni",
    )


@hookimpl
def calico_local_service(settings: CniSettings, services: Services) -> LocalService | None:
    from calico_cni.service import CniService

    return CniService(settings, services)


@hookimpl
def calico_cli_commands() -> Sequence[CliCommand]:
    def configure(parser: argparse.ArgumentParser) -> None:
        from calico_cni import install

        install.configure(parser)

    def run(arguments: argparse.Namespace) -> int:
        from calico_cni import install

        return install.run(arguments)

    return [
        CliCommand(
            program="calico",
            name="cni",
            help="install or remove the CNI executable and network configuration",
            configure=configure,
            run=run,
        )
    ]
