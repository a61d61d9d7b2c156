"""``calico node``: the resident agent of this node, and its removal.

In:    the configuration.
Out:   the exit status of ``calico_kernel.agent.node``.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session


def configure(_name: str, parser: argparse.ArgumentParser) -> None:
    parser.description = "Run the agent of this node until it is told to stop; enforcement stays in place."
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("run", help="run the agent (the same as no action)")
    actions.add_parser("uninstall", help="remove from this host all that the configured plugins programmed")


def run(_name: str, args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.agent import node

    return node.uninstall(session.config) if args.action == "uninstall" else node.run(session.config)
