"""Documents of Calico's first API become what Calico's own upgrade made of them."""

from __future__ import annotations

from typing import Any

import pytest

from calico_kernel.errors import ValidationError
from calico_kernel.model import documents, upgrade, validate
from calico_kernel.model.defaults import with_defaults
from calico_kernel.selector import parse


def converted(text: str) -> dict[str, Any]:
    """Metadata and spec of what one document becomes; it must be storable."""
    (document,) = documents.load("apiVersion: v1\n" + text)
    resource = upgrade.upgrade(document, selector_check=parse).resource
    assert validate.problems(with_defaults(resource), selector_check=parse) == []
    return documents.to_builtins(resource)


def problems(text: str) -> dict[str, str]:
    (document,) = documents.load("apiVersion: v1\n" + text)
    with pytest.raises(ValidationError) as caught:
        upgrade.upgrade(document, selector_check=parse)
    return dict(caught.value.problems)


def test_policy_rules_take_nets_tags_and_namespaces_along() -> None:
    made = converted(
        """
kind: policy
metadata: {name: db, annotations: {owner: blue}}
spec:
  order: 10.5
  selector: calico/k8s_ns == 'shop'
  ingress:
  - action: allow
    protocol: tcp
    notProtocol: 17
    ipVersion: 4
    source: {net: 10.1.2.3/16, nets: [192.0.2.129/25], selector: has(a) || b == 'c', tag: green, ports: ['80:90', 7]}
    destination: {notNet: 10.0.0.0/8, notTag: red, notSelector: d == 'e', notPorts: [1]}
  - {action: deny, protocol: icmp, notICMP: {type: 8, code: 0}}
  - action: Pass
    source: {tag: only, notTag: other}
"""
    )
    assert made["kind"] == "GlobalNetworkPolicy"
    assert made["metadata"] == {"name": "db", "annotations": {"owner": "blue"}}
    assert made["spec"] == {
        "order": 10.5,
        "selector": "projectcalico.org/namespace == 'shop'",
        "types": ["Ingress"],
        "ingress": [
            {
                "action": "Allow",
                "ipVersion": 4,
                "protocol": "TCP",
                "notProtocol": 17,
                "source": {
                    "nets": ["192.0.2.128/25", "10.1.0.0/16"],
                    "selector": "(has(a) || b == 'c') && green == ''",
                    "ports": ["80:90", 7],
                },
                "destination": {"notNets": ["10.0.0.0/8"], "notSelector": "(d == 'e') || red == ''", "notPorts": [1]},
            },
            {"action": "Deny", "protocol": "ICMP", "notICMP": {"type": 8, "code": 0}},
            {"action": "Pass", "source": {"selector": "only == ''", "notSelector": "other == ''"}},
        ],
    }


@pytest.mark.parametrize(
    ("spec", "types"),
    [
        ("{}", ["Ingress"]),
        ("{egress: [{action: deny}]}", ["Egress"]),
        ("{ingress: [{action: deny}], egress: [{action: deny}]}", ["Ingress", "Egress"]),
        ("{types: [egress], ingress: [{action: deny}]}", ["Egress"]),
    ],
)
def test_policy_without_types_governs_the_directions_of_its_rules(spec: str, types: list[str]) -> None:
    assert converted(f"kind: policy\nmetadata: {{name: a}}\nspec: {spec}")["spec"]["types"] == types


@pytest.mark.parametrize("field", ["doNotTrack", "preDNAT"])
def test_early_policy_applies_to_forwarded_packets_as_it_always_did(field: str) -> None:
    spec = converted(f"kind: policy\nmetadata: {{name: a}}\nspec: {{{field}: true, selector: all()}}")["spec"]
    assert spec[field] is True and spec["applyOnForward"] is True


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("web", "web"),
        ("a.b", "a-b-69f6642c"),
        ("Upper", "upper-6b5b87b9"),
        ("under_score", "under-score-eaeb8b65"),
    ],
)
def test_policy_name_that_v3_cannot_have_is_made_fit_and_distinct(old: str, new: str) -> None:
    (document,) = documents.load(f"apiVersion: v1\nkind: policy\nmetadata: {{name: {old}}}")
    done = upgrade.upgrade(document)
    assert done.resource.metadata.name == new
    assert bool(done.notes) == (old != new)


