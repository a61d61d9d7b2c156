"""Which local workload endpoints the dataplane enforces, as stored at which revision; and the waiting for it.

In:    apply reports of the dataplane, with the revision of each endpoint that a delta carried.
Out:   answers to the CNI plugin's wait; ``programmed`` and ``removed`` calls to endpoint observers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence

from calico_kernel.hookspecs import EndpointObserver
from calico_kernel.model.nodestate import LocalWorkload, WorkloadEndpointId

log = logging.getLogger(__name__)


class Programmed:
    """Thread-safe."""

    def __init__(self, observers: Sequence[EndpointObserver] = ()) -> None:
        self._observers = observers
        self._changed = threading.Condition()
        self._revisions: dict[WorkloadEndpointId, str] = {}
        self._carried: dict[WorkloadEndpointId, str] = {}
        self._workloads: dict[WorkloadEndpointId, LocalWorkload] = {}

    def applied(self, ids: Iterable[WorkloadEndpointId], revisions: Mapping[WorkloadEndpointId, str]) -> None:
        """The dataplane enforces exactly ``ids``, each as of the newest of ``revisions`` that an apply carried for it.
        One that was carried but is not enforced yet (its interface is missing) keeps its revision for later."""
        current = set(ids)
        with self._changed:
            self._carried.update(revisions)
            gone = [endpoint for endpoint in self._revisions if endpoint not in current]
            for endpoint in gone:
                del self._revisions[endpoint]
            fresh = [endpoint for endpoint in current if endpoint in revisions or endpoint not in self._revisions]
            for endpoint in fresh:
                self._revisions[endpoint] = self._carried.get(endpoint, "")
            told = [self._workloads[endpoint] for endpoint in fresh if endpoint in self._workloads]
            self._changed.notify_all()
        for workload in told:
            self._tell("programmed", workload)
        for endpoint in gone:
            self._tell("removed", endpoint)

    def workloads(
        self, upserts: Mapping[WorkloadEndpointId, LocalWorkload], removes: Iterable[WorkloadEndpointId]
    ) -> None:
        """What the calculation says of local workloads, before the dataplane hears of it."""
        with self._changed:
            self._workloads.update(upserts)
            for endpoint in removes:
                self._workloads.pop(endpoint, None)
                self._carried.pop(endpoint, None)

    def wait(self, endpoint: WorkloadEndpointId, revision: str, timeout_s: float) -> bool:
        """True once the endpoint is enforced as of ``revision`` or a later one: others write to it too."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not _reaches(self._revisions.get(endpoint, ""), revision):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def ids(self) -> list[WorkloadEndpointId]:
        with self._changed:
            return list(self._revisions)

    def _tell(self, event: str, subject: object) -> None:
        for observer in self._observers:
            try:
                getattr(observer, event)(subject)
            except Exception:
                log.exception("an endpoint observer failed at %s of %s", event, subject)


def _reaches(enforced: str, wanted: str) -> bool:
    return enforced != "" and int(enforced) >= int(wanted)
