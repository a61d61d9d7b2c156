from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calico_kernel.errors import ValidationError
from calico_kernel.model import codec, keys
from calico_kernel.model.endpoints import Node, WorkloadEndpoint
from calico_kernel.model.ipam import AllocationBlock, IpamConfig, StoredBlockAffinity
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.network import BlockAffinity, BlockAffinitySpec, IPAMConfiguration
from calico_kernel.model.policy import (
    GlobalNetworkPolicy,
    NetworkPolicy,
    NetworkPolicySpec,
    Profile,
    Rule,
    Tier,
    TierSpec,
)
from calico_kernel.model.records import Malformed

STORED = [json.loads(line) for line in (Path(__file__).parent / "data" / "etcd.jsonl").read_text().splitlines()]
POLICY = keys.ResourceKey("NetworkPolicy", "shop", "p")
GLOBAL = keys.ResourceKey("GlobalNetworkPolicy", "", "p")


def as_go_writes(value: Any) -> bytes:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").encode()


@pytest.mark.parametrize("record", STORED, ids=lambda r: r["key"].removeprefix("/calico/"))
def test_what_calico_stored_is_read_and_written_back_byte_for_byte(record: dict[str, Any]) -> None:
    key = keys.parse(record["key"])
    assert key is not None and keys.path(key) == record["key"]
    raw = as_go_writes(record["value"])
    value = codec.decode(key, raw, revision="7")
    assert not isinstance(value, Malformed)
    assert codec.encode(value) == raw


def test_revision_and_name_of_a_resource_come_from_its_record() -> None:
    value = codec.decode(
        keys.ResourceKey("Node", "", "n1"), b'{"metadata":{"name":"other"},"kind":"Node"}', revision="9"
    )
    assert isinstance(value, Node)
    assert (value.metadata.name, value.metadata.resource_version) == ("n1", "9")


def test_revision_and_generation_are_not_stored() -> None:
    raw = codec.encode(Node(metadata=ObjectMeta(name="n", resource_version="5", generation=3)))
    assert json.loads(raw)["metadata"] == {"name": "n"}


def test_policy_is_stored_with_its_name_in_an_annotation_that_readers_do_not_see() -> None:
    policy = NetworkPolicy(metadata=ObjectMeta(name="p", namespace="shop", annotations={"a": "1"}))
    raw = codec.encode(policy)
    assert json.loads(raw)["metadata"]["annotations"] == {"a": "1", "projectcalico.org/metadata": '{"name":"p"}'}
    assert codec.decode(POLICY, raw) == policy


def test_whole_orders_are_written_as_go_writes_them() -> None:
    assert b'"order":10,' in codec.encode(Tier(spec=TierSpec(order=10.0, default_action="Deny")))
    assert b'"order":1.5,' in codec.encode(Tier(spec=TierSpec(order=1.5, default_action="Deny")))


def test_markup_characters_are_escaped_as_go_does() -> None:
    raw = codec.encode(Profile(metadata=ObjectMeta(name="p", annotations={"a": "<&>\u2028"})))
    assert b"\\u003c\\u0026\\u003e\\u2028" in raw
    assert isinstance(codec.decode(keys.ResourceKey("Profile", "", "p"), raw), Profile)


def test_deleted_mark_of_a_block_affinity_is_text_where_stored_and_a_bool_in_memory() -> None:
    key = keys.ResourceKey("BlockAffinity", "", "a")
    for deleted in (True, False):
        affinity = BlockAffinity(
            metadata=ObjectMeta(name="a"), spec=BlockAffinitySpec(cidr="10.0.0.0/26", deleted=deleted)
        )
        raw = codec.encode(affinity)
        assert json.loads(raw)["spec"]["deleted"] == str(deleted).lower()
        assert codec.decode(key, raw) == affinity


def test_values_that_go_always_writes_are_written_though_zero() -> None:
    assert json.loads(codec.encode(IPAMConfiguration(metadata=ObjectMeta(name="default"))))["spec"] == {
        "strictAffinity": False,
        "autoAllocateBlocks": True,
    }
    assert json.loads(codec.encode(AllocationBlock(cidr="10.0.0.0/26"))) == {
        "cidr": "10.0.0.0/26",
        "affinity": None,
        "allocations": [],
        "unallocated": [],
        "attributes": [],
        "sequenceNumber": 0,
        "sequenceNumberForAllocation": {},
        "deleted": False,
    }


