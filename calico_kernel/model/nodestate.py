"""NodeState: what one node must do, as values; and Delta, a coalesced change of it.

Produced by ``calico_kernel.calc``, consumed by dataplane, encapsulation and routing plugins. All values are frozen and
comparable: equal values mean nothing to do.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import attrs

K = TypeVar("K")
V = TypeVar("V")

RuleAction = Literal["allow", "deny", "pass", "log"]


class PolicyId(NamedTuple):
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}({self.namespace}/{self.name})" if self.namespace else f"{self.kind}({self.name})"


class WorkloadEndpointId(NamedTuple):
    """``workload`` is namespace/pod for Kubernetes."""

    orchestrator: str
    workload: str
    endpoint: str


class PortRange(NamedTuple):
    first: int
    last: int


@attrs.frozen(kw_only=True, slots=True)
class Match:
    """One side of a rule after calculation. Fields given are ANDed.

    nets:           ORed prefixes.
    ip_sets:        every set must contain the address.
    ports:          ORed with ``named_ports``: numeric ranges.
    named_ports:    ids of ip_port sets, of which one must contain (address, protocol, port).
    services:       ids of ip_port sets that must contain (address, protocol, port); not ORed with ``ports``.
    """

    nets: tuple[str, ...] = ()
    ip_sets: tuple[str, ...] = ()
    ports: tuple[PortRange, ...] = ()
    named_ports: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    not_nets: tuple[str, ...] = ()
    not_ip_sets: tuple[str, ...] = ()
    not_ports: tuple[PortRange, ...] = ()
    not_named_ports: tuple[str, ...] = ()


ANY = Match()


@attrs.frozen(kw_only=True, slots=True)
class ParsedRule:
    """A rule whose selectors have become IP set ids and whose protocols are numbers."""

    action: RuleAction
    ip_version: int | None = None
    protocol: int | None = None
    not_protocol: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    not_icmp_type: int | None = None
    not_icmp_code: int | None = None
    source: Match = ANY
    destination: Match = ANY
    annotations: Mapping[str, str] = attrs.field(factory=dict, hash=False)
    index: int = 0


@attrs.frozen(kw_only=True, slots=True)
class ActivePolicy:
    """``failed`` names why its rules were replaced by deny, or is ""."""

    id: PolicyId
    tier: str
    inbound: tuple[ParsedRule, ...] = ()
    outbound: tuple[ParsedRule, ...] = ()
    untracked: bool = False
    pre_dnat: bool = False
    apply_on_forward: bool = False
    staged: bool = False
    failed: str = ""


@attrs.frozen(kw_only=True, slots=True)
class ActiveProfile:
    name: str
    inbound: tuple[ParsedRule, ...] = ()
    outbound: tuple[ParsedRule, ...] = ()


class IpSetKind(enum.Enum):
    """``net`` members: "10.0.0.1" or "10.0.0.0/8". ``ip_port`` members: "10.0.0.1,tcp:80"."""

    NET = "net"
    IP_PORT = "ip_port"


PORT_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
"""How members of ``IP_PORT`` sets write their protocol; others have no named ports."""


@attrs.frozen(kw_only=True, slots=True)
class IpSet:
    """Members of both families together; a plugin splits them. A bare address has no ``/32`` or ``/128``."""

    id: str
    kind: IpSetKind
    members: Collection[str]


@attrs.frozen(kw_only=True, slots=True)
class MembersDelta:
    added: Collection[str] = ()
    removed: Collection[str] = ()


@attrs.frozen(kw_only=True, slots=True)
class TierPolicies:
    """The policies of one tier that apply to one endpoint, in order. A tier with none for a direction has an empty
    tuple there and is skipped for that direction. Staged policies are not in these lists."""

    name: str
    default_action: Literal["Deny", "Pass"]
    ingress: tuple[PolicyId, ...] = ()
    egress: tuple[PolicyId, ...] = ()


@attrs.frozen(kw_only=True, slots=True, cache_hash=True)
class PolicyList:
    """Everything that decides an endpoint's packets, in order. Endpoints with equal lists share the same object."""

    tiers: tuple[TierPolicies, ...] = ()
    profiles: tuple[str, ...] = ()


