"""Laws of selectors: round trips, agreement with a naive evaluator, restrictions that are true."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_kernel.selector import SelectorError, is_valid, parse
from calico_kernel.selector.ast import (
    All,
    And,
    Contains,
    EndsWith,
    Equals,
    Global,
    Has,
    In,
    Node,
    Not,
    NotEquals,
    NotIn,
    Or,
    StartsWith,
)
from calico_kernel.testing.generators import LABELS, selector_node

LABEL = st.sampled_from(["a", "app", "projectcalico.org/namespace", "in", "has", "x-y_z", "all"])
VALUE = st.text(alphabet=st.characters(codec="utf-8"), max_size=5).filter(lambda text: not {'"', "'"} <= set(text))
VALUES = st.sets(VALUE, max_size=3).map(lambda values: tuple(sorted(values)))
LEAF: st.SearchStrategy[Node] = st.one_of(
    st.just(All()),
    st.just(Global()),
    LABEL.map(Has),
    *(st.builds(kind, LABEL, VALUE) for kind in (Equals, NotEquals, Contains, StartsWith, EndsWith)),
    *(st.builds(kind, LABEL, VALUES) for kind in (In, NotIn)),
)


def grow(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    several = st.lists(children, min_size=2, max_size=3).map(tuple)
    return st.one_of(
        children.map(lambda node: node.operand if isinstance(node, Not) else Not(node)),
        st.builds(And, several),
        st.builds(Or, several),
    )


NODES = st.recursive(LEAF, grow, max_leaves=12)
LABEL_MAPS = st.dictionaries(LABEL, VALUE, max_size=4)


def naive(node: Node, labels: Mapping[str, str]) -> bool:
    match node:
        case All() | Global():
            return True
        case Not(operand):
            return not naive(operand, labels)
        case And(operands):
            return all(naive(operand, labels) for operand in operands)
        case Or(operands):
            return any(naive(operand, labels) for operand in operands)
        case Has(label):
            return label in labels
        case NotEquals(label, value):
            return not naive(Equals(label, value), labels)
        case NotIn(label, values):
            return not naive(In(label, values), labels)
        case _ if node.label not in labels:
            return False
        case Equals(label, value):
            return labels[label] == value
        case In(label, values):
            return labels[label] in values
        case Contains(label, value):
            return labels[label].find(value) >= 0
        case StartsWith(label, value):
            return labels[label][: len(value)] == value
        case EndsWith(label, value):
            return not value or labels[label][-len(value) :] == value


@given(NODES)
def test_tree_read_back_from_its_canonical_text_is_the_same_tree(node: Node) -> None:
    selector = parse(str(node))
    assert selector.root == node
    assert selector.text == str(node)


@given(NODES, LABEL_MAPS)
def test_compiled_predicate_agrees_with_the_naive_evaluator(node: Node, labels: dict[str, str]) -> None:
    assert parse(str(node)).evaluate(labels) is naive(node, labels)


@given(NODES, LABEL_MAPS)
def test_whatever_matches_meets_every_restriction(node: Node, labels: dict[str, str]) -> None:
    selector = parse(str(node))
    if not selector.evaluate(labels):
        return
    assert selector.satisfiable
    for label, wanted in selector.restrictions().items():
        assert not (wanted.present and label not in labels)
        assert not (wanted.absent and label in labels)
        assert wanted.values is None or labels[label] in wanted.values


@given(NODES, LABEL_MAPS)
def test_prefixed_selector_means_the_same_over_prefixed_labels(node: Node, labels: dict[str, str]) -> None:
    prefixed = parse(str(node)).prefixed("pcns.")
    assert prefixed.evaluate({f"pcns.{label}": value for label, value in labels.items()}) is naive(node, labels)
    assert parse(prefixed.text) == prefixed


@given(st.integers())
def test_generated_trees_are_as_the_parser_builds_them(seed: int) -> None:
    node = selector_node(Random(seed), LABELS)
    assert parse(str(node)).root == node


@settings(max_examples=300)
@given(st.text(alphabet="ab=!&|(){},'\" \tinhasl\n", max_size=40))
def test_any_text_is_parsed_or_refused_inside_itself(text: str) -> None:
    if is_valid(text):
        assert is_valid(parse(text).text)
        return
    with pytest.raises(SelectorError) as refused:
        parse(text)
    assert 0 <= refused.value.position <= len(text)
