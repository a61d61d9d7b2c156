"""``calico``: run the node agent, look at plugins and configuration, try policy in a lab.

In:    arguments and the configuration file.
Out:   a running agent, or text. Plugins add commands by the hook ``calico_cli_commands``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from calico_kernel import __version__
from calico_kernel.cli.program import Command, Program

COMMANDS: Mapping[str, Command] = {
    "node": Command(
        "calico_kernel.cli.agent",
        "run the node agent, or remove what it programmed",
        ("-c /etc/calico/calico.yaml", "run", "uninstall"),
    ),
    "plugins": Command(
        "calico_kernel.cli.plugins",
        "list, describe and check plugins",
        ("list", "info sqlite", "info datastore:sqlite -o json", "check"),
    ),
    "config": Command(
        "calico_kernel.cli.config", "check and show the configuration", ("show", "check -c /etc/calico/calico.yaml")
    ),
    "completion": Command(
        "calico_kernel.cli.completion", "words offered by bash, zsh or fish while a command is typed", ("bash",)
    ),
    "lab": Command(
        "calico_kernel.cli.lab",
        "a network of hosts and workloads on this machine, to try policy in",
        (
            "up --nodes 2",
            "run examples/recipes",
            "exec node1 -- calicoctl get nodes",
            "probe shop/web shop/db tcp/5432 udp/53",
            "status --json",
            "logs node1 --lines 20",
            "list",
            "down --all",
        ),
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the ``calico`` executable."""
    return PROGRAM.main(sys.argv[1:] if argv is None else argv)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", action="version", version=f"calico-kernel {__version__}")


PROGRAM = Program(
    name="calico",
    about="Calico Kernel: container networking and network security from plugins.",
    commands=COMMANDS,
    common=_common,
    load=import_module,
)


if __name__ == "__main__":
    sys.exit(main())
