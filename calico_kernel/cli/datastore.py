"""``calicoctl datastore``: lock, unlock and migrate (``calico_kernel.cli.migrate``), and migrate-policy-names."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from calico_kernel.cli import migrate

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session


def configure(_name: str, parser: argparse.ArgumentParser) -> None:
    migrate.configure(parser)


def run(_name: str, args: argparse.Namespace, session: Session) -> int:
    if args.action == "migrate-policy-names":
        from calico_kernel.cli import policynames

        return policynames.run(args, session)
    return migrate.run(args, session)


def is_locked(session: Session) -> bool:
    from calico_kernel.client import lock

    return lock.is_locked(session.client.store)
