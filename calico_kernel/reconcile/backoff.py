"""How long to wait before trying again: doubling, capped, with jitter so that many nodes do not return at once."""

from __future__ import annotations

import random


class Backoff:
    """``next_s`` gives first_s, 2 x first_s, ... up to most_s, each less up to a quarter; ``reset`` starts over.

    Pure: it sleeps nowhere and reads no clock. Not thread-safe.
    """

    def __init__(self, *, first_s: float, most_s: float, rng: random.Random | None = None) -> None:
        self._first_s, self._most_s = first_s, most_s
        self._rng = rng or random.Random()
        self._failures = 0

    @property
    def failures(self) -> int:
        """Times asked since the last reset."""
        return self._failures

    def next_s(self) -> float:
        full = min(self._first_s * 2.0 ** min(self._failures, 60), self._most_s)
        self._failures += 1
        return full * (1.0 - 0.25 * self._rng.random())

    def reset(self) -> None:
        self._failures = 0
