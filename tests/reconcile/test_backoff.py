"""Back-off doubles, stays under its cap and starts over."""

from __future__ import annotations

import random

from calico_kernel.reconcile.backoff import Backoff


def test_waits_double_up_to_the_cap_less_a_quarter_at_most() -> None:
    backoff = Backoff(first_s=0.1, most_s=1.0, rng=random.Random(7))
    for full in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0):
        assert full * 0.75 <= backoff.next_s() <= full
    assert backoff.failures == 6


def test_reset_starts_over() -> None:
    backoff = Backoff(first_s=1.0, most_s=8.0)
    for _ in range(3):
        backoff.next_s()
    backoff.reset()
    assert backoff.next_s() <= 1.0


def test_thousands_of_failures_do_not_overflow() -> None:
    backoff = Backoff(first_s=1.0, most_s=8.0)
    assert max(backoff.next_s() for _ in range(5000)) <= 8.0
