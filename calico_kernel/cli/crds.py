"""``calicoctl crds``: the CustomResourceDefinitions of every kind, for ``kubectl apply -f -``.

In:    the register of kinds, with those of plugins where the configuration works; no datastore.
Out:   YAML documents, or a JSON list.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from calico_kernel.cli.session import Failed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calico_kernel.cli.session import Session
    from calico_kernel.model.kinds import KindInfo


def configure(_name: str, parser: argparse.ArgumentParser) -> None:
    from calico_kernel.model.crds import GROUPS
    from calico_kernel.model.wellknown import CRD_GROUP

    parser.add_argument(
        "--group",
        choices=GROUPS,
        default=CRD_GROUP,
        help=f"{CRD_GROUP} (default), where Calico keeps its data, or the native {GROUPS[1]}",
    )
    parser.add_argument("--kind", action="append", default=[], metavar="KIND", help="only this one; may be repeated")
    parser.add_argument("-o", "--output", choices=["yaml", "json"], default="yaml", help="yaml (default) or json")


def run(_name: str, args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli.output import json_text, yaml_text
    from calico_kernel.model.crds import definition

    session.plugins_or_none()
    found = [definition(info, args.group) for info in _chosen(args.kind)]
    if args.output == "json":
        print(json_text({"apiVersion": "v1", "kind": "List", "items": found}))
    else:
        print("---\n".join(yaml_text(one) for one in found), end="")
    return 0


def _chosen(words: Sequence[str]) -> list[KindInfo]:
    """In the order of their names, whatever order was asked for."""
    from calico_kernel.model.crds import custom_kinds
    from calico_kernel.model.kinds import lookup

    kinds = custom_kinds()
    wanted = [lookup(word) for word in words]
    for word, info in zip(words, wanted, strict=True):
        if info is None:
            print(f"{word!r} is not a kind that is known here", file=sys.stderr)
            raise Failed
        if info not in kinds:
            print(f"{info.kind} has no definition: Kubernetes keeps it as an object of its own", file=sys.stderr)
            raise Failed
    return [info for info in kinds if not words or info in wanted]
