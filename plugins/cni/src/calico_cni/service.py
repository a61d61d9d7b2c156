"""The service ``cni`` of the node agent: one request of the executable in, what it is to print out.

In:    {"program": "calico" or "calico-ipam", "env": {CNI_*}, "config": TEXT, "_fds": [namespace]} from the agent's
       socket, in worker threads.
Out:   {"status": exit status, "stdout": TEXT}. Errors are CNI error documents; nothing a request holds ends the agent.
Owns:  one lock for each endpoint being worked on.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import attrs

from calico_cni import errors
from calico_cni.delegate import Delegates
from calico_cni.endpoint import EndpointStore
from calico_cni.errors import CniError, from_calico
from calico_cni.naming import Attachment
from calico_cni.netconf import COMMANDS, VERSIONS, Invocation, invocation, version_of
from calico_cni.settings import CniSettings
from calico_cni.verbs import Verbs
from calico_kernel.errors import CalicoError, ConfigError
from calico_kernel.hookspecs import LocalService, Metric, Services

MAX_ENVIRONMENT = 256
IPAM_PROGRAM = "calico-ipam"
Answer = Mapping[str, Any]


@attrs.define
class _Held:
    lock: threading.Lock = attrs.field(factory=threading.Lock)
    users: int = 0


class Locks:
    """Mutual exclusion by name; a name costs nothing when nobody uses it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held: dict[str, _Held] = {}

    @contextlib.contextmanager
    def holding(self, name: str) -> Iterator[None]:
        with self._guard:
            held = self._held.setdefault(name, _Held())
            held.users += 1
        try:
            with held.lock:
                yield
        finally:
            with self._guard:
                held.users -= 1
                if not held.users:
                    del self._held[name]


