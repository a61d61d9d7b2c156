"""``python -m bench kubernetes --pods 50000``: Pods read by the Kubernetes datastore, beside the API server's own pace.

The same list twice, in the same pages, on connections of the same kind: as bytes, which is the server's limit, and by
the datastore, decoded into workload endpoints; and once whatever the server has in memory, however old, which spares it
its etcd (one of 3.4.31 or 3.5.13 on spares it that for a list as of now, too). Then events of a watch that starts
before they were written, likewise. CPU seconds of both sides say who was waited for; without any server, the cost of
one Pod.

The Pods, of the size that they have in a cluster, are put straight into the API server's etcd, in the JSON form that it
reads beside its own.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import ssl
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench._common import enter_bubble, report
from bench.etcd import BATCH, Raw, timed

PAGE = 500
_PROCEED = re.compile(rb'"continue":"([^"]+)"')
_MOMENT = "2026-11-21T08:41:14Z"
_LIST_HEAD = 2000


def pod(name: str, namespace: str, node: str, address: str, labels: Mapping[str, str], account: str = "") -> Any:
    """A running Pod as it is stored, with all that controllers and kubelets write into one."""
    uid = f"0d6c01bd-24ab-42e9-9fe2-{abs(hash(name)) % 16**12:012x}"
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5f6d", "uid": uid, "controller": True}
    fields: dict[str, Any] = {
        "f:metadata": {"f:labels": {f"f:{key}": {} for key in labels}},
        "f:spec": {"f:containers": {"f:image": {}}},
    }
    conditions = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    container = {
        "name": "main",
        "image": "registry.example.com/shop/web:1.4.2",
        "imagePullPolicy": "IfNotPresent",
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "env": [{"name": f"SETTING_{n}", "value": "x" * 20} for n in range(6)],
        "resources": {"limits": {"memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
        "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    }
    state = {
        "name": "main",
        "image": container["image"],
        "imageID": f"registry.example.com/shop/web@sha256:{'a' * 64}",
        "containerID": f"containerd://{'b' * 64}",
        "ready": True,
        "started": True,
        "restartCount": 0,
        "state": {"running": {"startedAt": _MOMENT}},
    }
    sources = [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "generateName": "web-5f6d-",
            "uid": uid,
            "creationTimestamp": _MOMENT,
            "labels": dict(labels),
            "annotations": {
                "cni.projectcalico.org/containerID": "c" * 64,
                "cni.projectcalico.org/podIP": f"{address}/32",
                "cni.projectcalico.org/podIPs": f"{address}/32",
            },
            "ownerReferences": [owner],
            "managedFields": [
                {
                    "manager": manager,
                    "operation": "Update",
                    "apiVersion": "v1",
                    "time": _MOMENT,
                    "fieldsType": "FieldsV1",
                    "fieldsV1": fields,
                }
                for manager in ("kube-controller-manager", "kubelet")
            ],
        },
        "spec": {
            "nodeName": node,
            "containers": [container],
            "volumes": [{"name": "token", "projected": {"sources": sources, "defaultMode": 420}}],
            "serviceAccountName": account or "default",
            "restartPolicy": "Always",
            "dnsPolicy": "ClusterFirst",
            "schedulerName": "default-scheduler",
            "terminationGracePeriodSeconds": 30,
            "tolerations": [
                {
                    "effect": "NoExecute",
                    "key": f"node.kubernetes.io/{why}",
                    "operator": "Exists",
                    "tolerationSeconds": 300,
                }
                for why in ("not-ready", "unreachable")
            ],
        },
        "status": {
            "phase": "Running",
            "hostIP": "172.30.0.1",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": _MOMENT,
            "qosClass": "Burstable",
            "conditions": [{"type": kind, "status": "True", "lastTransitionTime": _MOMENT} for kind in conditions],
            "containerStatuses": [state],
        },
    }


def numbered(number: int, mark: int = 0) -> Any:
    """Ten Pods to a Deployment, a hundred to a node."""
    deployment = number // 10
    return pod(
        f"web-{deployment:05x}-{number:05x}",
        f"team-{deployment % 200}",
        f"node-{number // 100}",
        f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",
        {
            "app": f"web-{deployment}",
            "app.kubernetes.io/name": "web",
            "app.kubernetes.io/instance": f"web-{deployment}",
            "pod-template-hash": f"{deployment:010x}",
            "tier": f"t{deployment % 5}",
            "mark": str(mark),
        },
        "web",
    )


class Cluster:
    """An API server with Calico's definitions, whose etcd is written directly: fifty thousand objects in seconds."""

    def __init__(self, directory: Path) -> None:
        from calico_datastore_kdd.mapping import open_mapping
        from calico_datastore_kdd.testing import KubernetesServer

        self.server = KubernetesServer(directory)
        self.server.start_etcd()
        self.raw = Raw(self.server.etcd_port)
        self._mapping = open_mapping()
        self._etcd_pid = _listener(self.server.etcd_port)

    def start(self) -> None:
        from calico_kernel.model.crds import custom_kinds, definition

        say("starting the API server")
        self.server.start_server()
        self.server.wait_ready()
        say("defining Calico's kinds")
        self.server.define(map(definition, custom_kinds()))

    def put(self, documents: Iterable[Any]) -> None:
        batch: list[tuple[bytes, bytes]] = []
        for document in documents:
            batch.append((_path(document), json.dumps(document, separators=(",", ":")).encode()))
            if len(batch) == BATCH:
                self.raw.put(batch)
                batch = []
        if batch:
            self.raw.put(batch)

    def write(self, _store: object, records: Iterable[tuple[Any, Any]]) -> None:
        """Records as the objects that they are or come from."""
        self.put(document for key, value in records if (document := self._document(key, value)) is not None)

    def _document(self, key: Any, value: Any) -> Any:
        kind = getattr(key, "kind", "")
        if kind == "WorkloadEndpoint":
            address, meta = value.spec.ip_networks[0].partition("/")[0], value.metadata
            labels = {name: text for name, text in meta.labels.items() if "projectcalico" not in name}
            return pod(value.spec.pod, meta.namespace, value.spec.node, address, labels)
        if kind == "Profile":
            return None  # the namespace's, which is there
        request = self._mapping.creation(key, value)
        patch = json.loads(request.body)
        common = {"name": key.name, "uid": f"{abs(hash(key)) % 16**8:08x}-24ab-42e9-9fe2-000000000000"}
        meta = {**common, "creationTimestamp": _MOMENT, **patch["metadata"]}
        if kind == "Node":
            meta["annotations"] = {name: text for name, text in meta["annotations"].items() if text is not None}
            return {"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": {}, "status": {}}
        return {**patch, "metadata": meta}

    def cpu_seconds(self) -> float:
        """Of the API server and its etcd together."""
        return sum(_cpu_seconds(pid) for pid in (self.server.pid, self._etcd_pid))

    def connect(self) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self.server.ca_file))
        return http.client.HTTPSConnection("127.0.0.1", self.server.port, context=context, timeout=120)

    def close(self) -> None:
        self.raw.close()
        self.server.kill()


