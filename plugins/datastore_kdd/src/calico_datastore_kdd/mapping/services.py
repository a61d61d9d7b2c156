"""Services, EndpointSlices and live migrations: what policy rules and routes need of them.

In:    Services, EndpointSlices; VirtualMachineInstanceMigrations, where KubeVirt is installed.
Out:   KubernetesService, KubernetesEndpointSlice and LiveMigration records, which cannot be written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import field

from calico_datastore_kdd.collection import Collection, Place, Selection
from calico_datastore_kdd.mapping.family import Family
from calico_datastore_kdd.mapping.reading import Made, PlainMeta, PlainReader
from calico_kernel.model.endpoints import (
    LiveMigration,
    LiveMigrationSource,
    LiveMigrationSpec,
    LiveMigrationTarget,
    WorkloadIdentifier,
)
from calico_kernel.model.keys import Key, Query, ResourceKey, ResourceQuery
from calico_kernel.model.meta import ObjectMeta, Wire
from calico_kernel.model.services import (
    KubernetesEndpointSlice,
    KubernetesService,
    ServiceSpec,
    ServiceStatus,
    SliceEndpoint,
    SlicePort,
)

_MIGRATING = frozenset(
    {"Scheduling", "Scheduled", "PreparingTarget", "TargetReady", "Running", "Failed"},
)
"""Phases in which a migration concerns the network: from when the target may get its Pod."""


class _Service(Wire):
    metadata: PlainMeta = PlainMeta()
    spec: ServiceSpec = field(default_factory=ServiceSpec)
    status: ServiceStatus = field(default_factory=ServiceStatus)


class _Slice(Wire):
    metadata: PlainMeta = PlainMeta()
    address_type: str = ""
    endpoints: tuple[SliceEndpoint, ...] | None = ()
    ports: tuple[SlicePort, ...] | None = ()


class _MigrationSpec(Wire):
    vmi_name: str = ""


class _MigrationState(Wire):
    source_pod: str = ""


class _MigrationStatus(Wire):
    phase: str = ""
    migration_state: _MigrationState | None = None


class _Migration(Wire):
    metadata: PlainMeta = PlainMeta()
    spec: _MigrationSpec = _MigrationSpec()
    status: _MigrationStatus = _MigrationStatus()


def _service(item: _Service) -> Made:
    value = KubernetesService(metadata=_meta(item.metadata), spec=item.spec, status=item.status)
    return _made("KubernetesService", item.metadata, value)


def _slice(item: _Slice) -> Made:
    value = KubernetesEndpointSlice(
        metadata=_meta(item.metadata),
        address_type=item.address_type,
        endpoints=item.endpoints or (),
        ports=item.ports or (),
    )
    return _made("KubernetesEndpointSlice", item.metadata, value)


def _migration(item: _Migration) -> Made:
    """The target Pod is known by labels, as KubeVirt before 1.7 and since set them; the source once it is told."""
    meta, name = item.metadata, item.spec.vmi_name
    if item.status.phase not in _MIGRATING or not name or not meta.uid or "'" in name:
        return _made("LiveMigration", meta, None)
    machine = f"(vmi.kubevirt.io/id == '{name}' || vm.kubevirt.io/name == '{name}')"
    selector = f"{machine} && kubevirt.io/migrationJobUID == '{meta.uid}'"
    state = item.status.migration_state
    source = None
    if state is not None and state.source_pod:
        workload = WorkloadIdentifier(orchestrator_id="k8s", workload_id=f"{meta.namespace}/{state.source_pod}")
        source = LiveMigrationSource(workload=workload)
    spec = LiveMigrationSpec(source=source, target=LiveMigrationTarget(selector=selector))
    return _made("LiveMigration", meta, LiveMigration(metadata=_meta(meta), spec=spec))


def _meta(meta: PlainMeta) -> ObjectMeta:
    return ObjectMeta(
        name=meta.name,
        namespace=meta.namespace,
        uid=meta.uid,
        resource_version=meta.resource_version,
        creation_timestamp=meta.creation_timestamp,
        labels=meta.labels,
        annotations=meta.annotations,
    )


def _made(kind: str, meta: PlainMeta, value: Any) -> Made:
    return ResourceKey(kind, meta.namespace, meta.name), value, meta.resource_version


class ServiceFamily(Family):
    def __init__(self) -> None:
        def collection(kind: str, name: str, path: str, plural: str, reads: Any, make: Any, **more: bool) -> Collection:
            reader = PlainReader(reads, make, lambda name, namespace: ResourceKey(kind, namespace, name))
            return Collection(name=name, path=path, plural=plural, namespaced=True, reader=reader, **more)

        slices = ("EndpointSlices", "/apis/discovery.k8s.io/v1", "endpointslices")
        migrations = ("KubeVirt migrations", "/apis/kubevirt.io/v1", "virtualmachineinstancemigrations")
        self._collections = {
            "KubernetesService": collection("KubernetesService", "Services", "/api/v1", "services", _Service, _service),
            "KubernetesEndpointSlice": collection("KubernetesEndpointSlice", *slices, _Slice, _slice),
            "LiveMigration": collection("LiveMigration", *migrations, _Migration, _migration, optional=True),
        }

    def collections(self) -> Sequence[Collection]:
        return tuple(self._collections.values())

    def selections(self, query: Query) -> Sequence[Selection]:
        if not isinstance(query, ResourceQuery) or query.kind not in self._collections:
            return ()
        return (Selection(collection=self._collections[query.kind], namespace=query.namespace),)

    def place(self, key: Key) -> Place | None:
        if not isinstance(key, ResourceKey) or key.kind not in self._collections:
            return None
        return Place(collection=self._collections[key.kind], namespace=key.namespace, name=key.name, derived=True)

    def derived_from(self, key: Key) -> str:
        place = self.place(key)
        if place is None:
            return ""
        noun = {"services": "Service", "endpointslices": "EndpointSlice"}.get(
            place.collection.plural, "VirtualMachineInstanceMigration"
        )
        return f"{noun} {place.namespace}/{place.name}"
