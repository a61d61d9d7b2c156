"""What the agent keeps as it should be in the datastore: looked at whenever a delta speaks of it.

In:    deltas.   Out: whatever ``reconcile`` of a subclass writes.
Owns:  one thread. What fails is tried again with back-off, and said once for each reason.
"""

from __future__ import annotations

import abc
import logging
import threading

from calico_kernel.agent.feed import LOCKED
from calico_kernel.client.lock import is_locked
from calico_kernel.errors import CalicoError, DatastoreUnavailable
from calico_kernel.hookspecs import Datastore, Health
from calico_kernel.model.nodestate import Delta
from calico_kernel.reconcile.backoff import Backoff


class Upkeep(threading.Thread, abc.ABC):
    def __init__(self, name: str, node: str, store: Datastore) -> None:
        super().__init__(name=name, daemon=True)
        self.trouble = ""
        self._log = logging.getLogger(f"{__package__}.{name}")
        self._node, self._store = node, store
        self._wake, self._stopping = threading.Event(), False

    @abc.abstractmethod
    def concerns(self, delta: Delta) -> bool:
        """Whether there may be something to do after this."""

    @abc.abstractmethod
    def work(self) -> None:
        """One pass, safe to repeat. Raises what the datastore or IPAM raises; what was done stays."""

    def saw(self, delta: Delta) -> None:
        if self.concerns(delta):
            self._wake.set()

    def again(self) -> None:
        """Look again soon: somebody else wrote in between."""
        self._wake.set()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    def reconcile(self) -> None:
        """As ``work``. A locked datastore counts as away."""
        if is_locked(self._store):
            raise DatastoreUnavailable(what=LOCKED, todo="unlock it once its migration is done")
        self.work()

    def health(self) -> Health:
        return Health(ok=not self.trouble, reason=self.trouble)

    def run(self) -> None:
        backoff = Backoff(first_s=0.2, most_s=30.0)
        wait_s: float | None = None
        while True:
            self._wake.wait(wait_s)
            if self._stopping:
                return
            self._wake.clear()
            try:
                self.reconcile()
            except CalicoError as exc:
                if exc.what != self.trouble:
                    self._log.warning("%s; trying again", exc.what)
                self.trouble = exc.what
                wait_s = backoff.next_s()
            except Exception as exc:  # noqa: BLE001  # whatever it was, the thread goes on
                self._log.exception("trying again")
                self.trouble = f"{type(exc).__name__}: {exc}"
                wait_s = backoff.next_s()
            else:
                self.trouble, wait_s = "", None
                backoff.reset()
