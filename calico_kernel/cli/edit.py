"""``calicoctl patch`` and ``label``: change one stored resource.

In:    a kind, a name, and the change.
Out:   the resource, read, changed and written back; again when somebody else wrote in between.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import msgspec

from calico_kernel.cli.session import described
from calico_kernel.errors import CalicoError

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session


def configure(name: str, parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", metavar="KIND")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("-n", "--namespace", default="", help="namespace of the resource; default: default")
    if name == "patch":
        parser.add_argument("-p", "--patch", required=True, help="JSON or YAML of what to change; null removes a field")
        parser.add_argument("-t", "--type", choices=["strategic", "merge"], default="strategic", help="kind of patch")
        return
    parser.add_argument("label", metavar="KEY=VALUE", help="the label; with --remove, only its key")
    parser.add_argument("--overwrite", action="store_true", help="replace a value that is there")
    parser.add_argument("--remove", action="store_true", help="remove the label")


def run(name: str, args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli.common import Refused, check_version
    from calico_kernel.model.kinds import lookup

    _ = session.composition  # plugins' kinds are known from here on
    info = lookup(args.kind)
    if info is None or info.internal:
        raise Refused(f"resource type '{args.kind}' is not supported")
    if args.namespace and not info.namespaced:
        raise Refused(f"{info.kind} is not namespaced")
    namespace = (args.namespace or "default") if info.namespaced else ""
    check_version(args, session)
    if name == "patch":
        return _patch(info.kind, namespace, args, session)
    return _label(info.kind, namespace, args, session)


def _patch(kind: str, namespace: str, args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli.common import Refused
    from calico_kernel.cli.documents import plain, strict
    from calico_kernel.cli.files import documents
    from calico_kernel.client import rules

    try:
        given = documents(args.patch, "the patch")
        if len(given) != 1:
            raise Refused("hit error: performing strategic merge patch: the patch must be one object")

        def edit(stored: Any) -> Any:
            rules.refuse_read_only(stored, "patch")
            merged = merged_with(plain(stored), given[0])
            changed: Any = strict(merged)
            metadata = msgspec.structs.replace(
                stored.metadata, labels=changed.metadata.labels, annotations=changed.metadata.annotations
            )
            return msgspec.structs.replace(changed, metadata=metadata)

        session.client.change(kind, args.name, namespace, edit)
    except CalicoError as exc:
        raise Refused(f"hit error: {described(exc)}".rstrip("\n")) from exc
    print(f"Successfully patched 1 '{kind}' resource")
    return 0


def merged_with(stored: Any, patch: Any) -> Any:
    """Merge as Kubernetes does where no list has a merge key: maps are merged, null removes, anything else replaces.
    ``$patch: replace`` in a map takes the patch's map instead, ``$patch: delete`` removes it."""
    if not isinstance(stored, dict) or not isinstance(patch, dict):
        return _without_directives(patch)
    directive = patch.get("$patch")
    if directive == "replace":
        return _without_directives(patch)
    if directive == "delete":
        return {}
    merged = dict(stored)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merged_with(merged.get(key), value)
    return merged


def _without_directives(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_directives(item)
            for key, item in value.items()
            if item is not None and not key.startswith("$")
        }
    return value


def _label(kind: str, namespace: str, args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli.common import Refused

    key, equals, value = args.label.partition("=")
    if not args.remove and not equals:
        raise Refused(f"invalid label {args.label}")
    what = f"{args.kind} {args.name}"
    done: list[str] = []

    def edit(stored: Any) -> Any:
        labels = dict(stored.metadata.labels)
        done.clear()
        if args.remove:
            if key not in labels:
                raise Refused(f"cannot remove label of {what}, key {key} does not exist")
            del labels[key]
            done.append(f"removed label {key} from {what}")
        elif key in labels:
            if labels[key] != value and not args.overwrite:
                raise Refused(
                    f"failed to update label of {what}, key {key} is already present. "
                    "please use '--overwrite' to set a new value"
                )
            labels[key] = value
            done.append(f"updated label {key} on {what}")
        else:
            labels[key] = value
            done.append(f"set label {key} on {what}")
        return msgspec.structs.replace(stored, metadata=msgspec.structs.replace(stored.metadata, labels=labels))

    try:
        session.client.change(kind, args.name, namespace, edit)
    except CalicoError as exc:
        raise Refused(f"failed to update {what}, label not changed: {described(exc)}".rstrip("\n")) from exc
    print(f"Successfully {done[0]}")
    return 0
