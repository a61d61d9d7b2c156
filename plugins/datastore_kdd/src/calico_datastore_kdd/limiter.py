"""How fast requests may go out: ``qps`` on average, ``burst`` at once."""

from __future__ import annotations

import threading
import time


class Limiter:
    """Thread-safe. Turns are given in the order of asking."""

    def __init__(self, qps: float, burst: int) -> None:
        self._each_s = 1.0 / qps if qps > 0 else 0.0  # 0 and less: no limit, as in Kubernetes' own clients
        self._ahead_s = self._each_s * max(0, burst - 1)
        self._next = 0.0
        self._lock = threading.Lock()

    def take(self, within_s: float) -> bool:
        """Wait for a turn. False, at once, when it would not come ``within_s``; then none was taken."""
        if not self._each_s:
            return True
        with self._lock:
            now = time.monotonic()
            turn = max(self._next, now - self._ahead_s)
            if turn - now > within_s:
                return False
            self._next = turn + self._each_s
        if turn > now:
            time.sleep(turn - now)
        return True
