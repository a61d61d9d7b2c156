"""Custom resources: metadata in an annotation or as it is, uids, owners, and what a newer or broken writer left."""

from __future__ import annotations

import json
from typing import Any

import pytest

from calico_datastore_kdd.collection import CRD_GROUP, V3_GROUP, Group, Reader
from calico_datastore_kdd.mapping import open_mapping
from calico_kernel.errors import NotPermitted
from calico_kernel.model import unread
from calico_kernel.model.keys import ResourceKey, ResourceQuery
from calico_kernel.model.kinds import KINDS
from calico_kernel.model.meta import ObjectMeta, OwnerReference
from calico_kernel.model.network import GlobalNetworkSet, IPAMConfiguration, NetworkSetSpec
from calico_kernel.model.policy import NetworkPolicy, NetworkPolicySpec, Profile, Rule
from calico_kernel.model.records import Malformed

UID, TURNED = "00000001-0203-4405-8607-08090a0b0c0d", "00000080-40c0-44a0-86e0-109050d030b0"
NOTE = "projectcalico.org/metadata"


def reader(kind: str, group: Group = CRD_GROUP) -> Reader:
    return open_mapping(group).collections(ResourceQuery(kind))[0].collection.reader


def stored(kind: str, spec: Any, *, group: str = CRD_GROUP, **metadata: Any) -> bytes:
    meta = {"name": "x", "resourceVersion": "7", "uid": UID, **metadata}
    return json.dumps({"apiVersion": group, "kind": kind, "metadata": meta, "spec": spec}).encode()


def value_of(raw: bytes, kind: str, group: Group = CRD_GROUP, *, whole: bool = False) -> Any:
    record = reader(kind, group).record(raw, whole=whole)
    assert record is not None
    return record.value


@pytest.mark.parametrize("whole", [False, True])
def test_annotated_metadata_is_laid_over_that_of_the_object(whole: bool) -> None:
    kept = {"labels": {"role": "edge", "both": "kept"}, "annotations": {"why": "x"}, "finalizers": ["f"]}
    raw = stored(
        "GlobalNetworkSet",
        {"nets": ["10.0.0.0/8"]},
        labels={"both": "own", "old": "y"},
        annotations={NOTE: json.dumps(kept), "kept": "z"},
        creationTimestamp="2026-01-01T00:00:00Z",
        managedFields=[{"manager": "kubectl"}],
        generation=4,
    )
    value = value_of(raw, "GlobalNetworkSet", whole=whole)
    assert value == GlobalNetworkSet(
        metadata=ObjectMeta(
            name="x",
            uid=TURNED,
            resource_version="7",
            creation_timestamp="2026-01-01T00:00:00Z",
            labels={"both": "kept", "old": "y", "role": "edge"},
            annotations={"kept": "z", "why": "x"},
            finalizers=("f",),
        ),
        spec=NetworkSetSpec(nets=("10.0.0.0/8",)),
    )
    assert unread.remembered(value) is None


def test_an_object_without_annotation_has_its_own_metadata_and_another_uid() -> None:
    value = value_of(stored("GlobalNetworkSet", {}, labels={"a": "b"}), "GlobalNetworkSet")
    assert (value.metadata.uid, value.metadata.labels) == (TURNED, {"a": "b"})


def test_an_annotation_that_cannot_be_read_loses_no_policy() -> None:
    raw = stored("NetworkPolicy", {"selector": "all()"}, namespace="n", annotations={NOTE: "{"}, labels={"a": "b"})
    value = value_of(raw, "NetworkPolicy")
    assert value.spec.selector == "all()" and value.metadata.labels == {"a": "b"}
    assert value.metadata.annotations == {}


def test_only_labels_and_annotations_of_ours_stand_on_the_object() -> None:
    value = NetworkPolicy(
        metadata=ObjectMeta(
            name="web",
            namespace="shop",
            uid=UID,
            labels={"projectcalico.org/tier": "default", "team": "blue"},
            annotations={"operator.tigera.io/x": "1", "why": "<b>"},
            owner_references=(
                OwnerReference(api_version="projectcalico.org/v3", kind="Tier", name="default", uid=UID),
                OwnerReference(api_version="apps/v1", kind="Deployment", name="d", uid=UID),
            ),
        ),
        spec=NetworkPolicySpec(tier="default", order=10.0, selector="all()"),
    )
    request = open_mapping().creation(ResourceKey("NetworkPolicy", "shop", "web"), value)
    assert request.method == "POST"
    assert request.path == "/apis/crd.projectcalico.org/v1/namespaces/shop/networkpolicies"
    document = json.loads(request.body)
    assert b'"order":10,' in request.body
    assert document["metadata"].keys() == {"name", "namespace", "labels", "annotations"}
    assert document["metadata"]["labels"] == {"projectcalico.org/tier": "default"}
    note = document["metadata"]["annotations"].pop(NOTE)
    assert document["metadata"]["annotations"] == {"operator.tigera.io/x": "1"}
    assert note.startswith('{"name":"web","labels":{"projectcalico.org/tier":"default","team":"blue"},')
    assert "\\u003cb\\u003e" in note
    owners = json.loads(note)["ownerReferences"]
    assert [(owner["apiVersion"], owner["uid"]) for owner in owners] == [(CRD_GROUP, TURNED), ("apps/v1", UID)]
    read = value_of(request.body, "NetworkPolicy")
    assert read.metadata.owner_references == value.metadata.owner_references
    assert read.metadata.annotations == value.metadata.annotations and read.spec == value.spec


