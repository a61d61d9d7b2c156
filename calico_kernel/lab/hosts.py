"""Turn namespaces into hosts: a mount namespace with a private /run, a host name, and supervised programs.

In:    a Topology whose namespaces stand (calico_kernel.lab.network).
Out:   a ``LabHost`` for each node (its program is the agent) and for the datastore's server
       (calico_kernel.lab.servers), to calico_kernel.lab.engine.
Owns:  one process for each host, its "first process", forked from the caller; the programs are its children. It starts
       a program again when that dies, as systemd would, and goes when the lab goes.

Layout inside the bubble: LAB is shared by all; a node sees its own ``LAB/hosts/NODE`` as /run, and in it LAB and
/run/netns of everybody, because a CNI request names a workload's namespace by its path there.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from calico_kernel.host import libc, netns
from calico_kernel.host.programs import which
from calico_kernel.lab import servers
from calico_kernel.lab.network import LabError
from calico_kernel.lab.topology import Host, Topology

LAB = "/run/calico-lab"
RUN_DIR = "/run/calico"
STATE_DIR = "/run/calico-state"
CONFIG = f"{RUN_DIR}/calico.yaml"
HEALTH = "http://127.0.0.1:9099/readiness"
RESTART_FIRST_S, RESTART_MOST_S = 0.1, 5.0


def share_namespaces() -> None:
    """Once for a lab, before the first host: what is mounted in /run/netns appears in every host as well."""
    for directory in (f"{LAB}/hosts", f"{LAB}/logs", servers.DATASTORE_DIR, netns.DIRECTORY):
        os.makedirs(directory, exist_ok=True)
    libc.mount(netns.DIRECTORY, netns.DIRECTORY, flags=libc.MS_BIND)
    libc.mount("none", netns.DIRECTORY, flags=libc.MS_SHARED)


def node_config(host: Host, topology: Topology) -> dict[str, Any]:
    """What composes the node; JSON is YAML, so it is written as it is."""
    return {
        "node": host.name,
        "datastore": servers.settings(topology),
        "ipam": "blocks",
        "dataplane": "iptables",
        "encapsulation": ["vxlan"],
        "routing": [],
        "extensions": ["cni"],
        "agent": {"run_dir": RUN_DIR, "state_dir": STATE_DIR, "log_format": "text"},
    }


def program(name: str) -> list[str]:
    """The command line of one of our own programs: beside this interpreter, else by module."""
    beside = os.path.join(os.path.dirname(sys.executable), name)
    if os.access(beside, os.X_OK):
        return [beside]
    return [sys.executable, "-m", f"calico_kernel.cli.{name}"]


class LabHost:
    """One host and its programs: the agent on a node, else the datastore's server. Used by one thread at a time."""

    def __init__(self, host: Host, topology: Topology) -> None:
        self.host = host
        is_server = host == topology.server
        self._health = servers.health(topology.datastore) if is_server else HEALTH
        self._environment = host_environment(topology)
        commands = servers.commands(host, topology.datastore) if is_server else [[*program("calico"), "node"]]
        self.log = f"{LAB}/logs/{host.name}.log"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            status = 1
            try:
                supervised = [_Program(command, self.log, self._environment) for command in commands]
                _first_process(host, parent, theirs, node_config(host, topology), _Supervisor(theirs, supervised))
                status = 0
            except BaseException as exc:  # noqa: BLE001 -- the child must not run the parent's code; it reports and ends
                with contextlib.suppress(OSError):
                    theirs.send(json.dumps({"error": repr(exc)}).encode())
            finally:
                os._exit(status)
        theirs.close()
        self._control = ours
        self._answer("the host")

    def _answer(self, what: str) -> Mapping[str, Any]:
        data = self._control.recv(65536)
        answer = json.loads(data) if data else {"error": "its first process died"}
        if "error" in answer:
            raise LabError(
                what=f"{what} of {self.host.name} failed: {answer['error']}",
                todo=f"read the log: calico lab logs {self.host.name}",
            )
        return dict(answer)

    def _ask(self, **request: Any) -> Mapping[str, Any]:
        self._control.send(json.dumps(request).encode())
        return self._answer(str(request["do"]))

    def start(self, *, keep: bool = True) -> int:
        """Start what does not run; ``keep``: start it again whenever it dies. Returns the process id of the last."""
        return int(self._ask(do="start", keep=keep)["pid"])

    def stop(self, *, signal_number: int = signal.SIGTERM) -> None:
        """End the programs and leave them ended."""
        self._ask(do="stop", signal=int(signal_number))

    def kill(self) -> None:
        """SIGKILL, as a crash would: the first process starts them again if it keeps them."""
        self._ask(do="kill")

    def status(self) -> Mapping[str, Any]:
        """Of the program that was started last: {"pid": 0 when it does not run, "starts": how often it was started}."""
        return self._ask(do="status")

    def readiness(self) -> tuple[int, str]:
        """The program's own answer: HTTP status and text. Raises OSError when there is none."""
        return netns.run_in(self.host.netns, lambda: _http_get(self._health))

    def inside(self, argv: Sequence[str], *, network: str = "") -> list[str]:
        """The command line that runs ``argv`` on this node; in another network namespace of its if ``network``."""
        return enter_line(self.pid, argv, network=network)

    def run(
        self, argv: Sequence[str], *, network: str = "", text: str = "", environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.inside(argv, network=network),
            input=text,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **self._environment, **(environment or {})},
        )

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self._control.close()


def enter_line(pid: int, argv: Sequence[str], *, network: str = "") -> list[str]:
    """nsenter(1) into the namespaces of process ``pid``, with the network of ``/run/netns/network`` if given."""
    net = f"--net={netns.path_of(network)}" if network else "--net"
    return [which("nsenter") or "nsenter", "--target", str(pid), "--mount", "--uts", net, "--", *argv]