def test_profile_tags_become_labels_and_namespaces_get_their_new_prefix() -> None:
    made = converted("kind: profile\nmetadata: {name: k8s_ns.shop, tags: [green], labels: {a: b}}\nspec: {}")
    assert made["metadata"]["name"] == "kns.shop"
    assert made["spec"] == {"labelsToApply": {"a": "b", "green": ""}}
    said = problems("kind: profile\nmetadata: {name: p, tags: [x, a], labels: {a: b}}")
    assert set(said) == {"metadata.tags[1]"} and "rename the label" in said["metadata.tags[1]"]


def test_host_endpoint_is_named_after_its_node_too() -> None:
    made = converted(
        "kind: hostEndpoint\nmetadata: {name: eth0, node: Host-1, labels: {a: b}}\n"
        "spec: {interfaceName: eth0, expectedIPs: ['fd00::1', 192.0.2.1], profiles: [k8s_ns.a], "
        "ports: [{name: dns, port: 53, protocol: udp}]}"
    )
    assert made["metadata"] == {"name": "host-1.eth0", "labels": {"a": "b"}}
    assert made["spec"] == {
        "node": "host-1",
        "interfaceName": "eth0",
        "expectedIPs": ["192.0.2.1", "fd00::1"],
        "profiles": ["kns.a"],
        "ports": [{"name": "dns", "protocol": "UDP", "port": 53}],
    }


@pytest.mark.parametrize(
    ("metadata", "spec", "name", "node"),
    [
        ("{scope: global, peerIP: 192.0.2.1}", "{asNumber: 64512}", "192-0-2-1", None),
        (
            "{scope: node, node: Rack1/host_1, peerIP: 'fd00::1'}",
            "{asNumber: '1.10'}",
            "rack1.host-1.fd00-0000-0000-0000-0000-0000-0000-0001",
            "rack1.host-1",
        ),
    ],
)
def test_bgp_peer_is_named_after_its_address(metadata: str, spec: str, name: str, node: str | None) -> None:
    made = converted(f"kind: bgpPeer\nmetadata: {metadata}\nspec: {spec}")
    assert made["metadata"]["name"] == name and made["spec"].get("node") == node
    assert made["spec"]["asNumber"] == (64512 if node is None else 65546)


@pytest.mark.parametrize(
    ("ipip", "mode"),
    [
        ("", None),
        ("ipip: {enabled: false, mode: always}, ", "Never"),
        ("ipip: {enabled: true}, ", "Always"),
        ("ipip: {enabled: true, mode: cross-subnet}, ", "CrossSubnet"),
    ],
)
def test_pool_takes_its_tunnel_along(ipip: str, mode: str | None) -> None:
    made = converted(f"kind: ipPool\nmetadata: {{cidr: 10.1.0.0/16}}\nspec: {{{ipip}nat-outgoing: true}}")
    assert made["metadata"]["name"] == "10-1-0-0-16"
    assert made["spec"]["ipipMode"] == (mode or "Never")
    assert made["spec"]["natOutgoing"] is True and made["spec"]["blockSize"] == 26


def test_pool_of_ipv6_has_its_own_block_size() -> None:
    made = converted("kind: ipPool\nmetadata: {cidr: 'fd80:24e2:f998:72d6::/64'}\nspec: {disabled: true}")
    assert made["metadata"]["name"] == "fd80-24e2-f998-72d6---64"
    assert made["spec"]["blockSize"] == 122 and made["spec"]["disabled"] is True


def test_node_keeps_its_addresses_with_their_networks() -> None:
    made = converted(
        "kind: node\nmetadata: {name: Node_1}\nspec: {bgp: {asNumber: 64512, ipv4Address: 10.244.0.1/24, "
        "ipv6Address: 'fd00::7'}, orchRefs: [{nodeName: n1, orchestrator: k8s}]}"
    )
    assert made["metadata"]["name"] == "node-1"
    assert made["spec"]["bgp"] == {"asNumber": 64512, "ipv4Address": "10.244.0.1/24", "ipv6Address": "fd00::7/128"}
    assert made["spec"]["orchRefs"] == [{"nodeName": "n1", "orchestrator": "k8s"}]


