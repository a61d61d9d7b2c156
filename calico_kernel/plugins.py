"""Find the plugins that a configuration names, check them, and register their hooks.

In:    ``PluginChoice`` values from ``calico_kernel.config``.
Out:   ``Loaded`` plugins and the pluggy manager that holds them, to ``calico_kernel.compose``.
Owns:  nothing. Imports the modules named and no other; nothing outside the process is touched.

stevedore finds and loads; what it found is remembered (``calico_kernel.entrypoints``) until something is installed.
The order is: found by entry point, imported, hook API version checked, settings decoded, registered, hooks checked.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

import pluggy
from msgspec import Struct

from calico_kernel import entrypoints, hookspecs
from calico_kernel.config import Located, Origin, PluginChoice
from calico_kernel.config.source import did_you_mean
from calico_kernel.config.typed import decode, unread
from calico_kernel.errors import CalicoError, ConfigError, PluginError
from calico_kernel.hookspecs import HOOK_API, PluginInfo

FAMILIES: Mapping[str, str] = {
    "datastore": "calico_datastore",
    "ipam": "calico_ipam",
    "dataplane": "calico_dataplane",
    "encapsulation": "calico_encapsulation",
    "routing": "calico_routing",
    "extension": "",
}
"""Family -> the hook that a plugin of it must implement."""

SHIPPED: Mapping[tuple[str, str], str] = {
    ("datastore", "sqlite"): "calico-datastore-sqlite",
    ("datastore", "etcd"): "calico-datastore-etcd",
    ("datastore", "kdd"): "calico-datastore-kdd",
    ("ipam", "blocks"): "calico-ipam-blocks",
    ("dataplane", "iptables"): "calico-dp-iptables",
    ("dataplane", "ebpf"): "calico-dp-ebpf",
    ("dataplane", "hns"): "calico-windows-hns",
    ("encapsulation", "vxlan"): "calico-encap-vxlan",
    ("routing", "bird"): "calico-bgp-bird",
    ("extension", "cni"): "calico-cni",
}
"""(family, word) -> distribution, for the plugins that the project ships."""


class Loaded(Struct, kw_only=True, eq=False):
    """One plugin module, once, however many families name it.

    names:     "family:word" of each choice that led here, first one first.
    settings:  the decoded settings struct for each family, None for a plugin without settings.
    origins:   where each setting came from, by family.
    """

    names: list[str]
    module: Any
    target: str
    info: PluginInfo
    settings: dict[str, Any]
    origins: dict[str, dict[str, Origin]]
    choices: dict[str, PluginChoice]

    @property
    def name(self) -> str:
        return self.names[0]

    def settings_for(self, family: str) -> Any:
        """The settings given under ``family``; a module listed only elsewhere uses those it was first given."""
        if family in self.settings:
            return self.settings[family]
        return next(iter(self.settings.values()))


class Plugins(Struct, frozen=True, kw_only=True, eq=False):
    """absent: defaults (not named by the operator) that are not installed, with the error to raise when needed."""

    manager: pluggy.PluginManager
    loaded: tuple[Loaded, ...]
    absent: Mapping[str, CalicoError]

    def implementing(self, hook: str) -> tuple[Loaded, ...]:
        modules = {id(impl.plugin) for impl in getattr(self.manager.hook, hook).get_hookimpls()}
        return tuple(plugin for plugin in self.loaded if id(plugin.module) in modules)

    def call(self, plugin: Loaded, hook: str, **arguments: Any) -> Any:
        """One plugin's answer to one hook. What is not a CalicoError is that plugin's bug and says so."""
        others = [other.module for other in self.loaded if other is not plugin]
        try:
            answers = self.manager.subset_hook_caller(hook, remove_plugins=others)(**arguments)
        except CalicoError:
            raise
        except Exception as exc:
            raise PluginError(
                what=f"plugin {plugin.name} ({plugin.target}) failed in {hook}: {type(exc).__name__}: {exc}",
                todo=f"this is a bug of {plugin.info.distribution or plugin.target}; report it to its authors",
            ) from exc
        return answers[0] if answers else None


def load_plugins(choices: Sequence[PluginChoice]) -> Plugins:
    """Load exactly what is named. Raises PluginError or ConfigError; nothing outside the process was touched."""
    loaded: list[Loaded] = []
    absent: dict[str, CalicoError] = {}
    remembered = entrypoints.recall()
    searched = False
    for choice in choices:
        try:
            found = _remembered(remembered.get(choice.name, ""))
            searched |= found is None
            module, target = found or _find(choice)
        except _Absent as exc:
            if choice.origin.kind != "default":
                raise exc.error from None
            absent[choice.family] = exc.error
            continue
        _add(loaded, choice, module, target)
    if searched:
        entrypoints.remember(FAMILIES)
    return Plugins(manager=_register(loaded), loaded=tuple(loaded), absent=absent)


class _Absent(Exception):
    def __init__(self, error: CalicoError) -> None:
        self.error = error


def _remembered(target: str) -> tuple[Any, str] | None:
    """None when nothing is remembered, or it does not load: then stevedore looks, and its finding is told."""
    try:
        return (import_module(target), target) if target else None
    except Exception:  # noqa: BLE001  another's module may fail in any way
        return None


def _find(choice: PluginChoice) -> tuple[Any, str]:
    """The module behind the entry point, and its dotted name."""
    from stevedore.named import NamedExtensionManager

    group = f"calico.{choice.family}"
    problems: list[tuple[str, BaseException]] = []
    found: NamedExtensionManager[Any] = NamedExtensionManager(
        group,
        names=[choice.word],
        on_load_failure_callback=lambda _manager, entry, exc: problems.append((entry.value, exc)),
        on_missing_entrypoints_callback=None,
    )
    targets = [entry.value for entry in found.list_entry_points() if entry.name == choice.word]
    if not targets and _installed_since(group, choice.word):
        return _find(choice)
    if not targets:
        raise _Absent(_not_installed(choice, [entry.name for entry in found.list_entry_points()]))
    if len(targets) > 1:
        raise PluginError(
            what=f"{choice.where}: two installed plugins are called {choice.word!r} in {group}: {', '.join(targets)}",
            todo="uninstall one of the two distributions",
        )
    if problems:
        target, exc = problems[0]
        raise PluginError(
            what=f"{choice.where}: plugin {choice.name} ({target}) cannot be imported: {type(exc).__name__}: {exc}",
            todo=f"install what it needs, e.g. {_pip_line(choice)}",
        ) from exc
    return found.extensions[0].plugin, targets[0]


def _installed_since(group: str, word: str) -> bool:
    """Whether a plugin is there that stevedore's cache on disk does not know yet; makes stevedore look again. The cache
    takes two installations within the same two minutes for one (it keeps file times as 32-bit floats)."""
    from importlib.metadata import entry_points

    from stevedore.named import NamedExtensionManager

    fresh = list(entry_points(group=group))
    if not any(entry.name == word for entry in fresh):
        return False
    NamedExtensionManager.ENTRY_POINT_CACHE[group] = fresh
    return True


def _pip_line(choice: PluginChoice) -> str:
    return f"`pip install {SHIPPED.get((choice.family, choice.word), f'calico-{choice.family}-{choice.word}')}`"


def _not_installed(choice: PluginChoice, installed: Iterable[str]) -> CalicoError:
    have = sorted(set(installed))
    there = f"installed for {choice.family}: {', '.join(have)}" if have else f"no {choice.family} plugin is installed"
    if (choice.family, choice.word) in SHIPPED:
        return PluginError(
            what=f"{choice.where}: plugin {choice.word!r} is not installed ({there})", todo=f"run {_pip_line(choice)}"
        )
    words = {*have, *(word for family, word in SHIPPED if family == choice.family)}
    shipped = sorted(f"`pip install {name}`" for (family, _), name in SHIPPED.items() if family == choice.family)
    return ConfigError(
        what=f"{choice.where}: there is no plugin {choice.word!r}{did_you_mean(choice.word, words)} ({there})",
        todo=f"correct the word, or install the distribution that has it; ours are {', '.join(shipped)}",
    )


def _add(loaded: list[Loaded], choice: PluginChoice, module: Any, target: str) -> None:
    same = next((plugin for plugin in loaded if plugin.module is module), None)
    info = same.info if same is not None else describe(choice.name, module, target, where=choice.where)
    settings, origins = _settings(choice, info)
    if same is not None:
        same.names.append(choice.name)
        same.settings[choice.family], same.origins[choice.family] = settings, origins
        same.choices[choice.family] = choice
        return
    loaded.append(
        Loaded(
            names=[choice.name],
            module=module,
            target=target,
            info=info,
            settings={choice.family: settings},
            origins={choice.family: origins},
            choices={choice.family: choice},
        )
    )


def describe(name: str, module: Any, target: str, *, where: str) -> PluginInfo:
    """What the plugin says of itself, with its hook API version checked."""
    ask = getattr(module, "calico_plugin", None)
    if not callable(ask):
        raise PluginError(
            what=f"{where}: plugin {name} ({target}) does not say what it is: it has no calico_plugin()",
            todo="ask its authors for a version written for this kernel's hooks",
        )
    info = ask()
    if not isinstance(info, PluginInfo):
        raise PluginError(
            what=f"{where}: calico_plugin() of {name} ({target}) returned {type(info).__name__}, not PluginInfo",
            todo="report it to the plugin's authors",
        )
    major, minor = info.hook_api
    if major != HOOK_API[0] or minor > HOOK_API[1]:
        newer = (major, minor) > HOOK_API
        raise PluginError(
            what=f"{where}: plugin {name} ({target}) was written for hook API {major}.{minor}; this kernel has "
            f"{HOOK_API[0]}.{HOOK_API[1]}",
            todo=f"install a newer {'calico-kernel' if newer else info.distribution or 'version of the plugin'}",
        )
    return info


def _settings(choice: PluginChoice, info: PluginInfo) -> tuple[Any, dict[str, Origin]]:
    where = f"plugin {choice.name}"
    if info.settings is None:
        for name, item in choice.settings.value.items():
            raise unread(where, name, item.origin, ())
        for variable in choice.variables:
            name = variable[len(choice.prefix) :].lower()
            raise unread(where, name, Origin("environment", variable), ())
        return None, {}
    given = Located(choice.settings.value, choice.origin)
    return decode(info.settings, given, choice.variables, choice.prefix, where=where)


def _register(loaded: Sequence[Loaded]) -> pluggy.PluginManager:
    manager = pluggy.PluginManager("calico")
    manager.add_hookspecs(hookspecs)
    known = {name for name in vars(hookspecs) if name.startswith("calico_")}
    for plugin in loaded:
        _check_names(plugin, known)
        try:
            manager.register(plugin.module, name=plugin.name)
        except pluggy.PluginValidationError as exc:
            raise PluginError(
                what=f"plugin {plugin.name} ({plugin.target}) does not fit the hook: {' '.join(str(exc).split())}",
                todo="name the hook's arguments as calico_kernel.hookspecs does",
            ) from exc
        for family in plugin.choices:
            needed = FAMILIES[family]
            callers = {caller.name for caller in manager.get_hookcallers(plugin.module) or ()}
            if needed and needed not in callers:
                raise PluginError(
                    what=f"{plugin.choices[family].where}: plugin {plugin.name} ({plugin.target}) has no {needed} hook",
                    todo=f"choose another {family} plugin, or ask its authors to implement {needed}",
                )
    manager.check_pending()
    return manager


def _check_names(plugin: Loaded, known: set[str]) -> None:
    """Refuse what looks like a hook and is none: a name that no hook has, or a hook that was not marked."""
    for name, member in vars(plugin.module).items():
        if isinstance(member, types.ModuleType) or not callable(member):
            continue
        marked = getattr(member, "calico_impl", None) is not None
        ours = name.startswith("calico_") and getattr(member, "__module__", None) == plugin.module.__name__
        if (marked or ours) and name not in known:
            raise PluginError(
                what=f"plugin {plugin.name} ({plugin.target}) implements a hook {name!r} that does not exist"
                f"{did_you_mean(name, known)}",
                todo="correct the name, or make it private with a leading underscore if it is no hook",
            )
        if ours and not marked:
            raise PluginError(
                what=f"plugin {plugin.name} ({plugin.target}) has {name!r} without @hookimpl, so it is never called",
                todo="mark it with calico_kernel.hookspecs.hookimpl",
            )
