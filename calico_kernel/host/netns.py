"""Network namespaces, named as iproute2 names them (files in /run/netns), entered by thread.

A thread that Python starts inherits the namespace of the thread that starts it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from calico_kernel.host import libc

DIRECTORY = "/run/netns"

T = TypeVar("T")


def path_of(name: str) -> str:
    return f"{DIRECTORY}/{name}"


def create(name: str) -> str:
    """Make a namespace with its loopback down and return its path. Raises FileExistsError, PermissionError."""
    os.makedirs(DIRECTORY, mode=0o755, exist_ok=True)
    path = path_of(name)
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o444))

    def make() -> None:
        libc.unshare(libc.CLONE_NEWNET)
        libc.mount("/proc/thread-self/ns/net", path, flags=libc.MS_BIND)

    try:
        in_thread(make)
    except BaseException:
        os.unlink(path)
        raise
    return path


def delete(name: str) -> None:
    """Remove the name; the namespace goes when its last user does. A missing name is fine."""
    path = path_of(name)
    with contextlib.suppress(OSError):
        libc.umount(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def names() -> list[str]:
    try:
        return sorted(os.listdir(DIRECTORY))
    except FileNotFoundError:
        return []


def open_fd(name_or_path: str) -> int:
    """A descriptor of a namespace given by name or path; the caller closes it. Raises FileNotFoundError."""
    return os.open(name_or_path if "/" in name_or_path else path_of(name_or_path), os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def entered(name_or_path_or_fd: str | int) -> Iterator[None]:
    """Run the body of ``with`` in another network namespace (this thread only) and come back."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    opened = None if isinstance(name_or_path_or_fd, int) else open_fd(name_or_path_or_fd)
    try:
        libc.setns(opened if opened is not None else int(name_or_path_or_fd), libc.CLONE_NEWNET)
        try:
            yield
        finally:
            libc.setns(here, libc.CLONE_NEWNET)
    finally:
        os.close(here)
        if opened is not None:
            os.close(opened)


def in_thread(work: Callable[[], T]) -> T:
    """Run ``work`` in a thread of its own, whose namespaces vanish with it, and return or raise what it did."""
    box: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            box.append(work())
        except BaseException as exc:  # noqa: BLE001 -- handed to the caller
            failed.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return box[0]


def run_in(name_or_path_or_fd: str | int, work: Callable[[], T]) -> T:
    """Run ``work`` in another network namespace without moving the calling thread."""

    def inside() -> T:
        with entered(name_or_path_or_fd):
            return work()

    return in_thread(inside)
