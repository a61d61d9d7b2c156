"""The syntax tree of a selector, as frozen values: ``str(node)`` is its canonical text.

In:   nodes built by ``selector.parser``.   Out: read by ``compiled``, ``restrictions`` and the bitmap index of calc.

A tree is never deeper than ``parser.MAX_DEPTH`` allows, so recursion over it is safe.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs


def _quoted(value: str) -> str:
    """Double quotes, unless the value holds one: the language has no escapes, so a literal lacks one kind of quote."""
    return f"'{value}'" if '"' in value else f'"{value}"'


@attrs.frozen(slots=True)
class All:
    """``all()``: everything. Also what the empty selector means."""

    def __str__(self) -> str:
        return "all()"


@attrs.frozen(slots=True)
class Global:
    """``global()``: everything, when evaluated; policy rewrites it to "has no namespace" where it is allowed."""

    def __str__(self) -> str:
        return "global()"


@attrs.frozen(slots=True)
class Has:
    label: str

    def __str__(self) -> str:
        return f"has({self.label})"


@attrs.frozen(slots=True)
class Equals:
    label: str
    value: str

    def __str__(self) -> str:
        return f"{self.label} == {_quoted(self.value)}"


@attrs.frozen(slots=True)
class NotEquals:
    """True also where the label is absent."""

    label: str
    value: str

    def __str__(self) -> str:
        return f"{self.label} != {_quoted(self.value)}"


@attrs.frozen(slots=True)
class Contains:
    label: str
    value: str

    def __str__(self) -> str:
        return f"{self.label} contains {_quoted(self.value)}"


@attrs.frozen(slots=True)
class StartsWith:
    label: str
    value: str

    def __str__(self) -> str:
        return f"{self.label} starts with {_quoted(self.value)}"


@attrs.frozen(slots=True)
class EndsWith:
    label: str
    value: str

    def __str__(self) -> str:
        return f"{self.label} ends with {_quoted(self.value)}"


@attrs.frozen(slots=True)
class In:
    """``values``: sorted by their UTF-8 bytes (which is code point order), each once."""

    label: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.label} in {{{', '.join(map(_quoted, self.values))}}}"


@attrs.frozen(slots=True)
class NotIn:
    """True also where the label is absent."""

    label: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.label} not in {{{', '.join(map(_quoted, self.values))}}}"


@attrs.frozen(slots=True)
class Not:
    operand: Node

    def __str__(self) -> str:
        return f"!{self.operand}"


@attrs.frozen(slots=True)
class And:
    """Two or more operands."""

    operands: tuple[Node, ...]

    def __str__(self) -> str:
        return f"({' && '.join(map(str, self.operands))})"


@attrs.frozen(slots=True)
class Or:
    """Two or more operands."""

    operands: tuple[Node, ...]

    def __str__(self) -> str:
        return f"({' || '.join(map(str, self.operands))})"


Node = All | Global | Has | Equals | NotEquals | Contains | StartsWith | EndsWith | In | NotIn | Not | And | Or


def map_labels(node: Node, rename: Callable[[str], str]) -> Node:
    """The same tree with every label name passed through ``rename``."""
    match node:
        case All() | Global():
            return node
        case Not(operand):
            return Not(map_labels(operand, rename))
        case And(operands) | Or(operands):
            return type(node)(tuple(map_labels(operand, rename) for operand in operands))
        case _:
            return attrs.evolve(node, label=rename(node.label))


def nesting(node: Node) -> int:
    """How many groups (``&&`` and ``||``) stand inside each other at the deepest place."""
    match node:
        case Not(operand):
            return nesting(operand)
        case And(operands) | Or(operands):
            return 1 + max(map(nesting, operands))
        case _:
            return 0
