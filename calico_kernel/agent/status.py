"""Tell the datastore that this agent lives, and what became of the endpoints of its node.

In:    deltas (configuration, endpoints) and apply reports of the dataplane.
Out:   Felix' status keys: that the node lives, every ``reportingInterval``, gone by itself ``reportingTTL`` later;
       with ``endpointReportingEnabled`` the status of each endpoint when it changes, at most every
       ``endpointReportingDelay``.
Owns:  one thread. What cannot be written is tried again; nothing waits for it.

As Felix, but for this: what changed within one delay is written together, not one key in each; a fresh agent compares
with what is stored before it writes; statuses go when reporting them is switched off.
"""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import attrs

from calico_kernel.errors import CalicoError, NotFound
from calico_kernel.hookspecs import ApplyReport, Datastore
from calico_kernel.model.keys import (
    HostEndpointStatusKey,
    HostEndpointStatusQuery,
    LastNodeStatusKey,
    NodeStatusKey,
    Query,
    StatusKey,
    StatusQuery,
    WorkloadStatusKey,
)
from calico_kernel.model.nodestate import Delta, LocalHostEndpoint, LocalWorkload, ResolvedConfig, WorkloadEndpointId
from calico_kernel.model.status import EndpointStatus, NodeStatus, Status

log = logging.getLogger(__name__)

FIRST_REPORT_S = 10.0
"""An agent that is restarted again and again never says that it lives (Felix: the same)."""
RESYNC_DELAYS = 180
"""Every so many delays it is looked for what others wrote or left behind (Felix: the same)."""
MOST_WRITES = 100
"""In one round, so that a crowded node does not flood the datastore."""
LOCKED_S = 5.0
EVERY_INTERFACE = "*"


def interface_exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


@attrs.frozen
class Wishes:
    """What FelixConfiguration asks for. Times in seconds; ``interval_s`` 0: the node says nothing of itself."""

    region: str = "no-region"
    interval_s: float = 0.0
    ttl_s: float = 90.0
    endpoints: bool = False
    delay_s: float = 1.0

    @classmethod
    def of(cls, config: ResolvedConfig) -> Wishes:
        return cls(
            region=f"region-{config.openstack_region}" if config.openstack_region else "no-region",
            interval_s=config.reporting_interval,
            ttl_s=config.reporting_ttl,
            endpoints=config.endpoint_reporting_enabled,
            delay_s=max(0.05, config.endpoint_reporting_delay),
        )


