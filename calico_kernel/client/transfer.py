"""A cluster as one text, in the format of ``calicoctl datastore migrate export``, and back.

In:    a locked datastore, or what Calico's or our own export wrote.
Out:   lists of 17 kinds, ClusterInformation and the IPAM records; or a datastore that holds them, locked.

As in Calico the text is meant for a cluster that makes its workloads anew: uids, times, WorkloadEndpoints and Profiles
are not in it, and Nodes take the names that Kubernetes knows them by. ``calico_kernel.client.migrate`` copies all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec
from msgspec import Struct

from calico_kernel.client.common import now, with_metadata
from calico_kernel.client.lock import INFORMATION, Marker, marked, marker_of
from calico_kernel.client.migrate import everything
from calico_kernel.client.setup import ensure_initialized
from calico_kernel.errors import AlreadyExists, CalicoError, DatastoreError, NotPermitted, ValidationError
from calico_kernel.model import codec, keys, wellknown
from calico_kernel.model.keys import (
    BlockAffinityKey,
    BlockAffinityQuery,
    BlockKey,
    BlockQuery,
    HandleKey,
    HandleQuery,
    IpamConfigKey,
    IpamConfigQuery,
    Key,
    Query,
    ResourceKey,
)
from calico_kernel.model.meta import API_VERSION, Resource
from calico_kernel.model.records import Malformed

if TYPE_CHECKING:
    from calico_kernel.client.client import Client
    from calico_kernel.model.records import Value

KINDS = (
    "IPPool",
    "BGPPeer",
    "Tier",  # before the policies in them
    "GlobalNetworkPolicy",
    "StagedGlobalNetworkPolicy",
    "GlobalNetworkSet",
    "HostEndpoint",
    "KubeControllersConfiguration",
    "NetworkPolicy",
    "StagedNetworkPolicy",
    "StagedKubernetesNetworkPolicy",
    "NetworkSet",
    "Node",  # before what has a node's name in its own
    "BGPConfiguration",
    "FelixConfiguration",
    "IPReservation",
    "BGPFilter",
)
"""What is exported, in Calico's order."""
TUNNEL_HANDLES = tuple(f"{kind}-tunnel-addr-" for kind in ("ipip", "vxlan", "vxlan-v6", "wireguard", "wireguard-v6"))
KUBERNETES_POLICIES = (wellknown.KUBERNETES_POLICY_PREFIX, wellknown.KUBERNETES_CLUSTER_POLICY_PREFIX)
"""Made of Kubernetes' own policies, which the other cluster has."""
SECTION = b"===\n"
TITLED = (
    "default_endpoint_to_host_action",
    "iptables_filter_allow_action",
    "iptables_mangle_allow_action",
    "iptables_filter_deny_action",
)
"""Fields of FelixConfiguration that Calico's v1 API wrote in capitals."""


class Exported(Struct, frozen=True, kw_only=True):
    """``lists``: one object for each kind, with its ``items``. ``warnings``: what a reader should know."""

    lists: Sequence[Mapping[str, Any]]
    information: Resource
    ipam: Mapping[str, Any]
    warnings: Sequence[str] = ()


class Parsed(Struct, frozen=True, kw_only=True):
    """``digest``: of the whole text, so that an import that was broken off is known again."""

    resources: Sequence[Resource]
    information: Any
    ipam: Sequence[tuple[Key, Value]]
    digest: str


class Loaded(Struct, frozen=True, kw_only=True):
    """Counts of what is stored now; ``errors`` of what is not."""

    applied: int
    ipam: int
    errors: Sequence[CalicoError] = ()


# ── export ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def export(client: Client) -> Exported:
    """Read everything. Raises DatastoreError for a record that does not decode: it would be missing from the text."""
    lists: list[Mapping[str, Any]] = []
    warnings: list[str] = []
    names: dict[str, str] = {}
    for kind in KINDS:
        found = client.list(kind)
        for key, reason in found.malformed:
            raise DatastoreError(
                what=f"{key.kind} {key.namespace}/{key.name} does not decode, so it cannot be exported: {reason}",
                todo="correct or delete it; `datastore migrate copy` carries also such records",
            )
        items = [_cleaned(item) for item in found.items if not item.metadata.name.startswith(KUBERNETES_POLICIES)]
        if kind == "Node":
            items = [_renamed_node(node, names, warnings) for node in items]
        elif kind in {"BGPConfiguration", "FelixConfiguration"}:
            items = [_of_node(item, names) for item in items]
        lists.append(
            {
                "kind": f"{kind}List",
                "apiVersion": API_VERSION,
                "metadata": {"resourceVersion": found.revision},
                "items": items,
            }
        )
    information = client.get(INFORMATION.kind, INFORMATION.name)
    return Exported(lists=lists, information=information, ipam=_ipam(client, names), warnings=warnings)


