"""Labels held compactly: what endpoints have in common is stored once.

A *label set* is the own labels of an endpoint: its names are a shape (shared by all with the same names in the same
order), its values one text. A *context* is what an endpoint inherits: the labels that follow from its identity
(namespace, orchestrator, service account) and those of its profiles. Both are counted, and forgotten when unused.

In:   labels of endpoints, network sets and profiles.   Out: ids for ``items``; label mappings for selectors.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping

import msgspec
from pyroaring import BitMap

from calico_kernel.model.wellknown import NAMESPACE_LABEL, ORCHESTRATOR_LABEL, SERVICE_ACCOUNT_LABEL

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
        self.uses = array("I", [1])
        """How many items have each label set."""
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
            self.uses[found] += 1
            return found
        if values.count(_SEPARATOR) != len(names) - 1:
            raise ValueError("a label value holds a NUL character")
        if self._free:
            new = self._free.pop()
            self.shape_of[new], self.values_of[new], self.uses[new] = shape, values, 1
        else:
            new = len(self.uses)
            self.shape_of.append(shape)
            self.values_of.append(values)
            self.uses.append(1)
        shape.ids[values] = new
        return new

    def give(self, label_set: int) -> None:
        """Use it once less."""
        if not label_set:
            return
        self.uses[label_set] -= 1
        if not self.uses[label_set]:
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


class Contexts:
    """Interned contexts in parallel columns, and the profiles' labels that they merge."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._keys: list[str] = []
        """What a context is, as one text; "" for an id that is free."""
        self._uses = array("I")
        self.items: list[Ids] = []
        """Which items have the context; kept by ``calc.items``."""
        self._free: list[int] = []
        self._profiles: dict[str, int] = {}
        self._profile_labels: list[bytes | None] = []
        """Encoded labels; None for a profile that is named somewhere but unknown."""
        self._profile_contexts: list[Ids] = []
        self._free_profiles: list[int] = []
        self._merged: dict[int, Mapping[str, str]] = {}
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(dict[str, str]).decode

    def take(self, key: ContextKey) -> int:
        """The id of this inheritance, used once more. Raises ValueError for a name with a NUL."""
        text = _SEPARATOR.join((*key[:3], *key[3]))
        found = self._ids.get(text)
        if found is not None:
            self._uses[found] += 1
            return found
        if text.count(_SEPARATOR) != 2 + len(key[3]):
            raise ValueError("a name holds a NUL character")
        if self._free:
            new = self._free.pop()
            self._keys[new], self._uses[new] = text, 1
        else:
            new = len(self._keys)
            self._keys.append(text)
            self._uses.append(1)
            self.items.append(None)
        self._ids[text] = new
        for profile in key[3]:
            at = self._profile(profile)
            self._profile_contexts[at] = with_id(self._profile_contexts[at], new)
        return new

    def give(self, context: int) -> None:
        """Use it once less."""
        self._uses[context] -= 1
        if self._uses[context]:
            return
        text = self._keys[context]
        for profile in set(text.split(_SEPARATOR)[3:]):
            at = self._profiles[profile]
            self._profile_contexts[at] = without_id(self._profile_contexts[at], context)
            self._forget_unused_profile(profile)
        del self._ids[text]
        self._merged.pop(context, None)
        self._keys[context], self.items[context] = "", None
        self._free.append(context)

    def live(self) -> Iterable[int]:
        return self._ids.values()

    def labels(self, context: int) -> Mapping[str, str]:
        """What is inherited: identity first, then the first profile that has the label."""
        merged = self._merged.get(context)
        if merged is None:
            if len(self._merged) > 4096:  # a cache for those that change, never one entry for each namespace
                self._merged.clear()
            merged = self._merged[context] = self.uncached_labels(context)
        return merged

    def uncached_labels(self, context: int) -> dict[str, str]:
        """As ``labels``, for a scan over all contexts."""
        namespace, orchestrator, service_account, *profiles = self._keys[context].split(_SEPARATOR)
        merged: dict[str, str] = {}
        for profile in reversed(profiles):
            encoded = self._profile_labels[self._profiles[profile]]
            if encoded:
                merged.update(self._decode(encoded))
        if namespace:
            merged[NAMESPACE_LABEL] = namespace
        if orchestrator:
            merged[ORCHESTRATOR_LABEL] = orchestrator
        if service_account:
            merged[SERVICE_ACCOUNT_LABEL] = service_account
        return merged

    def with_profile(self, profile: str) -> list[int]:
        """Contexts that inherit from ``profile``."""
        at = self._profiles.get(profile)
        return [] if at is None else list(each(self._profile_contexts[at]))

    def knows_profile(self, profile: str) -> bool:
        """Whether the profile exists."""
        at = self._profiles.get(profile)
        return at is not None and self._profile_labels[at] is not None

    @property
    def profiles(self) -> int:
        """How many profiles exist."""
        return sum(labels is not None for labels in self._profile_labels)

    def gives(self, profile: str, labels: Mapping[str, str] | None) -> bool:
        """Whether the profile is known to give exactly these labels (None: to be absent)."""
        at = self._profiles.get(profile)
        known = None if at is None else self._profile_labels[at]
        return known == self._encoded(labels)

    def set_profile(self, profile: str, labels: Mapping[str, str] | None) -> None:
        """Replace a profile's labels; None: it is gone."""
        encoded = self._encoded(labels)
        if encoded is None and profile not in self._profiles:
            return
        self._profile_labels[self._profile(profile)] = encoded
        for context in self.with_profile(profile):
            self._merged.pop(context, None)
        self._forget_unused_profile(profile)

    def _encoded(self, labels: Mapping[str, str] | None) -> bytes | None:
        if labels is None:
            return None
        return self._encode(labels) if labels else b""

    def _profile(self, profile: str) -> int:
        at = self._profiles.get(profile)
        if at is None:
            if self._free_profiles:
                at = self._free_profiles.pop()
            else:
                at = len(self._profile_labels)
                self._profile_labels.append(None)
                self._profile_contexts.append(None)
            self._profiles[profile] = at
        return at

    def _forget_unused_profile(self, profile: str) -> None:
        at = self._profiles[profile]
        if self._profile_labels[at] is None and self._profile_contexts[at] is None:
            del self._profiles[profile]
            self._free_profiles.append(at)
