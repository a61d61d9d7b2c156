"""Every write that IPAM makes, in the order that keeps it safe whatever dies when.

In:    decisions of calico_ipam_blocks.ipam.
Out:   blocks, affinities and handles in the datastore.
Order: an address belongs to whom its block says, and a block is only ever written against the revision that was read:
       no address is given twice. A handle is counted up before the block is written and down after: it may count too
       much after a crash, never too little. An affinity is pending before its block exists and pendingDeletion before
       it goes, and only a confirmed one may be routed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from calico_ipam_blocks import blocks
from calico_ipam_blocks.blocks import Span
from calico_kernel.errors import AlreadyExists, DatastoreError, IpamError, NotFound, RevisionConflict
from calico_kernel.hookspecs import Datastore
from calico_kernel.model.ipam import AllocationBlock, IpamHandle, StoredBlockAffinity
from calico_kernel.model.keys import BlockAffinityKey, BlockKey, HandleKey
from calico_kernel.model.records import Record

ATTEMPTS = 100
PENDING, CONFIRMED, PENDING_DELETION = "pending", "confirmed", "pendingDeletion"
SETTLED = (CONFIRMED, "")
"""Old records have no state; they count as confirmed."""


class Contended(IpamError):
    """Others kept changing the record; the same call may be repeated."""

    retryable = True


def contended(what: str) -> Contended:
    return Contended(what=f"{what} was changed by others {ATTEMPTS} times in a row", todo="repeat the request")


def block_in(record: Record) -> AllocationBlock:
    """The block of a record. Raises IpamError for one that cannot be understood: nothing is assigned from it."""
    value = record.value
    if isinstance(value, AllocationBlock):
        if blocks.is_usable(value):
            return value
        reason = "; ".join(blocks.defects(value))
    else:
        reason = "it does not decode"
    raise IpamError(
        what=f"block {getattr(record.key, 'cidr', '?')} cannot be used: {reason}",
        kept="it is left as it is, and no address is assigned from it",
        todo="see `calicoctl ipam check`",
    )


class Ledger:
    def __init__(self, datastore: Datastore, *, now_ns: Callable[[], int] = time.time_ns) -> None:
        self.datastore = datastore
        self.now_ns = now_ns

    # ── blocks ──

    def block(self, span: Span) -> Record | None:
        try:
            return self.datastore.get(BlockKey(str(span)))
        except NotFound:
            return None

    def write_block(self, record: Record, block: AllocationBlock) -> Record:
        """Raises RevisionConflict or NotFound when it is no longer what was read."""
        changed = replace(block, sequence_number=block.sequence_number + 1)
        return self.datastore.update(record.key, changed, revision=record.revision)

    # ── handles ──

    def count_up(self, handle: str, counts: Mapping[str, int]) -> None:
        """Add ``counts`` (by block) to a handle, made when it is new."""
        key = HandleKey(handle)
        for attempt in range(ATTEMPTS):
            try:
                if attempt == 0:  # nearly always new: one round trip
                    self.datastore.create(key, IpamHandle(block=dict(counts)))
                    return
                record = self.datastore.get(key)
                before = record.value.block if isinstance(record.value, IpamHandle) else {}
                after = {cidr: before.get(cidr, 0) + counts.get(cidr, 0) for cidr in (*before, *counts)}
                self.datastore.update(key, IpamHandle(block=after), revision=record.revision)
            except NotFound:
                with contextlib.suppress(AlreadyExists):
                    self.datastore.create(key, IpamHandle(block=dict(counts)))
                    return
            except (AlreadyExists, RevisionConflict):
                continue
            else:
                return
        raise contended(f"handle {handle}")

    def count_down(self, handle: str, counts: Mapping[str, int], *, known: Record | None = None) -> None:
        """Take ``counts`` off a handle, which goes when nothing is left. ``known``: it as read a moment ago."""
        key = HandleKey(handle)
        for _ in range(ATTEMPTS):
            try:
                record = known or self.datastore.get(key)
                known = None
                before = record.value.block if isinstance(record.value, IpamHandle) else {}
                after = {cidr: left for cidr, count in before.items() if (left := count - counts.get(cidr, 0)) > 0}
                if after:
                    self.datastore.update(key, IpamHandle(block=after), revision=record.revision)
                else:
                    self.datastore.delete(key, revision=record.revision)
            except NotFound:
                return
            except RevisionConflict:
                continue
            return
        raise contended(f"handle {handle}")

    # ── affinities ──

    def claim(self, kind: str, owner: str, span: Span) -> Record | None:
        """Make ``span`` a block of ``owner``; returns the block, which may have existed, or None: it is another's."""
        key = BlockAffinityKey(kind, owner, str(span))
        for _ in range(ATTEMPTS):
            with contextlib.suppress(RevisionConflict, NotFound):
                try:
                    affinity = self.datastore.create(key, StoredBlockAffinity(state=PENDING))
                except AlreadyExists:
                    return self.block_behind(self.datastore.get(key))
                return self._make_block(affinity, span)
        raise contended(f"the affinity of {owner} for {span}")

    def block_behind(self, affinity: Record) -> Record | None:
        """The block that an affinity stands for, made when it is missing, the affinity confirmed when it was not.
        None: the block is another's, and the stale affinity was removed. Raises RevisionConflict, NotFound: look again.
        """
        key = affinity.key
        assert isinstance(key, BlockAffinityKey)
        span = blocks.span_of(key.cidr)
        record = self.block(span)
        if record is None:
            return self._make_block(self._set_state(affinity, PENDING), span)
        if block_in(record).affinity != f"{key.type}:{key.owner}":
            self.datastore.delete(key, revision=affinity.revision)
            return None
        if state_of(affinity) not in SETTLED:
            pending = self._set_state(affinity, PENDING)
            # A new revision of the block makes whoever was about to release it fail.
            record = self.write_block(record, block_in(record))
            self._confirm(pending)
        return record

    def _make_block(self, affinity: Record, span: Span) -> Record | None:
        key = affinity.key
        assert isinstance(key, BlockAffinityKey)
        owner = f"{key.type}:{key.owner}"
        try:
            record = self.datastore.create(BlockKey(key.cidr), blocks.new_block(span, owner, self.now_ns()))
        except AlreadyExists:
            record = self.datastore.get(BlockKey(key.cidr))
            if block_in(record).affinity != owner:
                with contextlib.suppress(RevisionConflict, NotFound):
                    self.datastore.delete(key, revision=affinity.revision)
                return None
        self._confirm(affinity)
        return record

    def _set_state(self, affinity: Record, state: str) -> Record:
        return self.datastore.update(affinity.key, StoredBlockAffinity(state=state), revision=affinity.revision)

    def _confirm(self, affinity: Record) -> None:
        try:
            self._set_state(affinity, CONFIRMED)
        except RevisionConflict:
            # Another process of this node may have finished the same claim.
            if state_of(self.datastore.get(affinity.key)) not in SETTLED:
                raise

    def release_affinity(
        self,
        kind: str,
        owner: str,
        span: Span,
        *,
        only_empty: bool,
        cooldown_s: int,
        sequence_number: int | None = None,
    ) -> bool:
        """Give up a block: an empty one is deleted, one in use loses its affinity. False: there was nothing to give up,
        or the block is in use (``only_empty``) or was written since (``sequence_number``).
        Raises RevisionConflict, NotFound when others interfere; safe to repeat."""
        key = BlockAffinityKey(kind, owner, str(span))
        try:
            affinity = self.datastore.get(key)
        except NotFound:
            return False
        record = self.block(span)
        if record is None:
            self.datastore.delete(key, revision=affinity.revision)
            return True
        block = blocks.collect_cold(block_in(record), cooldown_s=cooldown_s, now_ns=self.now_ns())
        if sequence_number is not None and block.sequence_number != sequence_number:
            return False
        if block.affinity is not None and block.affinity != f"{kind}:{owner}":
            self.datastore.delete(key, revision=affinity.revision)
            return False
        empty = blocks.is_empty(block)
        if only_empty and not empty:
            return False
        leaving = self._set_state(affinity, PENDING_DELETION)
        if empty:
            with contextlib.suppress(NotFound):
                self.datastore.delete(record.key, revision=record.revision)
        else:
            self.write_block(record, replace(block, affinity=None, affinity_claim_time=None))
        with contextlib.suppress(NotFound):
            self.datastore.delete(key, revision=leaving.revision)
        return True

    def insist_on_release(self, kind: str, owner: str, span: Span, *, only_empty: bool, cooldown_s: int) -> bool:
        """``release_affinity``, again as long as others interfere."""
        for _ in range(ATTEMPTS):
            with contextlib.suppress(RevisionConflict, NotFound):
                return self.release_affinity(kind, owner, span, only_empty=only_empty, cooldown_s=cooldown_s)
        raise contended(f"the affinity of {owner} for {span}")


def state_of(affinity: Record) -> str:
    """An affinity that does not decode is not confirmed."""
    return affinity.value.state if isinstance(affinity.value, StoredBlockAffinity) else PENDING


def split_affinity(text: str | None) -> tuple[str, str] | None:
    """``host:n1`` as ("host", "n1")."""
    if text is None:
        return None
    kind, colon, owner = text.partition(":")
    return (kind, owner) if colon and owner and kind in ("host", "virtual") else None


def quietly(action: Callable[[], object]) -> None:
    """Housekeeping beside a request that has succeeded: its failure is no failure of the request."""
    with contextlib.suppress(DatastoreError, IpamError):
        action()
