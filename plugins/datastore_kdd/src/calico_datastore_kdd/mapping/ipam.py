"""Records of IPAM: blocks, affinities, handles and the configuration, each a custom resource.

In:    IPAMBlock, BlockAffinity, IPAMHandle and IPAMConfig (IPAMConfiguration) objects.
Out:   the records under ``BlockKey``, ``BlockAffinityKey``, ``HandleKey`` and ``IpamConfigKey``; and the way back.

The same objects are no resources here: ``ResourceKey("BlockAffinity", ...)`` and its like have no records, so that
nothing is listed twice. Only the configuration has both views, as in Calico: people write ``IPAMConfiguration``, the
engine its own record, and there is one object behind both.

Calico cannot delete on condition: it marks an object ``deleted`` first, and one so marked counts as absent. Our own
deletions carry their revision, which today's API servers compare, so they need one step.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

import msgspec
from msgspec import field
from msgspec import json as mjson

from calico_datastore_kdd.collection import CRD_GROUP, Collection, Group, Place, Request, Selection
from calico_datastore_kdd.mapping.family import Family, decoded, field_selector, removing, url_of
from calico_datastore_kdd.mapping.reading import Made, PlainReader
from calico_kernel.model import codec
from calico_kernel.model.codec import METADATA_ANNOTATION
from calico_kernel.model.ipam import AllocationBlock, BlockAttributes, IpamConfig, IpamHandle, StoredBlockAffinity
from calico_kernel.model.keys import (
    BlockAffinityKey,
    BlockAffinityQuery,
    BlockKey,
    BlockQuery,
    HandleKey,
    HandleQuery,
    IpamConfigKey,
    IpamConfigQuery,
    IpamHostKey,
    Key,
    Query,
)
from calico_kernel.model.meta import Wire, always, always_map
from calico_kernel.model.records import Malformed, Value

CONFIG_NAME = "default"
NAME_LIMIT = 253
HOSTNAME_HASH = "projectcalico.org/hostname-hash"
AFFINITY_TYPE = "projectcalico.org/affinity-type"
IP_VERSION = "projectcalico.org/ip-version"
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
"""What Kubernetes takes for a name."""
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")


class _Meta(Wire):
    """What of an object's metadata matters here; the rest is not even decoded."""

    name: str = ""
    resource_version: str = ""


class _BlockSpec(Wire):
    cidr: str
    affinity: str | None = None
    affinity_claim_time: str | None = None
    allocations: tuple[int | None, ...] = always(())
    unallocated: tuple[int, ...] = always(())
    attributes: tuple[BlockAttributes, ...] = always(())
    sequence_number: int = always(0)
    sequence_number_for_allocation: dict[str, int] = always_map()
    deleted: bool = always(False)
    strict_affinity: bool = always(False)


class _Block(Wire):
    spec: _BlockSpec
    metadata: _Meta = _Meta()


class _AffinitySpec(Wire):
    """``deleted`` is text under the first group; ``type`` was not written by old releases, and means host."""

    cidr: str
    node: str = ""
    state: str = ""
    type: str = ""
    deleted: str | bool = False


class _Affinity(Wire):
    spec: _AffinitySpec
    metadata: _Meta = _Meta()


class _HandleSpec(Wire):
    handle_id: str = field(name="handleID")
    block: dict[str, int] | None = None
    deleted: bool = False


class _Handle(Wire):
    spec: _HandleSpec
    metadata: _Meta = _Meta()


class _ConfigSpec(Wire):
    strict_affinity: bool = always(False)
    auto_allocate_blocks: bool = always(False)
    max_blocks_per_host: int = 0
    kube_virt_vm_address_persistence: str | None = field(default=None, name="kubeVirtVMAddressPersistence")
    ip_cooldown_seconds: int = 0


