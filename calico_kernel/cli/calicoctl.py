"""``calicoctl``: manage resources through whichever datastore the configuration names.

In:    arguments, flags and files as Calico's own calicoctl takes them.
Out:   text on standard output, errors on standard error, status 0 or 1.

Start-up time is what people feel, so a run imports only what its command needs: the sub-command's module is loaded when
it is chosen, and plugins' commands are looked for only when the word is none of ours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from calico_kernel.cli.program import Command, Program

COMMANDS: Mapping[str, Command] = {
    "apply": Command("calico_kernel.cli.write", "create resources, or replace those that exist"),
    "create": Command("calico_kernel.cli.write", "create resources"),
    "replace": Command("calico_kernel.cli.write", "replace resources that exist"),
    "diff": Command("calico_kernel.cli.diff", "show what apply would change; status 1 when there is something"),
    "delete": Command("calico_kernel.cli.write", "delete resources, by file or by kind and name"),
    "patch": Command("calico_kernel.cli.edit", "change a resource in place"),
    "label": Command("calico_kernel.cli.edit", "add, change or remove a label of a resource"),
    "get": Command("calico_kernel.cli.get", "show resources as a table, YAML or JSON"),
    "validate": Command("calico_kernel.cli.write", "check resources without a datastore"),
    "explain": Command("calico_kernel.cli.explain", "say what happens to packets between two endpoints, and why"),
    "ipam": Command("calico_kernel.cli.ipam", "show, check and release addresses"),
    "node": Command("calico_kernel.cli.node", "status of the node agent"),
    "config": Command("calico_kernel.cli.config", "check and show the configuration"),
    "datastore": Command("calico_kernel.cli.datastore", "lock and unlock the datastore, carry its data to another"),
    "completion": Command(
        "calico_kernel.cli.completion", "words offered by bash, zsh or fish while a command is typed"
    ),
    "version": Command("calico_kernel.cli.version", "versions of this tool and of the cluster"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the ``calicoctl`` executable."""
    return PROGRAM.main(sys.argv[1:] if argv is None else argv)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-l",
        "--log-level",
        default="panic",
        choices=["panic", "fatal", "error", "warn", "info", "debug"],
        metavar="LEVEL",
        help="panic (default), fatal, error, warn, info or debug",
    )
    parser.add_argument(
        "--allow-version-mismatch", action="store_true", help="work on a datastore that another version set up"
    )
    parser.add_argument("--context", default="", metavar="NAME", help="context of the kubeconfig to use")


PROGRAM = Program(
    name="calicoctl",
    about="Manage Calico resources: network policy, endpoints, nodes, addresses.",
    commands=COMMANDS,
    common=_common,
    load=import_module,
    usual=("/etc/calico/calicoctl.cfg",),
)


if __name__ == "__main__":
    sys.exit(main())
