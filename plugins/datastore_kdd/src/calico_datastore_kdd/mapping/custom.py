"""Calico's custom resources: the kinds that people write, as the API server keeps them.

In:    objects of ``crd.projectcalico.org/v1`` or ``projectcalico.org/v3``.
Out:   the resources of the model under ``ResourceKey``; and the way back, as Calico's own client writes them.

Under the first group, what the API server would not keep as it is stands in one annotation (metadata) or is turned into
a form of its own (uids, which the v3 API must not share with the custom resource). Under the second group objects are
the resources. A resource is known by the name of its object: Calico writes the name that people gave into the
annotation as well, and where a very old release used another one for the object, the object's own decides here too, as
it does for Felix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
from msgspec import json as mjson
from msgspec.structs import force_setattr

from calico_datastore_kdd.collection import CRD_GROUP, Collection, Group, Place, Request, Selection
from calico_datastore_kdd.mapping.family import Family, removing, url_of
from calico_datastore_kdd.mapping.reading import Made, ObjectReader
from calico_kernel.model import codec
from calico_kernel.model.codec import METADATA_ANNOTATION, POLICY_KINDS
from calico_kernel.model.keys import Key, Query, ResourceKey, ResourceQuery
from calico_kernel.model.kinds import KINDS
from calico_kernel.model.meta import API_VERSION, ObjectMeta, OwnerReference, Resource
from calico_kernel.model.network import IPAMConfiguration, IPAMConfigurationSpec
from calico_kernel.model.records import Malformed, Value
from calico_kernel.model.uids import exchanged
from calico_kernel.model.wellknown import KUBERNETES_CLUSTER_POLICY_PREFIX, KUBERNETES_POLICY_PREFIX

ESSENTIAL = frozenset(
    {
        "BGPConfiguration",
        "BGPPeer",
        "ClusterInformation",
        "FelixConfiguration",
        "GlobalNetworkPolicy",
        "GlobalNetworkSet",
        "HostEndpoint",
        "IPAMConfiguration",
        "IPPool",
        "NetworkPolicy",
        "NetworkSet",
    }
)
"""Served wherever Calico is installed. The others came with later releases."""
ELSEWHERE = frozenset(
    {
        "BlockAffinity",
        "IPAMBlock",
        "IPAMHandle",
        "KubernetesEndpointSlice",
        "KubernetesService",
        "LiveMigration",
        "Node",
        "Profile",
        "WorkloadEndpoint",
    }
)
"""Kinds without a custom resource of their own, or (addresses) whose custom resources are the records of IPAM."""
RESERVED = {"NetworkPolicy": KUBERNETES_POLICY_PREFIX, "GlobalNetworkPolicy": KUBERNETES_CLUSTER_POLICY_PREFIX}
"""Names of policies that Kubernetes' own become; an object of ours with such a name is no record."""

_OURS = ("projectcalico.org/", "operator.tigera.io/")
_SERVERS_OWN = ("uid", "resourceVersion", "generation", "managedFields", "selfLink")
"""Metadata that belongs to the object in the API server."""

_meta_decoder = mjson.Decoder(ObjectMeta)


class _StoredIpamConfiguration(Resource, tag="IPAMConfig"):
    """What the kind is called under the first group."""

    spec: IPAMConfigurationSpec = msgspec.field(default_factory=IPAMConfigurationSpec)


