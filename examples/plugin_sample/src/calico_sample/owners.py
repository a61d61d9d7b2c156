"""What one node knows of the owners of its endpoints; behind the observer, the metrics and the health check.

The observer is called from the agent's threads while metrics and health are asked from others, so all share one lock.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

import msgspec

from calico_kernel.client import Client
from calico_kernel.errors import NotFound, ValidationError
from calico_kernel.hookspecs import EndpointObserver, Health, HealthCheck, Metric, Services
from calico_kernel.model.meta import Resource
from calico_sample.kinds import OWNER_LABEL, Owner

if TYPE_CHECKING:
    from calico_kernel.model.nodestate import LocalWorkload, WorkloadEndpointId
    from calico_sample.plugin import SampleSettings

UNOWNED = ""


class Owners(EndpointObserver):
    """One for each node; hooks without settings find it by the node's name."""

    _of_node: ClassVar[dict[str, Owners]] = {}

    def __init__(self, settings: SampleSettings, services: Services) -> None:
        self._settings = settings
        self._services = services
        self._lock = threading.Lock()
        self._owner_of: dict[str, str] = {}

    @classmethod
    def start(cls, settings: SampleSettings, services: Services) -> Owners:
        return cls._of_node.setdefault(services.node, cls(settings, services))

    @classmethod
    def of(cls, node: str) -> Owners:
        return cls._of_node[node]

    # ── the observer ──────────────────────────────────────────────────────────────────────────────────────────────

    def creating(self, endpoint: Resource) -> Resource:
        """Give the endpoint its label. Raises ValidationError, which the container runtime shows, when the owner has
        as many endpoints on this node as it may."""
        meta = endpoint.metadata
        owner = meta.labels.get(OWNER_LABEL) or self._settings.default_owner
        if not owner:
            return self._counted(endpoint, UNOWNED)
        limit = self._limit(owner)
        with self._lock:
            held = Counter(self._owner_of.values())[owner]
        if limit and held >= limit:
            raise ValidationError(meta.name, [("metadata.labels", f"owner {owner} has {held} endpoints here already")])
        labels = {**meta.labels, OWNER_LABEL: owner}
        labelled = msgspec.structs.replace(endpoint, metadata=msgspec.structs.replace(meta, labels=labels))
        return self._counted(labelled, owner)

    def removed(self, endpoint: WorkloadEndpointId) -> None:
        with self._lock:
            self._owner_of.pop(_id(endpoint.workload, endpoint.endpoint), None)

    def programmed(self, endpoint: LocalWorkload) -> None:
        """After a restart, endpoints come without having been created before."""
        with self._lock:
            self._owner_of.setdefault(_id(endpoint.id.workload, endpoint.id.endpoint), UNOWNED)

    def _counted(self, endpoint: Resource, owner: str) -> Resource:
        spec = getattr(endpoint, "spec", None)
        workload = f"{endpoint.metadata.namespace}/{getattr(spec, 'pod', '') or getattr(spec, 'container_id', '')}"
        with self._lock:
            self._owner_of[_id(workload, getattr(spec, "endpoint", ""))] = owner
        return endpoint

    def _limit(self, owner: str) -> int:
        """Nobody need be written down to own something: an unknown owner has no limit."""
        if self._services.datastore is None:
            return 0
        try:
            known: Owner = Client(store=self._services.datastore).get("Owner", owner)
        except NotFound:
            return 0
        return known.spec.max_endpoints

    # ── metrics and health, from memory ───────────────────────────────────────────────────────────────────────────

    def metrics(self) -> Iterable[Metric]:
        with self._lock:
            counts = Counter(self._owner_of.values())
        for owner, count in sorted(counts.items()):
            yield Metric(
                name="sample_endpoints",
                help="Local workload endpoints by owner.",
                kind="gauge",
                value=count,
                labels={"owner": owner},
            )

    def health_check(self) -> HealthCheck:
        return HealthCheck(name="sample-owners", affects="readiness", check=self._health)

    def _health(self) -> Health:
        with self._lock:
            unowned = sum(owner == UNOWNED for owner in self._owner_of.values())
        if unowned <= self._settings.max_unowned:
            return Health(ok=True)
        return Health(ok=False, reason=f"{unowned} endpoints have no owner; {self._settings.max_unowned} may")


def _id(workload: str, endpoint: str) -> str:
    return f"{workload}/{endpoint}"
