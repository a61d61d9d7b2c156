"""Makers of resources in a line each, shared by the tests of this room as the fixture ``make``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from calico_kernel.calc import Calculator
from calico_kernel.model.endpoints import (
    HostEndpoint,
    HostEndpointSpec,
    Node,
    NodeBGPSpec,
    NodeSpec,
    WorkloadEndpoint,
    WorkloadEndpointPort,
    WorkloadEndpointSpec,
)
from calico_kernel.model.ipam import AllocationBlock, BlockAttributes
from calico_kernel.model.keys import BlockKey, Key, ResourceKey
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.network import GlobalNetworkSet, IPPool, IPPoolSpec, NetworkSet, NetworkSetSpec
from calico_kernel.model.policy import (
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    NetworkPolicy,
    NetworkPolicySpec,
    Profile,
    ProfileSpec,
    StagedGlobalNetworkPolicy,
    StagedGlobalNetworkPolicySpec,
    Tier,
    TierSpec,
)
from calico_kernel.model.services import KubernetesEndpointSlice, SliceEndpoint, SlicePort
from calico_kernel.testing.folded import FoldedState

Event = tuple[Key, Any]


def workload(
    name: str,
    *addresses: str,
    node: str = "n1",
    namespace: str = "ns1",
    labels: dict[str, str] | None = None,
    ports: tuple[tuple[str, str, int], ...] = (),
    **spec: Any,
) -> Event:
    key = ResourceKey("WorkloadEndpoint", namespace, name)
    value = WorkloadEndpoint(
        metadata=ObjectMeta(name=name, namespace=namespace, labels=labels or {}),
        spec=WorkloadEndpointSpec(
            orchestrator="k8s",
            node=node,
            pod=name,
            endpoint="eth0",
            interface_name=f"cali{name}",
            ip_networks=addresses,
            ports=tuple(WorkloadEndpointPort(name=n, protocol=p, port=number) for n, p, number in ports),
            **spec,
        ),
    )
    return key, value


def host_endpoint(name: str, node: str = "n1", labels: dict[str, str] | None = None, **spec: Any) -> Event:
    value = HostEndpoint(
        metadata=ObjectMeta(name=name, labels=labels or {}),
        spec=HostEndpointSpec(node=node, interface_name="eth0", **spec),
    )
    return ResourceKey("HostEndpoint", "", name), value


def network_set(name: str, *nets: str, namespace: str = "", labels: dict[str, str] | None = None) -> Event:
    kind = NetworkSet if namespace else GlobalNetworkSet
    metadata = ObjectMeta(name=name, namespace=namespace, labels=labels or {})
    value = kind(metadata=metadata, spec=NetworkSetSpec(nets=nets))
    return ResourceKey(value.kind, namespace, name), value


def global_policy(name: str, selector: str = "all()", **spec: Any) -> Event:
    value = GlobalNetworkPolicy(metadata=ObjectMeta(name=name), spec=GlobalNetworkPolicySpec(selector=selector, **spec))
    return ResourceKey("GlobalNetworkPolicy", "", name), value


def staged_policy(name: str, **spec: Any) -> Event:
    value = StagedGlobalNetworkPolicy(
        metadata=ObjectMeta(name=name), spec=StagedGlobalNetworkPolicySpec(selector="all()", **spec)
    )
    return ResourceKey("StagedGlobalNetworkPolicy", "", name), value


def policy(name: str, namespace: str = "ns1", **spec: Any) -> Event:
    metadata = ObjectMeta(name=name, namespace=namespace)
    return ResourceKey("NetworkPolicy", namespace, name), NetworkPolicy(
        metadata=metadata, spec=NetworkPolicySpec(**spec)
    )


def profile(name: str, **spec: Any) -> Event:
    return ResourceKey("Profile", "", name), Profile(metadata=ObjectMeta(name=name), spec=ProfileSpec(**spec))


def tier(name: str, order: float | None = None, action: Any = None) -> Event:
    value = Tier(metadata=ObjectMeta(name=name), spec=TierSpec(order=order, default_action=action))
    return ResourceKey("Tier", "", name), value


def node(name: str, address: str = "", ipip: str = "", **spec: Any) -> Event:
    bgp = NodeBGPSpec(ipv4_address=address, ipv4_ipip_tunnel_addr=ipip) if address or ipip else None
    return ResourceKey("Node", "", name), Node(metadata=ObjectMeta(name=name), spec=NodeSpec(bgp=bgp, **spec))


def pool(name: str, cidr: str, **spec: Any) -> Event:
    value = IPPool(metadata=ObjectMeta(name=name), spec=IPPoolSpec(cidr=cidr, **spec))
    return ResourceKey("IPPool", "", name), value


def block(cidr: str, affinity: str | None, held: dict[int, str] | None = None) -> Event:
    """``held``: ordinal -> node that holds the address."""
    held = held or {}
    allocations: list[int | None] = [None] * (max(held, default=-1) + 1)
    attributes = []
    for ordinal, holder in held.items():
        allocations[ordinal] = len(attributes)
        attributes.append(BlockAttributes(handle_id="h", secondary={"node": holder}))
    value = AllocationBlock(cidr=cidr, affinity=affinity, allocations=tuple(allocations), attributes=tuple(attributes))
    return BlockKey(cidr), value


def endpoint_slice(name: str, service: str, addresses: tuple[str, ...], *ports: tuple[str | None, int | None]) -> Event:
    value = KubernetesEndpointSlice(
        metadata=ObjectMeta(name=name, namespace="ns1", labels={"kubernetes.io/service-name": service}),
        endpoints=(SliceEndpoint(addresses=addresses),),
        ports=tuple(SlicePort(protocol=protocol, port=port) for protocol, port in ports),
    )
    return ResourceKey("KubernetesEndpointSlice", "ns1", name), value


class Node1:
    """A calculator for node n1 with the state that its deltas add up to."""

    def __init__(self, *events: Event) -> None:
        self.calculator = Calculator("n1")
        self.state = FoldedState()
        self.calculator.update(events)
        self.calculator.in_sync()
        self.flush()

    def flush(self) -> Any:
        delta = self.calculator.flush()
        if delta is not None:
            self.state.apply(delta)
        return delta

    def update(self, *events: Event) -> Any:
        self.calculator.update(events)
        return self.flush()

    def members(self, set_id: str) -> set[str]:
        found: set[str] = self.state.maps["ip_sets"][set_id][1]
        return found

    def __getattr__(self, name: str) -> Any:
        return self.state.maps[name]


@pytest.fixture
def make() -> SimpleNamespace:
    return SimpleNamespace(
        workload=workload,
        host_endpoint=host_endpoint,
        network_set=network_set,
        global_policy=global_policy,
        staged_policy=staged_policy,
        policy=policy,
        profile=profile,
        tier=tier,
        node=node,
        pool=pool,
        block=block,
        endpoint_slice=endpoint_slice,
        node1=Node1,
        gone=lambda event: (event[0], None),
    )
