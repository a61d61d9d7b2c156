"""Giving addresses back: only from who holds them, and only what is still theirs.

In:    requests by address, guarded by handle and sequence number, or by handle.
Out:   changed blocks first, then handles, then perhaps an affinity that has no reason any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from calico_ipam_blocks import blocks
from calico_ipam_blocks.blocks import Span, span_of
from calico_ipam_blocks.ledger import ATTEMPTS, block_in, contended, quietly, split_affinity
from calico_ipam_blocks.state import State
from calico_kernel.errors import NotFound, RevisionConflict
from calico_kernel.model.ipam import Address, AllocationBlock, IpamHandle, ReleaseRequest
from calico_kernel.model.keys import HandleKey
from calico_kernel.model.records import Record


@attrs.define(eq=False)
class Releaser:
    _state: State

    def release(self, requests: Sequence[ReleaseRequest]) -> Sequence[Address]:
        unassigned: list[Address] = []
        by_block: dict[Span, list[ReleaseRequest]] = {}
        for request in {request.address: request for request in requests}.values():
            span = self._state.block_around(request.address)
            if span is None:
                unassigned.append(request.address)
            else:
                by_block.setdefault(span, []).append(request)
        found = {span: self._state.ledger.block(span) for span in by_block}
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
                    record = self._state.ledger.block(span)
                    continue
                for handle, count in counts.items():
                    self._state.ledger.count_down(handle, {str(span): count})
            return [r.address for r in requests if int(r.address) - span.base not in held]
        raise contended(f"block {span}")

    def _write_release(
        self, span: Span, record: Record, block: AllocationBlock, ordinals: Sequence[int]
    ) -> dict[str, int] | None:
        """Release in one block; returns how many of each handle, None when the block changed meanwhile."""
        cooldown_s = self._state.inventory.config.ip_cooldown_seconds
        changed, counts = blocks.release(block, ordinals, cooldown_s=cooldown_s, now_ns=self._state.ledger.now_ns())
        try:
            if changed.affinity is None and blocks.is_empty(changed):
                self._state.ledger.datastore.delete(record.key, revision=record.revision)
                return counts
            written = self._state.ledger.write_block(record, changed)
        except (RevisionConflict, NotFound):
            return None
        if changed.affinity is not None:
            key = (changed.affinity, span.version)
            if span in self._state.hot.get(key, {}):
                self._state.remember(changed.affinity, span, written)
            self.mind_pool(changed.affinity, span)
        return counts

    def mind_pool(self, affinity: str, span: Span) -> None:
        """Give up an empty block when its pool no longer selects its node, and any empty one of a load balancer."""
        owner = split_affinity(affinity)
        pool = self._state.inventory.pool_over(span)
        if owner is None or pool is None:
            return
        if owner[0] == "host":
            labels = self._state.inventory.node_labels(owner[1])
            if labels is None or pool.selects(labels):
                return
        self._state.forget(affinity, span)
        cooldown_s = self._state.inventory.config.ip_cooldown_seconds
        quietly(lambda: self._state.ledger.release_affinity(*owner, span, only_empty=True, cooldown_s=cooldown_s))

    def release_by_handle(self, handle: str) -> Sequence[Address]:
        handle = blocks.clean_handle(handle)
        try:
            known = self._state.ledger.datastore.get(HandleKey(handle))
        except NotFound:
            return []
        if not isinstance(known.value, IpamHandle):
            self._state.ledger.datastore.delete(known.key, revision=known.revision)
            return []
        released: list[Address] = []
        counts: dict[str, int] = {}
        for cidr in known.value.block:
            span = span_of(cidr)
            for _ in range(ATTEMPTS):
                record = self._state.ledger.block(span)
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
            self._state.ledger.count_down(handle, counts, known=known)
        return released
