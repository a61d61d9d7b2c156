"""Turn a configuration into working parts: the datastore, the IPAM, the drivers and the extensions.

In:    ``Config`` from ``calico_kernel.config``, and through ``calico_kernel.plugins`` the modules it names.
Out:   a ``Composition`` to the agent and to the command-line tools.
Owns:  the datastore it opened; ``close`` gives it back. Drivers belong to who opened them.

``compose`` reads entry points and imports plugin modules, no more. Factories run when a part is opened, so
``calicoctl`` opens the datastore alone, and every mistake in the configuration is found before anything is touched.
"""

# The abstract classes of hookspecs are passed as values to check answers against; mypy wants concrete ones there.
# mypy: disable-error-code="type-abstract"

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from msgspec import Struct

from calico_kernel.config import Config
from calico_kernel.errors import CalicoError, ConfigError, PluginError
from calico_kernel.hookspecs import (
    CliCommand,
    Controller,
    Dataplane,
    Datastore,
    Driver,
    EncapsulationDriver,
    EndpointObserver,
    HealthCheck,
    Ipam,
    LocalService,
    Metric,
    RoutingDriver,
    Services,
    Validator,
)
from calico_kernel.model.kinds import register
from calico_kernel.plugins import FAMILIES, Loaded, Plugins, load_plugins

T = TypeVar("T")
Lend = Callable[[str], Services]
"""What the kernel lends the plugin of that name, e.g. "dataplane:iptables"."""


class Opened(Struct, Generic[T], frozen=True):
    """A part, and the name of the plugin that made it."""

    plugin: str
    value: T


def compose(config: Config) -> Composition:
    """Find, check and register what ``config`` names. Raises ConfigError or PluginError; nothing was touched."""
    composition = Composition(config=config, plugins=load_plugins(config.plugins))
    for kind in composition.resource_kinds():
        register(kind)
    composition.validators()
    composition.cli_commands("calico")
    composition.cli_commands("calicoctl")
    return composition