def test_under_their_own_group_objects_are_stored_as_they_are() -> None:
    key = ResourceKey("GlobalNetworkSet", "", "x")
    value = GlobalNetworkSet(
        metadata=ObjectMeta(name="x", uid=UID, resource_version="7", labels={"team": "a"}, finalizers=("f",))
    )
    request = open_mapping(V3_GROUP).updating(key, value, revision="7")
    assert request.path == "/apis/projectcalico.org/v3/globalnetworksets/x"
    document = json.loads(request.body)
    assert document["apiVersion"] == "projectcalico.org/v3"
    assert document["metadata"] == {
        "name": "x",
        "resourceVersion": "7",
        "labels": {"team": "a"},
        "finalizers": ["f"],
        "annotations": {},
    }
    read = value_of(stored("GlobalNetworkSet", {}, group=V3_GROUP, labels={"team": "a"}), "GlobalNetworkSet", V3_GROUP)
    assert read.metadata.uid == UID and read.metadata.labels == {"team": "a"}


def test_the_configuration_of_ipam_has_a_name_of_its_own_under_the_first_group() -> None:
    key = ResourceKey("IPAMConfiguration", "", "default")
    first, second = open_mapping(CRD_GROUP), open_mapping(V3_GROUP)
    for mapping, kind, plural in ((first, "IPAMConfig", "ipamconfigs"), (second, "IPAMConfiguration", None)):
        request = mapping.creation(key, IPAMConfiguration(metadata=ObjectMeta(name="default")))
        assert json.loads(request.body)["kind"] == kind
        assert request.path.endswith(plural or "ipamconfigurations")
        place = mapping.locate(key)
        assert place is not None
        record = place.collection.reader.record(request.body, whole=True)
        assert record is not None and isinstance(record.value, IPAMConfiguration) and record.key == key


def test_unknown_fields_survive_get_and_update() -> None:
    raw = stored(
        "NetworkPolicy",
        {"selector": "all()", "ingress": [{"action": "Allow", "newer": 1}], "future": {"a": [1]}},
        namespace="n",
        annotations={NOTE: '{"name":"x","future":2}'},
        managedFields=[{"manager": "kubectl"}],
    )
    value = value_of(raw, "NetworkPolicy", whole=True)
    edited = unread.carried(value, NetworkPolicy(metadata=value.metadata, spec=value.spec))
    request = open_mapping().updating(ResourceKey("NetworkPolicy", "n", "x"), edited, revision="7")
    document = json.loads(request.body)
    assert document["spec"]["future"] == {"a": [1]} and document["spec"]["ingress"][0]["newer"] == 1
    assert document["metadata"].keys() == {"name", "namespace", "resourceVersion", "annotations"}
    assert json.loads(document["metadata"]["annotations"][NOTE])["future"] == 2


def test_one_bad_item_spoils_no_page() -> None:
    items = [
        json.loads(stored("GlobalNetworkPolicy", {"selector": "all()"}, name="good")),
        json.loads(stored("GlobalNetworkPolicy", {"selector": "all()", "ingress": [{"action": 5}]}, name="bad")),
        json.loads(stored("GlobalNetworkPolicy", {"selector": 5}, name="worse")),
        json.loads(stored("GlobalNetworkPolicy", {"selector": "all()", "order": None}, name="nulls")),
    ]
    answer = json.dumps({"items": items, "metadata": {"resourceVersion": "9", "continue": "next"}}).encode()
    page = reader("GlobalNetworkPolicy").page(answer)
    found: dict[str, Any] = {record.key.name: record for record in page.records}  # type: ignore[union-attr]
    assert page.proceed == "next" and page.revision == "9" and len(found) == 4
    bad, worse = found["bad"].value, found["worse"].value
    assert isinstance(bad, Malformed) and isinstance(worse, Malformed)
    assert bad.instead is not None and worse.instead is None
    assert bad.instead.spec.ingress == (Rule(action="Deny"),)  # type: ignore[attr-defined]
    assert found["bad"].revision == "7"
    assert found["nulls"].value.spec.order is None


def test_a_malformed_resource_is_written_back_as_it_was() -> None:
    raw = stored("GlobalNetworkSet", {"nets": 5}, annotations={NOTE: '{"labels":{"a":"b"}}'})
    value = value_of(raw, "GlobalNetworkSet")
    assert isinstance(value, Malformed)
    request = open_mapping().updating(ResourceKey("GlobalNetworkSet", "", "x"), value, revision="8")  # type: ignore[arg-type]
    document = json.loads(request.body)
    assert document["spec"] == {"nets": 5}
    assert document["metadata"]["annotations"] == {NOTE: '{"labels":{"a":"b"}}'}


