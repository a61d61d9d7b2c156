"""When to distrust what was observed and read it again. Pure: the time is passed in, in seconds of any clock."""

from __future__ import annotations

import random


class ResyncTimer:
    """Due at once, then ``interval_s`` (less up to a tenth, so that many nodes do not read at once) after each read.

    ``interval_s`` 0: only when asked for by ``demand``.
    """

    def __init__(self, interval_s: float, *, rng: random.Random | None = None) -> None:
        self._interval_s = interval_s
        self._rng = rng or random.Random()
        self._due: float = float("-inf")

    def set_interval(self, interval_s: float, now: float) -> None:
        """A new interval counts from now; a read that is due stays due."""
        if interval_s != self._interval_s:
            self._interval_s = interval_s
            if self._due > now:
                self.done(now)

    def demand(self) -> None:
        self._due = float("-inf")

    def is_due(self, now: float) -> bool:
        return now >= self._due

    def done(self, now: float) -> None:
        """It was read."""
        wait = self._interval_s * (1.0 - 0.1 * self._rng.random())
        self._due = now + wait if self._interval_s else float("inf")

    def wait_s(self, now: float) -> float | None:
        """Seconds until it is due, None for never."""
        return None if self._due == float("inf") else max(self._due - now, 0.0)


class SettlingCheck:
    """A second look soon after a write, at growing distance while nothing is found: others who write at the same time
    show themselves within seconds, if at all."""

    def __init__(self, first_s: float, *, most_s: float = 3600.0) -> None:
        self._first_s, self._most_s = first_s, most_s
        self._wait_s = 0.0
        self._due = float("inf")

    def wrote(self, now: float, first_s: float | None = None) -> None:
        """``first_s``: a new distance of the first look; 0 for none."""
        self._first_s = self._first_s if first_s is None else first_s
        self._wait_s = self._first_s
        self._due = now + self._wait_s if self._wait_s else float("inf")

    def is_due(self, now: float) -> bool:
        return now >= self._due

    def looked(self, now: float) -> None:
        """It was read, for whatever reason."""
        if self.is_due(now):
            self._wait_s = min(self._wait_s * 2, self._most_s)
            self._due = now + self._wait_s

    def wait_s(self, now: float) -> float | None:
        return None if self._due == float("inf") else max(self._due - now, 0.0)
