"""From plain objects to resources, and back to plain objects for printing.

In:    what ``calico_kernel.cli.files`` read, or a stored resource.
Out:   typed resources; Kubernetes' own documents become the Calico resources that Calico's controllers make of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from calico_kernel.cli.files import FileError, said
from calico_kernel.errors import ValidationError

if TYPE_CHECKING:
    from calico_kernel.model.meta import Resource

KUBERNETES = {("networking.k8s.io/v1", "NetworkPolicy"), ("v1", "Namespace"), ("v1", "ServiceAccount")}


class Read(NamedTuple):
    """``converted``: made from a Kubernetes document, so its reserved name is rightful."""

    resource: Any
    converted: bool = False


def resource_from(document: dict[str, Any]) -> Read:
    """Raises FileError for what is no resource: an unknown kind, a field that does not exist, a wrong type."""
    if (document.get("apiVersion"), document.get("kind")) in KUBERNETES:
        from calico_kernel.model import kubernetes

        try:
            return Read(kubernetes.convert(document), converted=True)
        except ValidationError as exc:
            raise FileError(said(exc)) from exc
    return Read(strict(document))


def strict(document: dict[str, Any]) -> Resource:
    """The resource that ``document`` is. Raises FileError naming every wrong field."""
    from calico_kernel.model.documents import to_resource

    try:
        return to_resource(document)
    except ValidationError as exc:
        raise FileError(said(exc)) from exc


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
