"""Selector rewriting, and the parsing of protocols, ports and prefixes."""

from __future__ import annotations

from typing import Any

import pytest

from calico_kernel.errors import ValidationError
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.nodestate import PortRange
from calico_kernel.model.policy import (
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    NetworkPolicy,
    NetworkPolicySpec,
    Profile,
    ProfileSpec,
    Rule,
    ServiceAccountMatch,
)
from calico_kernel.policy.effective import (
    DENY_ALL,
    effective_policy,
    effective_profile,
    entity_selector_text,
    parse_net,
    parse_port,
    policy_selector_text,
    protocol_number,
)

NS = "projectcalico.org/namespace"
SA = "projectcalico.org/serviceaccount"


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({}, f"{NS} == 'blue'"),
        ({"selector": "a=='b'"}, f"(a=='b') && {NS} == 'blue'"),
        ({"service_account_selector": "k == 'v'"}, f"({NS} == 'blue') && pcsa.k == \"v\""),
        ({"service_account_selector": "all()"}, f"({NS} == 'blue') && all()"),
    ],
)
def test_namespaced_policy_selector_is_joined_as_calico_joins_it(spec: dict[str, Any], text: str) -> None:
    policy = NetworkPolicy(metadata=ObjectMeta(name="p", namespace="blue"), spec=NetworkPolicySpec(**spec))
    assert policy_selector_text(policy) == text


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({}, ""),
        (
            {"selector": "a=='b'", "namespace_selector": "k=='v' && x=='y'"},
            '(a==\'b\') && (pcns.k == "v" && pcns.x == "y")',
        ),
        ({"selector": "all()", "namespace_selector": "k=='v'"}, f'(has({NS})) && pcns.k == "v"'),
        ({"namespace_selector": "all()"}, f"has({NS})"),
        ({"selector": "all()", "service_account_selector": "all()"}, f"(has({SA})) && has({SA})"),
    ],
)
def test_global_policy_selector_is_joined_as_calico_joins_it(spec: dict[str, Any], text: str) -> None:
    policy = GlobalNetworkPolicy(metadata=ObjectMeta(name="p"), spec=GlobalNetworkPolicySpec(**spec))
    assert policy_selector_text(policy) == text


@pytest.mark.parametrize(
    ("entity", "namespace", "text"),
    [
        ({}, "blue", ""),
        ({"selector": "a=='b'"}, "", "a=='b'"),
        ({"selector": "a=='b'"}, "blue", f"({NS} == 'blue') && (a=='b')"),
        ({"not_selector": "a=='b'"}, "blue", f"{NS} == 'blue'"),
        ({"not_selector": "a=='b'"}, "", ""),
        ({"namespace_selector": "k=='v'"}, "blue", 'pcns.k == "v"'),
        ({"namespace_selector": "all()", "selector": "x=='y'"}, "", f"(has({NS})) && (x=='y')"),
        ({"namespace_selector": "global()"}, "", f"!has({NS})"),
        ({"service_accounts": ServiceAccountMatch(names=("b", "a"))}, "", f'{SA} in {{"a", "b"}}'),
        (
            {"service_accounts": ServiceAccountMatch(names=("a",), selector="k=='v'"), "selector": "x=='y'"},
            "blue",
            f"({NS} == 'blue') && (((pcsa.k == \"v\") && ({SA} in {{\"a\"}})) && (x=='y'))",
        ),
    ],
)
def test_rule_selector_is_joined_as_calico_joins_it(entity: dict[str, Any], namespace: str, text: str) -> None:
    assert entity_selector_text(EntityRule(**entity), namespace) == text


def test_negative_selector_is_folded_into_a_positive_one() -> None:
    rule = Rule(action="Allow", source=EntityRule(selector="a=='b'", not_selector="has(c)"))
    policy = GlobalNetworkPolicy(metadata=ObjectMeta(name="p"), spec=GlobalNetworkPolicySpec(ingress=(rule,)))
    side = effective_policy(policy).inbound[0].source
    assert side.selector is not None and side.selector.text == '(a == "b" && !has(c))'
    assert side.not_selector is None


