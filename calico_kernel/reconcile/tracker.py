"""Desired against observed, kept as a difference: what has to be written is known without comparing everything.

In:   changes of what is wanted, and what was seen outside.   Out: pending upserts and removes. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class DeltaTracker(Generic[K, V]):
    """Each change costs O(1); nothing that is equal on both sides is ever pending.

    ``equal`` decides whether an observed value will do for the desired one (default ``==``): what is read back often
    holds more than what was written.
    """

    def __init__(self, equal: Callable[[V, V], bool] = lambda wanted, seen: wanted == seen) -> None:
        self._equal = equal
        self._desired: dict[K, V] = {}
        self._observed: dict[K, V] = {}
        self._upserts: dict[K, V] = {}
        self._removes: dict[K, V] = {}

    @property
    def desired(self) -> Mapping[K, V]:
        return self._desired

    @property
    def observed(self) -> Mapping[K, V]:
        return self._observed

    @property
    def upserts(self) -> Mapping[K, V]:
        """To be written: key -> desired value."""
        return self._upserts

    @property
    def removes(self) -> Mapping[K, V]:
        """To be removed: key -> observed value."""
        return self._removes

    def __bool__(self) -> bool:
        """Is anything pending?"""
        return bool(self._upserts or self._removes)

    # ── what is wanted ────────────────────────────────────────────────────────────────────────────────────────────────

    def want(self, key: K, value: V) -> None:
        self._desired[key] = value
        self._compare(key)

    def unwant(self, key: K) -> None:
        """Want it gone; a key that was not wanted is fine."""
        self._desired.pop(key, None)
        self._compare(key)

    def want_exactly(self, desired: Mapping[K, V]) -> None:
        """The whole desired state; what it does not name is to go."""
        for key in [key for key in self._desired if key not in desired]:
            self.unwant(key)
        for key, value in desired.items():
            self.want(key, value)

    # ── what is there ─────────────────────────────────────────────────────────────────────────────────────────────────

    def saw(self, key: K, value: V) -> None:
        """It is there: read back, or written successfully."""
        self._observed[key] = value
        self._compare(key)

    def saw_gone(self, key: K) -> None:
        self._observed.pop(key, None)
        self._compare(key)

    def saw_exactly(self, observed: Mapping[K, V]) -> bool:
        """The whole observed state, after a full read. True when it differs from what was believed."""
        gone = [key for key in self._observed if key not in observed]
        different = bool(gone)
        for key in gone:
            self.saw_gone(key)
        for key, value in observed.items():
            if key not in self._observed or self._observed[key] != value:
                different = True
                self.saw(key, value)
        return different

    # ── carrying it out ───────────────────────────────────────────────────────────────────────────────────────────────

    def carry_out(
        self, write: Callable[[K, V], None], remove: Callable[[K, V], None], failure: type[Exception]
    ) -> dict[K, Exception]:
        """Try everything pending, removes first; an exception of type ``failure`` is kept for its key and stops no
        other. Returns what failed; the rest counts as observed."""
        failed: dict[K, Exception] = {}
        for key, value in list(self._removes.items()):
            try:
                remove(key, value)
            except failure as exc:
                failed[key] = exc
                continue
            self.saw_gone(key)
        for key, value in list(self._upserts.items()):
            try:
                write(key, value)
            except failure as exc:
                failed[key] = exc
                continue
            self.saw(key, value)
        return failed

    def _compare(self, key: K) -> None:
        wanted, seen = key in self._desired, key in self._observed
        if wanted and not (seen and self._equal(self._desired[key], self._observed[key])):
            self._upserts[key] = self._desired[key]
        else:
            self._upserts.pop(key, None)
        if seen and not wanted:
            self._removes[key] = self._observed[key]
        else:
            self._removes.pop(key, None)