class _Config(Wire):
    spec: _ConfigSpec = _ConfigSpec()
    metadata: _Meta = _Meta()


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _block(item: _Block) -> Made:
    spec = item.spec
    key = BlockKey(_canonical(spec.cidr))
    if spec.deleted:
        return key, None, item.metadata.resource_version
    value = AllocationBlock(
        cidr=key.cidr,
        affinity=spec.affinity,
        affinity_claim_time=spec.affinity_claim_time,
        allocations=spec.allocations,
        unallocated=spec.unallocated,
        attributes=spec.attributes,
        sequence_number=spec.sequence_number,
        sequence_number_for_allocation=spec.sequence_number_for_allocation,
    )
    return key, value, item.metadata.resource_version


def _affinity(item: _Affinity) -> Made:
    spec = item.spec
    key = BlockAffinityKey(spec.type or "host", spec.node, _canonical(spec.cidr))
    value = None if _is_true(spec.deleted) else StoredBlockAffinity(state=spec.state)
    return key, value, item.metadata.resource_version


def _handle(item: _Handle) -> Made:
    spec = item.spec
    value = None if spec.deleted else IpamHandle(block=spec.block or {})
    return HandleKey(spec.handle_id), value, item.metadata.resource_version


def _config(item: _Config) -> Made:
    if item.metadata.name != CONFIG_NAME:
        return None
    spec = item.spec
    value = IpamConfig(
        strict_affinity=spec.strict_affinity,
        auto_allocate_blocks=spec.auto_allocate_blocks,
        max_blocks_per_host=spec.max_blocks_per_host,
        kube_virt_vm_address_persistence=spec.kube_virt_vm_address_persistence,
        ip_cooldown_seconds=spec.ip_cooldown_seconds,
    )
    return IpamConfigKey(), value, item.metadata.resource_version


def _is_true(text: str | bool) -> bool:
    """Go's ``ParseBool``; anything else is wrong in the object and raises ValidationError."""
    if isinstance(text, bool):
        return text
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("", "0", "f", "F", "false", "FALSE", "False"):
        return False
    raise msgspec.ValidationError(f"{text!r} is not true or false - at `$.spec.deleted`")


def _canonical(cidr: str) -> str:
    """As keys write it; Calico writes it so too. Raises ValidationError."""
    try:
        return str(ip_network(cidr, strict=False))
    except ValueError:
        raise msgspec.ValidationError(f"{cidr!r} is not a CIDR - at `$.spec.cidr`") from None


def _block_key(name: str, _namespace: str) -> Key | None:
    cidr = cidr_of(name)
    return None if cidr is None else BlockKey(cidr)


def _affinity_key(name: str, _namespace: str) -> Key | None:
    """Where the host ends and the CIDR begins cannot be told for sure; the longest CIDR is as good as any."""
    parts = name.split("-")
    for start in range(1, len(parts)):
        cidr = cidr_of("-".join(parts[start:]))
        if cidr is not None:
            return BlockAffinityKey("host", "-".join(parts[:start]), cidr)
    return None


def _handle_key(name: str, _namespace: str) -> Key:
    return HandleKey(name)


def _config_key(name: str, _namespace: str) -> Key | None:
    return IpamConfigKey() if name == CONFIG_NAME else None


# ── names and labels ──────────────────────────────────────────────────────────────────────────────────────────────────


def name_of(cidr: str) -> str:
    return cidr.replace(".", "-").replace(":", "-").replace("/", "-")


def cidr_of(name: str) -> str | None:
    """The CIDR that was made a name; None for any other text."""
    address, _, length = name.rpartition("-")
    for mark in (".", ":"):
        try:
            cidr = str(ip_network(f"{address.replace('-', mark)}/{length}"))
        except ValueError:
            continue
        if name_of(cidr) == name:
            return cidr
    return None


