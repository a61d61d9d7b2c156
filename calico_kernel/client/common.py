"""Names, times and small edits that the client's modules share."""

from __future__ import annotations

import time
from typing import Any, TypeVar

import msgspec

from calico_kernel.errors import NotPermitted
from calico_kernel.model.keys import ResourceKey, key_of
from calico_kernel.model.meta import Resource

__all__ = ["key_of", "name_of", "new_uid", "now", "refusal", "with_metadata"]

R = TypeVar("R", bound=Resource)


def name_of(key: ResourceKey) -> str:
    """``NetworkPolicy(default/web)``, ``Tier(security)``."""
    return f"{key.kind}({key.namespace}/{key.name})" if key.namespace else f"{key.kind}({key.name})"


def with_metadata(resource: R, **changes: Any) -> R:
    if not changes:
        return resource
    return msgspec.structs.replace(resource, metadata=msgspec.structs.replace(resource.metadata, **changes))


def now() -> str:
    """RFC 3339 in UTC, whole seconds, as Kubernetes writes times."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def new_uid() -> str:
    """A random UUID (RFC 9562, version 4)."""
    import uuid

    return str(uuid.uuid4())


AS_IT_IS = "leave it as it is"
"""What to do about an operation that is never possible; Calico's sentence for it says as much by itself."""


def refusal(operation: str, subject: str, reason: str) -> NotPermitted:
    """``operation delete is not supported on default: ...``."""
    return NotPermitted(
        what=f"operation {operation} is not supported on {subject}: {reason}",
        kept="the stored resource",
        todo=AS_IT_IS,
    )
