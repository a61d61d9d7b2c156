"""``calicoctl validate``: everything that can be checked without a datastore.

In:    files of resources.
Out:   which would be refused and why, all at once; and warnings: what is accepted, but hardly means what it says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from calico_kernel.cli.output import visible
from calico_kernel.errors import CalicoError

if TYPE_CHECKING:
    from calico_kernel.cli.documents import Read
    from calico_kernel.cli.session import Session
    from calico_kernel.hookspecs import Validator


class Warned(NamedTuple):
    """``resource``: by name, e.g. ``IPPool(blue)``."""

    resource: str
    field: str
    warning: str


def configure(_name: str, parser: argparse.ArgumentParser) -> None:
    from calico_kernel.cli.common import add_file_options

    add_file_options(parser, required=True)
    parser.add_argument("--strict", action="store_true", help="status 1 for a warning, too")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="how to report the result")


def run(name: str, args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli.common import Refused
    from calico_kernel.cli.session import described
    from calico_kernel.cli.write import Outcome, called, report, report_json

    composition = session.plugins_or_none()
    validators = composition.validators() if composition is not None else ()
    outcome = Outcome([], [])
    warned: list[Warned] = []
    kinds: set[str] = set()
    seen: dict[str, str] = {}
    for file, one in _documents(args, outcome):
        subject = called(one)
        kinds.add(one.resource.kind)
        try:
            resource = _checked(one, args, validators)
        except CalicoError as exc:
            outcome.failed.append((subject, described(exc, one.resource)))
            continue
        subject = called(one._replace(resource=resource))
        outcome.done.append(subject)
        warned += _warnings(subject, one, resource)
        if subject in seen:
            said = f"is that of another document in {seen[subject]}, too: the later one would replace it"
            warned.append(Warned(subject, "metadata.name", said))
        seen[subject] = file
    if not outcome.done and not outcome.failed and not args.skip_empty:
        raise Refused(f"no resources specified in {args.filename}")
    kind = next(iter(kinds)) if len(kinds) == 1 else ""
    if args.output == "json":
        report_json(name, kind, outcome, warnings=[one._asdict() for one in warned])
    else:
        for found in warned:
            print(visible(f"warning: {found.resource}: {found.field} {found.warning}"), file=sys.stderr)
        report(name, kind, outcome)
    return 1 if outcome.failed or (args.strict and warned) else 0


def _documents(args: argparse.Namespace, outcome: Any) -> Iterator[tuple[str, Read]]:
    """What can be read, with its file; what cannot is among the failures of ``outcome``."""
    from calico_kernel.cli.documents import resource_from
    from calico_kernel.cli.files import FileError, read
    from calico_kernel.model.documents import describe

    unreadable: list[str] = []
    for file, documents in read(args.filename, unreadable, recursive=args.recursive):
        if not documents and not args.skip_empty:
            outcome.failed.append((file, "no resources specified"))
        for document in documents:
            try:
                yield file, resource_from(document, args.namespace)
            except FileError as exc:
                outcome.failed.append((describe(document), exc.what.removeprefix(f"{describe(document)}: ")))
    outcome.failed.extend((said.partition(": ")[0], said.partition(": ")[2] or said) for said in unreadable)


def _checked(one: Read, args: argparse.Namespace, validators: Sequence[Validator]) -> Any:
    """The resource as it would be stored. Raises CalicoError."""
    from calico_kernel.cli.common import placed
    from calico_kernel.cli.write import refuse_reserved
    from calico_kernel.client import rules

    resource = placed(one.resource, "" if one.converted else args.namespace)
    if not one.converted:
        refuse_reserved("apply", resource)
    resource = rules.prepare(resource)
    rules.validate(resource, validators, [])
    return resource


def _warnings(subject: str, one: Read, resource: Any) -> Iterator[Warned]:
    from calico_kernel.policy.oddities import oddities

    if resource.metadata.namespace and not one.resource.metadata.namespace:
        said = f"is not given: {resource.metadata.namespace!r} is taken"
        yield Warned(subject, "metadata.namespace", said)
    for field, said in oddities(resource):
        if not (one.converted and field == "metadata.name"):  # its author gave it another
            yield Warned(subject, field, said)
