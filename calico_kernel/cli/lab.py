"""``calico lab``: the door to ``calico_kernel.lab.cli``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from calico_kernel.lab.cli import COMMAND

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session


def configure(_name: str, parser: argparse.ArgumentParser) -> None:
    COMMAND.configure(parser)


def run(_name: str, args: argparse.Namespace, _session: Session) -> int:
    return COMMAND.run(args)
