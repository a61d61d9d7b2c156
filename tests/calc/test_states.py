"""States of a datastore replayed in many ways: what a state yields never depends on how it was reached."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from calico_kernel.calc import Calculator
from calico_kernel.model.policy import EntityRule, Rule
from calico_kernel.testing.folded import FoldedState

State = dict[Any, Any]


def _states(make: SimpleNamespace) -> list[State]:
    allow = Rule(action="Allow", source=EntityRule(selector="app == 'x'"))
    named = Rule(action="Allow", protocol="TCP", destination=EntityRule(ports=("http",)))
    base = [
        make.tier("default", 1_000_000, "Deny"),
        make.node("n1", "172.16.0.1/24", ipv4_vxlan_tunnel_addr="10.0.0.0"),
        make.node("n2", "172.16.0.2/24", ipv4_vxlan_tunnel_addr="10.0.1.0"),
        make.pool("p", "10.0.0.0/16", vxlan_mode="CrossSubnet"),
        make.block("10.0.0.0/26", "host:n1"),
        make.block("10.0.1.0/26", "host:n2", {3: "n1"}),
    ]
    local = make.workload("w", "10.0.0.1/32", labels={"app": "x"}, profiles=("kns.ns1",), ports=(("http", "TCP", 80),))
    remote = make.workload("r", "10.0.1.1/32", node="n2", labels={"app": "x"}, profiles=("kns.ns1",))
    return [
        dict(base),
        dict([*base, local]),
        dict([*base, local, make.global_policy("g", ingress=(allow,), egress=(named,))]),
        dict([*base, local, remote, make.global_policy("g", ingress=(allow,))]),
        dict([*base, remote, make.global_policy("g", ingress=(allow,)), make.policy("q", ingress=(named,))]),
        dict(
            [
                *base,
                local,
                remote,
                make.profile("kns.ns1", labels_to_apply={"pcns.team": "x"}, ingress=(allow,)),
                make.policy("q", selector="app == 'x'", tier="t", ingress=(named,)),
            ]
        ),
        dict([local, remote, make.host_endpoint("h", expected_ips=("172.16.0.1",), profiles=("kns.ns1",))]),
        dict(
            [
                make.workload("w", "10.0.1.1/32", node="n2", labels={"app": "y"}),
                make.workload("r", "10.0.0.1/32", labels={"app": "y"}),
                make.network_set("s", "10.0.1.1/32", "0.0.0.0/0", labels={"app": "x"}),
                make.global_policy("g", "app == 'y'", ingress=(allow,), apply_on_forward=True),
            ]
        ),
        {},
    ]


def _yielded_alone(state: State) -> FoldedState:
    calculator = Calculator("n1")
    calculator.update(state.items())
    calculator.in_sync()
    return FoldedState.of(calculator.flush())


def _changes(old: State, new: State, order: random.Random | None) -> list[Any]:
    changes = [(key, None) for key in old if key not in new]
    changes += [(key, value) for key, value in new.items() if old.get(key) != value]
    if order is not None:
        order.shuffle(changes)
    return changes


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("with_empties", [False, True])
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_each_state_of_a_sequence_yields_what_it_yields_alone(
    make: SimpleNamespace, backwards: bool, with_empties: bool, seed: int | None
) -> None:
    states = _states(make)
    if backwards:
        states.reverse()
    if with_empties:
        states = [state for each in states for state in (each, {})]
    calculator, folded, before = Calculator("n1"), FoldedState(), dict[Any, Any]()
    calculator.in_sync()
    order = None if seed is None else random.Random(seed)
    for state in states:
        calculator.update(_changes(before, state, order))
        before = state
        delta = calculator.flush()
        if delta is not None:
            folded.apply(delta)
        assert folded.differences(_yielded_alone(state)) == {}


@pytest.mark.parametrize("backwards", [False, True])
def test_sequence_squashed_into_one_flush_yields_the_last_state(make: SimpleNamespace, backwards: bool) -> None:
    states = _states(make)[:-1]
    if backwards:
        states.reverse()
    calculator, before = Calculator("n1"), dict[Any, Any]()
    for state in states:
        calculator.update(_changes(before, state, None))
        before = state
    calculator.in_sync()
    assert FoldedState.of(calculator.flush()).differences(_yielded_alone(states[-1])) == {}


@pytest.mark.parametrize("backwards", [False, True])
def test_merged_deltas_of_a_sequence_fold_to_the_last_state(make: SimpleNamespace, backwards: bool) -> None:
    states = _states(make)
    if backwards:
        states.reverse()
    calculator, before, merged = Calculator("n1"), dict[Any, Any](), None
    calculator.in_sync()
    for state in states:
        calculator.update(_changes(before, state, None))
        before = state
        delta = calculator.flush()
        if delta is not None:
            merged = delta if merged is None else merged.then(delta)
    assert merged is not None
    folded = FoldedState()
    folded.apply(merged, strict=False)
    assert folded.differences(_yielded_alone(states[-1])) == {}


def test_spurious_deletes_and_repeats_change_nothing(make: SimpleNamespace) -> None:
    state = _states(make)[5]
    calculator = Calculator("n1")
    calculator.update((key, None) for key in state)
    calculator.update(state.items())
    calculator.in_sync()
    folded = FoldedState.of(calculator.flush())
    calculator.update(state.items())
    assert calculator.flush() is None
    for key, value in state.items():
        calculator.update([(key, None), (key, value)])
    assert calculator.flush() is None
    assert folded.differences(_yielded_alone(state)) == {}
