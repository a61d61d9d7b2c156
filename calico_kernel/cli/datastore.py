"""``calicoctl datastore migrate lock`` and ``unlock``: stop every writer while the datastore is worked on."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session


def configure(_name: str, parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    migrate = actions.add_parser("migrate", help="as Calico groups them: lock and unlock")
    inner = migrate.add_subparsers(dest="action", required=True, metavar="ACTION")
    for group in (actions, inner):
        group.add_parser(
            "lock", help="no addresses are assigned and no policy changes reach nodes until it is unlocked"
        )
        group.add_parser("unlock", help="work goes on")


def run(_name: str, args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.client.setup import set_ready

    lock = args.action == "lock"
    set_ready(session.client, not lock)
    print("Datastore locked." if lock else "Datastore unlocked.")
    return 0


def is_locked(session: Session) -> bool:
    from calico_kernel.errors import NotFound

    try:
        return session.client.get("ClusterInformation", "default").spec.datastore_ready is False
    except NotFound:
        return False
