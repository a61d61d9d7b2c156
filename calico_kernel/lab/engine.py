"""One lab, from inside its bubble: wires, hosts, agents, workloads, and the questions that are asked of them.

In:    a Topology.   Out: a running ``Lab``, to calico_kernel.lab.resident.
Owns:  everything in the bubble.

Order: ``prepare`` (wires, hosts), ``populate`` (datastore contents, agents, workloads, routes of the routers).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from calico_kernel.config import load as load_config
from calico_kernel.errors import CalicoError, ConfigError
from calico_kernel.lab import cluster, expectation, hosts, network, seeds, servers, workloads
from calico_kernel.lab.network import LabError
from calico_kernel.lab.prober import Place, Probe, Prober
from calico_kernel.lab.topology import CORE, Topology, Workload, router_name
from calico_kernel.policy.verdict import Verdict

READY_DEADLINE_S = 60.0
PARALLEL_ADDS = 4

Say = Callable[[str], None]


class Lab:
    def __init__(self, topology: Topology, *, say: Say = lambda _text: None) -> None:
        self.topology = topology
        self.attached: dict[str, workloads.Attached] = {}
        self.prober: Prober | None = None
        self.timings_ms: dict[str, float] = {}
        self._say = say
        self._hosts: dict[str, hosts.LabHost] = {}
        self._server: hosts.LabHost | None = None
        self._cluster = cluster.Cluster(topology) if topology.datastore == "kubernetes" else None
        self._locks: dict[str, threading.Lock] = {}
        self._blocks: list[tuple[str, str]] = []
        self._datastore: Any = None

    # ── building ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def prepare(self) -> None:
        """Wires and hosts. Raises CalicoError; what stands then goes with the bubble. Call before any thread is
        started, from the thread that lives as long as the lab: it forks."""
        with self._timed("network"):
            network.check_programs(self.topology.datastore)
            count = len(self.topology.nodes)
            self._say(f"network: {count} node{'s' * (count != 1)} in {len(self.topology.racks)} racks")
            hosts.share_namespaces()
            servers.prepare(self.topology)
            network.build(self.topology)
            for host in self.topology.nodes:
                self._hosts[host.name] = hosts.LabHost(host, self.topology)
                self._locks[host.name] = threading.Lock()
            if self.topology.server is not None:
                self._server = hosts.LabHost(self.topology.server, self.topology)
                self._locks[self.topology.server.name] = threading.Lock()
        places = [
            Place(host.name, host.netns, {4: host.ipv4, 6: host.ipv6})
            for host in (*self.topology.nodes, *self.topology.outside)
        ]
        self.prober = Prober(places)

    def populate(self) -> None:
        """Datastore contents, agents, workloads. Raises CalicoError."""
        self._start_agents()
        self._attach_all()

    @contextlib.contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.timings_ms[step] = round((time.monotonic() - started) * 1000, 1)

    def _start_agents(self) -> None:
        with self._timed("datastore"):
            if self._server is not None:
                self._say(f"datastore: {self._server.host.name}")
                self.start_agent(self._server.host.name)
                self.wait_ready(self._server.host.name)
            self._say("datastore: pools, namespaces, service accounts")
            if self._cluster is not None:
                self._cluster.found(_read(self.calicoctl(["crds"]), "calicoctl crds"))
            self.apply(json.dumps(_listing(seeds.documents(self.topology))))
        with self._timed("agents"):
            self._say(f"agents: {', '.join(self._hosts)}")
            for name in self._hosts:
                self.start_agent(name)
            workloads.install(next(iter(self._hosts.values())), versions=self._versions())
            for name in self._hosts:
                self.wait_ready(name)

    def _attach_all(self) -> None:
        with self._timed("workloads"):
            self._say(f"workloads: {len(self.topology.workloads)} CNI requests")
            with ThreadPoolExecutor(PARALLEL_ADDS) as pool:
                list(pool.map(self._attach, self.topology.workloads))
            self.refresh_routes()

    def _attach(self, workload: Workload) -> None:
        if self._cluster is not None:
            self._cluster.bind(workload)
        done = workloads.add(self.host(workload.node), workload)
        if self._cluster is not None:
            self._cluster.run(workload, done.addresses.values())
        self.attached[workload.id] = done
        assert self.prober is not None
        self.prober.add(Place(workload.id, workload.netns, done.addresses))

    def _versions(self) -> list[int]:
        return sorted({6 if ":" in pool.cidr else 4 for pool in self.topology.pools})

    # ── changing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def add_workload(self, workload: Workload) -> workloads.Attached:
        """Attach one more. Raises LabError."""
        self.topology.node(workload.node)
        if workload.id in self.attached:
            raise LabError(what=f"workload {workload.id} exists", todo="choose another name or remove it first")
        self._attach(workload)
        self.topology = _with_workloads(self.topology, (*self.topology.workloads, workload))
        self.refresh_routes()
        return self.attached[workload.id]

    def remove_workload(self, name: str) -> None:
        """Detach by a CNI DEL. Raises LabError."""
        workload = self._workload(name)
        if self.prober is not None:
            self.prober.remove(workload.id)
        if self._cluster is not None:
            self._cluster.end(workload)
        workloads.remove(self.host(workload.node), workload)
        if self._cluster is not None:
            self._cluster.forget(workload)
        self.attached.pop(workload.id, None)
        left = tuple(each for each in self.topology.workloads if each.id != workload.id)
        self.topology = _with_workloads(self.topology, left)

    def request(self, command: str, workload: Workload) -> tuple[int, str]:
        """One CNI request, not repeated and not recorded: (exit status, standard output)."""
        done = workloads.request(self.host(workload.node), command, workload)
        return done.returncode, done.stdout

    def refresh_routes(self) -> None:
        """Tell the routers which node holds which block, as a routing protocol would."""
        from calico_kernel.model.keys import BlockAffinityKey, BlockAffinityQuery

        listing = _patiently(lambda: self.datastore().list([BlockAffinityQuery(type="host")]))
        blocks = [
            (record.key.cidr, record.key.owner)
            for record in listing.records
            if isinstance(record.key, BlockAffinityKey)
        ]
        network.set_block_routes(self.topology, blocks, self._blocks)
        self._blocks = blocks

    def datastore(self) -> Any:
        """The lab's own datastore, opened through the plugin that the nodes use."""
        if self._datastore is None:
            from calico_kernel.compose import compose

            name = next(iter(self._hosts))
            path = f"{hosts.LAB}/lab.yaml"
            with open(path, "w") as file:
                json.dump(hosts.node_config(self.host(name).host, self.topology), file)
            self._datastore = compose(load_config(path)).open_datastore()
        return self._datastore

    # ── agents, and the datastore's server by its own name ────────────────────────────────────────────────────────────

    def host(self, name: str) -> hosts.LabHost:
        if self._server is not None and name == self._server.host.name:
            return self._server
        self.topology.node(name)
        return self._hosts[name]

    def start_agent(self, name: str) -> int:
        with self._locks[name]:
            return self.host(name).start()

    def stop_agent(self, name: str, *, signal_number: int = signal.SIGTERM) -> None:
        with self._locks[name]:
            self.host(name).stop(signal_number=signal_number)

    def kill_agent(self, name: str) -> None:
        with self._locks[name]:
            self.host(name).kill()

    def agent(self, name: str) -> Mapping[str, Any]:
        with self._locks[name]:
            return self.host(name).status()

    def readiness(self, name: str) -> tuple[int, str]:
        """The program's own answer: (HTTP status, text); status 0 when it gives none."""
        try:
            return self.host(name).readiness()
        except OSError as exc:
            return 0, f"it does not answer: {exc}"

    def wait_ready(self, name: str, *, deadline_s: float = READY_DEADLINE_S) -> None:
        """Until the program says that it is ready. Raises LabError with its last words and the end of its log."""
        host = self.host(name)
        deadline = time.monotonic() + deadline_s
        while (answer := self.readiness(name))[0] != http.client.OK and time.monotonic() < deadline:
            time.sleep(0.05)
        if answer[0] == http.client.OK:
            return
        raise LabError(
            what=f"{name} is not ready after {deadline_s:g} s: {answer[1].strip()}\n{tail(host.log)}",
            todo=f"read its log: calico lab logs {name}",
        )

    # ── asking ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def apply(self, text: str) -> str:
        """``calicoctl apply`` on the first node; a cluster's own objects go to its API server. Raises LabError with
        what was said."""
        text = self._through_cluster(text, lambda kubernetes, document: kubernetes.apply(document))
        return self.calicoctl(["apply", "-f", "-"], text) if text else ""

    def delete(self, text: str) -> str:
        """Take away what ``apply`` brought, in the order given; what is not there is passed over."""
        text = self._through_cluster(text, lambda kubernetes, document: kubernetes.remove(document))
        return self.calicoctl(["delete", "--skip-not-exists", "-f", "-"], text) if text else ""

    def _through_cluster(self, text: str, do: Callable[[cluster.Cluster, cluster.Document], None]) -> str:
        """What is left for calicoctl."""
        if self._cluster is None:
            return text
        rest = []
        for document in _read(text, "manifest"):
            if cluster.is_calicos(document):
                rest.append(document)
            else:
                do(self._cluster, document)
        return json.dumps(_listing(rest)) if rest else ""

    def unsuited(self, text: str) -> str:
        """Why a manifest cannot be said on this lab's datastore; "" when it can."""
        return "" if self._cluster is None else cluster.unsuited(_read(text, "manifest"))

    def calicoctl(self, arguments: Sequence[str], text: str = "") -> str:
        done = self.run_on(next(iter(self._hosts)), [*hosts.program("calicoctl"), *arguments], text=text)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip())[-2000:]
            raise LabError(what=f"calicoctl {' '.join(arguments)} failed: {said}", todo="correct what it names")
        return done.stdout

    def command_in(self, place: str, argv: Sequence[str]) -> list[str]:
        """The command line that runs ``argv`` in a node, workload, router or outside host, for use in this bubble."""
        if place in self._hosts or (self._server is not None and place == self._server.host.name):
            return self.host(place).inside(argv)
        workload = self.topology.workload(place)
        if workload is not None:
            return self.host(workload.node).inside(argv, network=workload.netns)
        for host in self.topology.outside:
            if host.name == place:
                return hosts.network_line(host.netns, argv)
        if place in (CORE, *(router_name(rack) for rack in self.topology.racks)):
            return hosts.network_line(place, argv)
        raise ConfigError(what=f"the lab has no {place}", todo=f"name one of: {', '.join(self.topology.place_names())}")

    def run_on(self, place: str, argv: Sequence[str], *, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command_in(place, argv),
            input=text,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **hosts.host_environment(self.topology)},
        )

    def probe(
        self, probes: Sequence[Probe], *, expected: Sequence[bool] | None, timeout_s: float, patience_s: float
    ) -> list[bool]:
        assert self.prober is not None
        return self.prober.measure(probes, expected=expected, timeout_s=timeout_s, patience_s=patience_s)

    def expect(self, probes: Sequence[Probe], *, manifest: str = "") -> list[Verdict | None]:
        """What the reference evaluator says of what the datastore holds, or would hold with ``manifest`` applied."""
        resources = self._resources(expectation.KINDS)
        if manifest:
            resources = expectation.merged(resources, expectation.read(manifest))
        return expectation.judge(probes, self._addresses(), resources)

    def explain(self, probe: Probe) -> str:
        """What ``calicoctl explain`` says of a probe."""
        ends = [self._addresses().get(place, {}).get(probe.version, place) for place in (probe.source, probe.target)]
        protocol = probe.protocol.upper() if (probe.protocol, probe.version) != ("icmp", 6) else "ICMPv6"
        return self.calicoctl(["explain", *ends, "--protocol", protocol, "--port", str(probe.port)])

    def _resources(self, kinds: Sequence[str]) -> list[Any]:
        from calico_kernel.model.keys import ResourceQuery
        from calico_kernel.model.meta import Resource

        listing = self.datastore().list([ResourceQuery(kind=kind) for kind in kinds])
        return [record.value for record in listing.records if isinstance(record.value, Resource)]

    def _addresses(self) -> dict[str, Mapping[int, str]]:
        fixed = {host.name: {4: host.ipv4, 6: host.ipv6} for host in (*self.topology.nodes, *self.topology.outside)}
        return {**fixed, **{name: each.addresses for name, each in self.attached.items()}}

    def change_and_follow(
        self,
        steps: Sequence[tuple[str, str]],
        probes: Sequence[Probe],
        expected: Sequence[bool],
        deadline_s: float,
    ) -> dict[str, Any]:
        """Apply and delete (("apply" or "delete", manifest) pairs) while probes of new flows go on; say when all had
        changed.

        enforced_ms is counted from the moment the datastore had acknowledged the last write, as a watcher of it sees.
        Raises LabError with what was said.
        """
        assert self.prober is not None
        acknowledged: list[float] = []
        failed: list[CalicoError] = []
        finished = threading.Event()
        watch = self._watch_policy()

        def observe() -> None:
            while not finished.is_set():
                if watch.next(0.1):
                    acknowledged.append(time.monotonic())
            while watch.next(0.0):
                acknowledged.append(time.monotonic())

        def change() -> None:
            try:
                for verb, text in steps:
                    {"apply": self.apply, "delete": self.delete}[verb](text)
            except CalicoError as exc:
                failed.append(exc)
            finally:
                finished.set()

        observer, changer = threading.Thread(target=observe), threading.Thread(target=change)
        started = time.monotonic()
        observer.start()
        changer.start()
        followed = self.prober.follow(probes, expected, applied=finished.is_set, deadline_s=deadline_s)
        changer.join()
        done = time.monotonic()
        observer.join()
        watch.close()
        if failed:
            raise failed[0]
        written = acknowledged[-1] if acknowledged else done
        changed = followed.changed_at if followed.changed_at is not None else written
        return {
            "agreed": followed.agreed,
            "rounds": followed.rounds,
            "apply_ms": round((written - started) * 1000, 1) if steps else 0.0,
            "enforced_ms": round(max(0.0, changed - written) * 1000, 1) if probes else None,
        }

    def _watch_policy(self) -> Any:
        from calico_kernel.model.keys import ResourceQuery

        queries = [ResourceQuery(kind=kind) for kind in expectation.POLICY_KINDS]
        return self.datastore().watch(queries, revision=self.datastore().list(queries).revision)

    def state(self) -> dict[str, Any]:
        """What a client may want to know; JSON-able."""
        return {
            "topology": json.loads(encode_topology(self.topology)),
            "addresses": {
                name: {str(version): address for version, address in addresses.items()}
                for name, addresses in self._addresses().items()
            },
            "interfaces": {name: each.host_interface for name, each in self.attached.items()},
            "add_ms": {name: round(each.add_ms, 1) for name, each in self.attached.items()},
            "hosts": {name: host.pid for name, host in self._hosts.items()},
            "timings_ms": self.timings_ms,
        }

    def _workload(self, name: str) -> Workload:
        found = self.topology.workload(name)
        if found is None:
            known = ", ".join(each.id for each in self.topology.workloads)
            raise ConfigError(what=f"the lab has no workload {name}", todo=f"name one of: {known}")
        return found


def _patiently(read: Callable[[], Any]) -> Any:
    """Repeated while the datastore is away."""
    deadline = time.monotonic() + READY_DEADLINE_S
    while True:
        try:
            return read()
        except CalicoError as exc:
            if not exc.retryable or time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def tail(path: str, lines: int = 15) -> str:
    try:
        with open(path, errors="replace") as file:
            return "".join(file.readlines()[-lines:])
    except OSError:
        return ""


def encode_topology(topology: Topology) -> bytes:
    from calico_kernel.lab.topology import encode

    return encode(topology)


def _with_workloads(topology: Topology, members: tuple[Workload, ...]) -> Topology:
    import msgspec

    return msgspec.structs.replace(topology, workloads=members)


def _read(text: str, source: str) -> list[dict[str, Any]]:
    from calico_kernel.cli.files import documents

    return documents(text, source)


def _listing(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "List", "items": list(documents)}
