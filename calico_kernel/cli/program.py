"""What both command-line programs share: a table of lazily loaded commands, plugins' commands, errors to exit status.

In:    a table of ``Command`` and the arguments.
Out:   the exit status. A command's module has ``configure(name, parser)`` and ``run(name, args, session)``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from calico_kernel.cli.session import Failed, Session, described
from calico_kernel.errors import CalicoError, PluginError

if TYPE_CHECKING:
    from calico_kernel.hookspecs import CliCommand


class Command(NamedTuple):
    module: str
    help: str


class Program(NamedTuple):
    name: str
    about: str
    commands: Mapping[str, Command]
    common: Callable[[argparse.ArgumentParser], None]
    load: Callable[[str], Any]

    def main(self, argv: Sequence[str]) -> int:
        """Run one command. 0 done, 1 failed, 2 arguments that make no sense."""
        word = _command_word(argv)
        session = Session(_config_path(argv))
        try:
            added = self._added(session, strict=True) if word and word not in self.commands else []
            if not word:
                added = self._added(session, strict=False)
            return self._run(argv, word, added, session)
        except CalicoError as exc:
            print(_message(exc), file=sys.stderr)
            return 1
        except Failed:
            return 1
        except BrokenPipeError:  # the reader of our output went away
            sys.stderr.close()
            return 1
        except KeyboardInterrupt:
            return 130
        finally:
            session.close()

    def _run(self, argv: Sequence[str], word: str, added: Sequence[CliCommand], session: Session) -> int:
        parser = argparse.ArgumentParser(prog=self.name, description=self.about)
        self.common(parser)
        _add_config(parser)
        subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
        for name, command in self.commands.items():
            sub = subparsers.add_parser(
                name, help=command.help, description=f"{command.help[0].upper()}{command.help[1:]}."
            )
            if name == word:
                self.load(command.module).configure(name, sub)
                self._repeat_common(sub)
        for extra in added:
            sub = subparsers.add_parser(extra.name, help=extra.help, description=extra.help)
            extra.configure(sub)
            sub.set_defaults(run_added=extra.run)
        args = parser.parse_args(argv)
        run_added = getattr(args, "run_added", None)
        if run_added is not None:
            return int(run_added(args))
        status = self.load(self.commands[args.command].module).run(args.command, args, session)
        return int(status or 0)

    def _repeat_common(self, parser: argparse.ArgumentParser) -> None:
        """The common options are understood at every level; said before the command, they are not unsaid after it."""
        for action in list(parser._actions):
            if isinstance(action, argparse._SubParsersAction):
                for below in action.choices.values():
                    self._repeat_common(below)
        common = argparse.ArgumentParser(add_help=False)
        _add_config(common)
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


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help="configuration file; else CALICO_CONFIG, else /etc/calico/calico.yaml",
    )


def _command_word(argv: Sequence[str]) -> str:
    """The first argument that is neither an option nor the value of one."""
    value_follows = False
    for argument in argv:
        if value_follows:
            value_follows = False
        elif argument in {"-c", "--config", "-l", "--log-level", "--context"}:
            value_follows = True
        elif not argument.startswith("-"):
            return argument
    return ""


def _config_path(argv: Sequence[str]) -> str | None:
    """``--config`` wherever it stands, before the parser exists: plugins' commands depend on it."""
    for index, argument in enumerate(argv):
        if argument in {"-c", "--config"} and index + 1 < len(argv):
            return argv[index + 1]
        if argument.startswith("--config="):
            return argument.partition("=")[2]
        if argument == "--":
            break
    return None


def _message(exc: CalicoError) -> str:
    return described(exc).rstrip("\n")
