"""When to read again, with the time passed in."""

from __future__ import annotations

from calico_kernel.reconcile.resync import ResyncTimer, SettlingCheck


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
