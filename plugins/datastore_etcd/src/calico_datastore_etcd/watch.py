"""Changes after a revision, from one watch stream of etcd.

In:    watch responses of one member, over the longest prefix that all queries share.
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

BUFFERED_RESPONSES = 64
"""What the reader holds for a slow consumer; then HTTP/2's flow control makes etcd hold the rest."""


class Stream:
    """One watch stream. Broken once, it stays so."""

    def __init__(self, client: EtcdClient, create: Any) -> None:
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._responses: deque[Any] = deque()
        self._closed = False
        self.problem: grpc.RpcError | None = None
        self.connection, self._call = client.open_watch(self._requests(create))
        threading.Thread(target=self._read, name="calico-etcd-watch", daemon=True).start()

    def take(self, timeout_s: float) -> tuple[list[Any], bool]:
        """(What came since the last time, whether the stream is at its end). Waits while there is neither."""
        with self._changed:
            if not self._responses and not self._ended.is_set() and not self._closed and timeout_s > 0:
                self._changed.wait(timeout_s)
            found = list(self._responses)
            self._responses.clear()
            self._changed.notify_all()
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
                    while len(self._responses) >= BUFFERED_RESPONSES and not self._closed:
                        self._changed.wait()
                    if self._closed:
                        return
                    self._responses.append(response)
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
        self._common = common_prefix(self._prefixes)
        self._position = revision
        self._decode = decode
        self._closing = threading.Event()
        self._stream: Stream | None = None
        self._cluster_id = 0
        self._open()

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
        revision that a cluster restored from a backup has not reached yet, never."""
        # One key, since only the answer's header and its refusal count.
        self._client.call("Range", proto.RangeRequest(key=self._common, revision=self._position))
        cluster_id = self._client.cluster_id
        if self._cluster_id and cluster_id != self._cluster_id:
            raise RevisionTooOld(
                what=f"another etcd cluster answers now, so changes since revision {self._position} are unknown",
                todo="list again and watch from there",
                other_history=True,
            )
        self._cluster_id = cluster_id
        create = proto.WatchCreateRequest(
            key=self._common,
            range_end=proto.prefix_end(self._common),
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
            self._position = response.events[-1].kv.mod_revision
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
                what=f"etcd does not permit to watch {self._common.decode()}: {reason}",
                todo="give the user's role read permission on that prefix",
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


def common_prefix(prefixes: Sequence[bytes]) -> bytes:
    """All of them start with ``/calico/``."""
    first, last = min(prefixes), max(prefixes)
    length = next((n for n in range(len(first)) if first[n : n + 1] != last[n : n + 1]), len(first))
    return first[:length]


def parsed(path: bytes) -> Key | None:
    try:
        return keys.parse(path.decode())
    except UnicodeDecodeError:
        return None