def test_missing_ipam_settings_read_as_zero_and_an_empty_affinity_as_confirmed() -> None:
    assert codec.decode(keys.IpamConfigKey(), b'{"strict_affinity":true}') == IpamConfig(strict_affinity=True)
    assert codec.decode(keys.BlockAffinityKey("host", "n", "10.0.0.0/26"), b"") == StoredBlockAffinity()


def test_unknown_fields_and_nulls_of_a_stored_value_are_ignored() -> None:
    raw = (
        b'{"kind":"WorkloadEndpoint","newThing":1,"metadata":{"name":"w","labels":null},"spec":{"node":"n","mac":null}}'
    )
    value = codec.decode(keys.ResourceKey("WorkloadEndpoint", "ns", "w"), raw)
    assert isinstance(value, WorkloadEndpoint)
    assert value.spec.node == "n" and value.metadata.namespace == "ns"


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[1]", b"\xff\xfe", b'{"kind":"Tier"}', b'{"kind":"Node","spec":3}', b"[" * 5000]
)
def test_value_that_does_not_decode_is_malformed_with_a_reason(raw: bytes) -> None:
    value = codec.decode(keys.ResourceKey("Node", "", "n"), raw)
    assert isinstance(value, Malformed)
    assert value.reason and value.raw == raw and value.instead is None


def policy_json(**spec: Any) -> bytes:
    return json.dumps({"kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": spec}).encode()


@pytest.mark.parametrize(
    ("spec", "ingress", "egress"),
    [
        ({"types": ["Ingress"], "ingress": [{"action": "Reject"}]}, True, False),
        ({"types": ["Egress"], "egress": [{"action": "Allow", "protocol": {}}]}, False, True),
        ({"types": ["Ingress", "Egress"], "ingress": [{"action": "Allow"}], "egress": ["x"]}, True, True),
        ({"ingress": [{}]}, True, True),
        ({"types": ["Sideways"]}, True, True),
        ({"types": ["Ingress"], "order": "first"}, True, False),
    ],
)
def test_policy_with_an_unreadable_rule_denies_where_it_governs(
    spec: dict[str, Any], ingress: bool, egress: bool
) -> None:
    value = codec.decode(POLICY, policy_json(selector="app == 'a'", tier="t", **spec), revision="3")
    assert isinstance(value, Malformed) and value.reason
    policy = value.instead
    assert isinstance(policy, NetworkPolicy)
    deny = (Rule(action="Deny"),)
    assert (policy.spec.selector, policy.spec.tier, policy.metadata.resource_version) == ("app == 'a'", "t", "3")
    assert policy.spec.ingress == (deny if ingress else ())
    assert policy.spec.egress == (deny if egress else ())


def test_policy_whose_selector_is_unreadable_has_nothing_in_its_place() -> None:
    value = codec.decode(POLICY, policy_json(selector=5, ingress=[{}]))
    assert isinstance(value, Malformed) and value.instead is None


def test_pre_dnat_policy_with_an_unreadable_rule_denies_inbound_only() -> None:
    raw = json.dumps(
        {"kind": "GlobalNetworkPolicy", "spec": {"preDNAT": True, "applyOnForward": True, "ingress": [{"action": 1}]}}
    ).encode()
    value = codec.decode(GLOBAL, raw)
    assert isinstance(value, Malformed) and isinstance(value.instead, GlobalNetworkPolicy)
    assert value.instead.spec.pre_dnat and value.instead.spec.ingress and not value.instead.spec.egress


def test_text_beyond_unicode_is_refused_when_it_is_encoded() -> None:
    tier = Tier(metadata=ObjectMeta(name="t", annotations={"a": "\ud800"}))
    with pytest.raises(ValidationError, match="cannot be stored"):
        codec.encode(tier)


def test_encoding_a_policy_leaves_the_value_as_it_was() -> None:
    policy = NetworkPolicy(metadata=ObjectMeta(name="p", namespace="n"), spec=NetworkPolicySpec(order=5.0))
    codec.encode(policy)
    assert policy.metadata.annotations == {} and policy.spec.order == 5.0
