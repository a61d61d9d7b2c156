"""The 48 resources that were meant to be wrong: each gets a deliberate answer, with the field, the value, and what is
allowed; or is accepted, and ``docs/calicoctl.md`` says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calico_kernel.cli.session import described
from calico_kernel.client.common import refusal
from calico_kernel.errors import NotPermitted

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "model" / "data"
CASES = {case["name"]: case for case in json.loads((DATA / "refused.json").read_text())}
RULE = "spec.ingress[0]"
ACCEPTED = {
    "tier-prefix-mismatch": "a policy named without its tier",
    "pool-loopback": "127.0.0.0/8",
    "namespace-missing": "without a namespace",
    "profile-pass": "a profile with a `Pass` rule",
}
"""Case -> the words that its reason in the docs begins with."""
ANSWERS = {
    "selector-syntax": ("spec.selector", "\"role == 'db' &&\"", "expected a label, has(), all(), global() or ("),
    "selector-unknown-op": ("spec.selector", "\"role ~= 'db'\"", "expected an operator after label 'role'"),
    "action-unknown": (f"{RULE}.action", "'Reject'", "must be one of Allow, Deny, Log, Pass"),
    "ports-without-protocol": (f"{RULE}.destination.ports", "[80]", "must set protocol to TCP, UDP or SCTP"),
    "port-too-big": (f"{RULE}.destination.ports[0]", "70000", "from 1 to 65535"),
    "port-range-backwards": (f"{RULE}.destination.ports[0]", "'200:100'", "ends before it begins"),
    "icmp-code-without-type": (f"{RULE}.icmp.code", "'3'", "needs a type beside it"),
    "icmp-on-tcp": (f"{RULE}.icmp", "needs protocol ICMP or ICMPv6"),
    "net-bad": (f"{RULE}.source.nets[0]", "'10.0.0.0/33'", "an address or a CIDR whose host bits are zero"),
    "net-v4-and-ipversion-6": (f"{RULE}.source.nets[0]", "10.0.0.0/8", "ipVersion 6"),
    "donottrack-and-prednat": ("spec", "preDNAT and doNotTrack cannot both be true"),
    "prednat-egress": ("spec.egress", "cannot have egress rules", "spec.types", "cannot have the type Egress"),
    "donottrack-without-applyonforward": ("spec.applyOnForward", "must be true when preDNAT or doNotTrack is true"),
    "tier-missing": ("does not exist", "Tier(nosuch)", "not found"),
    "name-uppercase": ("metadata.name", "'Bad_Name'", "lower case letters, digits and inner '-'"),
    "types-duplicate": ("spec.types", '["Ingress","Ingress"]', "'Ingress' is specified more than once"),
    "types-unknown": ("spec.types[0]", "'Sideways'", "must be one of Ingress, Egress"),
    "http-with-egress": ("spec.egress[0].http", "not allowed in egress rules"),
    "unknown-field": ("spec.selectr", "unknown field", "did you mean 'selector'?"),
    "order-not-number": ("spec.order", "'first'", "must be a number"),
    "services-and-ports": ("spec.egress[0].destination", "ports and notPorts cannot be given beside services"),
    "pool-cidr-host-bits": ("spec.cidr", "10.1.2.3/16", "the network is 10.1.0.0/16"),
    "pool-overlap": ("spec.cidr", "10.65.128.0/20", "overlaps with IPPool(main-v4) 10.65.0.0/16"),
    "pool-too-small": ("spec.cidr", "10.99.0.0/27", "smaller than one block (/26)"),
    "pool-blocksize-range": ("spec.blockSize", "is 33", "from 20 to 32 for an IPv4 pool"),
    "pool-ipip-and-vxlan": ("spec", "ipipMode and vxlanMode cannot both be enabled"),
    "pool-ipip-v6": ("spec.ipipMode", "'Always'", "not supported on IPv6 pools"),
    "pool-linklocal": ("spec.cidr", "the link local range 169.254.0.0/16"),
    "pool-change-cidr": ("spec.cidr", "10.70.0.0/16", "cannot be changed"),
    "node-bad-ip": ("spec.bgp.ipv4Address", "'300.1.1.1'", "an IPv4 address or CIDR"),
    "node-as-out-of-range": ("spec.bgp.asNumber", "4294967296", "from 0 to 4294967295"),
    "hep-no-node": ("spec.node", "must be given"),
    "hep-no-interface-no-ip": ("spec", "at least one of interfaceName or expectedIPs must be given"),
    "netset-bad-net": ("spec.nets[0]", "'10.0.0/8'", "an address or CIDR"),
    "tier-order-action": ("spec.defaultAction", "'Allow'", "must be one of Deny, Pass"),
    "tier-default-rename": ("spec.order", "'5'", "must be 1000000"),
    "peer-node-and-selector": ("spec", "node and nodeSelector cannot both be set"),
    "peer-ip-and-selector": ("peerIP and peerSelector cannot both be set", "spec.asNumber", "must be empty"),
    "bgpconfig-mesh-not-default": (
        "spec.nodeToNodeMeshEnabled",
        "'false'",
        "only be set on the BGPConfiguration",
    ),
    "kind-unknown": ("kind", "Nonsense", "unknown resource type"),
    "apiversion-unknown": ("projectcalico.org/v9", "write kind: Tier and apiVersion: projectcalico.org/v3"),
    "felix-duration": ("spec.iptablesRefreshInterval", "'ten'", "a duration such as 90s, 1m30s or 250ms"),
    "felix-enum": ("spec.defaultEndpointToHostAction", "'Maybe'", "must be one of Drop, Accept, Return"),
    "staged-delete-with-rules": ("spec", "must hold nothing but the tier when stagedAction is Delete"),
}


def test_every_case_has_an_answer() -> None:
    assert len(CASES) == 48
    assert set(ANSWERS) | set(ACCEPTED) == set(CASES) and not set(ANSWERS) & set(ACCEPTED)
    assert {name for name, case in CASES.items() if not case["refused"]} == set(ACCEPTED)


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_refusal_names_the_field_the_value_and_what_is_allowed(ctl: Any, name: str) -> None:
    if name in {"pool-overlap", "pool-change-cidr"}:
        assert ctl("apply", "-f", str(DATA / "resources.yaml")).status == 0
    ran = ctl("apply", "-f", "-", text=json.dumps(CASES[name]["resource"]))
    assert ran.status == 1 and ran.out == ""
    for said in ANSWERS[name]:
        assert said in ran.err, ran.err


@pytest.mark.parametrize("name", sorted(ACCEPTED))
def test_what_is_accepted_is_warned_of_by_validate_and_explained_in_the_docs(ctl: Any, name: str) -> None:
    text = json.dumps(CASES[name]["resource"])
    if name == "tier-prefix-mismatch":
        assert ctl("apply", "-f", str(DATA / "resources.yaml")).status == 0  # its tier
    assert ctl("apply", "-f", "-", text=text).status == 0
    assert ctl("validate", "-f", "-", text=text).err.startswith("warning: ")
    documented = " ".join((ROOT / "docs" / "calicoctl.md").read_text().split())
    assert ACCEPTED[name] in documented[documented.index("Accepted as Calico accepts it") :]


def test_who_lacks_a_right_is_told_what_to_do_and_what_is_never_possible_stands_alone() -> None:
    lacking = NotPermitted(what="the Kubernetes API does not permit it", todo="give user 'ro' a ClusterRole")
    assert described(lacking) == "the Kubernetes API does not permit it; give user 'ro' a ClusterRole"
    never = refusal("delete", "Tier(default)", "cannot delete the default tier")
    assert described(never) == "operation delete is not supported on Tier(default): cannot delete the default tier"
