"""Handing addresses out: from a block affine to the node, a new block, another node's empty one, or a borrowed one.

Cost:  an assignment from a block used before: the handle and the block are written, nothing is read. The block is taken
       from memory and the compare-and-swap decides whether it still is what it was. Requests that wait for their turn
       share the write of the block: many pods that start at once wait for a few writes, not for one after the other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from calico_ipam_blocks import blocks
from calico_ipam_blocks.blocks import Span, span_of
from calico_ipam_blocks.finder import Finder
from calico_ipam_blocks.inventory import Pool
from calico_ipam_blocks.ledger import ATTEMPTS, block_in, contended, quietly
from calico_ipam_blocks.releasing import Releaser
from calico_ipam_blocks.state import State
from calico_kernel.errors import IpamError, NotFound, PoolExhausted, RevisionConflict
from calico_kernel.model.ipam import (
    Address,
    AllocationBlock,
    AssignedAddress,
    Assignment,
    AssignRequest,
    ReleaseRequest,
)
from calico_kernel.model.keys import BlockAffinityKey, BlockAffinityQuery
from calico_kernel.model.records import Record


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


@attrs.define(eq=False)
class Waiting:
    """A request whose handle is counted up already, for the blocks that will probably serve it whole.

    ahead:   the block for each task.
    looked_at:  whether a common write was tried. ``failed``: how it went wrong, and perhaps was carried out."""

    request: AssignRequest
    tasks: Sequence[Task]
    ahead: Mapping[Span, Task]
    looked_at: bool = False
    failed: Exception | None = None

    @property
    def lost(self) -> dict[str, int]:
        """What was counted and not taken."""
        return {str(span): task.wanted for span, task in self.ahead.items() if task.missing}


@attrs.define(eq=False)
class Assigner:
    _state: State
    _finder: Finder
    _releaser: Releaser
    _log: logging.Logger

    def assign(self, request: AssignRequest) -> Assignment:
        if request.addresses:
            return self._assign_exact(request)
        tasks = self._tasks(request)
        return self._assign(request, tasks, lambda: self._take_hot(tasks))

    def _tasks(self, request: AssignRequest) -> Sequence[Task]:
        kind = "virtual" if request.intended_use == "LoadBalancer" else "host"
        return [
            Task(request, version, wanted, self._state.inventory.qualifying(request, version), kind)
            for version, wanted in ((4, request.num_ipv4), (6, request.num_ipv6))
            if wanted > 0
        ]

    def _assign(self, request: AssignRequest, tasks: Sequence[Task], first: Callable[[], None]) -> Assignment:
        try:
            first()
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

    # ── several at once ──

    def count_ahead(self, request: AssignRequest) -> Waiting | None:
        """Count the handle up for blocks that memory says will serve it whole; None when it knows none. In the thread
        of the request, while others write."""
        if request.addresses:
            return None
        try:
            tasks = self._tasks(request)
        except IpamError:
            return None  # found out, and told, in its turn
        ahead: dict[Span, Task] = {}
        for task in tasks:
            span = self._likely(task)
            if span is None:
                return None
            ahead[span] = task
        if ahead:
            self._state.ledger.count_up(request.handle, {str(span): task.wanted for span, task in ahead.items()})
        return Waiting(request, tasks, ahead) if ahead else None

    def _likely(self, task: Task) -> Span | None:
        remembered = self._state.hot.get((task.affinity, task.version), {}).copy()  # the turn's holder changes it
        for span, record in remembered.items():
            free = blocks.free_count(block_in(record), self._state.reserved_in(span))
            if task.pool_of(span) is not None and free >= task.wanted:
                return span
        return None

    def serve(self, waiting: Sequence[Waiting]) -> None:
        """Serve as many as their blocks have room for, each whole or not at all, with one write for each block."""
        bases: dict[Span, Record] = {}
        drafts: dict[Span, AllocationBlock] = {}
        takers: dict[Span, list[tuple[Waiting, Sequence[int]]]] = {}
        for one in waiting:
            one.looked_at = True
            for span, (record, draft, ordinals) in self._drafted(one, bases, drafts).items():
                bases[span], drafts[span] = record, draft
                takers.setdefault(span, []).append((one, ordinals))
        for span, taking in takers.items():
            affinity = taking[0][0].ahead[span].affinity
            try:
                self._state.remember(affinity, span, self._state.ledger.write_block(bases[span], drafts[span]))
            except (RevisionConflict, NotFound):
                self._state.forget(affinity, span)
            except Exception as exc:  # noqa: BLE001 -- each request raises it, in its own thread
                for one, _ in taking:
                    one.failed = exc
            else:
                for one, ordinals in taking:
                    task = one.ahead[span]
                    pool = task.pool_of(span)
                    assert pool is not None
                    self._record_taken(task, span, pool, drafts[span], ordinals)

    def _drafted(
        self, one: Waiting, bases: Mapping[Span, Record], drafts: Mapping[Span, AllocationBlock]
    ) -> Mapping[Span, tuple[Record, AllocationBlock, Sequence[int]]]:
        """The blocks as they would be with this request served too; {} when one of them lacks the room."""
        made: dict[Span, tuple[Record, AllocationBlock, Sequence[int]]] = {}
        for span, task in one.ahead.items():
            record = bases.get(span) or self._state.hot.get((task.affinity, task.version), {}).get(span)
            if record is None:
                return {}
            block = drafts[span] if span in drafts else block_in(record)
            draft, ordinals = self._allocate(block, task, task.wanted, span)
            if len(ordinals) < task.wanted:
                return {}
            made[span] = (record, draft, ordinals)
        return made

    def finish(self, waiting: Waiting) -> Assignment:
        """After ``serve``: what it could not give is assigned alone."""

        def correct() -> None:
            if waiting.failed is not None:
                raise waiting.failed
            if waiting.lost:
                self._state.ledger.count_down(waiting.request.handle, waiting.lost)

        return self._assign(waiting.request, waiting.tasks, correct)

    def abandon(self, waiting: Waiting) -> None:
        """It was never served: nothing stands behind what was counted."""
        quietly(lambda: self._state.ledger.count_down(waiting.request.handle, waiting.lost))

    # ── one alone ──

    def _take_hot(self, tasks: Sequence[Task]) -> None:
        """Serve what remembered blocks can serve whole, with one write of the handle for both families."""
        picks = []
        for task in tasks:
            for span, record in self._state.hot.get((task.affinity, task.version), {}).items():
                pool = task.pool_of(span)
                if pool is None:
                    continue
                changed, ordinals = self._allocate(block_in(record), task, task.wanted, span)
                if len(ordinals) == task.wanted:
                    picks.append((task, span, pool, record, changed, ordinals))
                    break
        if not picks:
            return
        handle = tasks[0].request.handle
        self._state.ledger.count_up(handle, {str(span): len(ordinals) for _, span, _, _, _, ordinals in picks})
        lost = {}
        for task, span, pool, record, changed, ordinals in picks:
            try:
                self._state.remember(task.affinity, span, self._state.ledger.write_block(record, changed))
            except (RevisionConflict, NotFound):
                self._state.forget(task.affinity, span)
                lost[str(span)] = len(ordinals)
            else:
                self._record_taken(task, span, pool, changed, ordinals)
        if lost:
            self._state.ledger.count_down(handle, lost)

    def _take_affine(self, task: Task) -> None:
        owner = task.request.node
        listing = self._state.ledger.datastore.list([BlockAffinityQuery(task.affinity_kind, owner, task.version)])
        owned = 0
        for affinity in listing.records:
            assert isinstance(affinity.key, BlockAffinityKey)
            span = span_of(affinity.key.cidr)
            if task.pool_of(span) is None:
                self._releaser.mind_pool(task.affinity, span)
                continue
            owned += 1
            if task.missing and not self._state.inventory.reservations.covers(span):
                self._take_from_affinity(task, affinity, span)
        limit = self._state.inventory.max_blocks(task.request.max_blocks)
        while task.missing:
            if owned >= limit:
                raise PoolExhausted(
                    what=f"node {owner} has {owned} IPv{task.version} blocks, as many as it may, and all are full",
                    kept="its present addresses",
                    todo="raise maxBlocksPerHost, or move workloads to another node",
                )
            if not self._state.inventory.config.auto_allocate_blocks:
                return
            span_found = self._finder.unclaimed(task.pools, task.version, task.affinity, owner)
            if span_found is None:
                return
            record = self._state.ledger.claim(task.affinity_kind, owner, span_found)
            if record is not None:
                owned += 1
                self._take_from(task, span_found, record)

    def _take_from_affinity(self, task: Task, affinity: Record, span: Span) -> None:
        for _ in range(ATTEMPTS):
            try:
                record = self._state.ledger.block_behind(affinity)
            except RevisionConflict:
                try:
                    affinity = self._state.ledger.datastore.get(affinity.key)
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
        if self._state.inventory.config.strict_affinity:
            return
        for span, record in self._finder.existing(task.pools, task.version, task.request.node):
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
            changed, ordinals = (
                self._allocate(block_in(record), task, task.missing, span) if record is not None else (None, ())
            )
            if len(ordinals) > counted:
                self._state.ledger.count_up(task.request.handle, {str(span): len(ordinals) - counted})
            elif len(ordinals) < counted:
                self._state.ledger.count_down(task.request.handle, {str(span): counted - len(ordinals)})
            counted = len(ordinals)
            if record is None or changed is None or not ordinals:
                self._state.forget(task.affinity, span)
                return
            try:
                written = self._state.ledger.write_block(record, changed)
            except (RevisionConflict, NotFound):
                record = self._state.ledger.block(span)
                continue
            if changed.affinity == task.affinity:
                self._state.remember(task.affinity, span, written)
            self._record_taken(task, span, pool, changed, ordinals)
            return
        self._state.ledger.count_down(task.request.handle, {str(span): counted})
        raise contended(f"block {span}")

    def _allocate(
        self, block: AllocationBlock, task: Task, count: int, span: Span
    ) -> tuple[AllocationBlock, tuple[int, ...]]:
        config = self._state.inventory.config
        block = blocks.collect_cold(block, cooldown_s=config.ip_cooldown_seconds, now_ns=self._state.ledger.now_ns())
        if config.strict_affinity and block.affinity != task.affinity:
            return block, ()
        request = task.request
        return blocks.assign(block, count, request.handle, request.attributes, self._state.reserved_in(span))

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
                pool = self._state.inventory.pool_around(address)
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
        request, config = task.request, self._state.inventory.config
        ordinal = int(address) - span.base
        for _ in range(ATTEMPTS):
            record = self._state.ledger.block(span) or self._state.ledger.claim(task.affinity_kind, request.node, span)
            if record is None:
                continue  # another node made the block first: look at what it is now
            block = blocks.collect_cold(
                block_in(record), cooldown_s=config.ip_cooldown_seconds, now_ns=self._state.ledger.now_ns()
            )
            if config.strict_affinity and block.affinity != task.affinity:
                raise IpamError(
                    what=f"affinity is strict, and {address} is in block {span} of {block.affinity or 'no node'}",
                    kept="no address was assigned",
                    todo=f"ask for it on that node, or for another address on {request.node}",
                )
            changed = blocks.assign_exact(block, ordinal, request.handle, request.attributes)
            self._state.ledger.count_up(request.handle, {str(span): 1})
            try:
                written = self._state.ledger.write_block(record, changed)
            except (RevisionConflict, NotFound):
                self._state.ledger.count_down(request.handle, {str(span): 1})
                continue
            if changed.affinity == task.affinity:
                self._state.remember(task.affinity, span, written)
            self._record_taken(task, span, pool, changed, [ordinal])
            return
        raise contended(f"block {span}")

    def _give_back(self, request: AssignRequest, taken: Sequence[AssignedAddress]) -> None:
        if taken:
            quietly(
                lambda: self._releaser.release(
                    [
                        ReleaseRequest(address=one.address, handle=request.handle, sequence_number=one.sequence_number)
                        for one in taken
                    ]
                )
            )

    def _exhausted(self, task: Task) -> PoolExhausted:
        existing = self._state.existing(task.version)
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
        strict = " and affinity is strict" if self._state.inventory.config.strict_affinity else ""
        return PoolExhausted(
            what=f"no free IPv{task.version} address for handle {task.request.handle} on node {task.request.node} "
            f"in {', '.join(said)}{strict}",
            kept="the addresses assigned before",
            todo=f"add a pool that selects node {task.request.node}",
        )
