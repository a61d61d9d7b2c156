"""``calicoctl owned [OWNER]``: which workload endpoints belong to whom."""

from __future__ import annotations

import argparse
import json

from calico_kernel.hookspecs import CliCommand
from calico_sample.kinds import OWNER_LABEL


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("owner", nargs="?", default="", metavar="OWNER", help="of this owner only")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")


def run(args: argparse.Namespace) -> int:
    owned: dict[str, list[str]] = {}
    for endpoint in args.client().list("WorkloadEndpoint").items:
        meta = endpoint.metadata
        owned.setdefault(meta.labels.get(OWNER_LABEL, ""), []).append(f"{meta.namespace}/{meta.name}")
    chosen = {owner: names for owner, names in sorted(owned.items()) if args.owner in {"", owner}}
    if args.output == "json":
        print(json.dumps(chosen, indent=2))
        return 0
    for owner, names in chosen.items():
        print(f"{owner or '(nobody)'}: {', '.join(names)}")
    return 0


OWNED = CliCommand(
    program="calicoctl",
    name="owned",
    help="show which workload endpoints belong to whom",
    configure=configure,
    run=run,
    examples=("", "blue -o json"),
)
