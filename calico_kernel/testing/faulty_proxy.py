"""A TCP proxy on loopback that fails: for a datastore's server, or any other, seen through a bad network.

In:    bytes of clients, for one server on loopback.
Out:   the same bytes, in order, or a broken connection: late, cut in the middle of a frame, refused, frozen. What of
       that happens is asked for by a test, or left to chance with a seed.
Owns:  one listening socket; two threads for each connection.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time

import attrs

CHUNK_BYTES = 16_384
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close sends a reset, and what was not sent is gone


@attrs.frozen(kw_only=True)
class Chances:
    """What may happen, each with its chance: ``delay``, ``cut`` and ``freeze`` to a piece of data that is forwarded,
    ``refuse`` to a new connection. Times are at most so long.

    A connection that is cut has passed on a part of the piece only."""

    delay: float = 0.0
    delay_s: float = 0.02
    cut: float = 0.0
    refuse: float = 0.0
    freeze: float = 0.0
    freeze_s: float = 0.3


CALM = Chances()
BAD_NETWORK = Chances(delay=0.1, cut=0.01, refuse=0.1, freeze=0.002)


class FaultyProxy:
    """Thread-safe. ``port`` is kept until ``close``, also while it refuses."""

    def __init__(self, target_port: int, *, seed: int = 0) -> None:
        self._target = ("127.0.0.1", target_port)
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._chances = CALM
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._moving = threading.Event()
        self._moving.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.faults = 0
        """How often chance has struck."""
        self._listen(self._listener)

    # ── what a test asks for ──

    def take_chances(self, chances: Chances) -> None:
        """From now on; ``CALM`` ends it."""
        self._chances = chances

    def cut(self) -> None:
        """Every connection breaks now, and what is under way is lost; new ones are accepted."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            _reset(pair)

    def refuse(self) -> None:
        """Nobody can connect, and who is connected no longer is."""
        with self._lock:
            listener, self._listener = self._listener, socket.socket()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        listener.close()
        self._listener.close()
        self.cut()

    def accept(self) -> None:
        """The end of ``refuse``."""
        listener = socket.create_server(("127.0.0.1", self.port))
        with self._lock:
            self._listener = listener
        self._listen(listener)

    def freeze(self) -> None:
        """Connections stay, and nothing moves on any of them, until ``thaw``."""
        self._moving.clear()

    def thaw(self) -> None:
        self._moving.set()

    def close(self) -> None:
        self.thaw()
        self.refuse()

    # ── inside ──

    def _listen(self, listener: socket.socket) -> None:
        threading.Thread(target=self._accept, args=(listener,), name="faulty-proxy", daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                ours, _ = listener.accept()
                if self._strikes(self._chances.refuse):
                    _reset((ours,))
                    continue
                try:
                    theirs = socket.create_connection(self._target, 5)
                except OSError:
                    _reset((ours,))
                    continue
                theirs.settimeout(None)
                for end in (ours, theirs):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._pairs.add((ours, theirs))
                for pair in ((ours, theirs), (theirs, ours)):
                    threading.Thread(
                        target=self._pump, args=(*pair, (ours, theirs)), name="faulty-proxy", daemon=True
                    ).start()

    def _pump(self, source: socket.socket, sink: socket.socket, pair: tuple[socket.socket, socket.socket]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                chances = self._chances
                if self._strikes(chances.delay):
                    time.sleep(self._random.uniform(0, chances.delay_s))
                if self._strikes(chances.freeze):
                    time.sleep(self._random.uniform(0, chances.freeze_s))
                self._moving.wait()
                if self._strikes(chances.cut):
                    sink.sendall(data[: self._random.randrange(len(data))])
                    break
                sink.sendall(data)
        with self._lock:
            self._pairs.discard(pair)
        _reset(pair)

    def _strikes(self, chance: float) -> bool:
        if not chance:
            return False
        with self._lock:
            struck = self._random.random() < chance
            self.faults += struck
        return struck


def _reset(ends: tuple[socket.socket, ...]) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)  # wakes the threads that read it
        end.close()
