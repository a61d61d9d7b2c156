"""Programs that fail or hang, features that are missing, values that cannot be written: contained, denied, retried."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calico_kernel.model import nodestate as ns

pytestmark = pytest.mark.node


@pytest.fixture
def wrapped(tmp_path: Path, backend: str) -> Callable[[str, str], dict[str, str]]:
    """Put a shell script in a program's place; "$REAL" is the program, "$INPUT" holds its input."""

    def make(program: str, body: str) -> dict[str, str]:
        script = tmp_path / program
        script.write_text(f"#!/bin/sh\nREAL={shutil.which(program)}\nINPUT={tmp_path}/input.$$\ncat >$INPUT\n{body}\n")
        script.chmod(0o755)
        return {program: str(script)}

    return make


def restores(backend: str) -> tuple[str, str]:
    return f"iptables-{backend}-restore", f"ip6tables-{backend}-restore"


@pytest.fixture
def open_state(world: Any, kit: Any) -> ns.Delta:
    listed = kit.policy_list(profiles=("allow",))
    return kit.full(workloads={pod.id: pod.endpoint(listed) for pod in world.pods[:2]})


def test_failing_restore_of_one_family_does_not_stop_the_other_and_is_retried(
    world: Any,
    make_dataplane: Callable[..., Any],
    kit: Any,
    backend: str,
    wrapped: Callable[..., dict[str, str]],
    tmp_path: Path,
    open_state: ns.Delta,
) -> None:
    first, second, third = world.pods
    script = f"[ -e {tmp_path}/broken ] && {{ echo 'Resource temporarily unavailable' >&2; exit 4; }}\n"
    driver = make_dataplane(programs=wrapped(restores(backend)[1], script + '"$REAL" "$@" <$INPUT'))
    (tmp_path / "broken").touch()
    driver.update(open_state)
    report = driver.apply()
    assert report.failures and all("ip6tables" in failure.subject for failure in report.failures)
    assert not set(report.programmed)
    assert world.reaches(first, second) and not world.reaches(third, second)
    os.unlink(tmp_path / "broken")
    report = driver.apply()
    assert not report.failures
    assert set(report.programmed) == {first.id, second.id}
    assert not world.reaches(third, second, version=6)


def test_hanging_restore_is_ended_and_retried(
    world: Any,
    make_dataplane: Callable[..., Any],
    kit: Any,
    backend: str,
    wrapped: Callable[..., dict[str, str]],
    tmp_path: Path,
    open_state: ns.Delta,
) -> None:
    script = f'[ -e {tmp_path}/slow ] && exec sleep 60\n"$REAL" "$@" <$INPUT'
    driver = make_dataplane(programs=wrapped(restores(backend)[0], script), timeout_s=0.5)
    (tmp_path / "slow").touch()
    driver.update(open_state)
    report = driver.apply()
    assert ["no answer" in failure.reason for failure in report.failures] == [True]
    os.unlink(tmp_path / "slow")
    assert not driver.apply().failures
    assert world.reaches(world.pods[0], world.pods[1])


