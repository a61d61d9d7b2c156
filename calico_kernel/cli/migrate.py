"""``calicoctl datastore lock``, ``unlock`` and ``migrate``: carry a cluster's data from one datastore to another.

In:    the configuration of the session; for ``copy`` two configuration files.
Out:   Calico's sentences for Calico's commands; for ``copy`` a summary or a JSON report, progress on a terminal.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING

from calico_kernel.errors import CalicoError

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session
    from calico_kernel.client.migrate import CopyReport


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser(
        "migrate-policy-names", help="policies stored before Calico 3.32 lose the prefix default. of their keys"
    )
    migrate = actions.add_parser("migrate", help="carry the data to another datastore")
    inner = migrate.add_subparsers(dest="action", required=True, metavar="ACTION")
    for group in (actions, inner):
        group.add_parser(
            "lock", help="no addresses are assigned and no policy changes reach nodes until it is unlocked"
        )
        unlock = group.add_parser("unlock", help="work goes on")
        unlock.add_argument("--force", action="store_true", help="even where a migration has brought only a part")
    copy = inner.add_parser(
        "copy",
        help="copy everything, addresses included, straight into another datastore, and verify it",
        description="Copies every record, IPAM included, uids and times kept. Both datastores are locked meanwhile; "
        "the source stays locked afterwards. Broken off, the same command goes on where it was.",
    )
    copy.add_argument("--from", dest="source", required=True, metavar="CONFIG", help="calico.yaml of the source")
    copy.add_argument("--to", dest="target", required=True, metavar="CONFIG", help="calico.yaml of the target")
    copy.add_argument("--overwrite", action="store_true", help="replace what the target holds")
    copy.add_argument(
        "--partial",
        action="store_true",
        help="go on without policies whose namespace or Kubernetes policy is not in the target's cluster",
    )
    copy.add_argument(
        "--settle",
        type=float,
        default=None,
        metavar="SECONDS",
        help="wait so long after the lock for writes that began before it (default: 5)",
    )
    copy.add_argument("-o", "--output", choices=["text", "json"], default="text", help="how to report the result")
    inner.add_parser(
        "export", help="write everything in the format of Calico's own export; the datastore must be locked"
    )
    importing = inner.add_parser("import", help="read such a file into a datastore without resources, and lock it")
    importing.add_argument("-f", "--filename", required=True, help="what export wrote, or - for standard input")


def run(args: argparse.Namespace, session: Session) -> int:
    if args.action in {"lock", "unlock"}:
        return _lock(args, session)
    if args.action == "copy":
        return _copy(args)
    if args.action == "export":
        return _export(args, session)
    return _import(args, session)


def _lock(args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.client import lock

    if args.action == "lock":
        lock.lock(session.client)
        print("Datastore locked.")
    else:
        lock.unlock(session.client, force=args.force)
        print("Datastore unlocked.")
    return 0


# ── copy ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _copy(args: argparse.Namespace) -> int:
    from calico_kernel.cli.output import json_text
    from calico_kernel.cli.session import Session
    from calico_kernel.client import migrate

    with contextlib.ExitStack() as stack:
        sessions = [Session(args.source), Session(args.target)]
        for one in sessions:
            stack.callback(one.close)
        try:
            source, target = (one.composition.open_datastore() for one in sessions)
            report = migrate.copy(
                source,
                target,
                overwrite=args.overwrite,
                partial=args.partial,
                settle_s=migrate.SETTLE_S if args.settle is None else args.settle,
                progress=_progress if sys.stderr.isatty() else _silent,
            )
        except CalicoError as exc:
            _clear()
            if args.output != "json":
                raise
            failed = {"error": exc.what, "kept": exc.kept, "todo": exc.todo}
            print(json_text({"from": args.source, "to": args.target, "verified": False, **failed}))
            return 1
    _clear()
    if args.output == "json":
        import msgspec

        print(json_text({"from": args.source, "to": args.target, **msgspec.to_builtins(report)}))
    else:
        print(_said(report, args))
    return 0


def _said(report: CopyReport, args: argparse.Namespace) -> str:
    lines = []
    if report.resumed:
        lines.append(f"Went on with the copy begun at {report.begun}: {report.already_there} records were there.")
    lines.append(
        f"Copied {args.source} to {args.target}: {report.records} records, {report.written} written, "
        f"{report.deleted} deleted; read back and equal."
    )
    if report.undecodable:
        lines.append(f"{len(report.undecodable)} of them do not decode and were copied as they are:")
        lines += [f"  {path}" for path in report.undecodable]
    lines += _left_out(report, args)
    lines.append(f"{args.source} stays locked: two unlocked copies would hand out the same addresses.")
    if report.target_ready:
        lines.append(f"{args.target} is unlocked. Let agents and tools use it from now on.")
    else:
        lines.append(
            f"{args.target} is locked, as the source was before. Let agents and tools use it from now on, then run "
            f"calicoctl -c {args.target} datastore migrate unlock"
        )
    from calico_kernel.cli.output import visible

    return visible("\n".join(lines))


def _left_out(report: CopyReport, args: argparse.Namespace) -> list[str]:
    """What a target made of Kubernetes' objects does not hold, or holds otherwise."""
    lines = []
    if report.underived:
        lines.append(f"{len(report.underived)} of them are not in {args.target}: what they are made of is not there:")
        lines += [f"  {path}: {what}" for path, what in report.underived.items()]
    if report.homeless:
        lines.append(f"{len(report.homeless)} of them have no place in {args.target}:")
        lines += [f"  {path}: {why}" for path, why in report.homeless.items()]
    if report.adjusted:
        lines.append(f"{len(report.adjusted)} of them say something else there, as the cluster's own objects do:")
        lines += [f"  {path}: {', '.join(fields)}" for path, fields in report.adjusted.items()]
    return lines