def _cleaned(resource: Resource) -> Resource:
    return with_metadata(
        resource,
        uid="",
        resource_version="",
        creation_timestamp=None,
        deletion_timestamp=None,
        deletion_grace_period_seconds=None,
    )


def _renamed_node(node: Any, names: dict[str, str], warnings: list[str]) -> Resource:
    name = node.metadata.name
    for reference in node.spec.orch_refs:
        if reference.orchestrator == "k8s" and reference.node_name:
            names[name] = reference.node_name
    if name not in names:
        warnings.append(
            f"node {name} has no 'k8s' orchestrator reference and keeps its name; Kubernetes may not know it"
        )
    annotations = {
        key: text for key, text in node.metadata.annotations.items() if key != wellknown.KUBERNETES_LABELS_ANNOTATION
    }
    renamed: Resource = with_metadata(node, name=names.get(name, name), annotations=annotations)
    return renamed


def _of_node(config: Any, names: Mapping[str, str]) -> Resource:
    prefix, _, node = config.metadata.name.partition("node.")
    if not prefix and node in names:
        config = with_metadata(config, name=f"node.{names[node]}")
    if config.kind == "FelixConfiguration":
        given = {field: getattr(config.spec, field) for field in TITLED}
        titled = {field: text.capitalize() for field, text in given.items() if text}
        config = msgspec.structs.replace(config, spec=msgspec.structs.replace(config.spec, **titled))
    return cast(Resource, config)


def _ipam(client: Client, names: Mapping[str, str]) -> dict[str, Any]:
    """Keys and values as they are stored, under Calico's names of the four kinds; one without records is left out."""
    sections: dict[str, list[dict[str, Any]]] = {"block_affinities": [], "blocks": [], "handles": [], "config": []}
    queries: list[Query] = [BlockAffinityQuery(), BlockQuery(), HandleQuery(), IpamConfigQuery()]
    for record in client.store.list(queries).records:
        if isinstance(record.value, Malformed):
            raise DatastoreError(
                what=f"{keys.path(record.key)} does not decode, so it cannot be exported: {record.value.reason}",
                todo="see calicoctl ipam check; `datastore migrate copy` carries also such records",
            )
        key, value = record.key, msgspec.json.decode(codec.encode(record.value))
        section = "config"
        if isinstance(key, BlockAffinityKey):
            section, key = "block_affinities", BlockAffinityKey(key.type, names.get(key.owner, key.owner), key.cidr)
        elif isinstance(key, BlockKey):
            section = "blocks"
            _rename_in_block(value, names)
        elif isinstance(key, HandleKey):
            section, key = "handles", HandleKey(_tunnel(key.handle, names))
        sections[section].append({"Key": keys.path(key), "Value": value, "TTL": 0})
    made: dict[str, Any] = {section: found for section, found in sections.items() if found}
    if "config" in made:
        made["config"] = made["config"][0]
    return made


def _rename_in_block(block: dict[str, Any], names: Mapping[str, str]) -> None:
    kind, _, owner = (block.get("affinity") or "").partition(":")
    if kind == "host" and owner in names:
        block["affinity"] = f"host:{names[owner]}"
    for attribute in block.get("attributes") or ():
        for owners in (attribute.get("secondary"), attribute.get("alternateOwnerAttrs")):
            if owners and owners.get("node") in names:
                owners["node"] = names[owners["node"]]
        if attribute.get("handle_id"):
            attribute["handle_id"] = _tunnel(attribute["handle_id"], names)


def _tunnel(handle: str, names: Mapping[str, str]) -> str:
    for prefix in TUNNEL_HANDLES:
        if handle.startswith(prefix):
            node = handle[len(prefix) :]
            return prefix + names.get(node, node)
    return handle


