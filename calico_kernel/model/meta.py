"""Metadata and the base of every ``projectcalico.org/v3`` resource.

Wire types are msgspec structs (decoded at C speed, frozen, camelCase on the wire); lists are tuples. Field order is the
order of Calico's JSON. Decoding ignores unknown fields, as Calico's readers do; ``model.strict`` refuses them where a
person wrote the document.
"""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import Struct, field

API_VERSION = "projectcalico.org/v3"


class Wire(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Base of everything that is stored or sent: frozen, keyword-only, defaults left out."""


class OwnerReference(Wire):
    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(Wire):
    """Kubernetes object metadata, the part that Calico keeps. Times are RFC 3339 text."""

    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    owner_references: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()


class Resource(Wire, tag_field="kind"):
    """Base of every kind. A subclass sets ``tag=`` to its kind and adds ``spec`` (and ``status``)."""

    api_version: str = API_VERSION
    metadata: ObjectMeta = field(default_factory=ObjectMeta)

    namespaced: ClassVar[bool] = False
    plural: ClassVar[str] = ""

    @property
    def kind(self) -> str:
        tag: Any = self.__struct_config__.tag
        return str(tag)
