"""``calicoctl apply``, ``create``, ``replace`` and ``delete``.

In:    files of resources, or a kind and names.
Out:   the same sentences that Calico's calicoctl writes; every resource is tried, whatever became of the one before.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from calico_kernel.cli.common import Refused, add_file_options, check_version, initialize, placed
from calico_kernel.cli.documents import Read, resource_from
from calico_kernel.cli.files import FileError, read
from calico_kernel.cli.output import visible
from calico_kernel.cli.progress import Progress
from calico_kernel.cli.session import described
from calico_kernel.errors import AlreadyExists, CalicoError, NotFound

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session
    from calico_kernel.client import Client

DONE = {
    "apply": "applied",
    "create": "created",
    "replace": "replaced",
    "delete": "deleted",
    "validate": "validated",
}


def configure(name: str, parser: argparse.ArgumentParser) -> None:
    if name == "delete":
        parser.add_argument("kind", nargs="?", metavar="KIND")
        parser.add_argument("names", nargs="*", metavar="NAME")
    add_file_options(parser, required=name != "delete")
    if name in {"apply", "create", "replace"}:
        parser.add_argument("--atomic", action="store_true", help="all or nothing: check all first, undo on failure")
    if name == "create":
        parser.add_argument("--skip-exists", action="store_true", help="pass over resources that exist")
    if name == "delete":
        parser.add_argument(
            "-s", "--skip-not-exists", action="store_true", help="pass over resources that do not exist"
        )
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="how to report the result")


def run(name: str, args: argparse.Namespace, session: Session) -> int:
    _ = session.composition  # plugins' kinds are known from here on
    wrong: list[str] = []
    wanted = gather(args, wrong)
    if wrong:
        return _unread(name, args, wrong, len(wanted))
    kinds = {one.resource.kind for one in wanted}
    kind = next(iter(kinds)) if len(kinds) == 1 else ""
    if name in {"apply", "create", "replace"} and wanted:
        check_version(args, session)
        initialize(session)
    elif name == "delete":
        check_version(args, session)
    if getattr(args, "atomic", False):
        from calico_kernel.cli.atomic import all_or_nothing

        outcome = all_or_nothing(wanted, session.client, lambda one, client: _one(name, one, args, client))
    else:
        outcome = Outcome([], [])
        with Progress(len(wanted), DONE[name]) as progress:
            for one in wanted:
                try:
                    _one(name, one, args, session.client)
                    outcome.done.append(called(one))
                except CalicoError as exc:
                    outcome.failed.append((called(one), described(exc, one.resource)))
                progress.step()
    if args.output == "json":
        report_json(name, kind, outcome)
        return 1 if outcome.failed else 0
    return report(name, kind, outcome)


class Outcome(NamedTuple):
    """By name, e.g. ``NetworkPolicy(default/web)``: what was done; what was refused, with the reason."""

    done: list[str]
    failed: list[tuple[str, str]]
    kept: str = ""
    """What became of the others where one was refused, when they were not simply done."""


def called(one: Read) -> str:
    meta = one.resource.metadata
    return f"{one.resource.kind}({meta.namespace + '/' if meta.namespace else ''}{meta.name})"


def gather(args: argparse.Namespace, unread: list[str] | None = None) -> list[Read]:
    """The resources that the arguments name. ``unread`` gets everything that is wrong with documents that cannot be
    read; without it, the run ends there, and says so."""
    if args.filename is None:
        return _named(args)
    found: list[Read] = []
    wrong: list[str] = [] if unread is None else unread
    for file, documents in read(args.filename, wrong, recursive=args.recursive):
        if not documents and not args.skip_empty:
            raise Refused(f"no resources specified in file {file}")
        for document in documents:
            try:
                found.append(resource_from(document, args.namespace))
            except FileError as exc:
                wrong.append(exc.what)
    if wrong and unread is None:
        raise Refused("failed to execute command: " + "\n".join(wrong))
    if not found and not wrong and not args.skip_empty:
        raise Refused(f"no resources specified in directory {args.filename}")
    return found


def _unread(name: str, args: argparse.Namespace, wrong: list[str], others: int) -> int:
    """Documents that cannot be read end the run before the first is written; ``others`` could be read."""
    kept = (
        f"nothing was {DONE[name]}, nor any of the {others} other resource(s): all are read before the first is tried"
    )
    if args.output == "json":
        failed = [(said.partition(": ")[0], said.partition(": ")[2] or said) for said in wrong]
        report_json(name, "", Outcome([], failed, kept))
        return 1
    raise Refused("failed to execute command: " + "\n".join([*wrong, *([kept] if others else [])]))


def _named(args: argparse.Namespace) -> list[Read]:
    from calico_kernel.model.kinds import lookup
    from calico_kernel.model.meta import ObjectMeta

    if not args.kind:
        raise Refused("no resources specified")
    info = lookup(args.kind)
    if info is None or info.internal:
        raise Refused(f"resource type '{args.kind}' is not supported")
    if not args.names:
        raise Refused("no resources specified")
    if "" in args.names:
        raise Refused("resource name may not be empty")
    if args.namespace and not info.namespaced:
        raise Refused(f"{info.kind} is not namespaced")
    kind: Any = info.type
    metadata = [ObjectMeta(name=name, namespace=args.namespace) for name in args.names]
    return [Read(kind(metadata=one)) for one in metadata]


def _one(name: str, one: Read, args: argparse.Namespace, client: Client) -> Any:
    """What is stored then, if anything."""
    resource = placed(one.resource, "" if one.converted else args.namespace)
    meta = resource.metadata
    if not one.converted and args.filename is not None:
        refuse_reserved(name, resource)
    if name == "apply":
        return client.apply(resource)
    if name == "create":
        try:
            return client.create_from(resource)
        except AlreadyExists:
            if not args.skip_exists:
                raise
    elif name == "replace":
        return client.replace(resource)
    else:
        try:
            client.delete(resource.kind, meta.name, meta.namespace)
        except NotFound:
            if not args.skip_not_exists:
                raise
    return None


def refuse_reserved(operation: str, resource: Any) -> None:
    """Names that belong to converted Kubernetes policies."""
    if resource.kind == "NetworkPolicy" and resource.metadata.name.startswith("knp.default."):
        from calico_kernel.client.common import key_of, name_of, refusal

        raise refusal(operation, name_of(key_of(resource)), "kubernetes network policies must be managed as such")


def report(name: str, kind: str, outcome: Outcome) -> int:
    done = DONE[name]
    of_kind = f"'{kind}' " if kind else ""
    handled, total = len(outcome.done), len(outcome.done) + len(outcome.failed)
    if not total:
        print("No resources specified")
        return 0
    if not outcome.failed:
        print(f"Successfully {done} {handled} {of_kind}resource(s)")
        return 0
    errors = [error for _, error in outcome.failed]
    said = f"[{' '.join(errors)}]"
    if name == "delete":
        if handled:
            print(f"Successfully {done} {handled} {of_kind}resource(s)")
        failed = f"Failed to delete {of_kind}resource" if kind else "Failed to delete resource"
        print("\n".join(f"{failed}: {error.rstrip()}" for error in errors), file=sys.stderr)
        return 1
    if not handled and total == 1:
        which = f"'{kind}' resource" if kind else visible(outcome.failed[0][0])
        print(f"failed to {name} {which}: {said}", file=sys.stderr)
    elif not handled or outcome.kept:
        which = f"any '{kind}' resources" if kind else "any resources"
        print(f"failed to {name} {which}: {said}", file=sys.stderr)
    else:
        which = f"'{kind}' resources" if kind else "resources"
        print(f"Partial success: {done} the first {handled} out of {total} {which}:")
        print(f"hit error: {said}", file=sys.stderr)
    if total > 1:
        refused = "".join(f"\n  {visible(one)}: {error.strip()}" for one, error in outcome.failed)
        rest = outcome.kept or (f"the other {handled} were {done}" if handled else "")
        print(
            f"not {done}, {len(outcome.failed)} of {total}:{refused}" + (f"\n{rest}" if rest else ""), file=sys.stderr
        )
    elif outcome.kept:
        print(outcome.kept, file=sys.stderr)
    return 1


def report_json(name: str, kind: str, outcome: Outcome, **more: Any) -> None:
    from calico_kernel.cli.output import json_text

    said = {
        "command": name,
        "kind": kind,
        "handled": 0 if outcome.kept else len(outcome.done),
        "total": len(outcome.done) + len(outcome.failed),
        "errors": [error for _, error in outcome.failed],
        "done": [] if outcome.kept else outcome.done,
        "failed": [{"resource": one, "error": error} for one, error in outcome.failed],
    }
    print(json_text(said | ({"kept": outcome.kept} if outcome.kept else {}) | more))
