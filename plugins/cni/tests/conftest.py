"""A node for the tests of this plugin: the agent's real socket, a datastore in memory, the real executable."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

import calico_cni
from calico_cni.service import CniService
from calico_cni.settings import CniSettings
from calico_kernel.agent.local_socket import LocalSocket
from calico_kernel.hookspecs import Services
from calico_kernel.host import bubble, netns
from calico_kernel.model.ipam import (
    Assignment,
    AssignRequest,
)
from calico_kernel.testing.ipam import add_pool
from calico_kernel.testing.memory_datastore import MemoryDatastore
from calico_kernel.testing.memory_ipam import MemoryIpam

SHIM = Path(calico_cni.__file__).parent / "shim.py"
"""Run as it is shipped."""


class RecordingIpam(MemoryIpam):
    """Remembers what the plugin asked for."""

    def __init__(self, store: MemoryDatastore) -> None:
        super().__init__(store)
        self.requests: list[AssignRequest] = []

    def assign(self, request: AssignRequest) -> Assignment:
        self.requests.append(request)
        return super().assign(request)

    def handles(self) -> set[str]:
        """Who holds addresses now."""
        return {held.handle for held in self._held.values()}


@attrs.define
class Answered:
    """What the executable said. ``said`` is {} when it printed nothing."""

    status: int
    said: dict[str, Any]

    @property
    def addresses(self) -> list[str]:
        return [ip["address"].split("/")[0] for ip in self.said["ips"]]


@attrs.define
class CniNode:
    """The node that the test's thread lives on."""

    store: MemoryDatastore
    ipam: RecordingIpam
    service: CniService
    socket_path: str
    state_dir: Path
    waited: list[tuple[Any, str, float]]
    programmed: bool = True
    await_programmed: Callable[[Any, str, float], bool] | None = None
    admit: Callable[[Any], Any] = attrs.field(default=lambda endpoint: endpoint)

    def conf(self, version: str = "1.0.0", **more: Any) -> dict[str, Any]:
        return {
            "cniVersion": version,
            "name": "net1",
            "type": "calico",
            "agent_socket": self.socket_path,
            "ipam": {"type": "calico-ipam"},
            **({} if self.programmed else {"policy_setup_timeout_seconds": 0.2}),
            **more,
        }

    def run(
        self,
        command: str,
        container: str = "",
        namespace: str = "",
        *,
        conf: Mapping[str, Any] | str | None = None,
        interface: str = "eth0",
        args: str = "",
        path: str = "/usr/lib/cni:/opt/cni/bin",
        **more: str,
    ) -> Answered:
        """Run the executable as a runtime does."""
        environment = {"CNI_COMMAND": command, "CNI_PATH": path, **more}
        if container:
            environment |= {"CNI_CONTAINERID": container, "CNI_IFNAME": interface}
        if namespace:
            environment["CNI_NETNS"] = namespace if "/" in namespace else netns.path_of(namespace)
        if args:
            environment["CNI_ARGS"] = args
        given = conf if isinstance(conf, str) else json.dumps(self.conf() if conf is None else conf)
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(SHIM)],
            input=given.encode(),
            env=environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.stderr == b"", done.stderr.decode()
        return Answered(done.returncode, json.loads(done.stdout) if done.stdout else {})

    def add(self, container: str, namespace: str, **more: Any) -> Answered:
        answer = self.run("ADD", container, namespace, **more)
        assert answer.status == 0, answer.said
        return answer

    def endpoints(self) -> dict[str, Any]:
        from calico_kernel.model.keys import ResourceQuery

        records = self.store.list([ResourceQuery("WorkloadEndpoint")]).records
        return {record.value.metadata.name: record.value for record in records}

    def links(self) -> set[str]:
        from calico_kernel.host.netlink import Netlink

        with Netlink() as nl:
            return {link.name for link in nl.links()} - {"lo"}

    def nothing_left(self) -> bool:
        return not (self.endpoints() or self.links() or self.ipam.handles())


@pytest.fixture
def settings() -> CniSettings:
    """Of the node's service; a test may parametrize it."""
    return CniSettings()


@pytest.fixture
def store() -> MemoryDatastore:
    """Of the node; a test may put another in its place."""
    return MemoryDatastore()


@pytest.fixture
def node(netns: str, tmp_path: Path, settings: CniSettings, store: MemoryDatastore) -> Iterator[CniNode]:
    """A node in a namespace of its own, its CNI service answering on a socket."""
    add_pool(store, "four", "10.65.0.0/24")
    add_pool(store, "six", "fd00:65::/120")
    ipam = RecordingIpam(store)
    made: list[CniNode] = []

    def await_programmed(endpoint: Any, revision: str, timeout_s: float) -> bool:
        if made[0].await_programmed is not None:
            return made[0].await_programmed(endpoint, revision, timeout_s)
        made[0].waited.append((endpoint, revision, timeout_s))
        if not made[0].programmed:
            time.sleep(timeout_s)
        return made[0].programmed

    def admit(endpoint: Any) -> Any:
        return made[0].admit(endpoint)

    services = Services(
        node="node-1",
        log=logging.getLogger("calico.test.cni"),
        run_dir=str(tmp_path),
        state_dir=str(tmp_path),
        datastore=store,
        ipam=ipam,
        await_programmed=await_programmed,
        admit_endpoint=admit,
    )
    service = CniService(settings, services)
    path = str(tmp_path / "agent.sock")
    made.append(CniNode(store, ipam, service, path, tmp_path, []))
    local = LocalSocket(path, {"cni": service})
    service.start()
    local.start()
    try:
        yield made[0]
    finally:
        local.close()


@pytest.fixture
def workload(netns_name: str) -> Iterator[Callable[[], str]]:
    """Make namespaces for containers; they go with the test."""
    made: list[str] = []

    def make() -> str:
        name = f"{netns_name}w{len(made)}"
        netns.create(name)
        made.append(name)
        with netns.entered(name):
            bubble.loopback_up()
        return name

    yield make
    for name in made:
        netns.delete(name)


@pytest.fixture
def reaches() -> Callable[[str, str, str], bool]:
    """Does a datagram from one namespace arrive at an address that another namespace holds?"""

    def reaches(source: str, target: str, address: str) -> bool:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with netns.entered(target):
            receiver = socket.socket(family, socket.SOCK_DGRAM)
        with netns.entered(source):
            sender = socket.socket(family, socket.SOCK_DGRAM)
        with receiver, sender:
            receiver.bind((address, 5000))
            receiver.settimeout(2)
            sender.sendto(b"hello", (address, 5000))
            try:
                return receiver.recv(10) == b"hello"
            except TimeoutError:
                return False

    return reaches