@pytest.mark.parametrize("missing", ["rpfilter", "multiport", "LOG", "random-fully"])
def test_missing_feature_is_found_once_and_contained(
    world: Any,
    make_dataplane: Callable[..., Any],
    kit: Any,
    backend: str,
    wrapped: Callable[..., dict[str, str]],
    missing: str,
) -> None:
    first, second, third = world.pods
    script = f"grep -q -e {missing} $INPUT && {{ echo no such thing >&2; exit 2; }}\n"
    script += '"$REAL" "$@" <$INPUT'
    driver = make_dataplane(programs=wrapped(restores(backend)[0], script))
    policy = ns.ActivePolicy(
        id=ns.PolicyId("GlobalNetworkPolicy", "", "p"),
        tier="default",
        inbound=(
            ns.ParsedRule(action="log", index=0),
            ns.ParsedRule(
                action="allow", protocol=17, destination=ns.Match(ports=(ns.PortRange(8080, 8080),)), index=1
            ),
            ns.ParsedRule(action="allow", protocol=6, index=2),
        ),
    )
    listed = kit.policy_list(policy.id, profiles=("allow",))
    report = kit.applied(
        driver,
        kit.full(
            policies={policy.id: policy},
            workloads={
                first.id: first.endpoint(listed),
                second.id: second.endpoint(kit.policy_list(profiles=("allow",))),
            },
            pools={"10.65.0.0/16": ns.ActivePool(cidr="10.65.0.0/16", nat_outgoing=True)},
        ),
    )
    assert any(missing in lack.capability for lack in report.lacks)
    assert world.reaches(second, first, 8080) == (missing != "multiport")
    assert world.reaches(second, first, 8080, version=6)
    assert not world.reaches(second, first, 8081)
    assert world.reaches(first, second, 1)
    assert not world.reaches(third, second, 1)
    again = driver.apply()
    assert not again.failures and not again.changes
    assert len(again.lacks) == len(report.lacks)


def test_host_without_the_raw_table_checks_sources_in_filter(
    world: Any,
    make_dataplane: Callable[..., Any],
    kit: Any,
    backend: str,
    wrapped: Callable[..., dict[str, str]],
    open_state: ns.Delta,
) -> None:
    first, second, third = world.pods
    script = "grep -q -e '^\\*raw' $INPUT && { echo 'raw: Table does not exist' >&2; exit 3; }\n"
    driver = make_dataplane(programs=wrapped(restores(backend)[0], script + '"$REAL" "$@" <$INPUT'))
    report = kit.applied(driver, open_state)
    assert [lack.capability for lack in report.lacks] == ["table raw (IPv4)"]
    assert set(report.programmed) == {first.id, second.id}
    assert world.reaches(first, second) and world.reaches(first, second, version=6)
    assert not world.reaches(third, second)
    kit.add_address(first, "10.65.0.99", 32)
    assert not world.reaches(first, second, from_address="10.65.0.99")
    assert not driver.apply().changes


def test_rule_that_the_host_refuses_denies_and_the_rest_stands(
    world: Any, make_dataplane: Callable[..., Any], kit: Any, backend: str, wrapped: Callable[..., dict[str, str]]
) -> None:
    first, second, _ = world.pods
    script = 'grep -q -e "-s 192.0.2.77/32" $INPUT && { echo bad value >&2; exit 2; }\n"$REAL" "$@" <$INPUT'
    driver = make_dataplane(programs=wrapped(restores(backend)[0], script))
    odd = ns.ActivePolicy(
        id=ns.PolicyId("GlobalNetworkPolicy", "", "odd"),
        tier="default",
        inbound=(
            ns.ParsedRule(action="allow", protocol=17, destination=ns.Match(ports=(ns.PortRange(1000, 1000),))),
            ns.ParsedRule(action="allow", source=ns.Match(nets=("192.0.2.77/32",)), index=1),
            ns.ParsedRule(action="allow", index=2),
        ),
    )
    report = kit.applied(
        driver,
        kit.full(
            policies={odd.id: odd},
            workloads={
                first.id: first.endpoint(kit.policy_list(odd.id, profiles=("allow",))),
                second.id: second.endpoint(kit.policy_list(profiles=("allow",))),
            },
        ),
    )
    assert any("192.0.2.77" in lack.capability for lack in report.lacks)
    assert world.reaches(second, first, 1000)
    assert not world.reaches(second, first, 2000)
    assert world.reaches(second, first, 2000, version=6)
    assert world.reaches(first, second, 2000)


def test_host_without_ip6tables_serves_ipv4_and_says_so(
    world: Any, make_dataplane: Callable[..., Any], kit: Any, backend: str, open_state: ns.Delta
) -> None:
    names = (f"ip6tables-{backend}-restore", "ip6tables-restore")
    driver = make_dataplane(programs=dict.fromkeys(names, "/nonexistent/ip6tables"))
    report = kit.applied(driver, open_state)
    assert any("ip6tables" in lack.capability for lack in report.lacks)
    assert world.reaches(world.pods[0], world.pods[1])
    assert not world.reaches(world.pods[2], world.pods[1])


