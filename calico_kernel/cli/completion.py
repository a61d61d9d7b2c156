"""``completion SHELL`` of every program: words offered while a command is typed.

In:    the words typed so far.
Out:   a script for the shell, which asks this program for the words: they come from the parsers themselves, from the
       kinds, plugins' too, and from the datastore for names. Nothing to offer means: files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from calico_kernel.errors import CalicoError

if TYPE_CHECKING:
    from calico_kernel.cli.program import Program
    from calico_kernel.cli.session import Session

SCRIPTS = {
    "bash": """\
_PROGRAM() {
    local IFS=$'\\n'
    COMPREPLY=($(PROGRAM completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _PROGRAM PROGRAM
""",
    "zsh": """\
#compdef PROGRAM
_PROGRAM() {
    local -a found
    found=(${(f)"$(PROGRAM completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( ${#found} )); then compadd -a found; else _files; fi
}
compdef _PROGRAM PROGRAM
""",
    "fish": """\
complete -c PROGRAM -a '(PROGRAM completion words -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
""",
}
HINT = {
    "bash": "source <(PROGRAM completion bash)",
    "zsh": "source <(PROGRAM completion zsh)",
    "fish": "PROGRAM completion fish | source",
}
FORMATS = ("ps", "wide", "name", "yaml", "json", "custom-columns=", "jsonpath=", "jsonpath-file=")


def configure(_name: str, parser: argparse.ArgumentParser) -> None:
    program = parser.prog.split()[0]
    lines = (f"  {shell:<6}{hint.replace('PROGRAM', program)}" for shell, hint in HINT.items())
    parser.epilog = "\n".join(["for the start-up file of the shell:", *lines])
    parser.add_argument("shell", choices=[*SCRIPTS, "words"], metavar="SHELL", help="bash, zsh or fish")
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.set_defaults(program=program)


def run(_name: str, args: argparse.Namespace, session: Session) -> int:
    if args.shell == "words":
        words = args.words[1:] if args.words[:1] == ["--"] else args.words
        for word in offered(_program(args.program), words or [""], session):
            print(word)
    else:
        sys.stdout.write(SCRIPTS[args.shell].replace("PROGRAM", args.program))
    return 0


def _program(name: str) -> Program:
    if name == "calico":
        from calico_kernel.cli.calico import PROGRAM
    elif name == "calicoq":
        from calico_kernel.cli.calicoq import PROGRAM
    else:
        from calico_kernel.cli.calicoctl import PROGRAM
    return PROGRAM


def offered(program: Program, words: Sequence[str], session: Session) -> list[str]:
    """What the last word may become, sorted. ``words``: without the program's own name."""
    from calico_kernel.cli.program import command_place, config_path

    *before, typed = words
    session.path = config_path(before)
    place = command_place(before)
    if place == len(before):
        found = _of(program.parser_of("", session), before, typed, session, program.words(session))
    else:
        parser = program.parser_of(before[place], session)
        found = _of(parser, before[place + 1 :], typed, session, []) if parser is not None else []
    return sorted({word for word in found if word.startswith(typed)})


def _of(
    parser: argparse.ArgumentParser | None, before: Sequence[str], typed: str, session: Session, commands: Iterable[str]
) -> Iterable[str]:
    assert parser is not None
    positional: list[str] = []
    awaited: argparse.Action | None = None
    options = _options(parser)
    for index, word in enumerate(before):
        if awaited is not None:
            awaited = None
        elif word.startswith("-"):
            action = options.get(word)
            awaited = action if action is not None and action.nargs is None and "=" not in word else None
        else:
            below = next((one for one in parser._actions if isinstance(one, argparse._SubParsersAction)), None)
            if below is not None:
                chosen = below.choices.get(word)
                return _of(chosen, before[index + 1 :], typed, session, []) if chosen is not None else []
            positional.append(word)
    if awaited is not None:
        return _kinds(session) if awaited.dest == "kind" else _values(awaited)
    if typed.startswith("-"):
        return [name for name, action in options.items() if action.help != argparse.SUPPRESS]
    return [*commands, *_positional(parser, positional, before, session)]


def _options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {name: action for action in parser._actions for name in action.option_strings}


def _values(action: argparse.Action) -> Iterable[str]:
    if action.choices is not None:
        return [str(one) for one in action.choices]
    return FORMATS if action.dest == "output" else ()


def _positional(
    parser: argparse.ArgumentParser, given: Sequence[str], before: Sequence[str], session: Session
) -> Iterable[str]:
    actions = [action for action in parser._actions if not action.option_strings]
    if not actions:
        return ()
    action = actions[min(len(given), len(actions) - 1)]
    if action.choices is not None:
        return [str(one) for one in action.choices]
    if action.dest == "kind":
        return _kinds(session)
    if action.dest in {"name", "names"} and given:
        return _names(given[0], before, session)
    if action.dest == "node":
        return _names("node", before, session)
    return _policies(session) if action.dest == "policy" else ()


def _kinds(session: Session) -> Iterable[str]:
    from calico_kernel.model.kinds import KINDS

    try:
        _ = session.composition  # plugins' kinds are known from here on
    except CalicoError:
        pass
    return [info.kind.lower() for info in KINDS.values() if not info.internal]


def _policies(session: Session) -> Iterable[str]:
    """As ``calicoq policy`` takes them."""
    try:
        found = [*session.client.list("NetworkPolicy").items, *session.client.list("GlobalNetworkPolicy").items]
    except CalicoError:
        return ()
    return [f"{one.metadata.namespace}/{one.metadata.name}".lstrip("/") for one in found]


def _names(kind: str, before: Sequence[str], session: Session) -> Iterable[str]:
    from calico_kernel.model.kinds import lookup

    info = lookup(kind)
    if info is None or info.internal:
        return ()
    namespace: Any = None
    if info.namespaced:
        flags = [index for index, word in enumerate(before[:-1]) if word in {"-n", "--namespace"}]
        namespace = before[flags[-1] + 1] if flags else "default"
    try:
        return [item.metadata.name for item in session.client.list(info.kind, namespace).items]
    except CalicoError:
        return ()
