from __future__ import annotations

import itertools

import attrs

from calico_kernel.lab import render, runner
from calico_kernel.lab.prober import Probe
from calico_kernel.lab.render import Difference, Outcome, Style
from calico_kernel.lab.scenarios import Scenario

PLACES = ("a/one", "a/two", "outside")
PLAIN = Style(colour=False, unicode=False)


def outcome(*, wrong: int | None = None) -> Outcome:
    probes = [
        Probe(source, target, "tcp", 80, version)
        for version in (4, 6)
        for source, target in itertools.permutations(PLACES, 2)
    ]
    expected = [probe.target != "a/two" for probe in probes]
    measured = list(expected)
    differences = []
    if wrong is not None:
        measured[wrong] = not measured[wrong]
        differences = [
            Difference(
                probe=probes[wrong], expected=expected[wrong], measured=measured[wrong], reason="a rule", trace="step"
            )
        ]
    return Outcome(
        scenario=Scenario(name="x", title="Title", description="Text.", manifest=""),
        probes=probes,
        expected=expected,
        measured=measured,
        differences=differences,
        changed=4,
        apply_ms=100.0,
        enforced_ms=12.0,
    )


def test_families_with_one_answer_share_one_plain_matrix() -> None:
    text = render.matrices(outcome(), PLAIN)
    assert text.splitlines()[0].strip() == "TCP 80 over IPv4 and IPv6"
    assert text.count("expected") == 1
    assert "\033" not in text
    assert "!" not in text
    assert "    a/one    . -  +         . -  +" in text.splitlines()


def test_differing_cell_is_marked_where_it_was_measured_and_named_with_its_reason() -> None:
    text = render.matrices(outcome(wrong=0), PLAIN)
    assert text.count("!") == 1
    assert "    a/one    . -  +         . +! +" in text.splitlines()
    assert text.count("expected") == 2
    said = render.verdict_line(outcome(wrong=0), PLAIN)
    assert "1 differ" in said
    assert "a/one -> a/two TCP 80 over IPv4: expected denied, measured allowed: a rule" in said
    assert said.endswith("step")


def test_summary_counts_cells_and_differences() -> None:
    text = render.summary([outcome(), outcome(wrong=1)], seconds=3.21, style=PLAIN)
    assert "2 scenarios, 24 cells measured with real packets, 1 differ" in text
    assert "3.2 s in all" in text


def test_json_has_the_promised_keys() -> None:
    made = runner.as_json([outcome(wrong=0), attrs.evolve(outcome(), enforced_ms=None)], 1.0)
    assert (made["cells"], made["differ"]) == (24, 1)
    first, second = made["scenarios"]
    assert {"name": "x", "cells": 12, "differ": 1, "enforced_ms": 12.0}.items() <= first.items()
    assert first["differences"][0]["target"] == "a/two"
    assert second["enforced_ms"] == 0.0


def test_colour_is_only_used_when_asked_for() -> None:
    assert "\033[" in render.matrices(outcome(), Style(colour=True, unicode=True))


def test_scenario_that_means_nothing_on_the_datastore_is_named_with_the_reason_and_not_counted() -> None:
    unsuited = attrs.evolve(outcome(), probes=(), expected=(), measured=(), unsuited="pods are pods")
    assert "not applicable on this datastore: pods are pods" in render.verdict_line(unsuited, PLAIN)
    text = render.summary([outcome(), unsuited], seconds=1.0, style=PLAIN)
    assert "x  not applicable: pods are pods" in text
    assert "12 cells measured with real packets, 0 differ, 1 scenarios not applicable" in text
    (named,) = [each for each in runner.as_json([unsuited], 1.0)["scenarios"] if "not_applicable" in each]
    assert (named["cells"], named["not_applicable"]) == (0, "pods are pods")