def network_line(network: str, argv: Sequence[str]) -> list[str]:
    """Into a namespace of /run/netns and no other, for places that are no node."""
    return [which("nsenter") or "nsenter", f"--net={netns.path_of(network)}", "--", *argv]


def host_environment(topology: Topology) -> dict[str, str]:
    """Our own programs come first, and what only root's PATH has comes along."""
    ours, whose = os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)
    path = [ours, *servers.program_directories(topology), whose, "/usr/sbin", "/sbin"]
    return {"CALICO_CONFIG": CONFIG, "PATH": ":".join(path), **servers.environment(topology)}


def _http_get(url: str) -> tuple[int, str]:
    parts = urlsplit(url)
    address = str(parts.netloc)
    if parts.scheme == "https":  # of whom it is makes no difference: it is asked over loopback whether it works
        context = ssl._create_unverified_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(address, timeout=2, context=context)
    else:
        connection = http.client.HTTPConnection(address, timeout=2)
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except http.client.HTTPException as exc:
        raise OSError(str(exc)) from exc
    finally:
        connection.close()


# ── the first process of a host ───────────────────────────────────────────────────────────────────────────────────────


def _first_process(
    host: Host, parent: int, control: socket.socket, config: Mapping[str, Any], supervisor: _Supervisor
) -> None:
    libc.die_with_parent()
    if os.getppid() != parent:
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    descriptor = netns.open_fd(host.netns)
    libc.setns(descriptor, libc.CLONE_NEWNET)
    os.close(descriptor)
    libc.unshare(libc.CLONE_NEWNS | libc.CLONE_NEWUTS)
    _set_hostname(host.name)
    _private_run(host.name)
    with open(CONFIG, "w") as file:
        json.dump(config, file, indent=2)
    control.send(b"{}")
    supervisor.loop()


def _set_hostname(name: str) -> None:
    if ctypes.CDLL(None, use_errno=True).sethostname(name.encode(), len(name)):
        raise OSError(ctypes.get_errno(), "sethostname")


def _private_run(name: str) -> None:
    mine = f"{LAB}/hosts/{name}"
    for directory in ("netns", "lock", "calico", "calico-state", "calico-lab"):
        os.makedirs(f"{mine}/{directory}", exist_ok=True)
    libc.mount(netns.DIRECTORY, f"{mine}/netns", flags=libc.MS_BIND | libc.MS_REC)
    libc.mount(LAB, f"{mine}/calico-lab", flags=libc.MS_BIND)
    libc.mount(mine, "/run", flags=libc.MS_BIND | libc.MS_REC)
    if not os.path.islink("/var/run"):
        libc.mount("/run", "/var/run", flags=libc.MS_BIND | libc.MS_REC)
    with contextlib.suppress(OSError):  # a locked-down /sys still shows the devices by netlink
        libc.mount("sysfs", "/sys", "sysfs")


class _Program:
    """One program that is kept as it was last told to."""

    def __init__(self, command: Sequence[str], log: str, environment: Mapping[str, str]) -> None:
        self._command = command
        self._log = log
        self._environment = environment
        self._child: subprocess.Popen[bytes] | None = None
        self._keep = False
        self._pause_s = RESTART_FIRST_S
        self._started_at = 0.0
        self.starts = 0
        self.restart_at: float | None = None

    @property
    def pid(self) -> int:
        return self._child.pid if self._child is not None else 0

    def mind(self) -> None:
        """Notice that it died; start it when its time has come."""
        if self._child is not None and self._child.poll() is not None:
            self._child = None
            if self._keep:
                if time.monotonic() - self._started_at > RESTART_MOST_S:
                    self._pause_s = RESTART_FIRST_S
                self.restart_at = time.monotonic() + self._pause_s
                self._pause_s = min(self._pause_s * 2, RESTART_MOST_S)
        if self.restart_at is not None and time.monotonic() >= self.restart_at:
            self._start()

    def start(self, *, keep: bool) -> None:
        self._keep = keep
        if self._child is None:
            self._start()

    def _start(self) -> None:
        self.restart_at = None
        with open(self._log, "ab") as log:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environment},
                preexec_fn=libc.die_with_parent,  # noqa: PLW1509 -- this process has one thread
            )
        self.starts += 1
        self._started_at = time.monotonic()

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self.mind()

    def stop(self, number: int) -> None:
        self._keep, self.restart_at = False, None
        if self._child is None:
            return
        self._child.send_signal(number)
        try:
            self._child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child = None


class _Supervisor:
    """Keeps the programs, and answers the engine. They start in their order and end in the reverse."""

    def __init__(self, control: socket.socket, programs: Sequence[_Program]) -> None:
        self._control = control
        self._programs = programs

    def loop(self) -> None:
        woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        while True:
            due = [each.restart_at for each in self._programs if each.restart_at is not None]
            timeout = max(0.0, min(due) - time.monotonic()) if due else None
            ready, _, _ = select.select([self._control.fileno(), woken], [], [], timeout)
            if woken in ready:
                os.read(woken, 4096)
            for each in self._programs:
                each.mind()
            if self._control.fileno() in ready:
                data = self._control.recv(65536)
                if not data:
                    return
                self._control.send(json.dumps(self._do(json.loads(data))).encode())

    def _do(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            for each in self._programs if request["do"] == "start" else reversed(self._programs):
                if request["do"] == "start":
                    each.start(keep=bool(request["keep"]))
                elif request["do"] == "stop":
                    each.stop(int(request["signal"]))
                elif request["do"] == "kill":
                    each.kill()
        except OSError as exc:
            return {"error": str(exc)}
        return {"pid": self._programs[-1].pid, "starts": self._programs[-1].starts}
