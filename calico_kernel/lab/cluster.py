"""What kubelets, a deployment and an administrator would do in a lab on Kubernetes, where no kubelet runs.

In:    a Topology, workloads as they come and go, manifests.
Out:   objects in the lab's API server: CRDs, Nodes, Namespaces, ServiceAccounts, Pods, and what people apply.
Order: CRDs, Nodes and accounts (``found``) before the first agent; a Pod before its CNI ADD.
Owns:  the life of those objects. Calico's own resources go through calicoctl.

After its CNI ADD a Pod is Running and has its addresses. It is marked as going before its CNI DEL and gone after it.
Requests are repeated while the server is away, as kubelets do.
"""

from __future__ import annotations

import functools
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from calico_kernel.errors import ConfigError
from calico_kernel.lab import servers
from calico_kernel.lab.network import LabError
from calico_kernel.lab.topology import Host, Namespace, Topology, Workload

REPEAT_DEADLINE_S = 60.0
OWNER = "calico-lab"
"""Field manager of what is applied."""

_JSON, _MERGE, _APPLY = "application/json", "application/merge-patch+json", "application/apply-patch+yaml"

Document = Mapping[str, Any]


class Refused(LabError):
    """The API server answered, and said no. ``status``: of HTTP."""

    def __init__(self, status: int, *, what: str, todo: str) -> None:
        super().__init__(what=what, todo=todo)
        self.status = status


class Cluster:
    """One lab's API server. Thread-safe."""

    def __init__(self, topology: Topology) -> None:
        assert topology.server is not None
        self._url = f"https://{topology.server.ipv4}:{servers.API_PORT}"
        self._namespaces = {each.name: each for each in topology.namespaces}
        self._hosts = {each.name: each for each in topology.nodes}

    # ── what stands before the first agent ────────────────────────────────────────────────────────────────────────────

    def found(self, definitions: Sequence[Document]) -> None:
        """The ``definitions`` of Calico's kinds, Nodes, Namespaces with labels, ServiceAccounts. Raises LabError."""
        for each in definitions:
            self.apply(each)
        for host in self._hosts.values():
            self._create("/api/v1/nodes", node(host))
        for namespace in self._namespaces.values():
            for each in account_documents(namespace):
                self.apply(each)
        self._await_established([each["metadata"]["name"] for each in definitions])

    def _await_established(self, names: Sequence[str]) -> None:
        deadline = time.monotonic() + REPEAT_DEADLINE_S
        waiting = set(names)
        while waiting:
            listed = self.request("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions")
            for each in listed["items"]:
                conditions = each.get("status", {}).get("conditions", ())
                if any(one["type"] == "Established" and one["status"] == "True" for one in conditions):
                    waiting.discard(each["metadata"]["name"])
            if waiting and time.monotonic() > deadline:
                raise LabError(
                    what=f"the API server does not serve {', '.join(sorted(waiting))}",
                    todo="read its log: calico lab logs kubernetes",
                )
            if waiting:
                time.sleep(0.05)

    # ── workloads, as kubelets have them ──────────────────────────────────────────────────────────────────────────────

    def bind(self, workload: Workload) -> None:
        """Its Pod, bound to its node. Safe to repeat. Raises LabError."""
        self._create(_pods(workload.namespace), pod(workload))

    def run(self, workload: Workload, addresses: Iterable[str]) -> None:
        """Say that the Pod runs and which addresses it has."""
        found = list(addresses)
        host = self._hosts[workload.node]
        status = {
            "phase": "Running",
            "hostIP": host.ipv4,
            "podIP": found[0],
            "podIPs": [{"ip": address} for address in found],
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        self.request("PATCH", f"{_pod(workload)}/status", {"status": status}, content_type=_MERGE)

    def end(self, workload: Workload) -> None:
        """Mark the Pod as going: before its CNI DEL. Safe to repeat."""
        self._delete(_pod(workload), seconds=30)

    def forget(self, workload: Workload) -> None:
        """After its CNI DEL."""
        self._delete(_pod(workload), seconds=0)

    def _create(self, path: str, document: Document) -> None:
        try:
            self.request("POST", path, document)
        except Refused as exc:
            if exc.status != 409:
                raise

    def _delete(self, path: str, *, seconds: int | None = None) -> None:
        options = {} if seconds is None else {"gracePeriodSeconds": seconds}
        try:
            self.request("DELETE", path, {"apiVersion": "v1", "kind": "DeleteOptions", **options})
        except Refused as exc:
            if exc.status != 404:
                raise

    # ── what people apply ─────────────────────────────────────────────────────────────────────────────────────────────

    def apply(self, document: Document) -> None:
        """As ``kubectl apply --server-side``. Raises LabError with what the server said."""
        query = f"?fieldManager={OWNER}&force=true&fieldValidation=Strict"
        self.request("PATCH", self._path(document) + query, document, content_type=_APPLY)

    def remove(self, document: Document) -> None:
        """Take away what ``apply`` brought; a Namespace or ServiceAccount of the lab's own is as before then."""
        name = document["metadata"]["name"]
        kind, namespace = document["kind"], document["metadata"].get("namespace", "default")
        own = self._namespaces.get(name if kind == "Namespace" else namespace)
        if own is not None and kind in ("Namespace", "ServiceAccount"):
            for each in account_documents(own):
                if (each["kind"], each["metadata"]["name"]) == (kind, name):
                    self.apply(each)
                    return
        self._delete(self._path(document))

    def _path(self, document: Document) -> str:
        version, metadata = str(document.get("apiVersion")), document.get("metadata") or {}
        base = f"/api/{version}" if "/" not in version else f"/apis/{version}"
        plural, namespaced = self._served(base).get(str(document.get("kind")), ("", False))
        if not plural or not metadata.get("name"):
            raise ConfigError(
                what=f"the lab's API server does not know {document.get('kind')} of {version}"
                if not plural
                else f"a {document.get('kind')} has no name",
                todo="correct the manifest",
            )
        place = f"/namespaces/{quote(metadata.get('namespace') or 'default')}" if namespaced else ""
        return f"{base}{place}/{plural}/{quote(metadata['name'])}"

    @functools.lru_cache(maxsize=64)  # noqa: B019 -- one of these lives as long as its lab
    def _served(self, base: str) -> dict[str, tuple[str, bool]]:
        try:
            listed = self.request("GET", base)
        except Refused:
            return {}
        return {
            each["kind"]: (each["name"], each["namespaced"]) for each in listed["resources"] if "/" not in each["name"]
        }

    # ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def request(self, method: str, path: str, body: object = None, *, content_type: str = _JSON) -> Any:
        """One request, repeated while the server is away. Raises LabError with what it said, ``Refused`` for a no."""
        deadline = time.monotonic() + REPEAT_DEADLINE_S
        data = None if body is None else json.dumps(body).encode()
        while True:
            request = urllib.request.Request(self._url + path, data, method=method)
            request.add_header("Authorization", f"Bearer {servers.TOKEN}")
            request.add_header("Content-Type", content_type)
            try:
                with urllib.request.urlopen(request, context=self._trust, timeout=30) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError as exc:
                said = _said(exc.read())
                if exc.code < 500 and exc.code != 429:
                    raise Refused(
                        exc.code, what=f"the API server refuses {method} {path}: {said}", todo="correct what it names"
                    ) from exc
                problem = said
            except (OSError, ValueError) as exc:
                problem = str(exc)
            if time.monotonic() > deadline:
                raise LabError(
                    what=f"the API server does not answer {method} {path}: {problem}",
                    todo="read its log: calico lab logs kubernetes",
                )
            time.sleep(0.1)

    @functools.cached_property
    def _trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=servers.CA_FILE)


