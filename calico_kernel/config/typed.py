"""Decode located values into a settings struct, keeping the place of each.

In:    a mapping from the file, variables with a prefix, and the struct class (the kernel's or a plugin's).
Out:   the struct, and the origin of every field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from calico_kernel.config.source import DEFAULT, Located, Origin, did_you_mean
from calico_kernel.errors import ConfigError

S = TypeVar("S", bound=msgspec.Struct)

_PATH = re.compile(r" - at `\$(.*)`$")


def field_names(struct: type[msgspec.Struct]) -> tuple[str, ...]:
    """The settings as an operator writes them."""
    return struct.__struct_encode_fields__


def decode(
    struct: type[S], given: Located, environment: Mapping[str, str], prefix: str, *, where: str
) -> tuple[S, dict[str, Origin]]:
    """Build ``struct``. Raises ConfigError with file, line, key, the value found, and what to write instead."""
    known = field_names(struct)
    if not isinstance(given.value, dict):
        raise ConfigError(
            what=f"{given.origin}: {where} must be a mapping of settings, found {given.plain()!r}",
            todo=f"write `{where}:` and its settings below, indented",
        )
    for name, item in given.value.items():
        if name not in known:
            raise unread(where, name, item.origin, known)
    merged = dict(given.value) | _from_environment(struct, environment, prefix, where)
    whole = Located(merged, given.origin)
    try:
        settings = msgspec.convert(whole.plain(), struct, strict=False)
    except msgspec.ValidationError as exc:
        raise _explained(exc, whole, where) from exc
    return settings, {name: merged[name].origin if name in merged else DEFAULT for name in known}


def unread(where: str, name: str, origin: Origin, known: tuple[str, ...]) -> ConfigError:
    """The error for a setting that nothing reads."""
    settings = f"settings are: {', '.join(known)}" if known else "it has no settings at all"
    return ConfigError(
        what=f"{origin}: {where} has no setting {name!r}{did_you_mean(name, known)}",
        todo=f"remove or rename it; {settings}",
    )


def _from_environment(
    struct: type[msgspec.Struct], environment: Mapping[str, str], prefix: str, where: str
) -> dict[str, Located]:
    names = {name.upper(): name for name in field_names(struct)}
    found: dict[str, Located] = {}
    for variable, text in environment.items():
        if not variable.startswith(prefix):
            continue
        origin = Origin("environment", variable)
        name = names.get(variable[len(prefix) :])
        if name is None:
            raise unread(where, variable[len(prefix) :].lower(), origin, tuple(names.values()))
        found[name] = _located(_read(struct, name, text), origin)
    return found


def _located(value: Any, origin: Origin) -> Located:
    if isinstance(value, dict):
        return Located({key: _located(item, origin) for key, item in value.items()}, origin)
    if isinstance(value, list):
        return Located([_located(item, origin) for item in value], origin)
    return Located(value, origin)


def _read(struct: type[msgspec.Struct], name: str, text: str) -> Any:
    """Text as the field's type takes it: as it stands, else split at commas, else as YAML."""
    import typing

    hints = typing.get_type_hints(struct, include_extras=True)
    python_name = dict(zip(struct.__struct_encode_fields__, struct.__struct_fields__, strict=True))[name]
    wanted = hints[python_name]
    pieces = [piece.strip() for piece in text.split(",") if piece.strip()]
    for candidate in (text, pieces):
        try:
            msgspec.convert(candidate, wanted, strict=False)
        except msgspec.ValidationError:
            continue
        return candidate
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _explained(exc: msgspec.ValidationError, whole: Located, where: str) -> ConfigError:
    text = str(exc)
    match = _PATH.search(text)
    steps = re.findall(r"[^.\[\]]+", match.group(1)) if match else []
    reason = text[: match.start()] if match else text
    missing = re.match(r"Object missing required field `([^`]+)`", text)
    if missing:
        key = ".".join([where, *steps, missing.group(1)])
        return ConfigError(what=f"{whole.at(steps)}: {key} is required and not given", todo=f"add `{missing.group(1)}`")
    key = ".".join([where, *steps])
    found: Any = whole.plain()
    for step in steps:
        found = found[int(step)] if isinstance(found, list) else found.get(step)
    return ConfigError(what=f"{whole.at(steps)}: {key} is {found!r}: {reason}", todo="give a value of that type")
