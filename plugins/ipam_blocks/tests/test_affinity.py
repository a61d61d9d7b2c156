"""Whose blocks addresses come from: claiming, caps, borrowing, strictness, giving blocks back, what it costs."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from msgspec.structs import replace

from calico_ipam_blocks.ipam import BlocksIpam
from calico_ipam_blocks.settings import BlocksSettings
from calico_kernel.errors import IpamError, NotFound, PoolExhausted
from calico_kernel.hookspecs import Datastore
from calico_kernel.model.endpoints import WorkloadEndpoint, WorkloadEndpointSpec
from calico_kernel.model.ipam import AllocationBlock, BlockAttributes, IpamConfig, IpamHost, StoredBlockAffinity
from calico_kernel.model.keys import (
    BlockAffinityKey,
    BlockAffinityQuery,
    BlockKey,
    BlockQuery,
    IpamConfigKey,
    IpamHostKey,
    ResourceKey,
)
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.network import IPAMConfiguration, IPAMConfigurationSpec
from calico_kernel.testing.ipam import add_node, add_pool, addresses, reserve, want
from calico_kernel.testing.memory_datastore import MemoryDatastore

STRICT = IpamConfig(strict_affinity=True, auto_allocate_blocks=True)


@pytest.fixture
def store() -> MemoryDatastore:
    store = MemoryDatastore()
    add_node(store, "n1", rack="a")
    add_node(store, "n2", rack="b")
    return store


@pytest.fixture
def ipam(store: MemoryDatastore) -> BlocksIpam:
    return BlocksIpam(store, BlocksSettings(reclaim_age_s=0, settle_s=0))


def blocks_of(store: Datastore) -> dict[str, str | None]:
    return {
        record.value.cidr: record.value.affinity
        for record in store.list([BlockQuery()]).records
        if isinstance(record.value, AllocationBlock)
    }


def affinities_of(store: Datastore) -> dict[tuple[str, str], str]:
    return {
        (record.key.owner, record.key.cidr): record.value.state
        for record in store.list([BlockAffinityQuery()]).records
        if isinstance(record.key, BlockAffinityKey) and isinstance(record.value, StoredBlockAffinity)
    }


def block(store: Datastore, cidr: str) -> AllocationBlock:
    value = store.get(BlockKey(cidr)).value
    assert isinstance(value, AllocationBlock)
    return value


# ── claiming ──


def test_first_address_claims_one_confirmed_block_of_the_default_size(store: MemoryDatastore, ipam: BlocksIpam) -> None:
    add_pool(store, "four", "10.0.0.0/16")
    add_pool(store, "six", "fd00:1::/48")
    got = ipam.assign(want("h", num_ipv4=1, num_ipv6=1))
    owners = blocks_of(store)
    assert sorted(cidr.split("/")[1] for cidr in owners) == ["122", "26"]
    assert set(owners.values()) == {"host:n1"}
    assert affinities_of(store) == {("n1", cidr): "confirmed" for cidr in owners}
    assert {one.block for one in got.addresses} == set(owners)


def test_block_size_of_the_pool_is_kept(store: MemoryDatastore, ipam: BlocksIpam) -> None:
    add_pool(store, "p", "10.0.0.0/24", block_size=32)
    assert len(addresses(ipam.assign(want("h", count=3)))) == 3
    assert [cidr.split("/")[1] for cidr in blocks_of(store)] == ["32"] * 3


def test_second_block_is_claimed_only_when_the_first_is_full(store: MemoryDatastore, ipam: BlocksIpam) -> None:
    add_pool(store, "p", "10.0.0.0/24", block_size=30)
    ipam.assign(want("h1", count=4))
    assert len(blocks_of(store)) == 1
    ipam.assign(want("h2"))
    assert len(blocks_of(store)) == 2


def test_node_stops_at_the_cap_of_its_request_of_the_cluster_or_of_twenty(store: MemoryDatastore) -> None:
    add_pool(store, "p", "10.0.0.0/24", block_size=32)
    ipam = BlocksIpam(store)
    ipam.assign(want("a", count=2, max_blocks=2))
    with pytest.raises(PoolExhausted, match="2 IPv4 blocks, as many as it may"):
        ipam.assign(want("b", max_blocks=2))
    ipam.assign(want("c", count=18))
    with pytest.raises(PoolExhausted, match="20 IPv4 blocks"):
        ipam.assign(want("d"))
    ipam.configure(replace(STRICT, max_blocks_per_host=21))
    ipam.assign(want("e", max_blocks=30))
    with pytest.raises(PoolExhausted, match="21 IPv4 blocks"):
        ipam.assign(want("f", max_blocks=30))
    assert list(ipam.check()) == []


def test_wholly_reserved_blocks_are_never_claimed(store: MemoryDatastore, ipam: BlocksIpam) -> None:
    add_pool(store, "p", "10.0.0.0/28", block_size=30)
    reserve(store, "10.0.0.0/29", "10.0.0.8/30")
    ipam.assign(want("h"))
    assert list(blocks_of(store)) == ["10.0.0.12/30"]


def test_affinity_left_pending_by_a_dead_process_is_finished(store: MemoryDatastore, ipam: BlocksIpam) -> None:
    add_pool(store, "p", "10.0.0.0/24")
    store.create(BlockAffinityKey("host", "n1", "10.0.0.64/26"), StoredBlockAffinity(state="pending"))
    assert str(addresses(ipam.assign(want("h")))[0]) == "10.0.0.64"
    assert affinities_of(store) == {("n1", "10.0.0.64/26"): "confirmed"}


def test_affinity_whose_block_is_anothers_is_removed(store: MemoryDatastore, ipam: BlocksIpam) -> None:
    add_pool(store, "p", "10.0.0.0/24")
    theirs = ipam.assign(want("h2", "n2")).addresses[0].block
    store.create(BlockAffinityKey("host", "n1", theirs), StoredBlockAffinity(state="confirmed"))
    mine = BlocksIpam(store).assign(want("h1", "n1")).addresses[0].block
    assert mine != theirs
    assert set(affinities_of(store)) == {("n1", mine), ("n2", theirs)}


def test_affinity_on_its_way_out_is_confirmed_again_and_the_leaver_fails(
    store: MemoryDatastore, ipam: BlocksIpam
) -> None:
    add_pool(store, "p", "10.0.0.0/24", block_size=26)
    cidr = ipam.assign(want("h1")).addresses[0].block
    before = store.get(BlockKey(cidr)).revision
    store.put(BlockAffinityKey("host", "n1", cidr), StoredBlockAffinity(state="pendingDeletion"))
    assert BlocksIpam(store).assign(want("h2")).addresses[0].block == cidr
    assert affinities_of(store) == {("n1", cidr): "confirmed"}
    assert store.get(BlockKey(cidr)).revision != before


# ── borrowing and strictness ──


def test_full_pool_lends_from_other_nodes_unless_affinity_is_strict(store: MemoryDatastore, ipam: BlocksIpam) -> None:
    add_pool(store, "p", "10.0.0.0/29", block_size=29)
    ipam.assign(want("theirs", "n2"))
    lent = ipam.assign(want("mine", "n1"))
    assert blocks_of(store) == {"10.0.0.0/29": "host:n2"}
    assert ipam.inspect(addresses(lent)[0]).block_node == "n2"
    ipam.configure(STRICT)
    with pytest.raises(PoolExhausted, match="affinity is strict"):
        ipam.assign(want("more", "n1"))
    with pytest.raises(IpamError, match="affinity is strict"):
        ipam.assign(want("exact", "n1", addresses=(ip_address("10.0.0.7"),)))
    assert list(ipam.check()) == []


def test_released_loan_goes_back_to_its_block(store: MemoryDatastore, ipam: BlocksIpam) -> None:
    add_pool(store, "p", "10.0.0.0/30", block_size=30)
    ipam.assign(want("theirs", "n2"))
    ipam.assign(want("mine", "n1", count=3))
    ipam.release_by_handle("mine")
    assert len(addresses(ipam.assign(want("again", "n2", count=3)))) == 3


def test_no_automatic_blocks_serves_only_from_blocks_that_exist(store: MemoryDatastore, ipam: BlocksIpam) -> None:
    add_pool(store, "p", "10.0.0.0/24", block_size=30)
    ipam.assign(want("a"))
    ipam.configure(IpamConfig(strict_affinity=True, auto_allocate_blocks=False))
    ipam.assign(want("b", count=3))
    with pytest.raises(PoolExhausted):
        ipam.assign(want("c"))


# ── giving blocks back ──


def test_empty_block_of_another_node_is_taken_over_when_none_is_free(store: MemoryDatastore, ipam: BlocksIpam) -> None:
    add_pool(store, "p", "10.0.0.0/30", block_size=31)
    ipam.assign(want("a", "n2", count=4))
    ipam.release_by_handle("a")
    assert set(blocks_of(store).values()) == {"host:n2"}
    mine = ipam.assign(want("b", "n1")).addresses[0].block
    assert blocks_of(store)[mine] == "host:n1"
    assert list(ipam.check()) == []


def test_young_empty_block_of_another_node_is_borrowed_from_instead(store: MemoryDatastore) -> None:
    add_pool(store, "p", "10.0.0.0/30", block_size=30)
    ipam = BlocksIpam(store, BlocksSettings(reclaim_age_s=60))
    ipam.assign(want("a", "n2"))
    ipam.release_by_handle("a")
    ipam.assign(want("b", "n1"))
    assert set(blocks_of(store).values()) == {"host:n2"}


def test_block_of_a_pool_that_no_longer_selects_the_node_goes_when_it_is_empty(
    store: MemoryDatastore, ipam: BlocksIpam
) -> None:
    add_pool(store, "a", "10.1.0.0/24", node_selector="rack == 'a'")
    add_pool(store, "b", "10.2.0.0/24", node_selector="rack == 'b'")
    ipam.assign(want("h1", "n1"))
    add_node(store, "n1", rack="b")
    ipam.assign(want("h2", "n1"))
    assert len(blocks_of(store)) == 2
    ipam.release_by_handle("h1")
    assert set(blocks_of(store).values()) == {"host:n1"}
    assert all(cidr.startswith("10.2.") for cidr in blocks_of(store))
    assert list(ipam.check()) == []


def test_emptied_block_without_a_node_is_deleted(store: MemoryDatastore, ipam: BlocksIpam) -> None:
    add_pool(store, "p", "10.0.0.0/24")
    ipam.assign(want("h", "n1"))
    ipam.release_node("n1")
    assert list(blocks_of(store).values()) == [None]
    assert affinities_of(store) == {}
    ipam.release_by_handle("h")
    assert blocks_of(store) == {}


def test_load_balancer_blocks_are_virtual_and_go_when_empty(store: MemoryDatastore, ipam: BlocksIpam) -> None:
    add_pool(store, "p", "10.0.0.0/24", allowed_uses=("LoadBalancer",))
    ipam.assign(want("lb-1", "load-balancer", intended_use="LoadBalancer"))
    assert list(blocks_of(store).values()) == ["virtual:load-balancer"]
    ipam.release_by_handle("lb-1")
    assert (blocks_of(store), affinities_of(store)) == ({}, {})


def test_forgotten_node_loses_its_marker(store: MemoryDatastore, ipam: BlocksIpam) -> None:
    store.create(IpamHostKey("n1"), IpamHost())
    ipam.release_node("n1")
    with pytest.raises(NotFound):
        store.get(IpamHostKey("n1"))


def test_released_pool_keeps_blocks_in_use_and_no_affinity(store: MemoryDatastore, ipam: BlocksIpam) -> None:
    add_pool(store, "p", "10.0.0.0/24", block_size=30)
    add_pool(store, "other", "10.9.0.0/24")
    ipam.assign(want("a", "n1", count=5, pools_ipv4=("p",)))
    ipam.assign(want("b", "n2", pools_ipv4=("other",)))
    ipam.release_pool("10.0.0.0/24")
    assert [owner for owner, _ in affinities_of(store)] == ["n2"]
    assert len(ipam.addresses_by_handle("a")) == 5


# ── configuration ──


def test_configuration_resource_counts_where_there_is_no_record(store: MemoryDatastore, ipam: BlocksIpam) -> None:
    resource = IPAMConfiguration(
        metadata=ObjectMeta(name="default"), spec=IPAMConfigurationSpec(strict_affinity=True, max_blocks_per_host=3)
    )
    store.create(ResourceKey("IPAMConfiguration", "", "default"), resource)
    assert ipam.configuration() == replace(STRICT, max_blocks_per_host=3)
    store.create(IpamConfigKey(), IpamConfig(auto_allocate_blocks=True))
    assert ipam.configuration() == IpamConfig(auto_allocate_blocks=True)


# ── what is not sound ──


def test_broken_block_is_not_assigned_from_and_is_reported(store: MemoryDatastore, ipam: BlocksIpam) -> None:
    add_pool(store, "p", "10.0.0.0/24", block_size=26)
    cidr = ipam.assign(want("h")).addresses[0].block
    broken = replace(block(store, cidr), allocations=(7,) * 64)
    store.put(BlockKey(cidr), broken)
    other = BlocksIpam(store).assign(want("h2")).addresses[0].block
    assert other != cidr
    assert block(store, cidr) == broken
    assert "block-broken" in {problem.kind for problem in ipam.check()}


def test_malformed_block_is_stepped_around(store: MemoryDatastore, ipam: BlocksIpam) -> None:
    add_pool(store, "p", "10.0.0.0/25", block_size=26)
    store.write_raw("/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-26", b"{broken")
    store.create(BlockAffinityKey("host", "n1", "10.0.0.0/26"), StoredBlockAffinity(state="confirmed"))
    assert ipam.assign(want("h")).addresses[0].block == "10.0.0.64/26"
    assert {problem.kind for problem in ipam.check()} >= {"unreadable-record"}


def test_every_kind_of_inconsistency_is_found_and_the_safe_ones_mended(
    store: MemoryDatastore, ipam: BlocksIpam
) -> None:
    add_pool(store, "p", "10.0.0.0/24", block_size=30)
    ipam.assign(want("fine"))
    owner = {"pod": "web", "namespace": "shop"}
    ipam.assign(want("no-endpoint", attributes=owner))
    in_use = ipam.assign(want("miscounted")).addresses[0].block
    from calico_kernel.model.ipam import IpamHandle
    from calico_kernel.model.keys import HandleKey

    store.put(HandleKey("miscounted"), IpamHandle(block={in_use: 3}))
    store.put(HandleKey("leaked"), IpamHandle(block={"10.0.0.0/30": 1}))
    store.put(HandleKey("empty"), IpamHandle())
    orphan = AllocationBlock(cidr="192.0.2.0/30", allocations=(None,) * 4, unallocated=(0, 1, 2, 3))
    store.put(BlockKey("192.0.2.0/30"), orphan)
    homeless = replace(orphan, cidr="10.0.0.252/30", affinity="host:n2")
    store.put(BlockKey("10.0.0.252/30"), homeless)
    store.put(
        BlockKey("10.0.0.252/31"), replace(orphan, cidr="10.0.0.252/31", allocations=(None, None), unallocated=(0, 1))
    )
    untidy = replace(orphan, cidr="10.0.0.248/30", affinity="host:n2", attributes=(BlockAttributes(handle_id="x"),))
    store.put(BlockKey("10.0.0.248/30"), untidy)
    store.put(BlockAffinityKey("host", "n2", "10.0.0.248/30"), StoredBlockAffinity(state="pending"))
    store.put(BlockAffinityKey("host", "n9", in_use), StoredBlockAffinity(state="confirmed"))
    store.put(BlockAffinityKey("host", "n2", "10.0.0.244/30"), StoredBlockAffinity(state="confirmed"))
    future = BlockAttributes(released_at="2999-01-01T00:00:00Z")
    waits = replace(orphan, cidr="10.0.0.240/30", affinity="host:n2", allocations=(0, None, None, None),
                    unallocated=(1, 2, 3), attributes=(future,))  # fmt: skip
    store.put(BlockKey("10.0.0.240/30"), waits)
    store.put(BlockAffinityKey("host", "n2", "10.0.0.240/30"), StoredBlockAffinity(state="confirmed"))
    found = ipam.check()
    assert {problem.kind for problem in found} == {
        "address-without-endpoint",
        "affinity-stale",
        "affinity-unfinished",
        "affinity-without-block",
        "block-abandoned",
        "block-outside-pools",
        "block-size",
        "block-untidy",
        "block-without-affinity",
        "blocks-overlap",
        "handle-counts-too-much",
        "released-in-future",
    }
    mended = ipam.collect(found)
    assert {problem.kind for problem in mended} == {problem.kind for problem in found if problem.collectable}
    left = {problem.kind for problem in ipam.check()}
    assert left == {"address-without-endpoint", "released-in-future"}
    assert ipam.inspect(ipam.addresses_by_handle("fine")[0].address).handle == "fine"


def test_lost_handle_is_written_anew_from_the_blocks(store: MemoryDatastore, ipam: BlocksIpam) -> None:
    from calico_kernel.model.keys import HandleKey

    add_pool(store, "p", "10.0.0.0/24")
    got = ipam.assign(want("h", count=2))
    store.delete(HandleKey("h"))
    found = ipam.check()
    assert [problem.kind for problem in found] == ["handle-counts-too-little"]
    assert len(ipam.collect(found)) == 1
    assert {one.address for one in ipam.addresses_by_handle("h")} == set(addresses(got))


def test_address_without_endpoint_is_collected_once_it_is_old_enough(store: MemoryDatastore, ipam: BlocksIpam) -> None:
    add_pool(store, "p", "10.0.0.0/24")
    owner = {"pod": "web", "namespace": "shop"}
    for handle, timestamp in (("old", "2020-01-01 00:00:00.5 +0000 UTC"), ("new", "2999-01-01 00:00:00 +0000 UTC")):
        ipam.assign(want(handle, attributes={**owner, "timestamp": timestamp}))
    ipam.assign(want("undated", attributes=owner))
    ipam.assign(want("used", attributes={**owner, "timestamp": "2020-01-01 00:00:00 +0000 UTC"}))
    used = ipam.addresses_by_handle("used")[0].address
    endpoint = WorkloadEndpoint(
        metadata=ObjectMeta(name="e", namespace="shop"), spec=WorkloadEndpointSpec(ip_networks=(f"{used}/32",))
    )
    store.create(ResourceKey("WorkloadEndpoint", "shop", "e"), endpoint)
    found = ipam.check()
    assert {problem.handle: problem.collectable for problem in found} == {"old": True, "new": False, "undated": False}
    assert [problem.handle for problem in ipam.collect(found)] == ["old"]
    assert list(ipam.addresses_by_handle("old")) == []
    assert all(len(ipam.addresses_by_handle(handle)) == 1 for handle in ("new", "undated", "used"))


# ── cost ──


def test_assignment_from_a_known_block_costs_a_look_at_the_watch_and_two_writes(
    store: MemoryDatastore, ipam: BlocksIpam
) -> None:
    add_pool(store, "four", "10.0.0.0/16")
    add_pool(store, "six", "fd00:1::/48")
    ipam.assign(want("warm", num_ipv4=1, num_ipv6=1))
    before = store.calls
    ipam.assign(want("h1"))
    assert store.calls - before == 2
    before = store.calls
    ipam.assign(want("h2", num_ipv4=1, num_ipv6=1))
    assert store.calls - before == 3


def test_new_block_costs_the_same_in_a_large_cluster(store: MemoryDatastore, ipam: BlocksIpam) -> None:
    add_pool(store, "p", "10.0.0.0/12")
    add_node(store, "late")
    before = store.calls
    ipam.assign(want("first", "n1"))
    small = store.calls - before
    for number in range(300):
        ipam.assign(want(f"h{number}", f"node{number}"))
    before = store.calls
    ipam.assign(want("last", "late"))
    assert store.calls - before <= small + 3
