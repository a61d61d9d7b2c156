"""``calico lab run DIR``: each scenario applied, followed until enforced, measured, compared, removed.

In:    a running lab (or none: one is made for the run) and a directory of scenarios.
Out:   tables or JSON on standard output, progress on standard error; status 1 when any cell differs.

The expected verdicts are those of ``calico_kernel.policy.verdict`` over what the datastore holds after the apply; the
measured ones are packets that arrived or did not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

from calico_kernel.lab import client, render, scenarios
from calico_kernel.lab.client import LabClient
from calico_kernel.lab.prober import Probe
from calico_kernel.lab.render import Difference, Outcome, Style
from calico_kernel.lab.scenarios import Scenario
from calico_kernel.lab.topology import Topology, decode

ENFORCED_DEADLINE_S = 10.0
PATIENCE_S = 3.0
TIMEOUT_S = 0.25


def command(arguments: argparse.Namespace, topology: Callable[[argparse.Namespace], Topology]) -> int:
    chosen = scenarios.load(arguments.directory, only=tuple(arguments.only or ()))
    report = Report(as_json=arguments.json)
    started = time.monotonic()
    if arguments.name:
        with LabClient(arguments.name) as lab:
            outcomes = [report.add(outcome) for outcome in Runner(lab).run(chosen, report)]
    else:
        report.progress("starting the lab")
        with client.start(topology(arguments), name=f"run-{os.getpid()}", tied=True, say=report.progress) as lab:
            report.progress(f"the lab stands after {time.monotonic() - started:.1f} s")
            outcomes = [report.add(outcome) for outcome in Runner(lab).run(chosen, report)]
    report.finish(outcomes, time.monotonic() - started)
    return 1 if any(outcome.differences for outcome in outcomes) else 0


class Report:
    """Says what happens, to people or to a machine."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._style = Style(colour=colour, unicode="utf" in (sys.stdout.encoding or "").lower())
        self._live = sys.stderr.isatty()

    def progress(self, text: str) -> None:
        if self._live:
            print(f"\r\033[K{text} ...", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def begin(self, number: int, count: int, scenario: Scenario) -> None:
        self.progress(f"[{number}/{count}] {scenario.name}")
        self._place = number, count

    def add(self, outcome: Outcome) -> Outcome:
        self._clear()
        if not self._json:
            print(render.heading(*self._place, outcome.scenario, self._style))
            print(render.matrices(outcome, self._style))
            print(render.verdict_line(outcome, self._style), end="\n\n", flush=True)
        return outcome

    def finish(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        self._clear()
        if self._json:
            print(json.dumps(as_json(outcomes, seconds)))
        else:
            print(render.summary(outcomes, seconds=seconds, style=self._style))

    def _clear(self) -> None:
        if self._live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def as_json(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    return {
        "scenarios": [
            {
                "name": outcome.scenario.name,
                "title": outcome.scenario.title,
                "cells": len(outcome.probes),
                "differ": len(outcome.differences),
                **({"not_applicable": outcome.unsuited} if outcome.unsuited else {}),
                "changed": outcome.changed,
                "apply_ms": outcome.apply_ms,
                "enforced_ms": outcome.enforced_ms if outcome.enforced_ms is not None else 0.0,
                "differences": [
                    {
                        **each.probe._asdict(),
                        "expected": "allow" if each.expected else "deny",
                        "measured": "allow" if each.measured else "deny",
                        "reason": each.reason,
                    }
                    for each in outcome.differences
                ],
            }
            for outcome in outcomes
        ],
        "cells": sum(len(outcome.probes) for outcome in outcomes),
        "differ": sum(len(outcome.differences) for outcome in outcomes),
        "seconds": round(seconds, 2),
    }


class Runner:
    """Runs scenarios in one lab, one after the other."""

    def __init__(self, lab: LabClient) -> None:
        self._lab = lab
        state = lab.state()
        topology = decode(state["topology"])
        self._places = [each.id for each in topology.workloads] + [host.name for host in topology.outside]
        self._nodes = {host.name for host in topology.nodes}
        self._outside = {host.name for host in topology.outside}
        self._versions = sorted({6 if ":" in pool.cidr else 4 for pool in topology.pools})

    def probes(self, scenario: Scenario) -> list[Probe]:
        """Every pair of workloads, hosts outside and the scenario's nodes, but hosts outside among themselves. Nodes
        that this lab does not have are passed over."""
        places = [*self._places, *(node for node in scenario.nodes if node in self._nodes)]
        pairs = [
            (source, target)
            for source, target in itertools.permutations(places, 2)
            if not {source, target} <= self._outside
        ]
        return [
            Probe(source, target, protocol, port, version)
            for protocol, port in scenario.services
            for version in self._versions
            for source, target in pairs
        ]

    def run(self, chosen: Sequence[Scenario], report: Report) -> Iterator[Outcome]:
        """Ends early when the caller stops asking; the scenario at hand is then removed all the same."""
        for number, scenario in enumerate(chosen, 1):
            report.begin(number, len(chosen), scenario)
            started = time.monotonic()
            unsuited = self._lab.ask("unsuited", text=scenario.manifest) if scenario.has_documents else ""
            if unsuited:
                yield Outcome(scenario=scenario, probes=(), expected=(), measured=(), unsuited=unsuited)
                continue
            try:
                outcome = self._measure(scenario, started)
            finally:
                self._remove(scenario)
            yield outcome

    def _measure(self, scenario: Scenario, started: float) -> Outcome:
        probes = self.probes(scenario)
        before = self._lab.ask("expect", probes=probes)["allowed"]
        after = self._lab.ask("expect", probes=probes, apply=scenario.manifest)["allowed"]
        changing = [index for index, old in enumerate(before) if old != after[index]]
        followed = self._lab.ask(
            "follow",
            steps=[("apply", scenario.manifest)] if scenario.has_documents else [],
            probes=[probes[index] for index in changing],
            expected=[after[index] for index in changing],
            deadline_s=ENFORCED_DEADLINE_S,
        )
        stored = self._lab.ask("expect", probes=probes)
        expected, reasons = stored["allowed"], stored["reasons"]
        measured = self._lab.ask("probe", probes=probes, expected=expected, timeout_s=TIMEOUT_S, patience_s=PATIENCE_S)
        differences = [
            Difference(probe=probe, expected=want, measured=got, reason=reason)
            for probe, want, got, reason in zip(probes, expected, measured, reasons, strict=True)
            if want != got
        ]
        if differences:
            first = differences[0]
            differences[0] = attrs.evolve(first, trace=str(self._lab.ask("explain", probe=first.probe)))
        return Outcome(
            scenario=scenario,
            probes=probes,
            expected=expected,
            measured=measured,
            differences=differences,
            changed=len(changing),
            apply_ms=followed["apply_ms"],
            enforced_ms=followed["enforced_ms"],
            seconds=time.monotonic() - started,
        )

    def _remove(self, scenario: Scenario) -> None:
        """Delete what the scenario brought and wait until it no longer shows."""
        if not scenario.has_documents:
            return
        self._lab.ask("delete", text=scenario.reversed_manifest)
        probes = self.probes(scenario)
        expected = self._lab.ask("expect", probes=probes)["allowed"]
        self._lab.ask("probe", probes=probes, expected=expected, timeout_s=0.1, patience_s=PATIENCE_S)
