"""What the agent says of itself under ``/health``: for ``calicoctl node status`` and for people.

In:    the states of the feed, the calculation and the drivers.
Out:   plain objects, to ``calico_kernel.agent.health``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from calico_kernel import __version__
from calico_kernel.agent.feed import FeedState
from calico_kernel.agent.metrics import STARTED
from calico_kernel.agent.worker import DriverWorker
from calico_kernel.hookspecs import Dataplane, Driver, EncapsulationDriver, RoutingDriver

log = logging.getLogger(__name__)

MOST_FAILURES = 20


def agent_status(
    node: str,
    phase: str,
    plugins: Iterable[str],
    feed: FeedState | None,
    malformed: int,
    workers: Iterable[DriverWorker],
) -> Mapping[str, Any]:
    """``phase``: what the agent does, or waits for. ``malformed``: stored resources that count as absent, or deny."""
    workers = list(workers)
    return {
        "node": node,
        "version": __version__,
        "pid": os.getpid(),
        "startedAt": datetime.fromtimestamp(STARTED, UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "phase": phase,
        "plugins": list(plugins),
        "datastore": _feed(feed),
        "malformedResources": malformed,
        "drivers": [_driver(worker) for worker in workers],
        "bgpPeers": [peer for worker in workers for peer in _peers(worker)],
    }


def _feed(feed: FeedState | None) -> Mapping[str, Any]:
    if feed is None:
        return {"connected": False, "inSync": False}
    said = {
        "connected": feed.connected,
        "inSync": feed.in_sync,
        "locked": feed.locked,
        "listings": feed.lists,
        "events": feed.events,
    }
    return said | ({"trouble": feed.trouble} if feed.trouble else {})


def _driver(worker: DriverWorker) -> Mapping[str, Any]:
    state = worker.state
    return {
        "name": worker.name,
        "family": family_of(worker.driver),
        "converged": state.converged,
        "applies": state.applies,
        "failedApplies": state.failed_applies,
        "failures": [{"subject": one.subject, "reason": one.reason} for one in list(state.failures)[:MOST_FAILURES]],
        "lacks": len(state.lacks),
    }


def family_of(driver: Driver) -> str:
    for kind, family in ((Dataplane, "dataplane"), (EncapsulationDriver, "encapsulation"), (RoutingDriver, "routing")):
        if isinstance(driver, kind):
            return family
    return ""


def _peers(worker: DriverWorker) -> list[Mapping[str, Any]]:
    if not isinstance(worker.driver, RoutingDriver):
        return []
    try:
        return [{"driver": worker.name, **peer} for peer in worker.driver.peers()]
    except Exception as exc:  # noqa: BLE001  a plugin's fault must not hide what the others say
        log.warning("%s: its peers are not known: %s", worker.name, exc)
        return []
