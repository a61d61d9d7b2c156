"""Read kubeconfig files as kubectl does: several merge, the first to say something wins.

In:    paths or text.   Out: the cluster and the user of one context, with file names made absolute, to ``auth``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from calico_kernel.errors import ConfigError

_FILES = {
    "clusters": ("cluster", ("certificate-authority",)),
    "users": ("user", ("client-certificate", "client-key", "tokenFile")),
    "contexts": ("context", ()),
}
"""List -> (field that holds the entry, its fields that name files)."""


class Chosen(Struct, frozen=True, kw_only=True):
    """One context. ``user_name`` is for messages."""

    cluster: Mapping[str, Any]
    user: Mapping[str, Any]
    user_name: str


def choose(paths: str, inline: str, context: str) -> Chosen:
    """``paths``: one file, which must be there, or several with colons between, of which one must.
    Raises ConfigError."""
    if inline:
        where, documents = "kubeconfig_inline", [_entries(_parse(inline, "kubeconfig_inline"), "", "kubeconfig_inline")]
    else:
        where, documents = paths, list(_files(paths))
    entries: dict[str, dict[str, Mapping[str, Any]]] = {name: {} for name in _FILES}
    current = ""
    for document in documents:
        current = current or str(document.get("current-context") or "")
        for name, known in entries.items():
            for key, entry in document[name].items():
                known.setdefault(key, entry)
    wanted = context or current
    if not wanted:
        raise ConfigError(
            what=f"{where} has no current-context",
            todo=f"choose a context ({', '.join(entries['contexts']) or 'there is none'})",
        )
    chosen = _named(entries, "contexts", wanted, where)
    user_name = str(chosen.get("user") or "")
    return Chosen(
        cluster=_named(entries, "clusters", str(chosen.get("cluster") or ""), where),
        user=_named(entries, "users", user_name, where) if user_name else {},
        user_name=user_name,
    )


def parse(text: str, where: str) -> Mapping[str, Any]:
    """The document as it stands. Raises ConfigError."""
    return _parse(text, where)


def _files(paths: str) -> Iterable[Mapping[str, Any]]:
    names = [os.path.expanduser(name) for name in paths.split(os.pathsep) if name]
    found = 0
    for name in names:
        try:
            with open(name, encoding="utf-8") as file:
                text = file.read()
        except FileNotFoundError as exc:
            if len(names) == 1:
                raise ConfigError(
                    what=f"there is no kubeconfig {name}", todo="correct datastore.kubeconfig (KUBECONFIG)"
                ) from exc
            continue
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(what=f"kubeconfig {name} cannot be read: {exc}", todo="correct the file") from exc
        found += 1
        yield _entries(_parse(text, name), os.path.dirname(os.path.abspath(name)), name)
    if not found:
        raise ConfigError(
            what=f"none of the kubeconfig files {paths} exists", todo="correct datastore.kubeconfig (KUBECONFIG)"
        )


def _parse(text: str, where: str) -> Mapping[str, Any]:
    try:
        if text.lstrip().startswith("{"):
            document = msgspec.json.decode(text)
        else:
            import yaml

            document = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except Exception as exc:  # yaml's errors are many, and msgspec's another
        raise ConfigError(what=f"{where} is no kubeconfig: {exc}", todo="correct the file") from exc
    if not isinstance(document, dict):
        raise ConfigError(what=f"{where} is no kubeconfig", todo="correct the file")
    return document


def _entries(document: Mapping[str, Any], directory: str, where: str) -> Mapping[str, Any]:
    """The lists as mappings by name; relative file names are relative to the file they stand in."""
    entries: dict[str, Any] = {"current-context": document.get("current-context")}
    for name, (inner, files) in _FILES.items():
        found: dict[str, Mapping[str, Any]] = {}
        for item in document.get(name) or ():
            if not isinstance(item, dict) or not isinstance(item.get(inner) or {}, dict):
                raise ConfigError(what=f"{where}: {name} has an entry that is none", todo="correct the file")
            entry = dict(item.get(inner) or {})
            for field in files:
                if entry.get(field) and directory:
                    entry[field] = os.path.join(directory, str(entry[field]))
            found.setdefault(str(item.get("name") or ""), entry)
        entries[name] = found
    return entries


def _named(
    entries: Mapping[str, Mapping[str, Mapping[str, Any]]], kind: str, name: str, where: str
) -> Mapping[str, Any]:
    found = entries[kind].get(name)
    if found is None:
        raise ConfigError(
            what=f"{where} has no {kind.rstrip('s')} {name!r}",
            todo=f"use one of: {', '.join(sorted(entries[kind])) or 'there is none'}",
        )
    return found
