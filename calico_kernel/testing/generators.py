"""Random clusters that mean something: few labels, ports and prefixes, so that rules meet packets often.

In:   a seeded ``random.Random``: the seed tells the whole story of a failure.
Out:  resources of the model, all of them acceptable to validation (unless flaws are asked for), and packets.

Everything is drawn from the small vocabulary below; every feature of policy occurs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from calico_kernel.model.endpoints import HostEndpoint, HostEndpointSpec, WorkloadEndpoint, WorkloadEndpointPort
from calico_kernel.model.endpoints import WorkloadEndpointSpec as WorkloadSpec
from calico_kernel.model.meta import ObjectMeta, Resource
from calico_kernel.model.network import GlobalNetworkSet, NetworkSet, NetworkSetSpec
from calico_kernel.model.policy import (
    Action,
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    IcmpFields,
    NetworkPolicy,
    NetworkPolicySpec,
    PolicyType,
    Port,
    Profile,
    ProfileSpec,
    Protocol,
    Rule,
    ServiceAccountMatch,
    ServiceMatch,
    StagedGlobalNetworkPolicy,
    StagedGlobalNetworkPolicySpec,
    Tier,
    TierSpec,
)
from calico_kernel.model.services import SERVICE_NAME_LABEL, KubernetesEndpointSlice, SliceEndpoint, SlicePort
from calico_kernel.policy.matching import Packet
from calico_kernel.selector.ast import (
    All,
    And,
    Contains,
    EndsWith,
    Equals,
    Has,
    In,
    Node,
    Not,
    NotEquals,
    NotIn,
    Or,
    StartsWith,
)

NAMESPACES = ("blue", "red")
ACCOUNTS = ("robot", "human")
Labels = Mapping[str, tuple[str, ...]]

LABELS: Labels = {"app": ("web", "db", "api"), "env": ("prod", "dev"), "odd": ("", "a.b", "A_b")}
NAMESPACE_LABELS: Labels = {"colour": ("blue", "red"), "env": ("prod", "dev")}
ACCOUNT_LABELS: Labels = {"role": ("reader", "writer")}
TIERS = ("security", "platform", "default")
NAMED_PORTS = (("http", "TCP", 8080), ("dns", "UDP", 53), ("dns", "TCP", 53), ("sig", "SCTP", 2905))
PORTS = (53, 80, 443, 2905, 8080, 8081)
SOURCE_PORTS = (5000, 5001)
OUTSIDE = {4: ("198.51.100.7", "203.0.113.9"), 6: ("2001:db8:1::7", "2001:db8:2::9")}
WORKLOAD_NETS = {4: "10.65.0.0/24", 6: "fd00:10:65::/112"}
NETS = {
    4: ("10.65.0.0/24", "10.65.0.0/30", "10.65.0.2/32", "198.51.100.0/24", "203.0.113.9/32", "0.0.0.0/0"),
    6: ("fd00:10:65::/112", "fd00:10:65::/126", "2001:db8:1::/48", "2001:db8:2::9/128", "::/0"),
}


def workload_address(number: int, version: int) -> str:
    """The address of workload ``number`` (1-200) in ``WORKLOAD_NETS``."""
    return f"10.65.0.{number}" if version == 4 else f"fd00:10:65::{number:x}"


def some(rng: Random, chance: float) -> bool:
    return rng.random() < chance


# ── selectors ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def selector_node(rng: Random, labels: Labels, depth: int = 2) -> Node:
    """A syntax tree over ``labels``, as the parser would build it."""
    if depth and some(rng, 0.35):
        kind = rng.choice((And, Or))
        operands = tuple(selector_node(rng, labels, depth - 1) for _ in range(rng.randint(2, 3)))
        return kind(operands)
    if depth and some(rng, 0.15):
        operand = selector_node(rng, labels, depth - 1)
        return operand.operand if isinstance(operand, Not) else Not(operand)  # two "!" cancel when read back
    label = rng.choice(sorted(labels))
    value = rng.choice(labels[label])
    kind_of_term = rng.choice(("==", "==", "!=", "has", "in", "not in", "contains", "starts", "ends", "all"))
    values = tuple(sorted({rng.choice(labels[label]) for _ in range(rng.randint(0, 3))}))
    terms: dict[str, Node] = {
        "==": Equals(label, value),
        "!=": NotEquals(label, value),
        "has": Has(label),
        "in": In(label, values),
        "not in": NotIn(label, values),
        "contains": Contains(label, value[1:]),
        "starts": StartsWith(label, value[:1]),
        "ends": EndsWith(label, value[-1:]),
        "all": All(),
    }
    return terms[kind_of_term]


def selector(rng: Random, labels: Labels = LABELS) -> str:
    return str(selector_node(rng, labels))


# ── rules and policies ────────────────────────────────────────────────────────────────────────────────────────────────


def rule(rng: Random, *, namespaced: bool = False, services: str = "") -> Rule:
    """``services``: the side ("source" or "destination") on which a service may be named; "" for none."""
    action: Action = rng.choice(("Allow", "Allow", "Allow", "Deny", "Deny", "Pass", "Log"))
    version = rng.choice((None, None, None, 4, 6))
    protocol: Protocol | None = rng.choice(
        (None, None, "TCP", "TCP", "UDP", "UDP", "SCTP", "UDPLite", 6, 17, "ICMP", "ICMPv6")
    )
    if protocol in ("ICMP", "ICMPv6"):
        version = rng.choice((None, 4 if protocol == "ICMP" else 6))
    not_protocol: Protocol | None = rng.choice(("TCP", "UDP", 132)) if some(rng, 0.1) else None
    net_version = version or (4 if protocol == "ICMP" else 6 if protocol == "ICMPv6" else rng.choice((4, 6)))
    sides = {
        side: _entity(rng, net_version, protocol, namespaced=namespaced, source=side == "source")
        for side in ("source", "destination")
    }
    if services and some(rng, 0.1):
        sides[services] = EntityRule(services=ServiceMatch(name="web", namespace=rng.choice(NAMESPACES)))
    icmp, not_icmp = None, None
    if protocol in ("ICMP", "ICMPv6"):
        echo = 8 if protocol == "ICMP" else 128
        icmp = rng.choice((None, IcmpFields(type=echo), IcmpFields(type=echo, code=0), IcmpFields(type=echo, code=1)))
        if icmp is None:
            not_icmp = rng.choice((None, IcmpFields(type=echo), IcmpFields(type=13 if echo == 8 else 129)))
    return Rule(
        action=action,
        ip_version=version,
        protocol=protocol,
        not_protocol=not_protocol,
        icmp=icmp,
        not_icmp=not_icmp,
        source=sides["source"],
        destination=sides["destination"],
    )


def _entity(rng: Random, version: int, protocol: Protocol | None, *, namespaced: bool, source: bool) -> EntityRule:
    fields: dict[str, Any] = {}
    if some(rng, 0.25):
        fields["nets"] = tuple(rng.sample(NETS[version], rng.randint(1, 2)))
    if some(rng, 0.12):
        fields["not_nets"] = tuple(rng.sample(NETS[version][:-1], rng.randint(1, 2)))  # /0 is not allowed here
    if some(rng, 0.3):
        fields["selector"] = selector(rng)
    if some(rng, 0.12):
        fields["not_selector"] = selector(rng)
    if some(rng, 0.15):
        globally = "global()" if not namespaced or some(rng, 0.3) else "all()"
        fields["namespace_selector"] = rng.choice((selector(rng, NAMESPACE_LABELS), "all()", globally))
    if some(rng, 0.1):
        fields["service_accounts"] = ServiceAccountMatch(
            names=tuple(rng.sample(ACCOUNTS, rng.randint(0, 1))),
            selector=selector(rng, ACCOUNT_LABELS) if some(rng, 0.5) else "",
        )
    if protocol in ("TCP", "UDP", "SCTP", 6, 17):
        chance = 0.1 if source else 0.4
        if some(rng, chance):
            fields["ports"] = _ports(rng, source=source)
        if some(rng, chance / 3):
            fields["not_ports"] = _ports(rng, source=source)
    elif protocol is None and not source and some(rng, 0.1):
        fields["ports"] = (rng.choice(NAMED_PORTS)[0],)
    return EntityRule(**fields)


def _ports(rng: Random, *, source: bool) -> tuple[Port, ...]:
    if source:
        return rng.choice(((5000,), ("5000:5001",), ("1024:65535",)))
    choices: tuple[Port, ...] = (*PORTS, "53", "80:443", "8080:8081", "http", "dns", "sig")
    return tuple(rng.choice(choices) for _ in range(rng.randint(1, 4)))


def _rules(rng: Random, **options: Any) -> tuple[Rule, ...]:
    return tuple(rule(rng, **options) for _ in range(rng.choice((0, 1, 1, 2, 3))))


def policy(rng: Random, number: int, *, flaws: bool = False) -> Resource:
    """A namespaced, global or staged policy; with ``flaws`` sometimes in a missing tier, or with a rule that cannot be
    read."""
    types: tuple[PolicyType, ...] = rng.choice((("Ingress",), ("Egress",), ("Ingress", "Egress")))
    namespaced = some(rng, 0.5)
    tiers = (*TIERS, "default", "default", *(("ghost",) if flaws and some(rng, 0.2) else ()))
    ingress = _rules(rng, namespaced=namespaced, services="source") if "Ingress" in types else ()
    egress = _rules(rng, namespaced=namespaced, services="destination") if "Egress" in types else ()
    if flaws and ingress and some(rng, 0.1):
        ingress = (*ingress, Rule(action="Allow", source=EntityRule(selector="app =")))
    common: dict[str, Any] = {
        "tier": rng.choice(tiers),
        "order": rng.choice((None, 1.0, 2.0, 2.0, 2.5)),
        "types": types,
        "ingress": ingress,
        "egress": egress,
        "selector": rng.choice(("", "all()", selector(rng), selector(rng))),
        "service_account_selector": selector(rng, ACCOUNT_LABELS) if some(rng, 0.08) else "",
    }
    name = f"p{number}"
    if namespaced:
        meta = ObjectMeta(name=name, namespace=rng.choice(NAMESPACES))
        return NetworkPolicy(metadata=meta, spec=NetworkPolicySpec(**common))
    common["namespace_selector"] = selector(rng, NAMESPACE_LABELS) if some(rng, 0.15) else ""
    meta = ObjectMeta(name=name)
    if some(rng, 0.08):
        return StagedGlobalNetworkPolicy(metadata=meta, spec=StagedGlobalNetworkPolicySpec(**common))
    return GlobalNetworkPolicy(metadata=meta, spec=GlobalNetworkPolicySpec(**common))


def host_policy(rng: Random, number: int) -> GlobalNetworkPolicy:
    """A global policy that selects host endpoints, of any of the four kinds."""
    kind = rng.choice(("normal", "forward", "untracked", "pre-DNAT"))
    types: tuple[PolicyType, ...] = (
        ("Ingress",) if kind == "pre-DNAT" else rng.choice((("Ingress",), ("Ingress", "Egress")))
    )
    return GlobalNetworkPolicy(
        metadata=ObjectMeta(name=f"h{number}"),
        spec=GlobalNetworkPolicySpec(
            tier=rng.choice(("default", "security")),
            order=rng.choice((None, 1.0, 2.0)),
            types=types,
            selector="has(host)",
            ingress=_rules(rng),
            egress=_rules(rng) if "Egress" in types else (),
            do_not_track=kind == "untracked",
            pre_dnat=kind == "pre-DNAT",
            apply_on_forward=kind != "normal",
        ),
    )


def policies(rng: Random, count: int, *, flaws: bool = False) -> list[Resource]:
    return [policy(rng, number, flaws=flaws) for number in range(count)]


# ── everything else of a cluster ──────────────────────────────────────────────────────────────────────────────────────


def _some_labels(rng: Random, labels: Labels, chance: float = 0.7) -> dict[str, str]:
    return {label: rng.choice(values) for label, values in labels.items() if some(rng, chance)}


def workload(
    rng: Random,
    number: int,
    *,
    node: str = "n1",
    interface: str = "",
    versions: Sequence[int] = (4, 6),
    flaws: bool = False,
) -> WorkloadEndpoint:
    """Workload ``number`` (1-200), with its address of each version, and random labels, profiles and named ports."""
    namespace, name = rng.choice(NAMESPACES), f"w{number}"
    account = rng.choice((*ACCOUNTS, ""))
    profiles = [f"kns.{namespace}", *([f"ksa.{namespace}.{account}"] if account else [])]
    if flaws and some(rng, 0.1):
        profiles.insert(rng.randint(0, len(profiles)), "missing")
    return WorkloadEndpoint(
        metadata=ObjectMeta(name=f"{node}-k8s-{name}-eth0", namespace=namespace, labels=_some_labels(rng, LABELS)),
        spec=WorkloadSpec(
            orchestrator="k8s",
            workload="",
            pod=name,
            node=node,
            endpoint="eth0",
            service_account_name=account,
            ip_networks=tuple(workload_address(number, version) for version in versions),
            profiles=tuple(profiles),
            interface_name=interface or f"cali{name}",
            ports=tuple(
                WorkloadEndpointPort(name=port_name, protocol=protocol, port=port)
                for port_name, protocol, port in NAMED_PORTS
                if some(rng, 0.5)
            ),
        ),
    )


def surroundings(rng: Random) -> list[Resource]:
    """Tiers, profiles of namespaces and service accounts, network sets, and endpoints of a service."""
    orders = rng.sample((1.0, 2.0, 3.0, None), 2)
    tiers = [
        Tier(
            metadata=ObjectMeta(name=name),
            spec=TierSpec(order=order, default_action=rng.choice(("Deny", "Pass"))),
        )
        for name, order in zip(TIERS, orders, strict=False)
    ]
    tiers.append(Tier(metadata=ObjectMeta(name="default"), spec=TierSpec(order=1_000_000.0, default_action="Deny")))
    return [*tiers, *_profiles(rng), *_network_sets(rng), *_slices(rng)]


def _profiles(rng: Random) -> list[Resource]:
    made: list[Resource] = []
    for namespace in NAMESPACES:
        labels = {f"pcns.{k}": v for k, v in _some_labels(rng, NAMESPACE_LABELS).items()}
        rules = rng.choice(((Rule(action="Allow"),), (Rule(action="Allow"),), _rules(rng), ()))
        spec = ProfileSpec(
            ingress=rules,
            egress=(Rule(action="Allow"),),
            labels_to_apply={**labels, "pcns.projectcalico.org/name": namespace},
        )
        made.append(Profile(metadata=ObjectMeta(name=f"kns.{namespace}"), spec=spec))
        for account in ACCOUNTS:
            labels = {f"pcsa.{k}": v for k, v in _some_labels(rng, ACCOUNT_LABELS).items()}
            name = f"ksa.{namespace}.{account}"
            made.append(
                Profile(
                    metadata=ObjectMeta(name=name),
                    spec=ProfileSpec(labels_to_apply={**labels, "pcsa.projectcalico.org/name": account}),
                )
            )
    return made


def _network_sets(rng: Random) -> list[Resource]:
    nets = ("198.51.100.0/24", "203.0.113.9", "2001:db8:1::/48", "2001:db8:2::9/128", "10.65.0.2/32", "0.0.0.0/0")
    return [
        NetworkSet(
            metadata=ObjectMeta(name=f"s{number}", namespace=rng.choice(NAMESPACES), labels=_some_labels(rng, LABELS)),
            spec=NetworkSetSpec(nets=tuple(rng.sample(nets, rng.randint(1, 3)))),
        )
        if some(rng, 0.5)
        else GlobalNetworkSet(
            metadata=ObjectMeta(name=f"g{number}", labels=_some_labels(rng, LABELS)),
            spec=NetworkSetSpec(nets=tuple(rng.sample(nets, rng.randint(1, 3)))),
        )
        for number in range(rng.randint(0, 3))
    ]


def _slices(rng: Random) -> list[Resource]:
    return [
        KubernetesEndpointSlice(
            metadata=ObjectMeta(name="web-1", namespace=rng.choice(NAMESPACES), labels={SERVICE_NAME_LABEL: "web"}),
            address_type="IPv4",
            endpoints=(SliceEndpoint(addresses=(workload_address(rng.randint(1, 4), 4),)),),
            ports=(SlicePort(port=rng.choice(PORTS)), SlicePort(protocol="UDP", port=53)),
        )
    ]


def host_endpoint(
    rng: Random, *, node: str = "n1", interface: str = "eth0", addresses: Sequence[str] = ()
) -> HostEndpoint:
    """A host endpoint by name of its interface, for all of them ("*"), or ("") by ``addresses``."""
    return HostEndpoint(
        metadata=ObjectMeta(name=f"{node}-hep", labels={"host": node}),
        spec=HostEndpointSpec(
            node=node,
            interface_name=interface,
            expected_ips=tuple(addresses),
            profiles=rng.choice(((), ("kns.blue",), ("kns.red",))),
        ),
    )


def cluster(
    rng: Random,
    *,
    workloads: int = 4,
    policy_count: int = 5,
    nodes: Sequence[str] = ("n1", "n2"),
    flaws: bool = True,
) -> list[Resource]:
    """A whole small cluster."""
    return [
        *surroundings(rng),
        *(workload(rng, n + 1, node=nodes[n % len(nodes)], flaws=flaws) for n in range(workloads)),
        *policies(rng, policy_count, flaws=flaws),
    ]


# ── packets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def packet(rng: Random, addresses: Sequence[tuple[int, str]]) -> Packet:
    """A packet between two of ``addresses`` (version, address), of one version, that the vocabulary's rules speak of.
    Raises IndexError if no two of them share a version."""
    version = rng.choice(sorted({version for version, _ in addresses}))
    here = [address for have, address in addresses if have == version]
    source, destination = rng.sample(here, 2)
    protocol = rng.choice(("TCP", "TCP", "UDP", "UDP", "SCTP", "UDPLite", "ICMP"))
    if protocol == "ICMP":
        return Packet.echo(source, destination)
    source_port = rng.choice(SOURCE_PORTS) if some(rng, 0.3) else rng.randint(20_000, 60_000)
    return Packet(source, destination, protocol, source_port, rng.choice(PORTS))


def packets(rng: Random, addresses: Sequence[tuple[int, str]], count: int) -> list[Packet]:
    return [packet(rng, addresses) for _ in range(count)]


def addresses_of(resources: Sequence[Resource]) -> list[tuple[int, str]]:
    """Every workload's addresses, and those outside, as ``packet`` takes them."""
    texts = [address for r in resources if isinstance(r, WorkloadEndpoint) for address in r.spec.ip_networks]
    return [(6 if ":" in text else 4, text) for text in texts] + [(v, a) for v in (4, 6) for a in OUTSIDE[v]]
