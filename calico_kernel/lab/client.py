"""Start, find, ask and end labs, from outside.

In:    what the command line or a test wants.   Out: requests to calico_kernel.lab.resident.
Owns:  a lab started here with ``tied=True`` ends with the thread that started it.

A lab's address is an abstract unix socket, ``@calico-lab/UID/NAME``: it belongs to this network namespace and goes with
the lab, so there is no state file that could lie.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from calico_kernel.errors import CalicoError, ConfigError, UnsupportedError
from calico_kernel.host import bubble, libc
from calico_kernel.host.programs import which
from calico_kernel.lab.network import LabError, check_programs
from calico_kernel.lab.topology import Topology, decode, encode

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,40}")
_END_S = 10.0
_MACHINES_OWN = ("CALICO_", "ETCD_", "K8S_", "KUBECONFIG", "KUBERNETES_", "DATASTORE_TYPE")


def address(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            what=f"{name!r} cannot name a lab", todo="use letters, digits, '-', '_' and '.', at most 41 of them"
        )
    return f"\0calico-lab/{os.getuid()}/{name}"


def names() -> list[str]:
    """Labs of this user in this network namespace."""
    wanted = f"@calico-lab/{os.getuid()}/"
    with open("/proc/thread-self/net/unix") as file:
        paths = {line.split()[-1] for line in file}
    return sorted(path.removeprefix(wanted) for path in paths if path.startswith(wanted))


class LabClient:
    """Speaks to one running lab. One thread at a time. Use as a context manager to end a lab started here."""

    def __init__(self, name: str, process: subprocess.Popen[bytes] | None = None) -> None:
        self.name = name
        self._process = process
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(address(name))
        except OSError as exc:
            self._socket.close()
            running = names()
            raise LabError(
                what=f"no lab named {name} runs",
                todo=f"start it with `calico lab up --name {name}`"
                + (f", or use --name with one of: {', '.join(running)}" if running else ""),
            ) from exc
        self.pid, uid, _gid = struct.unpack("3i", self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != os.getuid():
            self._socket.close()
            raise LabError(what=f"the name {name} is taken by a process of user {uid}", todo="choose another --name")
        self._stream = self._socket.makefile("rwb")

    def __enter__(self) -> LabClient:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._process is not None:
            self.end()
        self.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a request that a dead lab never took may still be in the buffer
            self._stream.close()
        self._socket.close()

    def leave(self) -> None:
        """Let the lab live on after this client."""
        self._process = None

    def ask(self, do: str, *, say: Callable[[str], None] = lambda _text: None, **arguments: Any) -> Any:
        """Raises LabError with what the lab answered, also when it went away."""
        try:
            self._stream.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._stream.flush()
            for line in self._stream:
                item = json.loads(line)
                if "say" in item:
                    say(item["say"])
                elif "error" in item:
                    raise LabError(**item["error"])
                else:
                    return item["result"]
        except OSError:
            pass
        raise LabError(what=f"the lab {self.name} went away", kept="nothing of it", todo="start it again")

    def state(self) -> Mapping[str, Any]:
        return dict(self.ask("state"))

    def topology(self) -> Topology:
        return decode(self.state()["topology"])

    def exec_line(self, place: str, argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """The command line, for this side of the bubble, that runs ``argv`` in a place; and its extra environment."""
        answer = self.ask("command", place=place, argv=list(argv))
        environment = {**answer["environment"], bubble.MARK: "1"}
        return [*_into_bubble(self.pid), *answer["argv"]], environment

    def exec(self, place: str, argv: Sequence[str]) -> NoReturn:
        """Become ``argv`` in a place of the lab: its terminal, signals and exit status are ours."""
        line, environment = self.exec_line(place, argv)
        os.execvpe(line[0], line, {**_environment(), **environment})

    def end(self) -> None:
        """End the lab and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        deadline = time.monotonic() + _END_S
        while self.name in names():
            if time.monotonic() > deadline:
                raise LabError(what=f"the lab {self.name} did not end", todo=f"look at process {self.pid}")
            time.sleep(0.01)


def _environment() -> dict[str, str]:
    """Ours, without what configures Calico, etcd or Kubernetes on this machine: every node of a lab has its own file.
    ``FELIX_`` variables stay, so that a lab can be started with them."""
    return {key: value for key, value in os.environ.items() if not key.startswith(_MACHINES_OWN)}


def _into_bubble(pid: int) -> list[str]:
    return [
        which("nsenter") or "nsenter",
        *("--target", str(pid), "--user", "--preserve-credentials", "--mount", "--pid", "--net", "--"),
    ]


def start(
    topology: Topology,
    *,
    name: str,
    tied: bool,
    agents: bool = True,
    say: Callable[[str], None] = lambda _text: None,
) -> LabClient:
    """Start a lab and wait until it stands. ``tied``: it dies with the calling thread, and on failure in any case.

    Raises UnsupportedError (no user namespaces, a program missing: with what to do), LabError.
    """
    check_programs(topology.datastore)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(address(name))
    except OSError as exc:
        listener.close()
        raise LabError(
            what=f"a lab named {name} runs already",
            todo=f"use it, end it with `calico lab down --name {name}`, or choose another --name",
        ) from exc
    with listener:
        process = subprocess.Popen(
            bubble.command(
                [
                    *(sys.executable, "-m", "calico_kernel.lab.resident"),
                    *(str(listener.fileno()), "agents" if agents else "bare"),
                ]
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            start_new_session=True,
            preexec_fn=libc.die_with_parent if tied else None,  # noqa: PLW1509 -- one call of prctl, no lock
            env={**_environment(), "CALICO_LAB": name},
        )
    try:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(encode(topology))
            process.stdin.close()
        client = _connect(name, process)
        try:
            client.ask("wait", say=say)
        except BaseException:
            client.end()
            client.close()
            raise
    except BaseException:  # also when a person interrupts: half a lab is of no use
        process.kill()
        process.wait()
        raise
    if not tied:
        client.leave()
    return client


def _connect(name: str, process: subprocess.Popen[bytes]) -> LabClient:
    while True:
        try:
            return LabClient(name, process)
        except LabError:
            if process.poll() is not None:
                assert process.stderr is not None
                said = process.stderr.read().decode(errors="replace").strip()
                raise _why_not(said) from None
        time.sleep(0.01)


def _why_not(said: str) -> CalicoError:
    """Which switch of this system forbids user namespaces, if it is that."""
    switches = (
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
        ("/proc/sys/user/max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=16384"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    )
    for path, forbidding, cure in switches:
        with contextlib.suppress(OSError), open(path) as file:
            if file.read().strip() == forbidding and (os.getuid() or "max_user" in path):
                return UnsupportedError(
                    what=f"this system forbids user namespaces to user {os.getuid()} ({said})", todo=cure
                )
    if "unshare" in said and "ermi" in said:
        return UnsupportedError(
            what=f"this system forbids user namespaces ({said})",
            todo="run outside of a container, or give the container --security-opt seccomp=unconfined",
        )
    return LabError(what=f"the lab did not start: {said or 'no reason given'}", todo="run it again, and report this")
