"""Recipes on disk: manifests with a short description in their opening comment.

In:    a directory.   Out: ``Scenario`` values in order of their names, to calico_kernel.lab.runner.

A scenario is a YAML file of the directory, or a directory in it whose YAML files are joined. Its opening comment is a
title, then text; a line ``probe: tcp/80 udp/53 icmp`` in it names what to send (default: TCP 80 and UDP 53), a line
``places: node1 node3`` which nodes take part beside the workloads and the hosts outside (default: none).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import attrs

from calico_kernel.errors import ConfigError
from calico_kernel.lab.prober import Protocol

Service = tuple[Protocol, int]

DEFAULT_SERVICES: tuple[Service, ...] = (("tcp", 80), ("udp", 53))
_SEPARATOR = re.compile(r"^---\s*$", re.MULTILINE)
_PROBE = re.compile(r"(tcp|udp|sctp)/(\d{1,5})|(icmp)")


@attrs.frozen(kw_only=True)
class Scenario:
    """``name``: the file's, without extension. ``manifest``: what calicoctl applies. ``services``: what to probe.
    ``nodes``: those that take part as well."""

    name: str
    title: str
    description: str
    manifest: str
    services: tuple[Service, ...] = DEFAULT_SERVICES
    nodes: tuple[str, ...] = ()

    @property
    def has_documents(self) -> bool:
        """False for a scenario that only measures what is there."""
        lines = (line.strip() for line in self.manifest.splitlines())
        return any(line and not line.startswith(("#", "---")) for line in lines)

    @property
    def reversed_manifest(self) -> str:
        """Last document first: the order in which to delete, since a tier goes after its policies."""
        return "\n---\n".join(reversed(_SEPARATOR.split(self.manifest)))


def load(directory: Path, *, only: tuple[str, ...] = ()) -> list[Scenario]:
    """Raises ConfigError: no such directory, nothing in it, an unreadable probe line, or ``only`` matches nothing."""
    if not directory.is_dir():
        raise ConfigError(what=f"{directory} is not a directory", todo="name one that holds scenarios, as YAML files")
    found = []
    for path in sorted(directory.iterdir()):
        if path.is_dir():
            files = _yaml_files(path)
        elif path.suffix in (".yaml", ".yml"):
            files = [path]
        else:
            continue
        if files:
            found.append(parse(path.stem, "---\n".join(_text(file) for file in files)))
    if not found:
        raise ConfigError(what=f"{directory} holds no scenario", todo="put YAML files into it, one for each scenario")
    chosen = [each for each in found if not only or any(word in each.name for word in only)]
    if not chosen:
        raise ConfigError(
            what=f"no scenario is called {' or '.join(only)}",
            todo=f"name one of: {', '.join(each.name for each in found)}",
        )
    return chosen


def parse(name: str, text: str) -> Scenario:
    comment = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    services = DEFAULT_SERVICES
    nodes: tuple[str, ...] = ()
    described = []
    for line in comment[1:]:
        if line.startswith("probe:"):
            services = _services(name, line.removeprefix("probe:").split())
        elif line.startswith("places:"):
            nodes = tuple(line.removeprefix("places:").split())
        else:
            described.append(line)
    title = comment[0] if comment and comment[0] else name
    return Scenario(
        name=name,
        title=title,
        description=" ".join(filter(None, described)),
        manifest=text,
        services=services,
        nodes=nodes,
    )


def parse_service(word: str) -> Service:
    """``tcp/80``, ``udp/53``, ``sctp/5000`` or ``icmp``. Raises ConfigError."""
    match = _PROBE.fullmatch(word)
    if match is None or (match[2] and not 0 < int(match[2]) < 65536):
        raise ConfigError(what=f"cannot probe {word!r}", todo="write tcp/80, udp/53, sctp/5000 or icmp")
    return cast("Protocol", match[1] or match[3]), int(match[2] or 0)


def _services(name: str, words: list[str]) -> tuple[Service, ...]:
    try:
        return tuple(parse_service(word) for word in words)
    except ConfigError as exc:
        raise ConfigError(what=f"scenario {name}: {exc.what}", todo=exc.todo) from exc


def _yaml_files(directory: Path) -> list[Path]:
    return [path for path in sorted(directory.iterdir()) if path.suffix in (".yaml", ".yml")]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(what=f"cannot read {path}: {exc}", todo="make it a readable text file") from exc
