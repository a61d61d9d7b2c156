"""Batches in, deltas out: the thread in which the calculation runs.

In:    batches of ``calico_kernel.agent.feed``.   Out: deltas, to every worker. Everything that waits in the queue is
calculated together, so a burst of changes is one delta.
"""

from __future__ import annotations

import gc
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

import attrs

from calico_kernel.agent.feed import Batch, Change
from calico_kernel.agent.programmed import Programmed
from calico_kernel.agent.worker import DriverWorker
from calico_kernel.calc import Calculator
from calico_kernel.calc.endpoints import workload_endpoint_id
from calico_kernel.model.endpoints import WorkloadEndpoint
from calico_kernel.model.keys import Key, ResourceKey
from calico_kernel.model.nodestate import Delta, WorkloadEndpointId

log = logging.getLogger(__name__)

MOST_CHANGES = 20_000
"""Changes calculated together at most, so that a flood does not hold back the first of them."""
START_OVER_S = 1.0


@attrs.define
class LoopState:
    """For health and metrics; written by the loop's thread."""

    updates: int = 0
    deltas: int = 0
    calc_seconds: float = 0.0
    busy_since: float | None = None


class CalcLoop(threading.Thread):
    """``listeners`` see every delta, after the workers got it, in this thread. ``start_over`` is called when the
    calculation broke and a new one needs to be told everything."""

    def __init__(
        self,
        make_calculator: Callable[[], Calculator],
        node: str,
        workers: Sequence[DriverWorker],
        programmed: Programmed,
        listeners: Sequence[Callable[[Delta], None]] = (),
    ) -> None:
        super().__init__(name="calc", daemon=True)
        self.state = LoopState()
        self.calculator = make_calculator()
        self.start_over: Callable[[], None] = lambda: None
        self._make_calculator = make_calculator
        self.workers: list[DriverWorker] = list(workers)
        self._node, self._programmed, self._listeners = node, programmed, listeners
        self._queue: queue.Queue[Batch | None] = queue.Queue(maxsize=64)
        self._whole = threading.Event()
        self._ids: dict[Key, WorkloadEndpointId] = {}
        self._synced = False

    def sink(self, batch: Batch) -> None:
        """Take a batch; blocks while the queue is full."""
        self._queue.put(batch)

    def stop(self) -> None:
        self._queue.put(None)

    def ask_whole(self) -> None:
        """Send every worker the whole state at the next opportunity."""
        self._whole.set()
        self._queue.put(Batch(()))

    def run(self) -> None:
        while True:
            batch = self._queue.get()
            if batch is None:
                return
            try:
                if self._take(batch):
                    return
            except Exception:
                log.exception("the calculation broke; a new one reads everything again")
                self.calculator, self._synced = self._make_calculator(), False
                self.start_over()
                time.sleep(START_OVER_S)
            finally:
                self.state.busy_since = None

    def _take(self, first: Batch) -> bool:
        """Calculate this batch and what else waits; True when told to stop meanwhile."""
        self.state.busy_since = started = time.monotonic()
        changes: list[Change] = list(first.changes)
        in_sync, stopping = first.in_sync, False
        while len(changes) < MOST_CHANGES:
            try:
                more = self._queue.get_nowait()
            except queue.Empty:
                break
            if more is None:
                stopping = True
                break
            changes.extend(more.changes)
            in_sync = in_sync or more.in_sync
        revisions = self._local_revisions(changes)
        self._update(changes)
        self.state.updates += len(changes)
        if in_sync and not self._synced:
            self.calculator.in_sync()
            self._synced = True
        delta = self.calculator.flush()
        if self._whole.is_set() and self._synced:
            self._whole.clear()
            delta = self.calculator.snapshot()
        self.state.calc_seconds += time.monotonic() - started
        if delta is not None or revisions:
            self._send(delta if delta is not None else Delta(), revisions)
        return stopping

    def _update(self, changes: Sequence[Change]) -> None:
        """All at once; should a record break the calculation, one by one, and that record counts as absent."""
        try:
            self.calculator.update((change.key, change.value) for change in changes)
        except Exception:
            log.exception("a record broke the calculation; looking for it")
        else:
            return
        for change in changes:
            try:
                self.calculator.update([(change.key, change.value)])
            except Exception as exc:  # noqa: BLE001 -- contained: the record counts as absent
                log.error("%s counts as absent: calculating it failed: %s: %s", change.key, type(exc).__name__, exc)
                self.calculator.update([(change.key, None)])

    def _send(self, delta: Delta, revisions: dict[WorkloadEndpointId, str]) -> None:
        self.state.deltas += 1
        self._programmed.workloads(delta.workloads.upserts, delta.workloads.removes)
        for worker in self.workers:
            worker.submit(delta, revisions)
        for listener in self._listeners:
            try:
                listener(delta)
            except Exception:
                log.exception("a listener of the calculation failed")
        if delta.full:
            gc.collect()
            gc.freeze()

    def _local_revisions(self, changes: Sequence[Change]) -> dict[WorkloadEndpointId, str]:
        """Revision of each local workload endpoint that these changes write."""
        revisions: dict[WorkloadEndpointId, str] = {}
        for change in changes:
            if not (isinstance(change.key, ResourceKey) and change.key.kind == "WorkloadEndpoint"):
                continue
            value = change.value
            if isinstance(value, WorkloadEndpoint) and value.spec.node == self._node:
                endpoint = self._ids[change.key] = workload_endpoint_id(value)
                revisions[endpoint] = change.revision
            elif (gone := self._ids.pop(change.key, None)) is not None:
                revisions.pop(gone, None)
        return revisions
