from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from calico_kernel.errors import ValidationError
from calico_kernel.model import codec, documents, keys, validate
from calico_kernel.model.defaults import with_defaults
from calico_kernel.model.meta import Resource
from calico_kernel.selector import parse

DATA = Path(__file__).parent / "data"
CASES = json.loads((DATA / "refused.json").read_text())
STORED = {r["key"]: r["value"] for r in map(json.loads, (DATA / "etcd.jsonl").read_text().splitlines())}
DOCUMENTS = documents.load((DATA / "resources.yaml").read_text())
NEEDS_THE_STORE = {"tier-missing", "pool-overlap", "pool-change-cidr"}
"""Refused for what else is stored: the client's checks."""


def read(document: dict[str, Any]) -> Resource:
    resource = documents.to_resource(document)
    if resource.namespaced and not resource.metadata.namespace:
        meta = msgspec.structs.replace(resource.metadata, namespace="default")
        resource = msgspec.structs.replace(resource, metadata=meta)
    return with_defaults(resource)


def problems(kind: str, spec: dict[str, Any], name: str = "x", **meta: Any) -> dict[str, str]:
    document = {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name, **meta}, "spec": spec}
    return dict(validate.problems(read(document), selector_check=parse))


@pytest.mark.parametrize("document", DOCUMENTS, ids=documents.describe)
def test_document_becomes_the_key_and_value_that_calico_stored(document: dict[str, Any]) -> None:
    resource = read(document)
    assert validate.problems(resource, selector_check=parse) == []
    stored = json.loads(json.dumps(STORED[keys.path(keys.key_of(resource))]))
    for given_by_the_store in ("uid", "creationTimestamp"):
        del stored["metadata"][given_by_the_store]
    assert json.dumps(json.loads(codec.encode(resource))) == json.dumps(stored)


@pytest.mark.parametrize("case", [c for c in CASES if c["name"] not in NEEDS_THE_STORE], ids=lambda c: c["name"])
def test_resource_is_refused_exactly_where_calico_refused_it(case: dict[str, Any]) -> None:
    assert len(CASES) == 48
    if not case["refused"]:
        validate.check(read(case["resource"]), selector_check=parse)
        return
    with pytest.raises(ValidationError) as caught:
        validate.check(read(case["resource"]), selector_check=parse)
    assert all(reason for _, reason in caught.value.problems)


def test_all_problems_come_at_once_with_their_paths() -> None:
    found = problems(
        "GlobalNetworkPolicy",
        {
            "selector": "a ==",
            "ingress": [
                {"action": "Allow", "source": {"nets": ["10.0.0.0/8", "fd00::/8"], "ports": [80]}},
                {"action": "Deny", "http": {"methods": ["GET"]}, "destination": {"services": {"name": "a"}}},
            ],
        },
        name="Bad",
    )
    assert set(found) == {
        "metadata.name",
        "spec.selector",
        "spec.ingress[0].source.nets",
        "spec.ingress[0].source.ports",
        "spec.ingress[1].http",
        "spec.ingress[1].destination.services",
    }


RULES: list[tuple[dict[str, Any], str]] = [
    ({"notICMP": {"code": 1}}, "notICMP.code"),
    ({"protocol": "ICMP", "ipVersion": 6}, "protocol"),
    ({"notProtocol": 58, "ipVersion": 4}, "notProtocol"),
    ({"ipVersion": 5}, "ipVersion"),
    ({"protocol": "ICMP", "icmp": {"type": 255}}, "icmp.type"),
    ({"protocol": "UDPLite", "source": {"ports": ["a"]}}, "source.ports"),
    ({"source": {"notNets": ["0.0.0.0/0"]}}, "source.notNets[0]"),
    ({"source": {"nets": ["10.0.0.1"]}}, "source.nets[0]"),
    ({"source": {"nets": ["10.0.0.0/8"]}, "destination": {"nets": ["fd00::/8"]}}, "destination.nets"),
    ({"source": {"selector": "global()"}}, "source.selector"),
    ({"source": {"namespaceSelector": "global() && a == 'b'"}}, "source.namespaceSelector"),
    ({"source": {"services": {"name": "a", "namespace": "b"}, "nets": ["10.0.0.0/8"]}}, "source.nets"),
    ({"source": {"services": {"name": "a"}}}, "source.services.namespace"),
    ({"source": {"services": {"namespace": "b"}}}, "source.services.name"),
    ({"source": {"nets": ["10.0.0.0/8"] * 257}}, "source.nets"),
    ({"destination": {"ports": list(range(1, 52))}, "protocol": "TCP"}, "destination.ports"),
    ({"http": {"paths": [{"exact": "/a", "prefix": "/b"}]}}, "http.paths[0]"),
    ({"http": {"paths": [{"exact": "a"}]}}, "http.paths[0]"),
    ({"http": {"methods": ["GET", "GET"]}}, "http.methods"),
    ({"http": {"methods": ["GET"]}, "protocol": "UDP"}, "http"),
    ({"metadata": {"annotations": {"a b": "c"}}}, "metadata.annotations"),
]


