"""The help of every command and sub-command of every program has examples, which the program understands."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from calico_kernel.cli import calico, calicoctl, calicoq
from calico_kernel.cli.program import STATUS, Program, _explain
from calico_kernel.cli.session import Session

PROGRAMS = {"calico": calico.PROGRAM, "calicoctl": calicoctl.PROGRAM, "calicoq": calicoq.PROGRAM}
COMMANDS = [(name, word) for name, program in PROGRAMS.items() for word in program.commands]
SHELL = ("|", ">", "<", "&&")


def test_there_are_many_commands() -> None:
    assert len(COMMANDS) >= 28


@pytest.mark.parametrize(("name", "word"), COMMANDS)
def test_every_level_has_examples_a_description_and_the_exit_status(
    ctl: Any, q: Any, calico_program: Any, name: str, word: str
) -> None:
    run = {"calico": calico_program, "calicoctl": ctl, "calicoq": q}[name]
    seen = 0
    for path, parser in _levels(PROGRAMS[name], word):
        ran = run(*path, "--help")
        seen += 1
        assert ran.status == 0 and f"\n  {name} {' '.join(path)}" in ran.out, path
        assert "\nexit status: 0 " in ran.out and ran.out.count("examples:") == 1
        assert parser.description is None or parser.description[-1:] in ".;", path
        assert max(map(len, ran.out.splitlines())) <= 130, path
    assert seen >= 1


@pytest.mark.parametrize(("name", "word"), COMMANDS)
def test_every_example_is_understood(config: Any, name: str, word: str) -> None:
    program = PROGRAMS[name]
    examples = program.commands[word].examples
    assert examples
    for example in examples:
        words = shlex.split(example)
        words = words[: next((index for index, one in enumerate(words) if one in SHELL), len(words))]
        _parser(program, word).parse_args(words)


def test_diff_has_an_exit_status_of_its_own(ctl: Any) -> None:
    assert "exit status: 0 nothing would change, 1 something would" in ctl("diff", "--help").out
    assert f"Exit status: {STATUS}" in " ".join(ctl("--help").out.split())


def test_command_of_a_plugin_has_its_examples() -> None:
    parser = argparse.ArgumentParser(prog="calico cni")
    parser.add_subparsers().add_parser("install", help="install it")
    _explain(parser, ("install --ipv6", "uninstall"), STATUS)
    assert "examples:\n  calico cni install --ipv6\n  calico cni uninstall\n" in (parser.epilog or "")
    below = next(iter(parser._subparsers._group_actions[0].choices.values()))  # type: ignore[union-attr, arg-type]
    assert "examples:\n  calico cni install --ipv6\n\n" in below.epilog and below.description == "Install it."


def _parser(program: Program, word: str) -> argparse.ArgumentParser:
    session = Session(None)
    try:
        parser = program.parser_of(word, session)
    finally:
        session.close()
    assert parser is not None
    return parser


def _levels(program: Program, word: str) -> Iterator[tuple[list[str], argparse.ArgumentParser]]:
    waiting = [([word], _parser(program, word))]
    while waiting:
        path, parser = waiting.pop()
        yield path, parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                waiting += [([*path, name], below) for name, below in action.choices.items()]
