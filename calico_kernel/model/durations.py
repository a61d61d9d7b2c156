"""Go's durations: ``1m30s``. Calico stores them as text in Go's own form; Felix thinks in seconds."""

from __future__ import annotations

import re

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_MAX_NS = 2**63 - 1


def parse_duration(text: str) -> int:
    """Nanoseconds. Raises ValueError for what Go's ``time.ParseDuration`` refuses."""
    body = text[1:] if text[:1] in ("-", "+") else text
    if body == "0":
        return 0
    total, at = 0, 0
    while at < len(body):
        found = _PART.match(body, at)
        if found is None:
            break
        whole, _, fraction = found[1].partition(".")
        unit = _UNITS_NS[found[2]]
        total += int(whole or "0") * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)
        at = found.end()
    if not body or at != len(body) or total > _MAX_NS:
        raise ValueError(f"{text!r} is not a duration such as 90s, 1m30s or 250ms")
    return -total if text.startswith("-") else total


def format_duration(nanoseconds: int) -> str:
    """The canonical form, as Go prints it: ``1m30s``, ``1.5s``, ``250ms``, ``0s``."""
    if nanoseconds == 0:
        return "0s"
    sign, left = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if left < 1_000_000_000:
        for unit in ("ms", "µs", "ns"):
            if left >= _UNITS_NS[unit]:
                return f"{sign}{_decimal(left, _UNITS_NS[unit])}{unit}"
    minutes, rest = divmod(left, _UNITS_NS["m"])
    seconds = f"{_decimal(rest, _UNITS_NS['s'])}s"
    if minutes == 0:
        return sign + seconds
    hours, minutes = divmod(minutes, 60)
    return f"{sign}{hours}h{minutes}m{seconds}" if hours else f"{sign}{minutes}m{seconds}"


def seconds(text: str) -> float:
    """A duration in seconds."""
    return parse_duration(text) / 1e9


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    if rest == 0:
        return str(whole)
    return f"{whole}.{str(rest).zfill(len(str(unit)) - 1).rstrip('0')}"
