"""Changes after a revision, from one HTTP watch for each collection.

In:    the lines of watches.
Out:   events, each once, those of one collection in order.
Owns:  a thread and a connection for each collection. Its position moves with what came, so a watch that broke is
       resumed after the last event, and a collection in trouble holds up no other.

       server ==lines==> Follower (one each) --events--> queue (bounded) --next--> reader
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from urllib.parse import urlencode

import msgspec

from calico_datastore_kdd import faults
from calico_datastore_kdd.api import Api, Refused, Status, Stream
from calico_datastore_kdd.collection import BOOKMARK, ERROR
from calico_datastore_kdd.listing import Asked, nonsense, revision_of
from calico_kernel.errors import CalicoError, DatastoreUnavailable, RevisionTooOld
from calico_kernel.hookspecs import Watch
from calico_kernel.model import keys, storing
from calico_kernel.model.records import Event
from calico_kernel.reconcile.backoff import Backoff

BUFFERED_EVENTS = 20_000
"""What is held for a slow reader; then the API server holds the rest."""
WATCH_S = (240, 480)
"""How long the server lets one watch run; at random, so that those of many nodes do not end together."""
IDLE_S = 100.0
"""The server sends a bookmark each minute. A stream on which nothing comes for longer has lost it."""
RETRY_S, LONGEST_RETRY_S = 0.05, 5.0
LONGEST_WAIT_S = 30.0
"""Between two looks at a collection that is in trouble by itself, or is not served."""
SHORT_S = 1.0
"""A watch that ends sooner, with nothing, is no ordinary end."""


class KubernetesWatch(Watch):
    def __init__(self, api: Api, start: Sequence[tuple[Asked, str]], log: logging.Logger) -> None:
        """``start``: what to watch, each after its revision."""
        self._changed = threading.Condition()
        self._events: deque[Event] = deque()
        self._end: RevisionTooOld | None = None
        self.closing = threading.Event()
        self._followers = [Follower(self, api, asked, at, log) for asked, at in start]
        for follower in self._followers:
            follower.start()

    def next(self, timeout_s: float) -> Sequence[Event]:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not self.closing.is_set():
                if self._events:
                    found = list(self._events)
                    self._events.clear()
                    self._changed.notify_all()
                    return found
                if self._end is not None:
                    raise self._end
                self._raise_if_away()
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(left_s)
        return ()

    def close(self) -> None:
        self.closing.set()
        with self._changed:
            self._events.clear()
            self._changed.notify_all()
        for follower in self._followers:
            follower.close()

    # ── for the followers ──

    def give(self, events: Sequence[Event]) -> None:
        """Blocks while the reader has too much before it."""
        with self._changed:
            while len(self._events) >= BUFFERED_EVENTS and not self.closing.is_set():
                self._changed.wait()
            if not self.closing.is_set():
                self._events.extend(events)
                self._changed.notify_all()

    def end(self, reason: RevisionTooOld) -> None:
        with self._changed:
            self._end = self._end or reason
            self._changed.notify_all()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _raise_if_away(self) -> None:
        troubles = [follower.trouble for follower in self._followers]
        if not troubles or None in troubles:
            return
        lost = next((trouble for trouble in troubles if isinstance(trouble, DatastoreUnavailable)), troubles[0])
        assert lost is not None
        raise DatastoreUnavailable(what=lost.what, kept="every change since then is delivered later", todo=lost.todo)


class _Absent(Exception):
    """The collection is not served, which it need not be."""


class Follower(threading.Thread):
    """Reads one collection on, whatever happens to its connection."""

    def __init__(
        self,
        watch: KubernetesWatch,
        api: Api,
        asked: Asked,
        revision: str,
        log: logging.Logger,
    ) -> None:
        super().__init__(name=f"calico-kdd-{asked.selection.collection.name}", daemon=True)
        self.trouble: CalicoError | None = None
        """Why nothing comes, if it is so."""
        self._watch, self._api, self._log = watch, api, log
        self._selection, self._queries = asked.selection, asked.queries
        self._position = revision
        self._stream: Stream | None = None
        self._lost = self._opened = False
        self._retry = Backoff(first_s=RETRY_S, most_s=LONGEST_RETRY_S)
        self._wait = Backoff(first_s=RETRY_S, most_s=LONGEST_WAIT_S)

    def run(self) -> None:
        while not self._watch.closing.is_set() and not self._api.closed:
            began = time.monotonic()
            before = self._position
            try:
                self._follow()
            except RevisionTooOld as exc:
                self._watch.end(exc)
                return
            except _Absent:
                self._recovered()
                self._watch.closing.wait(self._wait.next_s())
            except DatastoreUnavailable as exc:
                self._lost = True
                if self._has_run(began, before):
                    continue  # perhaps it was this connection alone: the next attempt tells
                self._pause(exc, self._retry)
            except CalicoError as exc:
                self._pause(exc, self._wait)
            except Exception as exc:  # noqa: BLE001  # of one collection; the others go on
                self._log.exception("the watch of %s broke", self._selection.collection.name)
                self._pause(DatastoreUnavailable(what=f"the watch broke: {exc}", todo="see the log"), self._wait)
            else:
                if not self._has_run(began, before):
                    self._watch.closing.wait(self._retry.next_s())

    def close(self) -> None:
        stream = self._stream
        if stream is not None:
            stream.close()

    # ── inside ──

    def _has_run(self, began: float, before: str) -> bool:
        """Whether the watch that has ended was one: something came, or it stood for a while."""
        if not self._opened or (self._position == before and time.monotonic() - began < SHORT_S):
            return False
        self._retry.reset()
        self._wait.reset()
        return True

    def _follow(self) -> None:
        """One watch, until the server ends it in order."""
        self._opened = False
        self._stream = stream = self._api.stream(self._request(), IDLE_S)
        try:
            if self._watch.closing.is_set():
                return
            if self._lost:
                self._check_history()
            stream.open()
            self._opened = True
            self._recovered()
            for lines in stream.lines():
                self._take(lines)
        except Refused as exc:
            if faults.is_unserved(exc) and self._selection.collection.optional:
                raise _Absent from exc
            raise self._error(exc) from exc
        except DatastoreUnavailable:
            if not self._watch.closing.is_set():
                raise
        finally:
            self._stream = None
            stream.discard()

    def _request(self) -> str:
        return self._url(
            ("watch", "1"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", self._position),
            ("timeoutSeconds", str(random.randint(*WATCH_S))),
        )

    def _check_history(self) -> None:
        """Raises RevisionTooOld when the server is behind us: it was restored from a backup. A watch would pass over
        everything until it has caught up. Raises Refused.

        A consistent read tells; to ask whether the server has come to our position does not, for its cache of a quiet
        collection may not have, though nothing is amiss."""
        now = revision_of(self._selection.collection.name, self._api.call("GET", self._url(("limit", "1"))))
        if storing.parse_revision(now) < storing.parse_revision(self._position):
            raise RevisionTooOld(
                what=f"the Kubernetes API is at revision {now}, before {self._position}: a backup was restored",
                todo="list again and watch from there",
                other_history=True,
            )

    def _url(self, *params: tuple[str, str]) -> str:
        return f"{self._selection.url}?{urlencode([*self._selection.params, *params])}"

    def _take(self, lines: Sequence[bytes]) -> None:
        read, matches = self._selection.collection.reader.event, keys.matches
        events: list[Event] = []
        position = self._position
        try:
            for line in lines:
                try:
                    found = read(line)
                except msgspec.DecodeError as exc:
                    raise nonsense(self._selection.collection.name, exc) from exc
                if found.type == ERROR:
                    status = Status(found.message, found.reason, found.code)
                    raise self._error(Refused("GET", self._selection.url + "?watch=1", status, self._api.access.who))
                position = found.revision or position
                key = found.key
                if found.type != BOOKMARK and key is not None and any(matches(query, key) for query in self._queries):
                    events.append(Event(key, found.record, found.revision))
        finally:
            if events:
                self._watch.give(events)
            self._position = position

    def _error(self, refused: Refused) -> Exception:
        return faults.error_of(refused, subject=f"the watch of {self._selection.collection.name}")

    def _recovered(self) -> None:
        self._lost = False
        if self.trouble is not None:
            self._log.info("%s are watched again", self._selection.collection.name)
            self.trouble = None
            self._watch.wake()

    def _pause(self, trouble: CalicoError, backoff: Backoff) -> None:
        if self._watch.closing.is_set() or self._api.closed:
            return  # we closed it, be it with the whole datastore: nothing broke
        if self.trouble is None or type(self.trouble) is not type(trouble):
            self._log.warning("watching %s: %s", self._selection.collection.name, trouble)
        self.trouble = trouble
        self._watch.wake()
        self._watch.closing.wait(backoff.next_s())
