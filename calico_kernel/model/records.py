"""What a datastore hands out: records, listings and watch events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct

from calico_kernel.model.keys import Key
from calico_kernel.model.meta import Resource

if TYPE_CHECKING:
    from calico_kernel.model.ipam import AllocationBlock, IpamConfig, IpamHandle, IpamHost, StoredBlockAffinity
    from calico_kernel.model.status import EndpointStatus, NodeStatus


class Malformed(Struct, frozen=True):
    """A stored value that does not decode: counts as absent; the reason is logged, counted and shown.

    ``instead``: what counts in its place. Only a policy has one: the same policy, denying in the directions it governs,
    so that a rule which cannot be read never opens anything.
    """

    reason: str
    raw: bytes
    instead: Resource | None = None


Value: TypeAlias = (
    "Resource | AllocationBlock | StoredBlockAffinity | IpamHandle | IpamConfig | IpamHost | NodeStatus"
    " | EndpointStatus"
)
"""Text, so that reading a resource does not import what only addresses need."""


class Record(Struct, frozen=True):
    """``revision``: a decimal number; of two revisions of one key, the greater is the newer."""

    key: Key
    value: Value | Malformed
    revision: str


class Listing(Struct, frozen=True):
    """Everything that matched, and the revision to watch from, which is opaque."""

    records: Sequence[Record]
    revision: str


class Event(Struct, frozen=True):
    """``record`` None means deleted."""

    key: Key
    record: Record | None
    revision: str