@pytest.mark.parametrize(
    ("orchestrator", "workload", "namespace", "name"),
    [
        ("k8s", "shop.web-1", "shop", "n1-k8s-web--1-eth0"),
        ("cni", "0123456789ab", "default", "n1-cni-0123456789ab-eth0"),
        ("libnetwork", "libnetwork", "default", "n1-libnetwork-libnetwork-eth0"),
        ("openstack", "vm-1", "default", "n1-openstack-vm--1-eth0"),
    ],
)
def test_workload_endpoint_gets_the_name_that_its_fields_make(
    orchestrator: str, workload: str, namespace: str, name: str
) -> None:
    made = converted(
        f"kind: workloadEndpoint\nmetadata: {{orchestrator: {orchestrator}, workload: {workload}, name: eth0, "
        "node: n1, activeInstanceID: c1, labels: {app: web, calico/k8s_ns: shop}}\nspec: {interfaceName: cali1, "
        "ipNetworks: ['fd00::1/128', 10.0.0.1/32], ipNATs: [{internalIP: 10.0.0.1, externalIP: 192.0.2.1}], "
        "mac: 'ca:fe:1d:52:bb:e9', ports: [{name: http, port: 80, protocol: tcp}]}"
    )
    assert made["metadata"] == {
        "name": name,
        "namespace": namespace,
        "labels": {"app": "web", "projectcalico.org/namespace": "shop"},
    }
    assert made["spec"]["ipNetworks"] == ["10.0.0.1/32", "fd00::1/128"]
    assert made["spec"]["ports"][0]["protocol"] == "TCP"


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("kind: policy\nspec: {selektor: a}", {"spec.selektor"}),
        (
            "kind: policy\nmetadata: {name: a}\nspec: {selector: a ==, ingress: [{action: allow, source: "
            "{nets: [10.0.0.0/33]}}, {action: allow, icmp: {type: 999}}]}",
            {"spec.selector", "spec.ingress[0].source.nets[0]", "spec.ingress[1].icmp.type"},
        ),
        (
            "kind: policy\nspec: {types: [ingres], ingress: [{action: reject, protocol: tpc}]}",
            {"metadata.name", "spec.types[0]", "spec.ingress[0].action", "spec.ingress[0].protocol"},
        ),
        ("kind: bgpPeer\nmetadata: {scope: rack}\nspec: {}", {"metadata.scope", "metadata.peerIP"}),
        ("kind: bgpPeer\nmetadata: {scope: node, peerIP: 192.0.2.1}", {"metadata.node"}),
        ("kind: bgpPeer\nmetadata: {scope: global, node: a, peerIP: 192.0.2.1}", {"metadata.node"}),
        ("kind: ipPool\nmetadata: {cidr: ten}", {"metadata.cidr"}),
        ("kind: ipPool\nspec: {ipip: {enabled: true, mode: sometimes}}", {"metadata.cidr", "spec.ipip.mode"}),
        ("kind: node\nmetadata: {name: a}\nspec: {bgp: {}}", {"spec.bgp"}),
        ("kind: node\nmetadata: {name: a}\nspec: {bgp: {ipv4Address: 'fd00::1/64'}}", {"spec.bgp.ipv4Address"}),
        ("kind: hostEndpoint\nspec: {}", {"metadata.name", "metadata.node"}),
        (
            "kind: workloadEndpoint\nmetadata: {orchestrator: k8s, workload: web, node: n1, name: eth0}",
            {"metadata.workload"},
        ),
        ("kind: workloadEndpoint\nmetadata: {orchestrator: cni, node: n1, name: eth0}", {"metadata"}),
        (
            "kind: hostEndpoint\nmetadata: {name: a, node: n}\nspec: {expectedIPs: ['', ten]}",
            {"spec.expectedIPs[0]", "spec.expectedIPs[1]"},
        ),
        ("kind: Namespace\nmetadata: {name: a}", {"kind"}),
    ],
)
def test_wrong_fields_are_named_together_by_their_paths_in_v1(text: str, paths: set[str]) -> None:
    assert set(problems(text)) == paths


@pytest.mark.parametrize(
    ("version", "kind", "ours"),
    [
        ("v1", "policy", True),
        ("v1", "ipPool", True),
        ("v1", "node", True),
        ("v1", "Node", False),
        ("v1", "Pod", False),
        ("projectcalico.org/v3", "Profile", False),
    ],
)
def test_kind_with_a_capital_that_kubernetes_has_too_is_kubernetes(version: str, kind: str, ours: bool) -> None:
    assert upgrade.supported({"apiVersion": version, "kind": kind}) is ours
