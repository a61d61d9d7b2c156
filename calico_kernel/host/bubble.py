"""A private world for a process: its own user, PID, mount and network namespaces, in which it is root.

Needs no root where the system allows user namespaces. Nothing inside can touch the machine's network, and when the
first process inside dies, even by -9, the kernel clears all of it away.

    python -m calico_kernel.host.bubble COMMAND [ARGUMENT...]
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from calico_kernel.errors import UnsupportedError
from calico_kernel.host import libc

MARK = "CALICO_BUBBLE"


def inside() -> bool:
    """Is this process in a bubble?"""
    return os.environ.get(MARK) == "1"


def command(argv: Sequence[str]) -> list[str]:
    """The command line that runs ``argv`` in a new bubble. Raises UnsupportedError without unshare(1)."""
    unshare = shutil.which("unshare")
    if unshare is None:
        raise UnsupportedError(what="unshare(1) is not installed", todo="apt-get install util-linux")
    return [
        unshare,
        *("--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
        sys.executable,
        *("-m", "calico_kernel.host.bubble", "--init", *argv),
    ]


def enter(argv: Sequence[str]) -> NoReturn:
    """Replace this process by ``argv`` in a new bubble; its exit status becomes ours."""
    line = command(argv)
    os.execv(line[0], line)


def _prepare() -> None:
    """Private /run (namespaces, xtables lock, sockets), a /sys of this network, loopback up."""
    libc.mount("none", "/", flags=libc.MS_REC | libc.MS_PRIVATE)
    libc.mount("tmpfs", "/run", "tmpfs", data="mode=755")
    for directory in ("/run/netns", "/run/lock", "/run/calico"):
        os.makedirs(directory, exist_ok=True)
    with contextlib.suppress(OSError):  # a locked-down /sys still shows the devices by netlink
        libc.mount("sysfs", "/sys", "sysfs")
    if not os.path.islink("/var/run"):
        with contextlib.suppress(OSError):
            libc.mount("/run", "/var/run", flags=libc.MS_BIND | libc.MS_REC)
    loopback_up()


def loopback_up() -> None:
    """Bring ``lo`` up in the current network namespace."""
    import fcntl
    import socket
    import struct

    siocgifflags, siocsifflags, iff_up = 0x8913, 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(sock, siocgifflags, request))[1]
        fcntl.ioctl(sock, siocsifflags, struct.pack("16sh14x", b"lo", flags | iff_up))


def _init(argv: Sequence[str]) -> int:
    """First process of the bubble: run ``argv``, pass signals on, reap orphans, end with its status."""
    _prepare()
    environment = dict(os.environ, **{MARK: "1"})
    child = os.spawnvpe(os.P_NOWAIT, argv[0], list(argv), environment)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: os.kill(child, received))
    while True:
        try:
            pid, status = os.wait()
        except InterruptedError:
            continue
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def main(argv: Sequence[str]) -> int:
    if argv and argv[0] == "--init":
        return _init(argv[1:])
    if not argv:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    enter(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
