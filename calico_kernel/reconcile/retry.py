"""Which keys failed, and when each is worth another try. Pure: the time is passed in, in seconds of any clock."""

from __future__ import annotations

import random
from collections.abc import Hashable
from typing import Generic, TypeVar

import attrs

from calico_kernel.reconcile.backoff import Backoff

K = TypeVar("K", bound=Hashable)


@attrs.define
class _Entry:
    backoff: Backoff
    due: float
    error: Exception | None


class RetryBook(Generic[K]):
    """Per-key back-off: doubling from ``first_s`` to ``most_s``, with jitter. A key that succeeds is forgotten."""

    def __init__(self, *, first_s: float = 0.1, most_s: float = 30.0, rng: random.Random | None = None) -> None:
        self._first_s, self._most_s = first_s, most_s
        self._rng = rng or random.Random()
        self._entries: dict[K, _Entry] = {}

    def failed(self, key: K, now: float, error: Exception | None = None) -> float:
        """Note a failure; returns when the key is due again."""
        entry = self._entries.get(key)
        if entry is None:
            backoff = Backoff(first_s=self._first_s, most_s=self._most_s, rng=self._rng)
            entry = self._entries[key] = _Entry(backoff, now, error)
        entry.due, entry.error = now + entry.backoff.next_s(), error
        return entry.due

    def succeeded(self, key: K) -> None:
        self._entries.pop(key, None)

    def may_try(self, key: K, now: float) -> bool:
        """A key that never failed may be tried at once."""
        entry = self._entries.get(key)
        return entry is None or entry.due <= now

    def errors(self) -> dict[K, Exception | None]:
        return {key: entry.error for key, entry in self._entries.items()}

    def next_due(self) -> float | None:
        """When the first of the failed keys is due; None when there is none."""
        return min((entry.due for entry in self._entries.values()), default=None)

    def __len__(self) -> int:
        return len(self._entries)
