"""A Kubernetes cluster for tests: its real programs, its nodes on one bridge, all in the world of ``e2e.world``."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
import urllib.error
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from calico_datastore_kdd.testing import KubernetesServer, program
from tests.e2e import image
from tests.e2e.node import ClusterNode

BRIDGE = "underlay"
GATEWAY, API_PORT = "172.30.0.1", 6443

JSON, MERGE, APPLY = "application/json", "application/merge-patch+json", "application/apply-patch+yaml"

Object = Mapping[str, Any]


@attrs.define
class Cluster:
    directory: Path
    server: KubernetesServer
    nodes: list[ClusterNode]
    processes: dict[str, subprocess.Popen[bytes]] = attrs.field(factory=dict)

    @classmethod
    def of(cls, directory: Path, nodes: int = 2) -> Cluster:
        return cls(
            directory,
            KubernetesServer(
                directory / "server",
                ("--authorization-mode", "Node", "--enable-admission-plugins", "NodeRestriction"),
                address=GATEWAY,
                port=API_PORT,
            ),
            [
                ClusterNode(f"node{number}", f"172.30.0.{10 + number}", GATEWAY, directory / f"node{number}")
                for number in range(1, nodes + 1)
            ],
        )

    def start(self) -> None:
        """The control plane, and nodes with a kubelet each. Nodes become Ready with their first network."""
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("address", "add", f"{GATEWAY}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        for user in ("system:kube-controller-manager", "system:kube-scheduler"):
            self.server.kubeconfig_for(user)
        for node in self.nodes:
            self.server.kubeconfig_for(f"system:node:{node.name}", ("system:nodes",))
        self.server.start()
        self._control("kube-controller-manager")
        self._control("kube-scheduler")
        archive = self.directory / "image.tar"
        image.archive(archive)
        for node in self.nodes:
            node.start(archive, BRIDGE)
            node.start_kubelet(self.kubeconfig(f"system:node:{node.name}", "system:nodes"))

    def kubeconfig(self, user: str, *groups: str) -> str:
        """Text of a kubeconfig that works on every node: the server's certificate is in it."""
        config = json.loads(self.server.kubeconfig_for(user, groups).read_text())
        cluster = config["clusters"][0]["cluster"]
        certificate = Path(cluster.pop("certificate-authority")).read_bytes()
        cluster["certificate-authority-data"] = base64.b64encode(certificate).decode()
        return json.dumps(config)

    def _control(self, name: str, *arguments: str) -> None:
        common = ["--kubeconfig", str(self.server.kubeconfig_for(f"system:{name}")), "--leader-elect=false"]
        if name == "kube-controller-manager":
            key, ca = str(self.server.key_file), str(self.server.ca_file)
            common += ["--service-account-private-key-file", key, "--root-ca-file", ca]
            common += ["--use-service-account-credentials=true"]
        with open(self.directory / f"{name}.log", "ab") as log:
            command = [program(name), *common, "--secure-port=0", *arguments]
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log)

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.server.kill()
        _ip("link", "delete", BRIDGE)

    def all_alive(self) -> None:
        """Fail, with what it said last, when a program of the cluster has ended by itself."""
        for directory, processes in (
            (self.directory, self.processes),
            *((n.directory, n.processes) for n in self.nodes),
        ):
            for name, process in processes.items():
                if process.poll() is not None:
                    said = (directory / f"{name}.log").read_text(errors="replace")[-3000:]
                    raise AssertionError(f"{directory.name}: {name} ended by itself ({process.returncode}):\n{said}")

    def node(self, name: str) -> ClusterNode:
        return next(node for node in self.nodes if node.name == name)

    # ── the API ──

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        command = [program("kubectl"), "--kubeconfig", str(self.server.kubeconfig), *arguments]
        environment = {**os.environ, "HOME": str(self.directory)}
        done = subprocess.run(
            command, input=stdin, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def request(self, method: str, path: str, body: object = None, *, content_type: str = JSON) -> dict[str, Any]:
        """Raises urllib.error.HTTPError, with what the server said."""
        try:
            return self.server.request(method, path, body, content_type=content_type)
        except urllib.error.HTTPError as exc:
            exc.add_note(f"{method} {path}: {exc.read().decode(errors='replace')}")
            raise

    def get(self, path: str) -> dict[str, Any]:
        return self.request("GET", path)

    def exists(self, path: str) -> bool:
        try:
            self.get(path)
        except urllib.error.HTTPError as exc:
            if exc.code != 404:
                raise
            return False
        return True

    def items(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get(path)["items"]
        return found

    def delete(self, path: str, **options: Any) -> None:
        """Gone already is fine."""
        try:
            self.request("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", **options})
        except urllib.error.HTTPError as exc:
            if exc.code != 404:
                raise

    def apply(self, *objects: Object) -> None:
        """Create or change, as ``kubectl apply --server-side`` does."""
        for given in objects:
            path = f"{path_of(given)}?fieldManager=e2e&force=true"
            self.request("PATCH", path, given, content_type=APPLY)

    def delete_object(self, given: Object) -> None:
        self.delete(path_of(given))

    def label(self, path: str, **labels: str | None) -> None:
        """None takes a label away."""
        self.merge(path, {"metadata": {"labels": labels}})

    def merge(self, path: str, patch: Object) -> None:
        self.request("PATCH", path, patch, content_type=MERGE)

    def wait(self, what: str, done: Callable[[], object], timeout_s: float = 60.0) -> Any:
        """Until ``done`` returns something true, which is returned."""
        deadline = time.monotonic() + timeout_s
        while not (found := done()):
            self.all_alive()
            assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
            time.sleep(0.1)
        return found

    def ready_nodes(self) -> set[str]:
        return {node["metadata"]["name"] for node in self.items("/api/v1/nodes") if _condition(node, "Ready")}

    # ── pods ──

    def pod(self, namespace: str, name: str) -> dict[str, Any]:
        return self.get(f"/api/v1/namespaces/{namespace}/pods/{name}")

    def scale(self, namespace: str, deployment: str, replicas: int) -> None:
        path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{deployment}/scale"
        self.merge(path, {"spec": {"replicas": replicas}})

    def pods(self, namespace: str, **labels: str) -> list[dict[str, Any]]:
        query = ",".join(f"{key}%3D{value}" for key, value in labels.items())
        return self.items(f"/api/v1/namespaces/{namespace}/pods?labelSelector={query}")

    def running(self, namespace: str, count: int, timeout_s: float = 90.0, **labels: str) -> list[dict[str, Any]]:
        """Wait until exactly ``count`` such pods exist and are ready; return them."""

        def all_ready() -> list[dict[str, Any]] | None:
            found = self.pods(namespace, **labels)
            return found if len(found) == count and all(map(is_ready, found)) else None

        try:
            found = self.wait(f"{count} pods of {namespace} {labels} to run", all_ready, timeout_s)
        except AssertionError as exc:
            raise AssertionError(f"{exc}:\n{self.told(namespace)}") from None
        assert isinstance(found, list)
        return found

    def told(self, namespace: str) -> str:
        """Events of a namespace and states of its pods, for people."""
        lines = [
            f"{pod['metadata']['name']} on {pod['spec'].get('nodeName')}: {pod['status'].get('phase')}"
            for pod in self.pods(namespace)
            if not is_ready(pod)
        ]
        events = self.items(f"/api/v1/namespaces/{namespace}/events")
        lines += [f"{event['involvedObject']['name']}: {event['reason']}: {event['message']}" for event in events[-20:]]
        return "\n".join(lines)

    def events(self, namespace: str, pod: str, reason: str) -> list[str]:
        """Messages of such events on a pod."""
        found = self.items(f"/api/v1/namespaces/{namespace}/events?fieldSelector=involvedObject.name%3D{pod}")
        return [event["message"] for event in found if event["reason"] == reason]

    def netns_of(self, pod: Object) -> str:
        """A path of the pod's network namespace that this process can open."""
        container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
        node = self.node(pod["spec"]["nodeName"])
        bundle = f"/run/containerd/io.containerd.runtime.v2.task/k8s.io/{container}"
        pid = node.path(f"{bundle}/init.pid").read_text()
        return f"/proc/{pid}/ns/net"


def is_ready(pod: Object) -> bool:
    return _condition(pod, "Ready") and "deletionTimestamp" not in pod["metadata"]


def _condition(thing: Object, name: str) -> bool:
    return any(c["type"] == name and c["status"] == "True" for c in thing["status"].get("conditions", ()))


PLURALS = {"NetworkPolicy": "networkpolicies", "ClusterNetworkPolicy": "clusternetworkpolicies"}
CLUSTER_WIDE = ("Namespace", "ClusterNetworkPolicy", "CustomResourceDefinition")


def path_of(given: Object) -> str:
    group, kind, meta = given["apiVersion"], given["kind"], given["metadata"]
    root = f"/apis/{group}" if "/" in group else f"/api/{group}"
    plural = PLURALS.get(kind, f"{kind.lower()}s")
    inside = "" if kind in CLUSTER_WIDE else f"/namespaces/{meta.get('namespace', 'default')}"
    return f"{root}{inside}/{plural}/{meta['name']}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)
