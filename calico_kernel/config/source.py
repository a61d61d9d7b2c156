"""YAML values that remember the line they stand on, so that every configuration error can point at it.

In:    the text of a configuration file.
Out:   a tree of ``Located`` values, to ``calico_kernel.config.reading``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import Struct

from calico_kernel.errors import ConfigError


class Origin(Struct, frozen=True):
    """Where a value came from. ``kind``: "file", "environment", "option" or "default"; ``line`` counts from 1."""

    kind: str
    name: str = ""
    line: int = 0

    def __str__(self) -> str:
        if self.kind == "file":
            return f"{self.name}:{self.line}"
        return f"{self.kind} {self.name}" if self.name else "default"


DEFAULT = Origin("default")


class Located(Struct, frozen=True):
    """``value``: a scalar, a dict of text to Located, or a list of Located."""

    value: Any
    origin: Origin

    def plain(self) -> Any:
        """The value without its places."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value

    def at(self, path: Iterable[str]) -> Origin:
        """Where the value under ``path`` stands; the nearest parent's place when there is no such value."""
        here = self
        for step in path:
            below = here.value
            if isinstance(below, dict) and step in below:
                here = below[step]
            elif isinstance(below, list) and step.isdigit() and int(step) < len(below):
                here = below[int(step)]
            else:
                break
        return here.origin


MOST_VALUES = 100_000
DEEPEST = 64
"""Far beyond any configuration. The YAML library calls itself for each level, so a deeper text would end the process;
a short one whose aliases multiply would never end."""


def parse(text: str, file: str) -> Located:
    """Read one YAML document. Raises ConfigError with file and line for bad YAML and for a key given twice."""
    import yaml

    kind: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader = kind(text)
    try:
        _measure(text, file, kind)
        root = loader.get_single_node()
        if root is None:
            return Located({}, Origin("file", file, 1))
        return _locate(loader, root, file, (), itertools.count(1))
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        place = f"{file}:{mark.line + 1}" if mark is not None else file
        problem = getattr(exc, "problem", None) or str(exc).splitlines()[0]
        raise ConfigError(
            what=f"{place} is not readable YAML: {problem}", todo="correct the line named; indent with spaces only"
        ) from exc
    finally:
        loader.dispose()


def _measure(text: str, file: str, kind: Any) -> None:
    import yaml

    depth = 0
    for number, event in enumerate(yaml.parse(text, kind)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST or number > 3 * MOST_VALUES:
            raise _too_much(file)


def _too_much(place: object) -> ConfigError:
    return ConfigError(
        what=f"{place}: more than {MOST_VALUES} values, or nested more than {DEEPEST} deep",
        todo="see whether this is the right file",
    )


def _locate(loader: Any, node: Any, file: str, above: tuple[int, ...], counter: Iterator[int]) -> Located:
    from yaml import MappingNode, SequenceNode

    origin = Origin("file", file, node.start_mark.line + 1)
    if next(counter) > MOST_VALUES:
        raise _too_much(origin)
    if id(node) in above:
        raise ConfigError(what=f"{origin}: an anchor contains itself", todo="write the value out instead")
    if isinstance(node, MappingNode):
        return Located(_mapping(loader, node, file, (*above, id(node)), counter), origin)
    if isinstance(node, SequenceNode):
        return Located([_locate(loader, item, file, (*above, id(node)), counter) for item in node.value], origin)
    return Located(loader.construct_object(node), origin)


def _mapping(loader: Any, node: Any, file: str, above: tuple[int, ...], counter: Iterator[int]) -> dict[str, Located]:
    from yaml import ScalarNode

    found: dict[str, Located] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, ScalarNode):
            raise ConfigError(what=f"{file}:{line}: a key must be plain text", todo="name the setting with one word")
        key = str(key_node.value)
        if key in found:
            raise ConfigError(
                what=f"{file}:{line}: key {key!r} is given twice, first in line {found[key].origin.line}",
                todo="keep one of the two",
            )
        value = _locate(loader, value_node, file, above, counter)
        found[key] = Located(value.value, Origin("file", file, line))
    return found


def did_you_mean(word: str, known: Iterable[str], *, likeness: float = 0.6) -> str:
    """``; did you mean 'x'?`` or nothing. ``likeness``: of the two words, at most 1."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=likeness)
    return f"; did you mean {close[0]!r}?" if close else ""
