"""Changes after a revision, from one watch stream of etcd.

In:    watch responses of one member, over the one range that holds what all queries ask for.
Out:   events, each once, in revision order.
Owns:  a stream and the thread that reads it, while there is one. The position moves only with what ``next`` returned,
       so a stream that broke, on whichever member, is resumed after the last event that was given out.

One stream with one watcher, filtered here, because etcd orders the events of one watcher only: those of several, while
they catch up, come in any order, and the position would be one for each.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc

from calico_datastore_etcd import proto
from calico_datastore_etcd.client import EtcdClient, is_about_token
from calico_kernel.errors import DatastoreError, DatastoreUnavailable, NotPermitted, RevisionTooOld
from calico_kernel.hookspecs import Watch
from calico_kernel.model import keys
from calico_kernel.model.keys import Key, Query
from calico_kernel.model.records import Event, Record

BUFFERED_EVENTS = 10_000
"""What the reader holds for a slow consumer; then HTTP/2's flow control makes etcd hold the rest."""
BUSY_S, GATHER_S = 0.004, 0.002
"""etcd sends a response for each transaction, and waking the consumer for each costs more than reading it: within
BUSY_S of the one before, it comes with what else arrives within GATHER_S. What follows a quiet moment is told at once.
"""


class Stream:
    """One watch stream. Broken once, it stays so."""

    def __init__(self, client: EtcdClient, create: Any) -> None:
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._responses: deque[Any] = deque()
        self._closed = self._waiting = False
        self._taken = 0.0
        self._held = 0
        self.problem: grpc.RpcError | None = None
        self.connection, self._call = client.open_watch(self._requests(create))
        threading.Thread(target=self._read, name="calico-etcd-watch", daemon=True).start()

    def take(self, timeout_s: float) -> tuple[list[Any], bool]:
        """(What came since the last time, whether the stream is at its end). Waits while there is neither; where one
        response follows the other, a moment more, for several at once."""
        with self._changed:
            if not self._responses and not self._ended.is_set() and not self._closed and timeout_s > 0:
                self._waiting = True
                self._changed.wait(timeout_s)
                self._waiting = False
            busy = self._responses and time.monotonic() - self._taken < BUSY_S
        if busy and not self._ended.is_set():
            time.sleep(GATHER_S)
        with self._changed:
            found = list(self._responses)
            self._responses.clear()
            if self._held >= BUFFERED_EVENTS:
                self._changed.notify_all()
            self._held = 0
            self._taken = time.monotonic()
            return found, self._ended.is_set() and not found

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._responses.clear()
            self._changed.notify_all()
        self._call.cancel()
        self._ended.set()

    def _requests(self, create: Any) -> Iterator[Any]:
        yield proto.WatchRequest(create_request=create)
        self._ended.wait()  # the stream lives as long as there may be requests

    def _read(self) -> None:
        try:
            for response in self._call:
                with self._changed:
                    while self._held >= BUFFERED_EVENTS and not self._closed:
                        self._changed.wait()
                    if self._closed:
                        return
                    self._responses.append(response)
                    self._held += len(response.events)
                    if self._waiting:
                        self._changed.notify_all()
        except grpc.RpcError as exc:
            self.problem = exc
        finally:
            with self._changed:
                self._ended.set()
                self._changed.notify_all()


