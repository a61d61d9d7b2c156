"""Calico Kernel on a node of the test cluster, as an operator installs it: configuration, CNI files, the agent."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import yaml

from calico_kernel.host import netns
from calico_kernel.host.netlink import Netlink
from tests.e2e import figures, world
from tests.e2e.cluster import API_PORT, Cluster
from tests.e2e.node import ClusterNode

PROGRAMS = Path(sys.executable).parent
MANIFESTS = Path(__file__).parents[2] / "install/kubernetes/overlays/kdd"
NAMESPACE, AGENT = "calico-system", "calico-node"
"""As the manifests call them: the account, its role and the DaemonSet have the same name."""
SECRETS = "/run/secrets/kubernetes.io/serviceaccount"


@attrs.frozen
class Shipped:
    """What ``install/`` says. Its image cannot be built here, so what the DaemonSet's containers run, runs as processes
    of the nodes: with their arguments and variables, the ConfigMap's files, and the service account's token."""

    objects: Sequence[Mapping[str, Any]]

    @classmethod
    def read(cls, cluster: Cluster) -> Shipped:
        return cls(list(yaml.safe_load_all(cluster.kubectl("kustomize", str(MANIFESTS)))))

    def applied(self) -> str:
        return yaml.safe_dump_all(one for one in self.objects if one["kind"] != "DaemonSet")

    def files(self) -> Mapping[str, str]:
        """Of the ConfigMap."""
        data: Mapping[str, str] = next(one for one in self.objects if one["kind"] == "ConfigMap")["data"]
        return data

    def arguments(self, containers: str) -> Sequence[str]:
        """Of the one container in ``containers`` or ``initContainers``."""
        pod = next(one for one in self.objects if one["kind"] == "DaemonSet")["spec"]["template"]["spec"]
        (container,) = pod[containers]
        found: Sequence[str] = container["args"]
        return found


@attrs.frozen
class Installation:
    """Ours on one node."""

    node: ClusterNode
    shipped: Shipped

    def install(self, token: str, certificate: str) -> None:
        """Configuration and CNI files; the node becomes Ready for Kubernetes."""
        files = self.shipped.files()
        self.node.write("/etc/calico/calico.yaml", files["calico.yaml"])
        self.node.write(f"{SECRETS}/token", token)
        self.node.write(f"{SECRETS}/ca.crt", certificate)
        self.node.write(f"{SECRETS}/namespace", NAMESPACE)
        conflist = files["10-calico.conflist"]
        program = str(PROGRAMS / "calico")
        self.node.run("env", f"CNI_NETWORK_CONFIG={conflist}", program, *self.shipped.arguments("initContainers"))

    def start(self) -> None:
        self.node.spawn(
            AGENT,
            *(str(PROGRAMS / "calico"), *self.shipped.arguments("containers")),
            CALICO_NODE=self.node.name,
            KUBERNETES_SERVICE_HOST=self.node.gateway,
            KUBERNETES_SERVICE_PORT=str(API_PORT),
        )

    def kill(self) -> None:
        """As a crash does."""
        self.node.kill(AGENT)

    def running(self) -> bool:
        return AGENT in self.node.processes

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Until the agent enforces what it should. What it says on the way is in the error."""
        deadline = time.monotonic() + timeout_s
        while (said := self.readiness()) != "":
            process = self.node.processes[AGENT]
            ended = "" if process.poll() is None else f", ended with {process.returncode}"
            assert not ended and time.monotonic() < deadline, (
                f"{self.node.name}: the agent is not ready{ended}: {said}\n{self.node.log(AGENT)[-3000:]}"
            )
            time.sleep(0.1)

    def readiness(self) -> str:
        """Why the agent is not ready; "" when it is."""

        def ask() -> str:
            try:
                with urllib.request.urlopen("http://127.0.0.1:9099/readiness", timeout=2) as answer:
                    answer.read()
            except urllib.error.HTTPError as exc:
                return exc.read().decode() or str(exc)
            except OSError as exc:
                return str(exc)
            return ""

        return netns.run_in(self.node.name, ask)

    def cpu_s(self) -> float:
        """CPU time of the agent and of the programs that it ran."""
        fields = Path(f"/proc/{self.node.processes[AGENT].pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def tunnel_entries(self) -> set[str]:
        """Addresses of the nodes that its tunnel leads to."""
        with Netlink(self.node.name) as nl:
            device = nl.link("vxlan.calico")
            return {entry.destination for entry in nl.fdb(device.index)} if device else set()

    def entries(self) -> list[dict[str, Any]]:
        """The agent's log."""
        found = []
        for line in self.node.log(AGENT).splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue  # cut short by a kill
        return [entry for entry in found if isinstance(entry, dict)]

    def took_ms(self, command: str, since: str = "") -> list[float]:
        """How long each CNI request of that verb took in the agent, from that time (as its log writes it) on."""
        found = [entry for entry in self.entries() if entry.get("command") == command]
        return [entry["took_ms"] for entry in found if entry["time"] >= since]


POOL = {
    "apiVersion": "projectcalico.org/v3",
    "kind": "IPPool",
    "metadata": {"name": "pods"},
    "spec": {"cidr": "10.65.0.0/16", "blockSize": 26, "vxlanMode": "Always", "natOutgoing": True},
}


@attrs.define
class Network:
    """Ours on a whole cluster, and its administrator's ``calicoctl``."""

    cluster: Cluster
    nodes: list[Installation]
    admin_config: Path

    @classmethod
    def of(cls, cluster: Cluster) -> Network:
        return cls(cluster, [], cluster.directory / "calico.yaml")

    def install(self) -> None:
        """Definitions of kinds, rights, configuration, agents; until every node is Ready for Kubernetes."""
        cluster = self.cluster
        admin = {"plugin": "kdd", "kubeconfig": str(cluster.server.kubeconfig)}
        ipam = {"plugin": "blocks", "leak_grace_s": 0, "settle_s": 0.5}
        self.admin_config.write_text(yaml.safe_dump({"datastore": admin, "ipam": ipam}))
        shipped = Shipped.read(cluster)
        self._apply(shipped)
        self.calicoctl("apply", "-f", "-", stdin=json.dumps(POOL))
        token = cluster.kubectl("create", "token", AGENT, "--namespace", NAMESPACE, "--duration", "1h")
        for node in cluster.nodes:
            self.nodes.append(Installation(node, shipped))
        for installed in self.nodes:
            installed.install(token, cluster.server.ca_file.read_text())
            installed.start()
        for installed in self.nodes:
            installed.wait_ready()
        cluster.wait("the nodes to be Ready", lambda: len(cluster.ready_nodes()) == len(cluster.nodes))

    def _apply(self, shipped: Shipped) -> None:
        self.cluster.kubectl("apply", "--server-side", "-f", "-", stdin=shipped.applied())
        self.cluster.kubectl("wait", "--for", "condition=Established", "crd", "--all", "--timeout", "30s")

    def on(self, node: str) -> Installation:
        return next(installed for installed in self.nodes if installed.node.name == node)

    def calicoctl(self, *arguments: str, stdin: str = "") -> str:
        """As the administrator. Returns what it prints; fails when it does."""
        done = subprocess.run(
            [str(PROGRAMS / "calicoctl"), *arguments],
            input=stdin,
            env={**os.environ, "CALICO_CONFIG": str(self.admin_config)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"calicoctl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def apply(self, *resources: Mapping[str, Any]) -> None:
        self.calicoctl("apply", "-f", "-", stdin=yaml.safe_dump_all(resources))

    def remove(self, *resources: Mapping[str, Any]) -> None:
        self.calicoctl("delete", "-f", "-", stdin=yaml.safe_dump_all(resources))

    @contextlib.contextmanager
    def without_right(self, verb: str, resource: str) -> Iterator[None]:
        """The agents may not do that for a while."""
        path = f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{AGENT}"
        role = self.cluster.get(path)
        less = [
            {**rule, "verbs": [one for one in rule["verbs"] if one != verb]} if resource in rule["resources"] else rule
            for rule in role["rules"]
        ]
        less = [rule for rule in less if rule["verbs"]]
        assert less != role["rules"], f"the role has no right to {verb} {resource}"
        self.cluster.merge(path, {"rules": less})
        try:
            yield
        finally:
            self.cluster.merge(path, {"rules": role["rules"]})

    def collect(self) -> None:
        """Mend what ``ipam check`` finds, as an operator does."""
        report = str(self.cluster.directory / "report.json")
        self.calicoctl("ipam", "check", "--report", report)
        self.calicoctl("ipam", "release", "--from-report", report, "--force")

    def problems(self) -> Sequence[Mapping[str, Any]]:
        """What ``calicoctl ipam check`` finds."""
        found: list[Mapping[str, Any]] = json.loads(self.calicoctl("ipam", "check", "-o", "json"))["problems"]
        return found

    def in_use(self) -> set[str]:
        """Addresses that pods hold, from the same place."""
        allocations = json.loads(self.calicoctl("ipam", "check", "-o", "json"))["allocations"]
        return {address for address, held in allocations.items() if any(one.get("pod") for one in held)}

    def cpu_s(self) -> float:
        return sum(installed.cpu_s() for installed in self.nodes)

    def took_ms(self, command: str, since: str = "") -> list[float]:
        return [ms for installed in self.nodes for ms in installed.took_ms(command, since)]

    @contextlib.contextmanager
    def measured(self, what: str) -> Iterator[None]:
        """Note how long pods' networks took meanwhile, and which part of all CPU time was the agents'."""
        since = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        ours_s, all_s, started_s = self.cpu_s(), world.cpu_s(), time.monotonic()
        yield
        took_s, ours_s, all_s = time.monotonic() - started_s, self.cpu_s() - ours_s, world.cpu_s() - all_s
        figures.note(what, f"{took_s:.1f} s")
        figures.note_spread("  CNI ADD, in the agent", self.took_ms("ADD", since))
        count = max(1, len(self.took_ms("ADD", since)))
        each = f"{ours_s * 1000 / count:.0f} of {all_s * 1000 / count:.0f} ms for each pod"
        figures.note("  CPU time, the agents' and the whole cluster's", each)
