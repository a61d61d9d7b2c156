"""Random sequences of events: what a calculator says after each flush is what a new one says of the same values."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calico_kernel.calc import Calculator
from calico_kernel.model.endpoints import (
    EndpointPort,
    HostEndpoint,
    HostEndpointSpec,
    Node,
    NodeBGPSpec,
    NodeSpec,
    WorkloadEndpoint,
    WorkloadEndpointPort,
    WorkloadEndpointSpec,
)
from calico_kernel.model.felix import FelixConfiguration, FelixConfigurationSpec
from calico_kernel.model.ipam import AllocationBlock, BlockAttributes
from calico_kernel.model.keys import BlockKey, Key, ResourceKey
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.network import GlobalNetworkSet, IPPool, IPPoolSpec, NetworkSet, NetworkSetSpec
from calico_kernel.model.nodestate import Delta
from calico_kernel.model.policy import (
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    NetworkPolicy,
    NetworkPolicySpec,
    Profile,
    ProfileSpec,
    Rule,
    ServiceMatch,
    StagedGlobalNetworkPolicy,
    StagedGlobalNetworkPolicySpec,
    Tier,
    TierSpec,
)
from calico_kernel.model.records import Malformed
from calico_kernel.model.services import KubernetesEndpointSlice, SliceEndpoint, SlicePort
from calico_kernel.policy.labels import inherit, workload_labels
from calico_kernel.selector import parse
from calico_kernel.testing.folded import FoldedState

NODES = ("n1", "n2", "n3")
ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.0.65", "10.0.1.1", "fd00::1")
SINGLES = (*ADDRESSES, "10.0.0.1/32") * 3 + ("10.0.0.0/24",)
NETS = (*ADDRESSES, "10.0.0.0/26", "10.0.0.0/24", "0.0.0.0/0", "::/0", "10.0.0.1/32")
SELECTORS = (
    "all()",
    "a == 'x'",
    "a != 'x'",
    "has(a)",
    "!has(a)",
    "a in {'x', 'y'}",
    "a not in {'x'}",
    "a starts with 'x'",
    "a contains 'y' && has(b)",
    "a == 'x' || b == 'y'",
    "a == 'x' && !has(b)",
    "b ends with 'y' && a not in {'z'} && c != 'x'",
    "pcns.team == 'x'",
    "projectcalico.org/namespace == 'ns1'",
    "a == 'x' && a == 'y'",
    "oops ==",
)

USABLE = SELECTORS[:-1]
selectors = st.sampled_from((*USABLE, *USABLE, *USABLE, "oops =="))
labels = st.dictionaries(st.sampled_from("abc"), st.sampled_from(("x", "y", "xy", "z")), max_size=3)
namespaces = st.sampled_from(("ns1", "ns2"))
few = {"max_size": 2}
profile_names = st.sampled_from(("kns.ns1", "kns.ns2", "p"))
port_names = st.sampled_from(("http", "dns"))
ports = st.sampled_from((1, 2, "1:3", "http", "dns") * 4 + ("9:1",))


def meta(key: ResourceKey, **more: Any) -> ObjectMeta:
    return ObjectMeta(name=key.name, namespace=key.namespace, **more)


entities = st.builds(
    EntityRule,
    nets=st.sampled_from(((),) * 12 + (("10.0.0.0/8", "10.0.0.1/32"), ("nonsense",))),
    selector=st.one_of(st.just(""), selectors),
    not_selector=st.one_of(st.just(""), selectors),
    namespace_selector=st.sampled_from(("", "", "team == 'x'", "all()", "global()")),
    ports=st.lists(ports, **few).map(tuple),
    not_ports=st.lists(port_names, **few).map(tuple),
    services=st.one_of(st.none(), st.just(ServiceMatch(name="web", namespace="ns1"))),
)
rules = st.lists(
    st.builds(
        Rule,
        action=st.sampled_from(("Allow", "Deny", "Pass", "Log")),
        protocol=st.sampled_from((None, "TCP", "UDP", 6) * 4 + ("WHAT",)),
        source=entities,
        destination=entities,
    ),
    **few,
).map(tuple)
types = st.sampled_from(((), ("Ingress",), ("Egress",), ("Ingress", "Egress")))
orders = st.sampled_from((None, 1.0, 2.0))
tiers = st.sampled_from(("", "default", "t1", "t2"))
global_spec = {
    "tier": tiers,
    "order": orders,
    "selector": selectors,
    "namespace_selector": st.sampled_from(("", "team == 'x'")),
    "types": types,
    "ingress": rules,
    "egress": rules,
    "do_not_track": st.booleans(),
    "pre_dnat": st.booleans(),
    "apply_on_forward": st.booleans(),
}


@st.composite
def workload_events(draw: st.DrawFn) -> tuple[Key, Any]:
    key = ResourceKey("WorkloadEndpoint", draw(namespaces), draw(st.sampled_from(("w1", "w2", "w3", "w4"))))
    spec = WorkloadEndpointSpec(
        orchestrator="k8s",
        node=draw(st.sampled_from(NODES)),
        pod=key.name,
        endpoint="eth0",
        service_account_name=draw(st.sampled_from(("", "sa"))),
        ip_networks=tuple(draw(st.lists(st.sampled_from(SINGLES), **few))),
        interface_name=f"cali{key.name}",
        profiles=tuple(draw(st.lists(profile_names, unique=True, **few))),
        ports=tuple(
            WorkloadEndpointPort(name=name, protocol=protocol, port=port)
            for name, protocol, port in draw(
                st.lists(st.tuples(port_names, st.sampled_from(("TCP", "UDP")), st.integers(1, 2)), **few)
            )
        ),
    )
    own = draw(labels) | draw(st.sampled_from(({}, {"pcns.team": "x"}, {"projectcalico.org/namespace": "ns2"})))
    return key, WorkloadEndpoint(metadata=meta(key, labels=own), spec=spec)


@st.composite
def host_events(draw: st.DrawFn) -> tuple[Key, Any]:
    key = ResourceKey("HostEndpoint", "", draw(st.sampled_from(("h1", "h2"))))
    spec = HostEndpointSpec(
        node=draw(st.sampled_from(NODES)),
        interface_name="eth0",
        expected_ips=tuple(draw(st.lists(st.sampled_from(ADDRESSES), unique=True, **few))),
        profiles=tuple(draw(st.lists(profile_names, unique=True, **few))),
        ports=tuple(EndpointPort(name=name, port=1) for name in draw(st.lists(port_names, **few))),
    )
    return key, HostEndpoint(metadata=meta(key, labels=draw(labels)), spec=spec)


@st.composite
def set_events(draw: st.DrawFn) -> tuple[Key, Any]:
    spec = NetworkSetSpec(nets=tuple(draw(st.lists(st.sampled_from((*NETS, "nonsense")), max_size=4))))
    if draw(st.booleans()):
        key = ResourceKey("NetworkSet", draw(namespaces), "s1")
        return key, NetworkSet(metadata=meta(key, labels=draw(labels)), spec=spec)
    key = ResourceKey("GlobalNetworkSet", "", draw(st.sampled_from(("s1", "s2"))))
    return key, GlobalNetworkSet(metadata=meta(key, labels=draw(labels)), spec=spec)


@st.composite
def policy_events(draw: st.DrawFn) -> tuple[Key, Any]:
    name = draw(st.sampled_from(("p1", "p2", "p3")))
    match draw(st.integers(0, 2)):
        case 0:
            key = ResourceKey("NetworkPolicy", draw(namespaces), name)
            spec = NetworkPolicySpec(
                tier=draw(tiers),
                order=draw(orders),
                selector=draw(st.one_of(st.just(""), selectors)),
                types=draw(types),
                ingress=draw(rules),
                egress=draw(rules),
            )
            return key, NetworkPolicy(metadata=meta(key), spec=spec)
        case 1:
            key = ResourceKey("GlobalNetworkPolicy", "", name)
            return key, GlobalNetworkPolicy(
                metadata=meta(key), spec=draw(st.builds(GlobalNetworkPolicySpec, **global_spec))
            )
        case _:
            key = ResourceKey("StagedGlobalNetworkPolicy", "", name)
            action = st.sampled_from(("Set", "Delete"))
            staged = draw(st.builds(StagedGlobalNetworkPolicySpec, staged_action=action, **global_spec))
            return key, StagedGlobalNetworkPolicy(metadata=meta(key), spec=staged)


@st.composite
def other_events(draw: st.DrawFn) -> tuple[Key, Any]:
    match draw(st.integers(0, 6)):
        case 6:
            key = ResourceKey("FelixConfiguration", "", draw(st.sampled_from(("default", "node.n1", "chosen"))))
            source = draw(st.sampled_from((None, "WorkloadIPs", "CalicoIPAM")))
            settings_ = FelixConfigurationSpec(
                route_source=source, vxlan_enabled=draw(st.sampled_from((None, False))), node_selector="all()"
            )
            return key, FelixConfiguration(metadata=meta(key), spec=settings_)
        case 0:
            key = ResourceKey("Profile", "", draw(profile_names))
            given_labels = draw(labels) | draw(st.sampled_from(({}, {"pcns.team": "x"}, {"pcns.team": "y"})))
            spec = ProfileSpec(ingress=draw(rules), labels_to_apply=given_labels)
            return key, Profile(metadata=meta(key), spec=spec)
        case 1:
            key = ResourceKey("Tier", "", draw(st.sampled_from(("default", "t1"))))
            action = draw(st.sampled_from((None, "Pass", "Deny")))
            return key, Tier(metadata=meta(key), spec=TierSpec(order=draw(orders), default_action=action))
        case 2:
            key = ResourceKey("Node", "", draw(st.sampled_from(NODES)))
            bgp = NodeBGPSpec(
                ipv4_address=draw(st.sampled_from(("", "172.16.0.1/24", "172.16.0.2/24", "172.16.1.3/24", "nonsense"))),
                ipv4_ipip_tunnel_addr=draw(st.sampled_from(("", "10.0.0.65"))),
            )
            tunnel = draw(st.sampled_from(("", "10.0.0.64", "10.0.0.0")))
            return key, Node(metadata=meta(key), spec=NodeSpec(bgp=bgp, ipv4_vxlan_tunnel_addr=tunnel))
        case 3:
            key = ResourceKey("IPPool", "", draw(st.sampled_from(("pool1", "pool2"))))
            spec_ = IPPoolSpec(
                cidr=draw(st.sampled_from(("10.0.0.0/16", "10.0.0.0/24", "10.0.0.0/26", "fd00::/64", "nonsense"))),
                vxlan_mode=draw(st.sampled_from(("", "Never", "Always", "CrossSubnet"))),
                ipip_mode=draw(st.sampled_from(("", "Never", "Always"))),
                nat_outgoing=draw(st.booleans()),
                allowed_uses=draw(st.sampled_from(((), ("LoadBalancer",), ("Workload",)))),
            )
            return key, IPPool(metadata=meta(key), spec=spec_)
        case 4:
            cidr = draw(st.sampled_from(("10.0.0.0/26", "10.0.0.64/26", "10.0.0.0/32", "fd00::/122")))
            allocations = tuple(draw(st.lists(st.sampled_from((None, 0, 1, 2)), max_size=3)))
            held = tuple(
                BlockAttributes(handle_id="h", secondary={"node": draw(st.sampled_from(NODES))}) for _ in range(2)
            )
            affinity = draw(st.sampled_from((None, "host:n1", "host:n2")))
            return BlockKey(cidr), AllocationBlock(
                cidr=cidr, affinity=affinity, allocations=allocations, attributes=held
            )
        case _:
            key = ResourceKey("KubernetesEndpointSlice", "ns1", draw(st.sampled_from(("web-1", "web-2"))))
            service = draw(st.sampled_from(("web", "other")))
            addresses = tuple(draw(st.lists(st.sampled_from((*ADDRESSES, "a.name")), **few)))
            slice_ports = tuple(
                SlicePort(protocol=protocol, port=port)
                for protocol, port in draw(
                    st.lists(st.tuples(st.sampled_from((None, "TCP", "UDP")), st.sampled_from((None, 80))), **few)
                )
            )
            return key, KubernetesEndpointSlice(
                metadata=meta(key, labels={"kubernetes.io/service-name": service}),
                endpoints=(SliceEndpoint(addresses=addresses),),
                ports=slice_ports,
            )


@st.composite
def events(draw: st.DrawFn) -> tuple[Key, Any]:
    key, value = draw(
        st.one_of(
            workload_events(),
            workload_events(),
            host_events(),
            set_events(),
            policy_events(),
            policy_events(),
            other_events(),
        )
    )
    return key, draw(st.sampled_from((value, value, value, value, None, Malformed("does not decode", b""))))


def base_events() -> list[tuple[Key, Any]]:
    """A local endpoint, and policies that ask for sets of every kind: without them most sequences have none."""
    endpoint_key = ResourceKey("WorkloadEndpoint", "ns0", "base")
    endpoint = WorkloadEndpoint(
        metadata=meta(endpoint_key),
        spec=WorkloadEndpointSpec(node="n1", ip_networks=("10.9.9.9/32",), interface_name="cali0"),
    )
    policy_key = ResourceKey("GlobalNetworkPolicy", "", "base")
    asking = [Rule(action="Allow", source=EntityRule(selector=text)) for text in USABLE]
    asking += [
        Rule(action="Allow", protocol="TCP", destination=EntityRule(ports=("http",))),
        Rule(action="Allow", destination=EntityRule(selector="a == 'x'", ports=("http", "dns"))),
        Rule(action="Allow", destination=EntityRule(services=ServiceMatch(name="web", namespace="ns1"))),
    ]
    spec = GlobalNetworkPolicySpec(selector="all()", ingress=tuple(asking))
    return [(endpoint_key, endpoint), (policy_key, GlobalNetworkPolicy(metadata=meta(policy_key), spec=spec))]


batches = st.lists(st.lists(events(), max_size=8), min_size=1, max_size=6)


def from_scratch(values: dict[Key, Any]) -> tuple[FoldedState, Calculator]:
    calculator = Calculator("n1")
    calculator.update(values.items())
    calculator.in_sync()
    delta = calculator.flush()
    assert delta is not None
    return FoldedState.of(delta), calculator


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(batches=batches, synced_after=st.integers(0, 2), base_at=st.integers(0, 8))
def test_incremental_equals_from_scratch_after_every_flush(
    batches: list[list[tuple[Key, Any]]], synced_after: int, base_at: int
) -> None:
    batches.insert(base_at, base_events())
    calculator, state, values = Calculator("n1"), FoldedState(), dict[Key, Any]()
    deltas: list[Delta] = []
    for number, batch in enumerate(batches):
        calculator.update(batch)
        values.update(batch)
        if number < synced_after:
            assert calculator.flush() is None
            continue
        calculator.in_sync()
        delta = calculator.flush()
        if delta is not None:
            state.apply(delta)
            deltas.append(delta)
        expected, fresh = from_scratch(values)
        assert state.differences(expected) == {}
        assert FoldedState.of(calculator.snapshot()).differences(expected) == {}
        assert dict(calculator.problems) == dict(fresh.problems)
        assert calculator.stats == fresh.stats
        assert calculator.flush() is None
    if deltas:
        merged = deltas[0]
        for delta in deltas[1:]:
            merged = merged.then(delta)
        folded = FoldedState()
        folded.apply(merged, strict=False)
        assert folded.differences(state) == {}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(batches=batches, cut=st.integers(0, 5))
def test_merged_deltas_fold_as_separate_ones(batches: list[list[tuple[Key, Any]]], cut: int) -> None:
    calculator = Calculator("n1")
    calculator.in_sync()
    deltas: list[Delta] = []
    for batch in batches:
        calculator.update(batch)
        delta = calculator.flush()
        if delta is not None:
            deltas.append(delta)
    separate = FoldedState.of(*deltas)
    cut = min(cut, len(deltas) - 1)
    together = FoldedState.of(*deltas[: cut + 1])
    rest = deltas[cut + 1 :]
    if rest:
        merged = rest[0]
        for delta in rest[1:]:
            merged = merged.then(delta)
        if merged:
            together.apply(merged, strict=False)
    assert together.differences(separate) == {}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(batches=batches, asked=st.lists(st.sampled_from(USABLE), min_size=1, max_size=4), asked_at=st.integers(0, 8))
def test_selected_sets_hold_what_plain_evaluation_selects(
    batches: list[list[tuple[Key, Any]]], asked: list[str], asked_at: int
) -> None:
    """One local endpoint whose policy asks for these selectors; the members against labels evaluated one by one."""
    calculator = Calculator("n0")
    key = ResourceKey("WorkloadEndpoint", "ns0", "asker")
    asker = WorkloadEndpoint(
        metadata=meta(key),
        spec=WorkloadEndpointSpec(node="n0", ip_networks=("10.9.9.9/32",), interface_name="cali0"),
    )
    asking = GlobalNetworkPolicySpec(
        selector="all()",
        ingress=tuple(Rule(action="Allow", source=EntityRule(selector=text)) for text in asked),
    )
    policy = GlobalNetworkPolicy(metadata=ObjectMeta(name="asking"), spec=asking)
    calculator.in_sync()
    state = FoldedState()
    policy_key = ResourceKey("GlobalNetworkPolicy", "", "asking")
    batches.insert(asked_at, [(key, asker), (policy_key, policy)])
    values: dict[Key, Any] = {}
    for batch in batches:
        labelled = [
            event
            for event in batch
            if event[0] == policy_key or getattr(event[0], "kind", "") in ("WorkloadEndpoint", "Profile")
        ]
        calculator.update(labelled)
        values.update(labelled)
        delta = calculator.flush()
        if delta is not None:
            state.apply(delta)
    given_labels = {
        key.name: value.spec.labels_to_apply
        for key, value in values.items()
        if isinstance(value, Profile) and isinstance(key, ResourceKey)
    }
    for text in asked:
        selector = parse(text)
        expected = set()
        for value in values.values():
            if isinstance(value, WorkloadEndpoint) and "10.0.0.0/24" not in value.spec.ip_networks:
                handed_down = [given_labels.get(name, {}) for name in value.spec.profiles]
                if selector.evaluate(inherit(workload_labels(value), handed_down)):
                    expected.update(net.removesuffix("/32") for net in value.spec.ip_networks)
        assert state.maps["ip_sets"][selector.id][1] == expected
