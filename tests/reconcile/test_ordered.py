"""Referents in first and out last, whatever fails."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from calico_kernel.errors import CalicoError, DataplaneError
from calico_kernel.reconcile.ordered import Reconciler, apply_in_order


class Layer(Reconciler):
    """Things that refer to the same-named thing of the layer below; checks that the outside is never inconsistent."""

    def __init__(self, name: str, below: Layer | None, desired: set[str]) -> None:
        self.name, self.below, self.desired = name, below, desired
        self.above: Layer | None = None
        if below is not None:
            below.above = self
        self.there: set[str] = set()
        self.refuse: set[tuple[str, str]] = set()

    def _try(self, step: str, key: str) -> CalicoError | None:
        return DataplaneError(what=f"{step} {key}", todo="again") if (step, key) in self.refuse else None

    def write(self) -> Mapping[str, CalicoError]:
        failed = {}
        for key in self.desired - self.there:
            error = self._try("write", key)
            if error is None and self.below is not None and key not in self.below.there:
                error = DataplaneError(what=f"{key} refers to nothing", todo="again")
            if error is None:
                self.there.add(key)
            else:
                failed[key] = error
        return failed

    def prune(self) -> Mapping[str, CalicoError]:
        failed = {}
        for key in self.there - self.desired:
            error = self._try("prune", key)
            if error is None:
                assert self.above is None or key not in self.above.there, "removed something in use"
                self.there.discard(key)
            else:
                failed[key] = error
        return failed


NAMES = st.sets(st.sampled_from("abc"))
REFUSALS = st.sets(st.tuples(st.sampled_from(["write", "prune"]), st.sampled_from("abc")))


@given(st.lists(st.tuples(NAMES, st.lists(REFUSALS, min_size=3, max_size=3)), min_size=1, max_size=6))
def test_nothing_in_use_is_removed_and_all_converges(rounds: list[tuple[set[str], list[set[tuple[str, str]]]]]) -> None:
    sets = Layer("sets", None, set())
    rules = Layer("rules", sets, set())
    dispatch = Layer("dispatch", rules, set())
    layers = [sets, rules, dispatch]
    for wanted, refusals in rounds:
        for layer, refused in zip(layers, refusals, strict=True):
            layer.desired, layer.refuse = set(wanted), refused
        apply_in_order(layers)
    for layer in layers:
        layer.refuse = set()
    assert apply_in_order(layers).converged
    assert all(layer.there == rounds[-1][0] for layer in layers)


def test_referent_stays_while_its_referrer_cannot_be_removed() -> None:
    sets, rules = Layer("sets", None, {"a"}), None
    rules = Layer("rules", sets, {"a"})
    assert apply_in_order([sets, rules]).converged
    sets.desired, rules.desired, rules.refuse = set(), set(), {("prune", "a")}
    report = apply_in_order([sets, rules])
    assert list(report.failed) == [("rules", "a")]
    assert report.kept == ("sets",)
    assert sets.there == {"a"}
