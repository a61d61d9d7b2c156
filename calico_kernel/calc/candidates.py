"""Which selectors may match these labels: an index by what each selector demands of single labels.

In:   selectors with their restrictions.   Out: a superset of the selectors that match a label mapping, each once.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from calico_kernel.selector import LabelRestriction

T = TypeVar("T", bound=Hashable)

_Bucket = Any
"""None, the only entry, or a dict of entries: most values are demanded by one selector."""


class _Name(Generic[T]):
    __slots__ = ("by_value", "wild")

    def __init__(self) -> None:
        self.wild: dict[T, None] = {}
        self.by_value: dict[str, _Bucket] = {}


class Candidates(Generic[T]):
    """Entries are indexed under their most restrictive label: fewest values, else "must be present"."""

    def __init__(self) -> None:
        self._names: dict[str, _Name[T]] = {}
        self._unindexed: dict[T, None] = {}

    def add(self, entry: T, restrictions: Mapping[str, LabelRestriction]) -> None:
        """Index ``entry``; one that can match nothing is left out. ``remove`` needs the same restrictions."""
        label, values = _tightest(restrictions)
        if values == ():
            return
        if label is None:
            self._unindexed[entry] = None
            return
        name = self._names.get(label)
        if name is None:
            name = self._names[label] = _Name()
        if values is None:
            name.wild[entry] = None
            return
        for value in values:
            bucket = name.by_value.get(value)
            if bucket is None:
                name.by_value[value] = entry
            elif type(bucket) is dict:
                bucket[entry] = None
            else:
                name.by_value[value] = {bucket: None, entry: None}

    def remove(self, entry: T, restrictions: Mapping[str, LabelRestriction]) -> None:
        label, values = _tightest(restrictions)
        if values == ():
            return
        if label is None:
            del self._unindexed[entry]
            return
        name = self._names[label]
        if values is None:
            del name.wild[entry]
        else:
            for value in values:
                bucket = name.by_value[value]
                if type(bucket) is dict:
                    del bucket[entry]
                if type(bucket) is not dict or not bucket:
                    del name.by_value[value]
        if not name.wild and not name.by_value:
            del self._names[label]

    def find(self, labels: Mapping[str, str]) -> Iterator[T]:
        """Every entry that may match ``labels``, each once."""
        yield from self._unindexed
        names = self._names
        for label, value in labels.items():
            name = names.get(label)
            if name is None:
                continue
            yield from name.wild
            bucket = name.by_value.get(value)
            if bucket is not None:
                if type(bucket) is dict:
                    yield from bucket
                else:
                    yield bucket

    @property
    def unindexed(self) -> int:
        """How many entries are candidates for everything."""
        return len(self._unindexed)


def _tightest(restrictions: Mapping[str, LabelRestriction]) -> tuple[str | None, tuple[str, ...] | None]:
    """(label, values): values None for "any value"; (None, None) for no useful restriction; (_, ()) for impossible."""
    best: tuple[float, str, tuple[str, ...] | None] | None = None
    for label, restriction in restrictions.items():
        if not restriction.satisfiable:
            return label, ()
        if not restriction.present:
            continue
        values = restriction.values
        score = (float("inf") if values is None else len(values), label, values)
        if best is None or score[:2] < best[:2]:
            best = score
    return (None, None) if best is None else (best[1], best[2])
