"""Every command and flag of Calico's calicoctl (as of 3.33): taken here, or documented as different.

The list was read from the sources of Calico's command; ``DIFFERENT`` names what is not simply the same, with the words
by which docs/calicoctl.md tells of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from calico_kernel.cli.calicoctl import PROGRAM
from calico_kernel.cli.session import Session

DOCS = Path(__file__).parents[2] / "docs/calicoctl.md"
EVERYWHERE = ("-l", "--log-level", "--context", "--allow-version-mismatch")
FILES = ("-f", "--filename", "-R", "--recursive", "--skip-empty", "-c", "--config", "-n", "--namespace")
CONFIG = ("-c", "--config")

FLAGS: dict[str, tuple[str, ...]] = {
    "create": (*FILES, "--skip-exists"),
    "apply": FILES,
    "replace": FILES,
    "validate": FILES,
    "delete": (*FILES, "-s", "--skip-not-exists"),
    "get": (*FILES, "-o", "--output", "-A", "--all-namespaces", "-a", "--all-namespaces-a", "--export"),
    "patch": (*CONFIG, "-n", "--namespace", "-p", "--patch", "-t", "--type"),
    "label": (*CONFIG, "-n", "--namespace", "--overwrite", "--remove"),
    "convert": ("-f", "--filename", "-o", "--output", "--ignore-validation"),
    "version": (*CONFIG, "--poll", "--client"),
    "cluster diags": (
        *CONFIG,
        "--since",
        "--max-logs",
        "--max-parallelism",
        "--focus-nodes",
        "--skip-temp-dir-cleanup",
    ),
    "datastore migrate export": CONFIG,
    "datastore migrate import": (*CONFIG, "-f", "--filename"),
    "datastore migrate lock": CONFIG,
    "datastore migrate unlock": CONFIG,
    "datastore migrate-policy-names": CONFIG,
    "ipam check": (*CONFIG, "--show-all-ips", "--show-problem-ips", "-o", "--output", "--kubeconfig"),
    "ipam release": (*CONFIG, "--ip", "--from-report", "--force"),
    "ipam show": (*CONFIG, "--ip", "--show-blocks", "--show-borrowed", "--show-configuration"),
    "ipam split": (*CONFIG, "--cidr", "--name"),
    "ipam configure": (
        *CONFIG,
        "--strictaffinity",
        "--max-blocks-per-host",
        "--kubevirt-ip-persistence",
        "--ip-cooldown-seconds",
    ),
    "node status": (),
    "node diags": ("--log-dir",),
    "node checksystem": ("-f", "--kernel-config"),
    "node run": (
        *CONFIG,
        "--ip",
        "--ip6",
        "--as",
        "--name",
        "--ip-autodetection-method",
        "--ip6-autodetection-method",
        "--log-dir",
        "--node-image",
        "--backend",
        "--dryrun",
        "--init-system",
        "--no-default-ippools",
        "--felix-config",
    ),
}
DIFFERENT: dict[tuple[str, str], str] = {
    ("get", "-o go-template"): "`-o go-template`",
    ("patch", "--type"): "`patch --type`",
    ("convert", ""): "## convert",
    ("cluster diags", ""): "`cluster diags`",
    ("datastore migrate export", ""): "`datastore migrate export`",
    ("datastore migrate import", ""): "`datastore migrate import`",
    ("ipam check", "--kubeconfig"): "`ipam check --kubeconfig`",
    ("ipam check", "-o"): "`ipam check -o json`",
    ("node checksystem", ""): "`node checksystem`",
    ("node run", ""): "`node run`",
    ("node run", "--node-image"): "`--node-image`",
    ("node run", "--backend"): "`--backend`",
    ("node run", "--log-dir"): "`--log-dir`",
    ("node run", "--no-default-ippools"): "`--no-default-ippools`",
    ("version", "Git commit"): "`Git commit`",
}


def parser_of(path: str) -> argparse.ArgumentParser:
    word, *below = path.split()
    session = Session(None)
    found = PROGRAM.parser_of(word, session)
    session.close()
    for name in below:
        assert found is not None
        (actions,) = (one for one in found._actions if isinstance(one, argparse._SubParsersAction))
        found = actions.choices[name]
    assert found is not None
    return found


def test_the_list_is_whole() -> None:
    assert len(FLAGS) >= 25 and sum(map(len, FLAGS.values())) >= 150


@pytest.mark.parametrize("path", FLAGS)
def test_every_flag_of_calicos_tool_is_taken(config: Any, path: str) -> None:
    parser = parser_of(path)
    missing = {*EVERYWHERE, *FLAGS[path]} - parser._option_string_actions.keys()
    assert missing == set()


@pytest.mark.parametrize(("path", "flag"), DIFFERENT)
def test_what_is_different_is_documented(path: str, flag: str) -> None:
    assert path in FLAGS and (not flag.startswith("--") or flag in FLAGS[path])
    assert DIFFERENT[path, flag] in DOCS.read_text(encoding="utf-8")


def test_flags_of_both_places_are_understood(ctl: Any) -> None:
    """Before the command and after it; values with a space or with ``=``; short ones written together."""
    for argv in (
        ("-l", "info", "get", "nodes"),
        ("get", "nodes", "--log-level=info"),
        ("get", "nodes", "-ojson"),
        ("get", "networkpolicies", "-nx"),
        ("get", "networkpolicies", "-a"),
        ("--allow-version-mismatch", "--context=x", "get", "nodes", "-o", "ps"),
        ("get", "-o", "wide", "nodes", "--export"),
        ("ipam", "configure", "--strictaffinity=true", "--max-blocks-per-host=3"),
    ):
        ran = ctl(*argv)
        assert ran.status == 0, (argv, ran.err)
