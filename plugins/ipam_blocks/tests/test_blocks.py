"""One block: whatever is assigned, released and left to cool, in whatever order, its books balance."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_ipam_blocks import blocks
from calico_ipam_blocks.blocks import span_of
from calico_kernel.errors import AddressInUse, RevisionConflict
from calico_kernel.model.ipam import AllocationBlock, BlockAttributes

SECOND = 1_000_000_000
STEP = st.one_of(
    st.tuples(st.just("assign"), st.integers(1, 5), st.sampled_from("abc")),
    st.tuples(st.just("exact"), st.integers(0, 7), st.sampled_from("abc")),
    st.tuples(st.just("release"), st.integers(0, 7), st.just("")),
    st.tuples(st.just("wait"), st.integers(0, 20), st.just("")),
)


def fresh(cidr: str = "10.0.0.0/29") -> AllocationBlock:
    return blocks.new_block(span_of(cidr), "host:n1", 1000 * SECOND)


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(STEP, max_size=30), cooldown_s=st.sampled_from([0, 10]))
def test_any_sequence_of_operations_keeps_the_books_balanced(
    steps: list[tuple[str, int, str]], cooldown_s: int
) -> None:
    block, now_s = fresh(), 1000
    held: dict[int, str] = {}
    released_at: dict[int, int] = {}
    for action, number, handle in steps:
        if action == "wait":
            now_s += number
            block = blocks.collect_cold(block, cooldown_s=cooldown_s, now_ns=now_s * SECOND)
            released_at = {o: at for o, at in released_at.items() if cooldown_s and at >= now_s - cooldown_s}
        elif action == "assign":
            queue = block.unallocated
            block, ordinals = blocks.assign(block, number, handle, {"of": handle})
            assert ordinals == queue[: len(ordinals)]
            assert len(ordinals) == min(number, len(queue))
            assert not {*ordinals} & {*held, *released_at}
            held.update(dict.fromkeys(ordinals, handle))
        elif action == "exact":
            if number in held or number in released_at:
                with pytest.raises(AddressInUse):
                    blocks.assign_exact(block, number, handle, {})
            else:
                block = blocks.assign_exact(block, number, handle, {})
                held[number] = handle
        else:
            block, counts = blocks.release(block, [number], cooldown_s=cooldown_s, now_ns=now_s * SECOND)
            assert counts == ({held[number]: 1} if number in held else {})
            if held.pop(number, None) is not None and cooldown_s:
                released_at[number] = now_s
        assert blocks.defects(block) == []
        for handle_name in "abc":
            assert blocks.ordinals_of(block, handle_name) == sorted(o for o, h in held.items() if h == handle_name)
        assert blocks.free_count(block) == 8 - len(held) - len(released_at)
        assert blocks.is_empty(block) == (not held and not released_at)


def test_released_ordinal_goes_to_the_end_of_the_queue() -> None:
    block, _ = blocks.assign(fresh(), 3, "h", {})
    block, _ = blocks.release(block, [1], cooldown_s=0, now_ns=0)
    assert block.unallocated == (3, 4, 5, 6, 7, 1)


def test_same_owner_and_attributes_share_one_entry() -> None:
    block, _ = blocks.assign(fresh(), 2, "h", {"a": "1"})
    block, _ = blocks.assign(block, 1, "h", {"a": "1"})
    block, _ = blocks.assign(block, 1, "h", {"a": "2"})
    assert block.attributes == (
        BlockAttributes(handle_id="h", secondary={"a": "1"}),
        BlockAttributes(handle_id="h", secondary={"a": "2"}),
    )
    assert block.allocations[:4] == (0, 0, 0, 1)


def test_reserved_addresses_are_skipped_and_stay_first_in_the_queue() -> None:
    base = span_of("10.0.0.0/29").base
    block, ordinals = blocks.assign(fresh(), 2, "h", {}, lambda address: address - base in (0, 2))
    assert ordinals == (1, 3)
    assert block.unallocated == (0, 2, 4, 5, 6, 7)


def test_guards_tell_the_present_owner_from_an_earlier_one() -> None:
    block, _ = blocks.assign(fresh(), 1, "h", {})
    number = block.sequence_number_for_allocation["0"]
    assert blocks.check_guards(block, 0, handle="h", sequence_number=number) is not None
    assert blocks.check_guards(block, 1, handle="h", sequence_number=number) is None
    with pytest.raises(RevisionConflict, match="sequence number"):
        blocks.check_guards(block, 0, handle=None, sequence_number=number + 1)
    with pytest.raises(RevisionConflict, match="belongs to handle h"):
        blocks.check_guards(block, 0, handle="other", sequence_number=None)


def test_handle_with_a_carriage_return_is_compared_by_what_is_before_it() -> None:
    block, _ = blocks.assign(fresh(), 1, "h\reth0", {})
    assert blocks.ordinals_of(block, "h") == [0]
    assert blocks.release(block, [0], cooldown_s=0, now_ns=0)[1] == {"h": 1}


def test_what_windows_keeps_for_itself_does_not_make_a_block_used() -> None:
    block, _ = blocks.assign(fresh(), 4, blocks.WINDOWS_RESERVED_HANDLE, {"note": "windows host rsvd"})
    assert blocks.is_empty(block)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"unallocated": (0, 0, 1, 2, 3, 4, 5, 6, 7)}, "twice"),
        ({"unallocated": (1, 2, 3, 4, 5, 6, 7)}, "neither assigned nor free"),
        ({"unallocated": tuple(range(9))}, "outside"),
        ({"allocations": (0, *(None,) * 7)}, "do not exist"),
        ({"allocations": (None,) * 7}, "7 entries for 8"),
        ({"attributes": (BlockAttributes(handle_id="h"),)}, "no address points to"),
    ],
)
def test_defect_of_a_block_is_named(changes: dict[str, object], said: str) -> None:
    from msgspec.structs import replace

    assert any(said in defect for defect in blocks.defects(replace(fresh(), **changes)))


@given(st.sampled_from(["10.0.0.0/26", "10.0.0.64/32", "fd00::/122", "fd00::ff00/120"]), st.data())
def test_address_and_ordinal_are_inverses(cidr: str, data: st.DataObject) -> None:
    span = span_of(cidr)
    ordinal = data.draw(st.integers(0, span.size - 1))
    address = span.address(ordinal)
    assert span.holds(address)
    assert int(address) - span.base == ordinal
    assert str(span.block_of(address, span.length)) == cidr


def test_walk_visits_every_block_of_a_pool_once_from_the_owners_place() -> None:
    from calico_ipam_blocks.finder import fnv1_32, walk
    from calico_ipam_blocks.inventory import pool_of
    from calico_kernel.model.network import IPPool, IPPoolSpec

    pool = pool_of(IPPool(spec=IPPoolSpec(cidr="10.0.0.0/22")))
    assert pool is not None
    found = list(walk(pool, "n1"))
    assert Counter(found).most_common(1)[0][1] == 1
    assert len(found) == 16
    assert found == list(walk(pool, "n1"))
    assert fnv1_32(b"") == 0x811C9DC5
    assert fnv1_32(b"a") == 0x050C5D7E
