"""Identities of stored records, and their paths (byte for byte Calico's etcd keys).

``path(key)`` and ``parse(path)`` are inverses; ``prefix(query)`` is what a store lists to answer a query, and
``matches(query, key)`` decides of what it then finds. A ``/`` or ``%`` inside a name (Calico allows neither) is written
``%2f``, ``%25``, so that no name, whoever chose it, can reach into another record's path.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from msgspec import Struct

from calico_kernel.model.kinds import KINDS, PLURALS

if TYPE_CHECKING:
    from calico_kernel.model.meta import Resource


class ResourceKey(Struct, frozen=True, order=True, gc=False):
    """A ``projectcalico.org/v3`` resource; ``namespace`` is "" for global kinds."""

    kind: str
    namespace: str
    name: str


class BlockKey(Struct, frozen=True, order=True, gc=False):
    cidr: str


class BlockAffinityKey(Struct, frozen=True, order=True, gc=False):
    """``type``: host or virtual; ``owner``: the node, or e.g. load-balancer."""

    type: str
    owner: str
    cidr: str


class HandleKey(Struct, frozen=True, order=True, gc=False):
    handle: str


class IpamConfigKey(Struct, frozen=True, order=True, gc=False):
    pass


class IpamHostKey(Struct, frozen=True, order=True, gc=False):
    node: str


class NodeStatusKey(Struct, frozen=True, order=True, gc=False):
    """That the agent of a node lives; goes by itself when it does not. ``region``: of OpenStack."""

    node: str
    region: str = "no-region"


class LastNodeStatusKey(Struct, frozen=True, order=True, gc=False):
    """The newest report of a node's agent; stays."""

    node: str
    region: str = "no-region"


class WorkloadStatusKey(Struct, frozen=True, order=True, gc=False):
    """The status of one local workload endpoint, as its node's agent reports it."""

    node: str
    orchestrator: str
    workload: str
    endpoint: str
    region: str = "no-region"


class HostEndpointStatusKey(Struct, frozen=True, order=True, gc=False):
    node: str
    endpoint: str


StatusKey = NodeStatusKey | LastNodeStatusKey | WorkloadStatusKey | HostEndpointStatusKey
"""What agents say of themselves and of their endpoints. Not every store keeps it, and no copy of a store carries it."""
Key = ResourceKey | BlockKey | BlockAffinityKey | HandleKey | IpamConfigKey | IpamHostKey | StatusKey


class ResourceQuery(Struct, frozen=True, gc=False):
    """Resources of one kind; of one namespace unless None; whose name starts with ``name_prefix``."""

    kind: str
    namespace: str | None = None
    name_prefix: str = ""


class BlockQuery(Struct, frozen=True, gc=False):
    version: int | None = None


class BlockAffinityQuery(Struct, frozen=True, gc=False):
    type: str | None = None
    owner: str | None = None
    version: int | None = None


class HandleQuery(Struct, frozen=True, gc=False):
    pass


class IpamConfigQuery(Struct, frozen=True, gc=False):
    pass


class IpamHostQuery(Struct, frozen=True, gc=False):
    """The markers of all nodes that have used IPAM."""


class StatusQuery(Struct, frozen=True, gc=False):
    """Reports of nodes and of workload endpoints: of one region and, within it, of one node, unless None."""

    region: str | None = None
    node: str | None = None


class HostEndpointStatusQuery(Struct, frozen=True, gc=False):
    node: str | None = None


Query = (
    ResourceQuery
    | BlockQuery
    | BlockAffinityQuery
    | HandleQuery
    | IpamConfigQuery
    | IpamHostQuery
    | StatusQuery
    | HostEndpointStatusQuery
)

ROOT = "/calico/"
_RESOURCES = "/calico/resources/v3/projectcalico.org/"
_IPAM = "/calico/ipam/v2/"
_BLOCKS = "/calico/ipam/v2/assignment/"
_HANDLES = "/calico/ipam/v2/handle/"
_CONFIG = "/calico/ipam/v2/config"
_STATUS = "/calico/felix/v2/"
_HOST_ENDPOINT_STATUS = "/calico/felix/v1/host/"
_AFFINITY_TYPES = ("host", "virtual")


