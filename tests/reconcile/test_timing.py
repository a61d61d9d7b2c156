"""Retry and resync bookkeeping, with the time passed in."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from calico_kernel.reconcile.ownership import ContentMark, NameMark, NumberMark
from calico_kernel.reconcile.resync import ResyncTimer, SettlingCheck
from calico_kernel.reconcile.retry import RetryBook


def test_key_that_fails_again_waits_longer_up_to_the_cap() -> None:
    book: RetryBook[str] = RetryBook(first_s=1.0, most_s=8.0, rng=random.Random(1))
    waits = [book.failed("a", 100.0) - 100.0 for _ in range(6)]
    assert all(0.75 * full <= wait <= full for wait, full in zip(waits, (1, 2, 4, 8, 8, 8), strict=True))
    assert not book.may_try("a", 100.0)
    assert book.may_try("a", 108.0)
    assert book.may_try("b", 100.0)


def test_key_that_succeeds_starts_over() -> None:
    book: RetryBook[str] = RetryBook(first_s=1.0, most_s=8.0)
    error = OSError("no")
    book.failed("a", 0.0, error)
    book.failed("a", 0.0, error)
    assert book.errors() == {"a": error}
    book.succeeded("a")
    assert book.next_due() is None and len(book) == 0
    assert book.failed("a", 10.0) <= 11.0


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.floats(0, 5)), max_size=30))
def test_next_due_is_the_first_of_all_failed_keys(events: list[tuple[int, bool, float]]) -> None:
    book: RetryBook[int] = RetryBook(first_s=0.5, most_s=4.0)
    now, due = 0.0, {}
    for key, fails, passed in events:
        now += passed
        if fails:
            due[key] = book.failed(key, now)
        else:
            book.succeeded(key)
            due.pop(key, None)
    assert book.next_due() == (min(due.values()) if due else None)
    assert len(book) == len(due)


def test_resync_is_due_at_once_and_then_after_its_interval() -> None:
    timer = ResyncTimer(10.0)
    assert timer.is_due(0.0)
    timer.done(100.0)
    wait = timer.wait_s(100.0)
    assert wait is not None and 9.0 <= wait <= 10.0
    assert not timer.is_due(108.9)
    assert timer.is_due(110.0)
    timer.done(200.0)
    timer.demand()
    assert timer.is_due(200.0)


def test_resync_without_interval_waits_for_demand() -> None:
    timer = ResyncTimer(0.0)
    timer.done(1.0)
    assert timer.wait_s(1.0) is None and not timer.is_due(1e9)
    timer.set_interval(5.0, 2.0)
    assert timer.is_due(7.0)


def test_look_after_a_write_moves_out_while_nothing_is_found() -> None:
    check = SettlingCheck(5.0, most_s=30.0)
    assert check.wait_s(0.0) is None
    check.wrote(0.0)
    waits, now = [], 0.0
    for _ in range(5):
        wait = check.wait_s(now)
        assert wait is not None
        waits.append(wait)
        now += wait
        check.looked(now)
    assert waits == [5.0, 10.0, 20.0, 30.0, 30.0]
    check.wrote(now, 0.0)
    assert check.wait_s(now) is None


@given(st.lists(st.text(max_size=5), min_size=1, max_size=4), st.text(max_size=5))
def test_content_mark_is_found_again_and_depends_on_every_part(parts: list[str], other: str) -> None:
    mark = ContentMark("cali:")
    made = mark.mark(*parts)
    assert mark.find(f'-A x --comment "{made}" -j DROP') == made
    if other != parts[-1]:
        assert mark.mark(*parts[:-1], other) != made
    assert mark.mark("a", "b") != mark.mark("ab")


def test_marks_tell_ours_from_theirs() -> None:
    assert list(NameMark(("cali-",)).ours(["cali-pi-x", "KUBE-FORWARD"])) == ["cali-pi-x"]
    assert NumberMark(frozenset({80})).owns(80) and not NumberMark(frozenset({80})).owns(3)
    assert ContentMark("cali:").find("cali:short") == ""