@pytest.mark.parametrize(("rule", "path"), RULES, ids=[path for _, path in RULES])
def test_rule_that_contradicts_itself_is_refused_at_the_field(rule: dict[str, Any], path: str) -> None:
    assert set(problems("GlobalNetworkPolicy", {"ingress": [{"action": "Allow", **rule}]})) == {
        f"spec.ingress[0].{path}"
    }


@pytest.mark.parametrize(
    ("rule"),
    [
        {"source": {"ports": ["http", "web"]}},
        {"source": {"namespaceSelector": "global( )"}},
        {"protocol": 6, "destination": {"ports": ["80:90"], "notPorts": [85]}},
        {"source": {"nets": ["10.0.0.0/8"], "notNets": ["10.1.0.0/16"]}, "ipVersion": 4},
        {"notProtocol": "TCP", "notICMP": {"type": 8}},
        {"protocol": "TCP", "http": {"paths": [{"prefix": "/"}]}},
    ],
)
def test_rule_that_calico_takes_is_taken(rule: dict[str, Any]) -> None:
    assert problems("GlobalNetworkPolicy", {"ingress": [{"action": "Allow", **rule}]}) == {}


OTHERS: list[tuple[str, dict[str, Any], str]] = [
    ("IPPool", {}, "spec.cidr"),
    ("IPPool", {"cidr": "10.0.0.0/16", "nodeSelector": "global()"}, "spec.nodeSelector"),
    ("IPPool", {"cidr": "10.0.0.0/16", "namespaceSelector": "a == 'b'"}, "spec.namespaceSelector"),
    ("IPPool", {"cidr": "10.0.0.0/16", "allowedUses": ["LoadBalancer", "Tunnel"]}, "spec.allowedUses"),
    (
        "IPPool",
        {"cidr": "10.0.0.0/16", "allowedUses": ["LoadBalancer"], "nodeSelector": "a == 'b'"},
        "spec.nodeSelector",
    ),
    ("IPPool", {"cidr": "fe80::/64"}, "spec.cidr"),
    ("IPPool", {"cidr": "10.0.0.0/255.255.0.0"}, "spec.cidr"),
    ("IPPool", {"cidr": "10.0.0.0/16", "assignmentMode": "Maybe"}, "spec.assignmentMode"),
    ("IPReservation", {"reservedCIDRs": ["x"]}, "spec.reservedCIDRs[0]"),
    ("IPReservation", {"reservedCIDRs": ["10.0.0.1"]}, "spec.reservedCIDRs[0]"),
    ("BGPConfiguration", {"serviceExternalIPs": [{"cidr": "192.0.2.1"}]}, "spec.serviceExternalIPs[0].cidr"),
    (
        "BGPFilter",
        {"exportV6": [{"action": "Accept", "cidr": "fd00::", "matchOperator": "In"}]},
        "spec.exportV6[0].cidr",
    ),
    ("IPAMConfiguration", {"ipCooldownSeconds": 1201}, "spec.ipCooldownSeconds"),
    ("HostEndpoint", {"node": "n", "interfaceName": "a" * 16}, "spec.interfaceName"),
    (
        "HostEndpoint",
        {"node": "n", "interfaceName": "*", "ports": [{"port": 1, "protocol": "TCP"}]},
        "spec.ports[0].name",
    ),
    ("Node", {"bgp": {}}, "spec.bgp"),
    ("Node", {"vxlanTunnelMACAddr": "x"}, "spec.vxlanTunnelMACAddr"),
    ("BGPPeer", {"peerIP": "10.0.0.1:0"}, "spec.peerIP"),
    ("BGPPeer", {"peerIP": "10.0.0.1", "reachableBy": "fd00::1"}, "spec.reachableBy"),
    ("BGPPeer", {"localWorkloadSelector": "all()"}, "spec.asNumber"),
    ("BGPPeer", {"ttlSecurity": 256}, "spec.ttlSecurity"),
    ("BGPFilter", {"importV4": [{"action": "Accept", "cidr": "10.0.0.0/8"}]}, "spec.importV4[0]"),
    ("BGPFilter", {"importV4": [{}]}, "spec.importV4[0].action"),
    ("BGPFilter", {"importV6": [{"action": "Reject", "operations": [{}]}]}, "spec.importV6[0].operations"),
    ("BGPConfiguration", {"communities": [{"name": "a", "value": "1:2"}]}, "spec.communities"),
    ("FelixConfiguration", {"natOutgoingAddress": "fd00::1"}, "spec.natOutgoingAddress"),
    ("FelixConfiguration", {"routeTableRange": {"min": 9, "max": 3}}, "spec.routeTableRange"),
    ("FelixConfiguration", {"bpfConntrackTimeouts": {"tcpSynSent": "soon"}}, "spec.bpfConntrackTimeouts.tcpSynSent"),
    ("FelixConfiguration", {"nodeSelector": "a"}, "spec.nodeSelector"),
    ("FelixConfiguration", {"featureDetectOverride": "x"}, "spec.featureDetectOverride"),
    (
        "KubeControllersConfiguration",
        {"controllers": {"node": {"hostEndpoint": {"templates": [{"generateName": "a"}]}}}},
        "spec.controllers.node.hostEndpoint.templates[0]",
    ),
    ("CalicoNodeStatus", {"node": "n", "classes": ["Agent"]}, "spec.updatePeriodSeconds"),
    ("FelixConfiguration", {"reportingInterval": "-5s"}, "spec.reportingInterval"),
    (
        "FelixConfiguration",
        {"healthTimeoutOverrides": [{"name": "calc", "timeout": "-1ns"}]},
        "spec.healthTimeoutOverrides[0].timeout",
    ),
    ("CalicoNodeStatus", {"node": "n", "classes": ["BGP", "BGP"], "updatePeriodSeconds": 5}, "spec.classes"),
]


