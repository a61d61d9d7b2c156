"""The agent dies at any moment: what is allowed arrives on, what is denied stays denied, and a new one converges."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from calico_dp_iptables.driver import IptablesDataplane
from calico_dp_iptables.settings import Settings
from calico_kernel.hookspecs import Services
from calico_kernel.model import nodestate as ns

pytestmark = pytest.mark.node

ALWAYS = ns.ParsedRule(action="allow", protocol=17, destination=ns.Match(ports=(ns.PortRange(8080, 8080),)))


def policy(number: int, port: int) -> ns.ActivePolicy:
    """One rule that stays and one that changes."""
    changing = ns.ParsedRule(action="allow", protocol=6, destination=ns.Match(ports=(ns.PortRange(port, port),)))
    name = ns.PolicyId("GlobalNetworkPolicy", "", f"p{number}")
    return ns.ActivePolicy(id=name, tier="default", inbound=(changing, ALWAYS))


def churn(backend: str, whole: ns.Delta, services: Services) -> None:
    """An agent that never rests. Killed from outside."""
    driver = IptablesDataplane(Settings(backend=backend), services)  # type: ignore[arg-type]
    rng = random.Random(os.getpid())
    driver.update(whole)
    workloads = dict(whole.workloads.upserts)
    while True:
        driver.apply()
        changed = policy(rng.randrange(20), rng.randrange(1, 60000))
        some = rng.sample(list(whole.policies.upserts), rng.randrange(14, 20))
        listed = ns.PolicyList(
            tiers=(ns.TierPolicies(name="default", default_action="Deny", ingress=tuple(some)),), profiles=("allow",)
        )
        target = rng.choice(list(workloads.values()))
        moved = ns.LocalWorkload(id=target.id, interface=target.interface, addresses=target.addresses, policies=listed)
        member = ns.MembersDelta(added=(f"192.0.2.{rng.randrange(250)}",), removed=(f"192.0.2.{rng.randrange(250)}",))
        driver.update(
            ns.Delta(
                policies=ns.MapDelta(upserts={changed.id: changed}),
                workloads=ns.MapDelta(upserts={moved.id: moved}),
                ip_set_members={"s:x": member},
            )
        )


def test_killed_at_any_moment_nothing_opens_nothing_closes_and_the_next_converges(
    world: Any, make_dataplane: Callable[..., Any], kit: Any, backend: str, services: Services
) -> None:
    first, second, third = world.pods
    policies = {made.id: made for made in (policy(number, 1000 + number) for number in range(20))}
    listed = kit.policy_list(*policies, profiles=("allow",))
    whole = kit.full(
        ip_sets={"s:x": ns.IpSet(id="s:x", kind=ns.IpSetKind.NET, members=("192.0.2.1",))},
        policies=policies,
        workloads={pod.id: pod.endpoint(listed) for pod in (first, second)},
    )
    kit.applied(make_dataplane(), whole)
    wanted = sorted(kit.rules(backend))
    context = multiprocessing.get_context("fork")
    rng = random.Random(7)
    for _ in range(4):
        agent = context.Process(target=churn, args=(backend, whole, services), daemon=True)
        agent.start()
        until = time.monotonic() + 0.15 + rng.random() * 0.3
        while time.monotonic() < until:
            assert world.reaches(second, first, 8080)
            assert not world.reaches(third, first, 8080)
        assert agent.pid is not None
        os.kill(agent.pid, signal.SIGKILL)
        agent.join()
        assert world.reaches(second, first, 8080)
        kit.applied(make_dataplane(), whole)
        assert sorted(kit.rules(backend)) == wanted
        assert not world.reaches(second, first, 8081)