class CustomReader(ObjectReader[Any]):
    def __init__(self, kind: str, group: Group) -> None:
        renamed = kind == "IPAMConfiguration" and group == CRD_GROUP
        super().__init__(_StoredIpamConfiguration if renamed else KINDS[kind].type)
        self._kind, self._annotated = kind, group == CRD_GROUP
        self._reserved = RESERVED.get(kind)

    def _make(self, item: Any) -> Made:
        meta: ObjectMeta = item.metadata
        if self._reserved and meta.name.startswith(self._reserved):
            return None
        if isinstance(item, _StoredIpamConfiguration):
            item = IPAMConfiguration(metadata=meta, spec=item.spec)
        if self._annotated:
            force_setattr(item, "metadata", _restored(meta))
        else:
            force_setattr(meta, "generation", 0)
        force_setattr(item, "api_version", API_VERSION)
        return ResourceKey(self._kind, meta.namespace, meta.name), item, meta.resource_version

    def _malformed(self, name: str, namespace: str, raw: bytes, reason: str) -> tuple[Key, Value | Malformed] | None:
        if self._reserved and name.startswith(self._reserved):
            return None
        key = ResourceKey(self._kind, namespace, name)
        return key, self._from_document(key, raw, whole=False)

    def _whole(self, raw: bytes) -> Made:
        made = self._alone(raw)
        if made is None or not isinstance(made[0], ResourceKey):
            return made
        return made[0], self._from_document(made[0], raw, whole=True), made[2]

    def _from_document(self, key: ResourceKey, raw: bytes, *, whole: bool) -> Value | Malformed:
        document = mjson.decode(raw)
        meta = document.get("metadata")
        meta = meta if isinstance(meta, dict) else {}
        document |= {"apiVersion": API_VERSION, "kind": self._kind}
        document["metadata"] = self._restored_document(meta)
        revision = meta.get("resourceVersion")
        return codec.decode(key, codec.to_json(document), revision=revision if revision else "", whole=whole)

    def _restored_document(self, meta: dict[str, Any]) -> dict[str, Any]:
        if self._annotated:
            try:
                known: Any = mjson.decode(mjson.encode(_restored(msgspec.convert(meta, ObjectMeta))))
            except msgspec.ValidationError:
                known = None
            if known is not None:
                return {**_unread_metadata(meta), **known}
        return {name: item for name, item in meta.items() if name not in _SERVERS_OWN or name == "uid"}


class CustomFamily(Family):
    def __init__(self, group: Group) -> None:
        self._group: Group = group
        self._collections: dict[str, Collection] = {}

    def _collection(self, kind: str) -> Collection:
        """Made on first use: plugins may add kinds at any time."""
        found = self._collections.get(kind)
        if found is None:
            with codec.making:
                found = self._collections.setdefault(kind, self._make_collection(kind))
        return found

    def _make_collection(self, kind: str) -> Collection:
        info = KINDS[kind]
        return Collection(
            name=f"{kind} resources",
            path=f"/apis/{self._group}",
            plural="ipamconfigs" if self._group == CRD_GROUP and kind == "IPAMConfiguration" else info.plural,
            namespaced=info.namespaced,
            reader=CustomReader(kind, self._group),
            optional=kind not in ESSENTIAL,
        )

    def collections(self) -> Sequence[Collection]:
        return [self._collection(kind) for kind in KINDS if kind not in ELSEWHERE]

    def selections(self, query: Query) -> Sequence[Selection]:
        if not isinstance(query, ResourceQuery) or query.kind in ELSEWHERE:
            return ()
        if query.name_prefix.startswith(RESERVED.get(query.kind, "/")):
            return ()
        return (Selection(collection=self._collection(query.kind), namespace=query.namespace),)

    def place(self, key: Key) -> Place | None:
        if not isinstance(key, ResourceKey) or key.kind in ELSEWHERE:
            return None
        if key.name.startswith(RESERVED.get(key.kind, "/")):
            return None
        return Place(collection=self._collection(key.kind), namespace=key.namespace, name=key.name)

    def derived_from(self, key: Key) -> str:
        return ""

    def creation(self, key: Key, value: Value) -> Request:
        place = self._at(key)
        path = place.collection.url(place.namespace)
        return Request(method="POST", path=path, body=self._body(key, value, ""))

    def updating(self, key: Key, value: Value, *, revision: str) -> Request:
        return Request(method="PUT", path=url_of(self._at(key)), body=self._body(key, value, revision))

    def completion(self, key: Key, value: Value, answer: bytes) -> Request | None:
        wanted = _document_of(value).get("status") or {}
        there = mjson.decode(answer)
        if (there.get("status") or {}) == wanted:
            return None
        body = self._body(key, value, there["metadata"]["resourceVersion"])
        return Request(method="PUT", path=url_of(self._at(key), "status"), body=body)

    def deletion(self, key: Key, *, revision: str) -> Request:
        return removing(self._at(key), revision=revision)

    def _at(self, key: Key) -> Place:
        place = self.place(key)
        assert place is not None
        return place

    def _body(self, key: Key, value: Value, revision: str) -> bytes:
        assert isinstance(key, ResourceKey)
        return stored_form(key, value, self._group, revision=revision)


