"""``config check`` and ``show`` of both programs: whether the configuration works, and where each value came from."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import msgspec

from calico_kernel.cli.output import columns, json_text

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session

SECRET = ("password", "secret", "token", "private_key")
SECRET_TEXTS = {"key", "kubeconfig_inline"}


def configure(_name: str, parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("check", help="read it, find and check its plugins, decode every setting; nothing is touched")
    actions.add_parser("show", help="every value in force, and where it came from")
    for sub in actions.choices.values():
        sub.add_argument("-o", "--output", choices=["text", "json"], default="text")


def run(_name: str, args: argparse.Namespace, session: Session) -> int:
    rows = values(session)
    if args.action == "show":
        if args.output == "json":
            print(json_text([{"key": key, "value": value, "origin": origin} for key, value, origin in rows]))
        else:
            shown = [(key, _text(value), origin) for key, value, origin in rows]
            print("\n".join(line.rstrip() for line in columns([("KEY", "VALUE", "FROM"), *shown]).splitlines()))
        return 0
    config = session.config
    names = [name for plugin in session.composition.plugins.loaded for name in plugin.names]
    if args.output == "json":
        print(json_text({"path": config.path, "node": config.node, "plugins": names}))
    else:
        print(f"{config.path or 'no configuration file; defaults and environment'}: correct")
        print(f"node {config.node}; plugins: {', '.join(names) or 'none'}")
    return 0


def values(session: Session) -> list[tuple[str, Any, str]]:
    """(key, value, origin) of everything in force."""
    config = session.config
    rows: list[tuple[str, Any, str]] = [("node", config.node, str(config.origins["node"]))]
    for plugin in session.composition.plugins.loaded:
        for family, choice in plugin.choices.items():
            rows.append((choice.key, choice.word, str(choice.origin)))
            settings = plugin.settings[family]
            if settings is None:
                continue
            found = msgspec.to_builtins(settings)
            prefix = choice.key if choice.prefix.endswith(f"_{choice.key.upper()}_") else f"{choice.key}.{choice.word}"
            for name, origin in plugin.origins[family].items():
                secret = name.endswith(SECRET) or name in SECRET_TEXTS
                value = "(hidden)" if secret and found.get(name) else found.get(name)
                rows.append((f"{prefix}.{name}", value, str(origin)))
    agent = msgspec.to_builtins(config.agent)
    rows += [(f"agent.{name}", agent[name], str(config.origins[f"agent.{name}"])) for name in agent]
    return rows


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