def test_host_without_ipv6_filter_table_serves_ipv4_and_says_so(
    world: Any,
    make_dataplane: Callable[..., Any],
    kit: Any,
    backend: str,
    wrapped: Callable[..., dict[str, str]],
    open_state: ns.Delta,
) -> None:
    script = 'echo "can\'t initialize ip6tables table: Table does not exist" >&2; exit 3'
    driver = make_dataplane(programs=wrapped(restores(backend)[1], script))
    report = kit.applied(driver, open_state)
    assert any("ip6tables" in lack.capability for lack in report.lacks)
    assert set(report.programmed) == {pod.id for pod in world.pods[:2]}
    assert not driver.apply().changes
    assert world.reaches(world.pods[0], world.pods[1])


def test_host_without_ipset_denies_rules_that_need_sets(
    world: Any, make_dataplane: Callable[..., Any], kit: Any, backend: str
) -> None:
    first, second, _ = world.pods
    driver = make_dataplane(programs={"ipset": "/nonexistent/ipset"})
    blocked = ns.IpSet(id="s:blocked", kind=ns.IpSetKind.NET, members=("192.0.2.1",))
    policy = ns.ActivePolicy(
        id=ns.PolicyId("GlobalNetworkPolicy", "", "p"),
        tier="default",
        inbound=(
            ns.ParsedRule(action="deny", source=ns.Match(ip_sets=("s:blocked",))),
            ns.ParsedRule(action="allow"),
        ),
    )
    report = kit.applied(
        driver,
        kit.full(
            ip_sets={"s:blocked": blocked},
            policies={policy.id: policy},
            workloads={
                first.id: first.endpoint(kit.policy_list(policy.id)),
                second.id: second.endpoint(kit.policy_list(profiles=("allow",))),
            },
        ),
    )
    assert any(lack.capability == "ipset" for lack in report.lacks)
    assert not world.reaches(second, first)
    assert world.reaches(first, second) is False  # no profile allows the first to send


def test_ipset_that_is_installed_later_is_used_without_a_restart(
    world: Any, make_dataplane: Callable[..., Any], kit: Any, tmp_path: Path
) -> None:
    first, second, third = world.pods
    driver = make_dataplane(programs={"ipset": str(tmp_path / "ipset")})
    friends = ns.IpSet(id="s:friends", kind=ns.IpSetKind.NET, members=(second.ipv4,))
    rule = ns.ParsedRule(action="allow", source=ns.Match(ip_sets=("s:friends",)))
    policy = ns.ActivePolicy(id=ns.PolicyId("GlobalNetworkPolicy", "", "p"), tier="default", inbound=(rule,))
    workloads = {pod.id: pod.endpoint(kit.policy_list(profiles=("allow",))) for pod in (second, third)}
    workloads[first.id] = first.endpoint(kit.policy_list(policy.id))
    kit.applied(driver, kit.full(ip_sets={"s:friends": friends}, policies={policy.id: policy}, workloads=workloads))
    assert not world.reaches(second, first)
    (tmp_path / "ipset").symlink_to(shutil.which("ipset") or "")
    report = driver.apply()
    assert not report.failures
    assert not report.lacks
    assert world.reaches(second, first)
    assert not world.reaches(third, first)


def test_without_iptables_nothing_counts_as_programmed_and_installed_later_it_is_used(
    world: Any, make_dataplane: Callable[..., Any], backend: str, tmp_path: Path, open_state: ns.Delta
) -> None:
    names = [f"iptables-{verb}" for verb in ("restore", "save")]
    names += [f"iptables-{backend}-{verb}" for verb in ("restore", "save")]
    driver = make_dataplane(programs={name: str(tmp_path / name) for name in names})
    driver.update(open_state)
    report = driver.apply()
    assert report.failures
    assert not report.programmed
    for name in names:
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    report = driver.apply()
    assert not report.failures
    assert not world.reaches(world.pods[2], world.pods[1])
    assert world.reaches(world.pods[0], world.pods[1])


