"""What is ours is kept right and what is not ours is left alone: restarts, drift, other people's rules, removal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from calico_dp_iptables.netfilter import Netfilter
from calico_kernel.model import nodestate as ns

pytestmark = pytest.mark.node

SET = ns.IpSet(id="s:friends", kind=ns.IpSetKind.NET, members=("10.65.0.11", "fd65::b", "192.0.2.0/24"))
FRIENDS = ns.ActivePolicy(
    id=ns.PolicyId("NetworkPolicy", "default", "friends"),
    tier="default",
    inbound=(ns.ParsedRule(action="allow", source=ns.Match(ip_sets=(SET.id,))),),
)


@pytest.fixture
def state(world: Any, kit: Any) -> ns.Delta:
    """The first workload accepts the second only."""
    first, second, third = world.pods
    open_list = kit.policy_list(profiles=("allow",))
    return kit.full(
        ip_sets={SET.id: SET},
        policies={FRIENDS.id: FRIENDS},
        workloads={
            first.id: first.endpoint(kit.policy_list(FRIENDS.id, profiles=("allow",))),
            second.id: second.endpoint(open_list),
            third.id: third.endpoint(open_list),
        },
        pools={"10.65.0.0/16": ns.ActivePool(cidr="10.65.0.0/16", nat_outgoing=True)},
    )


def enforced(world: Any) -> bool:
    first, second, third = world.pods
    return world.reaches(second, first) and not world.reaches(third, first)


def test_restarted_driver_writes_nothing(make_dataplane: Callable[..., Any], kit: Any, state: ns.Delta) -> None:
    assert kit.applied(make_dataplane(), state).changes > 0
    again = make_dataplane()
    assert kit.applied(again, state).changes == 0
    again.resync()
    assert again.apply().changes == 0


def test_restart_removes_what_is_no_longer_wanted(
    make_dataplane: Callable[..., Any], kit: Any, state: ns.Delta, backend: str
) -> None:
    kit.applied(make_dataplane(), state)
    kit.applied(make_dataplane(), kit.full())
    text = "\n".join(kit.rules(backend))
    assert "friends" not in text and "cali-tw-" not in text and "cali-nat-outgoing" not in text
    assert not kit.tool("ipset", "list", "-name").split()
    assert "cali-from-wl-dispatch" in text


def apply_when_asked(driver: Any, asked: threading.Event) -> None:
    """As the agent does: an apply soon after it was asked for, until nothing is left to do."""
    assert asked.wait(5.0), "the change was not noticed"
    while True:
        asked.clear()
        report = driver.apply()
        assert not report.failures
        if not report.changes and not asked.wait(0.6):
            return


@pytest.mark.parametrize("what", ["flush", "delete jump", "foreign rule", "flush sets"])
def test_rules_changed_by_others_are_noticed_and_repaired(
    world: Any,
    make_dataplane: Callable[..., Any],
    kit: Any,
    state: ns.Delta,
    backend: str,
    asked: threading.Event,
    what: str,
) -> None:
    driver = make_dataplane()
    kit.applied(driver, state)
    wanted = kit.rules(backend)
    asked.clear()
    program = f"iptables-{backend}"
    if what == "flush":
        kit.tool(program, "-F")
    elif what == "delete jump":
        kit.tool(program, "-D", "FORWARD", "1")
    elif what == "foreign rule":
        kit.tool(program, "-I", "cali-FORWARD", "1", "-j", "ACCEPT")
    else:
        kit.tool("ipset", "flush")
    apply_when_asked(driver, asked)
    assert kit.rules(backend) == wanted
    assert enforced(world)


def test_set_that_rules_cease_to_use_is_not_taken_for_one_that_somebody_changed(
    netns: str, kit: Any, backend: str
) -> None:
    """nftables lets go of it late, so every change of ours would make us read everything, ever more seldom."""
    kit.tool("ipset", "create", "some", "hash:net")
    with Netfilter() as netfilter:
        before = netfilter.sets_digest()
        kit.tool(f"iptables-{backend}", "-A", "INPUT", "-m", "set", "--match-set", "some", "src")
        assert netfilter.sets_digest() == before
        kit.tool("ipset", "add", "some", "192.0.2.0/24")
        added = netfilter.sets_digest()
        assert added != before
        kit.tool("ipset", "create", "other", "hash:net")
        assert netfilter.sets_digest() != added


def test_destroyed_sets_are_made_again(
    world: Any, make_dataplane: Callable[..., Any], kit: Any, state: ns.Delta, backend: str, asked: threading.Event
) -> None:
    driver = make_dataplane()
    kit.applied(driver, state)
    asked.clear()
    for family in ("iptables", "ip6tables"):
        for table in ("filter", "nat"):
            kit.tool(f"{family}-{backend}", "-t", table, "-F")
            kit.tool(f"{family}-{backend}", "-t", table, "-X")
    kit.tool("ipset", "destroy")
    apply_when_asked(driver, asked)
    assert enforced(world)


def test_foreign_rules_and_sets_survive_everything(
    world: Any, make_dataplane: Callable[..., Any], kit: Any, state: ns.Delta, backend: str
) -> None:
    program = f"iptables-{backend}"
    kit.tool("ipset", "create", "theirs", "hash:ip")
    kit.tool(program, "-N", "THEIRS")
    kit.tool(program, "-A", "THEIRS", "-m", "set", "--match-set", "theirs", "src", "-j", "ACCEPT")
    for chain in ("INPUT", "FORWARD"):
        kit.tool(program, "-A", chain, "-m", "comment", "--comment", "their own", "-j", "THEIRS")
    kit.tool(program, "-t", "nat", "-A", "POSTROUTING", "-s", "198.51.100.0/24", "-j", "MASQUERADE")
    before = [line for line in kit.rules(backend) if line.startswith("-A")]
    driver = make_dataplane()
    kit.applied(driver, state)
    kit.tool(program, "-A", "FORWARD", "-s", "203.0.113.7", "-j", "DROP")
    kit.tool(program, "-I", "FORWARD", "1", "-s", "203.0.113.8", "-j", "DROP")
    driver.resync()
    driver.apply()
    rules = [line for line in kit.rules(backend) if line.startswith("-A FORWARD")]
    assert "cali-FORWARD" in rules[0]
    assert sum("203.0.113" in line for line in rules) == 2
    driver.uninstall()
    after = [line for line in kit.rules(backend) if line.startswith("-A") and "203.0.113" not in line]
    assert after == before
    assert kit.tool("ipset", "list", "-name").split() == ["theirs"]


def test_uninstall_leaves_nothing_and_may_be_repeated(
    world: Any, make_dataplane: Callable[..., Any], kit: Any, state: ns.Delta, backend: str
) -> None:
    driver = make_dataplane()
    driver.uninstall()
    kit.applied(driver, state)
    driver.uninstall()
    driver.uninstall()
    for version in (4, 6):
        assert "cali" not in "\n".join(kit.rules(backend, version))
    assert not kit.tool("ipset", "list", "-name").split()


def test_enforcement_stays_when_the_driver_is_closed(
    world: Any, make_dataplane: Callable[..., Any], kit: Any, state: ns.Delta
) -> None:
    driver = make_dataplane()
    kit.applied(driver, state)
    driver.close()
    assert enforced(world)


def test_change_of_one_policy_rewrites_its_chain_only(
    world: Any, make_dataplane: Callable[..., Any], kit: Any, state: ns.Delta, backend: str
) -> None:
    driver = make_dataplane()
    kit.applied(driver, state)
    before = set(kit.rules(backend))
    denying = ns.ActivePolicy(id=FRIENDS.id, tier="default", inbound=(ns.ParsedRule(action="deny"),))
    report = kit.applied(driver, ns.Delta(policies=ns.MapDelta(upserts={denying.id: denying})))
    changed = before ^ set(kit.rules(backend))
    assert changed and all("cali-pi-np/default/friends" in line for line in changed)
    assert report.changes <= 4
    assert not world.reaches(world.pods[1], world.pods[0])


def test_member_that_comes_and_goes_changes_the_verdict(
    world: Any, make_dataplane: Callable[..., Any], kit: Any, state: ns.Delta
) -> None:
    first, second, third = world.pods
    driver = make_dataplane()
    kit.applied(driver, state)
    change = ns.MembersDelta(added=(third.ipv4, third.ipv6), removed=(second.ipv4, second.ipv6))
    kit.applied(driver, ns.Delta(ip_set_members={SET.id: change}))
    for version in (4, 6):
        assert world.reaches(third, first, version=version)
        assert not world.reaches(second, first, version=version)
