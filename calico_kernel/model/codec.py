"""Between typed values and the bytes that a datastore keeps: JSON exactly as Calico stores it.

``encode`` writes what Calico's client would write for the same object. ``decode`` reads leniently, at C speed, straight
into the typed value; what does not decode comes back as ``Malformed`` and counts as absent, except a policy, which
then denies in the directions that it governs.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
from msgspec import json as mjson
from msgspec.structs import force_setattr, replace

from calico_kernel.errors import ValidationError
from calico_kernel.model import unread
from calico_kernel.model.keys import (
    BlockAffinityKey,
    BlockKey,
    HandleKey,
    IpamConfigKey,
    IpamHostKey,
    Key,
    LastNodeStatusKey,
    NodeStatusKey,
    ResourceKey,
)
from calico_kernel.model.kinds import KINDS
from calico_kernel.model.meta import API_VERSION, ObjectMeta, Resource

if TYPE_CHECKING:
    from calico_kernel.model.records import Malformed, Value

POLICY_KINDS = frozenset({"NetworkPolicy", "GlobalNetworkPolicy", "StagedNetworkPolicy", "StagedGlobalNetworkPolicy"})
METADATA_ANNOTATION = "projectcalico.org/metadata"
"""On stored policies: the name the user gave. Not part of the object that people see."""

_encoder = mjson.Encoder(order="deterministic")
_resource_decoders: dict[str, mjson.Decoder[Any]] = {}
_record_decoders: dict[type, mjson.Decoder[Any]] = {}
making = threading.RLock()
"""Held by whoever makes a decoder, in a plugin too: msgspec shows what it knows of a struct to other threads before it
is complete, and a decoder that is built from that, as of metadata, which every kind has, ends the process."""
_GO_ESCAPES = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)
T = TypeVar("T")


def encode(value: Value | Malformed) -> bytes:
    """The stored form: compact JSON, keys in Calico's order, without ``resourceVersion``. What did not decode is
    written back as it was found, so that a copy of a datastore loses nothing.
    Raises ValidationError for text that JSON cannot hold (half a surrogate pair)."""
    from calico_kernel.model.records import Malformed

    if isinstance(value, Malformed):
        return value.raw
    document = unread.remembered(value)
    if isinstance(value, Resource):
        value = _to_stored(value)
    try:
        return to_json(value if document is None else unread.completed(value, document))
    except UnicodeEncodeError as exc:
        subject = f"{value.kind}({value.metadata.name!r})" if isinstance(value, Resource) else type(value).__name__
        raise ValidationError(subject, [("", f"cannot be stored: {exc}")]) from exc


def to_json(value: Any) -> bytes:
    """Compact JSON as Go's encoder writes it; maps in the order of their keys."""
    return with_go_escapes(_encoder.encode(value))


def with_go_escapes(raw: bytes) -> bytes:
    for plain, escaped in _GO_ESCAPES:
        if plain in raw:
            raw = raw.replace(plain, escaped)
    return raw


def decode(key: Key, raw: bytes, *, revision: str = "", whole: bool = False) -> Value | Malformed:
    """The value stored under ``key``; never raises for what ``raw`` holds.

    revision: becomes ``metadata.resourceVersion`` of a resource. The name and namespace are always those of the key.
    whole:    fields that this version does not know are remembered, for an edit to keep (``model.unread``).
    """
    value = _decode(key, raw, revision)
    return unread.remembering(value, mjson.decode(raw)) if whole and isinstance(value, Resource) else value


