"""The hooks of calico-sample, and nothing else.

``calicoctl`` imports this module too, so it stays light: what a hook needs is imported when the hook is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec

from calico_kernel.hookspecs import PluginInfo, Services, hookimpl

if TYPE_CHECKING:
    from calico_kernel.hookspecs import CliCommand, EndpointObserver, HealthCheck, Metric, Validator
    from calico_kernel.model.meta import Resource


class SampleSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Owners of workloads.

    default_owner:  the owner of endpoints that name none; empty leaves them without.
    max_unowned:    the node is not ready while more of its endpoints than this have no owner.
    """

    default_owner: str = ""
    max_unowned: Annotated[int, msgspec.Meta(ge=0)] = 100


@hookimpl
def calico_plugin() -> PluginInfo:
    return PluginInfo(
        summary="Sample: every workload has an owner",
        hook_api=(1, 1),
        settings=SampleSettings,
        distribution="calico-sample",
    )


@hookimpl
def calico_resource_kinds() -> Sequence[type[Resource]]:
    from calico_sample.kinds import Owner

    return [Owner]


@hookimpl
def calico_validators() -> Sequence[Validator]:
    from calico_sample.kinds import OWNER_VALIDATOR

    return [OWNER_VALIDATOR]


@hookimpl
def calico_cli_commands() -> Sequence[CliCommand]:
    from calico_sample.command import OWNED

    return [OWNED]


@hookimpl
def calico_endpoint_lifecycle(settings: SampleSettings, services: Services) -> EndpointObserver:
    from calico_sample.owners import Owners

    return Owners.start(settings, services)


@hookimpl
def calico_metrics(services: Services) -> Iterable[Metric]:
    from calico_sample.owners import Owners

    return Owners.of(services.node).metrics()


@hookimpl
def calico_health_checks(services: Services) -> Sequence[HealthCheck]:
    from calico_sample.owners import Owners

    return [Owners.of(services.node).health_check()]
