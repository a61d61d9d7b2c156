"""What the command-line programs share: a table of lazily loaded commands, plugins' commands, errors to exit status.

In:    a table of ``Command`` and the arguments.
Out:   the exit status. A command's module has ``configure(name, parser)`` and ``run(name, args, session)``.

Only the parser of the command asked for is built, so the number of commands costs nothing at start.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from calico_kernel.cli.session import Failed, Session, described
from calico_kernel.errors import CalicoError, PluginError

if TYPE_CHECKING:
    from calico_kernel.hookspecs import CliCommand

WITH_VALUE = frozenset({"-c", "--config", "-l", "--log-level", "--context"})
"""Options before the command whose value is the next argument."""


STATUS = "0 done, 1 failed, also in part, 2 arguments that make no sense, 130 interrupted"


class Command(NamedTuple):
    module: str
    help: str
    examples: Sequence[str] = ()
    """What may stand behind the command, for its help; those of a sub-command begin with its name."""
    status: str = STATUS
    """What the exit status says."""


class Program(NamedTuple):
    name: str
    about: str
    commands: Mapping[str, Command]
    common: Callable[[argparse.ArgumentParser], None]
    load: Callable[[str], Any]
    usual: Sequence[str] = ()
    """Configuration files that are looked for before the usual one."""

    def main(self, argv: Sequence[str]) -> int:
        """Run one command. 0 done, 1 failed, 2 arguments that make no sense."""
        session = Session(config_path(argv), self.usual)
        try:
            return self._run(argv, session)
        except CalicoError as exc:
            print(described(exc).rstrip("\n"), file=sys.stderr)
            return 1
        except Failed:
            return 1
        except BrokenPipeError:  # the reader of our output went away
            sys.stderr.close()
            return 1
        except OSError as exc:
            print(exc, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
        finally:
            session.close()

    def _run(self, argv: Sequence[str], session: Session) -> int:
        place = command_place(argv)
        before, word, after = argv[:place], "".join(argv[place : place + 1]), argv[place + 1 :]
        if not word:
            self._overview(before, session)
        base = self._parser(self.name, self.about)
        args = base.parse_args(before)
        if word in self.commands:
            module = self.load(self.commands[word].module)
            parser = self._own_parser(word, module)
            if asks_for_help(after):
                _explain(parser, self.commands[word].examples, self.commands[word].status)
            args = _parsed(parser, after, args)
            session.path, session.context = args.config, getattr(args, "context", "")
            _show_log(getattr(args, "log_level", "panic"))
            return int(module.run(word, args, session) or 0)
        for extra in self._added(session, strict=True):
            if extra.name == word:
                parser = self._added_parser(extra)
                if asks_for_help(after):
                    _explain(parser, extra.examples, STATUS)
                args = _parsed(parser, after, args)
                args.client = lambda: session.client
                _show_log(getattr(args, "log_level", "panic"))
                return int(extra.run(args) or 0)
        from calico_kernel.config.source import did_you_mean

        print(
            f"unknown command {word!r}{did_you_mean(word, self.commands)} (see {self.name} --help; a plugin's command "
            "needs its plugin in the configuration)",
            file=sys.stderr,
        )
        return 2

    def _overview(self, before: Sequence[str], session: Session) -> None:
        """Help, or the complaint that no command was given; ends the run."""
        wanted = {"-h", "--help"}.intersection(before)
        parser = self._parser(self.name, self.about)
        parser.epilog = f"{self.name} COMMAND --help shows examples. Exit status: {STATUS}."
        listed = parser.add_subparsers(metavar="COMMAND", required=True)
        for name, command in self.commands.items():
            listed.add_parser(name, help=command.help)
        for extra in self._added(session, strict=False) if wanted else ():
            listed.add_parser(extra.name, help=f"{extra.help} (plugin)")
        parser.parse_args(before)

    def parser_of(self, word: str, session: Session) -> argparse.ArgumentParser | None:
        """Of one command, the plugins' included; with "", of what stands before a command."""
        if not word:
            return self._parser(self.name, self.about)
        if word in self.commands:
            return self._own_parser(word, self.load(self.commands[word].module))
        extra = next((one for one in self._added(session, strict=False) if one.name == word), None)
        return self._added_parser(extra) if extra is not None else None

    def words(self, session: Session) -> list[str]:
        """Every command, the plugins' included."""
        return [*self.commands, *(extra.name for extra in self._added(session, strict=False))]

    def _own_parser(self, word: str, module: Any) -> argparse.ArgumentParser:
        parser = _Parser(prog=f"{self.name} {word}", description=_sentence(self.commands[word].help))
        module.configure(word, parser)
        self._repeat_common(parser)
        return parser

    def _added_parser(self, extra: CliCommand) -> argparse.ArgumentParser:
        parser = _Parser(prog=f"{self.name} {extra.name}", description=_sentence(extra.help))
        extra.configure(parser)
        self._repeat_common(parser)
        return parser

    def _parser(self, prog: str, about: str) -> argparse.ArgumentParser:
        parser = _Parser(prog=prog, description=about)
        self.common(parser)
        _add_config(parser, self.usual)
        return parser

    def _repeat_common(self, parser: argparse.ArgumentParser) -> None:
        """The common options are understood at every level; said before the command, they are not unsaid after it."""
        for action in list(parser._actions):
            if isinstance(action, argparse._SubParsersAction):
                for below in action.choices.values():
                    self._repeat_common(below)
        common = _Parser(add_help=False)
        _add_config(common, self.usual)
        self.common(common)
        for action in common._actions:
            if not any(option in parser._option_string_actions for option in action.option_strings):
                action.default = argparse.SUPPRESS
                parser._add_action(action)

    def _added(self, session: Session, *, strict: bool) -> Sequence[CliCommand]:
        """Plugins' commands. For the plain help, a configuration that does not work must not hide our own commands."""
        try:
            added = session.composition.cli_commands(self.name)
        except CalicoError:
            if strict and session.config.path:
                raise
            return []
        for command in added:
            if command.name in self.commands:
                raise PluginError(
                    what=f"a plugin brings a command {self.name} {command.name}, which exists already",
                    todo="take the plugin out of the configuration, or ask its authors for another name",
                )
        return added


