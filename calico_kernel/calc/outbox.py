"""One map of NodeState on its way out: remembers what was given out, so that only real changes are.

In:   values as they are calculated, as often as that happens.   Out: one ``MapDelta`` for what differs since the last.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from calico_kernel.model.nodestate import MapDelta

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Outbox(Generic[K, V]):
    def __init__(self) -> None:
        self.given: dict[K, V] = {}
        self._pending: dict[K, V | None] = {}

    def set(self, key: K, value: V | None) -> None:
        """The value is this now; None for absent."""
        self._pending[key] = value

    def take(self) -> MapDelta[K, V]:
        if not self._pending:
            return MapDelta()
        upserts: dict[K, V] = {}
        removes: list[K] = []
        for key, value in self._pending.items():
            if value is None:
                if self.given.pop(key, None) is not None:
                    removes.append(key)
            elif key not in self.given or self.given[key] != value:
                self.given[key] = upserts[key] = value
        self._pending = {}
        return MapDelta(upserts=upserts, removes=removes)