class StatusReporter(threading.Thread):
    """``saw`` and ``applied`` may be called from any thread; ``step`` does what is due and is called by this one."""

    def __init__(
        self,
        node: str,
        store: Datastore,
        *,
        is_locked: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        has_interface: Callable[[str], bool] = interface_exists,
    ) -> None:
        super().__init__(name="status", daemon=True)
        self._node, self._store, self._is_locked = node, store, is_locked
        self._clock, self._has_interface = clock, has_interface
        self._changed = threading.Condition()
        self._stopping = False
        self._fresh = False
        # What is to be said. Guarded by ``_changed``.
        self._wishes = Wishes()
        self._workloads: dict[WorkloadEndpointId, LocalWorkload] = {}
        self._host_endpoints: dict[str, LocalHostEndpoint] = {}
        self._programmed: frozenset[WorkloadEndpointId] = frozenset()
        self._failing = False
        self._in_sync = False
        # What was said. Of this object's thread only.
        self._begun = clock()
        self._next_report = self._begun + FIRST_REPORT_S
        self._next_round = self._next_resync = self._begun
        self._first_report = True
        self._said: dict[StatusKey, str] = {}
        self._spoke_of_endpoints = False
        self._trouble = ""

    # ── what there is to say ──

    def saw(self, delta: Delta) -> None:
        with self._changed:
            if delta.config is not None:
                self._wishes = Wishes.of(delta.config)
            if delta.full:
                self._workloads.clear()
                self._host_endpoints.clear()
            elif not (delta.config or delta.workloads or delta.host_endpoints):
                return
            self._workloads.update(delta.workloads.upserts)
            self._host_endpoints.update(delta.host_endpoints.upserts)
            for workload in delta.workloads.removes:
                self._workloads.pop(workload, None)
            for endpoint in delta.host_endpoints.removes:
                self._host_endpoints.pop(endpoint, None)
            self._wake()

    def applied(self, report: ApplyReport) -> None:
        with self._changed:
            before = self._programmed, self._failing, self._in_sync
            self._programmed, self._failing = frozenset(report.programmed), bool(report.failures)
            self._in_sync = True
            # A host endpoint's interface came or went, perhaps: the report does not tell.
            if self._host_endpoints or before != (self._programmed, self._failing, True):
                self._wake()

    def _wake(self) -> None:
        self._fresh = True
        self._changed.notify()

    def _wanted(self, wishes: Wishes) -> dict[StatusKey, Status]:
        with self._changed:
            workloads, host_endpoints = list(self._workloads.values()), list(self._host_endpoints.values())
            programmed, failing = self._programmed, self._failing
        wanted: dict[StatusKey, Status] = {}
        for workload in workloads:
            status: Status = "error" if failing else "down"
            if workload.id in programmed:
                status = "up" if workload.active else "down"
            wanted[WorkloadStatusKey(self._node, *workload.id, wishes.region)] = status
        for endpoint in host_endpoints:
            there = endpoint.interface in ("", EVERY_INTERFACE) or self._has_interface(endpoint.interface)
            wanted[HostEndpointStatusKey(self._node, endpoint.name)] = "error" if failing else "up" if there else "down"
        return wanted

    # ── saying it ──

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def run(self) -> None:
        while True:
            try:
                wait_s = self.step()
            except Exception:
                log.exception("reporting the status broke; trying again")
                wait_s = FIRST_REPORT_S
            with self._changed:
                if not self._fresh and not self._stopping:
                    self._changed.wait(wait_s)
                if self._stopping:
                    return
                pause_s = self._next_round - self._clock() if self._fresh else 0.0
                if pause_s > 0:
                    self._changed.wait_for(lambda: self._stopping, pause_s)

    def step(self) -> float | None:
        """Do what is due; returns the seconds until more is, None for when something changes. While the datastore is
        locked nothing is due."""
        if self._is_locked():
            return LOCKED_S
        with self._changed:
            wishes, in_sync, self._fresh = self._wishes, self._in_sync, False
        now = self._clock()
        trouble = ""
        due: list[float] = []
        try:
            if wishes.interval_s > 0:
                if now >= self._next_report:
                    self._next_report = now + wishes.interval_s * random.uniform(0.95, 1.05)
                    self._report_node(wishes, now)
                due.append(self._next_report)
            if in_sync and (wishes.endpoints or self._spoke_of_endpoints):
                if now >= self._next_round:
                    self._next_round = now + wishes.delay_s
                    rest = self._report_endpoints(wishes, now)
                    due += [self._next_round] if rest else []
                due.append(self._next_resync)
        except CalicoError as exc:
            trouble = exc.what
            self._next_resync = self._next_round  # what was written, and what not, is read again
            due.append(self._next_round if wishes.endpoints else self._next_report)
        if trouble and trouble != self._trouble:
            log.warning("the status could not be reported: %s; trying again", trouble)
        self._trouble = trouble
        return max(0.05, min(due) - now) if due else None

    def _report_node(self, wishes: Wishes, now: float) -> None:
        value = NodeStatus(
            time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            uptime=now - self._begun,
            first_update=self._first_report,
        )
        ttl_s = wishes.ttl_s if wishes.ttl_s > 0 else None
        self._store.put(NodeStatusKey(self._node, wishes.region), value, ttl_s=ttl_s)
        self._first_report = False
        self._store.put(LastNodeStatusKey(self._node, wishes.region), value)

    def _report_endpoints(self, wishes: Wishes, now: float) -> bool:
        """Write what differs; whether something is left for the next round."""
        if now >= self._next_resync:
            self._said = self._stored(wishes)
            self._next_resync = now + RESYNC_DELAYS * wishes.delay_s
        wanted = self._wanted(wishes) if wishes.endpoints else {}
        differing = [key for key in self._said.keys() | wanted.keys() if self._said.get(key) != wanted.get(key)]
        for key in differing[:MOST_WRITES]:
            status = wanted.get(key)
            if status is None:
                self._forget(key)
            else:
                self._store.put(key, EndpointStatus(status=status))
                self._said[key] = status
        rest = len(differing) > MOST_WRITES
        self._spoke_of_endpoints = wishes.endpoints or rest
        return rest

    def _stored(self, wishes: Wishes) -> dict[StatusKey, str]:
        """The statuses that are there for this node; "" for one that does not decode."""
        queries: list[Query] = [StatusQuery(wishes.region, self._node), HostEndpointStatusQuery(self._node)]
        found: dict[StatusKey, str] = {}
        for record in self._store.list(queries).records:
            if isinstance(record.key, WorkloadStatusKey | HostEndpointStatusKey):
                found[record.key] = record.value.status if isinstance(record.value, EndpointStatus) else ""
        return found

    def _forget(self, key: StatusKey) -> None:
        try:
            self._store.delete(key)
        except NotFound:
            pass
        self._said.pop(key, None)
