"""The few Linux calls that Python 3.11's ``os`` lacks: unshare, setns, mount, prctl."""

from __future__ import annotations

import ctypes
import os
import signal

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SHARED = 1 << 20
MNT_DETACH = 2

_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def unshare(flags: int) -> None:
    """unshare(2) for the calling thread. Raises OSError."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """setns(2) for the calling thread. Raises OSError."""
    _check(_libc.setns(fd, kind), "setns")


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2). Raises OSError naming ``target``."""
    _check(
        _libc.mount(source.encode(), target.encode(), fstype.encode() or None, flags, data.encode() or None),
        target,
    )


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """umount2(2). Raises OSError naming ``target``."""
    _check(_libc.umount2(target.encode(), flags), target)


def die_with_parent() -> None:
    """Be killed when the thread that started this process ends. Survives execve; not inherited by children."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