@pytest.mark.parametrize(
    ("protocol", "number"),
    [("TCP", 6), ("udp", 17), ("ICMP", 1), ("ICMPv6", 58), ("SCTP", 132), ("UDPLite", 136), (47, 47), ("255", 255)],
)
def test_protocol_is_known_by_name_and_number(protocol: str | int, number: int) -> None:
    assert protocol_number(protocol) == number


@pytest.mark.parametrize("protocol", ["GRE", "", "0", 0, 256, -1, "9999999999", "٤"])
def test_unknown_protocol_is_refused(protocol: str | int) -> None:
    with pytest.raises(ValueError):
        protocol_number(protocol)


@pytest.mark.parametrize(
    ("port", "parsed"),
    [
        (80, PortRange(80, 80)),
        ("80", PortRange(80, 80)),
        ("80:90", PortRange(80, 90)),
        ("http", "http"),
        ("8080-http", "8080-http"),
    ],
)
def test_port_is_a_number_a_range_or_a_name(port: str | int, parsed: object) -> None:
    assert parse_port(port) == parsed


@pytest.mark.parametrize("port", [0, 65536, "0", "90:80", "1:", ":1", "a b", "", "99999999999999999999", "1:2:3"])
def test_impossible_port_is_refused(port: str | int) -> None:
    with pytest.raises(ValueError):
        parse_port(port)


def test_prefix_loses_host_bits_and_bare_address_is_a_prefix() -> None:
    assert str(parse_net("10.1.2.3/8")) == "10.0.0.0/8"
    assert str(parse_net("fd00::1")) == "fd00::1/128"


@pytest.mark.parametrize(
    "rule",
    [
        Rule(action="Allow", protocol="GRE"),
        Rule(action="Allow", source=EntityRule(nets=("10.0.0.0/33",))),
        Rule(action="Allow", source=EntityRule(ports=("90:80",))),
        Rule(action="Allow", source=EntityRule(selector="a =")),
        Rule(action="Allow", source=EntityRule(namespace_selector="a =")),
        Rule(action="Allow", destination=EntityRule(service_accounts=ServiceAccountMatch(names=("it's",)))),
    ],
)
def test_rule_that_cannot_be_read_closes_policy_and_profile(rule: Rule) -> None:
    policy = effective_policy(
        GlobalNetworkPolicy(metadata=ObjectMeta(name="p"), spec=GlobalNetworkPolicySpec(egress=(rule,)))
    )
    assert policy.inbound == policy.outbound == DENY_ALL
    assert "spec.egress[0]" in policy.failed
    profile = effective_profile(Profile(metadata=ObjectMeta(name="p"), spec=ProfileSpec(ingress=(rule,))))
    assert profile.inbound == profile.outbound == DENY_ALL


def test_policy_whose_selector_cannot_be_read_is_refused() -> None:
    policy = GlobalNetworkPolicy(metadata=ObjectMeta(name="p"), spec=GlobalNetworkPolicySpec(selector="a ="))
    with pytest.raises(ValidationError, match=r"spec\.selector"):
        effective_policy(policy)


@pytest.mark.parametrize("text", ["all()) || (all()", "a == 'x') || (has(b)"])
def test_selector_cannot_reach_out_of_what_it_is_joined_with(text: str) -> None:
    namespaced = NetworkPolicy(metadata=ObjectMeta(name="p", namespace="ns1"), spec=NetworkPolicySpec(selector=text))
    with pytest.raises(ValidationError, match=r"spec\.selector"):
        effective_policy(namespaced)
    rules = (Rule(action="Allow", source=EntityRule(selector=text)),)
    policy = effective_policy(
        NetworkPolicy(metadata=ObjectMeta(name="p", namespace="ns1"), spec=NetworkPolicySpec(ingress=rules))
    )
    assert policy.inbound == DENY_ALL and policy.failed