def affinity_name(host: str, cidr: str) -> str:
    """Calico's name of an affinity object; a long host is cut and told apart by a hash."""
    short = name_of(cidr)
    name = f"{host}-{short}"
    if len(name) < NAME_LIMIT:
        return name
    digest = hashlib.sha256(f"{host}+{short}".encode()).hexdigest()[:11]
    return f"{host[: NAME_LIMIT - 1 - len(short) - 13]}-{short}-{digest}"


def handle_name(handle: str) -> str:
    """Calico's name of a handle object: in small letters. A handle that cannot be a name so, and that Calico therefore
    cannot keep in Kubernetes at all, gets one with a hash."""
    name = handle.lower()
    if len(name) <= NAME_LIMIT and _SUBDOMAIN.fullmatch(name):
        return name
    digest = hashlib.sha256(handle.encode(errors="surrogatepass")).hexdigest()[:32]
    return f"{_NOT_IN_NAMES.sub('-', name)[:100].strip('-') or 'handle'}-{digest}"


def hostname_hash(host: str) -> str:
    """A host's name as a label value, which may be shorter than the name."""
    return base64.b32encode(hashlib.sha3_256(host.encode()).digest()).rstrip(b"=").decode()


def _affinity_labels(key: BlockAffinityKey) -> dict[str, str]:
    version = "6" if ":" in key.cidr else "4"
    return {AFFINITY_TYPE: key.type, HOSTNAME_HASH: hostname_hash(key.owner), IP_VERSION: version}


# ── the family ────────────────────────────────────────────────────────────────────────────────────────────────────────


