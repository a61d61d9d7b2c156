"""``calicoctl convert``: manifests of other APIs as ``projectcalico.org/v3`` resources.

In:    files of Calico's first API (``apiVersion: v1``), of Kubernetes, of Calico's custom resources there, or of v3
       already (which pass as they are).
Out:   YAML or JSON for ``apply``; what became different, and what has no part in Calico, on standard error.

Nothing is written where one document cannot be converted: half a set of policies must not be piped into ``apply``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from calico_kernel.cli.output import visible
from calico_kernel.errors import CalicoError, ValidationError
from calico_kernel.model.wellknown import CRD_GROUP

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session
    from calico_kernel.hookspecs import Validator


class Converted(NamedTuple):
    """``source``: the document in words, with its file."""

    source: str
    resource: Any


def configure(_name: str, parser: argparse.ArgumentParser) -> None:
    from calico_kernel.cli.common import add_file_options

    add_file_options(parser, required=True)
    parser.add_argument(
        "-o", "--output", choices=["yaml", "yml", "json"], default="yaml", help="yaml (default) or json"
    )
    parser.add_argument("--ignore-validation", action="store_true", help="do not check what was made")
    parser.add_argument(
        "--from",
        dest="origin",
        choices=["auto", "calico", "kubernetes"],
        default="auto",
        help="what apiVersion v1 means; auto: kind Node is Kubernetes', node is Calico's",
    )


def run(_name: str, args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli.common import Refused
    from calico_kernel.cli.documents import plain
    from calico_kernel.cli.output import json_text, yaml_text

    composition = session.plugins_or_none()
    wrong: list[str] = []
    made = list(_converted(args, wrong))
    wrong += _clashes(made)
    if not args.ignore_validation:
        validators = composition.validators() if composition is not None else ()
        invalid = [said for one in made for said in _invalid(one, validators)]
        if invalid:
            invalid.append("re-run the command with --ignore-validation to see what was made")
        wrong += invalid
    if wrong:
        raise Refused("failed to execute command: " + "\n".join(wrong))
    if not made:
        raise Refused("no resources specified")
    objects = [plain(_without_identity(one.resource)) for one in made]
    printed = objects[0] if len(objects) == 1 else objects
    sys.stdout.write(json_text(printed) + "\n" if args.output == "json" else yaml_text(printed))
    return 0


def _converted(args: argparse.Namespace, wrong: list[str]) -> Iterable[Converted]:
    from calico_kernel.cli.files import read

    for file, documents in read(args.filename, wrong, recursive=args.recursive):
        if not documents and not args.skip_empty:
            wrong.append(f"no resources specified in file {file}")
        for document in documents:
            from calico_kernel.cli.sources import irrelevant

            source = _called(document, file)
            if irrelevant(document) or _elsewhere(document):
                print(visible(f"{source} is passed over: there is no Calico resource for it"), file=sys.stderr)
                continue
            try:
                yield Converted(source, _one(document, source, args))
            except CalicoError as exc:
                wrong.append(_said(exc, file))


def _one(document: dict[str, Any], source: str, args: argparse.Namespace) -> Any:
    from calico_kernel.cli.common import placed
    from calico_kernel.cli.documents import resource_from
    from calico_kernel.model import upgrade
    from calico_kernel.selector import parse

    first_api = document.get("apiVersion") == upgrade.API_VERSION
    if first_api and (args.origin == "calico" or (args.origin == "auto" and upgrade.supported(document))):
        done = upgrade.upgrade(document, selector_check=parse)
        for note in done.notes:
            print(visible(f"{source}: {note}"), file=sys.stderr)
        return done.resource
    if document.get("apiVersion") == CRD_GROUP:
        document = upgrade.from_custom_resource(document)
    read = resource_from(document, args.namespace)
    return _own(read.resource) if read.converted else placed(read.resource, args.namespace)


def _own(resource: Any) -> Any:
    """A converted policy as one that people manage: the reserved name is for what mirrors Kubernetes."""
    import msgspec

    from calico_kernel.model.wellknown import KUBERNETES_CLUSTER_POLICY_PREFIX, KUBERNETES_POLICY_PREFIX

    if not resource.kind.endswith("NetworkPolicy"):
        return resource
    name = resource.metadata.name.removeprefix(KUBERNETES_POLICY_PREFIX).removeprefix(KUBERNETES_CLUSTER_POLICY_PREFIX)
    return msgspec.structs.replace(resource, metadata=msgspec.structs.replace(resource.metadata, name=name))


def _without_identity(resource: Any) -> Any:
    """Without what one API server or datastore gave it."""
    import msgspec

    metadata = msgspec.structs.replace(
        resource.metadata,
        uid="",
        resource_version="",
        generation=0,
        creation_timestamp=None,
        deletion_timestamp=None,
        deletion_grace_period_seconds=None,
    )
    return msgspec.structs.replace(resource, metadata=metadata)


def _called(document: dict[str, Any], file: str) -> str:
    from calico_kernel.model.upgrade import title

    return title(document) + ("" if file == "-" else f" of {file}")


def _elsewhere(document: dict[str, Any]) -> bool:
    """What Calico reads where it is, in the Kubernetes API, and the records of IPAM, which only IPAM may write."""
    return (document.get("apiVersion"), document.get("kind")) in {
        ("v1", "Service"),
        ("discovery.k8s.io/v1", "EndpointSlice"),
        *((CRD_GROUP, kind) for kind in ("BlockAffinity", "IPAMBlock", "IPAMHandle")),
    }


def _said(exc: CalicoError, file: str) -> str:
    from calico_kernel.cli.files import said

    text = said(exc) if isinstance(exc, ValidationError) else exc.what
    return text if file == "-" else f"{file}: {text}"


def _clashes(made: Sequence[Converted]) -> Iterable[str]:
    """Two documents that would be one resource; ``apply`` would keep the last alone."""
    from calico_kernel.model.documents import describe, to_builtins

    first: dict[tuple[str, str, str], str] = {}
    for one in made:
        meta = one.resource.metadata
        taken = first.setdefault((one.resource.kind, meta.namespace, meta.name), one.source)
        if taken is not one.source:
            yield f"{taken} and {one.source} would both be {describe(to_builtins(one.resource))}"


def _invalid(one: Converted, validators: Sequence[Validator]) -> Iterable[str]:
    from calico_kernel.client import rules

    try:
        rules.validate(rules.prepare(one.resource), validators, [])
    except ValidationError as exc:
        fields = "; ".join(f"{path}: {reason}" for path, reason in exc.problems)
        yield f"{one.source} became {exc.subject}, which is not valid: {fields}"
