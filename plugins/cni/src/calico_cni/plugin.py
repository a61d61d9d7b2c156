"""Hook implementations of calico-cni."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from calico_cni.settings import CniSettings
from calico_kernel.hookspecs import CliCommand, HostNeed, LocalService, Metric, PluginInfo, Services, hookimpl

if TYPE_CHECKING:
    import argparse

    from calico_cni.service import CniService

_serving: dict[str, CniService] = {}
"""By node: whose metrics to show."""


@hookimpl
def calico_plugin() -> PluginInfo:
    return PluginInfo(
        summary="CNI plugin for Calico Kernel: a tiny executable and the service behind it in the node agent",
        hook_api=(1, 1),
        settings=CniSettings,
        distribution="calico-cni",
        host_needs=(
            HostNeed(
                kind="module",
                name="veth",
                options=("CONFIG_VETH",),
                effect="no workload gets an interface",
                required=True,
            ),
        ),
    )


@hookimpl
def calico_local_service(settings: CniSettings, services: Services) -> LocalService | None:
    from calico_cni.service import CniService

    _serving[services.node] = made = CniService(settings, services)
    return made


@hookimpl
def calico_metrics(services: Services) -> Iterable[Metric]:
    serving = _serving.get(services.node)
    return serving.metrics() if serving is not None else ()


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
            examples=("install", "install --ipv6 --mtu 1450 --no-portmap", "uninstall"),
        )
    ]
