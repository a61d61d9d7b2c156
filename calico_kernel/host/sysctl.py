"""Kernel settings under /proc/sys, by their dotted or slashed name, in the network namespace of the calling thread.

/proc/sys/net belongs to the namespace of whoever opens the file, so ``netns.entered`` is enough to reach another one.
Names hold "/" between parts where an interface name may hold a dot: "net/ipv4/conf/eth0.100/proxy_arp".
"""

from __future__ import annotations

import os

ROOT = "/proc/sys/"


def path_of(name: str) -> str:
    return ROOT + (name if "/" in name else name.replace(".", "/"))


def read(name: str) -> str:
    """Raises FileNotFoundError when the kernel has no such setting."""
    with open(path_of(name), "rb", buffering=0) as file:
        return file.read().decode().strip()


def write(name: str, value: str | int) -> None:
    """Raises FileNotFoundError, PermissionError, or OSError (EINVAL) when the kernel refuses the value."""
    fd = os.open(path_of(name), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


def ensure(name: str, value: str | int) -> bool:
    """Write only if it is not so already; True when it was written."""
    if read(name) == str(value):
        return False
    write(name, value)
    return True
