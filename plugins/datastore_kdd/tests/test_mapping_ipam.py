"""Blocks, affinities, handles and configuration: names, labels, both ways, and objects that only await their end."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_datastore_kdd.collection import CRD_GROUP, V3_GROUP, Group
from calico_datastore_kdd.mapping import open_mapping
from calico_datastore_kdd.mapping.ipam import affinity_name, cidr_of, handle_name, hostname_hash, name_of
from calico_kernel.errors import DatastoreError, NotPermitted
from calico_kernel.model.ipam import (
    AllocationBlock,
    BlockAttributes,
    IpamConfig,
    IpamHandle,
    IpamHost,
    StoredBlockAffinity,
)
from calico_kernel.model.keys import (
    BlockAffinityKey,
    BlockAffinityQuery,
    BlockKey,
    BlockQuery,
    HandleKey,
    IpamConfigKey,
    IpamConfigQuery,
    IpamHostKey,
    IpamHostQuery,
    Key,
    ResourceKey,
)
from calico_kernel.model.records import Malformed, Record, Value

BLOCK = AllocationBlock(
    cidr="10.0.0.0/30",
    affinity="host:n1",
    affinity_claim_time="2026-11-21T08:41:14Z",
    allocations=(0, None, 1, None),
    unallocated=(1, 3),
    attributes=(
        BlockAttributes(handle_id="h", secondary={"pod": "p"}),
        BlockAttributes(handle_id="g", alternate_owner_attrs={"a": "b"}, released_at="2026-11-21T08:41:14Z"),
    ),
    sequence_number=2**63 + 5,
    sequence_number_for_allocation={"0": 2**63 + 4},
)
VALUES: list[tuple[Key, Value]] = [
    (BlockKey("10.0.0.0/30"), BLOCK),
    (BlockKey("fd00::/122"), AllocationBlock(cidr="fd00::/122")),
    (BlockAffinityKey("host", "node-1", "10.0.0.0/30"), StoredBlockAffinity(state="pending")),
    (BlockAffinityKey("virtual", "load-balancer", "10.0.0.0/30"), StoredBlockAffinity(state="confirmed")),
    (HandleKey("k8s-pod-network.ABC"), IpamHandle(block={"10.0.0.0/30": 2})),
    (IpamConfigKey(), IpamConfig(strict_affinity=True, max_blocks_per_host=3, ip_cooldown_seconds=9)),
]


@pytest.mark.parametrize("group", [CRD_GROUP, V3_GROUP])
@pytest.mark.parametrize(("key", "value"), VALUES, ids=lambda one: type(one).__name__)
def test_what_is_written_reads_back(group: Group, key: Key, value: Value) -> None:
    mapping = open_mapping(group)
    place = mapping.locate(key)
    assert place is not None and not place.derived
    for request in (mapping.creation(key, value), mapping.updating(key, value, revision="7")):
        document = json.loads(request.body)
        assert document["apiVersion"] == group and document["metadata"]["name"] == place.name
        assert place.collection.reader.record(request.body) == Record(
            key, value, document["metadata"].get("resourceVersion", "")
        )
    assert request.path == place.url and document["metadata"]["resourceVersion"] == "7"
    assert ("annotations" in document["metadata"]) == (group == CRD_GROUP)


def test_names_are_those_of_calico() -> None:
    assert name_of("10.65.0.0/26") == "10-65-0-0-26" and name_of("fd00::/122") == "fd00---122"
    assert affinity_name("n1", "10.65.0.0/26") == "n1-10-65-0-0-26"
    long = affinity_name("a" * 250, "10.65.0.0/26")
    assert len(long) == 252 and long.startswith("a" * 227 + "-10-65-0-0-26-")
    assert affinity_name("a" * 240, "10.65.0.0/26") != affinity_name("a" * 241, "10.65.0.0/26")
    assert hostname_hash("rack1-host1") == "F26WDF6IGJ6IQ2AJBANH4T2GMBKQZ7EAJD2BUOFUPDMPWY4PHTJQ"
    place = open_mapping().locate(HandleKey("Net.ABC"))
    assert place is not None and place.name == "net.abc"


@given(st.text(min_size=1))
def test_every_handle_has_a_name_that_kubernetes_takes(handle: str) -> None:
    name = handle_name(handle)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", name) and len(name) <= 253
    assert handle_name("Net.abc-1") == "net.abc-1" and handle_name("a b") != handle_name("a-b")
    assert handle_name("a/b").startswith("a-b-")


@given(st.ip_addresses(), st.integers(0, 128))
def test_a_name_tells_its_cidr(address: Any, length: int) -> None:
    from ipaddress import ip_network

    cidr = str(ip_network(f"{address}/{min(length, address.max_prefixlen)}", strict=False))
    assert cidr_of(name_of(cidr)) == cidr


@pytest.mark.parametrize("name", ["", "x", "10-0-0-0", "10-0-0-0-33", "host-10-0-0-0-26", "10-0-0-1-26"])
def test_any_other_name_tells_none(name: str) -> None:
    assert cidr_of(name) is None


def _object(kind: str, spec: Any, name: str = "x") -> bytes:
    return json.dumps(
        {"kind": kind, "metadata": {"name": name, "resourceVersion": "7", "uid": "u"}, "spec": spec}
    ).encode()


DELETED = [
    (BlockKey("10.0.0.0/30"), _object("IPAMBlock", {"cidr": "10.0.0.0/30", "deleted": True})),
    (
        BlockAffinityKey("host", "n1", "10.0.0.0/30"),
        _object("BlockAffinity", {"cidr": "10.0.0.0/30", "node": "n1", "state": "confirmed", "deleted": "true"}),
    ),
    (HandleKey("H"), _object("IPAMHandle", {"handleID": "H", "block": {}, "deleted": True})),
]


@pytest.mark.parametrize(("key", "raw"), DELETED, ids=lambda one: type(one).__name__)
def test_an_object_marked_deleted_is_no_record_and_can_be_removed(key: Key, raw: bytes) -> None:
    mapping = open_mapping()
    place = mapping.locate(key)
    assert place is not None
    read = place.collection.reader
    assert read.record(raw) is None and not read.page(b'{"items":[%s]}' % raw).records
    event = read.event(b'{"type":"MODIFIED","object":%s}' % raw)
    assert (event.type, event.key, event.record) == ("put", key, None)
    leftover = mapping.leftover(key, raw)
    assert leftover is not None and leftover.method == "DELETE" and leftover.path == place.url
    assert json.loads(leftover.body)["preconditions"] == {"uid": "u"}
    used = raw.replace(b'"deleted": true', b'"deleted": false').replace(b'"deleted": "true"', b'"deleted": ""')
    assert mapping.leftover(key, used) is None and read.record(used) is not None


def test_what_does_not_decode_is_known_by_its_name() -> None:
    mapping = open_mapping()
    for query, raw, key in (
        (BlockQuery(), _object("IPAMBlock", {"cidr": "nonsense"}, "10-0-0-0-26"), BlockKey("10.0.0.0/26")),
        (
            BlockAffinityQuery(),
            _object("BlockAffinity", {"cidr": "10.0.0.0/26", "deleted": "perhaps"}, "n-1-10-0-0-0-26"),
            BlockAffinityKey("host", "n-1", "10.0.0.0/26"),
        ),
    ):
        record = mapping.collections(query)[0].collection.reader.record(raw)
        assert record is not None and record.key == key and isinstance(record.value, Malformed)


def test_affinities_of_one_node_are_selected_by_labels_and_those_without_any_too() -> None:
    narrow = open_mapping().collections(BlockAffinityQuery("host", "rack1-host1", 4))
    labels = "F26WDF6IGJ6IQ2AJBANH4T2GMBKQZ7EAJD2BUOFUPDMPWY4PHTJQ"
    assert [dict(selection.params)["labelSelector"] for selection in narrow] == [
        f"projectcalico.org/affinity-type=host,projectcalico.org/hostname-hash={labels},projectcalico.org/ip-version=4",
        "!projectcalico.org/hostname-hash",
    ]
    (whole,) = open_mapping().collections(BlockAffinityQuery())
    assert whole.params == ()


def test_an_affinity_of_an_old_release_is_of_a_host() -> None:
    raw = _object("BlockAffinity", {"cidr": "10.0.0.0/26", "node": "n1", "state": "confirmed"})
    record = open_mapping().collections(BlockAffinityQuery())[0].collection.reader.record(raw)
    assert record is not None and record.key == BlockAffinityKey("host", "n1", "10.0.0.0/26")


def test_the_configuration_is_one_object_with_two_views() -> None:
    mapping = open_mapping()
    (selection,) = mapping.collections(IpamConfigQuery())
    assert selection.params == (("fieldSelector", "metadata.name=default"),)
    assert selection.collection.reader.record(_object("IPAMConfig", {}, "other")) is None
    assert mapping.derived_from(IpamConfigKey()) == "IPAMConfiguration default"


def test_nodes_leave_no_mark_of_their_own() -> None:
    mapping = open_mapping()
    assert not mapping.collections(IpamHostQuery()) and mapping.locate(IpamHostKey("n1")) is None
    with pytest.raises(NotPermitted, match="Node n1"):
        mapping.creation(IpamHostKey("n1"), IpamHost())


def test_what_another_store_could_not_decode_is_refused_where_no_object_can_be_made_of_it() -> None:
    mapping = open_mapping()
    newer: Any = Malformed("written by another version", b'{"block":{"10.0.0.0/30":1},"newer":1}')
    assert json.loads(mapping.creation(HandleKey("h"), newer).body)["spec"]["block"] == {"10.0.0.0/30": 1}
    broken: Any = Malformed("broken", b"[]")
    for key in (
        HandleKey("h"),
        BlockKey("10.0.0.0/30"),
        ResourceKey("WorkloadEndpoint", "shop", "n-k8s-p-eth0"),
        ResourceKey("Node", "", "n"),
    ):
        with pytest.raises(DatastoreError, match="does not decode"):
            mapping.updating(key, broken, revision="5")
