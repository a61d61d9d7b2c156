"""Calculation against definition: random clusters through two nodes' calculators give the verdicts of
``policy.verdict``, after the first snapshot and after every change."""

from __future__ import annotations

from random import Random
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
from calico_kernel.model.keys import ResourceKey
from calico_kernel.model.meta import ObjectMeta, Resource
from calico_kernel.model.network import GlobalNetworkSet, NetworkSetSpec
from calico_kernel.model.policy import GlobalNetworkPolicy, GlobalNetworkPolicySpec
from calico_kernel.policy.matching import Packet
from calico_kernel.policy.verdict import Cluster, verdict
from calico_kernel.testing import generators as g
from calico_kernel.testing.memory_dataplane import MemoryDataplane

NODES = {"n1": "172.30.0.1", "n2": "172.30.0.2"}


def key_of(resource: Resource) -> ResourceKey:
    return ResourceKey(resource.kind, resource.metadata.namespace, resource.metadata.name)


class TwoNodes:
    """Both nodes' calculators and dataplanes over one changing set of resources."""

    def __init__(self) -> None:
        self.resources: dict[ResourceKey, Resource] = {}
        self.nodes = {name: (Calculator(name), MemoryDataplane(name)) for name in NODES}

    def change(self, *upserts: Resource, gone: tuple[ResourceKey, ...] = ()) -> None:
        for key in gone:
            self.resources.pop(key, None)
        self.resources.update({key_of(resource): resource for resource in upserts})
        events = [*((key, None) for key in gone), *((key_of(r), r) for r in upserts)]
        for calculator, dataplane in self.nodes.values():
            calculator.update(events)
            calculator.in_sync()
            delta = calculator.flush()
            if delta is not None:
                dataplane.update(delta)
            assert not dataplane.apply().failures
            whole = MemoryDataplane(dataplane.node)
            whole.update(calculator.snapshot())
            assert whole.desired == dataplane.desired

    def removable(self) -> list[ResourceKey]:
        return [key for key in self.resources if key.kind != "Node"]

    def holders(self, endpoint: WorkloadEndpoint) -> tuple[ResourceKey, ...]:
        """Workload endpoints that have the addresses of ``endpoint``."""
        return tuple(
            key
            for key, r in self.resources.items()
            if isinstance(r, WorkloadEndpoint) and r.spec.ip_networks == endpoint.spec.ip_networks
        )

    def passes(self, packet: Packet) -> bool:
        return all(dataplane.passes(packet) for _, dataplane in self.nodes.values())

    def check(self, rng: Random, count: int) -> None:
        resources = list(self.resources.values())
        cluster = Cluster.from_resources(resources, uplinks=dict.fromkeys(NODES, "eth0"))
        addresses = [*g.addresses_of(resources), *((4, address) for address in NODES.values())]
        for packet in g.packets(rng, addresses, count):
            expected = verdict(packet, cluster)
            assert self.passes(packet) is expected.allowed, f"{packet}: {expected.reason}"


def nodes() -> list[Resource]:
    return [
        Node(metadata=ObjectMeta(name=name), spec=NodeSpec(bgp=NodeBGPSpec(ipv4_address=f"{address}/24")))
        for name, address in NODES.items()
    ]


@pytest.mark.parametrize("seed", range(60))
def test_first_snapshot_enforces_what_the_definition_says(seed: int) -> None:
    rng, pair = Random(seed), TwoNodes()
    pair.change(*nodes(), *g.cluster(rng))
    pair.check(rng, 40)