def test_a_name_that_stands_for_a_policy_of_kubernetes_is_no_record() -> None:
    for kind, name in (("NetworkPolicy", "knp.default.web"), ("GlobalNetworkPolicy", "kcnp.web")):
        assert reader(kind).record(stored(kind, {}, name=name)) is None
        assert reader(kind).record(stored(kind, {"selector": 5}, name=name)) is None
        namespace = "n" if kind == "NetworkPolicy" else ""
        key = ResourceKey(kind, namespace, name)
        with pytest.raises(NotPermitted, match="of Kubernetes says"):
            open_mapping().creation(key, NetworkPolicy())
        assert open_mapping().derived_from(key)


def test_events_tell_what_happened_and_errors_what_was_said() -> None:
    read = reader("GlobalNetworkSet")

    def event(kind: str, raw: bytes) -> Any:
        return read.event(b'{"type":"%s","object":%s}\n' % (kind.encode(), raw))

    good, bad = stored("GlobalNetworkSet", {"nets": []}), stored("GlobalNetworkSet", {"nets": 5})
    added, changed, gone = event("ADDED", good), event("MODIFIED", bad), event("DELETED", good)
    key = ResourceKey("GlobalNetworkSet", "", "x")
    assert (added.type, added.key, added.revision) == ("put", key, "7") and added.record.value.spec.nets == ()
    assert changed.type == "put" and isinstance(changed.record.value, Malformed)
    assert (gone.type, gone.key, gone.record, gone.revision) == ("gone", key, None, "7")
    mark = b'{"kind":"GlobalNetworkSet","apiVersion":"x","metadata":{"resourceVersion":"12"},"spec":{}}'
    assert (event("BOOKMARK", mark).type, event("BOOKMARK", mark).revision) == ("bookmark", "12")
    status = b'{"kind":"Status","metadata":{},"status":"Failure","message":"too old","reason":"Expired","code":410}'
    said = event("ERROR", status)
    assert (said.type, said.code, said.reason, said.message) == ("error", 410, "Expired", "too old")


def test_status_that_the_server_keeps_apart_is_written_in_a_second_request() -> None:
    kind: Any = KINDS["Tier"].type
    raw = stored("Tier", {"order": 5})
    value = value_of(raw, "Tier")
    key = ResourceKey("Tier", "", "x")
    assert open_mapping().completion(key, value, raw) is None
    condition = {"type": "Ready", "status": "True", "lastTransitionTime": None, "reason": "r", "message": ""}
    told = json.loads(raw) | {"status": {"conditions": [condition]}}
    value = value_of(json.dumps(told).encode(), "Tier")
    assert isinstance(value, kind) and open_mapping().completion(key, value, json.dumps(told).encode()) is None
    request = open_mapping().completion(key, value, raw)
    assert request is not None and request.method == "PUT"
    assert request.path == "/apis/crd.projectcalico.org/v1/tiers/x/status"
    assert json.loads(request.body)["metadata"]["resourceVersion"] == "7"
    assert json.loads(request.body)["status"]["conditions"][0]["reason"] == "r"


def test_a_deletion_names_the_revision() -> None:
    request = open_mapping().deletion(ResourceKey("NetworkSet", "a b", "x"), revision="7")
    assert (request.method, request.path) == (
        "DELETE",
        "/apis/crd.projectcalico.org/v1/namespaces/a%20b/networksets/x",
    )
    assert json.loads(request.body)["preconditions"] == {"resourceVersion": "7"}
    assert "preconditions" not in json.loads(open_mapping().deletion(ResourceKey("Tier", "", "x")).body)


def test_every_kind_has_its_collections_and_no_object_is_listed_under_two_keys() -> None:
    mapping = open_mapping()
    places: dict[str, set[str]] = {}
    for kind in KINDS:
        for selection in mapping.collections(ResourceQuery(kind)):
            places.setdefault(selection.url, set()).add(kind)
    assert all(len(kinds) == 1 for kinds in places.values())
    without = {kind for kind in KINDS if not mapping.collections(ResourceQuery(kind))}
    assert without == {"BlockAffinity", "IPAMBlock", "IPAMHandle"}
    assert {selection.url for kind in KINDS for selection in mapping.collections(ResourceQuery(kind))} <= {
        collection.url() for collection in mapping.every_collection()
    }


def test_what_kubernetes_has_no_place_for_cannot_be_written() -> None:
    for key in (
        ResourceKey("Profile", "", "mine"),
        ResourceKey("BlockAffinity", "", "x"),
        ResourceKey("WorkloadEndpoint", "n", "node-cni-abc-eth0"),
    ):
        assert open_mapping().locate(key) is None and open_mapping().derived_from(key) == ""
        with pytest.raises(NotPermitted, match="no place"):
            open_mapping().creation(key, Profile())