class IpamFamily(Family):
    def __init__(self, group: Group) -> None:
        self._group: Group = group
        first = group == CRD_GROUP
        self._blocks = self._collection("address blocks", "ipamblocks", PlainReader(_Block, _block, _block_key))
        self._affinities = self._collection(
            "block affinities", "blockaffinities", PlainReader(_Affinity, _affinity, _affinity_key)
        )
        self._handles = self._collection("address handles", "ipamhandles", PlainReader(_Handle, _handle, _handle_key))
        self._config = self._collection(
            "IPAM configuration",
            "ipamconfigs" if first else "ipamconfigurations",
            PlainReader(_Config, _config, _config_key),
        )

    def _collection(self, name: str, plural: str, reader: PlainReader[Any]) -> Collection:
        return Collection(name=name, path=f"/apis/{self._group}", plural=plural, namespaced=False, reader=reader)

    def collections(self) -> Sequence[Collection]:
        return (self._blocks, self._affinities, self._handles, self._config)

    def selections(self, query: Query) -> Sequence[Selection]:
        if isinstance(query, BlockQuery):
            return (Selection(collection=self._blocks),)
        if isinstance(query, BlockAffinityQuery):
            return self._affinity_selections(query)
        if isinstance(query, HandleQuery):
            return (Selection(collection=self._handles),)
        if isinstance(query, IpamConfigQuery):
            return (Selection(collection=self._config, params=field_selector(metadata__name=CONFIG_NAME)),)
        return ()

    def _affinity_selections(self, query: BlockAffinityQuery) -> Sequence[Selection]:
        """A node looks for its own only: by labels, and, for those that an older Calico wrote without, among the
        unlabelled, of which there are none in nearly every cluster."""
        wanted = {
            AFFINITY_TYPE: query.type,
            HOSTNAME_HASH: None if query.owner is None else hostname_hash(query.owner),
            IP_VERSION: None if query.version is None else str(query.version),
        }
        terms = [f"{label}={text}" for label, text in wanted.items() if text is not None]
        if not terms:
            return (Selection(collection=self._affinities),)
        selectors = (",".join(terms), f"!{HOSTNAME_HASH}")
        return [Selection(collection=self._affinities, params=(("labelSelector", text),)) for text in selectors]

    def place(self, key: Key) -> Place | None:
        if isinstance(key, BlockKey):
            return Place(collection=self._blocks, name=name_of(key.cidr))
        if isinstance(key, BlockAffinityKey):
            return Place(collection=self._affinities, name=affinity_name(key.owner, key.cidr))
        if isinstance(key, HandleKey):
            return Place(collection=self._handles, name=handle_name(key.handle))
        if isinstance(key, IpamConfigKey):
            return Place(collection=self._config, name=CONFIG_NAME)
        return None

    def derived_from(self, key: Key) -> str:
        if isinstance(key, IpamHostKey):
            return f"Node {key.node}"
        return f"IPAMConfiguration {CONFIG_NAME}" if isinstance(key, IpamConfigKey) else ""

    def creation(self, key: Key, value: Value) -> Request:
        place = self._at(key)
        return Request(method="POST", path=place.collection.url(), body=self._body(key, value, place.name, ""))

    def updating(self, key: Key, value: Value, *, revision: str) -> Request:
        place = self._at(key)
        return Request(method="PUT", path=url_of(place), body=self._body(key, value, place.name, revision))

    def deletion(self, key: Key, *, revision: str) -> Request:
        return removing(self._at(key), revision=revision)

    def leftover(self, key: Key, raw: bytes) -> Request | None:
        if isinstance(key, IpamConfigKey) or self.place(key) is None:
            return None
        object_: Any = mjson.decode(raw)
        spec = object_.get("spec")
        marked = spec.get("deleted") if isinstance(spec, dict) else None
        if marked not in (True, "true"):
            return None
        return removing(self._at(key), uid=str(object_["metadata"].get("uid", "")))

    def _at(self, key: Key) -> Place:
        place = self.place(key)
        if place is None:
            raise self.read_only(key)
        return place

    def _body(self, key: Key, value: Value | Malformed, name: str, revision: str) -> bytes:
        kind, labels = "IPAMBlock", {}
        value = decoded(key, value)
        spec: Any
        if isinstance(key, BlockKey) and isinstance(value, AllocationBlock):
            spec = _BlockSpec(
                cidr=key.cidr,
                affinity=value.affinity,
                affinity_claim_time=value.affinity_claim_time,
                allocations=value.allocations,
                unallocated=value.unallocated,
                attributes=value.attributes,
                sequence_number=value.sequence_number,
                sequence_number_for_allocation=value.sequence_number_for_allocation,
                deleted=value.deleted,
            )
        elif isinstance(key, BlockAffinityKey) and isinstance(value, StoredBlockAffinity):
            kind, labels = "BlockAffinity", _affinity_labels(key)
            deleted = str(value.deleted).lower() if self._group == CRD_GROUP else value.deleted
            spec = {"cidr": key.cidr, "deleted": deleted, "node": key.owner, "state": value.state, "type": key.type}
        elif isinstance(key, HandleKey) and isinstance(value, IpamHandle):
            kind = "IPAMHandle"
            spec = {"block": value.block, "deleted": value.deleted, "handleID": key.handle}
        elif isinstance(value, IpamConfig):
            kind = "IPAMConfig" if self._group == CRD_GROUP else "IPAMConfiguration"
            spec = _ConfigSpec(
                strict_affinity=value.strict_affinity,
                auto_allocate_blocks=value.auto_allocate_blocks,
                max_blocks_per_host=value.max_blocks_per_host,
                kube_virt_vm_address_persistence=value.kube_virt_vm_address_persistence,
                ip_cooldown_seconds=value.ip_cooldown_seconds,
            )
        else:
            raise TypeError(f"{type(value).__name__} is not a value for {key}")
        meta: dict[str, Any] = {"name": name}
        if labels:
            meta["labels"] = labels
        if self._group == CRD_GROUP:
            note = codec.to_json({"labels": labels} if labels else {}).decode()
            meta["annotations"] = {METADATA_ANNOTATION: note}
        if revision:
            meta["resourceVersion"] = revision
        return codec.to_json({"apiVersion": self._group, "kind": kind, "metadata": meta, "spec": spec})