class EtcdWatch(Watch):
    def __init__(
        self, client: EtcdClient, queries: Sequence[Query], revision: int, decode: Callable[[Key, bytes, int], Record]
    ) -> None:
        self._client = client
        self._queries = tuple(queries)
        self._prefixes = tuple({keys.prefix(query).encode() for query in queries})
        self._start, self._end = min(self._prefixes), max(map(proto.prefix_end, self._prefixes))
        self._position = revision
        self._last: tuple[bytes, int] | None = None
        """The key of the last event read, and the revision that it has had since; 0: it was deleted."""
        self._decode = decode
        self._closing = threading.Event()
        self._stream: Stream | None = None
        self._cluster_id = 0
        self._open()

    @property
    def position(self) -> int:
        """The revision up to which everything was told."""
        return self._position

    def next(self, timeout_s: float) -> Sequence[Event]:
        deadline = time.monotonic() + timeout_s
        reopened = False
        while not self._closing.is_set():
            stream = self._stream
            if stream is None:
                stream = self._open()
            responses, ended = stream.take(deadline - time.monotonic())
            if self._closing.is_set():
                break
            if ended:
                self._stream = None
                self._client.failed(stream.connection)
                if reopened:  # twice in one call: let the caller decide how fast to go on
                    raise self._broken(stream)
                reopened = True
                continue
            events = self._events(responses)
            if events:
                return events
            if time.monotonic() >= deadline:
                break
        return ()

    def close(self) -> None:
        self._closing.set()
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    # ── inside ──

    def _open(self) -> Stream:
        """Start after the position. Raises RevisionTooOld at once, which etcd itself would say only later, or, for a
        cluster restored from a backup, never: it has not reached the revision yet, or reached it by other changes."""
        key, since = self._last or (self._start, 0)
        answer = self._client.call("Range", proto.RangeRequest(key=key, revision=self._position))
        cluster_id = self._client.cluster_id
        found = answer.kvs[0].mod_revision if answer.kvs else 0
        if (self._cluster_id and cluster_id != self._cluster_id) or (self._last is not None and found != since):
            raise RevisionTooOld(
                what="another etcd cluster answers now, or one that was restored from a backup, so changes since "
                f"revision {self._position} are unknown",
                todo="list again and watch from there",
                other_history=True,
            )
        self._cluster_id = cluster_id
        create = proto.WatchCreateRequest(
            key=self._start,
            range_end=self._end,
            start_revision=self._position + 1,
            progress_notify=True,
        )
        self._stream = Stream(self._client, create)
        if self._closing.is_set():
            self._stream.close()
        return self._stream

    def _events(self, responses: Sequence[Any]) -> list[Event]:
        events: list[Event] = []
        for response in responses:
            if response.canceled:
                stream, self._stream = self._stream, None
                if stream is not None:
                    stream.close()
                if events:
                    break  # they count; what ended the watcher is told by the stream that is opened next
                raise self._canceled(response)
            if not response.events:
                if not response.created:
                    # A progress notification: nothing of ours happened up to there, so there is no need to resume
                    # from further back, where history may be compacted.
                    self._position = max(self._position, response.header.revision)
                continue
            for event in response.events:
                kv = event.kv
                if not kv.key.startswith(self._prefixes):
                    continue
                key = parsed(kv.key)
                if key is None or not any(keys.matches(query, key) for query in self._queries):
                    continue
                at = kv.mod_revision
                record = None if event.type == proto.DELETED else self._decode(key, kv.value, at)
                events.append(Event(key, record, str(at)))
            last = response.events[-1]
            self._position = last.kv.mod_revision
            self._last = last.kv.key, 0 if last.type == proto.DELETED else self._position
        return events

    def _canceled(self, response: Any) -> DatastoreError:
        if response.compact_revision:
            return RevisionTooOld(
                what=f"changes since revision {self._position} were compacted (up to {response.compact_revision})",
                todo="list again and watch from there",
            )
        reason = response.cancel_reason
        if "permission denied" in reason:
            return NotPermitted(
                what=f"etcd does not permit to watch {self._start.decode()} to {self._end.decode()}: {reason}",
                todo="give the user's role read permission on that range",
            )
        self._client.forget_token()  # it may have been that
        return DatastoreUnavailable(what=f"etcd ended the watch: {reason or 'no reason given'}", todo="call again")

    def _broken(self, stream: Stream) -> DatastoreUnavailable:
        problem = stream.problem
        if problem is None:
            return DatastoreUnavailable(what="etcd ended the watch stream", todo="call again: it resumes with no gap")
        if is_about_token(problem):
            self._client.forget_token()
        error = self._client.error(problem, stream.connection.address, changes=False)
        if isinstance(error, DatastoreUnavailable):
            return error
        return DatastoreUnavailable(what=error.what, todo=error.todo)


def parsed(path: bytes) -> Key | None:
    try:
        return keys.parse(path.decode())
    except UnicodeDecodeError:
        return None
