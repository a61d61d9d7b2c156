"""Everything that decides packets, found in a pile of resources: who holds which address, and which policies there are.

In:   resources of the model, in any order, of any kind (those without a part in policy are passed over).
Out:  Cluster, to ``policy.verdict`` and ``policy.explain``.

What does not exist is left out here and has its meaning there: a missing profile or tier denies. A policy whose own
selector cannot be read, and any other resource that cannot, counts as absent and is listed in ``rejected``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_interface
from typing import Any, TypeVar

import attrs

from calico_kernel.errors import ValidationError
from calico_kernel.model.endpoints import EndpointPort, HostEndpoint, Node, WorkloadEndpoint, WorkloadEndpointPort
from calico_kernel.model.felix import FelixConfiguration, FelixConfigurationSpec
from calico_kernel.model.meta import Resource
from calico_kernel.model.network import GlobalNetworkSet, NetworkSet
from calico_kernel.model.policy import GlobalNetworkPolicy, NetworkPolicy, Profile, Tier
from calico_kernel.model.services import KubernetesEndpointSlice
from calico_kernel.model.wellknown import DEFAULT_ALLOW_PROFILE
from calico_kernel.policy.effective import (
    ALLOW_ALL,
    PROTOCOL_NUMBERS,
    EffectivePolicy,
    EffectiveProfile,
    Network,
    effective_policy,
    effective_profile,
    parse_net,
    protocol_number,
)
from calico_kernel.policy.labels import (
    host_endpoint_labels,
    inherit,
    network_set_labels,
    network_set_profiles,
    workload_labels,
)
from calico_kernel.policy.order import default_action, ordered_tiers

Address = IPv4Address | IPv6Address
R = TypeVar("R", bound=Resource)
T = TypeVar("T")


_KIND_NAMES = {
    "WorkloadEndpoint": "workload",
    "HostEndpoint": "host endpoint",
    "NetworkSet": "network set",
    "GlobalNetworkSet": "global network set",
}


@attrs.frozen(kw_only=True, slots=True)
class NamedPort:
    name: str
    protocol: int
    port: int


@attrs.frozen(kw_only=True, slots=True)
class Endpoint:
    """A workload or host endpoint, or a network set: something with labels that holds addresses.

    kind, namespace, name:  of its resource.   node: where it lives ("" for a network set).
    labels:     with what its profiles hand down.   profiles: in the order of its resource.
    addresses:  its own, each a single one.   nets: prefixes, of a network set only.
    interface:  of a host endpoint: a name, "*" for all, or "" when its addresses say which one is meant.
    workload:   what a workload endpoint belongs to, by the name that people use: the pod's.
    """

    kind: str
    namespace: str
    name: str
    labels: Mapping[str, str] = attrs.field(hash=False)
    node: str = ""
    profiles: tuple[str, ...] = ()
    addresses: tuple[Address, ...] = ()
    nets: tuple[Network, ...] = ()
    ports: tuple[NamedPort, ...] = ()
    interface: str = ""
    workload: str = ""

    def __str__(self) -> str:
        name = self.workload or self.name
        return (
            f"{_KIND_NAMES[self.kind]} {self.namespace}/{name}"
            if self.namespace
            else f"{_KIND_NAMES[self.kind]} {name}"
        )

    def holds(self, address: Address) -> bool:
        return address in self.addresses or any(address in net for net in self.nets)


@attrs.frozen(kw_only=True, slots=True)
class Failsafe:
    """A port of the host that policy cannot close. ``net``: only for peers in it; None for all."""

    protocol: int
    port: int
    net: Network | None = None


def _failsafes(text: str) -> tuple[Failsafe, ...]:
    pairs = [entry.split(":") for entry in text.split(",")]
    return tuple(Failsafe(protocol=PROTOCOL_NUMBERS[protocol], port=int(port)) for protocol, port in pairs)


DEFAULT_FAILSAFE_INBOUND = _failsafes(
    "tcp:22,udp:68,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667",
)
DEFAULT_FAILSAFE_OUTBOUND = _failsafes(
    "udp:53,udp:67,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667",
)


@attrs.frozen(kw_only=True, slots=True)
class HostSettings:
    """What node configuration has to say in a verdict. The defaults are Calico's.

    endpoint_to_host_action:  for packets of a workload to its own node, once its egress policy allowed them: "Drop",
                              "Accept", or "Return" (the host's own rules decide; counted as accepted here).
    allow_vxlan_from_workloads, allow_ipip_from_workloads: whether workloads may send tunnel packets of their own.
    """

    failsafe_inbound: tuple[Failsafe, ...] = DEFAULT_FAILSAFE_INBOUND
    failsafe_outbound: tuple[Failsafe, ...] = DEFAULT_FAILSAFE_OUTBOUND
    endpoint_to_host_action: str = "Drop"
    vxlan_port: int = 4789
    allow_vxlan_from_workloads: bool = False
    allow_ipip_from_workloads: bool = False

    @classmethod
    def from_spec(cls, spec: FelixConfigurationSpec) -> HostSettings:
        """What a FelixConfiguration sets; defaults for the rest. Raises ValueError on what cannot be read."""
        given: dict[str, Any] = {
            "endpoint_to_host_action": spec.default_endpoint_to_host_action.capitalize() or None,
            "vxlan_port": spec.vxlan_port,
            "allow_vxlan_from_workloads": spec.allow_vxlan_packets_from_workloads,
            "allow_ipip_from_workloads": spec.allow_ipip_packets_from_workloads,
        }
        for side in ("inbound", "outbound"):
            ports = getattr(spec, f"failsafe_{side}_host_ports")
            if ports is not None:
                given[f"failsafe_{side}"] = tuple(
                    Failsafe(
                        protocol=protocol_number(port.protocol or "TCP"),
                        port=port.port,
                        net=parse_net(port.net) if port.net else None,
                    )
                    for port in ports
                )
        return cls(**{name: value for name, value in given.items() if value is not None})


@attrs.frozen(kw_only=True, slots=True)
class OrderedTier:
    """A tier with its policies in order. ``stored``: False when policies name a tier that does not exist."""

    name: str
    default_action: str
    policies: tuple[EffectivePolicy, ...]
    stored: bool = True


@attrs.frozen(slots=True)
class Service:
    """What stands behind a service: ``addresses`` count where it is a source, ``endpoints`` (address, protocol number,
    port) where it is a destination."""

    addresses: frozenset[Address] = frozenset()
    endpoints: frozenset[tuple[Address, int, int]] = frozenset()


NO_SERVICE = Service()


@attrs.frozen(kw_only=True)
class Cluster:
    """The state that a verdict depends on.

    tiers:           in order, each with its policies in order; staged policies are not in it.
    profiles:        by name; the built-in one is always there.
    workloads, host_endpoints, network_sets: sorted by name.
    node_addresses:  of the nodes themselves (their networks' and tunnels' ends).
    uplinks:         node -> name of the interface that its traffic with other nodes and the outside takes.
    services:        by (namespace, name).
    rejected:        (resource, reason) of those that count as absent because they cannot be read.
    """

    tiers: Sequence[OrderedTier] = ()
    profiles: Mapping[str, EffectiveProfile] = attrs.field(factory=dict)
    workloads: Sequence[Endpoint] = ()
    host_endpoints: Sequence[Endpoint] = ()
    network_sets: Sequence[Endpoint] = ()
    node_addresses: Mapping[Address, str] = attrs.field(factory=dict)
    uplinks: Mapping[str, str] = attrs.field(factory=dict)
    services: Mapping[tuple[str, str], Service] = attrs.field(factory=dict)
    settings: HostSettings = HostSettings()
    rejected: Sequence[tuple[str, str]] = ()
    _by_address: dict[Address, list[Endpoint]] = attrs.field(init=False, repr=False, eq=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        for endpoint in (*self.workloads, *self.host_endpoints):
            for address in endpoint.addresses:
                self._by_address.setdefault(address, []).append(endpoint)

    @classmethod
    def from_resources(
        cls,
        resources: Iterable[Resource],
        *,
        settings: HostSettings | None = None,
        uplinks: Mapping[str, str] | None = None,
        services: Mapping[tuple[str, str], Service] | None = None,
    ) -> Cluster:
        """``uplinks`` and ``services`` add to what the resources say; ``settings`` replaces it (which is that of the
        FelixConfiguration ``default``)."""
        found = sorted(resources, key=lambda resource: (resource.metadata.namespace, resource.metadata.name))
        profiles = {r.metadata.name: r for r in found if isinstance(r, Profile)}
        handed_down = {name: profile.spec.labels_to_apply for name, profile in profiles.items()}

        rejected: list[tuple[str, str]] = []
        policies = [
            *_readable(found, NetworkPolicy, effective_policy, rejected),
            *_readable(found, GlobalNetworkPolicy, effective_policy, rejected),
        ]
        workloads = _readable(found, WorkloadEndpoint, _workload, rejected)
        host_endpoints = _readable(found, HostEndpoint, _host_endpoint, rejected)
        network_sets = [
            *_readable(found, NetworkSet, _network_set, rejected),
            *_readable(found, GlobalNetworkSet, _network_set, rejected),
        ]

        def with_inherited(endpoints: Sequence[Endpoint]) -> list[Endpoint]:
            return [
                attrs.evolve(
                    endpoint,
                    labels=inherit(endpoint.labels, (handed_down[n] for n in endpoint.profiles if n in handed_down)),
                )
                for endpoint in endpoints
            ]

        return cls(
            tiers=_ordered_tiers(policies, {r.metadata.name: r for r in found if isinstance(r, Tier)}),
            profiles={
                **{name: effective_profile(profile) for name, profile in profiles.items()},
                DEFAULT_ALLOW_PROFILE: EffectiveProfile(
                    name=DEFAULT_ALLOW_PROFILE, inbound=ALLOW_ALL, outbound=ALLOW_ALL
                ),
            },
            # A workload without an address does not exist for policy.
            workloads=with_inherited([endpoint for endpoint in workloads if endpoint.addresses]),
            host_endpoints=with_inherited(host_endpoints),
            network_sets=with_inherited(network_sets),
            node_addresses=_node_addresses(found),
            uplinks={**_uplinks(found), **(uplinks or {})},
            services={**_services(found), **(services or {})},
            settings=settings or _settings(found, rejected),
            rejected=rejected,
        )

    def holders(self, address: Address) -> list[Endpoint]:
        """Every endpoint and network set that holds ``address``: what a selector in a rule can see there."""
        return [
            *self._by_address.get(address, ()),
            *(network_set for network_set in self.network_sets if network_set.holds(address)),
        ]

    def workload_at(self, address: Address) -> Endpoint | None:
        """The workload endpoint with ``address``; the first by name where several claim it."""
        return next((e for e in self._by_address.get(address, ()) if e.kind == "WorkloadEndpoint"), None)

    def node_at(self, address: Address) -> str:
        """The node that has ``address`` as its own, "" when none is known to."""
        if address in self.node_addresses:
            return self.node_addresses[address]
        return next((e.node for e in self._by_address.get(address, ()) if e.kind == "HostEndpoint"), "")

    def uplink_of(self, node: str) -> Endpoint | None:
        """The host endpoint that governs what ``node`` exchanges with the network; None when none does.

        One of the interface's name, or without a name but with an address of the node, governs it, the first by name
        if several do; else the one for all interfaces. Where the interface is not known, any named one is meant.
        """
        here = [endpoint for endpoint in self.host_endpoints if endpoint.node == node]
        uplink = self.uplinks.get(node, "")
        for endpoint in here:
            if endpoint.interface == "*":
                continue
            if endpoint.interface:
                if uplink in ("", endpoint.interface):
                    return endpoint
            elif any(self.node_addresses.get(address, node) == node for address in endpoint.addresses):
                return endpoint
        return next((endpoint for endpoint in here if endpoint.interface == "*"), None)


def _readable(
    resources: Sequence[Resource],
    kind: type[R],
    read: Callable[[R], T],
    rejected: list[tuple[str, str]],
) -> list[T]:
    """What ``read`` makes of the resources of one kind; those that make no sense count as absent."""
    made = []
    for resource in resources:
        if isinstance(resource, kind):
            try:
                made.append(read(resource))
            except (ValidationError, ValueError) as exc:
                rejected.append((f"{resource.kind} {resource.metadata.name}", str(exc)))
    return made


def _settings(resources: Sequence[Resource], rejected: list[tuple[str, str]]) -> HostSettings:
    specs = [r for r in resources if isinstance(r, FelixConfiguration) and r.metadata.name == "default"]
    read = _readable(specs, FelixConfiguration, lambda r: HostSettings.from_spec(r.spec), rejected)
    return read[0] if read else HostSettings()


def _services(resources: Sequence[Resource]) -> dict[tuple[str, str], Service]:
    """Members of every slice count, ready or not, as in Calico; names instead of addresses do not, nor does a port
    without a number; a protocol that is neither UDP nor SCTP reads as TCP."""
    services: dict[tuple[str, str], Service] = {}
    for piece in resources:
        if not isinstance(piece, KubernetesEndpointSlice) or not piece.service:
            continue
        key = (piece.metadata.namespace, piece.service)
        addresses = _readable_addresses(address for endpoint in piece.endpoints for address in endpoint.addresses)
        ports = {
            (protocol_number(port.protocol) if port.protocol in ("UDP", "SCTP") else 6, port.port)
            for port in piece.ports
            if port.port is not None
        }
        known = services.get(key, NO_SERVICE)
        services[key] = Service(
            known.addresses.union(addresses),
            known.endpoints | {(address, protocol, port) for address in addresses for protocol, port in ports},
        )
    return services


def _ordered_tiers(policies: Iterable[EffectivePolicy], tiers: Mapping[str, Tier]) -> list[OrderedTier]:
    return [
        OrderedTier(
            name=name,
            default_action=default_action(tiers.get(name)),
            policies=tuple(ordered),
            stored=name in tiers,
        )
        for name, ordered in ordered_tiers(policies, tiers)
    ]


def _workload(endpoint: WorkloadEndpoint) -> Endpoint:
    return Endpoint(
        kind=endpoint.kind,
        namespace=endpoint.metadata.namespace,
        name=endpoint.metadata.name,
        node=endpoint.spec.node,
        labels=workload_labels(endpoint),
        profiles=endpoint.spec.profiles,
        addresses=tuple(_single_address(net) for net in endpoint.spec.ip_networks),
        ports=_named_ports(endpoint.spec.ports),
        interface=endpoint.spec.interface_name,
        workload=endpoint.spec.pod or endpoint.spec.workload,
    )


def _single_address(text: str) -> Address:
    """An address, or a prefix that holds just one. Raises ValueError."""
    net = parse_net(text)
    if net.prefixlen != net.max_prefixlen:
        raise ValueError(f"{text!r} is not a single address")
    return net.network_address


def _named_ports(ports: Iterable[EndpointPort | WorkloadEndpointPort]) -> tuple[NamedPort, ...]:
    """Those with a name: one without is there for its host port. Raises ValueError for a protocol without ports."""
    named = []
    for port in ports:
        if port.name:
            protocol = protocol_number(port.protocol)
            if protocol not in (6, 17, 132):
                raise ValueError(f"port {port.name!r}: protocol {port.protocol!r} has no ports")
            named.append(NamedPort(name=port.name, protocol=protocol, port=port.port))
    return tuple(named)


def _host_endpoint(endpoint: HostEndpoint) -> Endpoint:
    return Endpoint(
        kind=endpoint.kind,
        namespace="",
        name=endpoint.metadata.name,
        node=endpoint.spec.node,
        labels=host_endpoint_labels(endpoint),
        profiles=endpoint.spec.profiles,
        addresses=tuple(_single_address(address) for address in endpoint.spec.expected_ips),
        ports=_named_ports(endpoint.spec.ports),
        interface=endpoint.spec.interface_name,
    )


def _network_set(network_set: NetworkSet | GlobalNetworkSet) -> Endpoint:
    return Endpoint(
        kind=network_set.kind,
        namespace=network_set.metadata.namespace,
        name=network_set.metadata.name,
        labels=network_set_labels(network_set),
        profiles=network_set_profiles(network_set),
        nets=tuple(parse_net(net) for net in network_set.spec.nets),
    )


def _node_addresses(resources: Sequence[Resource]) -> dict[Address, str]:
    """Those that a node is known by before those of its tunnels: the first is meant where only the node is named."""
    addresses: dict[Address, str] = {}
    for node in resources:
        if not isinstance(node, Node):
            continue
        spec, bgp, wireguard = node.spec, node.spec.bgp, node.spec.wireguard
        texts = [
            *((bgp.ipv4_address, bgp.ipv6_address) if bgp else ()),
            *(address.address for address in spec.addresses),
            *(address for interface in spec.interfaces for address in interface.addresses),
            bgp.ipv4_ipip_tunnel_addr if bgp else "",
            spec.ipv4_vxlan_tunnel_addr,
            spec.ipv6_vxlan_tunnel_addr,
            *((wireguard.interface_ipv4_address, wireguard.interface_ipv6_address) if wireguard else ()),
        ]
        addresses.update(dict.fromkeys(_readable_addresses(texts), node.metadata.name))
    return addresses


def _readable_addresses(texts: Iterable[str]) -> list[Address]:
    """Those of ``texts`` that are addresses, in their order: a node's list also holds host names."""
    found: list[Address] = []
    for text in texts:
        try:
            found.append(ip_interface(text).ip)
        except ValueError:
            continue
    return found


def _uplinks(resources: Sequence[Resource]) -> dict[str, str]:
    """The interface that holds the node's BGP address, where the node lists its interfaces."""
    uplinks: dict[str, str] = {}
    for node in resources:
        if not isinstance(node, Node) or node.spec.bgp is None:
            continue
        main = set(_readable_addresses((node.spec.bgp.ipv4_address, node.spec.bgp.ipv6_address)))
        for interface in node.spec.interfaces:
            if not main.isdisjoint(_readable_addresses(interface.addresses)):
                uplinks[node.metadata.name] = interface.name
    return uplinks
