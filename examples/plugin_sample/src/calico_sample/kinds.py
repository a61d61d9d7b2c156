"""The resource kind ``Owner`` and the check that comes with it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import ClassVar

from msgspec import field

from calico_kernel.hookspecs import Validator
from calico_kernel.model.meta import Resource, Wire, always

OWNER_LABEL = "example.org/owner"
_ADDRESS = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")


class OwnerSpec(Wire):
    """``max_endpoints``: 0 means any number."""

    email: str = ""
    max_endpoints: int = 0


class Owner(Resource, tag="Owner"):
    """Who answers for a workload. Fields are written in camel case: ``maxEndpoints``."""

    api_version: str = always("example.org/v1")
    spec: OwnerSpec = field(default_factory=OwnerSpec)
    plural: ClassVar[str] = "owners"


def _check(resource: Resource) -> Iterable[tuple[str, str]]:
    """Called before every write of any kind, so it looks at the kind first. Pure."""
    if not isinstance(resource, Owner):
        return
    if not _ADDRESS.fullmatch(resource.spec.email):
        yield "spec.email", f"{resource.spec.email!r} is no e-mail address"
    if resource.spec.max_endpoints < 0:
        yield "spec.maxEndpoints", "must not be negative"


OWNER_VALIDATOR = Validator(name="owner", check=_check)
