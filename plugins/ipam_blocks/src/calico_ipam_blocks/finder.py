"""Which block a node takes next: one that nobody has, its own, or an empty one of another node.

Cost:  a few look-ups, however large the cluster; all blocks are listed only when those places are taken.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Sequence

import attrs

from calico_ipam_blocks import blocks
from calico_ipam_blocks.blocks import Span
from calico_ipam_blocks.inventory import Pool
from calico_ipam_blocks.ledger import block_in, split_affinity
from calico_ipam_blocks.state import State
from calico_kernel.errors import IpamError, NotFound, RevisionConflict
from calico_kernel.model.ipam import AllocationBlock
from calico_kernel.model.records import Record

PROBES = 4
"""Places looked at one by one for a free block before all blocks are listed."""


@attrs.define(eq=False)
class Finder:
    """reclaim_age_s: an empty block of another node is left alone until it was claimed so long ago."""

    _state: State
    _reclaim_age_s: float
    _log: logging.Logger

    def unclaimed(self, pools: Sequence[Pool], version: int, affinity: str, owner: str) -> Span | None:
        """A prefix of one of the pools that has no block, or whose block is ours or could be taken over."""
        reservations = self._state.inventory.reservations
        for pool in pools:
            for span, _ in zip(walk(pool, owner), range(PROBES), strict=False):
                if not reservations.covers(span) and self._state.ledger.block(span) is None:
                    return span
        existing = self._state.existing(version)
        idle: list[tuple[Span, AllocationBlock]] = []
        for pool in pools:
            for span in walk(pool, owner):
                if reservations.covers(span):
                    continue
                record = existing.get(span)
                if record is None:
                    return span
                try:
                    block = self._state.warmed(block_in(record))
                except IpamError:
                    continue
                if not blocks.free_count(block, self._state.reserved_in(span)):
                    continue
                if block.affinity == affinity:
                    return span
                if blocks.is_empty(block):
                    idle.append((span, block))
        return self._take_over(idle)

    def _take_over(self, idle: Iterable[tuple[Span, AllocationBlock]]) -> Span | None:
        """Free an empty block of another node. Its sequence number must still be the one seen: somebody may have taken
        it over, and used it, since."""
        now_s = self._state.ledger.now_ns() / 1e9
        for span, block in idle:
            holder = split_affinity(block.affinity)
            claimed_s = blocks.epoch_of(block.affinity_claim_time or "")
            if holder is None or now_s - claimed_s < self._reclaim_age_s:
                continue
            try:
                released = self._state.ledger.release_affinity(
                    *holder,
                    span,
                    only_empty=True,
                    cooldown_s=self._state.inventory.config.ip_cooldown_seconds,
                    sequence_number=block.sequence_number,
                )
            except (RevisionConflict, NotFound, IpamError):
                continue
            if released:
                self._log.info("took over the empty block %s of %s", span, block.affinity)
                return span
        return None

    def existing(self, pools: Sequence[Pool], version: int, owner: str) -> Iterator[tuple[Span, Record]]:
        """Existing blocks of the pools, beginning at the node's own place so that borrowers spread."""
        existing = self._state.existing(version)
        for pool in pools:
            inside = sorted((s for s in existing if pool.span.covers(s)), key=lambda span: span.base)
            first = next(iter(walk(pool, owner))).base
            for span in sorted(inside, key=lambda span: (span.base < first, span.base)):
                if not self._state.inventory.reservations.covers(span):
                    yield span, existing[span]


def walk(pool: Pool, owner: str) -> Iterator[Span]:
    """Every block of a pool once, beginning at a place of the owner's own, so that nodes seldom want the same block."""
    step = 1 << ((32 if pool.span.version == 4 else 128) - pool.block_length)
    count = pool.span.size // step
    single = step == 1  # single addresses: any place is as good, and a fixed one would be full soon
    start = random.randrange(count) if single else fnv1_32(owner.encode()) % count
    for index in range(count):
        at = (start + index) % count
        yield Span(pool.span.version, pool.span.base + at * step, pool.block_length)


def fnv1_32(data: bytes) -> int:
    """The 32-bit FNV-1 hash (FNV specification, Fowler, Noll, Vo)."""
    value = 0x811C9DC5
    for byte in data:
        value = (value * 0x01000193) & 0xFFFFFFFF ^ byte
    return value
