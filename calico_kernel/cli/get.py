"""``calicoctl get``: resources as a table, YAML, JSON, or by a template.

In:    a kind and names, or files that name resources.
Out:   one table for each result, or one document; what is stored but does not decode goes to standard error with its
       reason.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from calico_kernel.cli.session import described
from calico_kernel.errors import CalicoError, NotFound

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session

DEFAULT_AS_NUMBER = "64512"


class Result(NamedTuple):
    """One resource, or everything of a kind (``listed``, with the revision of the list)."""

    kind: str
    items: Sequence[Any]
    listed: bool
    revision: str = ""


def configure(_name: str, parser: argparse.ArgumentParser) -> None:
    from calico_kernel.cli.common import add_file_options

    parser.add_argument("kind", nargs="?", metavar="KIND", help="a kind, e.g. networkpolicy, np, nodes")
    parser.add_argument("names", nargs="*", metavar="NAME", help="names; none means all of the kind")
    add_file_options(parser, required=False)
    parser.add_argument(
        "-o",
        "--output",
        default="ps",
        metavar="FORMAT",
        help="ps, wide, name, yaml, json, custom-columns=A,B, jsonpath=TEMPLATE or jsonpath-file=FILE",
    )
    parser.add_argument("-A", "-a", "--all-namespaces", action="store_true", help="of every namespace")
    parser.add_argument("--all-namespaces-a", dest="all_namespaces", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--export", action="store_true", help="leave out what belongs to this cluster alone")


def run(_name: str, args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli.common import Refused, check_version

    write = writer(args.output, show_namespace=args.all_namespaces or bool(args.namespace))
    if write is None:
        said = f"unrecognized output format '{args.output}'"
        if args.output.startswith("go-template"):
            said += "; Go templates are not offered: -o jsonpath='{range .items[*]}{.metadata.name}{\"\\n\"}{end}'"
        raise Refused(said)
    _ = session.composition  # plugins' kinds are known from here on
    wanted = _wanted(args)
    check_version(args, session)
    results: list[Result] = []
    errors: list[str] = []
    for kind, name, namespace in wanted:
        try:
            results.append(_one(session, kind, name, namespace))
        except CalicoError as exc:
            errors.append(described(exc).rstrip("\n"))
    if args.export and any(name for _, name, _ in wanted):
        results = [one._replace(items=[_exported(item) for item in one.items]) for one in results]
    try:
        write(results, session)
    except KeyError as exc:
        raise Refused(str(exc.args[0])) from exc
    if errors:
        print("\n".join(errors), file=sys.stderr)
    return 1 if errors else 0


def _wanted(args: argparse.Namespace) -> list[tuple[str, str, str]]:
    """(kind, name or "", namespace or "" for all)."""
    from calico_kernel.cli.common import Refused, placed
    from calico_kernel.model.kinds import KINDS, lookup

    if args.filename is not None:
        from calico_kernel.cli.write import gather

        resources = [placed(one.resource, args.namespace) for one in gather(args)]
        return [(one.kind, one.metadata.name, one.metadata.namespace) for one in resources]
    if not args.kind:
        raise Refused("no resources specified")
    info = lookup(args.kind)
    if info is None or info.internal:
        raise Refused(f"failed to get resources: resource type '{args.kind}' is not supported")
    if "" in args.names:
        raise Refused("failed to get resources: resource name may not be empty")
    if not KINDS[info.kind].namespaced:
        if args.namespace or args.all_namespaces:
            raise Refused(f"{info.kind} is not namespaced")
        return [(info.kind, name, "") for name in args.names or [""]]
    if args.namespace and args.all_namespaces:
        raise Refused("cannot use both --namespace and --all-namespaces flags at the same time")
    if args.names and args.all_namespaces:
        raise Refused("cannot use --all-namespace flag for getting a single resource")
    namespace = "" if args.all_namespaces else args.namespace or "default"
    return [(info.kind, name, namespace) for name in args.names or [""]]


def _one(session: Session, kind: str, name: str, namespace: str) -> Result:
    if name:
        return Result(kind, [session.client.get(kind, name, namespace)], listed=False)
    found = session.client.list(kind, namespace)
    for key, reason in found.malformed:
        from calico_kernel.cli.output import visible
        from calico_kernel.client.common import name_of

        print(visible(f"{name_of(key)} is malformed and {reason}"), file=sys.stderr)
    items = list(found.items)
    if kind == "Tier":
        items.sort(key=lambda tier: (tier.spec.order, tier.metadata.name))
    return Result(kind, items, listed=True, revision=found.revision)


def _exported(resource: Any) -> Any:
    import msgspec

    metadata = msgspec.structs.replace(
        resource.metadata,
        namespace="",
        uid="",
        resource_version="",
        creation_timestamp=None,
        deletion_timestamp=None,
        deletion_grace_period_seconds=None,
    )
    return msgspec.structs.replace(resource, metadata=metadata)


# ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────────────

Write = Callable[[Sequence[Result], "Session"], None]


def writer(output: str, *, show_namespace: bool) -> Write | None:
    """How to write in the format asked for; None when there is no such format."""
    key, _, value = output.partition("=")
    if key in {"yaml", "yml"}:
        return _write_yaml
    if key == "json":
        return _write_json
    if key == "name":
        return _write_names
    if key in {"ps", "wide"}:
        return lambda results, session: _write_tables(results, session, None, key == "wide", show_namespace)
    if key == "custom-columns" and value:
        headings = tuple(value.split(","))
        return lambda results, session: _write_tables(results, session, headings, False, show_namespace)
    if key in {"jsonpath", "jsonpath-file"} and value:
        return _jsonpath(value, from_file=key == "jsonpath-file")
    return None


def _objects(results: Sequence[Result]) -> Any:
    from calico_kernel.cli.documents import plain
    from calico_kernel.model.kinds import KINDS

    made: list[Any] = []
    for result in results:
        items = [plain(item) for item in result.items]
        if not result.listed:
            made += items
            continue
        made.append(
            {
                "kind": f"{result.kind}List",
                "apiVersion": KINDS[result.kind].type().api_version,
                "metadata": {"resourceVersion": result.revision},
                "items": items,
            }
        )
    return made[0] if len(made) == 1 else made


def _write_yaml(results: Sequence[Result], _session: Session) -> None:
    from calico_kernel.cli.output import yaml_text

    sys.stdout.write(yaml_text(_objects(results)))


def _write_json(results: Sequence[Result], _session: Session) -> None:
    from calico_kernel.cli.output import json_text

    sys.stdout.write(json_text(_objects(results)) + "\n")


def _jsonpath(given: str, *, from_file: bool) -> Write:
    from pathlib import Path

    from calico_kernel.cli.common import Refused
    from calico_kernel.cli.jsonpath import TemplateError, compiled
    from calico_kernel.cli.output import visible

    try:
        template = compiled(Path(given).read_text(encoding="utf-8") if from_file else given)
    except (TemplateError, UnicodeDecodeError) as exc:
        raise Refused(f"error parsing jsonpath {given}: {exc}") from exc

    def write(results: Sequence[Result], _session: Session) -> None:
        text = template(_objects(results))
        # A script gets the values as they are; a terminal must not obey them.
        sys.stdout.write("\t".join(visible(cell) for cell in text.split("\t")) if sys.stdout.isatty() else text)

    return write


def _write_names(results: Sequence[Result], _session: Session) -> None:
    for result in results:
        for item in result.items:
            namespace = f"{item.metadata.namespace}/" if item.metadata.namespace else ""
            print(f"{result.kind.lower()}/{namespace}{item.metadata.name}")


def _write_tables(
    results: Sequence[Result], session: Session, headings: tuple[str, ...] | None, wide: bool, show_namespace: bool
) -> None:
    from calico_kernel.cli.kindtables import table_for
    from calico_kernel.cli.output import columns
    from calico_kernel.model.kinds import KINDS

    for result in results:
        namespaced = KINDS[result.kind].namespaced
        table = table_for(result.kind, namespaced=namespaced)
        shown = headings if headings is not None else table.wide if wide else table.short
        if show_namespace and "NAMESPACE" in table.cells and "NAMESPACE" not in shown:
            shown = ("NAMESPACE", *shown)
        unknown = next((heading for heading in shown if heading not in table.cells), None)
        if unknown is not None:
            raise KeyError(f"unknown heading {unknown}, valid values are: {', '.join(table.cells)}")
        rows = [[table.cells[heading](item) for heading in shown] for item in result.items]
        if result.kind == "Node" and "ASN" in shown:
            _inherit_as_number(rows, shown.index("ASN"), result, session)
        sys.stdout.write(columns([shown, *rows]) + "\n")


def _inherit_as_number(rows: list[list[str]], column: int, result: Result, session: Session) -> None:
    """A node without an AS number of its own shows the cluster's, in parentheses."""
    inherited = ""
    for row, node in zip(rows, result.items, strict=True):
        if row[column] or node.spec.bgp is None:
            continue
        if not inherited:
            try:
                number = session.client.get("BGPConfiguration", "default").spec.as_number
                inherited = str(number) if number is not None else DEFAULT_AS_NUMBER
            except NotFound:
                inherited = DEFAULT_AS_NUMBER
            except CalicoError:
                inherited = "unknown"
        row[column] = f"({inherited})"
