"""Posting lists: for each label that active selectors ask about, which items have which value.

Only labels that some active selector mentions are indexed. A label is indexed by one scan over all items when it is
first asked for, together with all others asked for at that moment; from then on each change of an item keeps it true.

In:   items (``calc.items``), syntax trees.   Out: bitmaps of the items that a tree matches.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping

from pyroaring import BitMap

from calico_kernel.calc.labels import Contexts, Ids, LabelSets, as_bitmap, each, with_id, without_id
from calico_kernel.selector import (
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


class _Name:
    """Items by the value of one label, inherited values included."""

    __slots__ = ("present", "values")

    def __init__(self) -> None:
        self.present = BitMap()
        self.values: dict[str, Ids] = {}


class Postings:
    def __init__(self, label_sets: LabelSets, contexts: Contexts) -> None:
        self._label_sets = label_sets
        self._contexts = contexts
        self._names: dict[str, _Name] = {}
        self.all = BitMap()

    def __bool__(self) -> bool:
        return bool(self._names)

    def add(self, item: int, labels: Mapping[str, str]) -> None:
        names = self._names
        for label, value in labels.items():
            name = names.get(label)
            if name is not None:
                name.present.add(item)
                name.values[value] = with_id(name.values.get(value), item)

    def remove(self, item: int, labels: Mapping[str, str]) -> None:
        names = self._names
        for label, value in labels.items():
            name = names.get(label)
            if name is not None:
                name.present.discard(item)
                rest = without_id(name.values.get(value), item)
                if rest is None:
                    name.values.pop(value, None)
                else:
                    name.values[value] = rest

    def move(self, item: int, old: Mapping[str, str], new: Mapping[str, str]) -> None:
        """The item's labels changed from ``old`` to ``new``."""
        gone = {label: value for label, value in old.items() if new.get(label) != value}
        come = {label: value for label, value in new.items() if old.get(label) != value}
        self.remove(item, gone)
        self.add(item, come)

    def require(self, labels: Iterable[str], label_sets_of: array[int]) -> None:
        """Index these labels too. One scan over all items when any is new."""
        new = {label for label in labels if label not in self._names}
        if not new:
            return
        own = self._own(new, label_sets_of)
        inherited = self._inherited(new)
        for label in new:
            name = self._names[label] = _Name()
            name.values, name.present = _as_ids(own[label])
            self._add_inherited(name, inherited[label])

    def _own(self, labels: set[str], label_sets_of: array[int]) -> dict[str, dict[str, int | list[int]]]:
        """label -> value -> items that bring it themselves."""
        found: dict[str, dict[str, int | list[int]]] = {label: {} for label in labels}
        positions: dict[int, list[tuple[int, str]]] = {}
        shared: dict[int, tuple[list[int], ...]] = {}
        """Label sets that several items have -> where these items belong."""
        shapes, uses = self._label_sets.shape_of, self._label_sets.uses
        for item in self.all:
            label_set = label_sets_of[item]
            known = shared.get(label_set)
            if known is None:
                shape = shapes[label_set]
                where = positions.get(id(shape))
                if where is None:
                    where = [(at, label) for at, label in enumerate(shape.names) if label in labels]
                    positions[id(shape)] = where
                values = self._label_sets.values(label_set) if where else []
                if uses[label_set] == 1:
                    for at, label in where:
                        _append(found[label], values[at], item)
                    continue
                known = shared[label_set] = tuple(_list_of(found[label], values[at]) for at, label in where)
            for items in known:
                items.append(item)
        return found

    def _inherited(self, labels: set[str]) -> dict[str, dict[str, int | list[int]]]:
        """label -> value -> contexts that give it."""
        found: dict[str, dict[str, int | list[int]]] = {label: {} for label in labels}
        for context in self._contexts.live():
            given = self._contexts.uncached_labels(context)
            for label, by_value in found.items():
                value = given.get(label)
                if value is not None:
                    _append(by_value, value, context)
        return found

    def _add_inherited(self, name: _Name, contexts: dict[str, int | list[int]]) -> None:
        """Own labels shadow inherited ones."""
        own, items_of = name.present.copy(), self._contexts.items
        present: list[int] = []
        for value, found in contexts.items():
            ids: Ids = None
            for context in (found,) if isinstance(found, int) else found:
                ids = _joined(ids, items_of[context])
            if isinstance(ids, int):
                ids = None if ids in own else ids
            elif ids is not None:
                ids -= own
            if not isinstance(ids, int) and not ids:
                continue
            present += each(ids)
            name.values[value] = _joined(_joined(None, name.values.get(value)), ids)
        name.present |= BitMap(present)

    def forget(self, labels: Iterable[str]) -> None:
        """No selector asks about these any more."""
        for label in labels:
            self._names.pop(label, None)

    def match(self, node: Node) -> BitMap:
        """Items that ``node`` matches, as a bitmap of the caller's own. Its labels must have been required."""
        found = self._match(node)
        return found.copy() if self._is_kept(node) else found

    @staticmethod
    def _is_kept(node: Node) -> bool:
        return isinstance(node, All | Global | Has | Equals)

    def _match(self, node: Node) -> BitMap:
        """Result may be a bitmap that is kept here: callers must not change it."""
        match node:
            case All() | Global():
                return self.all
            case Has(label):
                return self._names[label].present
            case Equals(label, value):
                return as_bitmap(self._names[label].values.get(value))
            case NotEquals(label, value):
                return self.all - as_bitmap(self._names[label].values.get(value))
            case In(label, values):
                return self._any_of(label, values)
            case NotIn(label, values):
                return self.all - self._any_of(label, values)
            case Contains(label, part):
                return self._where(label, lambda value: part in value)
            case StartsWith(label, part):
                return self._where(label, lambda value: value.startswith(part))
            case EndsWith(label, part):
                return self._where(label, lambda value: value.endswith(part))
            case Not(operand):
                return self.all - self._match(operand)
            case Or(operands):
                return BitMap.union(*map(self._match, operands))
            case And(operands):
                return self._conjunction(operands)

    def _conjunction(self, operands: tuple[Node, ...]) -> BitMap:
        """Positive terms first, so that negated ones take away from something small."""
        found: BitMap | None = None
        for operand in operands:
            if not isinstance(operand, Not | NotEquals | NotIn):
                part = self._match(operand)
                found = part if found is None else found & part
        for operand in operands:
            match operand:
                case Not(inner):
                    part = self._match(inner)
                case NotEquals(label, value):
                    part = as_bitmap(self._names[label].values.get(value))
                case NotIn(label, values):
                    part = self._any_of(label, values)
                case _:
                    continue
            found = (self.all if found is None else found) - part
        return self.all if found is None else found

    def _any_of(self, label: str, values: Iterable[str]) -> BitMap:
        have = self._names[label].values
        return _union([have.get(value) for value in values])

    def _where(self, label: str, test: Callable[[str], bool]) -> BitMap:
        return _union([ids for value, ids in self._names[label].values.items() if test(value)])


