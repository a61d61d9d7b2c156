"""The delta tracker: nothing equal is pending, and any pattern of failures converges."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from calico_kernel.errors import DataplaneError
from calico_kernel.reconcile.tracker import DeltaTracker

KEYS = st.integers(0, 5)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("want"), KEYS, st.integers(0, 3)),
        st.tuples(st.just("unwant"), KEYS, st.just(0)),
        st.tuples(st.just("drift"), KEYS, st.integers(-1, 3)),
        st.tuples(st.just("apply"), st.just(0), st.integers(0, 255)),
        st.tuples(st.just("read"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


class Outside:
    """Something that keeps values and refuses writes by a pattern of bits."""

    def __init__(self) -> None:
        self.values: dict[int, int] = {}
        self.refusals = 0

    def _attempt(self) -> None:
        refused, self.refusals = self.refusals & 1, self.refusals >> 1
        if refused:
            raise DataplaneError(what="refused", todo="try again")

    def write(self, key: int, value: int) -> None:
        self._attempt()
        self.values[key] = value

    def remove(self, key: int, _value: int) -> None:
        self._attempt()
        self.values.pop(key, None)


@given(STEPS)
def test_any_pattern_of_changes_drift_and_failures_converges(steps: list[tuple[str, int, int]]) -> None:
    tracker: DeltaTracker[int, int] = DeltaTracker()
    outside, desired = Outside(), {}
    for step, key, value in steps:
        if step == "want":
            tracker.want(key, value)
            desired[key] = value
        elif step == "unwant":
            tracker.unwant(key)
            desired.pop(key, None)
        elif step == "drift":
            if value < 0:
                outside.values.pop(key, None)
            else:
                outside.values[key] = value
        elif step == "read":
            tracker.saw_exactly(dict(outside.values))
        else:
            outside.refusals = value
            failed = tracker.carry_out(outside.write, outside.remove, DataplaneError)
            assert set(failed) == tracker.upserts.keys() | tracker.removes.keys()
    tracker.saw_exactly(dict(outside.values))
    outside.refusals = 0
    assert tracker.carry_out(outside.write, outside.remove, DataplaneError) == {}
    assert outside.values == desired
    assert not tracker


@given(st.dictionaries(KEYS, st.integers(0, 2)), st.dictionaries(KEYS, st.integers(0, 2)))
def test_pending_is_exactly_the_difference(desired: dict[int, int], observed: dict[int, int]) -> None:
    tracker: DeltaTracker[int, int] = DeltaTracker()
    tracker.saw_exactly(observed)
    tracker.want_exactly(desired)
    assert tracker.upserts == {k: v for k, v in desired.items() if observed.get(k) != v}
    assert set(tracker.removes) == observed.keys() - desired.keys()


def test_value_read_back_with_more_than_was_written_will_do() -> None:
    tracker: DeltaTracker[str, set[str]] = DeltaTracker(equal=lambda wanted, seen: wanted <= seen)
    tracker.want("a", {"x"})
    tracker.saw("a", {"x", "y"})
    assert not tracker


def test_full_read_tells_whether_something_was_different() -> None:
    tracker: DeltaTracker[str, int] = DeltaTracker()
    tracker.want("a", 1)
    tracker.saw("a", 1)
    assert not tracker.saw_exactly({"a": 1})
    assert tracker.saw_exactly({})
    assert list(tracker.upserts) == ["a"]
