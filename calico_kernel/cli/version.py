"""``calicoctl version``: of this tool, and of the cluster that the datastore describes."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from calico_kernel import __version__
from calico_kernel.errors import CalicoError

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session


def configure(_name: str, parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--client", action="store_true", help="of this tool only; the datastore is not opened")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")


def run(_name: str, args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli.output import json_text

    said = {"clientVersion": __version__}
    failed = ""
    if not args.client:
        try:
            spec = session.client.get("ClusterInformation", "default").spec
            said |= {"clusterVersion": spec.calico_version, "clusterType": spec.cluster_type}
        except CalicoError as exc:
            failed = f"Unable to retrieve Cluster Version or Type: {exc.what}"
    if args.output == "json":
        print(json_text(said))
    else:
        labels = {
            "clientVersion": "Client Version:",
            "clusterVersion": "Cluster Version:",
            "clusterType": "Cluster Type:",
        }
        for key, value in said.items():
            print(f"{labels[key]:<18}{value}".rstrip())
    if failed:
        print(failed, file=sys.stderr)
    return 1 if failed else 0