@contextlib.contextmanager
def cluster(*, prepare: Any = None) -> Iterator[Cluster]:
    """``prepare(cluster)`` is called when its etcd runs and its API server does not yet."""
    with tempfile.TemporaryDirectory(prefix="calico-bench-") as directory:
        made = Cluster(Path(directory))
        try:
            if prepare is not None:
                prepare(made)
            made.start()
            yield made
        finally:
            made.close()


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _path(document: Any) -> bytes:
    meta, kind = document["metadata"], document["kind"]
    if kind in ("Pod", "Node"):
        where = {"Pod": f"pods/{meta.get('namespace')}", "Node": "minions"}[kind]
        return f"/registry/{where}/{meta['name']}".encode()
    plural = {"NetworkPolicy": "networkpolicies", "GlobalNetworkPolicy": "globalnetworkpolicies"}.get(kind)
    group = document["apiVersion"].partition("/")[0]
    parts = ["/registry", group, plural or f"{kind.lower()}s", *filter(None, [meta.get("namespace")]), meta["name"]]
    return "/".join(parts).encode()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _listener(port: int) -> int:
    """The process of this bubble that was started with a port among its arguments."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and f":{port}".encode() in (entry / "cmdline").read_bytes():
                return int(entry.name)
    raise SystemExit(f"no process has port {port}")


# ── measurements ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Bare:
    """Answers of the API server as bytes, on one connection that is kept."""

    def __init__(self, made: Cluster) -> None:
        self._connection = made.connect()

    def get(self, path: str) -> http.client.HTTPResponse:
        self._connection.request("GET", path, headers={"Authorization": "Bearer token-of-admin"})
        return self._connection.getresponse()

    def pages(self, path: str) -> Iterator[bytes]:
        more = b""
        while True:
            raw = self.get(f"{path}?limit={PAGE}" + (f"&continue={more.decode()}" if more else "")).read()
            yield raw
            found = _PROCEED.search(raw[:_LIST_HEAD])
            if found is None:
                return
            more = found[1]

    def close(self) -> None:
        self._connection.close()


def measure_list(store: Any, made: Cluster, count: int) -> dict[str, Any]:
    from calico_kernel.model.keys import ResourceQuery

    say("listing")
    bare = Bare(made)
    sizes = [sum(map(len, bare.pages("/api/v1/pods")))]  # once to warm up
    before = made.cpu_seconds()
    raw_s, raw_cpu_s, size = timed(lambda: sum(map(len, bare.pages("/api/v1/pods"))))
    server_cpu_s = made.cpu_seconds() - before
    before = made.cpu_seconds()
    cached_s, _, _ = timed(lambda: bare.get("/api/v1/pods?resourceVersion=0").read())
    cached_cpu_s = made.cpu_seconds() - before
    bare.close()
    before = made.cpu_seconds()
    list_s, list_cpu_s, listing = timed(lambda: store.list([ResourceQuery("WorkloadEndpoint")]))
    listed_cpu_s = made.cpu_seconds() - before
    assert len(listing.records) == count and size == sizes[0], (len(listing.records), size, sizes)
    return {
        "pod_bytes": round(size / count),
        "raw_list_s": round(raw_s, 3),
        "raw_list_cpu_s": round(raw_cpu_s, 3),
        "raw_list_server_cpu_s": round(server_cpu_s, 3),
        "raw_stale_list_s": round(cached_s, 3),
        "raw_stale_list_server_cpu_s": round(cached_cpu_s, 3),
        "list_s": round(list_s, 3),
        "list_cpu_s": round(list_cpu_s, 3),
        "list_server_cpu_s": round(listed_cpu_s, 3),
        "list_ratio": round(list_s / raw_s, 2),
        "server_share_of_cpu": round(listed_cpu_s / (listed_cpu_s + list_cpu_s), 2),
    }


def measure_watch(store: Any, made: Cluster, events: int) -> dict[str, Any]:
    from calico_kernel.model.keys import ResourceQuery

    say(f"writing {events} changes, then watching them")
    query = ResourceQuery("WorkloadEndpoint")
    revision = store.list([ResourceQuery("Node")]).revision
    made.put(numbered(number, mark=1) for number in range(events))
    last = numbered(events - 1)["metadata"]
    newest = f"/api/v1/namespaces/{last['namespace']}/pods/{last['name']}?resourceVersion=0"
    while made.server.request("GET", newest)["metadata"]["labels"]["mark"] != "1":
        time.sleep(0.2)  # the server cuts off who reads more slowly than it hears itself

    def raw() -> int:
        bare, found = Bare(made), 0
        answer = bare.get(f"/api/v1/pods?watch=1&resourceVersion={revision}")
        while found < events and (piece := answer.read1(1 << 20)):
            found += piece.count(b"\n")  # an event is a line
        answer.close()
        bare.close()
        return found

    def delivered() -> int:
        watch, found = store.watch([query], revision=revision), 0
        while found < events:
            found += len(watch.next(30.0))
        watch.close()
        return found

    raw_s, raw_cpu_s, found = timed(raw)
    ours_s, ours_cpu_s, ours = timed(delivered)
    assert found == ours == events, (found, ours)
    return {
        "watch_events_per_s": round(events / ours_s),
        "watch_us_cpu_per_event": round(ours_cpu_s / events * 1e6, 1),
        "raw_watch_events_per_s": round(events / raw_s),
        "raw_watch_us_cpu_per_event": round(raw_cpu_s / events * 1e6, 1),
        "watch_ratio": round(ours_s / raw_s, 2),
    }


def measure_decoding(count: int) -> dict[str, Any]:
    """No server: the bytes of pages to records. The memory is what they keep."""
    from calico_datastore_kdd.mapping import open_mapping
    from calico_kernel.model import storing
    from calico_kernel.model.keys import ResourceQuery

    reader = open_mapping().collections(ResourceQuery("WorkloadEndpoint"))[0].collection.reader
    pages = [
        json.dumps({"items": [numbered(n) for n in range(at, min(at + PAGE, count))]}, separators=(",", ":")).encode()
        for at in range(0, count, PAGE)
    ]
    before = _resident()
    kept: list[Any] = []

    def decode() -> None:
        for page in pages:
            kept.extend(reader.page(page).records)

    with storing.collector_resting():
        _, cpu_s, _ = timed(decode)
    assert len(kept) == count
    return {
        "us_cpu_per_pod": round(cpu_s / count * 1e6, 1),
        "bytes_kept_per_pod": round((_resident() - before) / count),
    }


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench kubernetes", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--pods", type=int, default=50_000)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    enter_bubble("kubernetes", argv)
    from calico_datastore_kdd.settings import KubernetesSettings
    from calico_datastore_kdd.store import KubernetesDatastore

    def fill(made: Cluster) -> None:
        say(f"writing {args.pods} Pods")
        made.put(map(numbered, range(args.pods)))

    result: dict[str, Any] = {"pods": args.pods, **measure_decoding(args.pods)}
    with cluster(prepare=fill) as made:
        store = KubernetesDatastore(KubernetesSettings(kubeconfig=str(made.server.kubeconfig)))
        try:
            result |= measure_list(store, made, args.pods)
            result |= measure_watch(store, made, min(args.events, args.pods))
        finally:
            store.close()
    report(result, as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
