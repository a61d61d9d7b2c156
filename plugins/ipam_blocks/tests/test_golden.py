"""What Calico's own CNI and IPAM stored after four ADDs and one DEL: read, written back, and arrived at again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calico_ipam_blocks import blocks
from calico_kernel.hookspecs import Datastore
from calico_kernel.model import codec, keys
from calico_kernel.model.ipam import AllocationBlock, AssignRequest, IpamHandle, StoredBlockAffinity
from calico_kernel.model.keys import HandleQuery
from calico_kernel.testing.ipam import add_node, add_pool
from calico_kernel.testing.memory_datastore import MemoryDatastore

RECORDED = [
    json.loads(line) for line in (Path(__file__).parent / "data" / "calico-etcd.jsonl").read_text().splitlines()
]
BLOCKS = [one for one in RECORDED if "/assignment/" in one["key"]]
WRITES = 5  # four assignments and one release, each raised the sequence number by one


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda one: one["key"])
def test_recorded_value_is_read_and_written_back_byte_for_byte(recorded: dict[str, object]) -> None:
    key = keys.parse(str(recorded["key"]))
    assert key is not None
    assert keys.path(key) == recorded["key"]
    raw = json.dumps(recorded["value"], separators=(",", ":")).encode()
    value = codec.decode(key, raw)
    assert isinstance(value, AllocationBlock | StoredBlockAffinity | IpamHandle)
    assert codec.encode(value) == raw
    if isinstance(value, AllocationBlock):
        assert blocks.defects(value) == []


@pytest.mark.parametrize("recorded", BLOCKS, ids=lambda one: one["key"])
def test_same_assignments_and_release_lead_to_the_recorded_block(recorded: dict[str, object]) -> None:
    key = keys.parse(str(recorded["key"]))
    assert key is not None
    wanted = codec.decode(key, json.dumps(recorded["value"]).encode())
    assert isinstance(wanted, AllocationBlock)
    start = wanted.sequence_number - WRITES
    block = blocks.new_block(blocks.span_of(wanted.cidr), "host:rack1-host1", start)
    block = codec_round_trip(block)
    attributes = [dict(holder.secondary or {}) for holder in wanted.attributes]
    attributes.insert(1, {"node": "rack1-host1", "timestamp": "the one that is gone"})
    for number in range(4):
        block, ordinals = blocks.assign(block, 1, f"bench.gold00000000000{number}", attributes[number])
        assert ordinals == (number,)
        block = written(block)
    block, counts = blocks.release(block, [1], cooldown_s=0, now_ns=start)
    assert counts == {"bench.gold000000000001": 1}
    assert written(block) == wanted
    assert codec.encode(written(block)) == json.dumps(recorded["value"], separators=(",", ":")).encode()


def test_whole_store_after_the_same_requests_has_the_recorded_keys_and_handles() -> None:
    from calico_ipam_blocks.ipam import BlocksIpam

    store: Datastore = MemoryDatastore()
    add_node(store, "rack1-host1")
    add_pool(store, "p4", "10.65.37.192/26")
    add_pool(store, "p6", "fd65:0:9769:4590:9c40:2622:25c0:0/112")
    ipam = BlocksIpam(store)
    for number in range(4):
        ipam.assign(AssignRequest(handle=f"bench.gold00000000000{number}", node="rack1-host1", num_ipv4=1, num_ipv6=1))
    ipam.release_by_handle("bench.gold000000000001")
    handles = {record.key: record.value for record in store.list([HandleQuery()]).records}
    recorded = [one for one in RECORDED if "/handle/" in one["key"]]
    assert {keys.path(key) for key in handles} == {one["key"] for one in recorded}
    for value in handles.values():
        assert isinstance(value, IpamHandle)
        assert list(value.block.values()) == [1, 1]


def written(block: AllocationBlock) -> AllocationBlock:
    from msgspec.structs import replace

    return replace(block, sequence_number=block.sequence_number + 1)


def codec_round_trip(block: AllocationBlock) -> AllocationBlock:
    value = codec.decode(keys.BlockKey(block.cidr), codec.encode(block))
    assert isinstance(value, AllocationBlock)
    return value