class CniService(LocalService):
    """Raises ConfigError when made without a datastore."""

    name: ClassVar[str] = "cni"

    def __init__(self, settings: CniSettings, services: Services) -> None:
        if services.datastore is None:
            raise ConfigError(what="the extension cni needs a datastore", todo="name one in the node's configuration")
        self._log = services.log
        delegates = Delegates(settings.plugin_path, settings.delegate_timeout_s)
        self._verbs = Verbs(settings, services, EndpointStore(services.datastore), delegates)
        self._locks = Locks()
        self._in_sync = threading.Event()
        self._counts_lock = threading.Lock()
        self._counts: dict[tuple[str, str], tuple[int, float]] = {}

    def start(self) -> None:
        self._in_sync.set()

    def stop(self) -> None:
        self._in_sync.clear()

    def handle(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        environment, document = request.get("env"), request.get("config")
        version = version_of(document) if isinstance(document, str) else VERSIONS[-1]
        command, started_s = "?", time.monotonic()
        try:
            variables = _variables(environment)
            command = COMMANDS.get(variables.get("CNI_COMMAND", ""), "?")
            if not isinstance(document, str):
                raise CniError(errors.UNDECODABLE, "the request has no network configuration")
            inv = invocation(variables, document)
            if request.get("program") == IPAM_PROGRAM and command in ("ADD", "DEL", "CHECK"):
                answer = self._serve_ipam(inv)
            else:
                answer = self._serve(inv, [fd for fd in request.get("_fds", ()) if isinstance(fd, int)])
        except CniError as exc:
            return self._failed(command, exc, version, started_s)
        except CalicoError as exc:
            return self._failed(command, from_calico(exc, f"{command} failed"), version, started_s)
        except Exception as exc:  # noqa: BLE001 -- told to the runtime, and logged whole
            self._log.exception("CNI %s broke", command)
            said = CniError(
                errors.INTERNAL, f"{command} broke: {type(exc).__name__}: {exc}", "the agent's log says more"
            )
            return self._failed(command, said, version, started_s)
        self._count(command, "ok", started_s)
        if command in ("ADD", "DEL"):
            pod = f"{inv.args.get('K8S_POD_NAMESPACE', '')}/{inv.args.get('K8S_POD_NAME', '')}"
            subject = pod if len(pod) > 1 else inv.container
            took_ms = round((time.monotonic() - started_s) * 1000, 1)
            self._log.info("CNI %s of %s", command, subject, extra={"command": command, "took_ms": took_ms})
        return {"status": 0, "stdout": json.dumps(answer) + "\n" if answer is not None else ""}

    def _failed(self, command: str, exc: CniError, version: str, started_s: float) -> Answer:
        self._log.warning("CNI %s failed with code %d: %s", command, exc.code, exc)
        self._count(command, "error", started_s)
        return {"status": 1, "stdout": json.dumps(exc.document(version)) + "\n"}

    def _count(self, command: str, outcome: str, started_s: float) -> None:
        with self._counts_lock:
            number, seconds = self._counts.get((command, outcome), (0, 0.0))
            self._counts[command, outcome] = (number + 1, seconds + time.monotonic() - started_s)

    def metrics(self) -> Iterator[Metric]:
        """How many requests of each verb went how, and how long they took together."""
        with self._counts_lock:
            counts = dict(self._counts)
        for (command, outcome), (number, seconds) in sorted(counts.items()):
            labels = {"command": command, "outcome": outcome}
            yield Metric(
                name="calico_cni_requests_total",
                help="CNI requests answered",
                kind="counter",
                value=number,
                labels=labels,
            )
            yield Metric(
                name="calico_cni_seconds_total",
                help="Seconds spent on CNI requests",
                kind="counter",
                value=seconds,
                labels=labels,
            )

    # ── one verb ──

    def _serve(self, inv: Invocation, fds: list[int]) -> Answer | None:
        verbs = self._verbs
        if inv.command == "VERSION":
            return {"cniVersion": inv.conf.version, "supportedVersions": list(VERSIONS)}
        if inv.command == "STATUS":
            if not self._in_sync.is_set():
                raise CniError(errors.NOT_AVAILABLE, "the node agent has not read the datastore yet")
            verbs.status(inv)
            return None
        if inv.command == "GC":
            verbs.collect(inv, self._guarded)
            return None
        with self._locks.holding(verbs.attachment(inv).endpoint_name), _namespace(inv, fds) as netns_fd:
            if inv.command == "DEL":
                verbs.delete(inv, netns_fd)
                return None
            if netns_fd is None:
                raise CniError(errors.INVALID_NETNS, f"CNI_NETNS {inv.netns} cannot be opened")
            if inv.command == "CHECK":
                verbs.check(inv, netns_fd)
                return None
            if not self._in_sync.is_set():
                raise CniError(errors.TRY_AGAIN, "try again later: the node agent has not read the datastore yet")
            return verbs.add(inv, netns_fd)

    def _serve_ipam(self, inv: Invocation) -> Answer | None:
        """The executable under its other name: another plugin makes the interface."""
        if inv.conf.ipam.type != IPAM_PROGRAM:
            raise CniError(errors.INVALID_CONFIG, f"{IPAM_PROGRAM} was run for ipam.type {inv.conf.ipam.type!r}")
        with self._locks.holding(self._verbs.attachment(inv).endpoint_name):
            if inv.command == "ADD":
                return self._verbs.assign(inv)
            if inv.command == "DEL":
                self._verbs.release(inv)
            else:
                self._verbs.check_held(inv)
            return None

    def _guarded(self, attachment: Attachment, step: Callable[[], None]) -> None:
        with self._locks.holding(attachment.endpoint_name):
            step()


def _variables(given: Any) -> dict[str, str]:
    if not isinstance(given, dict) or len(given) > MAX_ENVIRONMENT:
        raise CniError(errors.INVALID_ENVIRONMENT, "the request has no usable environment")
    for key, value in given.items():
        if not isinstance(value, str) or not _sound(key + value):
            raise CniError(errors.INVALID_ENVIRONMENT, f"{key!r} in the environment is not text")
    return dict(given)


def _sound(text: str) -> bool:
    """Can it be passed to the kernel and to programs?"""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False


@contextlib.contextmanager
def _namespace(inv: Invocation, fds: list[int]) -> Iterator[int | None]:
    """The workload's namespace: as the executable opened it (the agent may see other mounts), else by its path.
    None when it is gone."""
    if fds:
        yield fds[0]
        return
    try:
        opened = os.open(inv.netns, os.O_RDONLY | os.O_CLOEXEC) if inv.netns else None
    except (OSError, ValueError):
        opened = None
    try:
        yield opened
    finally:
        if opened is not None:
            os.close(opened)