@pytest.mark.parametrize(("kind", "spec", "path"), OTHERS, ids=[f"{k}-{p}" for k, _, p in OTHERS])
def test_resource_of_another_kind_is_refused_at_the_field(kind: str, spec: dict[str, Any], path: str) -> None:
    name = "default" if kind in ("BGPConfiguration", "KubeControllersConfiguration") else "x"
    assert path in problems(kind, spec, name=name)


@pytest.mark.parametrize(
    ("kind", "name", "good"),
    [
        ("NetworkPolicy", "tier.name", True),
        ("NetworkPolicy", "knp.default.a.b.c", True),
        ("NetworkPolicy", "a.b.c", False),
        ("GlobalNetworkPolicy", "a.b.c", False),
        ("Tier", "a.b", False),
        ("Tier", "a" * 64, False),
        ("Node", "a.b.c", True),
        ("Node", "a" * 254, False),
        ("Node", "-a", False),
    ],
)
def test_name_follows_the_rule_of_its_kind(kind: str, name: str, good: bool) -> None:
    assert ("metadata.name" not in problems(kind, {}, name=name)) == good


def test_labels_and_annotations_follow_the_rules_of_kubernetes() -> None:
    assert "metadata.labels" in problems("Node", {}, labels={"a": "b c"})
    assert "metadata.labels" in problems("Node", {}, labels={"/a": ""})
    assert "metadata.annotations" in problems("Node", {}, annotations={"a": "x" * 262145})
    assert problems("Node", {}, labels={"a.b/c_D": "E.f"}, annotations={"A/b": "any text\n"}) == {}


def test_workload_endpoint_must_have_the_name_that_its_parts_give() -> None:
    spec = {"orchestrator": "k8s", "node": "n-1", "pod": "p", "endpoint": "eth0", "interfaceName": "cali1"}
    assert problems("WorkloadEndpoint", spec, name="n--1-k8s-p-eth0") == {}
    assert "n--1-k8s-p-eth0" in problems("WorkloadEndpoint", spec, name="other")["metadata.name"]
    assert problems("WorkloadEndpoint", spec, name="") == {}
    assert "spec" in problems("WorkloadEndpoint", {**spec, "pod": ""})


def test_workload_endpoint_addresses_and_nats_belong_together() -> None:
    spec = {"orchestrator": "k8s", "node": "n", "pod": "p", "endpoint": "eth0", "interfaceName": "cali1"}
    nat = {"internalIP": "10.0.0.2", "externalIP": "192.0.2.1"}
    found = problems("WorkloadEndpoint", {**spec, "ipNetworks": ["10.0.0.0/31"], "ipNATs": [nat]}, name="")
    assert set(found) == {"spec.ipNetworks[0]", "spec.ipNATs[0].internalIP"}


def test_deprecated_load_balancing_switch_wins_over_what_it_stands_for() -> None:
    document = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "FelixConfiguration",
        "metadata": {"name": "default"},
        "spec": {"bpfConnectTimeLoadBalancingEnabled": True, "bpfConnectTimeLoadBalancing": "TCP"},
    }
    spec: Any = getattr(read(document), "spec", None)
    assert spec.bpf_connect_time_load_balancing == "Enabled"
    assert spec.bpf_host_networked_nat_without_ctlb == "Disabled"


@pytest.mark.parametrize(
    ("spec", "types"),
    [
        ({}, ("Ingress",)),
        ({"ingress": [{"action": "Allow"}]}, ("Ingress",)),
        ({"egress": [{"action": "Allow"}]}, ("Egress",)),
        ({"ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}]}, ("Ingress", "Egress")),
    ],
)
def test_policy_governs_the_directions_that_it_has_rules_for(spec: dict[str, Any], types: tuple[str, ...]) -> None:
    document = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "x"},
        "spec": spec,
    }
    policy: Any = read(document)
    assert policy.spec.types == types
    assert policy.metadata.labels == {"projectcalico.org/tier": "default"}


def test_defaults_are_filled_in_once() -> None:
    for document in DOCUMENTS:
        resource = read(document)
        assert with_defaults(resource) == resource


def test_selector_check_may_answer_with_text_instead_of_raising() -> None:
    document = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "x"},
        "spec": {"selector": "a"},
    }
    assert validate.problems(read(document), selector_check=lambda _: "no good") == [("spec.selector", "no good")]