def _said(raw: bytes) -> str:
    try:
        return str(json.loads(raw)["message"])
    except (ValueError, KeyError, TypeError):
        return raw.decode(errors="replace").strip()


def _pods(namespace: str) -> str:
    return f"/api/v1/namespaces/{quote(namespace)}/pods"


def _pod(workload: Workload) -> str:
    return f"{_pods(workload.namespace)}/{quote(workload.name)}"


# ── documents ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def node(host: Host) -> dict[str, Any]:
    """As its kubelet would register it."""
    addresses = [{"type": "InternalIP", "address": address} for address in (host.ipv4, host.ipv6)]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": host.name,
            "labels": {"kubernetes.io/hostname": host.name, "kubernetes.io/os": "linux", "rack": host.rack},
        },
        "status": {"addresses": [*addresses, {"type": "Hostname", "address": host.name}]},
    }


def account_documents(namespace: Namespace) -> list[dict[str, Any]]:
    """A namespace and its service accounts; ``default`` is one of them, which a controller would have made."""
    accounts = {"default": {}, **namespace.service_accounts}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace.name, "labels": namespace.labels}},
        *(
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": name, "namespace": namespace.name, "labels": labels},
            }
            for name, labels in accounts.items()
        ),
    ]


def pod(workload: Workload) -> dict[str, Any]:
    """Bound to its node, with the ports that policies may name."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": workload.name, "namespace": workload.namespace, "labels": workload.labels},
        "spec": {
            "nodeName": workload.node,
            "serviceAccountName": workload.service_account or "default",
            "automountServiceAccountToken": False,
            "containers": [{"name": "main", "image": "none.invalid/none", "ports": list(workload.ports)}],
        },
    }


_DERIVED = {
    "Profile": "profiles are what Namespaces and ServiceAccounts are here: put the labels on those",
    "WorkloadEndpoint": "workload endpoints are what Pods are here: the lab's own workloads are all that has packets",
}


def unsuited(documents: Iterable[Document]) -> str:
    """Why this cannot be said in a cluster's datastore, in words; "" when it can."""
    for document in documents:
        kind = str(document.get("kind"))
        if is_calicos(document) and kind in _DERIVED:
            return _DERIVED[kind]
    return ""


def is_calicos(document: Document) -> bool:
    """Whether calicoctl takes it; the rest is the cluster's own and goes to the API server as it is."""
    return str(document.get("apiVersion", "")).startswith("projectcalico.org/")
