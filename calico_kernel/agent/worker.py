"""One driver, one thread, one mailbox: deltas coalesce while it is busy; failures are retried with back-off.

In:    deltas from ``calico_kernel.agent.loop``.   Out: apply reports, to who listens (programmed endpoints, health).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import attrs
import msgspec

from calico_kernel.errors import CalicoError
from calico_kernel.hookspecs import ApplyReport, Driver, Failure, Lack
from calico_kernel.model.nodestate import Delta, WorkloadEndpointId
from calico_kernel.reconcile.backoff import Backoff

log = logging.getLogger(__name__)

Stamps = Mapping[WorkloadEndpointId, str]
Listener = Callable[[ApplyReport, Stamps], None]


@attrs.define
class WorkerState:
    """What health and metrics say of one driver. Written by its thread; times are monotonic seconds."""

    applies: int = 0
    failed_applies: int = 0
    total_seconds: float = 0.0
    first_seconds: float | None = None
    busy_since: float | None = None
    failures: Sequence[Failure] = ()
    lacks: Sequence[Lack] = ()
    converged: bool = False


class DriverWorker(threading.Thread):
    """``stamps`` travel with a delta and come back with the report of the apply that carried it out. Every ``resync_s``
    (0: never) the driver is told to distrust what it observed."""

    def __init__(
        self,
        name: str,
        driver: Driver,
        listener: Listener = lambda _report, _stamps: None,
        ask_whole: Callable[[], None] = lambda: None,
        *,
        resync_s: float = 0.0,
        retry_min_s: float = 0.1,
        retry_max_s: float = 30.0,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.driver = driver
        self.state = WorkerState()
        self._listener, self._ask_whole = listener, ask_whole
        self._changed = threading.Condition()
        self._pending: Delta | None = None
        self._stamps: dict[WorkloadEndpointId, str] = {}
        self._poked = False
        self._whole_wanted: Failure | None = None
        self._stopping = False
        self._backoff = Backoff(first_s=retry_min_s, most_s=retry_max_s)
        self._resync_s, self._next_resync = resync_s, float("inf")

    def submit(self, delta: Delta, stamps: Stamps | None = None) -> None:
        """Hand over a delta; never blocks."""
        with self._changed:
            self._pending = delta if self._pending is None else self._pending.then(delta)
            self._stamps.update(stamps or {})
            self._changed.notify()

    def poke(self) -> None:
        """Ask for an apply soon. Before the first delta there is nothing to apply, and it is forgotten."""
        with self._changed:
            self._poked = True
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def run(self) -> None:
        deadline = float("inf")
        begun = False
        while True:
            with self._changed:
                while not (self._stopping or self._pending is not None or (self._poked and begun)):
                    wait_s = deadline - time.monotonic()
                    if wait_s <= 0:
                        break
                    self._changed.wait(None if wait_s == float("inf") else wait_s)
                if self._stopping:
                    break
                delta, self._pending = self._pending, None
                stamps, self._stamps = self._stamps, {}
                self._poked = False
            if delta is not None:
                begun = True
                self._update(delta)
            elif self._whole_wanted is not None:
                self._ask_whole()  # here, after the back-off: a plugin that can never take it must not spin
            if time.monotonic() >= self._next_resync:
                self.driver.resync()
                self._next_resync = float("inf")
            wait = self._apply(stamps)
            now = time.monotonic()
            if self._resync_s and self._next_resync == float("inf"):
                self._next_resync = now + self._resync_s
            deadline = min(self._next_resync, float("inf") if wait is None else now + wait)
        try:
            self.driver.close()
        except Exception:
            log.exception("%s: close failed; enforcement stays as it is", self.name)

    def _update(self, delta: Delta) -> None:
        """A change that the plugin cannot take leaves it with a part of the state, until it has taken the whole."""
        try:
            self.driver.update(delta)
            if delta.full:
                self._whole_wanted = None
        except Exception as exc:
            log.exception("%s: the plugin failed to take a change; it gets the whole state again", self.name)
            self._whole_wanted = Failure(subject=self.name, reason=f"a change broke it: {type(exc).__name__}: {exc}")

    def _apply(self, stamps: Stamps) -> float | None:
        """One apply; returns the seconds after which to apply again, None for when something changes."""
        state = self.state
        state.busy_since = started = time.monotonic()
        try:
            report = self.driver.apply()
        except CalicoError as exc:
            report = ApplyReport(failures=[Failure(subject=self.name, reason=exc.what)])
        except Exception as exc:
            log.exception("%s: apply broke; it is retried", self.name)
            report = ApplyReport(failures=[Failure(subject=self.name, reason=f"{type(exc).__name__}: {exc}")])
        finally:
            state.busy_since = None
        if self._whole_wanted is not None:
            report = msgspec.structs.replace(
                report, failures=[*report.failures, self._whole_wanted], programmed=frozenset()
            )
        seconds = time.monotonic() - started
        state.applies += 1
        state.total_seconds += seconds
        if state.first_seconds is None:
            state.first_seconds = seconds
        for failure in report.failures:
            if failure not in state.failures:
                log.warning("%s: %s: %s", self.name, failure.subject, failure.reason)
        for lack in report.lacks:
            if lack not in state.lacks:
                log.warning("%s: not possible on this host: %s: %s", self.name, lack.capability, lack.effect)
        state.failures, state.lacks = report.failures, report.lacks
        state.converged = not report.failures
        try:
            self._listener(report, stamps)
        except Exception:
            log.exception("%s: handling its report failed", self.name)
        if report.failures:
            state.failed_applies += 1
            with self._changed:  # what was not carried out keeps its stamps for the apply that does
                self._stamps = {**stamps, **self._stamps}
            retry_s = self._backoff.next_s()
            return retry_s if report.next_check_s is None else min(retry_s, report.next_check_s)
        self._backoff.reset()
        return report.next_check_s
