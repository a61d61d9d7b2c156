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


def test_churn_of_endpoints_with_labels_and_ports_of_their_own_leaves_nothing_behind(make: SimpleNamespace) -> None:
    n1 = make.node1(
        make.workload("w", "10.0.0.1/32"),
        make.global_policy("p", ingress=(Rule(action="Allow", source=EntityRule(selector="has(app)")),)),
    )

    def churn(first: int, count: int) -> int:
        for number in range(first, first + count):
            event = make.workload(
                f"w{number}",
                f"10.1.{number >> 8 & 255}.{number & 255}/32",
                node="n2",
                namespace=f"ns{number}",
                labels={"app": f"a{number}", f"label-{number}": "x"},
                ports=((f"port-{number}", "TCP", 80),),
                profiles=(f"kns.ns{number}",),
            )
            profile = make.profile(f"kns.ns{number}", labels_to_apply={"pcns.n": str(number)})
            policy = make.policy(f"p{number}", selector=f"app == 'a{number}'")
            n1.update(event, profile, policy)
            n1.update(*map(make.gone, (event, profile, policy)))
        return _held(n1.calculator)

    assert churn(0, 20) == churn(1000, 20)


def _held(thing: Any) -> int:
    """Entries in all containers that hang on ``thing``, free lists and caches of bounded size aside."""
    seen: set[int] = set()
    total, waiting = 0, [thing]
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, (str, bytes, int, type)) or each is None:
            continue
        seen.add(id(each))
        if isinstance(each, dict):
            total += len(each)
            waiting += each.values()
        elif isinstance(each, (list, tuple, set, frozenset)):
            total += len(each)
            waiting += each
        for owner in type(each).__mro__:
            slots = getattr(owner, "__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                waiting.append(getattr(each, name, None))
        if type(each).__module__.startswith("calico_kernel.calc"):
            own = dict(getattr(each, "__dict__", {}))
            for bounded in ("_clean_names", "_merged", "_contents"):
                own.pop(bounded, None)
            waiting += own.values()
    return total
