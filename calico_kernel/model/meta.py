"""Metadata and the base of every ``projectcalico.org/v3`` resource.

Wire types are msgspec structs (decoded at C speed, frozen, camelCase on the wire); lists are tuples. Field order is the
order of Calico's JSON. A field that Go leaves out when empty has a plain default; one that Go always writes, even when
it is zero, has a ``default_factory`` (``always`` below), which msgspec does not take for "unset". Decoding ignores
unknown fields, as Calico's readers do; ``model.documents`` refuses them where a person wrote the document.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar, dataclass_transform

from msgspec import Struct, field

from calico_kernel.model.types import Annotations, Labels

API_VERSION = "projectcalico.org/v3"

T = TypeVar("T")


def always(zero: T, *, name: str | None = None) -> T:
    """A field with default ``zero`` that is written even when it holds that default. ``zero`` must be immutable."""
    made: T = field(default_factory=lambda: zero, name=name)
    return made


def always_map(*, name: str | None = None) -> Any:
    """A map that is written even when it is empty."""
    return field(default_factory=lambda: {}, name=name)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class Wire(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel", gc=False):
    """Base of all that is stored or sent: frozen, keyword-only, defaults left out. A tree can hold no cycle, so the
    garbage collector need not walk it."""


class OwnerReference(Wire):
    api_version: str = always("")
    kind: str = always("")
    name: str = always("")
    uid: str = always("")
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
    labels: Labels = field(default_factory=dict)
    annotations: Annotations = field(default_factory=dict)
    owner_references: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()


class Condition(Wire):
    """Kubernetes ``metav1.Condition``."""

    type: str = always("")
    status: str = always("")
    observed_generation: int = 0
    last_transition_time: str | None = always(None)
    reason: str = always("")
    message: str = always("")


class ConditionsStatus(Wire):
    conditions: tuple[Condition, ...] = ()


class Resource(Wire, tag_field="kind"):
    """Base of every kind. A subclass sets ``tag=`` to its kind and adds ``spec`` (and ``status``)."""

    api_version: str = always(API_VERSION)
    metadata: ObjectMeta = field(default_factory=ObjectMeta)

    namespaced: ClassVar[bool] = False
    plural: ClassVar[str] = ""
    aliases: ClassVar[tuple[str, ...]] = ()
    """Other names that people may use for a plugin's kind."""

    @property
    def kind(self) -> str:
        tag: Any = self.__struct_config__.tag
        return str(tag)
