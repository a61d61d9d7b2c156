"""The selector language: text in, a frozen syntax tree, its canonical text and its id out.

Stands first on the line: the model's selectors are text, and everything after it (policy, calc) asks a ``Selector``.
Imports nothing of the project but errors. The language, its canonical form and its ids are Calico's, byte for byte, so
that IP sets have the names that operators know.

``parse`` is the way in; ``ast`` holds the nodes for those who index them (bitmaps in calc); ``ids`` names IP sets.
"""

from __future__ import annotations

from calico_kernel.selector.ast import (
    All,
    And,
    Contains,
    EndsWith,
    Equals,
    Global,
    Has,
    In,
    Node,
    Not,
    NotEquals,
    NotIn,
    Or,
    StartsWith,
)
from calico_kernel.selector.parser import MAX_DEPTH, MAX_LABEL_LENGTH, MAX_LENGTH, SelectorError, is_valid, parse
from calico_kernel.selector.restrictions import LabelRestriction
from calico_kernel.selector.selector import Selector

__all__ = [
    "MAX_DEPTH",
    "MAX_LABEL_LENGTH",
    "MAX_LENGTH",
    "All",
    "And",
    "Contains",
    "EndsWith",
    "Equals",
    "Global",
    "Has",
    "In",
    "LabelRestriction",
    "Node",
    "Not",
    "NotEquals",
    "NotIn",
    "Or",
    "Selector",
    "SelectorError",
    "StartsWith",
    "is_valid",
    "parse",
]
