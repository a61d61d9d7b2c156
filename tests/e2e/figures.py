"""What the tests measure on the way, printed at the end. Nothing is asserted of it: the machine may be busy."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

_lines: list[tuple[str, str]] = []


def note(what: str, value: str) -> None:
    _lines.append((what, value))


def note_spread(what: str, values_ms: Sequence[float]) -> None:
    if values_ms:
        found = " ".join(f"p{share} {percentile(values_ms, share):.0f}" for share in (50, 90, 99))
        note(what, f"{found} max {max(values_ms):.0f} ms ({len(values_ms)})")


def percentile(values: Sequence[float], share: int) -> float:
    """The least value that ``share`` per cent of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)]


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    started_s = time.monotonic()
    yield
    note(what, f"{time.monotonic() - started_s:.1f} s")


def table() -> list[str]:
    width = max((len(what) for what, _ in _lines), default=0)
    return [f"{what:<{width}}  {value}" for what, value in _lines]
