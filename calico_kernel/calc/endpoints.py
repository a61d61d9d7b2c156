"""The endpoints of this node: what each is, and the lists of policies that decide its packets.

In:   local workload and host endpoints as stored.   Out: ``LocalWorkload`` and ``LocalHostEndpoint`` values.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from calico_kernel.calc.addresses import bare, plain, prefix
from calico_kernel.calc.items import Items
from calico_kernel.calc.labels import ContextKey
from calico_kernel.calc.outbox import Outbox
from calico_kernel.calc.policies import Policies
from calico_kernel.calc.profiles import Profiles
from calico_kernel.model.endpoints import HostEndpointSpec, WorkloadEndpoint
from calico_kernel.model.keys import ResourceKey
from calico_kernel.model.nodestate import (
    LocalHostEndpoint,
    LocalWorkload,
    NatPair,
    PolicyList,
    TierPolicies,
    WorkloadEndpointId,
)


@attrs.define(slots=True, eq=False)
class _Local:
    labels: dict[str, str]
    context: ContextKey
    profiles: tuple[str, ...]
    value: LocalWorkload | LocalHostEndpoint


class LocalEndpoints:
    def __init__(self, items: Items, policies: Policies, profiles: Profiles) -> None:
        self._items = items
        self._policies = policies
        self._profiles = profiles
        self._endpoints: dict[ResourceKey, _Local] = {}
        self._shared: dict[PolicyList, PolicyList] = {}
        self.workloads: Outbox[WorkloadEndpointId, LocalWorkload] = Outbox()
        self.host_endpoints: Outbox[str, LocalHostEndpoint] = Outbox()
        self._dirty: set[ResourceKey] = set()

    def __len__(self) -> int:
        return len(self._endpoints)

    def put(
        self,
        key: ResourceKey,
        labels: dict[str, str],
        context: ContextKey,
        value: LocalWorkload | LocalHostEndpoint,
    ) -> None:
        """Add or replace; the policy lists of ``value`` are filled in by ``resolve``."""
        old = self._endpoints.get(key)
        if old is not None and _identity(old.value) != _identity(value):
            self.drop(key)
            old = None
        profiles = context[3]
        self._profiles.use(profiles)
        if old is not None:
            self._profiles.unuse(old.profiles)
        self._endpoints[key] = _Local(labels, context, profiles, value)
        self._dirty.add(key)
        self._policies.put_endpoint(key, self._items.effective_labels(labels, context))

    def drop(self, key: ResourceKey) -> None:
        """Forget it; nothing happens when it is unknown."""
        old = self._endpoints.pop(key, None)
        if old is None:
            return
        self._dirty.discard(key)
        self._profiles.unuse(old.profiles)
        self._policies.put_endpoint(key, None)
        if isinstance(old.value, LocalWorkload):
            self.workloads.set(old.value.id, None)
        else:
            self.host_endpoints.set(old.value.name, None)

    def profile_changed(self, profile: str) -> None:
        """Labels that ``profile`` gives have changed."""
        for key, local in self._endpoints.items():
            if profile in local.profiles:
                self._policies.put_endpoint(key, self._items.effective_labels(local.labels, local.context))

    def resolve(self, changed: Iterable[object]) -> None:
        """Fill in the lists of what changed here, and of the endpoints that ``Policies.resolve`` named."""
        if len(self._shared) > 8 * len(self._endpoints) + 64:
            self._forget_unused_lists()
        self._dirty.update(key for key in changed if isinstance(key, ResourceKey) and key in self._endpoints)
        for key in self._dirty:
            local = self._endpoints[key]
            lists = self._policies.lists(key)
            normal = self._share(lists.normal, local.profiles)
            if isinstance(local.value, LocalWorkload):
                self.workloads.set(local.value.id, attrs.evolve(local.value, policies=normal))
            else:
                host = attrs.evolve(
                    local.value,
                    normal=normal,
                    forward=self._share(lists.forward, ()),
                    untracked=self._share(lists.untracked, ()),
                    pre_dnat=self._share(lists.pre_dnat, ()),
                )
                self.host_endpoints.set(local.value.name, host)
        self._dirty.clear()

    def _share(self, tiers: tuple[TierPolicies, ...], profiles: tuple[str, ...]) -> PolicyList:
        new = PolicyList(tiers=tiers, profiles=profiles)
        return self._shared.setdefault(new, new)

    def _forget_unused_lists(self) -> None:
        """Keep those that were given out and still hold, so that they go on being shared."""
        used = [workload.policies for workload in self.workloads.given.values()]
        for host in self.host_endpoints.given.values():
            used += (host.normal, host.forward, host.untracked, host.pre_dnat)
        self._shared = {policy_list: policy_list for policy_list in used}


def _identity(value: LocalWorkload | LocalHostEndpoint) -> object:
    return value.id if isinstance(value, LocalWorkload) else value.name


def workload_endpoint_id(endpoint: WorkloadEndpoint) -> WorkloadEndpointId:
    """Which of the fields names the workload depends on the orchestrator, as it does in Calico's endpoint names."""
    spec = endpoint.spec
    match spec.orchestrator:
        case "k8s":
            name = spec.pod
        case "cni":
            name = spec.container_id
        case "libnetwork":
            name = "libnetwork"
        case _:
            name = spec.workload
    workload = f"{endpoint.metadata.namespace}/{name or endpoint.metadata.name}"
    return WorkloadEndpointId(spec.orchestrator, workload, spec.endpoint)


def local_workload(endpoint: WorkloadEndpoint, addresses: tuple[str, ...]) -> LocalWorkload:
    """Raises ValueError on what does not parse."""
    spec = endpoint.spec
    nats = tuple(NatPair(internal=plain(nat.internal_ip), external=plain(nat.external_ip)) for nat in spec.ip_nats)
    return LocalWorkload(
        id=workload_endpoint_id(endpoint),
        interface=spec.interface_name,
        addresses=addresses,
        policies=PolicyList(),
        mac=spec.mac,
        spoofable_prefixes=tuple(prefix(net) for net in spec.allow_spoofed_source_prefixes),
        nats=nats,
        qos=spec.qos_controls,
    )


def local_host_endpoint(name: str, spec: HostEndpointSpec) -> LocalHostEndpoint:
    """Raises ValueError on what does not parse."""
    return LocalHostEndpoint(
        name=name, interface=spec.interface_name, expected_addresses=tuple(bare(ip) for ip in spec.expected_ips)
    )
