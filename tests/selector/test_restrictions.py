"""Label restrictions: the table of Calico's own cases, and that they are a true lower bound."""

from __future__ import annotations

import pytest

from calico_kernel.selector import LabelRestriction, parse

HAS = LabelRestriction(present=True)


def one_of(*values: str) -> LabelRestriction:
    return LabelRestriction(present=True, values=values)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("global()", {}),
        ("a == 'v'", {"a": one_of("v")}),
        ("a in {'v2','v1'}", {"a": one_of("v1", "v2")}),
        ("a in {}", {"a": one_of()}),
        ("a not in {'v'}", {}),
        ("a != 'v'", {}),
        ("has(a)", {"a": HAS}),
        ("a contains 'f'", {"a": HAS}),
        ("a starts with 'f'", {"a": HAS}),
        ("a ends with 'f'", {"a": HAS}),
        ("a == '1' && a == '2'", {"a": one_of()}),
        ("has(a) && a == '1'", {"a": one_of("1")}),
        ("a in {'1','2'} && a in {'2','3'}", {"a": one_of("2")}),
        ("has(a) && !has(a)", {"a": LabelRestriction(present=True, absent=True)}),
        ("a == '1' && b == '2' && all()", {"a": one_of("1"), "b": one_of("2")}),
        ("a == '1' || a == '2'", {"a": one_of("1", "2")}),
        ("has(a) || a == '2'", {"a": HAS}),
        ("a == '2' || (has(b) && has(a))", {"a": HAS}),
        ("a == '1' || b == '2'", {}),
        ("all() || b == '2'", {}),
        ("!(a == 'v')", {}),
        ("!has(a)", {"a": LabelRestriction(absent=True)}),
        ("!!has(a)", {"a": HAS}),
    ],
)
def test_restrictions_are_what_the_selector_demands(text: str, expected: dict[str, LabelRestriction]) -> None:
    assert parse(text).restrictions() == expected
    if text:
        assert parse(f"all() && ({text})").restrictions() == expected


@pytest.mark.parametrize(
    ("text", "satisfiable"),
    [("a == '1' && a == '2'", False), ("has(a) && !has(a)", False), ("a in {}", False), ("a == '1'", True), ("", True)],
)
def test_contradiction_is_known_to_match_nothing(text: str, satisfiable: bool) -> None:
    assert parse(text).satisfiable is satisfiable
