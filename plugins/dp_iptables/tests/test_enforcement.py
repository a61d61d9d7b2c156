"""Packets between workloads, judged by rules that a delta brought in. Both back ends, both families."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from calico_kernel.model import nodestate as ns

pytestmark = pytest.mark.node

ALLOW_8080 = ns.ActivePolicy(
    id=ns.PolicyId("GlobalNetworkPolicy", "", "web"),
    tier="default",
    inbound=(ns.ParsedRule(action="allow", protocol=17, destination=ns.Match(ports=(ns.PortRange(8080, 8080),))),),
)


@pytest.mark.parametrize("version", [4, 6])
def test_endpoint_with_ingress_policy_accepts_only_what_it_allows(
    world: Any, make_dataplane: Callable[..., Any], kit: Any, version: int
) -> None:
    first, second, _ = world.pods
    driver = make_dataplane()
    report = kit.applied(
        driver,
        kit.full(
            policies={ALLOW_8080.id: ALLOW_8080},
            workloads={
                first.id: first.endpoint(kit.policy_list(ALLOW_8080.id, profiles=("allow",))),
                second.id: second.endpoint(kit.policy_list(profiles=("allow",))),
            },
        ),
    )
    assert set(report.programmed) == {first.id, second.id}
    assert world.reaches(second, first, 8080, version=version)
    assert not world.reaches(second, first, 8081, version=version)
    assert world.reaches(first, second, 8081, version=version)


@pytest.mark.parametrize("version", [4, 6])
def test_interface_without_endpoint_is_denied(
    world: Any, make_dataplane: Callable[..., Any], kit: Any, version: int
) -> None:
    first, second, unknown = world.pods
    driver = make_dataplane()
    listed = kit.policy_list(profiles=("allow",))
    kit.applied(driver, kit.full(workloads={pod.id: pod.endpoint(listed) for pod in (first, second)}))
    assert world.reaches(first, second, version=version)
    assert not world.reaches(unknown, first, version=version)
    assert not world.reaches(first, unknown, version=version)


@pytest.mark.parametrize("version", [4, 6])
def test_forged_source_address_is_denied(
    world: Any, make_dataplane: Callable[..., Any], kit: Any, version: int
) -> None:
    first, second, third = world.pods
    driver = make_dataplane()
    listed = kit.policy_list(profiles=("allow",))
    forged, length = ("10.65.0.99", 32) if version == 4 else ("fd65::99", 128)

    for pod in (first, third):
        kit.add_address(pod, forged, length)
    spoofer = third.endpoint(listed, spoofable_prefixes=(f"{forged}/{length}",))
    kit.applied(
        driver,
        kit.full(workloads={first.id: first.endpoint(listed), second.id: second.endpoint(listed), third.id: spoofer}),
    )
    assert world.reaches(first, second, version=version)
    assert not world.reaches(first, second, version=version, from_address=forged)
    assert world.reaches(third, second, version=version, from_address=forged)
