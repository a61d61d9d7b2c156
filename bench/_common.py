"""What the benchmarks share: going on in a bubble, and printing one JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from calico_kernel.host import bubble


def enter_bubble(command: str, argv: Sequence[str]) -> None:
    """Go on in a bubble: returns only there."""
    if not bubble.inside():
        bubble.enter([sys.executable, "-m", "bench", command, *argv])


def report(result: dict[str, Any], *, as_json: bool) -> None:
    """One JSON object, or a line for each value."""
    if as_json:
        print(json.dumps(result))
        return
    width = max(map(len, result))
    for key, value in result.items():
        print(f"{key:{width}}  {value}")
