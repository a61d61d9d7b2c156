"""``calicoctl datastore``: lock, unlock and migrate (``calico_kernel.cli.migrate``)."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from calico_kernel.cli import migrate

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session


def configure(_name: str, parser: argparse.ArgumentParser) -> None:
    migrate.configure(parser)


def run(_name: str, args: argparse.Namespace, session: Session) -> int:
    return migrate.run(args, session)


def is_locked(session: Session) -> bool:
    from calico_kernel.client import lock

    return lock.is_locked(session.client.store)