@attrs.frozen(kw_only=True, slots=True)
class NatPair:
    internal: str
    external: str


@attrs.frozen(kw_only=True, slots=True)
class LocalWorkload:
    """A workload endpoint of this node. ``addresses`` are bare, both families."""

    id: WorkloadEndpointId
    interface: str
    addresses: tuple[str, ...]
    policies: PolicyList
    mac: str = ""
    spoofable_prefixes: tuple[str, ...] = ()
    nats: tuple[NatPair, ...] = ()
    qos: Any = None
    active: bool = True


@attrs.frozen(kw_only=True, slots=True)
class LocalHostEndpoint:
    """A host endpoint of this node. ``interface`` "*" means every interface that has no endpoint of its own."""

    name: str
    interface: str
    expected_addresses: tuple[str, ...] = ()
    normal: PolicyList = attrs.field(factory=PolicyList)
    forward: PolicyList = attrs.field(factory=PolicyList)
    untracked: PolicyList = attrs.field(factory=PolicyList)
    pre_dnat: PolicyList = attrs.field(factory=PolicyList)


class RouteKind(enum.Flag):
    """As Felix's route types; a prefix may be several at once."""

    CIDR_INFO = 0
    REMOTE_WORKLOAD = 1
    REMOTE_HOST = 2
    LOCAL_WORKLOAD = 4
    LOCAL_HOST = 8
    REMOTE_TUNNEL = 16
    LOCAL_TUNNEL = 32


class Encapsulation(enum.Enum):
    NONE = "none"
    IPIP = "ipip"
    VXLAN = "vxlan"


@attrs.frozen(kw_only=True, slots=True)
class Route:
    """What lies behind a prefix, seen from this node.

    prefix:         of a block, an address, or a pool.
    node, node_address: the node that holds it, and that node's address ("" when unknown or local).
    encapsulation:  of the pool that holds the prefix; ``cross_subnet`` says that it applies only between subnets.
    same_subnet:    the node's address lies in this node's subnet.
    borrowed:       an address taken from another node's block.
    block:          the prefix is a whole IPAM block (a local one is backed by a blackhole route).
    """

    prefix: str
    kind: RouteKind
    node: str = ""
    node_address: str = ""
    encapsulation: Encapsulation = Encapsulation.NONE
    cross_subnet: bool = False
    same_subnet: bool = False
    nat_outgoing: bool = False
    borrowed: bool = False
    block: bool = False


@attrs.frozen(kw_only=True, slots=True)
class Vtep:
    """A node's VXLAN tunnel end. Empty text where the node has none in that family."""

    node: str
    address_ipv4: str = ""
    parent_ipv4: str = ""
    mac_ipv4: str = ""
    address_ipv6: str = ""
    parent_ipv6: str = ""
    mac_ipv6: str = ""


@attrs.frozen(kw_only=True, slots=True)
class ActivePool:
    cidr: str
    nat_outgoing: bool = False
    encapsulation: Encapsulation = Encapsulation.NONE
    cross_subnet: bool = False
    disabled: bool = False


@attrs.frozen(kw_only=True, slots=True)
class HostAddresses:
    """Addresses of a node, bare, and its IPv4/IPv6 subnet ("172.30.1.11/24")."""

    node: str
    ipv4: str = ""
    ipv6: str = ""
    subnet_ipv4: str = ""
    subnet_ipv6: str = ""
    others: tuple[str, ...] = ()
    as_number: int | None = None


@attrs.frozen(kw_only=True, slots=True)
class EncapsulationNeeds:
    """Which encapsulations any pool asks for; drivers remove what no pool needs."""

    ipip: bool = False
    vxlan_ipv4: bool = False
    vxlan_ipv6: bool = False
    none: bool = False


@attrs.frozen(kw_only=True)
class ResolvedConfig:
    """FelixConfiguration after default -> global -> selected -> per-node -> environment.

    values:   by v3 field name in snake case (``iptables_refresh_interval``), every field present; durations in seconds.
    sources:  where each value came from: "default", "global", "selector:NAME", "node", "environment".
    """

    values: Mapping[str, Any]
    sources: Mapping[str, str] = attrs.field(factory=dict, eq=False)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(name) from None