class Composition(Struct, kw_only=True, eq=False):
    """The parts of one node or tool. ``open_datastore`` and ``open_ipam`` open once; the drivers are made anew at each
    call, for the caller to keep."""

    config: Config
    plugins: Plugins
    _datastore: Datastore | None = None
    _ipam: Ipam | None = None

    # ── capabilities ──────────────────────────────────────────────────────────────────────────────────────────────

    def services(self, plugin: str) -> Services:
        """What every plugin is lent; the agent evolves it with what only a running node has."""
        return Services(
            node=self.config.node,
            log=logging.getLogger(f"calico.{plugin.replace(':', '.')}"),
            run_dir=self.config.agent.run_dir,
            state_dir=self.config.agent.state_dir,
            datastore=self._datastore,
            ipam=self._ipam,
        )

    def open_datastore(self) -> Datastore:
        """Raises ConfigError when none is configured, and what the plugin raises."""
        if self._datastore is None:
            opened = self._exclusive("datastore", Datastore, None)
            if opened is None:
                raise self._nothing("datastore")
            self._datastore = opened.value
        return self._datastore

    def open_ipam(self) -> Ipam:
        """Opens the datastore first. Raises ConfigError when no IPAM is configured."""
        if self._ipam is None:
            self.open_datastore()
            opened = self._exclusive("ipam", Ipam, None)
            if opened is None:
                raise self._nothing("ipam")
            self._ipam = opened.value
        return self._ipam

    @property
    def has_ipam(self) -> bool:
        return bool(self.plugins.implementing("calico_ipam"))

    def open_dataplane(self, lend: Lend | None = None) -> Opened[Dataplane] | None:
        """None when the configuration names none."""
        return self._exclusive("dataplane", Dataplane, lend)

    def open_encapsulation(self, lend: Lend | None = None) -> Sequence[Opened[EncapsulationDriver]]:
        opened = list(self._answers("calico_encapsulation", "encapsulation", EncapsulationDriver, lend))
        serving: dict[str, str] = {}
        for driver in opened:
            for mode in sorted(driver.value.modes):
                if mode in serving:
                    raise _twice(f"encapsulation mode {mode!r}", serving[mode], driver.plugin)
                serving[mode] = driver.plugin
        return opened

    def open_routing(self, lend: Lend | None = None) -> Sequence[Opened[RoutingDriver]]:
        return list(self._answers("calico_routing", "routing", RoutingDriver, lend))

    def open_drivers(self, lend: Lend | None = None) -> Sequence[Opened[Driver]]:
        """Dataplane, encapsulation and routing together, in that order. On an error those made already are closed."""
        drivers: list[Opened[Any]] = []
        try:
            dataplane = self.open_dataplane(lend)
            drivers += [dataplane] if dataplane is not None else []
            drivers += self.open_encapsulation(lend)
            drivers += self.open_routing(lend)
        except BaseException:
            for driver in drivers:
                driver.value.close()
            raise
        return drivers

    def close(self) -> None:
        """Close what was opened here. Safe twice."""
        store, self._datastore, self._ipam = self._datastore, None, None
        if store is not None:
            store.close()

    # ── extensions ────────────────────────────────────────────────────────────────────────────────────────────────

    def resource_kinds(self) -> Sequence[type[Any]]:
        """Kinds that plugins add. A kind or plural of the kernel or of another plugin is refused."""
        kinds: list[type[Any]] = []
        by_name: dict[str, str] = {}
        for opened in self._extension("calico_resource_kinds"):
            kind = opened.value
            for name in (f"kind {kind.__struct_config__.tag}", f"plural {kind.plural}"):
                if name in by_name:
                    raise _twice(f"resource {name}", by_name[name], opened.plugin)
                by_name[name] = opened.plugin
            kinds.append(kind)
        return kinds

    def validators(self) -> Sequence[Validator]:
        return self._named(self._extension("calico_validators"), "validator", lambda validator: validator.name)

    def cli_commands(self, program: str) -> Sequence[CliCommand]:
        """Commands that plugins add to ``program``: "calico" or "calicoctl"."""
        mine = [opened for opened in self._extension("calico_cli_commands") if opened.value.program == program]
        return self._named(mine, f"{program} command", lambda command: command.name)

    def endpoint_observers(self, lend: Lend | None = None) -> Sequence[Opened[EndpointObserver]]:
        return list(self._answers("calico_endpoint_lifecycle", "extension", EndpointObserver, lend))

    def local_services(self, lend: Lend | None = None) -> Sequence[Opened[LocalService]]:
        opened = list(self._answers("calico_local_service", "extension", LocalService, lend))
        self._named(opened, "local service", lambda service: service.name)
        return opened

    def controllers(self, lend: Lend | None = None) -> Sequence[Opened[Controller]]:
        return list(self._answers("calico_controller", "extension", Controller, lend))

    def metrics(self, lend: Lend | None = None) -> Sequence[Metric]:
        """Asked at every scrape. A plugin that fails costs its own samples only."""
        samples: list[Metric] = []
        lend = lend or self.services
        for plugin in self.plugins.implementing("calico_metrics"):
            try:
                samples += list(self.plugins.call(plugin, "calico_metrics", services=lend(plugin.name)) or ())
            except Exception as exc:  # noqa: BLE001  a generator's own bug ends its samples, not the scrape
                logging.getLogger("calico.metrics").warning("metrics left out: %s", exc)
        return samples

    def health_checks(self, lend: Lend | None = None) -> Sequence[HealthCheck]:
        lend = lend or self.services
        opened: list[Opened[HealthCheck]] = []
        for plugin in self.plugins.implementing("calico_health_checks"):
            for check in self.plugins.call(plugin, "calico_health_checks", services=lend(plugin.name)) or ():
                opened.append(Opened(plugin.name, check))
        return self._named(opened, "health check", lambda check: check.name)

    # ── how hooks are asked ───────────────────────────────────────────────────────────────────────────────────────

    def _exclusive(self, family: str, kind: type[T], lend: Lend | None) -> Opened[T] | None:
        """The one answer. Plugins that the configuration did not choose for this family are asked first: should one of
        them answer beside the chosen plugin, that one's factory never runs."""
        hook = FAMILIES[family]
        asked = sorted(self.plugins.implementing(hook), key=lambda plugin: family in plugin.choices)
        answer: Opened[T] | None = None
        for plugin in asked:
            if answer is not None and family in plugin.choices:
                _close(answer.value)
                raise _twice(f"exclusive capability {family!r}", answer.plugin, plugin.name)
            made = self._make(plugin, hook, family, kind, lend)
            if made is None:
                continue
            if answer is not None:
                _close(answer.value)
                _close(made)
                raise _twice(f"exclusive capability {family!r}", answer.plugin, plugin.name)
            answer = Opened(plugin.name, made)
        return answer

    def _answers(self, hook: str, family: str, kind: type[T], lend: Lend | None) -> Iterable[Opened[T]]:
        for plugin in self.plugins.implementing(hook):
            made = self._make(plugin, hook, family, kind, lend)
            if made is not None:
                yield Opened(plugin.name, made)

    def _make(self, plugin: Loaded, hook: str, family: str, kind: type[T], lend: Lend | None) -> T | None:
        services = (lend or self.services)(plugin.name)
        made = self.plugins.call(plugin, hook, settings=plugin.settings_for(family), services=services)
        if made is not None and not isinstance(made, kind):
            raise PluginError(
                what=f"plugin {plugin.name} ({plugin.target}) answered {hook} with {type(made).__name__}, which is no "
                f"{kind.__name__}",
                todo="report it to the plugin's authors",
            )
        return made

    def _extension(self, hook: str) -> list[Opened[Any]]:
        return [
            Opened(plugin.name, item)
            for plugin in self.plugins.implementing(hook)
            for item in self.plugins.call(plugin, hook) or ()
        ]

    def _named(self, opened: Sequence[Opened[T]], what: str, name_of: Callable[[T], str]) -> Sequence[T]:
        seen: dict[str, str] = {}
        for item in opened:
            name = name_of(item.value)
            if name in seen:
                raise _twice(f"{what} {name!r}", seen[name], item.plugin)
            seen[name] = item.plugin
        return [item.value for item in opened]

    def _nothing(self, family: str) -> CalicoError:
        if family in self.plugins.absent:
            return self.plugins.absent[family]
        where = self.config.path or "there is no configuration file, and the environment"
        return ConfigError(
            what=f"{where} names no {family} that serves here",
            todo=f"add a line such as `{family}: {_EXAMPLE[family]}`",
        )


_EXAMPLE: Mapping[str, str] = {"datastore": "sqlite", "ipam": "blocks"}


def _close(part: Any) -> None:
    close = getattr(part, "close", None)
    if callable(close):
        close()


def _twice(what: str, first: str, second: str) -> PluginError:
    return PluginError(
        what=f"{what} is claimed by two plugins: {first} and {second}",
        todo="take one of the two out of the configuration",
    )