def key_of(resource: Resource) -> ResourceKey:
    """The key under which ``resource`` is stored."""
    meta = resource.metadata
    return ResourceKey(resource.kind, meta.namespace if resource.namespaced else "", meta.name)


def path(key: Key) -> str:
    """Where a record is stored. Raises KeyError for a kind that is not registered."""
    if isinstance(key, ResourceKey):
        info = KINDS[key.kind]
        if info.namespaced:
            return f"{_RESOURCES}{info.plural}/{_escape(key.namespace)}/{_escape(key.name)}"
        return f"{_RESOURCES}{info.plural}/{_escape(key.name)}"
    if isinstance(key, BlockKey):
        return f"{_BLOCKS}ipv{_version(key.cidr)}/block/{key.cidr.replace('/', '-')}"
    if isinstance(key, BlockAffinityKey):
        return f"{_IPAM}{key.type}/{_escape(key.owner)}/ipv{_version(key.cidr)}/block/{key.cidr.replace('/', '-')}"
    if isinstance(key, HandleKey):
        return _HANDLES + _escape(key.handle)
    if isinstance(key, IpamHostKey):
        return f"{_IPAM}host/{_escape(key.node)}"
    return _CONFIG if isinstance(key, IpamConfigKey) else _status_path(key)


def _status_path(key: StatusKey) -> str:
    if isinstance(key, HostEndpointStatusKey):
        return f"{_HOST_ENDPOINT_STATUS}{_escape(key.node)}/endpoint/{_escape(key.endpoint)}"
    base = f"{_STATUS}{_escape(key.region)}/host/{_escape(key.node)}"
    if isinstance(key, NodeStatusKey):
        return f"{base}/status"
    if isinstance(key, LastNodeStatusKey):
        return f"{base}/last_reported_status"
    return f"{base}/workload/{_escape(key.orchestrator)}/{_escape(key.workload)}/endpoint/{_escape(key.endpoint)}"


def parse(path: str) -> Key | None:
    """The key of a stored path; None for a path that is not one of ours (another program's, an unknown kind)."""
    if path.startswith(_RESOURCES):
        parts = path[len(_RESOURCES) :].split("/")
        info = PLURALS.get(parts[0])
        if info is None or len(parts) != (3 if info.namespaced else 2) or not all(parts):
            return None
        if info.namespaced:
            return ResourceKey(info.kind, _unescape(parts[1]), _unescape(parts[2]))
        return ResourceKey(info.kind, "", _unescape(parts[1]))
    if path.startswith(_IPAM):
        return _parse_ipam(path)
    return _parse_status(path)


def _parse_ipam(path: str) -> Key | None:
    if path == _CONFIG:
        return IpamConfigKey()
    match path[len(_IPAM) :].split("/"):
        case ["assignment", family, "block", text] if (cidr := _cidr(family, text)) is not None:
            return BlockKey(cidr)
        case ["handle", handle] if handle:
            return HandleKey(_unescape(handle))
        case ["host", node] if node:
            return IpamHostKey(_unescape(node))
        case [kind, owner, family, "block", text] if kind in _AFFINITY_TYPES and owner:
            cidr = _cidr(family, text)
            return None if cidr is None else BlockAffinityKey(kind, _unescape(owner), cidr)
    return None


def _parse_status(path: str) -> StatusKey | None:
    if path.startswith(_HOST_ENDPOINT_STATUS):
        match [_unescape(part) for part in path[len(_HOST_ENDPOINT_STATUS) :].split("/")]:
            case [node, "endpoint", endpoint] if node and endpoint:
                return HostEndpointStatusKey(node, endpoint)
    elif path.startswith(_STATUS):
        match [_unescape(part) for part in path[len(_STATUS) :].split("/")]:
            case [region, "host", node, "status"] if region and node:
                return NodeStatusKey(node, region)
            case [region, "host", node, "last_reported_status"] if region and node:
                return LastNodeStatusKey(node, region)
            case [region, "host", node, "workload", orchestrator, workload, "endpoint", endpoint] if all(
                (region, node, orchestrator, workload, endpoint)
            ):
                return WorkloadStatusKey(node, orchestrator, workload, endpoint, region)
    return None


