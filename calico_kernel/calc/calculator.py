"""The calculation: datastore events in, changes of NodeState out.

    endpoints, sets, profiles ─► items (labels, addresses) ──────────► ip_sets ──┐
    policies, tiers ──► policies ─► uses of sets ────────────────────────┘       │
    local endpoints ──► policies (which apply, in what order) ─► endpoints ──────┼─► Delta
    profiles ─────────► profiles (of local endpoints) ───────────────────────────┤
    nodes, pools, blocks ─► nodes, pools, routes ────────────────────────────────┤
    FelixConfiguration ─► config ────────────────────────────────────────────────┘

What comes out depends on the present values alone, never on the order or number of the events that brought them.
Nothing is evaluated before ``in_sync``; then everything in bulk; after that, each change by what it can touch.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from calico_kernel.calc.addresses import bare, members
from calico_kernel.calc.config import Configuration
from calico_kernel.calc.endpoints import LocalEndpoints, local_host_endpoint, local_workload
from calico_kernel.calc.ipsets import IpSets
from calico_kernel.calc.items import Items, NamedPort, Nets, Ports
from calico_kernel.calc.nodes import Nodes
from calico_kernel.calc.policies import KINDS, STAGED_KUBERNETES, Policies
from calico_kernel.calc.pools import Pools
from calico_kernel.calc.profiles import Profiles
from calico_kernel.calc.routes import Routes
from calico_kernel.calc.services import Slice
from calico_kernel.errors import CalicoError
from calico_kernel.model.endpoints import EndpointPort, HostEndpoint, Node, WorkloadEndpoint, WorkloadEndpointPort
from calico_kernel.model.felix import FelixConfiguration
from calico_kernel.model.ipam import AllocationBlock
from calico_kernel.model.keys import BlockKey, BlockQuery, Key, Query, ResourceKey, ResourceQuery
from calico_kernel.model.network import GlobalNetworkSet, IPPool, NetworkSet
from calico_kernel.model.nodestate import PORT_PROTOCOLS, Delta, EncapsulationNeeds, MapDelta, PolicyId, ResolvedConfig
from calico_kernel.model.policy import Profile, StagedKubernetesNetworkPolicy, Tier
from calico_kernel.model.records import Malformed, Value
from calico_kernel.model.services import KubernetesEndpointSlice
from calico_kernel.model.wellknown import (
    NAMESPACE_LABEL,
    NAMESPACE_LABEL_PREFIX,
    NAMESPACE_PROFILE_PREFIX,
    ORCHESTRATOR_LABEL,
    SERVICE_ACCOUNT_LABEL,
    SERVICE_ACCOUNT_LABEL_PREFIX,
)
from calico_kernel.policy.effective import protocol_number

_INHERITED = (NAMESPACE_LABEL_PREFIX, SERVICE_ACCOUNT_LABEL_PREFIX)
_AUTOMATIC = frozenset((NAMESPACE_LABEL, ORCHESTRATOR_LABEL, SERVICE_ACCOUNT_LABEL))

_KINDS = (
    "WorkloadEndpoint",
    "HostEndpoint",
    "NetworkSet",
    "GlobalNetworkSet",
    "Profile",
    "Tier",
    *KINDS,
    "Node",
    "IPPool",
    "KubernetesEndpointSlice",
    "FelixConfiguration",
)


class Calculator:
    """What ``node`` must do. ``environment``: settings that overrule the stored configuration (FELIX_ variables).

    problems:  key -> why a stored value counts as absent, or denies. Not thread-safe, but ``stats`` and ``problems``
               may be read from any thread.
    """

    def __init__(self, node: str, environment: Mapping[str, str] = {}) -> None:
        self.node = node
        self._configuration = Configuration(node, environment)
        self._items = Items()
        self._ip_sets = IpSets(self._items)
        self._policies = Policies(self._ip_sets)
        self._profiles = Profiles(self._ip_sets, self._items.contexts.knows_profile)
        self._endpoints = LocalEndpoints(self._items, self._policies, self._profiles)
        self._nodes = Nodes()
        self._pools = Pools()
        self._routes = Routes(node, self._nodes.infos)
        self._problems: dict[Key, str] = {}
        self._clean_names: dict[tuple[str, ...], bool] = {}
        self._host_endpoints: set[str] = set()
        self._network_sets: set[str] = set()
        self._local: dict[str, None] = {}
        self._synced = False
        self._first = True
        self._config: ResolvedConfig | None = None
        self._needs: EncapsulationNeeds | None = None
        self._handlers: dict[str, Callable[[Any, Any], None]] = {
            "WorkloadEndpoint": self._workload_endpoint,
            "HostEndpoint": self._host_endpoint,
            "NetworkSet": self._network_set,
            "GlobalNetworkSet": self._network_set,
            "Profile": self._profile,
            "Tier": self._tier,
            **dict.fromkeys(KINDS, self._policy),
            STAGED_KUBERNETES: self._staged_kubernetes_policy,
            "Node": self._node,
            "IPPool": self._pool,
            "KubernetesEndpointSlice": self._endpoint_slice,
            "FelixConfiguration": self._felix_configuration,
        }

    # ── the interface ────────────────────────────────────────────────────────────────────────────────────────────────

    @staticmethod
    def queries() -> tuple[Query, ...]:
        """What the datastore must deliver."""
        return (*(ResourceQuery(kind) for kind in _KINDS), BlockQuery())

    def update(self, events: Iterable[tuple[Key, Value | Malformed | None]]) -> None:
        """Take in present values. None means absent, and so does ``Malformed`` unless it says what counts instead.
        Any order, repeated, with spurious deletes.

        Never raises for what a value holds: what cannot be used is absent, and noted in ``problems``."""
        handlers, problems = self._handlers, self._problems
        on_block: Callable[[Any, Any], None] = self._block
        collecting = gc.isenabled()
        gc.disable()  # what is kept holds no cycles, and a large snapshot would be walked again and again
        try:
            for key, value in events:
                if type(key) is ResourceKey:
                    handler = handlers.get(key.kind)
                elif type(key) is BlockKey:
                    handler = on_block
                else:
                    continue
                if handler is None:
                    continue
                if problems:
                    problems.pop(key, None)
                reason = ""
                if type(value) is Malformed:
                    reason, value = value.reason, value.instead  # noqa: PLW2901
                try:
                    handler(key, value)
                except (ValueError, CalicoError) as exc:
                    handler(key, None)
                    reason = reason or (exc.what if isinstance(exc, CalicoError) else str(exc))
                if reason:
                    problems[key] = reason
        finally:
            if collecting:
                gc.enable()

    def in_sync(self) -> None:
        """Every existing record was delivered; ``flush`` works from now on."""
        self._synced = True

    def flush(self) -> Delta | None:
        """What changed since the last call, consistent in itself; None when nothing did, or before ``in_sync``.
        The first is ``full``."""
        if not self._synced:
            return None
        collecting = gc.isenabled()
        gc.disable()
        try:
            delta = self._take()
        finally:
            if collecting:
                gc.enable()
        self._first = False
        return delta if delta else None

    def snapshot(self) -> Delta:
        """The whole state as of the last ``flush``, as one ``full`` delta."""
        return Delta(
            full=True,
            config=self._config,
            needs=self._needs,
            ip_sets=MapDelta(upserts=self._ip_sets.snapshot()),
            policies=MapDelta(upserts=dict(self._policies.out.given)),
            profiles=MapDelta(upserts=dict(self._profiles.out.given)),
            workloads=MapDelta(upserts=dict(self._endpoints.workloads.given)),
            host_endpoints=MapDelta(upserts=dict(self._endpoints.host_endpoints.given)),
            routes=MapDelta(upserts=dict(self._routes.out.given)),
            vteps=MapDelta(upserts=dict(self._nodes.vteps.given)),
            pools=MapDelta(upserts=dict(self._pools.out.given)),
            hosts=MapDelta(upserts=dict(self._nodes.hosts.given)),
        )

    @property
    def problems(self) -> Mapping[Key, str]:
        """Key -> why the stored value counts as absent; for active policies and profiles also why they deny."""
        failed: dict[Key, str] = {ResourceKey(*policy): why for policy, why in list(self._policies.failed.items())}
        failed.update(
            (ResourceKey("Profile", "", name), f"denies: {why}") for name, why in list(self._profiles.failed.items())
        )
        unused = self._configuration.problems.items()
        failed.update((ResourceKey("FelixConfiguration", "", name), why) for name, why in list(unused))
        return {**failed, **self._problems}

    @property
    def stats(self) -> dict[str, float]:
        """Counts by Felix's metric names, without ``felix_``."""
        indexed, unindexed = self._ip_sets.selectors
        hosts, sets = len(self._host_endpoints), len(self._network_sets)
        return {
            "active_local_endpoints": len(self._endpoints),
            "active_local_policies": len(self._policies.out.given),
            "active_local_selectors": indexed + unindexed,
            "cluster_num_hosts": len(self._nodes.infos),
            "cluster_num_workload_endpoints": len(self._items) - hosts - sets,
            "cluster_num_host_endpoints": hosts,
            "cluster_num_policies": len(self._policies),
            "cluster_num_tiers": self._policies.tiers,
            "cluster_num_profiles": self._items.contexts.profiles,
            "label_index_num_endpoints": len(self._items),
            "label_index_num_active_selectors": indexed + unindexed,
        }

    # ── flush ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _take(self) -> Delta:
        self._endpoints.resolve(self._policies.resolve())
        self._profiles.resolve()
        config = self._configuration.resolve()
        changed_config = config if config is not self._config and config != self._config else None
        self._config = config
        self._choose_route_source(config.route_source == "WorkloadIPs")
        self._routes.resolve()
        needs = self._pools.needs(config)
        changed_needs = needs if needs != self._needs else None
        self._needs = needs
        ip_sets, ip_set_members = self._ip_sets.take()
        return Delta(
            full=self._first,
            config=changed_config,
            needs=changed_needs,
            ip_sets=ip_sets,
            ip_set_members=ip_set_members,
            policies=self._policies.out.take(),
            profiles=self._profiles.out.take(),
            workloads=self._endpoints.workloads.take(),
            host_endpoints=self._endpoints.host_endpoints.take(),
            routes=self._routes.out.take(),
            vteps=self._nodes.vteps.take(),
            pools=self._pools.out.take(),
            hosts=self._nodes.hosts.take(),
        )

    def _choose_route_source(self, from_workloads: bool) -> None:
        if from_workloads != self._routes.from_workloads:
            self._routes.from_workloads = from_workloads
            if from_workloads:
                for name, node, nets in self._items.workloads():
                    self._routes.put_workload(name, _as_tuple(nets), node)

    # ── one kind of record each; ``value`` None means absent; ValueError and CalicoError mean unusable ───────────────

    def _workload_endpoint(self, key: ResourceKey, value: WorkloadEndpoint | None) -> None:
        name = f"{key.namespace}/{key.name}"
        if value is None or not value.spec.ip_networks:
            self._items.drop(name)
            if name in self._local:
                self._forget_local(name, key)
            elif self._routes.from_workloads:
                self._routes.put_workload(name, (), "")
            return
        spec = value.spec
        networks = spec.ip_networks
        nets: Nets = bare(networks[0]) if len(networks) == 1 else tuple(dict.fromkeys(map(bare, networks)))
        labels: Mapping[str, str] = value.metadata.labels
        names = tuple(labels)
        clean = self._clean_names.get(names)
        if clean is None:
            if len(self._clean_names) > 10_000:
                self._clean_names.clear()
            clean = self._clean_names[names] = _is_clean(names)
        if not clean:
            labels = _own_labels(labels, key.namespace, spec.orchestrator, spec.service_account_name)
        context = (key.namespace, spec.orchestrator, spec.service_account_name, spec.profiles)
        ports = self._named_ports(spec.ports) if spec.ports else ()
        is_local = spec.node == self.node
        local = local_workload(value, _as_tuple(nets)) if is_local else None
        self._items.put(name, labels, context, nets, ports, spec.node)
        if local is not None:
            self._local[name] = None
            self._endpoints.put(key, dict(labels), context, local)
        elif name in self._local:
            self._forget_local(name, key)
        if is_local or self._routes.from_workloads:
            self._routes.put_workload(name, _as_tuple(nets), spec.node)

    def _forget_local(self, name: str, key: ResourceKey) -> None:
        self._local.pop(name, None)
        self._endpoints.drop(key)
        self._routes.put_workload(name, (), self.node)

    def _host_endpoint(self, key: ResourceKey, value: HostEndpoint | None) -> None:
        name = f"HostEndpoint//{key.name}"
        if value is None:
            self._items.drop(name)
            self._endpoints.drop(key)
            self._host_endpoints.discard(name)
            return
        spec = value.spec
        local = local_host_endpoint(key.name, spec)
        labels = value.metadata.labels
        context = ("", "", "", spec.profiles)
        nets: Nets = local.expected_addresses
        self._items.put(name, labels, context, nets[0] if len(nets) == 1 else nets, self._named_ports(spec.ports))
        self._host_endpoints.add(name)
        if spec.node == self.node:
            self._endpoints.put(key, dict(labels), context, local)
        else:
            self._endpoints.drop(key)

    def _network_set(self, key: ResourceKey, value: NetworkSet | GlobalNetworkSet | None) -> None:
        name = f"{key.kind}/{key.namespace}/{key.name}"
        if value is None:
            self._items.drop(name)
            self._network_sets.discard(name)
            return
        nets = members(value.spec.nets)
        labels: Mapping[str, str] = value.metadata.labels
        profiles: tuple[str, ...] = ()
        if key.namespace:
            labels = {label: text for label, text in labels.items() if label != NAMESPACE_LABEL}
            profiles = (NAMESPACE_PROFILE_PREFIX + key.namespace,)
        self._items.put(name, labels, (key.namespace, "", "", profiles), nets[0] if len(nets) == 1 else nets, ())
        self._network_sets.add(name)

    def _profile(self, key: ResourceKey, value: Profile | None) -> None:
        if self._items.set_profile(key.name, value.spec.labels_to_apply if value is not None else None):
            self._endpoints.profile_changed(key.name)
        self._profiles.put(key.name, value.spec if value is not None else None)

    def _tier(self, key: ResourceKey, value: Tier | None) -> None:
        self._policies.put_tier(key.name, value)

    def _policy(self, key: ResourceKey, value: Any) -> None:
        policy_id = PolicyId(sys.intern(key.kind), sys.intern(key.namespace), key.name)
        if value is None:
            self._policies.drop(policy_id)
        else:
            self._policies.put(policy_id, value)

    def _staged_kubernetes_policy(self, key: ResourceKey, value: StagedKubernetesNetworkPolicy | None) -> None:
        if value is None:
            self._policy(key, None)
        else:
            from calico_kernel.model.kubernetes import staged_policy  # rare, so not loaded before it is met

            self._policy(key, staged_policy(value))

    def _node(self, key: ResourceKey, value: Node | None) -> None:
        if key.name == self.node:
            self._configuration.put_labels(value.metadata.labels if value is not None else None)
        if self._nodes.put(key.name, value.spec if value is not None else None):
            self._routes.put_node(key.name, self._nodes.infos.get(key.name))

    def _pool(self, key: ResourceKey, value: IPPool | None) -> None:
        for cidr in self._pools.put(key.name, value.spec if value is not None else None):
            self._routes.put_pool(cidr, self._pools.infos.get(cidr))

    def _felix_configuration(self, key: ResourceKey, value: FelixConfiguration | None) -> None:
        self._configuration.put(key.name, value)

    def _block(self, key: BlockKey, value: AllocationBlock | None) -> None:
        self._routes.put_block(key.cidr, value)

    def _endpoint_slice(self, key: ResourceKey, value: KubernetesEndpointSlice | None) -> None:
        found = Slice.of(value) if value is not None else None
        self._ip_sets.services.put((key.namespace, key.name), found)

    def _named_ports(self, written: tuple[EndpointPort | WorkloadEndpointPort, ...]) -> Ports:
        """Named ports only: one without a name is there for its host port."""
        found: dict[NamedPort, None] = {}
        for port in written:
            if port.name:
                protocol = PORT_PROTOCOLS.get(protocol_number(port.protocol))
                if protocol is None:
                    raise ValueError(f"port {port.name!r}: protocol {port.protocol!r} has no ports")
                found[NamedPort(port.name, protocol, port.port)] = None
        return tuple(found)


def _as_tuple(nets: Nets) -> tuple[str, ...]:
    return (nets,) if isinstance(nets, str) else nets


def _is_clean(names: tuple[str, ...]) -> bool:
    """Whether a workload endpoint may bring all these labels itself."""
    return not any(name.startswith(_INHERITED) or name in _AUTOMATIC for name in names)


def _own_labels(
    labels: Mapping[str, str], namespace: str, orchestrator: str, service_account: str
) -> Mapping[str, str]:
    """Without what only profiles may give, and without what follows from the endpoint's identity."""
    known = {NAMESPACE_LABEL: namespace, ORCHESTRATOR_LABEL: orchestrator, SERVICE_ACCOUNT_LABEL: service_account}
    return {
        label: value for label, value in labels.items() if not label.startswith(_INHERITED) and not known.get(label)
    }
