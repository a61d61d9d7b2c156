"""Rendering of rules: what a chain does to a packet is what the parsed rules say, for any rules and packets.

The chain is run by a small interpreter of rule values, so thousands of cases take a second; the contract kit sends real
packets.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_dp_iptables import rules as r
from calico_dp_iptables.endpoint_chains import EndpointChains, mark_chains, runs
from calico_dp_iptables.names import Marks, list_digest, policy_chain, profile_chain, set_name, workload_chain
from calico_dp_iptables.options import Options
from calico_dp_iptables.policy_rules import Renderer
from calico_dp_iptables.rules import Rule
from calico_kernel.model import nodestate as ns

MARKS = Marks.from_mask(0xFFFF0000)
SETS = {"s:a": {"10.0.0.1", "10.0.0.2", "fd00::1"}, "s:b": {"10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2"}}
PORT_SETS = {"n:http": {("10.0.0.1", 6, 80), ("fd00::1", 6, 80)}, "n:dns": {("10.0.0.2", 17, 53), ("fd00::2", 17, 53)}}
ADDRESSES = {4: ("10.0.0.1", "10.0.0.2", "10.0.0.3", "192.0.2.1"), 6: ("fd00::1", "fd00::2", "fd01::1")}
NETS = ("10.0.0.0/30", "10.0.0.2/32", "192.0.2.0/24", "0.0.0.0/0", "fd00::/64", "fd01::/64", "::/0")


@attrs.frozen(kw_only=True)
class Packet:
    version: int
    source: str
    destination: str
    protocol: int
    source_port: int = 0
    destination_port: int = 0
    icmp_type: int = -1
    icmp_code: int = 0


# ── what the parsed rule says ─────────────────────────────────────────────────────────────────────────────────────────


def says(rule: ns.ParsedRule, packet: Packet) -> bool:
    icmp = packet.protocol == (1 if packet.version == 4 else 58)

    def is_icmp(kind: int | None, code: int | None) -> bool:
        return icmp and packet.icmp_type == kind and code in (None, packet.icmp_code)

    return (
        rule.ip_version in (None, packet.version)
        and rule.protocol in (None, packet.protocol)
        and (rule.not_protocol is None or rule.not_protocol != packet.protocol)
        and (rule.icmp_type is None or is_icmp(rule.icmp_type, rule.icmp_code))
        and (rule.not_icmp_type is None or not is_icmp(rule.not_icmp_type, rule.not_icmp_code))
        and side_says(rule.source, packet.source, packet.source_port, packet)
        and side_says(rule.destination, packet.destination, packet.destination_port, packet)
    )


def side_says(side: ns.Match, address: str, port: int, packet: Packet) -> bool:
    def inside(nets: Sequence[str]) -> bool:
        return any(ipaddress.ip_address(address) in ipaddress.ip_network(net) for net in nets)

    def among(ranges: Sequence[ns.PortRange], named: Sequence[str]) -> bool:
        with_ports = packet.protocol in (6, 17, 132, 136)
        return (with_ports and any(first <= port <= last for first, last in ranges)) or any(
            (address, packet.protocol, port) in PORT_SETS[name] for name in named
        )

    other_family_only = side.not_nets and all((":" in net) != (packet.version == 6) for net in side.not_nets)
    return (
        (not side.nets or inside(side.nets))
        and not other_family_only
        and not inside(side.not_nets)
        and all(address in SETS[name] for name in side.ip_sets)
        and not any(address in SETS[name] for name in side.not_ip_sets)
        and (not (side.ports or side.named_ports) or among(side.ports, side.named_ports))
        and not among(side.not_ports, side.not_named_ports)
        and all((address, packet.protocol, port) in PORT_SETS[name] for name in side.services)
    )


# ── what the rendered chain does ──────────────────────────────────────────────────────────────────────────────────────


class Machine:
    """Runs chains of rule values as the kernel runs them."""

    def __init__(self, chains: Mapping[str, Sequence[Rule]], packet: Packet) -> None:
        self.chains, self.packet, self.mark = chains, packet, 0

    def run(self, name: str) -> str:
        """ "drop", "accept", or "" when the chain ends."""
        for rule in self.chains[name]:
            if not all(self.matches(match, rule) for match in rule.matches):
                continue
            target = rule.target
            if isinstance(target, r.SetMark):
                self.mark = (self.mark & ~target.mask) | target.value
            elif isinstance(target, r.Goto):
                return self.run(target.to)
            elif isinstance(target, r.Jump):
                verdict = self.run(target.to)
                if verdict:
                    return verdict
            elif target == r.RETURN:
                return ""
            elif target in (r.DROP, r.ACCEPT):
                return "drop" if target == r.DROP else "accept"
            else:
                assert isinstance(target, r.Log)
        return ""

    def matches(self, match: r.Match, rule: Rule) -> bool:
        negate = bool(getattr(match, "negate", False))
        return self.is_true(match, rule) != negate

    def is_true(self, match: r.Match, rule: Rule) -> bool:
        packet = self.packet
        match match:
            case r.Protocol(number):
                return packet.protocol == number
            case r.Net(source, net):
                address = ipaddress.ip_address(packet.source if source else packet.destination)
                assert ipaddress.ip_network(net).version == packet.version, "a rule of the other family"
                return address in ipaddress.ip_network(net)
            case r.Mark(value, mask):
                return self.mark & mask == value
            case r.Ports(source, ranges):
                protocols = [m.number for m in rule.matches if isinstance(m, r.Protocol) and not m.negate]
                assert protocols and protocols[0] in (6, 17, 132, 136), "ports without a protocol that has them"
                assert sum(1 if first == last else 2 for first, last in ranges) <= r.MAX_PORT_SLOTS
                port = packet.source_port if source else packet.destination_port
                return any(first <= port <= last for first, last in ranges)
            case r.InSet(source, name, with_port):
                address = packet.source if source else packet.destination
                if with_port:
                    port = packet.source_port if source else packet.destination_port
                    by_name = {set_name(key, packet.version): members for key, members in PORT_SETS.items()}
                    return (address, packet.protocol, port) in by_name[name]
                return address in {set_name(key, packet.version): members for key, members in SETS.items()}[name]
            case r.Icmp(version, kind, code):
                assert version == packet.version
                assert any(isinstance(m, r.Protocol) and m.number in (1, 58) for m in rule.matches)
                return packet.icmp_type == kind and code in (None, packet.icmp_code)
            case r.ConntrackState():
                return False
        raise AssertionError(match)


PORTS = st.integers(0, 3).map(lambda n: (53, 80, 443, 8080)[n])
RANGES = st.one_of(PORTS.map(lambda p: ns.PortRange(p, p)), st.just(ns.PortRange(400, 9000)))


def some(strategy: Any, most: int = 2) -> Any:
    return st.lists(strategy, max_size=most).map(tuple)


@st.composite
def sides(draw: Any, with_ports: bool) -> ns.Match:
    rarely = st.integers(0, 3)
    chosen: dict[str, Any] = {}
    for field, strategy in (
        ("nets", some(st.sampled_from(NETS), 3)),
        ("not_nets", some(st.sampled_from(NETS))),
        ("ip_sets", some(st.sampled_from(sorted(SETS)))),
        ("not_ip_sets", some(st.sampled_from(sorted(SETS)))),
        ("named_ports", some(st.sampled_from(sorted(PORT_SETS)))),
        ("not_named_ports", some(st.sampled_from(sorted(PORT_SETS)))),
        ("services", some(st.sampled_from(sorted(PORT_SETS)), 1)),
    ):
        if draw(rarely) == 0:
            chosen[field] = draw(strategy)
    if with_ports:
        for field, strategy in (("ports", st.lists(RANGES, max_size=20).map(tuple)), ("not_ports", some(RANGES))):
            if draw(rarely) == 0:
                chosen[field] = draw(strategy)
    return ns.Match(**chosen)


@st.composite
def parsed_rules(draw: Any) -> ns.ParsedRule:
    protocol = draw(st.sampled_from([None, 6, 17, 132, 136, 1, 58, 47]))
    more: dict[str, Any] = {}
    if protocol in (None, 1, 58) and draw(st.booleans()):
        more["icmp_type" if draw(st.booleans()) else "not_icmp_type"] = 8
        if draw(st.booleans()):
            more["icmp_code" if "icmp_type" in more else "not_icmp_code"] = 0
    if draw(st.integers(0, 4)) == 0:
        more["not_protocol"] = draw(st.sampled_from([6, 17, 1]))
    with_ports = protocol in (None, 6, 17, 132, 136) and "icmp_type" not in more
    return ns.ParsedRule(
        action=draw(st.sampled_from(["allow", "deny", "pass", "log"])),
        ip_version=draw(st.sampled_from([None, None, None, 4, 6])),
        protocol=protocol,
        source=draw(sides(with_ports)),
        destination=draw(sides(with_ports)),
        **more,
    )


@st.composite
def packets(draw: Any) -> Packet:
    version = draw(st.sampled_from([4, 6]))
    protocol = draw(st.sampled_from([6, 17, 132, 136, 47, 1 if version == 4 else 58]))
    more: dict[str, Any] = {}
    if protocol in (6, 17, 132, 136):
        more = {"source_port": draw(PORTS), "destination_port": draw(PORTS)}
    elif protocol in (1, 58):
        more = {"icmp_type": draw(st.sampled_from([8, 0])), "icmp_code": draw(st.sampled_from([0, 1]))}
    address = st.sampled_from(ADDRESSES[version])
    return Packet(version=version, source=draw(address), destination=draw(address), protocol=protocol, **more)


def decision(rules: Sequence[ns.ParsedRule], packet: Packet) -> str:
    for rule in rules:
        if rule.action != "log" and says(rule, packet):
            return rule.action
    return ""


@settings(max_examples=400, deadline=None)
@given(st.lists(parsed_rules(), min_size=1, max_size=3), packets())
def test_chain_decides_as_the_rules_say(parsed: list[ns.ParsedRule], packet: Packet) -> None:
    made, lacks = Renderer(version=packet.version, marks=MARKS).chain(parsed, owner="p")
    assert not lacks
    for rule in made:
        assert "\n" not in rule.text()
    machine = Machine({"p": made, **mark_chains(Options())}, packet)
    outcome = machine.run("p")
    verdict = machine.mark & MARKS.verdict
    done = "deny" if outcome == "drop" else {MARKS.accept: "allow", MARKS.passed: "pass", 0: ""}[verdict]
    assert done == decision(parsed, packet)


@st.composite
def lists(draw: Any) -> tuple[ns.PolicyList, dict[ns.PolicyId, ns.ActivePolicy], dict[str, ns.ActiveProfile]]:
    """Tiers of one-rule policies, some of them long enough to be cut into runs."""
    policies: dict[ns.PolicyId, ns.ActivePolicy] = {}
    tiers = []
    for number in range(draw(st.integers(0, 3))):
        ids = []
        for index in range(draw(st.sampled_from([0, 1, 2, 5, 13, 60]))):
            action = draw(st.sampled_from(["allow", "deny", "pass"]))
            port = draw(PORTS)
            match = ns.Match(ports=(ns.PortRange(port, port),))
            sparse = draw(st.integers(0, 5)) == 0
            policy = ns.ActivePolicy(
                id=ns.PolicyId("GlobalNetworkPolicy", "", f"t{number}-{index}"),
                tier=f"t{number}",
                inbound=(ns.ParsedRule(action=action, protocol=6, destination=match),) if sparse else (),
            )
            policies[policy.id] = policy
            ids.append(policy.id)
        default = draw(st.sampled_from(["Deny", "Pass"]))
        tiers.append(ns.TierPolicies(name=f"t{number}", default_action=default, ingress=tuple(ids)))
    profiles = {}
    for number in range(draw(st.integers(0, 2))):
        action = draw(st.sampled_from(["allow", "deny"]))
        port = draw(PORTS)
        match = ns.Match(ports=(ns.PortRange(port, port),))
        profiles[f"pro{number}"] = ns.ActiveProfile(
            name=f"pro{number}", inbound=(ns.ParsedRule(action=action, protocol=6, destination=match),)
        )
    return ns.PolicyList(tiers=tuple(tiers), profiles=tuple(profiles)), policies, profiles


@settings(max_examples=150, deadline=None)
@given(lists(), PORTS)
def test_list_decides_by_tiers_then_profiles(state: Any, port: int) -> None:
    listed, policies, profiles = state
    packet = Packet(version=4, source="10.0.0.1", destination="10.0.0.2", protocol=6, destination_port=port)

    def expected() -> bool:
        for tier in listed.tiers:
            if not tier.ingress:
                continue
            said = next((d for p in tier.ingress if (d := decision(policies[p].inbound, packet))), "")
            said = said or ("deny" if tier.default_action == "Deny" else "pass")
            if said != "pass":
                return said == "allow"
        said = next((d for name in listed.profiles if (d := decision(profiles[name].inbound, packet))), "")
        return said == "allow"

    renderer = Renderer(version=4, marks=MARKS)
    digest = list_digest(listed)
    chains: dict[str, Any] = dict(mark_chains(Options()))
    chains |= EndpointChains(version=4, options=Options()).workload(listed, digest, to_workload=True)
    for policy in policies.values():
        chains[policy_chain(policy.id, inbound=True)] = renderer.chain(policy.inbound, owner=policy.id)[0]
    for profile in profiles.values():
        chains[profile_chain(profile.name, inbound=True)] = renderer.chain(profile.inbound, owner=profile.name)[0]
    machine = Machine(chains, packet)
    machine.mark = MARKS.all
    outcome = machine.run(workload_chain(digest, to_workload=True))
    assert (outcome != "drop" and bool(machine.mark & MARKS.accept)) == expected()
    assert all(len(name) <= 28 for name in chains)


def test_policy_put_into_a_long_list_changes_one_run() -> None:
    ids = [ns.PolicyId("GlobalNetworkPolicy", "", f"p{number}") for number in range(1100)]
    before = set(runs(ids))
    after = set(runs([*ids[:500], ns.PolicyId("GlobalNetworkPolicy", "", "new"), *ids[500:]]))
    assert len(before) > 20
    assert len(after - before) <= 2


@pytest.mark.parametrize("prefix", ['say "hi"', "back\\slash", "per cent %t %k %n %p", "x" * 60])
def test_log_prefix_is_quoted_and_filled_in(prefix: str) -> None:
    renderer = Renderer(version=4, marks=MARKS, log_prefix=prefix, log_rate="10/minute")
    policy = ns.PolicyId("NetworkPolicy", "space", "name")
    ((rule,), lacks) = renderer.chain([ns.ParsedRule(action="log")], owner=policy, tier="top")
    assert not lacks
    assert "--limit 10/minute" in rule.text()
    if "%" in prefix:
        assert "top np name space" in rule.text()


@pytest.mark.parametrize("bad", ["10.0.0.1/33", "10.0.0.0/8 -j ACCEPT", "x\nCOMMIT", ""])
def test_net_that_is_none_denies(bad: str) -> None:
    rule = ns.ParsedRule(action="allow", protocol=6, source=ns.Match(nets=(bad,)))
    made, lacks = Renderer(version=4, marks=MARKS).chain([rule], owner="p")
    assert lacks
    assert [item.target for item in made] == [r.DROP]