@pytest.mark.parametrize("how", ["exec sleep 60", "exit 1"])
def test_sets_that_cannot_be_written_deny_until_they_can(
    world: Any,
    make_dataplane: Callable[..., Any],
    kit: Any,
    backend: str,
    wrapped: Callable[..., dict[str, str]],
    tmp_path: Path,
    how: str,
) -> None:
    first, second, _ = world.pods
    script = f'[ -e {tmp_path}/broken ] && grep -q create $INPUT && {how}\n"$REAL" "$@" <$INPUT'
    driver = make_dataplane(programs=wrapped("ipset", script), timeout_s=0.5)
    (tmp_path / "broken").touch()
    policy = ns.ActivePolicy(
        id=ns.PolicyId("GlobalNetworkPolicy", "", "p"),
        tier="default",
        inbound=(ns.ParsedRule(action="allow", source=ns.Match(ip_sets=("s:x",))),),
    )
    driver.update(
        kit.full(
            ip_sets={"s:x": ns.IpSet(id="s:x", kind=ns.IpSetKind.NET, members=(second.ipv4,))},
            policies={policy.id: policy},
            workloads={
                first.id: first.endpoint(kit.policy_list(policy.id, profiles=("allow",))),
                second.id: second.endpoint(kit.policy_list(profiles=("allow",))),
            },
        )
    )
    assert driver.apply().failures
    assert not world.reaches(second, first)
    assert world.reaches(first, second)
    os.unlink(tmp_path / "broken")
    report = driver.apply()
    assert not report.failures and not report.lacks
    assert world.reaches(second, first)


def test_member_that_ipset_refuses_keeps_no_other_out(
    world: Any, make_dataplane: Callable[..., Any], kit: Any, backend: str
) -> None:
    first, second, third = world.pods
    driver = make_dataplane()
    members = ("not an address", second.ipv4, "10.65.0.999")
    odd = ns.IpSet(id="s:odd", kind=ns.IpSetKind.NET, members=members)
    policy = ns.ActivePolicy(
        id=ns.PolicyId("GlobalNetworkPolicy", "", "p"),
        tier="default",
        inbound=(ns.ParsedRule(action="allow", source=ns.Match(ip_sets=("s:odd",))),),
    )
    driver.update(
        kit.full(
            ip_sets={"s:odd": odd},
            policies={policy.id: policy},
            workloads={
                first.id: first.endpoint(kit.policy_list(policy.id, profiles=("allow",))),
                second.id: second.endpoint(kit.policy_list(profiles=("allow",))),
                third.id: third.endpoint(kit.policy_list(profiles=("allow",))),
            },
        )
    )
    report = driver.apply()
    assert report.failures and all("odd" in failure.subject for failure in report.failures)
    assert world.reaches(second, first)
    assert not world.reaches(third, first)


def test_hostile_interface_name_reaches_no_rule_and_stops_nothing(
    world: Any, make_dataplane: Callable[..., Any], kit: Any, backend: str
) -> None:
    first, second, third = world.pods
    driver = make_dataplane()
    listed = kit.policy_list(profiles=("allow",))
    hostile = {
        ns.WorkloadEndpointId("k8s", f"bad/{number}", "eth0"): ns.LocalWorkload(
            id=ns.WorkloadEndpointId("k8s", f"bad/{number}", "eth0"), interface=name, addresses=(), policies=listed
        )
        for number, name in enumerate(("cali+", "cali002 -j ACCEPT", "cali002\nCOMMIT", "", "a/b", "x" * 16, "!cali"))
    }
    good = {pod.id: pod.endpoint(listed) for pod in (first, second)}
    driver.update(kit.full(workloads={**hostile, **good}))
    report = driver.apply()
    assert not report.failures  # nothing is left to try again, and the node is no less ready for it
    assert len(report.lacks) == len(hostile)
    assert world.reaches(first, second)
    assert not world.reaches(third, first)
