"""Pods as workload endpoints.

In:    Pods that are scheduled and have a network of their own.
Out:   WorkloadEndpoint records ``<node>-k8s-<pod>-eth0``; and what a CNI plugin knows, as annotations of the Pod: the
       kubelet writes addresses into its status much later.

A record is there as soon as its Pod is scheduled, without addresses until the CNI plugin or the kubelet gave some, and
again without when the Pod has finished. To create or update one is to set the annotations, to delete one is to set the
addresses to "", which on a Pod that is being deleted means: its addresses are free. The container's id stays, so that
a repeated CNI DEL finds whose they were. All else in the record is the Pod's own and cannot be written.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import json as mjson

from calico_datastore_kdd.collection import Collection, Place, Request, Selection
from calico_datastore_kdd.mapping.family import Family, annotating, decoded, field_selector
from calico_datastore_kdd.mapping.reading import Made, ObjectReader
from calico_kernel.model import names, pods
from calico_kernel.model.endpoints import WorkloadEndpoint
from calico_kernel.model.keys import Key, Query, ResourceKey, ResourceQuery
from calico_kernel.model.meta import Wire
from calico_kernel.model.names import EndpointIds
from calico_kernel.model.records import Malformed, Value

KIND = "WorkloadEndpoint"


class _Scheduled(Wire):
    """What decides whether, and under which name, a Pod is an endpoint."""

    node_name: str = ""
    host_network: bool = False


class _AnyPod(Wire):
    spec: _Scheduled = _Scheduled()


_any_pod = mjson.Decoder(_AnyPod)


class PodReader(ObjectReader[pods.Pod]):
    def __init__(self, interface_prefix: str) -> None:
        super().__init__(pods.Pod)
        self._maker = pods.EndpointMaker(interface_prefix)

    def _make(self, item: pods.Pod) -> Made:
        if not pods.has_endpoint(item):
            return None
        try:
            endpoint = self._maker.endpoint(item, [])
        except ValueError as exc:
            raise msgspec.ValidationError(str(exc)) from exc
        meta = endpoint.metadata
        revision = item.metadata.resource_version
        msgspec.structs.force_setattr(meta, "resource_version", revision)  # nobody else has seen it yet
        return ResourceKey(KIND, meta.namespace, meta.name), endpoint, revision

    def _malformed(self, name: str, namespace: str, raw: bytes, reason: str) -> tuple[Key, Value | Malformed] | None:
        try:
            spec = _any_pod.decode(raw).spec
            if spec.host_network or not spec.node_name:
                return None
            ids = EndpointIds(node=spec.node_name, orchestrator="k8s", pod=name, endpoint="eth0")
            key = ResourceKey(KIND, namespace, names.workload_endpoint_name(ids))
        except ValueError:  # msgspec's errors are, too
            return None
        return key, Malformed(reason, raw)


class PodFamily(Family):
    def __init__(self, interface_prefix: str) -> None:
        self._pods = Collection(
            name="Pods", path="/api/v1", plural="pods", namespaced=True, reader=PodReader(interface_prefix)
        )

    def collections(self) -> Sequence[Collection]:
        return (self._pods,)

    def selections(self, query: Query) -> Sequence[Selection]:
        if not isinstance(query, ResourceQuery) or query.kind != KIND:
            return ()
        params = _narrowed(query.name_prefix)
        return () if params is None else (Selection(collection=self._pods, namespace=query.namespace, params=params),)

    def place(self, key: Key) -> Place | None:
        pod = _pod_of(key)
        return Place(collection=self._pods, namespace=pod[0], name=pod[1], derived=True) if pod else None

    def derived_from(self, key: Key) -> str:
        pod = _pod_of(key)
        return f"Pod {pod[0]}/{pod[1]}" if pod else ""

    def updating(self, key: Key, value: Value, *, revision: str) -> Request:
        place = self.place(key)
        value = decoded(key, value)
        if place is None or not isinstance(value, WorkloadEndpoint):
            raise self.read_only(key)
        networks = value.spec.ip_networks
        annotations = {
            pods.POD_IP: networks[0] if networks else None,
            pods.POD_IPS: ",".join(networks) if networks else None,
            pods.CONTAINER_ID: value.spec.container_id or None,
            pods.NETWORK: value.metadata.annotations.get(pods.NETWORK),
        }
        return annotating(place, annotations, revision=revision)

    def deletion(self, key: Key, *, revision: str) -> Request:
        place = self.place(key)
        if place is None:
            raise self.read_only(key)
        return annotating(place, {pods.POD_IP: "", pods.POD_IPS: "", pods.NETWORK: None}, revision=revision)


def _pod_of(key: Key) -> tuple[str, str] | None:
    """(namespace, name) of the Pod behind an endpoint; None for an endpoint that no Pod can have."""
    if not isinstance(key, ResourceKey) or key.kind != KIND or not key.namespace:
        return None
    ids = names.parse_workload_endpoint_name(key.name)
    if ids is None or ids.orchestrator != "k8s" or ids.endpoint != "eth0":
        return None
    return key.namespace, ids.pod


def _narrowed(prefix: str) -> tuple[tuple[str, str], ...] | None:
    """Which Pods can have endpoints whose names begin so: those of one node, or one Pod of it. A prefix that ends after
    the node (``n1-``) is taken for that node's, although the name of another (``n1-a``) would be written ``n1--a``.
    None: no Pod can."""
    parts = names.split_dashed(prefix)
    if len(parts) < 2:
        return ()
    if not "k8s".startswith(parts[1]) or (len(parts) > 2 and parts[1] != "k8s"):
        return None
    pod = parts[2] if len(parts) > 3 else ""
    return field_selector(spec__nodeName=parts[0], metadata__name=pod)