# ── import ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def parse(text: bytes, source: str = "") -> Parsed:
    """Read what an export wrote. Raises ValidationError naming what is wrong; nothing was touched."""
    from calico_kernel.model.cluster import ClusterInformation
    from calico_kernel.model.documents import read_resources

    parts = text.split(SECTION)
    if len(parts) != 3:
        raise ValidationError(
            source or "the file", [("", f"has {len(parts)} sections where an export has 3; export it again")]
        )
    try:
        information = msgspec.json.decode(parts[1], type=ClusterInformation)
        ipam = msgspec.json.decode(parts[2], type=dict[str, Any])
    except msgspec.DecodeError as exc:
        raise ValidationError(source or "the file", [("", f"its JSON cannot be read: {exc}")]) from exc
    return Parsed(
        resources=read_resources(parts[0], source=source),
        information=information,
        ipam=list(_ipam_records(ipam, source)),
        digest=hashlib.sha256(text).hexdigest(),
    )


def _ipam_records(ipam: Mapping[str, Any], source: str) -> Iterable[tuple[Key, Value]]:
    for section in ("block_affinities", "blocks", "handles"):
        for number, pair in enumerate(ipam.get(section) or ()):
            yield _ipam_record(pair, f"{section}[{number}]", source)
    if ipam.get("config"):
        key, value = _ipam_record({**ipam["config"], "Key": keys.path(IpamConfigKey())}, "config", source)
        yield key, value


def _ipam_record(pair: Any, where: str, source: str) -> tuple[Key, Value]:
    subject = source or "the file"
    if not isinstance(pair, dict) or not isinstance(pair.get("Key"), str) or not isinstance(pair.get("Value"), dict):
        raise ValidationError(subject, [(where, "is no Key with a Value")])
    key = keys.parse(pair["Key"])
    if key is None or isinstance(key, ResourceKey):
        raise ValidationError(subject, [(where, f"{pair['Key']!r} is no key of an IPAM record")])
    value = codec.decode(key, msgspec.json.encode(pair["Value"]))
    if isinstance(value, Malformed):
        raise ValidationError(subject, [(where, f"does not decode: {value.reason}")])
    return key, value


def load(client: Client, parsed: Parsed) -> Loaded:
    """Store what was parsed; the datastore is locked and stays so. Goes on where an import of the same text was broken
    off or hit errors. Raises NotPermitted when the datastore holds anything else than Nodes, whose agents may run."""
    ensure_initialized(client)
    _admit(client, parsed)
    errors: list[CalicoError] = []
    applied = stored = 0
    for resource in parsed.resources:
        try:
            client.apply(resource)
            applied += 1
        except CalicoError as exc:
            errors.append(exc)
    for key, value in parsed.ipam:
        try:
            _create_same(client, key, value)
            stored += 1
        except CalicoError as exc:
            errors.append(exc)
    spec = parsed.information.spec

    def finished(information: Any) -> Any:
        marker = marker_of(information) if errors else None
        merged = msgspec.structs.replace(
            information.spec,
            cluster_guid=spec.cluster_guid or information.spec.cluster_guid,
            calico_version=spec.calico_version or information.spec.calico_version,
        )
        return marked(msgspec.structs.replace(information, spec=merged), marker, ready=False)

    client.change(INFORMATION.kind, INFORMATION.name, "", finished)
    return Loaded(applied=applied, ipam=stored, errors=errors)


def _admit(client: Client, parsed: Parsed) -> None:
    information = client.get(INFORMATION.kind, INFORMATION.name)
    marker = marker_of(information)
    if marker is not None and marker.id == parsed.digest:
        return
    if marker is not None:
        raise NotPermitted(
            what=f"another migration into or out of this datastore was begun at {marker.begun} and is not finished",
            todo="finish it, or give it up with `calicoctl datastore migrate unlock --force`",
        )
    own = {INFORMATION, *(ResourceKey("Tier", "", name) for name in wellknown.TIERS)}
    for record in client.store.list(everything()).records:
        is_node = isinstance(record.key, ResourceKey) and record.key.kind == "Node"
        if record.key not in own and not is_node and not client.store.derived_from(record.key):
            raise NotPermitted(
                what=f"datastore already has Calico resources: {keys.path(record.key)}",
                kept="the datastore as it was",
                todo="import into an empty datastore",
            )
    begun = Marker(id=parsed.digest, role="import", begun=now(), ready=False)
    client.change(INFORMATION.kind, INFORMATION.name, "", lambda stored: marked(stored, begun, ready=False))


def _create_same(client: Client, key: Key, value: Value) -> None:
    try:
        client.store.create(key, value)
    except AlreadyExists:
        if codec.encode(client.store.get(key).value) != codec.encode(value):
            raise
