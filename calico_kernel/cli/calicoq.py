"""``calicoq``: which policies, profiles and rules relate to which endpoints.

In:    arguments as the ``calicoq`` of Calico Enterprise takes them; the datastore is found as ``calicoctl`` finds it.
Out:   text on standard output, errors on standard error, status 0, 1 or 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from calico_kernel.cli.program import Command, Program

COMMANDS: Mapping[str, Command] = {
    "endpoint": Command(
        "calico_kernel.cli.query",
        "policies and profiles of endpoints, and the rules that name them",
        ("shop.web-1", "n1/k8s/ --hide-rule-matches", "web -f manifests/ -R -o json"),
    ),
    "eval": Command(
        "calico_kernel.cli.query",
        "endpoints and network sets that a selector matches",
        ("\"app == 'web'\"", "'has(role) && !has(skip)' -o yaml"),
    ),
    "host": Command("calico_kernel.cli.query", "policies and profiles of every endpoint on a node", ("n1", "n1 -r -s")),
    "policy": Command(
        "calico_kernel.cli.query",
        "endpoints that a policy governs, and those that its rules name",
        ("shop/web", "security.block-bad --hide-selectors", "shop/knp.default.deny", "staged:shop/maybe"),
    ),
    "completion": Command(
        "calico_kernel.cli.completion", "words offered by bash, zsh or fish while a command is typed", ("bash",)
    ),
    "version": Command("calico_kernel.cli.version", "versions of this tool and of the cluster", ("", "--client")),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the ``calicoq`` executable."""
    return PROGRAM.main(sys.argv[1:] if argv is None else argv)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-d", "--debug", dest="log_level", action="store_const", const="debug", help="log to standard error"
    )
    parser.add_argument("--context", default="", metavar="NAME", help="context of the kubeconfig to use")


PROGRAM = Program(
    name="calicoq",
    about="Ask which Calico policies, profiles and rules relate to which endpoints.",
    commands=COMMANDS,
    common=_common,
    load=import_module,
    usual=("/etc/calico/calicoctl.cfg",),
)


if __name__ == "__main__":
    sys.exit(main())
