"""From plain objects to resources, and back to plain objects for printing.

In:    what ``calico_kernel.cli.files`` read, or a stored resource.
Out:   typed resources; Kubernetes' own documents become the Calico resources that Calico's controllers make of them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from calico_kernel.cli import files
from calico_kernel.cli.files import FileError
from calico_kernel.cli.output import visible
from calico_kernel.errors import ValidationError

if TYPE_CHECKING:
    from calico_kernel.model.meta import Resource


class Read(NamedTuple):
    """``converted``: made from a Kubernetes document, so its reserved name is rightful."""

    resource: Any
    converted: bool = False


def resource_from(document: dict[str, Any], namespace: str = "") -> Read:
    """``namespace``: of documents that do not say theirs. What of a Kubernetes document cannot be converted is named on
    standard error. Raises FileError for what is no resource: an unknown kind or field, a wrong type."""
    if str(document.get("apiVersion", "")).startswith("projectcalico.org/"):
        return Read(strict(document))
    from calico_kernel.model import kubernetes

    if not kubernetes.supported(document):
        return Read(strict(document))
    metadata = document.get("metadata")
    if document.get("kind") not in {"Namespace", "ClusterNetworkPolicy"} and isinstance(metadata, dict):
        document = {
            **document,
            "metadata": {**metadata, "namespace": metadata.get("namespace") or namespace or "default"},
        }
    try:
        converted = kubernetes.convert(document)
    except ValidationError as exc:
        raise FileError(files.said(exc)) from exc
    for path, reason in converted.problems:
        said = f"{document['kind']}({metadata_name(document)}): {path} is left out: {reason}"
        print(visible(said), file=sys.stderr)
    return Read(converted.resource, converted=True)


def metadata_name(document: dict[str, Any]) -> str:
    metadata = document.get("metadata")
    return str(metadata.get("name", "")) if isinstance(metadata, dict) else ""


def strict(document: dict[str, Any]) -> Resource:
    """The resource that ``document`` is. Raises FileError naming every wrong field."""
    from calico_kernel.model.documents import to_resource

    if document.get("apiVersion") == "v1":
        from calico_kernel.model import upgrade

        if upgrade.supported(document):
            said = f"{upgrade.title(document)} is of Calico's first API, which is not stored"
            raise FileError(f"{said}; calicoctl convert -f FILE writes it as a v3 resource")
    try:
        return to_resource(document)
    except ValidationError as exc:
        raise FileError(files.said(exc)) from exc


def plain(resource: Any) -> Any:
    """The resource as an object for YAML and JSON: stored fields, and whole numbers without a point."""
    return _whole(msgspec.to_builtins(resource))


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    return value