def is_status(key: Key) -> bool:
    return isinstance(key, StatusKey)


def asks_status(query: Query) -> bool:
    return isinstance(query, StatusQuery | HostEndpointStatusQuery)


def prefix(query: Query) -> str:
    """The longest path prefix that every match of ``query`` has."""
    if isinstance(query, ResourceQuery):
        info = KINDS[query.kind]
        base = f"{_RESOURCES}{info.plural}/"
        if not info.namespaced:
            return base + _escape(query.name_prefix)
        return base if query.namespace is None else f"{base}{_escape(query.namespace)}/{_escape(query.name_prefix)}"
    if isinstance(query, BlockQuery):
        return _BLOCKS if query.version is None else f"{_BLOCKS}ipv{query.version}/"
    if isinstance(query, BlockAffinityQuery):
        if query.type is None:
            return _IPAM
        if query.owner is None:
            return f"{_IPAM}{query.type}/"
        family = "" if query.version is None else f"{query.version}/"
        return f"{_IPAM}{query.type}/{_escape(query.owner)}/ipv{family}"
    if isinstance(query, IpamHostQuery):
        return f"{_IPAM}host/"
    if isinstance(query, StatusQuery):
        if query.region is None:
            return _STATUS
        base = f"{_STATUS}{_escape(query.region)}/host/"
        return base if query.node is None else f"{base}{_escape(query.node)}/"
    if isinstance(query, HostEndpointStatusQuery):
        return _HOST_ENDPOINT_STATUS if query.node is None else f"{_HOST_ENDPOINT_STATUS}{_escape(query.node)}/"
    return _HANDLES if isinstance(query, HandleQuery) else _CONFIG


def matches(query: Query, key: Key) -> bool:
    """Whether a record with ``key`` answers ``query``."""
    if isinstance(query, ResourceQuery):
        return (
            isinstance(key, ResourceKey)
            and key.kind == query.kind
            and (query.namespace is None or key.namespace == query.namespace)
            and key.name.startswith(query.name_prefix)
        )
    if isinstance(query, BlockQuery):
        return isinstance(key, BlockKey) and query.version in (None, _version(key.cidr))
    if isinstance(query, BlockAffinityQuery):
        return (
            isinstance(key, BlockAffinityKey)
            and query.type in (None, key.type)
            and query.owner in (None, key.owner)
            and query.version in (None, _version(key.cidr))
        )
    if isinstance(query, IpamHostQuery):
        return isinstance(key, IpamHostKey)
    if isinstance(query, StatusQuery):
        return (
            isinstance(key, NodeStatusKey | LastNodeStatusKey | WorkloadStatusKey)
            and query.region in (None, key.region)
            and query.node in (None, key.node)
        )
    if isinstance(query, HostEndpointStatusQuery):
        return isinstance(key, HostEndpointStatusKey) and query.node in (None, key.node)
    return isinstance(key, HandleKey if isinstance(query, HandleQuery) else IpamConfigKey)


def _version(cidr: str) -> int:
    return 6 if ":" in cidr else 4


@functools.lru_cache(maxsize=65536)
def _cidr(family: str, text: str) -> str | None:
    """``10.65.0.0-26`` as a CIDR, if it is one of that family in canonical form."""
    from ipaddress import ip_network

    cidr = "/".join(text.rsplit("-", 1))
    try:
        network = ip_network(cidr)
    except ValueError:
        return None
    return cidr if family == f"ipv{network.version}" and str(network) == cidr else None


def _escape(name: str) -> str:
    if "/" in name or "%" in name:
        return name.replace("%", "%25").replace("/", "%2f")
    return name


def _unescape(text: str) -> str:
    if "%" in text:
        return text.replace("%2f", "/").replace("%2F", "/").replace("%25", "%")
    return text
