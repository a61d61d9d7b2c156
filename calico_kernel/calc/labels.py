"""Labels held compactly: what endpoints have in common is stored once.

A *label set* is the own labels of an endpoint: its names are a shape (shared by all with the same names in the same
order), its values one text. A *context* is what an endpoint inherits: the labels that follow from its identity
(namespace, orchestrator, service account) and those of its profiles. Both are counted, and forgotten when unused.

In:   labels of endpoints, network sets and profiles.   Out: ids for ``items``; label mappings for selectors.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping

from pyroaring import BitMap

Ids = int | BitMap | None
"""A set of item ids: None, the only one, or a bitmap. Most sets that are kept hold one."""

_SEPARATOR = "\0"

EMPTY: Mapping[str, str] = {}


def with_id(ids: Ids, item: int) -> Ids:
    """``ids`` with ``item`` added; changes a bitmap in place."""
    if ids is None:
        return item
    if isinstance(ids, int):
        return ids if ids == item else BitMap((ids, item))
    ids.add(item)
    return ids


def without_id(ids: Ids, item: int) -> Ids:
    """``ids`` with ``item`` taken out; changes a bitmap in place."""
    if ids is None or isinstance(ids, int):
        return None if ids == item else ids
    ids.discard(item)
    return ids or None


def as_bitmap(ids: Ids) -> BitMap:
    """``ids`` as a bitmap, which the caller must not change."""
    if ids is None:
        return BitMap()
    return BitMap((ids,)) if isinstance(ids, int) else ids


def each(ids: Ids) -> Iterator[int]:
    if isinstance(ids, int):
        yield ids
    elif ids is not None:
        yield from ids


class Shape:
    """Label names in one order, and the label sets that have them, by their values."""

    __slots__ = ("ids", "names")

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.ids: dict[str, int] = {}


class LabelSets:
    """Interned label sets. Id 0 is the empty one and always there."""

    def __init__(self) -> None:
        empty = Shape(())
        self._shapes: dict[tuple[str, ...], Shape] = {(): empty}
        self.shape_of: list[Shape] = [empty]
        self.values_of: list[str] = [""]
        self._uses = array("I", [1])
        self._free: list[int] = []
        empty.ids[""] = 0

    def take(self, labels: Mapping[str, str]) -> int:
        """The id of ``labels``, used once more. Raises ValueError for a value with a NUL."""
        if not labels:
            return 0
        names = tuple(labels)
        shape = self._shapes.get(names)
        if shape is None:
            shape = self._shapes[names] = Shape(names)
        values = _SEPARATOR.join(labels.values())
        found = shape.ids.get(values)
        if found is not None:
            self._uses[found] += 1
            return found
        if values.count(_SEPARATOR) != len(names) - 1:
            raise ValueError("a label value holds a NUL character")
        if self._free:
            new = self._free.pop()
            self.shape_of[new], self.values_of[new], self._uses[new] = shape, values, 1
        else:
            new = len(self._uses)
            self.shape_of.append(shape)
            self.values_of.append(values)
            self._uses.append(1)
        shape.ids[values] = new
        return new

    def give(self, label_set: int) -> None:
        """Use it once less."""
        if not label_set:
            return
        self._uses[label_set] -= 1
        if not self._uses[label_set]:
            shape = self.shape_of[label_set]
            del shape.ids[self.values_of[label_set]]
            if not shape.ids:
                del self._shapes[shape.names]
            self.shape_of[label_set], self.values_of[label_set] = self.shape_of[0], ""
            self._free.append(label_set)

    def labels(self, label_set: int) -> Mapping[str, str]:
        if not label_set:
            return EMPTY
        return dict(zip(self.shape_of[label_set].names, self.values_of[label_set].split(_SEPARATOR), strict=True))

    def values(self, label_set: int) -> list[str]:
        """Values in the order of the shape's names."""
        return self.values_of[label_set].split(_SEPARATOR)


ContextKey = tuple[str, str, str, tuple[str, ...]]
"""(namespace, orchestrator, service account, profile names); "" where the item has none."""

NAMESPACE = "projectcalico.org/namespace"
ORCHESTRATOR = "projectcalico.org/orchestrator"
SERVICE_ACCOUNT = "projectcalico.org/serviceaccount"


class Context:
    """One distinct inheritance, and the items that have it."""

    __slots__ = ("items", "key", "uses")

    def __init__(self, key: ContextKey) -> None:
        self.key = key
        self.items: Ids = None
        self.uses = 0


class Contexts:
    """Interned contexts, and the profiles' labels that they merge."""

    def __init__(self, label_sets: LabelSets) -> None:
        self._label_sets = label_sets
        self._by_key: dict[ContextKey, int] = {}
        self.all: list[Context] = []
        self._free: list[int] = []
        self._of_profile: dict[str, Ids] = {}
        self._profile_labels: dict[str, int] = {}
        self._merged: dict[int, Mapping[str, str]] = {}

    def take(self, key: ContextKey) -> int:
        """The id of this inheritance, used once more."""
        found = self._by_key.get(key)
        if found is None:
            if self._free:
                found = self._free.pop()
                self.all[found] = Context(key)
            else:
                found = len(self.all)
                self.all.append(Context(key))
            self._by_key[key] = found
            for profile in key[3]:
                self._of_profile[profile] = with_id(self._of_profile.get(profile), found)
        self.all[found].uses += 1
        return found

    def give(self, context_id: int) -> None:
        """Use it once less."""
        context = self.all[context_id]
        context.uses -= 1
        if not context.uses:
            del self._by_key[context.key]
            self._merged.pop(context_id, None)
            for profile in set(context.key[3]):
                rest = without_id(self._of_profile[profile], context_id)
                if rest is None:
                    del self._of_profile[profile]
                else:
                    self._of_profile[profile] = rest
            self._free.append(context_id)

    def labels(self, context_id: int) -> Mapping[str, str]:
        """What is inherited: identity first, then the first profile that has the label."""
        merged = self._merged.get(context_id)
        if merged is None:
            if len(self._merged) > 4096:  # a cache for those that change, never one entry for each namespace
                self._merged.clear()
            merged = self._merged[context_id] = self._merge(self.all[context_id])
        return merged

    def _merge(self, context: Context) -> Mapping[str, str]:
        namespace, orchestrator, service_account, profiles = context.key
        merged: dict[str, str] = {}
        for profile in reversed(profiles):
            merged.update(self._label_sets.labels(self._profile_labels.get(profile, 0)))
        if namespace:
            merged[NAMESPACE] = namespace
        if orchestrator:
            merged[ORCHESTRATOR] = orchestrator
        if service_account:
            merged[SERVICE_ACCOUNT] = service_account
        return merged

    def uncached_labels(self, context_id: int) -> Mapping[str, str]:
        """As ``labels``, for a scan over all contexts."""
        merged = self._merged.get(context_id)
        return self._merge(self.all[context_id]) if merged is None else merged

    def with_profile(self, profile: str) -> list[int]:
        """Contexts that inherit from ``profile``."""
        return list(each(self._of_profile.get(profile)))

    def profile_labels(self, profile: str) -> int:
        """The label set of a profile; 0 for one that is unknown."""
        return self._profile_labels.get(profile, 0)

    def set_profile_labels(self, profile: str, label_set: int) -> None:
        """Replace a profile's labels; ``label_set`` was taken for this and the old one is given back."""
        self._label_sets.give(self._profile_labels.pop(profile, 0))
        if label_set:
            self._profile_labels[profile] = label_set
        for context_id in self.with_profile(profile):
            self._merged.pop(context_id, None)
