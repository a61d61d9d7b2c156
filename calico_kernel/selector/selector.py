"""A parsed selector: its tree, its canonical text, its id, and a fast answer to "do these labels match?"."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from calico_kernel.selector.ast import Node, map_labels
from calico_kernel.selector.compiled import Predicate, compile_node
from calico_kernel.selector.ids import unique_id
from calico_kernel.selector.restrictions import LabelRestriction, label_restrictions


@attrs.define(slots=True, eq=False, weakref_slot=True)
class Selector:
    """Made by ``parse``; treat as frozen. Equal when the canonical texts are equal, as Calico's are.

    root:  the syntax tree.   text: canonical text.
    """

    root: Node
    text: str
    _predicate: Predicate | None = attrs.field(default=None, repr=False)
    _id: str = attrs.field(default="", repr=False)

    @classmethod
    def of(cls, root: Node) -> Selector:
        return cls(root=root, text=str(root))

    @property
    def id(self) -> str:
        """``s:`` and 38 characters: the id of the IP set of what it matches."""
        if not self._id:
            self._id = unique_id("s", self.text)
        return self._id

    @property
    def matches(self) -> Predicate:
        """The compiled predicate: ``selector.matches(labels)``. Bind it once to evaluate in a loop."""
        if self._predicate is None:
            self._predicate = compile_node(self.root)
        return self._predicate

    def evaluate(self, labels: Mapping[str, str]) -> bool:
        return self.matches(labels)

    def prefixed(self, prefix: str) -> Selector:
        """The same selector over labels whose names begin with ``prefix`` (``pcns.``, ``pcsa.``)."""
        return Selector.of(map_labels(self.root, lambda label: prefix + label))

    def restrictions(self) -> dict[str, LabelRestriction]:
        """What it demands of single labels, by label name; computed anew at each call."""
        return label_restrictions(self.root)

    @property
    def satisfiable(self) -> bool:
        """False when it provably matches nothing. True does not promise that anything can match."""
        return all(restriction.satisfiable for restriction in self.restrictions().values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Selector) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text