def _decode(key: Key, raw: bytes, revision: str) -> Value | Malformed:
    try:
        if isinstance(key, ResourceKey):
            return _from_stored(key, _resource_decoder(key.kind).decode(raw), revision)
        return _decode_record(key, raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        return _second_look(key, raw, revision, str(exc))


def _to_stored(resource: Resource) -> Resource:
    meta = resource.metadata
    changes: dict[str, Any] = {}
    if meta.resource_version or meta.generation:
        changes = {"resource_version": "", "generation": 0}
    kind = resource.kind
    body: Any = resource
    if kind in POLICY_KINDS:
        name = _encoder.encode({"name": meta.name}).decode()
        changes["annotations"] = {**meta.annotations, METADATA_ANNOTATION: name}
    elif METADATA_ANNOTATION in meta.annotations:
        changes["annotations"] = {k: v for k, v in meta.annotations.items() if k != METADATA_ANNOTATION}
    if kind in POLICY_KINDS or kind == "Tier":
        body = replace(body, spec=replace(body.spec, order=whole(body.spec.order)))
    elif kind == "BlockAffinity":
        body = replace(
            body, spec=replace(body.spec, deleted="true" if body.spec.deleted in (True, "true") else "false")
        )
    if changes:
        body = replace(body, metadata=replace(meta, **changes))
    return cast(Resource, body)


def whole(order: float | None) -> float | None:
    """``10.0`` as ``10``: Go writes a number without a fraction as an integer."""
    return int(order) if isinstance(order, float) and order.is_integer() and abs(order) < 2**63 else order


def _from_stored(key: ResourceKey, resource: Resource, revision: str) -> Resource:
    """Finish a freshly decoded resource; nobody else has seen it, so its frozen fields may still be set."""
    meta = resource.metadata
    if revision:
        force_setattr(meta, "resource_version", revision)
    force_setattr(meta, "name", key.name)  # the key's own text: one copy where both are kept
    force_setattr(meta, "namespace", key.namespace)
    if resource.api_version == API_VERSION:
        force_setattr(resource, "api_version", API_VERSION)
    if METADATA_ANNOTATION in meta.annotations:
        del meta.annotations[METADATA_ANNOTATION]
    if key.kind == "BlockAffinity":
        spec: Any = resource
        force_setattr(spec.spec, "deleted", spec.spec.deleted in (True, "true"))
    return resource


def _resource_decoder(kind: str) -> mjson.Decoder[Any]:
    decoder = _resource_decoders.get(kind)
    if decoder is None or decoder.type is not KINDS[kind].type:
        with making:
            decoder = _resource_decoders[kind] = mjson.Decoder(KINDS[kind].type)
    return decoder


def _decode_record(key: Key, raw: bytes) -> Value:
    from calico_kernel.model import ipam

    if isinstance(key, BlockKey):
        return _record_decoder(ipam.AllocationBlock).decode(raw)
    if isinstance(key, BlockAffinityKey):
        # Calico once stored nothing here; it counts as confirmed.
        return _record_decoder(ipam.StoredBlockAffinity).decode(raw or b"{}")
    if isinstance(key, HandleKey):
        return _record_decoder(ipam.IpamHandle).decode(raw)
    if isinstance(key, IpamConfigKey):
        return _record_decoder(ipam.IpamConfig).decode(raw)
    if isinstance(key, IpamHostKey):
        return ipam.IpamHost()
    return _decode_status(key, raw)


def _decode_status(key: Key, raw: bytes) -> Value:
    from calico_kernel.model import status

    if isinstance(key, NodeStatusKey | LastNodeStatusKey):
        return _record_decoder(status.NodeStatus).decode(raw)
    return _record_decoder(status.EndpointStatus).decode(raw)


def _record_decoder(value_type: type[T]) -> mjson.Decoder[T]:
    decoder = _record_decoders.get(value_type)
    if decoder is None:
        with making:
            decoder = _record_decoders[value_type] = mjson.Decoder(value_type)
    return decoder


# ── what does not decode at first ─────────────────────────────────────────────────────────────────────────────────────


def without_nulls(value: Any) -> Any:
    """``null`` means "not given" to Calico wherever a map holds it; entries of lists stay."""
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, list) else value


def _second_look(key: Key, raw: bytes, revision: str, reason: str) -> Value | Malformed:
    from calico_kernel.model.records import Malformed

    try:
        document = without_nulls(mjson.decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Malformed(f"not JSON: {reason}", raw)
    if not isinstance(key, ResourceKey):
        try:
            return _decode_record(key, mjson.encode(document))
        except msgspec.DecodeError as exc:
            return Malformed(str(exc), raw)
    try:
        return _from_stored(key, msgspec.convert(document, KINDS[key.kind].type), revision)
    except msgspec.ValidationError as exc:
        return Malformed(str(exc), raw, _denying_policy(key, document, revision))


def _denying_policy(key: ResourceKey, document: Any, revision: str) -> Resource | None:
    """The policy of ``document`` with its rules replaced by deny. None for another kind, or where what it selects
    cannot be read either."""
    if key.kind not in ("NetworkPolicy", "GlobalNetworkPolicy") or not isinstance(document, dict):
        return None
    from calico_kernel.model.policy import GlobalNetworkPolicySpec, NetworkPolicySpec, Rule

    spec_type: Any = NetworkPolicySpec if key.kind == "NetworkPolicy" else GlobalNetworkPolicySpec
    given = document.get("spec")
    if not isinstance(given, dict):
        return None
    kept: dict[str, Any] = {}
    for field in msgspec.structs.fields(spec_type):
        if field.name in ("ingress", "egress") or field.encode_name not in given:
            continue
        one = {field.encode_name: given[field.encode_name]}
        try:
            kept[field.name] = getattr(msgspec.convert(one, spec_type), field.name)
        except msgspec.ValidationError:
            if field.name.endswith("selector"):
                return None
    types = kept.get("types") or ("Ingress", "Egress")  # Felix takes a stored policy without types for both
    deny = (Rule(action="Deny"),)
    spec = spec_type(
        **{**kept, "types": types},
        ingress=deny if "Ingress" in types else (),
        egress=deny if "Egress" in types and not kept.get("pre_dnat") else (),
    )
    try:
        meta = msgspec.convert(document.get("metadata", {}), ObjectMeta)
    except msgspec.ValidationError:
        meta = ObjectMeta()
    policy_type: Any = KINDS[key.kind].type
    return _from_stored(key, policy_type(metadata=meta, spec=spec), revision)
