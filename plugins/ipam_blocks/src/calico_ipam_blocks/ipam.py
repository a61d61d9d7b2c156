"""Block IPAM: which block an address comes from, and what happens when it is given back.

In:    requests of the CNI plugin, of tunnel and load-balancer controllers and of calicoctl.
Out:   assignments, through calico_ipam_blocks.ledger.
Cost:  an assignment from a block used before: the handle and the block are written, nothing is read. The block is taken
       from memory and the compare-and-swap decides whether it still is what it was.

An address comes from (1) a block affine to the node, (2) a new block, claimed for the node, (3) an empty block of
another node, taken over, (4) unless affinity is strict, any block with room.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs

from calico_ipam_blocks import blocks, checks, usage
from calico_ipam_blocks.blocks import Span, span_of
from calico_ipam_blocks.inventory import Inventory, Pool
from calico_ipam_blocks.ledger import (
    ATTEMPTS,
    Ledger,
    block_in,
    contended,
    quietly,
    split_affinity,
)
from calico_ipam_blocks.settings import BlocksSettings
from calico_kernel.errors import IpamError, NotFound, PoolExhausted, RevisionConflict
from calico_kernel.hookspecs import Datastore, Ipam
from calico_kernel.model.ipam import (
    Address,
    AddressInfo,
    AllocationBlock,
    AssignedAddress,
    Assignment,
    AssignRequest,
    IpamConfig,
    IpamHandle,
    IpamProblem,
    IpamReport,
    ReleaseRequest,
)
from calico_kernel.model.keys import (
    BlockAffinityKey,
    BlockAffinityQuery,
    BlockQuery,
    HandleKey,
    IpamConfigKey,
    IpamHostKey,
)
from calico_kernel.model.records import Record

PROBES = 4
"""Places looked at one by one for a free block before all blocks are listed."""
HOT_BLOCKS = 64
"""Blocks remembered for each owner and family."""


@attrs.define(eq=False)
class Task:
    """One request under way, for one family."""

    request: AssignRequest
    version: int
    wanted: int
    pools: tuple[Pool, ...]
    affinity_kind: str
    taken: list[AssignedAddress] = attrs.field(factory=list)

    @property
    def missing(self) -> int:
        return self.wanted - len(self.taken)

    @property
    def affinity(self) -> str:
        return f"{self.affinity_kind}:{self.request.node}"

    def pool_of(self, span: Span) -> Pool | None:
        return next((pool for pool in self.pools if pool.span.covers(span)), None)


class BlocksIpam(Ipam):
    """Requests of one process take turns: its threads would only make each other's compare-and-swaps fail."""

    def __init__(
        self, datastore: Datastore, settings: BlocksSettings | None = None, log: logging.Logger | None = None
    ) -> None:
        self._datastore = datastore
        self._settings = settings or BlocksSettings()
        self._log = log or logging.getLogger(__name__)
        self._ledger = Ledger(datastore)
        self._inventory = Inventory(datastore)
        self._turn = threading.RLock()
        self._hot: dict[tuple[str, int], dict[Span, Record]] = {}

    # ── assign ──

    def assign(self, request: AssignRequest) -> Assignment:
        if not request.node or not request.handle:
            raise IpamError(what="an address was asked for without a node or a handle", todo="name both")
        with self._turn:
            self._inventory.refresh()
            try:
                return self._assign(request)
            except IpamError:
                # The watch of a remote datastore may lag behind: never refuse on old knowledge.
                known = self._inventory.seen_by(request.node)
                self._inventory.refresh(anew=True)
                if self._inventory.seen_by(request.node) == known:
                    raise
                return self._assign(request)

    def _assign(self, request: AssignRequest) -> Assignment:
        if request.addresses:
            return self._assign_exact(request)
        kind = "virtual" if request.intended_use == "LoadBalancer" else "host"
        tasks = [
            Task(request, version, wanted, self._inventory.qualifying(request, version), kind)
            for version, wanted in ((4, request.num_ipv4), (6, request.num_ipv6))
            if wanted > 0
        ]
        try:
            self._take_hot(tasks)
            for task in tasks:
                if task.missing:
                    self._take_affine(task)
                if task.missing:
                    self._take_borrowed(task)
                if task.missing:
                    raise self._exhausted(task)
        except BaseException:
            self._give_back(request, [assigned for task in tasks for assigned in task.taken])
            raise
        return Assignment(addresses=tuple(assigned for task in tasks for assigned in task.taken))

    def _take_hot(self, tasks: Sequence[Task]) -> None:
        """Serve what remembered blocks can serve whole, with one write of the handle for both families."""
        picks = []
        for task in tasks:
            for span, record in self._hot.get((task.affinity, task.version), {}).items():
                pool = task.pool_of(span)
                if pool is None:
                    continue
                changed, ordinals = self._allocate(record, task, task.wanted, span)
                if len(ordinals) == task.wanted:
                    picks.append((task, span, pool, record, changed, ordinals))
                    break
        if not picks:
            return
        handle = tasks[0].request.handle
        self._ledger.count_up(handle, {str(span): len(ordinals) for _, span, _, _, _, ordinals in picks})
        lost = {}
        for task, span, pool, record, changed, ordinals in picks:
            try:
                self._remember(task.affinity, span, self._ledger.write_block(record, changed))
            except (RevisionConflict, NotFound):
                self._forget(task.affinity, span)
                lost[str(span)] = len(ordinals)
            else:
                self._record_taken(task, span, pool, changed, ordinals)
        if lost:
            self._ledger.count_down(handle, lost)

    def _take_affine(self, task: Task) -> None:
        owner = task.request.node
        listing = self._datastore.list([BlockAffinityQuery(task.affinity_kind, owner, task.version)])
        owned = 0
        for affinity in listing.records:
            assert isinstance(affinity.key, BlockAffinityKey)
            span = span_of(affinity.key.cidr)
            if task.pool_of(span) is None:
                self._mind_pool(task.affinity, span)
                continue
            owned += 1
            if task.missing and not self._inventory.reservations.covers(span):
                self._take_from_affinity(task, affinity, span)
        limit = self._inventory.max_blocks(task.request.max_blocks)
        while task.missing:
            if owned >= limit:
                raise PoolExhausted(
                    what=f"node {owner} has {owned} IPv{task.version} blocks, as many as it may, and all are full",
                    kept="its present addresses",
                    todo="raise maxBlocksPerHost, or move workloads to another node",
                )
            if not self._inventory.config.auto_allocate_blocks:
                return
            span_found = self._find_unclaimed(task)
            if span_found is None:
                return
            record = self._ledger.claim(task.affinity_kind, owner, span_found)
            if record is not None:
                owned += 1
                self._take_from(task, span_found, record)

    def _take_from_affinity(self, task: Task, affinity: Record, span: Span) -> None:
        for _ in range(ATTEMPTS):
            try:
                record = self._ledger.block_behind(affinity)
            except RevisionConflict:
                try:
                    affinity = self._datastore.get(affinity.key)
                except NotFound:
                    return
                continue
            except NotFound:
                return
            except IpamError as exc:
                self._log.warning("%s", exc)
                return
            if record is not None:
                self._take_from(task, span, record)
            return

    def _take_borrowed(self, task: Task) -> None:
        if self._inventory.config.strict_affinity:
            return
        for span, record in self._rotated(task, self._existing(task.version)):
            if not task.missing:
                return
            try:
                self._take_from(task, span, record)
            except PoolExhausted:
                raise
            except IpamError as exc:
                self._log.warning("%s", exc)

    def _take_from(self, task: Task, span: Span, record: Record | None) -> None:
        """As many as are missing out of one block; perhaps none."""
        pool = task.pool_of(span)
        assert pool is not None
        counted = 0
        for _ in range(ATTEMPTS):
            changed, ordinals = self._allocate(record, task, task.missing, span) if record is not None else (None, ())
            if len(ordinals) > counted:
                self._ledger.count_up(task.request.handle, {str(span): len(ordinals) - counted})
            elif len(ordinals) < counted:
                self._ledger.count_down(task.request.handle, {str(span): counted - len(ordinals)})
            counted = len(ordinals)
            if record is None or changed is None or not ordinals:
                self._forget(task.affinity, span)
                return
            try:
                written = self._ledger.write_block(record, changed)
            except (RevisionConflict, NotFound):
                record = self._ledger.block(span)
                continue
            if changed.affinity == task.affinity:
                self._remember(task.affinity, span, written)
            self._record_taken(task, span, pool, changed, ordinals)
            return
        self._ledger.count_down(task.request.handle, {str(span): counted})
        raise contended(f"block {span}")

    def _allocate(self, record: Record, task: Task, count: int, span: Span) -> tuple[AllocationBlock, tuple[int, ...]]:
        config = self._inventory.config
        block = blocks.collect_cold(
            block_in(record), cooldown_s=config.ip_cooldown_seconds, now_ns=self._ledger.now_ns()
        )
        if config.strict_affinity and block.affinity != task.affinity:
            return block, ()
        request = task.request
        return blocks.assign(block, count, request.handle, request.attributes, self._reserved_in(span))

    def _reserved_in(self, span: Span) -> Callable[[int], bool]:
        reservations = self._inventory.reservations
        if not reservations.touches(span):
            return blocks.no_reservation
        return lambda address: reservations.holds(span.version, address)

    def _record_taken(
        self, task: Task, span: Span, pool: Pool, block: AllocationBlock, ordinals: Iterable[int]
    ) -> None:
        task.taken.extend(
            AssignedAddress(
                address=span.address(ordinal),
                block=str(span),
                pool=pool.name,
                sequence_number=block.sequence_number_for_allocation[str(ordinal)],
            )
            for ordinal in ordinals
        )

    def _assign_exact(self, request: AssignRequest) -> Assignment:
        taken: list[AssignedAddress] = []
        kind = "virtual" if request.intended_use == "LoadBalancer" else "host"
        try:
            for address in dict.fromkeys(request.addresses):
                pool = self._inventory.pool_around(address)
                if pool is None or not pool.enabled:
                    raise IpamError(
                        what=f"address {address} is in no enabled pool",
                        kept="no address was assigned",
                        todo="create or enable a pool around it, or ask for another address",
                    )
                if request.intended_use not in pool.uses:
                    raise IpamError(
                        what=f"pool {pool.name} around {address} does not allow the use {request.intended_use}",
                        kept="no address was assigned",
                        todo=f"ask for an address of another pool (this one allows {', '.join(pool.uses)})",
                    )
                task = Task(request, address.version, 1, (pool,), kind)
                self._take_exact(task, pool, pool.block_of(address), address)
                taken.extend(task.taken)
        except BaseException:
            self._give_back(request, taken)
            raise
        return Assignment(addresses=tuple(taken))

    def _take_exact(self, task: Task, pool: Pool, span: Span, address: Address) -> None:
        request, config = task.request, self._inventory.config
        ordinal = int(address) - span.base
        for _ in range(ATTEMPTS):
            record = self._ledger.block(span) or self._ledger.claim(task.affinity_kind, request.node, span)
            if record is None:
                continue  # another node made the block first: look at what it is now
            block = blocks.collect_cold(
                block_in(record), cooldown_s=config.ip_cooldown_seconds, now_ns=self._ledger.now_ns()
            )
            if config.strict_affinity and block.affinity != task.affinity:
                raise IpamError(
                    what=f"affinity is strict, and {address} is in block {span} of {block.affinity or 'no node'}",
                    kept="no address was assigned",
                    todo=f"ask for it on that node, or for another address on {request.node}",
                )
            changed = blocks.assign_exact(block, ordinal, request.handle, request.attributes)
            self._ledger.count_up(request.handle, {str(span): 1})
            try:
                written = self._ledger.write_block(record, changed)
            except (RevisionConflict, NotFound):
                self._ledger.count_down(request.handle, {str(span): 1})
                continue
            if changed.affinity == task.affinity:
                self._remember(task.affinity, span, written)
            self._record_taken(task, span, pool, changed, [ordinal])
            return
        raise contended(f"block {span}")

    def _give_back(self, request: AssignRequest, taken: Sequence[AssignedAddress]) -> None:
        if taken:
            quietly(
                lambda: self.release(
                    [
                        ReleaseRequest(address=one.address, handle=request.handle, sequence_number=one.sequence_number)
                        for one in taken
                    ]
                )
            )

    # ── new blocks ──

    def _find_unclaimed(self, task: Task) -> Span | None:
        """A prefix of one of the pools that has no block, or whose block is ours or could be taken over."""
        reservations = self._inventory.reservations
        for pool in task.pools:
            for span, _ in zip(walk(pool, task.request.node), range(PROBES), strict=False):
                if not reservations.covers(span) and self._ledger.block(span) is None:
                    return span
        existing = self._existing(task.version)
        idle: list[tuple[Span, AllocationBlock]] = []
        for pool in task.pools:
            for span in walk(pool, task.request.node):
                if reservations.covers(span):
                    continue
                record = existing.get(span)
                if record is None:
                    return span
                try:
                    block = self._warmed(block_in(record))
                except IpamError:
                    continue
                if not blocks.free_count(block, self._reserved_in(span)):
                    continue
                if block.affinity == task.affinity:
                    return span
                if blocks.is_empty(block):
                    idle.append((span, block))
        return self._take_over(idle)

    def _take_over(self, idle: Iterable[tuple[Span, AllocationBlock]]) -> Span | None:
        """Free an empty block of another node. Its sequence number must still be the one seen: somebody may have taken
        it over, and used it, since."""
        now_s = self._ledger.now_ns() / 1e9
        for span, block in idle:
            owner = split_affinity(block.affinity)
            claimed_s = blocks.epoch_of(block.affinity_claim_time or "")
            if owner is None or now_s - claimed_s < self._settings.reclaim_age_s:
                continue
            try:
                released = self._ledger.release_affinity(
                    *owner,
                    span,
                    only_empty=True,
                    cooldown_s=self._inventory.config.ip_cooldown_seconds,
                    sequence_number=block.sequence_number,
                )
            except (RevisionConflict, NotFound, IpamError):
                continue
            if released:
                self._log.info("took over the empty block %s of %s", span, block.affinity)
                return span
        return None

    def _existing(self, version: int) -> dict[Span, Record]:
        return {
            span_of(record.key.cidr): record  # type: ignore[union-attr]
            for record in self._datastore.list([BlockQuery(version)]).records
        }

    def _rotated(self, task: Task, existing: dict[Span, Record]) -> Iterator[tuple[Span, Record]]:
        """Existing blocks of the task's pools, beginning at the node's own place so that borrowers spread."""
        for pool in task.pools:
            inside = sorted((s for s in existing if pool.span.covers(s)), key=lambda span: span.base)
            first = next(iter(walk(pool, task.request.node))).base
            for span in sorted(inside, key=lambda span: (span.base < first, span.base)):
                if not self._inventory.reservations.covers(span):
                    yield span, existing[span]

    def _exhausted(self, task: Task) -> PoolExhausted:
        existing = self._existing(task.version)
        said = []
        for pool in task.pools:
            inside = [r.value for s, r in existing.items() if pool.span.covers(s)]
            used = sum(
                len(value.allocations) - len(value.unallocated)
                for value in inside
                if isinstance(value, AllocationBlock)
            )
            used -= sum(one.pool == pool.name for one in task.taken)  # about to be given back
            said.append(f"{pool.name} ({pool.span}, {pool.span.size - used} of {pool.span.size} free)")
        strict = " and affinity is strict" if self._inventory.config.strict_affinity else ""
        return PoolExhausted(
            what=f"no free IPv{task.version} address for handle {task.request.handle} on node {task.request.node} "
            f"in {', '.join(said)}{strict}",
            kept="the addresses assigned before",
            todo=f"add a pool that selects node {task.request.node}",
        )

    # ── release ──

    def release(self, requests: Sequence[ReleaseRequest]) -> Sequence[Address]:
        with self._turn:
            self._inventory.refresh()
            unassigned: list[Address] = []
            by_block: dict[Span, list[ReleaseRequest]] = {}
            for request in {request.address: request for request in requests}.values():
                span = self._block_around(request.address)
                if span is None:
                    unassigned.append(request.address)
                else:
                    by_block.setdefault(span, []).append(request)
            found = {span: self._ledger.block(span) for span in by_block}
            for span, record in found.items():  # every guard holds before anything is written
                if record is not None:
                    self._held(span, block_in(record), by_block[span])
            for span, record in found.items():
                unassigned.extend(self._release_in(span, record, by_block[span]))
            return unassigned

    def _held(self, span: Span, block: AllocationBlock, requests: Iterable[ReleaseRequest]) -> list[int]:
        """Ordinals of those that are assigned. Raises RevisionConflict when one is another's by now."""
        held = []
        for request in requests:
            ordinal = int(request.address) - span.base
            guard = {"handle": request.handle, "sequence_number": request.sequence_number}
            if blocks.check_guards(block, ordinal, **guard) is not None:  # type: ignore[arg-type]
                held.append(ordinal)
        return held

    def _release_in(self, span: Span, record: Record | None, requests: Sequence[ReleaseRequest]) -> list[Address]:
        for _ in range(ATTEMPTS):
            if record is None:
                return [request.address for request in requests]
            block = block_in(record)
            held = self._held(span, block, requests)
            if held:
                counts = self._write_release(span, record, block, held)
                if counts is None:
                    record = self._ledger.block(span)
                    continue
                for handle, count in counts.items():
                    self._ledger.count_down(handle, {str(span): count})
            return [r.address for r in requests if int(r.address) - span.base not in held]
        raise contended(f"block {span}")

    def _write_release(
        self, span: Span, record: Record, block: AllocationBlock, ordinals: Sequence[int]
    ) -> dict[str, int] | None:
        """Release in one block; returns how many of each handle, None when the block changed meanwhile."""
        cooldown_s = self._inventory.config.ip_cooldown_seconds
        changed, counts = blocks.release(block, ordinals, cooldown_s=cooldown_s, now_ns=self._ledger.now_ns())
        try:
            if changed.affinity is None and blocks.is_empty(changed):
                self._datastore.delete(record.key, revision=record.revision)
                return counts
            written = self._ledger.write_block(record, changed)
        except (RevisionConflict, NotFound):
            return None
        if changed.affinity is not None:
            key = (changed.affinity, span.version)
            if span in self._hot.get(key, {}):
                self._remember(changed.affinity, span, written)
            self._mind_pool(changed.affinity, span)
        return counts

    def _mind_pool(self, affinity: str, span: Span) -> None:
        """Give up an empty block when its pool no longer selects its node, and any empty one of a load balancer."""
        owner = split_affinity(affinity)
        pool = self._inventory.pool_over(span)
        if owner is None or pool is None:
            return
        if owner[0] == "host":
            labels = self._inventory.node_labels(owner[1])
            if labels is None or pool.selects(labels):
                return
        self._forget(affinity, span)
        cooldown_s = self._inventory.config.ip_cooldown_seconds
        quietly(lambda: self._ledger.release_affinity(*owner, span, only_empty=True, cooldown_s=cooldown_s))

    def release_by_handle(self, handle: str) -> Sequence[Address]:
        handle = blocks.clean_handle(handle)
        with self._turn:
            self._inventory.refresh()
            try:
                known = self._datastore.get(HandleKey(handle))
            except NotFound:
                return []
            if not isinstance(known.value, IpamHandle):
                self._datastore.delete(known.key, revision=known.revision)
                return []
            released: list[Address] = []
            counts: dict[str, int] = {}
            for cidr in known.value.block:
                span = span_of(cidr)
                for _ in range(ATTEMPTS):
                    record = self._ledger.block(span)
                    block = block_in(record) if record is not None else None
                    ordinals = blocks.ordinals_of(block, handle) if block is not None else []
                    if record is None or block is None or not ordinals:
                        break  # counted too high after a crash, or an assignment under way: the count stays
                    if self._write_release(span, record, block, ordinals) is not None:
                        released.extend(span.address(ordinal) for ordinal in ordinals)
                        counts[cidr] = len(ordinals)
                        break
                else:
                    raise contended(f"block {span}")
            if counts:
                self._ledger.count_down(handle, counts, known=known)
            return released

    # ── questions ──

    def addresses_by_handle(self, handle: str) -> Sequence[AssignedAddress]:
        handle = blocks.clean_handle(handle)
        self._inventory.refresh()
        try:
            known = self._datastore.get(HandleKey(handle))
        except NotFound:
            return []
        found: list[AssignedAddress] = []
        for cidr in known.value.block if isinstance(known.value, IpamHandle) else ():
            span = span_of(cidr)
            record = self._ledger.block(span)
            if record is None:
                continue
            block = block_in(record)
            pool = self._inventory.pool_over(span)
            found.extend(
                AssignedAddress(
                    address=span.address(ordinal),
                    block=cidr,
                    pool=pool.name if pool is not None else "",
                    sequence_number=block.sequence_number_for_allocation.get(str(ordinal), 0),
                )
                for ordinal in blocks.ordinals_of(block, handle)
            )
        return found

    def inspect(self, address: Address) -> AddressInfo:
        self._inventory.refresh()
        span = self._block_around(address)
        record = self._ledger.block(span) if span is not None else None
        if span is None or record is None:
            return AddressInfo(address=address, handle=None, block=None, block_node=None)
        block = self._warmed(block_in(record))
        ordinal = int(address) - span.base
        owner = split_affinity(block.affinity)
        index = block.allocations[ordinal]
        holder = block.attributes[index] if index is not None else None
        return AddressInfo(
            address=address,
            handle=holder.handle_id if holder is not None else None,
            block=str(span),
            block_node=owner[1] if owner is not None else None,
            attributes=(holder.secondary if holder is not None else None) or {},
            alternate_attributes=(holder.alternate_owner_attrs if holder is not None else None) or {},
            sequence_number=block.sequence_number_for_allocation.get(str(ordinal)),
            released_at=holder.released_at if holder is not None else None,
        )

    def report(self) -> IpamReport:
        self._inventory.refresh()
        return usage.report(self._inventory, self._datastore.list([BlockQuery()]).records, self._warmed)

    def check(self) -> Sequence[IpamProblem]:
        self._inventory.refresh(anew=True)
        grace_s = self._settings.leak_grace_s
        return checks.find(self._datastore, self._inventory.pools, self._ledger.now_ns(), grace_s)

    def collect(self, problems: Sequence[IpamProblem]) -> Sequence[IpamProblem]:
        # No turn is taken: it waits, and nobody should wait with it. Every repair is a compare-and-swap.
        return checks.mend(self._ledger, problems, self.check, self.release, self._settings.settle_s)

    def configuration(self) -> IpamConfig:
        self._inventory.refresh()
        return self._inventory.config

    def configure(self, config: IpamConfig) -> None:
        if not config.strict_affinity and not config.auto_allocate_blocks:
            raise IpamError(
                what="without automatic blocks and without strict affinity no node could tell where to assign from",
                todo="set autoAllocateBlocks or strictAffinity",
            )
        if config.max_blocks_per_host > 0 and not config.strict_affinity:
            raise IpamError(
                what="maxBlocksPerHost limits nothing while nodes may borrow from each other's blocks",
                todo="set strictAffinity too",
            )
        if config.max_blocks_per_host < 0 or not 0 <= config.ip_cooldown_seconds <= 1200:
            raise IpamError(
                what="maxBlocksPerHost must not be negative, ipCooldownSeconds must be 0 to 1200",
                todo="correct the value",
            )
        self._datastore.put(IpamConfigKey(), config)

    def release_pool(self, cidr: str) -> None:
        inside = span_of(cidr)
        self._release_affinities([BlockAffinityQuery(version=inside.version)], inside)

    def release_node(self, node: str) -> None:
        self._release_affinities([BlockAffinityQuery("host", node)], None)
        for _ in range(ATTEMPTS):
            try:
                self._datastore.delete(IpamHostKey(node))
            except RevisionConflict:
                continue
            except NotFound:
                pass
            return

    def _release_affinities(self, queries: Sequence[BlockAffinityQuery], inside: Span | None) -> None:
        with self._turn:
            self._inventory.refresh()
            cooldown_s = self._inventory.config.ip_cooldown_seconds
            for record in self._datastore.list(queries).records:
                assert isinstance(record.key, BlockAffinityKey)
                span = span_of(record.key.cidr)
                if inside is None or inside.covers(span):
                    self._forget(f"{record.key.type}:{record.key.owner}", span)
                    self._ledger.insist_on_release(
                        record.key.type, record.key.owner, span, only_empty=False, cooldown_s=cooldown_s
                    )

    # ── inside ──

    def _block_around(self, address: Address) -> Span | None:
        """Where the block of an address is or would be. An address of no pool: its block, if there is one."""
        pool = self._inventory.pool_around(address)
        if pool is not None:
            return pool.block_of(address)
        return next((span for span in self._existing(address.version) if span.holds(address)), None)

    def _warmed(self, block: AllocationBlock) -> AllocationBlock:
        cooldown_s = self._inventory.config.ip_cooldown_seconds
        return blocks.collect_cold(block, cooldown_s=cooldown_s, now_ns=self._ledger.now_ns())

    def _remember(self, affinity: str, span: Span, record: Record) -> None:
        remembered = self._hot.setdefault((affinity, span.version), {})
        remembered.pop(span, None)
        while len(remembered) >= HOT_BLOCKS:
            del remembered[next(iter(remembered))]
        remembered[span] = record

    def _forget(self, affinity: str, span: Span) -> None:
        self._hot.get((affinity, span.version), {}).pop(span, None)


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
