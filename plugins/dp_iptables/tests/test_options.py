"""FelixConfiguration and settings: what they change on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from calico_dp_iptables import backend as xtables
from calico_dp_iptables.driver import IptablesDataplane
from calico_dp_iptables.options import Failsafe, Options
from calico_dp_iptables.programs import Programs
from calico_dp_iptables.settings import Settings
from calico_kernel.hookspecs import Services
from calico_kernel.model import nodestate as ns

LOGGED = ns.ActivePolicy(
    id=ns.PolicyId("GlobalNetworkPolicy", "", "logged"),
    tier="default",
    inbound=(
        ns.ParsedRule(action="log"),
        ns.ParsedRule(action="allow", protocol=17, destination=ns.Match(ports=(ns.PortRange(8080, 8080),)), index=1),
    ),
)


def state(world: Any, kit: Any, **values: Any) -> ns.Delta:
    first, second, _ = world.pods
    delta = kit.full(
        policies={LOGGED.id: LOGGED},
        workloads={
            first.id: first.endpoint(kit.policy_list(LOGGED.id, profiles=("allow",))),
            second.id: second.endpoint(kit.policy_list(profiles=("allow",))),
        },
    )
    return attrs.evolve(delta, config=ns.ResolvedConfig(values=values))


@pytest.mark.node
@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"chain_insert_mode": "Append"}, "-A FORWARD -m comment"),
        ({"iptables_filter_allow_action": "Return", "iptables_mangle_allow_action": "Return"}, "-j RETURN"),
        ({"iptables_filter_deny_action": "Reject"}, "-j REJECT"),
        ({"log_prefix": "calico %n", "log_action_rate_limit": "10/minute"}, '--log-prefix "calico logged: "'),
        ({"iptables_mark_mask": 0xFF000}, "0x1000/0x1000"),
        ({"disable_conntrack_invalid_check": True, "interface_prefix": "tap,cali"}, "-i tap+"),
        ({"workload_source_spoofing": "Any"}, "cali-FORWARD"),
        ({"max_ipset_size": 4096}, "cali-FORWARD"),
    ],
)
def test_option_changes_how_but_not_what_is_enforced(
    world: Any, make_dataplane: Callable[..., Any], kit: Any, backend: str, values: dict[str, Any], shown: str
) -> None:
    first, second, third = world.pods
    driver = make_dataplane()
    kit.applied(driver, state(world, kit))
    kit.applied(driver, ns.Delta(config=ns.ResolvedConfig(values=values)))
    assert any(shown in line for line in kit.rules(backend))
    assert world.reaches(second, first, 8080)
    assert not world.reaches(second, first, 8081)
    assert not world.reaches(third, first, 8080)
    assert kit.applied(make_dataplane(), state(world, kit, **values)).changes == 0


@pytest.mark.node
@pytest.mark.parametrize(("override", "passes"), [("Accept", True), ("LogAndDrop", False), ("LogAndAccept", True)])
def test_drop_override_is_for_debugging(
    world: Any, make_dataplane: Callable[..., Any], kit: Any, override: str, passes: bool
) -> None:
    first, second, _ = world.pods
    kit.applied(make_dataplane(drop_override=override), state(world, kit))
    assert world.reaches(second, first, 8081) == passes
    assert world.reaches(second, first, 8080)


@pytest.mark.node
def test_ipv6_support_off_leaves_ipv6_alone(
    world: Any, make_dataplane: Callable[..., Any], kit: Any, backend: str
) -> None:
    driver = make_dataplane()
    kit.applied(driver, state(world, kit))
    kit.applied(driver, ns.Delta(config=ns.ResolvedConfig(values={"ipv6_support": False})))
    assert not any("cali" in line for line in kit.rules(backend, 6))
    assert not world.reaches(world.pods[1], world.pods[0], 8081)


@pytest.mark.node
def test_change_of_back_end_takes_the_rules_of_the_old_one_away(
    world: Any, services: Services, kit: Any, backend: str
) -> None:
    other = "nft" if backend == "legacy" else "legacy"
    old = IptablesDataplane(Settings(backend=other), services)  # type: ignore[arg-type]
    kit.applied(old, state(world, kit))
    old.close()
    new = IptablesDataplane(Settings(backend=backend), services)  # type: ignore[arg-type]
    kit.applied(new, state(world, kit))
    assert not any("cali" in line for line in kit.rules(other))
    assert world.reaches(world.pods[1], world.pods[0], 8080)
    assert not world.reaches(world.pods[1], world.pods[0], 8081)
    new.close()


@pytest.mark.node
def test_back_end_in_use_is_detected(netns: str, kit: Any, backend: str) -> None:
    programs = Programs()
    for number in range(3):
        kit.tool(f"iptables-{backend}", "-A", "INPUT", "-s", f"192.0.2.{number}", "-j", "DROP")
    assert xtables.detect(programs, "auto") == backend
    other = "nft" if backend == "legacy" else "legacy"
    kit.tool(f"iptables-{other}", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
    assert xtables.detect(programs, "auto") == other
    assert xtables.detect(programs, backend) == backend


def test_failsafe_ports_are_read_in_every_form() -> None:
    values = {
        "failsafe_inbound_host_ports": [
            {"protocol": "TCP", "port": 22},
            {"protocol": "UDP", "port": 53, "net": "::/0"},
        ],
        "failsafe_outbound_host_ports": "tcp:10.0.0.0/8:443,sctp:7",
    }
    options = Options.from_config(ns.ResolvedConfig(values=values))
    assert options.failsafe_in == (Failsafe(6, 22), Failsafe(17, 53, "::/0"))
    assert options.failsafe_out == (Failsafe(6, 443, "10.0.0.0/8"), Failsafe(132, 7))


def test_mark_mask_without_room_falls_back_to_the_default() -> None:
    options = Options.from_config(ns.ResolvedConfig(values={"iptables_mark_mask": 0x3}))
    assert options.marks.accept == 0x10000