def _progress(what: str, done: int, total: int) -> None:
    share = f" {done} of {total}" if total else ""
    sys.stderr.write(f"\r\x1b[K{what}{share}")
    sys.stderr.flush()


def _clear() -> None:
    """Take the progress off the terminal."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")


def _silent(_what: str, _done: int, _total: int) -> None:
    return


# ── Calico's export and import ────────────────────────────────────────────────────────────────────────────────────────


def _export(args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli.common import Refused, check_version
    from calico_kernel.client import transfer
    from calico_kernel.client.lock import is_locked

    check_version(args, session)
    if not is_locked(session.client.store):
        raise Refused(
            "datastore is not locked. Run the `calicoctl datastore migrate lock` command in order to begin migration"
        )
    exported = transfer.export(session.client)
    for warning in exported.warnings:
        _warn(warning)
    sys.stdout.write(_exported_text(exported))
    return 0


def _exported_text(exported: transfer.Exported) -> str:
    from calico_kernel.cli.documents import plain
    from calico_kernel.cli.output import json_text, yaml_text

    parts = [yaml_text(plain(one)) + "---\n" for one in exported.lists]
    return "".join(parts) + "===\n" + json_text(exported.information) + "\n===\n" + json_text(exported.ipam) + "\n"


def _import(args: argparse.Namespace, session: Session) -> int:
    from pathlib import Path

    from calico_kernel.cli.common import Refused
    from calico_kernel.cli.session import described
    from calico_kernel.client import transfer
    from calico_kernel.errors import ValidationError

    _ = session.composition  # plugins' kinds are known from here on
    raw = sys.stdin.buffer.read() if args.filename == "-" else Path(args.filename).read_bytes()
    try:
        parsed = transfer.parse(raw, args.filename)
    except ValidationError as exc:
        raise Refused(f"error while reading migration file: {described(exc)}") from exc
    result = transfer.load(session.client, parsed)
    if result.errors:
        for error in result.errors:
            print(described(error).rstrip("\n"), file=sys.stderr)
        print(
            f"{result.applied} resource(s) and {result.ipam} IPAM resource(s) were imported, {len(result.errors)} were "
            "not. The datastore stays locked; mend what is named, then run the same command again",
            file=sys.stderr,
        )
        return 1
    print(f"Successfully applied {result.applied} resource(s)")
    print("Importing IPAM resources")
    print(f"Successfully applied {result.ipam} IPAM resource(s)")
    print("Datastore information successfully imported; it is locked. Run calicoctl datastore migrate unlock to begin.")
    return 0


def _warn(text: str) -> None:
    from calico_kernel.cli.output import visible

    print(visible(f"[WARNING] {text}"), file=sys.stderr)


if TYPE_CHECKING:
    from calico_kernel.client import transfer
