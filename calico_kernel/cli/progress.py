"""How far a long work has come: on a terminal, and nowhere else."""

from __future__ import annotations

import sys
import time
from types import TracebackType

WORTH_SHOWING = 50
PAUSE_S = 0.1


class Progress:
    """``120 of 1000 applied`` on one line of standard error, which is gone at the end."""

    def __init__(self, total: int, what: str, *, least: int = WORTH_SHOWING) -> None:
        self._total, self._what, self._count = total, what, 0
        self._shown = total >= least and sys.stderr.isatty()
        self._next = 0.0

    def step(self) -> None:
        self._count += 1
        if self._shown and time.monotonic() >= self._next:
            self._next = time.monotonic() + PAUSE_S
            print(f"\r{self._count} of {self._total} {self._what}", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
