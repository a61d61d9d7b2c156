"""Situations for the dataplane kit: small clusters whose packets tell one rule, field or referent from another.

In:   a world of ``calico_kernel.testing.dataplane``.   Out: resources and packets.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from ipaddress import ip_address
from random import Random
from typing import Protocol

from msgspec.structs import replace

from calico_kernel.model.endpoints import WorkloadEndpoint, WorkloadEndpointPort
from calico_kernel.model.meta import ObjectMeta, Resource
from calico_kernel.model.network import GlobalNetworkSet, NetworkSetSpec
from calico_kernel.model.policy import (
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    IcmpFields,
    Profile,
    ProfileSpec,
    Rule,
    ServiceAccountMatch,
    ServiceMatch,
    Tier,
    TierSpec,
)
from calico_kernel.model.services import SERVICE_NAME_LABEL, KubernetesEndpointSlice, SliceEndpoint, SlicePort
from calico_kernel.policy.matching import Packet
from calico_kernel.testing import generators


class Places(Protocol):
    """The part of a world that situations are made of."""

    local: Sequence[int]
    remote: Sequence[int]
    versions: Sequence[int]

    def nodes(self) -> list[Resource]: ...
    def workload(self, rng: Random, number: int, *, flaws: bool = False) -> WorkloadEndpoint: ...
    def ends(self, *, node: bool = False) -> dict[str, str]: ...


def addresses(world: Places, *, node: bool = False) -> list[tuple[int, str]]:
    """The ends of the world, as ``generators.packet`` takes them."""
    return [(ip_address(address).version, address) for address in world.ends(node=node)]


def random_cluster(rng: Random, world: Places) -> list[Resource]:
    return [
        *generators.surroundings(rng),
        *(world.workload(rng, number, flaws=True) for number in (*world.local, *world.remote)),
        *generators.policies(rng, 5, flaws=True),
    ]


APPS = generators.LABELS["app"]
"""Label ``app`` of workloads 1, 2, 3, and round again."""


def quiet_cluster(world: Places) -> list[Resource]:
    """All workloads in one namespace that allows everything. w2 runs as robot; outside has a friend; all named ports
    exist; service web is w2's port 80 and w1's."""
    allow = (Rule(action="Allow"),)
    friends = tuple(generators.OUTSIDE[version][0] for version in (4, 6))
    return [
        *world.nodes(),
        Tier(metadata=ObjectMeta(name="default"), spec=TierSpec(order=1_000_000.0)),
        Profile(metadata=ObjectMeta(name="kns.blue"), spec=ProfileSpec(ingress=allow, egress=allow)),
        GlobalNetworkSet(metadata=ObjectMeta(name="g", labels={"kind": "friend"}), spec=NetworkSetSpec(nets=friends)),
        *(
            KubernetesEndpointSlice(
                metadata=ObjectMeta(name=f"web-{version}", namespace="blue", labels={SERVICE_NAME_LABEL: "web"}),
                address_type=f"IPv{version}",
                endpoints=(SliceEndpoint(addresses=(generators.workload_address(2, version),)),),
                ports=(SlicePort(port=80),),
            )
            for version in (4, 6)
        ),
        *(_plain(world.workload(Random(number), number), number) for number in (*world.local, *world.remote)),
    ]


def _plain(endpoint: WorkloadEndpoint, number: int) -> WorkloadEndpoint:
    ports = tuple(WorkloadEndpointPort(name=n, protocol=p, port=port) for n, p, port in generators.NAMED_PORTS)
    account = "robot" if number == 2 else ""
    return replace(
        endpoint,
        metadata=replace(endpoint.metadata, namespace="blue", labels={"app": APPS[number % 3 - 1]}),
        spec=replace(endpoint.spec, profiles=("kns.blue",), service_account_name=account, ports=ports),
    )


def relabelled(endpoint: WorkloadEndpoint, app: str, *, named_ports: bool = True) -> WorkloadEndpoint:
    """The same workload under another app, with or without its named ports."""
    return replace(
        endpoint,
        metadata=replace(endpoint.metadata, labels={"app": app}),
        spec=endpoint.spec if named_ports else replace(endpoint.spec, ports=()),
    )


def shut(
    *ingress: Rule, name: str = "shut", selector: str = "has(app)", tier: str = "default", order: float | None = None
) -> GlobalNetworkPolicy:
    """A policy that lets in only what ``ingress`` allows."""
    spec = GlobalNetworkPolicySpec(selector=selector, types=("Ingress",), ingress=ingress, tier=tier, order=order)
    return GlobalNetworkPolicy(metadata=ObjectMeta(name=name), spec=spec)


_fresh = itertools.cycle(range(20_000, 60_000))
"""Source ports: a flow must not be seen twice by connection tracking, whichever test sends it."""


def every_packet(world: Places, *, ports: Sequence[int] = (80,)) -> list[Packet]:
    """From every end to every local workload, each protocol, each version; new flows at every call."""
    made: list[Packet] = []
    for version in world.versions:
        here = [generators.workload_address(number, version) for number in world.local]
        ends = [*here, generators.workload_address(world.remote[0], version), generators.OUTSIDE[version][0]]
        for source, destination in itertools.product(ends, here):
            if source == destination:
                continue
            made.append(Packet.echo(source, destination))
            made.append(Packet(source, destination, "UDPLite", next(_fresh), ports[0]))
            made += [
                Packet(source, destination, protocol, next(_fresh), port)
                for protocol in ("TCP", "UDP", "SCTP")
                for port in ports
            ]
    return made


FIELD_PORTS = (53, 80, 8080)
"""Destination ports that tell the rules below apart."""

_MANY = (1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, "70:79", 53)
"""More than fit one multiport match of xt_multiport (15, a range counting twice)."""


def _to(**fields: object) -> EntityRule:
    return EntityRule(**fields)  # type: ignore[arg-type]


FIELD_RULES: tuple[Rule, ...] = tuple(
    Rule(action="Allow", **fields)
    for fields in (
        {"ip_version": 4},
        {"ip_version": 6},
        {"protocol": "TCP"},
        {"protocol": 17},
        {"protocol": "UDPLite"},
        {"not_protocol": "TCP"},
        {"not_protocol": 132},
        {"protocol": "ICMP", "icmp": IcmpFields(type=8)},
        {"protocol": "ICMP", "icmp": IcmpFields(type=8, code=0)},
        {"protocol": "ICMP", "icmp": IcmpFields(type=8, code=1)},
        {"protocol": "ICMP", "icmp": IcmpFields(type=13)},
        {"protocol": "ICMPv6", "icmp": IcmpFields(type=128)},
        {"protocol": "ICMPv6", "icmp": IcmpFields(type=129)},
        {"protocol": "ICMP", "not_icmp": IcmpFields(type=8)},
        {"protocol": "ICMP", "not_icmp": IcmpFields(type=8, code=1)},
        {"protocol": "ICMPv6", "not_icmp": IcmpFields(type=128)},
        {"protocol": "TCP", "destination": _to(ports=(80,))},
        {"protocol": "UDP", "destination": _to(ports=("79:81", 53))},
        {"protocol": "SCTP", "destination": _to(ports=_MANY)},
        {"protocol": "TCP", "destination": _to(not_ports=(80,))},
        {"protocol": "TCP", "destination": _to(not_ports=_MANY)},
        {"protocol": "TCP", "source": _to(ports=("20000:40000",))},
        {"protocol": "UDP", "source": _to(not_ports=("20000:65535",))},
        {"protocol": "TCP", "destination": _to(ports=("http",))},
        {"destination": _to(ports=("dns",))},
        {"protocol": "TCP", "destination": _to(ports=("dns", 80))},
        {"protocol": "TCP", "destination": _to(ports=("http",), selector="app == 'web'")},
        {"protocol": "TCP", "destination": _to(ports=("http", 80), selector="app == 'web'")},
        {"protocol": "TCP", "destination": _to(not_ports=("http",))},
        {"destination": _to(not_ports=("dns", "http"))},
        {"protocol": "TCP", "destination": _to(ports=("53:8080",), not_ports=("http", 80))},
        {"source": _to(nets=("10.65.0.0/30",))},
        {"source": _to(nets=("10.65.0.1/32", "198.51.100.0/24", "10.65.0.2/32"))},
        {"source": _to(nets=("fd00:10:65::/126",))},
        {"source": _to(not_nets=("10.65.0.1/32",))},
        {"source": _to(not_nets=("fd00:10:65::/112",))},
        {"source": _to(nets=("10.65.0.0/24",), not_nets=("10.65.0.2/32", "10.65.0.3/32"))},
        {"destination": _to(nets=("10.65.0.2/32",)), "source": _to(nets=("10.65.0.0/24", "198.51.100.0/24"))},
        {"destination": _to(not_nets=("10.65.0.2/32",))},
        {"source": _to(selector="app == 'web'")},
        {"source": _to(selector="kind == 'friend' || app == 'db'")},
        {"source": _to(not_selector="app == 'web'")},
        {"source": _to(selector="has(app)", not_selector="app == 'web'")},
        {"destination": _to(selector="app != 'api'")},
        {"destination": _to(not_selector="app == 'db'")},
        {"source": _to(namespace_selector="all()")},
        {"source": _to(namespace_selector="global()")},
        {"source": _to(service_accounts=ServiceAccountMatch(names=("robot",)))},
        {"source": _to(services=ServiceMatch(name="web", namespace="blue"))},
        {"source": _to(services=ServiceMatch(name="none", namespace="blue"))},
    )
)


def field_policies() -> list[list[Resource]]:
    """Rounds of policies that try every rule of ``FIELD_RULES``, one for each app at a time."""
    rules = [*FIELD_RULES, *[Rule(action="Log")] * (-len(FIELD_RULES) % len(APPS))]
    return [
        [shut(rule, name=f"shut-{app}", selector=f"app == '{app}'") for app, rule in zip(APPS, some, strict=True)]
        for some in zip(*[iter(rules)] * len(APPS), strict=True)
    ]


EGRESS_SERVICE = GlobalNetworkPolicy(
    metadata=ObjectMeta(name="to-service"),
    spec=GlobalNetworkPolicySpec(
        selector="app == 'web'",
        types=("Egress",),
        egress=(Rule(action="Allow", destination=EntityRule(services=ServiceMatch(name="web", namespace="blue"))),),
    ),
)
"""Workloads of app web may open flows to service web only, with its protocol and port."""
