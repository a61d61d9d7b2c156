"""What Calico itself stored in a real API server, and how its calicoctl showed it: read alike, written alike.

``data/calico-kdd.jsonl`` is every object after Calico's own tools had applied a set of resources and had attached a
Pod; ``data/calico-KIND.yaml`` is what ``calicoctl get KIND -o yaml`` printed then.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from calico_datastore_kdd.collection import CRD_GROUP
from calico_datastore_kdd.mapping import open_mapping
from calico_kernel.model import documents, kubernetes
from calico_kernel.model.keys import (
    BlockAffinityKey,
    BlockAffinityQuery,
    BlockKey,
    BlockQuery,
    HandleKey,
    HandleQuery,
    Query,
    ResourceKey,
    ResourceQuery,
)
from calico_kernel.model.records import Malformed, Record

DATA = Path(__file__).parent / "data"
MAPPING = open_mapping(CRD_GROUP)
OBJECTS: list[dict[str, Any]] = [json.loads(line) for line in (DATA / "calico-kdd.jsonl").read_text().splitlines()]
STORED = [document for document in OBJECTS if document["apiVersion"] == CRD_GROUP]
QUERIES: dict[str, Query] = {
    "IPAMBlock": BlockQuery(),
    "BlockAffinity": BlockAffinityQuery(),
    "IPAMHandle": HandleQuery(),
    "IPAMConfig": ResourceQuery("IPAMConfiguration"),
}


def records_of(kind: str, query: Query, *, api_version: str = CRD_GROUP) -> list[Record]:
    """Everything of one kind, read as the answer to a list."""
    items = [found for found in OBJECTS if (found["kind"], found["apiVersion"]) == (kind, api_version)]
    answer = json.dumps({"items": items, "metadata": {"resourceVersion": "328"}}).encode()
    place = ("/api/v1", f"{kind.lower()}s") if api_version == "v1" else (f"/apis/{api_version}", "")
    for selection in MAPPING.collections(query):
        if selection.collection.path == place[0] and selection.collection.plural.startswith(place[1]):
            page = selection.collection.reader.page(answer)
            assert page.revision == "328" and page.proceed == ""
            return list(page.records)
    raise AssertionError(f"no collection for {query}")


def _named(document: dict[str, Any]) -> str:
    return f"{document['kind']}-{document['metadata']['name']}"


@pytest.mark.parametrize("document", STORED, ids=_named)
def test_what_calico_stored_is_written_the_same(document: dict[str, Any]) -> None:
    kind = document["kind"]
    record = next(
        found
        for found in records_of(kind, QUERIES.get(kind) or ResourceQuery(kind))
        if (place := MAPPING.locate(found.key)) is not None
        and (place.name, place.namespace) == (document["metadata"]["name"], document["metadata"].get("namespace", ""))
    )
    assert not isinstance(record.value, Malformed)
    request = MAPPING.updating(record.key, record.value, revision=record.revision)
    written = json.loads(request.body)
    expected = json.loads(json.dumps(document))
    for given_by_the_server in ("creationTimestamp", "generation", "uid"):
        expected["metadata"].pop(given_by_the_server)
    if kind in ("Tier", "KubeControllersConfiguration"):
        assert not written.pop("status")  # kept apart by the API server, which takes none here
    assert written == expected
    assert request.method == "PUT" and request.path.endswith("/" + document["metadata"]["name"])


def test_every_stored_object_is_read_and_none_twice() -> None:
    kinds = sorted({document["kind"] for document in STORED})
    assert len(kinds) >= 18
    keys = [record.key for kind in kinds for record in records_of(kind, QUERIES.get(kind) or ResourceQuery(kind))]
    assert len(keys) == len(set(keys)) == len(STORED)


def test_addresses_are_records_of_ipam() -> None:
    blocks = {record.key: record.value for record in records_of("IPAMBlock", BlockQuery())}
    block: Any = blocks[BlockKey("10.65.37.192/26")]
    assert block.affinity == "host:rack1-host1" and block.allocations[0] == 0 and len(block.unallocated) == 63
    assert block.attributes[0].handle_id == "k8s-pod-network.f00dfeedcafe0001"
    assert block.sequence_number_for_allocation == {"0": 1795250474615336400}
    assert BlockKey("fd65::9769:4590:9c40:2622:25c0/122") in blocks
    (handle,) = records_of("IPAMHandle", HandleQuery())
    assert handle.key == HandleKey("k8s-pod-network.f00dfeedcafe0001")
    affinities = {record.key for record in records_of("BlockAffinity", BlockAffinityQuery())}
    assert BlockAffinityKey("host", "rack1-host1", "10.65.37.192/26") in affinities and len(affinities) == 2


def shown(name: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = yaml.safe_load((DATA / f"calico-{name}.yaml").read_text())["items"]
    return items


def as_shown(record: Record) -> dict[str, Any]:
    value: Any = record.value
    assert not isinstance(value, Malformed)
    return documents.to_builtins(value)


def test_a_network_policy_reads_as_calicoctl_shows_it() -> None:
    (record,) = records_of("NetworkPolicy", ResourceQuery("NetworkPolicy"))
    assert as_shown(record) == shown("networkpolicy")[0]


def test_a_pod_reads_as_calicoctl_shows_it() -> None:
    (record,) = records_of("Pod", ResourceQuery("WorkloadEndpoint"), api_version="v1")
    assert as_shown(record) == shown("workloadendpoint")[0]
    assert record.key == ResourceKey("WorkloadEndpoint", "shop", "rack1--host1-k8s-web--1-eth0")


def test_nodes_read_as_calicoctl_shows_them() -> None:
    records = records_of("Node", ResourceQuery("Node"), api_version="v1")
    assert [as_shown(record) for record in records] == shown("node")


def test_namespaces_and_service_accounts_read_as_calicoctl_shows_them() -> None:
    expected = {item["metadata"]["name"]: item for item in shown("profile")}
    records = [
        *records_of("Namespace", ResourceQuery("Profile"), api_version="v1"),
        *records_of("ServiceAccount", ResourceQuery("Profile"), api_version="v1"),
    ]
    assert len(records) == 2
    for record in records:
        item = expected[as_shown(record)["metadata"]["name"]]
        item["metadata"]["resourceVersion"] = item["metadata"]["resourceVersion"].strip("/")
        assert as_shown(record) == item


def test_a_policy_of_kubernetes_reads_as_it_does_from_a_manifest() -> None:
    (record,) = records_of("NetworkPolicy", ResourceQuery("NetworkPolicy"), api_version="networking.k8s.io/v1")
    value: Any = record.value
    document = next(found for found in OBJECTS if found["apiVersion"] == "networking.k8s.io/v1")
    converted: Any = kubernetes.convert(document).resource
    assert value.spec == converted.spec and len(value.spec.ingress) == 6
    assert record.key == ResourceKey("NetworkPolicy", "shop", "knp.default.allow-web")
    assert value.metadata.name == "knp.default.allow-web" and value.metadata.resource_version == record.revision


def test_writing_back_a_node_changes_nothing() -> None:
    for record in records_of("Node", ResourceQuery("Node"), api_version="v1"):
        document = next(found for found in OBJECTS if found["metadata"]["name"] == record.key.name)  # type: ignore[union-attr]
        value: Any = record.value
        request = MAPPING.updating(record.key, value, revision=record.revision)
        patch = json.loads(request.body)["metadata"]
        assert patch["resourceVersion"] == record.revision
        theirs = {name: text for name, text in document["metadata"]["annotations"].items() if "projectcalico" in name}
        assert {name: text for name, text in patch["annotations"].items() if text is not None} == theirs
        assert request.path == f"/api/v1/nodes/{document['metadata']['name']}/status"