def stored_form(key: ResourceKey, value: Value | Malformed, group: Group, *, revision: str = "") -> bytes:
    """The object to send for ``value``; its name and namespace are those of the key."""
    document = _document_of(value)
    given = document.get("metadata")
    given = {**given} if isinstance(given, dict) else {}
    annotations = {**given.get("annotations", {})}
    annotations.pop(METADATA_ANNOTATION, None)
    if group == CRD_GROUP:
        meta = _annotated_meta(key, given, annotations)
    else:
        meta = {name: item for name, item in given.items() if name not in (*_SERVERS_OWN, "creationTimestamp")}
        meta["annotations"] = annotations
    meta["name"] = key.name
    if key.namespace:
        meta["namespace"] = key.namespace
    if revision:
        meta["resourceVersion"] = revision
    kind = "IPAMConfig" if group == CRD_GROUP and key.kind == "IPAMConfiguration" else key.kind
    return codec.to_json({**document, "apiVersion": group, "kind": kind, "metadata": meta})


def _document_of(value: Value | Malformed) -> dict[str, Any]:
    found: Any = mjson.decode(codec.encode(value))
    return found if isinstance(found, dict) else {}


def _annotated_meta(key: ResourceKey, given: Mapping[str, Any], annotations: Mapping[str, str]) -> dict[str, Any]:
    apart = {"namespace", *_SERVERS_OWN} if key.kind in POLICY_KINDS else {"name", "namespace", *_SERVERS_OWN}
    kept = {name: item for name, item in {**given, "annotations": annotations}.items() if name not in apart and item}
    owners = kept.get("ownerReferences")
    if owners:
        kept["ownerReferences"] = [_stored_owner(owner) for owner in owners]
    note = codec.with_go_escapes(mjson.encode(kept)).decode()
    meta: dict[str, Any] = {"annotations": {METADATA_ANNOTATION: note, **_ours(annotations)}}
    labels = _ours(given.get("labels") or {})
    if labels:
        meta["labels"] = labels
    return meta


def _stored_owner(owner: Any) -> Any:
    if isinstance(owner, dict) and owner.get("apiVersion") == API_VERSION:
        return {**owner, "apiVersion": CRD_GROUP, "uid": exchanged(str(owner.get("uid", "")))}
    return owner


def _restored(meta: ObjectMeta) -> ObjectMeta:
    """Metadata as people know it. An annotation that cannot be read counts as none: what it would have added is lost,
    but never the resource, which may be a policy."""
    annotations = dict(meta.annotations)
    note = annotations.pop(METADATA_ANNOTATION, None)
    try:
        kept = _meta_decoder.decode(note) if note is not None else meta
    except (msgspec.DecodeError, UnicodeEncodeError):
        kept = meta
    owners = kept.owner_references
    if kept is not meta:
        owners = tuple(_restored_owner(owner) for owner in owners)
        annotations |= kept.annotations
        annotations.pop(METADATA_ANNOTATION, None)
    return ObjectMeta(
        name=meta.name,
        namespace=meta.namespace,
        generate_name=kept.generate_name,
        uid=exchanged(meta.uid),
        resource_version=meta.resource_version,
        creation_timestamp=kept.creation_timestamp or meta.creation_timestamp,
        deletion_timestamp=kept.deletion_timestamp,
        deletion_grace_period_seconds=kept.deletion_grace_period_seconds,
        labels=meta.labels if kept is meta else {**meta.labels, **kept.labels},
        annotations=annotations,
        owner_references=owners,
        finalizers=kept.finalizers,
    )


def _restored_owner(owner: OwnerReference) -> OwnerReference:
    """Written before uids were turned, an owner still has the group of the v3 API, and the uid of the stored object."""
    if owner.api_version not in (CRD_GROUP, API_VERSION):
        return owner
    return msgspec.structs.replace(owner, api_version=API_VERSION, uid=exchanged(owner.uid))


def _unread_metadata(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What our ``ObjectMeta`` has no field for, in the object and in the annotation."""
    annotations = meta.get("annotations")
    note = annotations.get(METADATA_ANNOTATION) if isinstance(annotations, dict) else None
    try:
        kept = cast("Any", mjson.decode(note)) if note is not None else {}
    except (msgspec.DecodeError, UnicodeEncodeError):
        kept = {}
    known = {*ObjectMeta.__struct_encode_fields__, *_SERVERS_OWN}
    return {name: item for name, item in kept.items() if name not in known} if isinstance(kept, dict) else {}


def _ours(texts: Mapping[str, str]) -> dict[str, str]:
    return {key: text for key, text in texts.items() if any(mark in key for mark in _OURS)}