def _append(found: dict[str, int | list[int]], value: str, item: int) -> None:
    """Most values of a label with many are had by one: no list is made for those."""
    have = found.get(value)
    if have is None:
        found[value] = item
    elif isinstance(have, int):
        found[value] = [have, item]
    else:
        have.append(item)


def _list_of(found: dict[str, int | list[int]], value: str) -> list[int]:
    have = found.get(value)
    if not isinstance(have, list):
        have = found[value] = [] if have is None else [have]
    return have


def _as_ids(found: dict[str, int | list[int]]) -> tuple[dict[str, Ids], BitMap]:
    """The same mapping with its lists made bitmaps, in place; and all items in it."""
    result: dict[str, Ids] = found  # type: ignore[assignment]
    items: list[int] = []
    for value, have in found.items():
        if isinstance(have, int):
            items.append(have)
        else:
            items += have
            result[value] = BitMap(have)
    return result, BitMap(items)


def _joined(ids: Ids, more: Ids) -> Ids:
    """Both together; a bitmap in the result is not one of ``more``."""
    if more is None:
        return ids
    if isinstance(more, int):
        return with_id(ids, more)
    return as_bitmap(ids) | more


def _union(parts: Iterable[Ids]) -> BitMap:
    single = [ids for ids in parts if isinstance(ids, int)]
    many = [ids for ids in parts if isinstance(ids, BitMap)]
    return BitMap.union(BitMap(single), *many)


def labels_of(node: Node) -> set[str]:
    """Labels that a tree mentions."""
    match node:
        case All() | Global():
            return set()
        case Not(operand):
            return labels_of(operand)
        case And(operands) | Or(operands):
            return set().union(*map(labels_of, operands))
        case _:
            return {node.label}
