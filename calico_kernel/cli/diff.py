"""``calicoctl diff``: what ``apply`` would change.

In:    files of resources.
Out:   a unified diff of the stored YAML and the YAML that would be stored, defaults filled in; status as of ``diff``:
       0 nothing would change, 1 something would, 2 something is wrong. Nothing is written.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from calico_kernel.cli.session import Failed, described
from calico_kernel.errors import CalicoError, NotFound

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session
    from calico_kernel.hookspecs import Datastore

NOT_COMPARED = ("resourceVersion", "uid", "creationTimestamp", "generation")
"""Metadata that each write or cluster makes anew."""
COLOURS = {"+": "\x1b[32m", "-": "\x1b[31m", "@": "\x1b[36m"}


def configure(_name: str, parser: argparse.ArgumentParser) -> None:
    from calico_kernel.cli.common import add_file_options

    add_file_options(parser, required=True)


def run(_name: str, args: argparse.Namespace, session: Session) -> int:
    try:
        return _diff(args, session)
    except Failed:
        return 2
    except (CalicoError, OSError) as exc:
        print(described(exc).rstrip("\n") if isinstance(exc, CalicoError) else exc, file=sys.stderr)
        return 2


def _diff(args: argparse.Namespace, session: Session) -> int:
    import msgspec

    from calico_kernel.cli.common import check_version, placed
    from calico_kernel.cli.output import visible
    from calico_kernel.cli.write import called, gather, refuse_reserved
    from calico_kernel.client import ensure_initialized
    from calico_kernel.client.overlay import Overlay
    from calico_kernel.model.keys import key_of

    _ = session.composition  # plugins' kinds are known from here on
    wanted = gather(args)
    check_version(args, session)
    store = session.client.store
    overlay = Overlay(store)
    trial = msgspec.structs.replace(session.client, store=overlay)
    ensure_initialized(trial)
    status = 0
    for one in wanted:
        try:
            resource = placed(one.resource, "" if one.converted else args.namespace)
            if not one.converted:
                refuse_reserved("apply", resource)
            new = trial.apply(resource)
            lines = list(_lines(called(one._replace(resource=new)), _stored(store, key_of(new)), _yaml(new)))
        except CalicoError as exc:
            print(f"{visible(called(one))}: {described(exc, one.resource)}".rstrip("\n"), file=sys.stderr)
            status = 2
            continue
        if lines:
            status = status or 1
            origin = store.derived_from(key_of(new))
            if origin:
                said = f"{called(one)} is made from {origin}: what of it is not Calico's own stays as it is there"
                print(visible(said), file=sys.stderr)
            sys.stdout.write("".join(_coloured(line) for line in lines))
    return status


def _stored(store: Datastore, key: Any) -> list[str]:
    from calico_kernel.client import Client

    try:
        return _yaml(Client(store=store).get(key.kind, key.name, key.namespace))
    except NotFound:
        return []
    except CalicoError as exc:  # what does not decode counts as absent, and apply overwrites it
        print(described(exc).rstrip("\n"), file=sys.stderr)
        return []


def _yaml(resource: Any) -> list[str]:
    from calico_kernel.cli.documents import plain
    from calico_kernel.cli.output import yaml_text
    from calico_kernel.model import unread

    unread_too = unread.remembered(resource)
    document = plain(resource if unread_too is None else unread.completed(resource, unread_too))
    for name in NOT_COMPARED:
        document["metadata"].pop(name, None)
    return yaml_text(document).splitlines(keepends=True)


def _lines(name: str, old: list[str], new: list[str]) -> Iterator[str]:
    import difflib

    return difflib.unified_diff(old, new, f"{name} stored" if old else "/dev/null", f"{name} applied")


def _coloured(line: str) -> str:
    colour = COLOURS.get(line[:1]) if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else None
    return f"{colour}{line.rstrip()}\x1b[0m\n" if colour else line
