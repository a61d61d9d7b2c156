"""``calico plugins list``, ``info`` and ``check``: what is installed, what it is, whether it fits."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from calico_kernel.cli.output import columns, json_text
from calico_kernel.errors import CalicoError

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session


def configure(_name: str, parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="every installed plugin, and whether the configuration names it")
    info = actions.add_parser("info", help="one plugin: hooks, settings, versions")
    info.add_argument("word", metavar="WORD", help="e.g. sqlite, or datastore:sqlite where two families have the word")
    actions.add_parser("check", help="find, import and check every plugin that the configuration names")
    for sub in actions.choices.values():
        sub.add_argument("-o", "--output", choices=["text", "json"], default="text")


def run(_name: str, args: argparse.Namespace, session: Session) -> int:
    return {"list": _list, "info": _info, "check": _check}[args.action](args, session)


def installed() -> list[tuple[str, str, str]]:
    """(family, word, module) of every entry point, sorted."""
    from stevedore.named import NamedExtensionManager

    from calico_kernel.plugins import FAMILIES

    found = []
    for family in FAMILIES:
        manager: Any = NamedExtensionManager(f"calico.{family}", names=[], on_missing_entrypoints_callback=None)
        found += [(family, entry.name, entry.value) for entry in manager.list_entry_points()]
    return sorted(found)


def described(family: str, word: str, module: str) -> dict[str, Any]:
    """What one installed plugin says of itself. A plugin that does not load says why under ``problem``."""
    from importlib import import_module

    from calico_kernel.config.typed import field_names
    from calico_kernel.plugins import describe

    said: dict[str, Any] = {"family": family, "word": word, "module": module}
    try:
        loaded: Any = import_module(module)
        info = describe(f"{family}:{word}", loaded, module, where="installed")
    except Exception as exc:  # noqa: BLE001  another's module may fail in any way; the list goes on
        return said | {"problem": f"{type(exc).__name__}: {exc}"}
    return said | {
        "summary": info.summary,
        "distribution": info.distribution,
        "version": _version(info.distribution),
        "hookApi": ".".join(str(part) for part in info.hook_api),
        "hooks": sorted(name for name, member in vars(loaded).items() if hasattr(member, "calico_impl")),
        "settings": list(field_names(info.settings)) if info.settings is not None else [],
    }


def _version(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution) if distribution else ""
    except PackageNotFoundError:
        return ""


def _list(args: argparse.Namespace, session: Session) -> int:
    try:
        chosen = {choice.name for choice in session.config.plugins}
    except CalicoError as exc:
        print(exc, file=sys.stderr)
        chosen = set()
    found = [described(*one) | {"configured": f"{one[0]}:{one[1]}" in chosen} for one in installed()]
    if args.output == "json":
        print(json_text(found))
        return 0
    rows = [
        (
            one["family"],
            one["word"],
            one.get("distribution", ""),
            one.get("version", ""),
            "yes" if one["configured"] else "no",
            one.get("problem") or one["summary"],
        )
        for one in found
    ]
    heading = ("FAMILY", "WORD", "DISTRIBUTION", "VERSION", "CONFIGURED", "SUMMARY")
    print("\n".join(line.rstrip() for line in columns([heading, *rows]).splitlines()))
    return 0


def _info(args: argparse.Namespace, _session: Session) -> int:
    family, _, word = args.word.rpartition(":")
    found = [described(*one) for one in installed() if one[1] == word and family in {"", one[0]}]
    if args.output == "json":
        print(json_text(found))
    for one in found if args.output == "text" else []:
        for key, value in one.items():
            shown = ", ".join(value) if isinstance(value, list) else value
            print(f"{key + ':':<14}{shown}".rstrip())
        print()
    if not found:
        print(f"no plugin {args.word!r} is installed; see `calico plugins list`", file=sys.stderr)
    return 0 if found else 1


def _check(args: argparse.Namespace, session: Session) -> int:
    composition = session.composition
    rows = []
    for plugin in composition.plugins.loaded:
        callers = composition.plugins.manager.get_hookcallers(plugin.module) or []
        hooks = sorted(caller.name.removeprefix("calico_") for caller in callers if caller.name != "calico_plugin")
        rows.append({"plugins": plugin.names, "module": plugin.target, "hooks": hooks})
    absent = [str(error) for error in composition.plugins.absent.values()]
    if args.output == "json":
        print(json_text({"plugins": rows, "absent": absent}))
        return 0
    for row in rows:
        print(f"{' and '.join(row['plugins'])}: fits ({row['module']}; {', '.join(row['hooks'])})")
    for text in absent:
        print(f"not needed unless used: {text}")
    return 0
