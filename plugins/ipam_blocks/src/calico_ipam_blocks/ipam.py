"""Block IPAM: the plugin's object, which answers questions itself and has the rest done.

In:    requests of the CNI plugin, of tunnel and load-balancer controllers and of calicoctl.
Out:   calico_ipam_blocks.assigning (by way of .finder) and .releasing, which write through .ledger; .checks; .usage.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from calico_ipam_blocks import blocks, checks, usage
from calico_ipam_blocks.assigning import Assigner, Waiting
from calico_ipam_blocks.blocks import Span, span_of
from calico_ipam_blocks.finder import Finder
from calico_ipam_blocks.inventory import Inventory
from calico_ipam_blocks.ledger import ATTEMPTS, Ledger, block_in, split_affinity
from calico_ipam_blocks.releasing import Releaser
from calico_ipam_blocks.settings import BlocksSettings
from calico_ipam_blocks.state import State
from calico_kernel.errors import DatastoreError, IpamError, NotFound, RevisionConflict
from calico_kernel.hookspecs import Datastore, Ipam
from calico_kernel.model.ipam import (
    Address,
    AddressInfo,
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


class BlocksIpam(Ipam):
    """Requests of one process take turns: its threads would only make each other's compare-and-swaps fail. Whoever has
    the turn serves all who wait for it."""

    def __init__(
        self, datastore: Datastore, settings: BlocksSettings | None = None, log: logging.Logger | None = None
    ) -> None:
        self._datastore = datastore
        self._settings = settings or BlocksSettings()
        self._ledger = Ledger(datastore)
        self._inventory = Inventory(datastore)
        self._state = State(self._ledger, self._inventory)
        log = log or logging.getLogger(__name__)
        self._releaser = Releaser(self._state)
        self._assigner = Assigner(
            self._state, Finder(self._state, self._settings.reclaim_age_s, log), self._releaser, log
        )
        self._turn = threading.RLock()
        self._queue_lock = threading.Lock()
        self._queue: list[Waiting] = []

    def assign(self, request: AssignRequest) -> Assignment:
        if not request.node or not request.handle:
            raise IpamError(what="an address was asked for without a node or a handle", todo="name both")
        self._inventory.refresh()
        waiting = self._assigner.count_ahead(request)
        if waiting is not None:
            with self._queue_lock:
                self._queue.append(waiting)
        with self._turn:
            self._serve(waiting)
            try:
                return self._assigner.assign(request) if waiting is None else self._assigner.finish(waiting)
            except IpamError:
                # The watch of a remote datastore may lag behind: never refuse on old knowledge.
                known = self._inventory.seen_by(request.node)
                self._inventory.refresh(anew=True)
                if self._inventory.seen_by(request.node) == known:
                    raise
                return self._assigner.assign(request)

    def _serve(self, waiting: Waiting | None) -> None:
        """In the turn: serve everybody who waits, unless somebody has served this one meanwhile."""
        if waiting is not None and waiting.looked_at:
            return
        try:
            self._inventory.refresh()
        except DatastoreError:
            if waiting is not None:
                with self._queue_lock:
                    self._queue = [one for one in self._queue if one is not waiting]
                self._assigner.abandon(waiting)
            raise
        with self._queue_lock:
            batch, self._queue = self._queue, []
        self._assigner.serve(batch)

    def release(self, requests: Sequence[ReleaseRequest]) -> Sequence[Address]:
        with self._turn:
            self._inventory.refresh()
            return self._releaser.release(requests)

    def release_by_handle(self, handle: str) -> Sequence[Address]:
        with self._turn:
            self._inventory.refresh()
            return self._releaser.release_by_handle(handle)

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
        span = self._state.block_around(address)
        record = self._ledger.block(span) if span is not None else None
        if span is None or record is None:
            return AddressInfo(address=address, handle=None, block=None, block_node=None)
        block = self._state.warmed(block_in(record))
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
        return usage.report(self._inventory, self._datastore.list([BlockQuery()]).records, self._state.warmed)

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
        self._inventory.refresh(anew=True)  # who set it must see it at once; the watch tells some time later

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
                    self._state.forget(f"{record.key.type}:{record.key.owner}", span)
                    self._ledger.insist_on_release(
                        record.key.type, record.key.owner, span, only_empty=False, cooldown_s=cooldown_s
                    )
