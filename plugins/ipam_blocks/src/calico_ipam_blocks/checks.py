"""Inconsistencies among blocks, affinities, handles and pools: found, and mended where that is safe.

In:    one listing of everything, as of one moment.
Out:   problems in words; with ``mend``, the repairs.
Order: an assignment under way looks like an inconsistency for a moment (its handle counts more than its block shows).
       So what is mended must have looked the same a while before, and is still only written by compare-and-swap.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import attrs
import msgspec

from calico_ipam_blocks import blocks
from calico_ipam_blocks.blocks import Span, span_of
from calico_ipam_blocks.inventory import Pool
from calico_ipam_blocks.ledger import SETTLED, Ledger, split_affinity, state_of
from calico_kernel.errors import IpamError, NotFound, RevisionConflict
from calico_kernel.hookspecs import Datastore
from calico_kernel.model.endpoints import WorkloadEndpoint
from calico_kernel.model.ipam import Address, AllocationBlock, IpamHandle, IpamProblem, ReleaseRequest
from calico_kernel.model.keys import (
    BlockAffinityKey,
    BlockAffinityQuery,
    BlockKey,
    BlockQuery,
    HandleKey,
    HandleQuery,
    Query,
    ResourceQuery,
)
from calico_kernel.model.records import Malformed, Record

LEAK = "address-without-endpoint"
MENDABLE = frozenset(
    {"handle-counts-too-much", "handle-counts-too-little", "affinity-without-block", "affinity-stale",
     "affinity-unfinished", "block-without-affinity", "block-abandoned", "block-untidy"}
)  # fmt: skip


@attrs.frozen
class Picture:
    """Everything IPAM keeps, as of one moment."""

    blocks: Mapping[Span, AllocationBlock]
    affinities: Mapping[BlockAffinityKey, Record]
    handles: Mapping[str, IpamHandle]
    endpoint_addresses: frozenset[str]
    unreadable: Sequence[tuple[str, str]]


def look(datastore: Datastore) -> Picture:
    found: dict[Span, AllocationBlock] = {}
    affinities: dict[BlockAffinityKey, Record] = {}
    handles: dict[str, IpamHandle] = {}
    addresses: set[str] = set()
    unreadable: list[tuple[str, str]] = []
    queries: Sequence[Query] = [BlockQuery(), BlockAffinityQuery(), HandleQuery(), ResourceQuery("WorkloadEndpoint")]
    for record in datastore.list(queries).records:
        key, value = record.key, record.value
        if isinstance(value, Malformed):
            unreadable.append((_subject(record), value.reason))
        elif isinstance(key, BlockKey) and isinstance(value, AllocationBlock):
            found[span_of(key.cidr)] = value
        elif isinstance(key, BlockAffinityKey):
            affinities[key] = record
        elif isinstance(key, HandleKey) and isinstance(value, IpamHandle):
            handles[key.handle] = value
        elif isinstance(value, WorkloadEndpoint):
            addresses.update(network.split("/")[0] for network in value.spec.ip_networks)
    return Picture(found, affinities, handles, frozenset(addresses), unreadable)


def find(datastore: Datastore, pools: Sequence[Pool], now_ns: int, leak_grace_s: float) -> list[IpamProblem]:
    """Every inconsistency; [] when there is none. Reads once, writes nothing."""
    picture = look(datastore)
    found = [_problem("unreadable-record", subject, reason) for subject, reason in picture.unreadable]
    found += _block_problems(picture, pools, now_ns, leak_grace_s)
    found += _affinity_problems(picture)
    found += _handle_problems(picture)
    return found


def _problem(kind: str, subject: str, detail: str, **more: object) -> IpamProblem:
    return IpamProblem(kind=kind, subject=subject, detail=detail, collectable=kind in MENDABLE, **more)  # type: ignore[arg-type]


def _block_problems(picture: Picture, pools: Sequence[Pool], now_ns: int, leak_grace_s: float) -> list[IpamProblem]:
    found = []
    reach: Span | None = None
    for span in sorted(picture.blocks, key=lambda span: (span.version, span.base, span.length)):
        block, subject = picture.blocks[span], f"block {span}"
        for defect in blocks.defects(block):
            untidy = defect == "it has attributes that no address points to"
            found.append(_problem("block-untidy" if untidy else "block-broken", subject, defect))
        pool = next((pool for pool in pools if pool.span.covers(span)), None)
        if pool is None:
            found.append(_problem("block-outside-pools", subject, "it lies in no pool"))
        elif pool.block_length != span.length:
            found.append(_problem("block-size", subject, f"pool {pool.name} has blocks of /{pool.block_length}"))
        if reach is not None and reach.version == span.version and span.base <= reach.last:
            found.append(_problem("blocks-overlap", subject, f"it overlaps block {reach}"))
        if reach is None or reach.version != span.version or span.last > reach.last:
            reach = span
        owner = split_affinity(block.affinity)
        if owner is not None and BlockAffinityKey(*owner, str(span)) not in picture.affinities:
            found.append(_problem("block-without-affinity", subject, f"its node {owner[1]} has no affinity for it"))
        if block.affinity is None and blocks.is_empty(block):
            found.append(_problem("block-abandoned", subject, "it is empty and belongs to no node"))
        found += _address_problems(picture, span, block, now_ns, leak_grace_s)
    return found


def _address_problems(
    picture: Picture, span: Span, block: AllocationBlock, now_ns: int, leak_grace_s: float
) -> list[IpamProblem]:
    found = []
    for ordinal, index in enumerate(block.allocations):
        if index is None or not 0 <= index < len(block.attributes):
            continue
        holder, address = block.attributes[index], span.address(ordinal)
        if holder.released_at is not None:
            if blocks.epoch_of(holder.released_at) > now_ns / 1e9 + 60:
                detail = f"it was released in the future ({holder.released_at}), so it cools down too long"
                found.append(_problem("released-in-future", str(address), detail, address=address))
            continue
        owner = holder.secondary or {}
        if "pod" in owner and "namespace" in owner and str(address) not in picture.endpoint_addresses:
            detail = f"no workload endpoint has it; assigned to {owner['namespace']}/{owner['pod']}"
            problem = _problem(LEAK, str(address), detail, address=address, handle=holder.handle_id)
            assigned_s = _assigned_at(owner)
            old = assigned_s is not None and now_ns / 1e9 - assigned_s > leak_grace_s
            found.append(msgspec.structs.replace(problem, collectable=old))
    return found


def _assigned_at(owner: Mapping[str, str]) -> float | None:
    """Seconds since 1970, from the attribute that CNI plugins write: ``2026-11-21 08:40:00.419947227 +0000 UTC``."""
    try:
        return datetime.fromisoformat(owner.get("timestamp", "")[:19]).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _affinity_problems(picture: Picture) -> list[IpamProblem]:
    found = []
    for key, record in picture.affinities.items():
        subject = f"affinity of {key.owner} for {key.cidr}"
        block = picture.blocks.get(span_of(key.cidr))
        if block is None:
            found.append(_problem("affinity-without-block", subject, "there is no such block"))
        elif block.affinity != f"{key.type}:{key.owner}":
            found.append(_problem("affinity-stale", subject, f"the block belongs to {block.affinity or 'no node'}"))
        elif state_of(record) not in SETTLED:
            found.append(_problem("affinity-unfinished", subject, f"it is still {state_of(record)}"))
    return found


def actual_counts(found: Mapping[Span, AllocationBlock]) -> dict[str, dict[str, int]]:
    """By handle, then by block: how many addresses the blocks say it holds."""
    counts: dict[str, dict[str, int]] = {}
    for span, block in found.items():
        for ordinal in range(len(block.allocations)):
            index = block.allocations[ordinal]
            if index is None or not 0 <= index < len(block.attributes):
                continue
            holder = block.attributes[index]
            if holder.released_at is None and holder.handle_id is not None:
                if holder.handle_id.lower() == blocks.WINDOWS_RESERVED_HANDLE:
                    continue  # kept by the block alone, never counted
                of_handle = counts.setdefault(blocks.clean_handle(holder.handle_id), {})
                of_handle[str(span)] = of_handle.get(str(span), 0) + 1
    return counts


def _handle_problems(picture: Picture) -> list[IpamProblem]:
    found = []
    actual = actual_counts(picture.blocks)
    for handle in sorted(picture.handles.keys() | actual.keys()):
        stored = picture.handles[handle].block if handle in picture.handles else {}
        real = actual.get(handle, {})
        for cidr in sorted(stored.keys() | real.keys()):
            says, holds = stored.get(cidr, 0), real.get(cidr, 0)
            if says != holds:
                kind = "handle-counts-too-much" if says > holds else "handle-counts-too-little"
                detail = f"it counts {says} addresses in block {cidr}, which has {holds} of it"
                found.append(_problem(kind, f"handle {handle}", detail, handle=handle))
        if not stored and not real:
            found.append(_problem("handle-counts-too-much", f"handle {handle}", "it counts nothing", handle=handle))
    return found


# ── mending ──


def mend(
    ledger: Ledger,
    problems: Sequence[IpamProblem],
    check: Callable[[], Sequence[IpamProblem]],
    release: Callable[[Sequence[ReleaseRequest]], Sequence[Address]],
    settle_s: float,
) -> list[IpamProblem]:
    """Mend those of ``problems`` that look just the same now and ``settle_s`` later; returns the mended."""
    wanted = [problem for problem in problems if problem.collectable]
    if not wanted:
        return []
    datastore = ledger.datastore
    before = _revisions(datastore)
    time.sleep(settle_s)
    still = set(check())
    now = _revisions(datastore)
    mended = []
    picture = look(datastore)
    counts = actual_counts(picture.blocks)
    affinities = {f"affinity of {key.owner} for {key.cidr}": seen for key, seen in picture.affinities.items()}
    for problem in wanted:
        quiet = before.get(problem.subject) == now.get(problem.subject)
        if problem in still and quiet:
            with contextlib.suppress(RevisionConflict, NotFound, IpamError):  # somebody is at work on it after all
                if problem.kind == LEAK and problem.address is not None:
                    release([_guarded(problem.address, problem.handle, picture)])
                elif problem.kind.startswith("handle-") and problem.handle is not None:
                    stored = picture.handles.get(problem.handle)
                    _mend_handle(datastore, problem.handle, stored, counts.get(problem.handle, {}))
                elif problem.kind.startswith("affinity-"):
                    _mend_affinity(ledger, problem.kind, affinities[problem.subject])
                else:
                    _mend_block(ledger, problem.kind, picture, span_of(problem.subject.removeprefix("block ")))
                mended.append(problem)
    return mended


def _guarded(address: Address, handle: str | None, picture: Picture) -> ReleaseRequest:
    """A release that fails when the address was assigned anew since the picture was taken."""
    for span, block in picture.blocks.items():
        if span.holds(address):
            number = block.sequence_number_for_allocation.get(str(int(address) - span.base))
            return ReleaseRequest(address=address, handle=handle, sequence_number=number)
    return ReleaseRequest(address=address, handle=handle)


def _mend_affinity(ledger: Ledger, kind: str, seen: Record) -> None:
    if kind == "affinity-unfinished":
        ledger.block_behind(seen)
    else:
        ledger.datastore.delete(seen.key, revision=seen.revision)


def _mend_block(ledger: Ledger, kind: str, picture: Picture, span: Span) -> None:
    record, block = ledger.block(span), picture.blocks[span]
    if record is None or record.value != block:
        return
    owner = split_affinity(block.affinity)
    if kind == "block-without-affinity" and owner is not None:
        ledger.claim(*owner, span)
    elif kind == "block-abandoned":
        ledger.datastore.delete(record.key, revision=record.revision)
    elif kind == "block-untidy":
        # Nothing has cooled down for so long, so this only drops attributes.
        ledger.write_block(record, blocks.collect_cold(block, cooldown_s=1 << 40, now_ns=ledger.now_ns()))


def _mend_handle(datastore: Datastore, handle: str, stored: IpamHandle | None, real: dict[str, int]) -> None:
    key = HandleKey(handle)
    try:
        record = datastore.get(key)
    except NotFound:
        if real:
            datastore.create(key, IpamHandle(block=real))
        return
    if record.value != stored:
        return
    if real:
        datastore.update(key, IpamHandle(block=real), revision=record.revision)
    else:
        datastore.delete(key, revision=record.revision)


def _revisions(datastore: Datastore) -> dict[str, str]:
    listing = datastore.list([BlockQuery(), BlockAffinityQuery(), HandleQuery()])
    return {_subject(record): record.revision for record in listing.records}


def _subject(record: Record) -> str:
    key = record.key
    if isinstance(key, BlockKey):
        return f"block {key.cidr}"
    if isinstance(key, BlockAffinityKey):
        return f"affinity of {key.owner} for {key.cidr}"
    if isinstance(key, HandleKey):
        return f"handle {key.handle}"
    return str(key)
