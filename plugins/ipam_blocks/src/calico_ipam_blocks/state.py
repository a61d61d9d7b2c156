"""What assigning and releasing share: the ledger, the inventory, and the blocks this process has lately written.

Owns:  nothing outside memory. A remembered block may be out of date; the compare-and-swap that follows tells.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from calico_ipam_blocks import blocks
from calico_ipam_blocks.blocks import Span, span_of
from calico_ipam_blocks.inventory import Inventory
from calico_ipam_blocks.ledger import Ledger
from calico_kernel.model.ipam import Address, AllocationBlock
from calico_kernel.model.keys import BlockQuery
from calico_kernel.model.records import Record

HOT_BLOCKS = 64
"""Blocks remembered for each owner and family."""


@attrs.define(eq=False)
class State:
    ledger: Ledger
    inventory: Inventory
    hot: dict[tuple[str, int], dict[Span, Record]] = attrs.field(factory=dict)
    """By affinity and IP version: blocks as this process wrote them last."""

    def remember(self, affinity: str, span: Span, record: Record) -> None:
        remembered = self.hot.setdefault((affinity, span.version), {})
        remembered.pop(span, None)
        while len(remembered) >= HOT_BLOCKS:
            del remembered[next(iter(remembered))]
        remembered[span] = record

    def forget(self, affinity: str, span: Span) -> None:
        self.hot.get((affinity, span.version), {}).pop(span, None)

    def existing(self, version: int) -> dict[Span, Record]:
        return {
            span_of(record.key.cidr): record  # type: ignore[union-attr]
            for record in self.ledger.datastore.list([BlockQuery(version)]).records
        }

    def block_around(self, address: Address) -> Span | None:
        """Where the block of an address is or would be. An address of no pool: its block, if there is one."""
        pool = self.inventory.pool_around(address)
        if pool is not None:
            return pool.block_of(address)
        return next((span for span in self.existing(address.version) if span.holds(address)), None)

    def warmed(self, block: AllocationBlock) -> AllocationBlock:
        cooldown_s = self.inventory.config.ip_cooldown_seconds
        return blocks.collect_cold(block, cooldown_s=cooldown_s, now_ns=self.ledger.now_ns())

    def reserved_in(self, span: Span) -> Callable[[int], bool]:
        reservations = self.inventory.reservations
        if not reservations.touches(span):
            return blocks.no_reservation
        return lambda address: reservations.holds(span.version, address)