@pytest.mark.parametrize("seed", range(25))
def test_every_change_keeps_calculation_and_definition_together(seed: int) -> None:
    rng, pair = Random(1000 + seed), TwoNodes()
    pair.change(*nodes(), *g.cluster(rng))
    for number in range(12):
        match rng.randrange(5):
            case 0:
                pair.change(g.policy(rng, rng.randrange(8), flaws=True))
            case 1:
                moved = g.workload(rng, rng.randint(1, 5), node=rng.choice(list(NODES)), flaws=True)
                pair.change(moved, gone=pair.holders(moved))
            case 2:
                pair.change(*rng.sample(g.surroundings(rng), 3))
            case 3:
                pair.change(gone=tuple(rng.sample(pair.removable(), 2)))
            case _:
                pair.change(*g.policies(rng, 3), gone=tuple(rng.sample(pair.removable(), number % 2)))
        pair.check(rng, 10)


@pytest.mark.parametrize("seed", range(30))
def test_host_endpoints_and_their_hooks_follow_the_definition(seed: int) -> None:
    rng, pair = Random(2000 + seed), TwoNodes()
    endpoints = []
    for name, address in NODES.items():
        interface = rng.choice(("eth0", "*", ""))
        own = () if interface else (address,)
        endpoints.append(g.host_endpoint(rng, node=name, interface=interface, addresses=own))
    pair.change(*nodes(), *g.cluster(rng, flaws=False), *endpoints, *(g.host_policy(rng, n) for n in range(4)))
    pair.check(rng, 60)


def test_workload_that_moves_between_nodes_is_policed_where_it_is() -> None:
    rng, pair = Random(7), TwoNodes()
    pair.change(*nodes(), *g.cluster(rng, workloads=2))
    moved = next(r for r in pair.resources.values() if isinstance(r, WorkloadEndpoint))
    pair.change(g.workload(rng, 1, node="n2"), gone=(key_of(moved),))
    pair.check(rng, 60)


def workload(**spec: Any) -> WorkloadEndpoint:
    spec = {"node": "n1", "interface_name": "cali9", "ip_networks": ("10.65.0.9",), **spec}
    return WorkloadEndpoint(metadata=ObjectMeta(name="odd", namespace="blue"), spec=WorkloadEndpointSpec(**spec))


def policy(**spec: Any) -> GlobalNetworkPolicy:
    return GlobalNetworkPolicy(metadata=ObjectMeta(name="odd"), spec=GlobalNetworkPolicySpec(**spec))


def network_set(*nets: str) -> GlobalNetworkSet:
    return GlobalNetworkSet(metadata=ObjectMeta(name="odd"), spec=NetworkSetSpec(nets=nets))


def host_endpoint(*addresses: str) -> HostEndpoint:
    return HostEndpoint(metadata=ObjectMeta(name="odd"), spec=HostEndpointSpec(node="n1", expected_ips=addresses))


@pytest.mark.parametrize(
    ("resource", "readable"),
    [
        (workload(), True),
        (workload(ip_networks=("10.65.0.9/32", "fd00:10:65::9/128")), True),
        (workload(ip_networks=("10.65.0.9/24",)), False),
        (workload(ip_networks=("10.65.0.999",)), False),
        (workload(ports=(WorkloadEndpointPort(name="a", protocol="GRE", port=1),)), False),
        (workload(ports=(WorkloadEndpointPort(name="a", protocol="UDPLite", port=1),)), False),
        (workload(ports=(WorkloadEndpointPort(name="a", protocol=132, port=1),)), True),
        (policy(selector="app == 'web'"), True),
        (policy(selector="app =="), False),
        (policy(namespace_selector="("), False),
        (policy(service_account_selector="("), False),
        (network_set("10.0.0.0/8", "fd00::/8", "0.0.0.0/0"), True),
        (network_set("10.0.0.0/8", "10.0.0.0/33"), False),
        (host_endpoint("172.30.0.1", "fd00::1"), True),
        (host_endpoint("172.30.0.1", "node"), False),
    ],
)
def test_what_cannot_be_read_counts_as_absent_for_both(resource: Resource, readable: bool) -> None:
    calculator = Calculator("n1")
    calculator.update([(key_of(resource), resource)])
    calculator.in_sync()
    calculator.flush()
    assert (key_of(resource) not in calculator.problems) is readable
    assert (not Cluster.from_resources([resource]).rejected) is readable
