"""The world that these tests live in, killed half-way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from calico_kernel.host import bubble
from tests.e2e import world

SLEEP = "86399.125"


def _sleepers() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if line[:2] == [b"sleep", SLEEP.encode()]:
            found.append(path.parent.name)
    return found


def _cgroups() -> list[Path]:
    return [path for hierarchy in world.CGROUPS.iterdir() for path in hierarchy.glob(f"{world.NAME}*")]


def _soon(happened: Callable[[], object], within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_killed_world_leaves_nothing_that_the_next_one_does_not_clear() -> None:
    outside = {key: value for key, value in os.environ.items() if key not in (bubble.MARK, world.MARK)}
    line = [sys.executable, world.__file__]
    inner = subprocess.Popen(
        [*line, "sh", "-c", f"sleep {SLEEP} & echo made; wait"], stdout=subprocess.PIPE, env=outside
    )
    assert inner.stdout is not None and inner.stdout.readline() == b"made\n"
    assert _soon(_sleepers) and _cgroups()
    inner.kill()
    inner.wait()
    inner.stdout.close()
    assert _soon(lambda: not _sleepers())
    subprocess.run([*line, "true"], env=outside, check=True)
    assert _cgroups() == []