@attrs.frozen(kw_only=True, slots=True)
class MapDelta(Generic[K, V]):
    upserts: Mapping[K, V] = attrs.field(factory=dict)
    removes: Collection[K] = ()

    def __bool__(self) -> bool:
        return bool(self.upserts or self.removes)


_MAPS = (
    "ip_sets",
    "policies",
    "profiles",
    "workloads",
    "host_endpoints",
    "routes",
    "vteps",
    "pools",
    "hosts",
)


@attrs.frozen(kw_only=True, slots=True)
class Delta:
    """One coalesced change of NodeState.

    full:            a whole state: what it does not name must go.
    config, needs:   None means unchanged.
    ip_sets:         upserts carry the whole membership (new sets); ``ip_set_members`` changes existing ones.

    Everything in one delta is consistent: what an endpoint refers to is present before or in the same delta. A plugin
    applies sets before policies before endpoints, and removes in reverse.
    """

    full: bool = False
    config: ResolvedConfig | None = None
    needs: EncapsulationNeeds | None = None
    ip_sets: MapDelta[str, IpSet] = attrs.field(factory=MapDelta)
    ip_set_members: Mapping[str, MembersDelta] = attrs.field(factory=dict)
    policies: MapDelta[PolicyId, ActivePolicy] = attrs.field(factory=MapDelta)
    profiles: MapDelta[str, ActiveProfile] = attrs.field(factory=MapDelta)
    workloads: MapDelta[WorkloadEndpointId, LocalWorkload] = attrs.field(factory=MapDelta)
    host_endpoints: MapDelta[str, LocalHostEndpoint] = attrs.field(factory=MapDelta)
    routes: MapDelta[str, Route] = attrs.field(factory=MapDelta)
    vteps: MapDelta[str, Vtep] = attrs.field(factory=MapDelta)
    pools: MapDelta[str, ActivePool] = attrs.field(factory=MapDelta)
    hosts: MapDelta[str, HostAddresses] = attrs.field(factory=MapDelta)

    def __bool__(self) -> bool:
        return bool(
            self.full
            or self.config is not None
            or self.needs is not None
            or self.ip_set_members
            or any(getattr(self, name) for name in _MAPS)
        )

    def then(self, newer: Delta) -> Delta:
        """The one delta that has the effect of this one followed by ``newer``."""
        if newer.full:
            return newer
        merged: dict[str, Any] = {name: _merge_maps(getattr(self, name), getattr(newer, name)) for name in _MAPS}
        sets, members = _merge_members(self, newer, merged["ip_sets"])
        merged["ip_sets"] = sets
        return Delta(
            full=self.full,
            config=newer.config if newer.config is not None else self.config,
            needs=newer.needs if newer.needs is not None else self.needs,
            ip_set_members=members,
            **merged,
        )


def _merge_maps(older: MapDelta[K, V], newer: MapDelta[K, V]) -> MapDelta[K, V]:
    if not newer:
        return older
    if not older:
        return newer
    gone = set(newer.removes)
    upserts = {key: value for key, value in older.upserts.items() if key not in gone} | dict(newer.upserts)
    return MapDelta(upserts=upserts, removes=(set(older.removes) | gone) - upserts.keys())


def _merge_members(
    older: Delta, newer: Delta, sets: MapDelta[str, IpSet]
) -> tuple[MapDelta[str, IpSet], dict[str, MembersDelta]]:
    """Fold member changes into sets that the older delta made, and combine the rest."""
    upserts = dict(sets.upserts)
    members: dict[str, MembersDelta] = {
        key: change
        for key, change in older.ip_set_members.items()
        if key not in newer.ip_sets.upserts and key not in newer.ip_sets.removes
    }
    for key, change in newer.ip_set_members.items():
        base = older.ip_sets.upserts.get(key)
        if base is not None:
            whole = (set(base.members) - set(change.removed)) | set(change.added)
            upserts[key] = attrs.evolve(base, members=whole)
            continue
        before = members.get(key, MembersDelta())
        added, removed = set(change.added), set(change.removed)
        members[key] = MembersDelta(
            added=(set(before.added) - removed) | added, removed=(set(before.removed) - added) | removed
        )
    return MapDelta(upserts=upserts, removes=sets.removes), members
