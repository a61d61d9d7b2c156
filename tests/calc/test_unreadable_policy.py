"""A stored policy whose rule cannot be read keeps denying where it governs, and says so."""

from __future__ import annotations

import json
from typing import Any

import pytest

from calico_kernel.calc import Calculator
from calico_kernel.model import codec
from calico_kernel.model.keys import ResourceKey
from calico_kernel.model.nodestate import PolicyId

KEY = ResourceKey("NetworkPolicy", "ns1", "p")


def stored(**spec: Any) -> bytes:
    return json.dumps({"kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": spec}).encode()


def test_policy_with_a_rule_that_does_not_decode_denies_and_is_reported(make: Any) -> None:
    calculator = Calculator("n1")
    bad = codec.decode(KEY, stored(selector="app == 'web'", types=["Ingress"], ingress=[{"action": "Permit"}]))
    calculator.update([make.workload("web", "10.0.0.1", labels={"app": "web"}), (KEY, bad)])
    calculator.in_sync()
    delta = calculator.flush()
    assert delta is not None
    (workload,) = delta.workloads.upserts.values()
    policy = PolicyId("NetworkPolicy", "ns1", "p")
    assert [tier.ingress for tier in workload.policies.tiers] == [(policy,)]
    assert [tier.egress for tier in workload.policies.tiers] == [()]
    assert [rule.action for rule in delta.policies.upserts[policy].inbound] == ["deny"]
    assert "action" in calculator.problems[KEY]


@pytest.mark.parametrize("selector", [5, "app =="])
def test_policy_whose_selector_cannot_be_read_is_absent_and_reported(make: Any, selector: Any) -> None:
    calculator = Calculator("n1")
    bad = codec.decode(KEY, stored(selector=selector, ingress=[{}]))
    calculator.update([make.workload("web", "10.0.0.1", labels={"app": "web"}), (KEY, bad)])
    calculator.in_sync()
    delta = calculator.flush()
    assert delta is not None and not delta.policies.upserts
    assert calculator.problems[KEY]
