"""What may be done to one block of addresses. Pure: a block goes in, the changed block comes out.

In:    stored blocks, from calico_ipam_blocks.ledger.
Out:   the block to write in their place, and which ordinals it gave or took.
Owns:  nothing. An ordinal is an address's place in its block, counted from 0; ``unallocated`` is a queue: its head is
       handed out next, what is given back goes to its tail, so that an address rests as long as possible. Written
       blocks are those that Calico would write.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_network

import attrs
from msgspec.structs import replace

from calico_kernel.errors import AddressInUse, RevisionConflict
from calico_kernel.model.ipam import Address, AllocationBlock, BlockAttributes

WINDOWS_RESERVED_HANDLE = "windows-reserved-ipam-handle"
"""Calico for Windows takes the first three and the last address of its blocks under this handle."""


@attrs.frozen(slots=True)
class Span:
    """A prefix as integers: quick to compare, to walk and to hash."""

    version: int
    base: int
    length: int

    @property
    def size(self) -> int:
        return int(1 << ((32 if self.version == 4 else 128) - self.length))

    @property
    def last(self) -> int:
        return self.base + self.size - 1

    def address(self, ordinal: int) -> Address:
        return IPv4Address(self.base + ordinal) if self.version == 4 else IPv6Address(self.base + ordinal)

    def holds(self, address: Address) -> bool:
        return address.version == self.version and self.base <= int(address) <= self.last

    def covers(self, other: Span) -> bool:
        return other.version == self.version and self.base <= other.base and other.last <= self.last

    def block_of(self, address: Address, length: int) -> Span:
        """The block of prefix length ``length`` around ``address``."""
        bits = (32 if self.version == 4 else 128) - length
        return Span(self.version, int(address) >> bits << bits, length)

    def __str__(self) -> str:
        return f"{self.address(0)}/{self.length}"


@functools.lru_cache(maxsize=65536)
def span_of(cidr: str) -> Span:
    """Raises ValueError for text that is not a prefix."""
    network = ip_network(cidr)
    return Span(network.version, int(network.network_address), network.prefixlen)


def no_reservation(_address: int) -> bool:
    return False


def new_block(span: Span, affinity: str, now_ns: int) -> AllocationBlock:
    """An empty block of ``affinity``. Its sequence numbers start at the clock, so that those of an earlier block of the
    same prefix, deleted since, never come back."""
    return AllocationBlock(
        cidr=str(span),
        affinity=affinity,
        affinity_claim_time=timestamp(now_ns // 1_000_000_000),
        allocations=(None,) * span.size,
        unallocated=tuple(range(span.size)),
        sequence_number=now_ns,
    )


def assign(
    block: AllocationBlock,
    count: int,
    handle: str,
    attributes: Mapping[str, str],
    reserved: Callable[[int], bool] = no_reservation,
) -> tuple[AllocationBlock, tuple[int, ...]]:
    """Give the first ``count`` free, unreserved ordinals of the queue to ``handle``; fewer when there are not so many.

    reserved:  whether an address, as an integer, is kept back from automatic assignment.
    """
    base = span_of(block.cidr).base
    taken: list[int] = []
    for ordinal in block.unallocated:
        if len(taken) == count:
            break
        if not reserved(base + ordinal):
            taken.append(ordinal)
    return (_allocated(block, taken, handle, attributes), tuple(taken)) if taken else (block, ())


def assign_exact(block: AllocationBlock, ordinal: int, handle: str, attributes: Mapping[str, str]) -> AllocationBlock:
    """Give one ordinal. Raises AddressInUse, also while the address cools down."""
    index = block.allocations[ordinal]
    if index is not None:
        holder = block.attributes[index]
        held = "cools down after its release" if holder.released_at else f"belongs to handle {holder.handle_id}"
        raise AddressInUse(
            what=f"address {span_of(block.cidr).address(ordinal)} {held}",
            kept="its present assignment",
            todo="choose another address, or release it first",
        )
    return _allocated(block, [ordinal], handle, attributes)


def release(
    block: AllocationBlock, ordinals: Iterable[int], *, cooldown_s: int, now_ns: int
) -> tuple[AllocationBlock, dict[str, int]]:
    """Take back those of ``ordinals`` that are assigned; returns how many of each handle.

    They cool down under an attribute of their own; with no cooldown they go to the end of the queue at once.
    """
    going = [ordinal for ordinal in ordinals if holder_of(block, ordinal) is not None]
    if not going:
        return block, {}
    counts: dict[str, int] = {}
    allocations = list(block.allocations)
    sequence = dict(block.sequence_number_for_allocation)
    for ordinal in going:
        holder = holder_of(block, ordinal)
        if holder is not None and holder.handle_id is not None:
            handle = clean_handle(holder.handle_id)
            counts[handle] = counts.get(handle, 0) + 1
        allocations[ordinal] = len(block.attributes)
        sequence[str(ordinal)] = block.sequence_number
    cooling = BlockAttributes(released_at=timestamp(now_ns // 1_000_000_000))
    marked = replace(
        block,
        allocations=tuple(allocations),
        attributes=(*block.attributes, cooling),
        sequence_number_for_allocation=sequence,
    )
    return collect_cold(marked, cooldown_s=cooldown_s, now_ns=now_ns), counts


def collect_cold(block: AllocationBlock, *, cooldown_s: int, now_ns: int) -> AllocationBlock:
    """Free what has cooled down, drop attributes that nothing points to. The same object when nothing is to do."""
    limit = now_ns // 1_000_000_000 - cooldown_s
    cold = {
        index
        for index, holder in enumerate(block.attributes)
        if holder.released_at is not None and (cooldown_s == 0 or epoch_of(holder.released_at) < limit)
    }
    used = {index for index in block.allocations if index is not None} - cold
    if len(used) == len(block.attributes):
        return block
    freed = [ordinal for ordinal, index in enumerate(block.allocations) if index in cold]
    kept = [index for index in range(len(block.attributes)) if index in used]
    renumbered: dict[int | None, int] = {old: new for new, old in enumerate(kept)}
    sequence = block.sequence_number_for_allocation
    if freed:
        gone = {str(ordinal) for ordinal in freed}
        sequence = {ordinal: number for ordinal, number in sequence.items() if ordinal not in gone}
    return replace(
        block,
        allocations=tuple(renumbered.get(index) for index in block.allocations),
        unallocated=(*block.unallocated, *freed),
        attributes=tuple(block.attributes[index] for index in kept),
        sequence_number_for_allocation=sequence,
    )


def check_guards(
    block: AllocationBlock, ordinal: int, *, handle: str | None, sequence_number: int | None
) -> BlockAttributes | None:
    """The holder of ``ordinal``, None when it is not assigned.
    Raises RevisionConflict when it is assigned to another than the caller thinks."""
    holder = holder_of(block, ordinal)
    if holder is None:
        return None
    address = span_of(block.cidr).address(ordinal)
    stored = block.sequence_number_for_allocation.get(str(ordinal), 0)
    if sequence_number is not None and sequence_number != stored:
        raise _not_yours(address, f"its sequence number is {stored}, not {sequence_number}")
    if handle is not None and clean_handle(handle) != clean_handle(holder.handle_id or ""):
        raise _not_yours(address, f"it belongs to handle {holder.handle_id}, not {handle}")
    return holder


def holder_of(block: AllocationBlock, ordinal: int) -> BlockAttributes | None:
    """Who holds an ordinal; None when it is free or cools down."""
    index = block.allocations[ordinal]
    if index is None or block.attributes[index].released_at is not None:
        return None
    return block.attributes[index]


def ordinals_of(block: AllocationBlock, handle: str) -> list[int]:
    indexes = {
        index
        for index, holder in enumerate(block.attributes)
        if holder.handle_id is not None and clean_handle(holder.handle_id) == handle
    }
    if not indexes:
        return []
    return [ordinal for ordinal, index in enumerate(block.allocations) if index in indexes]


def free_count(block: AllocationBlock, reserved: Callable[[int], bool] = no_reservation) -> int:
    if reserved is no_reservation:
        return len(block.unallocated)
    base = span_of(block.cidr).base
    return sum(not reserved(base + ordinal) for ordinal in block.unallocated)


def is_empty(block: AllocationBlock) -> bool:
    """Nothing assigned, nothing cooling down; what Windows keeps for itself does not count."""
    return all(
        index is None or (block.attributes[index].handle_id or "").lower() == WINDOWS_RESERVED_HANDLE
        for index in block.allocations
    )


def is_usable(block: AllocationBlock) -> bool:
    """Whether addresses may be taken from it and given back. An address missing from the queue, and attributes that
    nobody uses, do no harm."""
    allocations, size = block.allocations, span_of(block.cidr).size
    if len(allocations) != size or len(set(block.unallocated)) != len(block.unallocated):
        return False
    used = {index for index in set(allocations) if index is not None}
    if used and (min(used) < 0 or max(used) >= len(block.attributes)):
        return False
    return all(0 <= ordinal < size and allocations[ordinal] is None for ordinal in block.unallocated)


def defects(block: AllocationBlock) -> list[str]:
    """What breaks the invariants of a block, in words; [] for a sound one."""
    found = []
    size = span_of(block.cidr).size
    if len(block.allocations) != size:
        return [f"it has {len(block.allocations)} entries for {size} addresses"]
    allocated = {ordinal for ordinal, index in enumerate(block.allocations) if index is not None}
    free = block.unallocated
    if len(set(free)) != len(free):
        found.append("an address stands twice in its queue of free ones")
    if any(not 0 <= ordinal < size for ordinal in free):
        found.append("its queue names an address outside of it")
    if both := allocated & set(free):
        found.append(f"{len(both)} addresses are assigned and free at once")
    if lost := set(range(size)) - allocated - set(free):
        found.append(f"{len(lost)} addresses are neither assigned nor free")
    used = {index for index in block.allocations if index is not None}
    if any(not 0 <= index < len(block.attributes) for index in used):
        found.append("an address points to attributes that do not exist")
    if len(used) < len(block.attributes):
        found.append("it has attributes that no address points to")
    return found


def clean_handle(handle: str) -> str:
    """Handles migrated from host-local may have a carriage return and more behind it; what is before counts."""
    return handle.split("\r", 1)[0]


def timestamp(epoch_s: int) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def epoch_of(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time; 0 for what is none, which counts as long ago."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def _allocated(
    block: AllocationBlock, ordinals: Sequence[int], handle: str, attributes: Mapping[str, str]
) -> AllocationBlock:
    wanted = BlockAttributes(handle_id=handle, secondary=dict(attributes) or None)
    all_attributes = block.attributes
    try:
        index = all_attributes.index(wanted)
    except ValueError:
        index = len(all_attributes)
        all_attributes = (*all_attributes, wanted)
    allocations = list(block.allocations)
    sequence = dict(block.sequence_number_for_allocation)
    for ordinal in ordinals:
        allocations[ordinal] = index
        sequence[str(ordinal)] = block.sequence_number
    going = set(ordinals)
    return replace(
        block,
        allocations=tuple(allocations),
        unallocated=tuple(ordinal for ordinal in block.unallocated if ordinal not in going),
        attributes=all_attributes,
        sequence_number_for_allocation=sequence,
    )


def _not_yours(address: Address, why: str) -> RevisionConflict:
    return RevisionConflict(
        what=f"address {address} was assigned anew meanwhile: {why}",
        kept="every address of the request that was not yet released",
        todo="read who holds it now; it is most likely not yours to release any more",
    )
