"""Identities of stored records, and their paths (byte for byte Calico's etcd keys).

``path(key)`` and ``parse(path)`` are inverses; ``prefix(query)`` is what a store lists to answer a query.
"""

from __future__ import annotations

from msgspec import Struct


class ResourceKey(Struct, frozen=True, order=True):
    """A ``projectcalico.org/v3`` resource; ``namespace`` is "" for global kinds."""

    kind: str
    namespace: str
    name: str


class BlockKey(Struct, frozen=True, order=True):
    cidr: str


class BlockAffinityKey(Struct, frozen=True, order=True):
    """``type``: host or virtual; ``owner``: the node, or e.g. load-balancer."""

    type: str
    owner: str
    cidr: str


class HandleKey(Struct, frozen=True, order=True):
    handle: str


class IpamConfigKey(Struct, frozen=True, order=True):
    pass


class IpamHostKey(Struct, frozen=True, order=True):
    node: str


Key = ResourceKey | BlockKey | BlockAffinityKey | HandleKey | IpamConfigKey | IpamHostKey


class ResourceQuery(Struct, frozen=True):
    """Resources of one kind; of one namespace unless None; whose name starts with ``name_prefix``."""

    kind: str
    namespace: str | None = None
    name_prefix: str = ""


class BlockQuery(Struct, frozen=True):
    version: int | None = None


class BlockAffinityQuery(Struct, frozen=True):
    type: str | None = None
    owner: str | None = None
    version: int | None = None


class HandleQuery(Struct, frozen=True):
    pass


class IpamConfigQuery(Struct, frozen=True):
    pass


Query = ResourceQuery | BlockQuery | BlockAffinityQuery | HandleQuery | IpamConfigQuery