def _parsed(parser: argparse.ArgumentParser, argv: Sequence[str], args: argparse.Namespace) -> argparse.Namespace:
    """Options may stand between the words, except where sub-commands or a foreign command line follow."""
    if any(action.nargs in {argparse.PARSER, argparse.REMAINDER} for action in parser._actions):
        return parser.parse_args(argv, args)
    parser.usage = _LATER
    return parser.parse_intermixed_args(argv, args)


_LATER = "written when it is shown"


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """argparse makes one for each option it learns of, and asks for the terminal's width each time."""

    def __init__(self, prog: str, **given: Any) -> None:
        given.setdefault("width", _width())
        super().__init__(prog, **given)


@cache
def _width() -> int:
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given):
        return int(given) - 2
    try:
        return (os.get_terminal_size(sys.__stdout__.fileno()).columns or 80) - 2 if sys.__stdout__ else 78
    except (OSError, ValueError):
        return 78


class _Parser(argparse.ArgumentParser):
    """argparse writes the usage of an intermixed command line before it parses it, for an error that may not come; with
    what that imports it is a twentieth of a short command's time."""

    def __init__(self, **given: Any) -> None:
        given.setdefault("formatter_class", _Formatter)
        super().__init__(**given)

    def format_usage(self) -> str:
        self.usage = None if self.usage is _LATER else self.usage
        return super().format_usage()

    def format_help(self) -> str:
        self.usage = None if self.usage is _LATER else self.usage
        return super().format_help()


def _show_log(level: str) -> None:
    """Log lines of the libraries on standard error; nothing at Calico's default levels."""
    import logging

    levels = {"error": logging.ERROR, "warn": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}
    if level in levels:
        logging.basicConfig(level=levels[level], format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def _add_config(parser: argparse.ArgumentParser, usual: Sequence[str]) -> None:
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help="configuration file; else " + ", else ".join(["CALICO_CONFIG", *usual, "/etc/calico/calico.yaml"]),
    )


def command_place(argv: Sequence[str]) -> int:
    """Index of the first argument that is neither an option nor the value of one; the length when there is none."""
    value_follows = False
    for index, argument in enumerate(argv):
        if value_follows:
            value_follows = False
        elif argument in WITH_VALUE:
            value_follows = True
        elif not argument.startswith("-"):
            return index
    return len(argv)


def config_path(argv: Sequence[str]) -> str | None:
    """``--config`` wherever it stands, before the parser exists: plugins' commands depend on it."""
    for index, argument in enumerate(argv):
        if argument in {"-c", "--config"} and index + 1 < len(argv):
            return argv[index + 1]
        if argument.startswith("--config="):
            return argument.partition("=")[2]
        if argument == "--":
            break
    return None


def asks_for_help(argv: Sequence[str]) -> bool:
    return not {"-h", "--help"}.isdisjoint(argv)


def _explain(parser: argparse.ArgumentParser, examples: Sequence[str], status: str) -> None:
    """Descriptions, examples and the exit status for the help of a command and of everything below it."""
    import textwrap

    lines = [f"  {parser.prog} {example}".rstrip() for example in examples]
    about = textwrap.fill(f"exit status: {status}", 100)
    parser.epilog = "\n\n".join(
        part for part in (parser.epilog, "\n".join(["examples:", *lines]) if lines else "", about) if part
    )
    parser.description = textwrap.fill(parser.description or "", 100)
    parser.formatter_class = _Formatter
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            said = {one.dest: one.help for one in action._choices_actions}
            for name, below in action.choices.items():
                below.description = below.description or _sentence(said.get(name) or "")
                own = [example.partition(" ")[2] for example in examples if example.partition(" ")[0] == name]
                _explain(below, own, status)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""
