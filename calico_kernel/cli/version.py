"""``calicoctl version``: of this tool, and of the cluster that the datastore describes."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from calico_kernel import __version__
from calico_kernel.errors import CalicoError

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session


def configure(_name: str, parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--client", action="store_true", help="of this tool only; the datastore is not opened")
    parser.add_argument(
        "--poll", default="", metavar="TIME", help="look again after so long (e.g. 5s), and say what has changed"
    )
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")


def run(_name: str, args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli.common import Refused
    from calico_kernel.model.durations import parse_duration

    try:
        poll_s = parse_duration(args.poll) / 1e9 if args.poll else 0.0
    except ValueError:
        raise Refused(f"invalid poll duration specified: {args.poll}") from None
    said: dict[str, str] = {}
    failed = ""
    while True:
        before = (said, failed)
        said, failed = _asked(args, session)
        if before != (said, failed):
            _tell(said if args.output == "json" else dict(said.items() - before[0].items()), failed, args.output)
        if poll_s <= 0 or args.client:
            return 1 if failed else 0
        time.sleep(poll_s)


def _asked(args: argparse.Namespace, session: Session) -> tuple[dict[str, str], str]:
    """What is known, and why not more."""
    said = {"clientVersion": __version__}
    if args.client:
        return said, ""
    try:
        spec = session.client.get("ClusterInformation", "default").spec
    except CalicoError as exc:
        return said, f"Unable to retrieve Cluster Version or Type: {exc.what}"
    return said | {"clusterVersion": spec.calico_version, "clusterType": spec.cluster_type}, ""


LABELS = {"clientVersion": "Client Version:", "clusterVersion": "Cluster Version:", "clusterType": "Cluster Type:"}


def _tell(said: Mapping[str, str], failed: str, output: str) -> None:
    if output == "json":
        from calico_kernel.cli.output import json_text

        print(json_text(said), flush=True)
    else:
        for key, label in LABELS.items():
            if key in said:
                print(f"{label:<18}{said[key]}".rstrip(), flush=True)
    if failed:
        print(failed, file=sys.stderr, flush=True)
