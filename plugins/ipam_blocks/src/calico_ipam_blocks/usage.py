"""How full pools and blocks are. Pure: stored blocks in, the report of ``calicoctl ipam show`` out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from calico_ipam_blocks.blocks import Span, span_of
from calico_ipam_blocks.inventory import Inventory, Pool, Reservations
from calico_ipam_blocks.ledger import split_affinity
from calico_kernel.model.ipam import AllocationBlock, BlockUsage, IpamReport, PoolUsage
from calico_kernel.model.records import Record


def report(
    inventory: Inventory, records: Iterable[Record], warmed: Callable[[AllocationBlock], AllocationBlock]
) -> IpamReport:
    """Every pool with its blocks, and the blocks that lie in no pool. What cools down counts as in use."""
    by_pool: dict[str, list[BlockUsage]] = {pool.name: [] for pool in inventory.pools}
    orphans = []
    for record in records:
        if not isinstance(record.value, AllocationBlock):
            continue
        block = warmed(record.value)
        span = span_of(block.cidr)
        pool = inventory.pool_over(span)
        entry = _block_usage(block, span, pool, inventory.reservations)
        if pool is None:
            orphans.append(entry)
        else:
            by_pool[pool.name].append(entry)
    pools = tuple(
        PoolUsage(
            name=pool.name,
            cidr=str(pool.span),
            total=pool.span.size,
            in_use=sum(entry.in_use for entry in by_pool[pool.name]),
            reserved=inventory.reservations.count(pool.span),
            blocks=tuple(sorted(by_pool[pool.name], key=lambda entry: span_of(entry.cidr).base)),
        )
        for pool in inventory.pools
    )
    return IpamReport(pools=pools, orphan_blocks=tuple(orphans))


def _block_usage(block: AllocationBlock, span: Span, pool: Pool | None, reservations: Reservations) -> BlockUsage:
    owner = split_affinity(block.affinity)
    return BlockUsage(
        cidr=block.cidr,
        pool=pool.name if pool is not None else None,
        node=owner[1] if owner is not None else None,
        total=span.size,
        in_use=len(block.allocations) - len(block.unallocated),
        reserved=reservations.count(span),
    )
