"""One real node for tests and measurements: a datastore filled in bulk, workloads, and the agent as its own process.

Lives in the network namespace of the calling thread, inside a bubble. The agent is started as an operator would start
it; the caller writes to the datastore and sends packets.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from calico_kernel.compose import compose
from calico_kernel.config import load
from calico_kernel.hookspecs import Datastore
from calico_kernel.host import netns, sysctl
from calico_kernel.host.netlink import (
    InterfaceAddress,
    Neighbour,
    Netlink,
    RouteEntry,
    add_address,
    add_route,
    add_veth,
    replace_neighbour,
    set_link,
)
from calico_kernel.host.nlwire import RT_SCOPE_LINK
from calico_kernel.model import names
from calico_kernel.model.endpoints import Node, NodeBGPSpec, NodeSpec, WorkloadEndpoint, WorkloadEndpointSpec
from calico_kernel.model.keys import Key, ResourceKey
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.network import IPPool, IPPoolSpec
from calico_kernel.model.policy import (
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    Profile,
    ProfileSpec,
    Rule,
    Tier,
    TierSpec,
)
from calico_kernel.model.records import Value

NODE = "node"
GATEWAY = "169.254.1.1"
HOST_MAC = "ee:ee:ee:ee:ee:ee"
READY_S = 120.0


_OWNER = os.getpid()


def name_of(number: int) -> str:
    """The namespace of a workload. Processes that run tests side by side share /run/netns."""
    return f"w{number}.{_OWNER}"


def address_of(number: int) -> str:
    """Local workloads live in 10.65.0.0/16, remote ones in 10.128.0.0/9."""
    return f"10.65.{number // 250}.{number % 250 + 1}"


def interface_of(number: int) -> str:
    """As every CNI plugin of Calico names it for a Pod."""
    return names.pod_interface_name("default", f"w{number}")


def remote_address_of(number: int) -> str:
    return f"10.{128 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}"


def endpoint(node: str, pod: str, address: str, interface: str, labels: dict[str, str]) -> tuple[Key, Value]:
    name = f"{node}-k8s-{pod}-eth0"
    labels = {**labels, "projectcalico.org/namespace": "default", "projectcalico.org/orchestrator": "k8s"}
    return ResourceKey("WorkloadEndpoint", "default", name), WorkloadEndpoint(
        metadata=ObjectMeta(name=name, namespace="default", labels=labels),
        spec=WorkloadEndpointSpec(
            orchestrator="k8s",
            node=node,
            pod=pod,
            endpoint="eth0",
            ip_networks=(f"{address}/32",),
            profiles=("kns.default",),
            interface_name=interface,
        ),
    )


def policy(name: str, **spec: Any) -> tuple[Key, Value]:
    return ResourceKey("GlobalNetworkPolicy", "", name), GlobalNetworkPolicy(
        metadata=ObjectMeta(name=name), spec=GlobalNetworkPolicySpec(tier="default", **spec)
    )


def base_records() -> list[tuple[Key, Value]]:
    allow = Rule(action="Allow")
    return [
        (
            ResourceKey("Tier", "", "default"),
            Tier(metadata=ObjectMeta(name="default"), spec=TierSpec(order=1_000_000.0, default_action="Deny")),
        ),
        (
            ResourceKey("Node", "", NODE),
            Node(metadata=ObjectMeta(name=NODE), spec=NodeSpec(bgp=NodeBGPSpec(ipv4_address="172.31.0.1/24"))),
        ),
        (
            ResourceKey("Profile", "", "kns.default"),
            Profile(
                metadata=ObjectMeta(name="kns.default"),
                spec=ProfileSpec(
                    ingress=(allow,), egress=(allow,), labels_to_apply={"pcns.projectcalico.org/name": "default"}
                ),
            ),
        ),
        (
            ResourceKey("IPPool", "", "local"),
            IPPool(
                metadata=ObjectMeta(name="local"),
                spec=IPPoolSpec(cidr="10.65.0.0/16", block_size=26, vxlan_mode="Never", node_selector="all()"),
            ),
        ),
    ]


def policies(count: int) -> Iterator[tuple[Key, Value]]:
    """``count`` policies that all select every endpoint: each allows TCP 80 from one group of remote endpoints; the
    last in order allows everything, so that what nobody decides passes."""
    for number in range(count - 1):
        rule = Rule(
            action="Allow",
            protocol="TCP",
            source=EntityRule(selector=f"group == 'g{number}'"),
            destination=EntityRule(ports=(80,)),
        )
        yield policy(
            f"p{number:05d}",
            order=1000.0 + number,
            selector="all()",
            types=("Ingress", "Egress"),
            ingress=(rule,),
            egress=(rule,),
        )
    allow = Rule(action="Allow")
    yield policy(
        "zz-allow", order=1e6, selector="all()", types=("Ingress", "Egress"), ingress=(allow,), egress=(allow,)
    )


def remote_endpoints(count: int, groups: int) -> Iterator[tuple[Key, Value]]:
    for number in range(count):
        labels = {"group": f"g{number % max(groups, 1)}", "app": f"app-{number % 500}"}
        yield endpoint(f"node-{number % 500}", f"r{number}", remote_address_of(number), "caliremote", labels)


Writer = Callable[[Datastore, Iterable[tuple[Key, Value]]], None]


def write_each(store: Datastore, records: Iterable[tuple[Key, Value]]) -> None:
    for key, value in records:
        store.create(key, value)


class NodeRig:
    """``with NodeRig(...) as rig``: the datastore is open and filled, the workloads stand, the agent is not started.

    datastore:  as it stands in the config file, of a server that runs; default: SQLite in a file of the rig's own.
    write:      fills it, for a caller who knows a faster way than one record after the other.
    """

    def __init__(
        self,
        *,
        workloads: int,
        policy_count: int,
        remote: int = 0,
        datastore: Mapping[str, object] | None = None,
        write: Writer = write_each,
        progress: bool = False,
    ) -> None:
        self._counts = (workloads, policy_count, remote)
        self._write = write
        self._progress = progress
        self._directory = Path(tempfile.mkdtemp(prefix="calico-node-"))
        self.agent: subprocess.Popen[bytes] | None = None
        self.config = self._directory / "calico.yaml"
        self.log = self._directory / "agent.log"
        self.database = self._directory / "calico.db"
        if datastore is None:
            datastore = {"plugin": "sqlite", "path": str(self.database), "durability": "normal"}
        self.config.write_text(
            f"node: {NODE}\n"
            f"datastore: {json.dumps(datastore)}\n"
            "ipam: blocks\ndataplane: iptables\nencapsulation: [vxlan]\nextensions: [cni]\n"
            f"agent: {{run_dir: {self._directory}/run, state_dir: {self._directory}/state, log_format: text}}\n"
        )
        self.store: Datastore = compose(load(str(self.config))).open_datastore()

    def __enter__(self) -> NodeRig:
        workloads, policy_count, remote = self._counts
        self._say(f"writing {remote} remote endpoints and {policy_count} policies")
        for records in (base_records(), policies(policy_count), remote_endpoints(remote, policy_count)):
            self._write(self.store, records)
        self._say(f"making {workloads} workloads")
        sysctl.write("net.ipv4.ip_forward", "1")
        for number in range(workloads):
            self._workload(number)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_agent()
        self.store.close()
        for number in range(self._counts[0]):
            netns.delete(name_of(number))
        shutil.rmtree(self._directory, ignore_errors=True)

    def _say(self, text: str) -> None:
        if self._progress:
            sys.stderr.write(f"{text}\n")

    def _workload(self, number: int) -> None:
        address, host = address_of(number), interface_of(number)
        fd = os.open(netns.create(name_of(number)), os.O_RDONLY)
        try:
            with Netlink() as here, Netlink(fd) as inside:
                here.run(add_veth(host, "eth0", peer_netns_fd=fd, mac=HOST_MAC, up=True))
                index = next(link.index for link in inside.links() if link.name == "eth0")
                for request in (
                    set_link(index, up=True),
                    add_address(InterfaceAddress(index, address, 32)),
                    add_route(RouteEntry(prefix=f"{GATEWAY}/32", ifindex=index, scope=RT_SCOPE_LINK)),
                    replace_neighbour(Neighbour(index, GATEWAY, HOST_MAC)),
                    add_route(RouteEntry(prefix="0.0.0.0/0", ifindex=index, gateway=GATEWAY)),
                ):
                    inside.run(request)
        finally:
            os.close(fd)
        local = endpoint(NODE, f"w{number}", address, host, {"app": "local", "number": str(number)})
        self._write(self.store, [local])

    # ── the agent ─────────────────────────────────────────────────────────────────────────────────────────────────

    def reopen_store(self) -> None:
        """After somebody replaced the file."""
        self.store.close()
        self.store = compose(load(str(self.config))).open_datastore()

    def start_agent(self, environment: Mapping[str, str] | None = None) -> float:
        """Start it and wait until it is ready; seconds from process start to readiness."""
        started = time.monotonic()
        with self.log.open("ab") as log:
            self.agent = subprocess.Popen(
                [sys.executable, "-m", "calico_kernel.cli.calico", "node", "--config", str(self.config)],
                stderr=log,
                env={**os.environ, **(environment or {})},
            )
        reason = "no answer"
        while time.monotonic() - started < READY_S:
            if self.agent.poll() is not None:
                raise SystemExit(f"the agent ended with {self.agent.returncode}:\n{self.log.read_text()}")
            try:
                urllib.request.urlopen("http://127.0.0.1:9099/readiness", timeout=5).close()
                return time.monotonic() - started
            except urllib.error.HTTPError as exc:
                reason = exc.read().decode()
            except OSError as exc:
                reason = str(exc)
            time.sleep(0.02)
        raise SystemExit(f"the agent is not ready after {READY_S:.0f} s: {reason}\n{self.log.read_text()[-4000:]}")

    def stop_agent(self) -> None:
        if self.agent is not None and self.agent.poll() is None:
            self.agent.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.agent.wait(20)
            self.agent.kill()
            self.agent.wait()
        self.agent = None

    def agent_rss_mib(self, *, peak: bool = False) -> float:
        assert self.agent is not None
        field = "VmHWM" if peak else "VmRSS"
        for line in Path(f"/proc/{self.agent.pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
        raise SystemExit("the agent is gone")

    def agent_cpu_seconds(self) -> float:
        assert self.agent is not None
        fields = Path(f"/proc/{self.agent.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
