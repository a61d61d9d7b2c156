"""The selector language: what it accepts, what it means, its canonical text and ids, and what it refuses where."""

from __future__ import annotations

import pytest

from calico_kernel.selector import MAX_DEPTH, MAX_LENGTH, LabelRestriction, SelectorError, is_valid, parse
from calico_kernel.selector.ids import named_port_id, service_id

MATCHES = [
    ("", {}, True),
    (" \t", {"a": "b"}, True),
    ("all()", {}, True),
    ("all( )", {}, True),
    ("global()", {}, True),
    ("!all()", {}, False),
    ("a == 'b'", {"a": "b", "c": "d"}, True),
    ("a == 'b'", {"a": "c"}, False),
    ("a == 'b'", {}, False),
    ("a != 'b'", {}, True),
    ("a != 'b'", {"a": "b"}, False),
    ("a in {'x', 'y'}", {"a": "y"}, True),
    ("a in {'x', 'y'}", {}, False),
    ("a in {}", {"a": ""}, False),
    ("a in {'x',}", {"a": "x"}, True),
    ("a not in {'x'}", {}, True),
    ("a notin {'x'}", {"a": "x"}, False),
    ("a not  in {'x'}", {"a": "y"}, True),
    ("a contains 'bc'", {"a": "abcd"}, True),
    ("a contains ''", {}, False),
    ("a starts with 'ab'", {"a": "abc"}, True),
    ("a startswith 'b'", {"a": "abc"}, False),
    ("a ends\twith 'c'", {"a": "abc"}, True),
    ("a ends with 'c'", {}, False),
    ("has(a)", {"a": ""}, True),
    ("has( a\t)", {}, False),
    ("!has(a)", {}, True),
    ("!! has(a)", {}, False),
    ("! !!has(a)", {}, True),
    ("!a in {'x'}", {"a": "y"}, True),
    ("in == 'x'", {"in": "x"}, True),
    ("contains contains 'x'", {"contains": "axb"}, True),
    ("has == 'x' && all != 'y'", {"has": "x"}, True),
    ("a=='1'||b=='2'&&c=='3'", {"a": "1"}, True),
    ("(a=='1'||b=='2')&&c=='3'", {"a": "1"}, False),
    ("a == '1' && b == '2' && c == '3'", {"a": "1", "b": "2", "c": "3"}, True),
    ("a == '1' || b == '2' || c == '3'", {"c": "3"}, True),
    ("pcns.k8s.io/name-x_y == 'ü'", {"pcns.k8s.io/name-x_y": "ü"}, True),
    ("a == '\n'", {"a": "\n"}, True),
]


@pytest.mark.parametrize(("text", "labels", "expected"), MATCHES)
def test_selector_and_its_canonical_text_evaluate_as_the_language_says(
    text: str, labels: dict[str, str], expected: bool
) -> None:
    assert parse(text).evaluate(labels) is expected
    assert parse(parse(text).text).evaluate(labels) is expected


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("b == b", 5),
        ("b contains b", 11),
        ("b starts with b", 14),
        ("'b1' == b", 0),
        ("b", 0),
        ("a b", 2),
        ("a ", 0),
        ("!", 1),
        ("a = 'b'", 2),
        ("foo == 'bar' &", 13),
        ("foo == 'bar' |", 13),
        ("foo == 'bar' && ", 16),
        ("foo in {'', ||", 12),
        ("foo in ''", 7),
        ("foo in {'a' 'b'}", 12),
        ("foo == \"FOO'", 7),
        ("(", 1),
        ("(a == 'foo'", 11),
        (")", 0),
        ("()", 1),
        ("%", 0),
        ("a == 'b' && %", 12),
        ("has(foo) &&", 11),
        ("has()", 4),
        ("has(a b)", 4),
        ("all(a)", 4),
        ("all ()", 4),
        ("a == 'b'\n", 8),
        ("a ==\n'b'", 4),
        ("a inx {'b'}", 2),
        ("a == 'b' c == 'd'", 9),
        ("x" * 513 + " == 'a'", 0),
        ("a == '\ud800'", 6),
    ],
)
def test_text_that_is_no_selector_is_refused_with_its_position(text: str, position: int) -> None:
    with pytest.raises(SelectorError) as refused:
        parse(text)
    assert refused.value.position == position
    assert not is_valid(text)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 100_000,
        "(" * 30_000 + "all()" + ")" * 30_000,
        "!(" * 5_000,
        "a" * (MAX_LENGTH + 1),
        "a == '" + "x" * 70_000,
    ],
)
def test_hostile_size_or_depth_is_refused_and_never_exhausts_the_stack(text: str) -> None:
    with pytest.raises(SelectorError):
        parse(text)


