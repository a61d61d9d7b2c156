"""A private world for a whole Kubernetes cluster: namespaces and cgroups of its own, as real root.

    python tests/e2e/world.py COMMAND [ARGUMENT...]

The bubble that the other tests run in has a user namespace, in which no container runtime of Kubernetes can manage
cgroups. This one has none, so it needs real root; it has network, mount, PID and cgroup namespaces instead. When its
first process dies, even by -9, the kernel clears everything but the cgroups, which are empty then: this program removes
them, or its next run does. Without real root COMMAND runs in place, and the tests say that they are skipped.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from calico_datastore_kdd.testing import program
from calico_kernel.errors import UnsupportedError
from calico_kernel.host import bubble, libc

CGROUPS = Path("/sys/fs/cgroup")
NAME = "calico-e2e-"
MARK = "CALICO_E2E_WORLD"
NAMESPACES = ("--net", "--mount", "--pid", "--cgroup", "--fork", "--kill-child", "--mount-proc")


def lacking() -> str:
    """Why there can be no cluster here; empty when there can."""
    if Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"] or os.geteuid() != 0:
        return "needs real root: kubelet and containerd manage cgroups"
    for name in ("containerd", "crun", "busybox", "etcd", "unshare"):
        if shutil.which(name) is None:
            return f"needs {name}: sh tools/system-packages.sh --e2e"
    try:
        program("kubelet")
    except UnsupportedError as exc:
        return f"needs a kubelet: {exc}"
    if not controllers():
        return f"needs cgroups of version 1 under {CGROUPS}"
    try:
        _make(f"{NAME}{os.getpid()}-trial")
    except OSError as exc:
        return f"needs to make cgroups: {exc}"
    finally:
        remove_cgroups(f"{NAME}{os.getpid()}-trial")
    tried = subprocess.run(["unshare", *NAMESPACES, "true"], capture_output=True, text=True, check=False)
    return f"needs namespaces: {tried.stderr.strip()}" if tried.returncode else ""


def inside() -> bool:
    return os.environ.get(MARK) == "1"


def cpu_s() -> float:
    """CPU time of everything in this world since it began."""
    return int((CGROUPS / "cpuacct" / "cpuacct.usage").read_text()) / 1e9


def controllers() -> dict[str, str]:
    """This process's cgroup in each hierarchy of version 1: {"memory": "/", "cpu,cpuacct": "/x"}."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    return {names.removeprefix("name="): path for _, names, path in lines if names}


def _ours(hierarchy: str, path: str) -> list[Path]:
    return sorted((CGROUPS / hierarchy / path.lstrip("/")).glob(f"{NAME}*"))


def remove_cgroups(name: str = "") -> None:
    """Those called ``name``, or all that earlier worlds left. One that still has a process stays."""
    for hierarchy, path in controllers().items():
        for top in _ours(hierarchy, path):
            if name and top.name != name:
                continue
            for directory in (*sorted((p for p in top.rglob("*") if p.is_dir()), reverse=True), top):
                with contextlib.suppress(OSError):
                    directory.rmdir()


def _make(name: str) -> list[Path]:
    """Our cgroup in each hierarchy."""
    made = []
    for hierarchy, path in controllers().items():
        parent = CGROUPS / hierarchy / path.lstrip("/")
        own = parent / name
        own.mkdir()
        made.append(own)
        for setting in ("cpuset.cpus", "cpuset.mems"):  # empty in a new one, and then no process may join
            if (own / setting).exists():
                (own / setting).write_text((parent / setting).read_text())
    return made


def run(argv: list[str]) -> int:
    """``argv`` in a new world; its exit status."""
    remove_cgroups()
    name = f"{NAME}{os.getpid()}"
    cgroups = _make(name)

    def join() -> None:
        libc.die_with_parent()
        for own in cgroups:
            (own / "cgroup.procs").write_text(str(os.getpid()))

    line = ["unshare", *NAMESPACES, sys.executable, __file__, "--first", *argv]
    process = subprocess.Popen(line, preexec_fn=join)  # noqa: PLW1509 -- no thread here
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: process.send_signal(received))
    try:
        return process.wait()
    finally:
        remove_cgroups(name)


def first(argv: list[str]) -> None:
    """The world's first process: drop the machine's mounts of cgroups, which container runtimes would find in the
    list of mounts, then become the bubble's, which reaps what the container runtimes leave to it."""
    libc.mount("none", "/", flags=libc.MS_REC | libc.MS_PRIVATE)
    libc.umount("/sys")
    init = [sys.executable, "-m", "calico_kernel.host.bubble", "--init", sys.executable, __file__, "--second"]
    os.execv(init[0], [*init, *argv])


def second(argv: list[str]) -> None:
    """The cgroups of this world and no others, then ``argv`` in place of this program."""
    libc.mount("tmpfs", str(CGROUPS), "tmpfs", data="mode=755")
    for hierarchy in controllers():
        (CGROUPS / hierarchy).mkdir()
        option = f"name={hierarchy},none" if hierarchy == "systemd" else hierarchy
        libc.mount("cgroup", str(CGROUPS / hierarchy), "cgroup", data=option)
    os.environ[MARK] = "1"
    os.execvp(argv[0], argv)


def main(argv: list[str]) -> int:
    if not argv:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    if argv[0] == "--first":
        first(argv[1:])
    if argv[0] == "--second":
        second(argv[1:])
    if lacking() or bubble.inside():
        os.execvp(argv[0], argv)
    return run(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
