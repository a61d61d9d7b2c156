"""Wakes watches when any process commits to the database.

In:    inotify on the database file: a writer touches it after each commit. (A commit ends in shared memory, after the
       write to the journal and its flush, so watching the journal would wake too early.)
Out:   a generation number and a condition that watches wait on.
Owns:  one inotify descriptor and one thread for each datastore object, from the first wait on.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from functools import cache
from typing import Any

IN_ATTRIB, IN_MOVE_SELF, IN_DELETE_SELF = 0x4, 0x800, 0x400
BACKSTOP_S = 1.0
"""A writer that was killed between its commit and its touch is noticed after so long."""
WITHOUT_INOTIFY_S = 0.05


@cache
def _libc() -> Any:
    """Loaded by the first who waits: a tool that only reads has no use for it."""
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _errno() -> int:
    import ctypes

    return ctypes.get_errno()


class CommitNotifier:
    """Thread-safe; ``wait`` costs nothing while nothing happens."""

    def __init__(self, path: str, log: logging.Logger) -> None:
        self._path = os.fsencode(path)
        self._log = log
        self._changed = threading.Condition()
        self._generation = 0
        self._inotify = -1
        self._stop = -1
        self._pid = 0
        self._backstop_s = BACKSTOP_S

    @property
    def generation(self) -> int:
        """Read it before looking at the database; ``wait`` returns at once when it has grown since."""
        return self._generation

    def bump(self) -> None:
        with self._changed:
            self._generation += 1
            self._changed.notify_all()

    def wait(self, seen: int, timeout_s: float) -> None:
        """Until the generation is past ``seen``, ``timeout_s`` passed, or it is time for the slow look."""
        with self._changed:
            if self._pid != os.getpid():
                self._start()
            if self._generation == seen:
                self._changed.wait(max(0.0, min(timeout_s, self._backstop_s)))

    def follow(self) -> None:
        """The path may name another file now."""
        if self._pid == os.getpid() and self._inotify >= 0:
            # -1 (no such file just now) is harmless: the slow look finds the file again and calls this again.
            _libc().inotify_add_watch(self._inotify, self._path, IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF)

    def close(self) -> None:
        self.bump()
        with self._changed:
            if self._pid == os.getpid() and self._stop >= 0:
                os.eventfd_write(self._stop, 1)
                self._stop = -1

    def _start(self) -> None:
        self._pid = os.getpid()
        self._inotify = _libc().inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._inotify < 0:
            self._backstop_s = WITHOUT_INOTIFY_S
            self._log.warning(
                "no inotify (%s): looking for changes every %g s instead; raise fs.inotify.max_user_instances",
                os.strerror(_errno()),
                WITHOUT_INOTIFY_S,
            )
            return
        self._backstop_s = BACKSTOP_S
        self.follow()
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        threading.Thread(
            target=self._run, args=(self._inotify, self._stop), name="calico-sqlite-notify", daemon=True
        ).start()

    def _run(self, inotify: int, stop: int) -> None:
        poll = select.poll()
        poll.register(inotify, select.POLLIN)
        poll.register(stop, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if stop in ready:
                break
            os.read(inotify, 65536)  # which events is of no interest: each watch looks for itself
            self.bump()
        self._inotify = -1
        os.close(inotify)
        os.close(stop)