@pytest.mark.parametrize("term", ["!(", "(a == 'x' || b == 'y' || "])
def test_deepest_allowed_selector_is_parsed_printed_evaluated_and_restricted(term: str) -> None:
    selector = parse(term * MAX_DEPTH + "has(c)" + ")" * MAX_DEPTH)
    assert selector.evaluate({"c": ""}) is True
    assert parse(selector.text).evaluate({"c": ""}) is True
    assert not selector.evaluate({"q": ""})
    assert selector.restrictions() in ({}, {"c": LabelRestriction(present=True)})
    assert "has(p.c)" in selector.prefixed("p.").text


def test_text_whose_canonical_form_would_nest_too_deep_is_refused() -> None:
    with pytest.raises(SelectorError):
        parse("(a == 'x' && b == 'y' || " * MAX_DEPTH + "c == 'x' && has(d)" + ")" * MAX_DEPTH)


@pytest.mark.parametrize(
    ("text", "canonical", "identity"),
    [
        ("", "all()", "s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug"),
        (" (all() )", "all()", "s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug"),
        ("a=='b'", 'a == "b"', "s:flMh0m0X_BowkAK_W3j3MgH8oQOsj3WxGDoXCQ"),
        ("a == 'b' && has(c)", '(a == "b" && has(c))', "s:a7YG9G3XyFzmdwcUzkbtw0ffcKn8o5bm1xsGyQ"),
        ("! has( x )", "!has(x)", "s:bjyVLLTiO-IFshFfQIzG4MBLE_S11yavDPYRAA"),
        ("role in {'b', 'a','b'}", 'role in {"a", "b"}', "s:LXpeyOa3274ZUekIyqLlmg-loEGDDXof_5voAQ"),
        ("! (has( b)||! has(a ))", "!(has(b) || !has(a))", "s:Iss0uCleLYv1GSv_pNm7hAO58kE9jAx1NKyG3Q"),
        ("! (a == 'b'&&! c != 'd')", '!(a == "b" && !c != "d")', "s:lh3haoY1ikTRkd4UZu0nWSaIBknYLPJLX16d-w"),
    ],
)
def test_canonical_text_and_id_are_calicos(text: str, canonical: str, identity: str) -> None:
    assert (parse(text).text, parse(text).id) == (canonical, identity)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ('a == "\'"', 'a == "\'"'),
        ("a == '\"'", "a == '\"'"),
        ("a startswith '\"'", "a starts with '\"'"),
        ("a in {'z', \"'\", '\"', 'a'}", 'a in {\'"\', "\'", "a", "z"}'),
        ("a in {}", "a in {}"),
        ("((a == 'x'))", 'a == "x"'),
        ("(a == 'x' && b == 'y') && c == 'z'", '((a == "x" && b == "y") && c == "z")'),
        ("!(!has(a))", "!!has(a)"),
    ],
)
def test_canonical_text_quotes_sorts_and_groups(text: str, canonical: str) -> None:
    assert parse(text).text == canonical


def test_prefix_reaches_every_label_and_nothing_else() -> None:
    text = "!(!(k == 'v' && has(t) || all()) && (a in {'b', 'c'} || z not in {'k'} || k contains 'k'))"
    assert parse(text).prefixed("pcns.").text == (
        '!(!((pcns.k == "v" && has(pcns.t)) || all()) && '
        '(pcns.a in {"b", "c"} || pcns.z not in {"k"} || pcns.k contains "k"))'
    )


def test_equal_texts_give_one_object_and_equal_meanings_equal_selectors() -> None:
    assert parse("a == 'b'") is parse("a == 'b'")
    assert parse("a == 'b'") == parse('a   ==   "b"')
    assert len({parse("a == 'b'"), parse('(a == "b")'), parse("has(a)")}) == 2


def test_ids_of_named_ports_and_services_are_calicos() -> None:
    assert named_port_id(parse("").id, "tcp", "http") == "n:cl9_Kgeu4H0OGLbhovVR3NBLUOZscKeMK1Mu4A"
    assert service_id("default", "web", with_ports=True) == "svc:-B0RxVUwdW1aFEcXPP4q2GF3e68JsTwIe-pf7w"
    assert service_id("default", "web", with_ports=False).startswith("svcnoport:")
