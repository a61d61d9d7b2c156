"""What one apply of the iptables dataplane costs: ``python -m bench apply --backend legacy --policies 1100``.

No datastore, no calculation: deltas straight into the driver, in a network namespace of a bubble. Each figure is the
median time of ``apply`` and the mean CPU time of this process and its children, for a change of one kind.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import attrs

from calico_dp_iptables.driver import IptablesDataplane
from calico_dp_iptables.settings import Settings
from calico_kernel.hookspecs import Services
from calico_kernel.host import bubble
from calico_kernel.model import nodestate as ns

SETS = 100


def policy(number: int, *, deny: bool = False) -> ns.ActivePolicy:
    port = ns.PortRange(8000 + number, 8000 + number)
    rule = ns.ParsedRule(
        action="deny" if deny else "allow",
        protocol=17,
        source=ns.Match(ip_sets=(set_id(number % SETS),)),
        destination=ns.Match(ports=(port,)),
    )
    return ns.ActivePolicy(
        id=ns.PolicyId("GlobalNetworkPolicy", "", f"policy-{number}"), tier="default", inbound=(rule,)
    )


def set_id(number: int) -> str:
    return f"s:{number:030d}"


def policy_list(ids: Sequence[ns.PolicyId]) -> ns.PolicyList:
    tier = ns.TierPolicies(name="default", default_action="Deny", ingress=tuple(ids))
    return ns.PolicyList(tiers=(tier,))


def endpoint(number: int, policies: ns.PolicyList) -> ns.LocalWorkload:
    return ns.LocalWorkload(
        id=ns.WorkloadEndpointId("k8s", f"bench/pod-{number}", "eth0"),
        interface=f"cali{number * 2654435761 % 2**32:08x}",
        addresses=(f"10.65.{number >> 8}.{number & 255}",),
        policies=policies,
    )


def measure(backend: str, *, workloads: int, policies: int, remote: int, rounds: int) -> dict[str, object]:
    driver = IptablesDataplane(
        Settings(backend=backend),  # type: ignore[arg-type]
        Services(node="bench", log=logging.getLogger("bench")),
    )
    active = {made.id: made for made in map(policy, range(policies))}
    ids = list(active)
    members = [f"10.{128 + (n >> 16)}.{n >> 8 & 255}.{n & 255}" for n in range(remote)]
    sets = {
        set_id(n): ns.IpSet(id=set_id(n), kind=ns.IpSetKind.NET, members=(*members[n::SETS], "10.65.0.1"))
        for n in range(SETS)
    }
    shared = policy_list(ids)
    local = {made.id: made for made in (endpoint(n, shared) for n in range(workloads))}
    figures: dict[str, object] = {
        "backend": backend,
        "workloads": workloads,
        "policies": policies,
        "remote": remote,
    }

    def timed(delta: ns.Delta) -> tuple[float, float]:
        cpu, since = os.times(), time.perf_counter()
        driver.update(delta)
        report = driver.apply()
        if report.failures:
            raise SystemExit(f"apply failed: {report.failures}")
        spent = os.times()
        return (time.perf_counter() - since) * 1000, (sum(spent[:4]) - sum(cpu[:4])) * 1000

    def row(name: str, change: Callable[[int], ns.Delta]) -> None:
        taken = [timed(change(number)) for number in range(rounds)]
        figures[f"{name}_ms"] = round(statistics.median(wall for wall, _ in taken), 1)
        figures[f"{name}_cpu_ms"] = round(statistics.mean(cpu for _, cpu in taken), 1)

    whole = ns.Delta(
        full=True,
        ip_sets=ns.MapDelta(upserts=sets),
        policies=ns.MapDelta(upserts=active),
        workloads=ns.MapDelta(upserts=local),
    )
    figures["first_ms"] = round(timed(whole)[0], 1)
    figures["rules_per_family"] = sum(table.desired_rule_count() for table in driver.families[4].tables.values())
    row("rule_changed", lambda n: upsert_policies({ids[0]: policy(0, deny=n % 2 == 0)}))
    extra = attrs.evolve(policy(0, deny=True), id=ns.PolicyId("GlobalNetworkPolicy", "", "aa-extra"))
    with_extra = policy_list([extra.id, *ids])

    def extra_for(some: Mapping[ns.WorkloadEndpointId, ns.LocalWorkload], number: int) -> ns.Delta:
        if number % 2:
            return ns.Delta(policies=ns.MapDelta(removes={extra.id}), workloads=ns.MapDelta(upserts=some))
        changed = {key: attrs.evolve(workload, policies=with_extra) for key, workload in some.items()}
        return ns.Delta(policies=ns.MapDelta(upserts={extra.id: extra}), workloads=ns.MapDelta(upserts=changed))

    first = dict(list(local.items())[:1])
    row("policy_of_one_workload", lambda n: extra_for(first, n))
    row("policy_of_all_workloads", lambda n: extra_for(local, n))
    row("member", lambda n: ns.Delta(ip_set_members={set_id(0): ns.MembersDelta(added=(f"10.99.0.{n}",))}))
    row("workload", lambda n: ns.Delta(workloads=ns.MapDelta(upserts=dict([_pair(endpoint(5000 + n, shared))]))))
    restarted = IptablesDataplane(driver.settings, Services(node="bench", log=logging.getLogger("bench")))
    since = time.perf_counter()
    restarted.update(whole)
    restarted.apply()
    figures["restart_ms"] = round((time.perf_counter() - since) * 1000, 1)
    for made in (driver, restarted):
        made.close()
    driver.uninstall()
    return figures


def upsert_policies(changed: Mapping[ns.PolicyId, ns.ActivePolicy]) -> ns.Delta:
    return ns.Delta(policies=ns.MapDelta(upserts=changed))


def _pair(made: ns.LocalWorkload) -> tuple[ns.WorkloadEndpointId, ns.LocalWorkload]:
    return made.id, made


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench apply", description=__doc__)
    parser.add_argument("--backend", choices=("legacy", "nft", "both"), default="both")
    parser.add_argument("--workloads", type=int, default=50)
    parser.add_argument("--policies", type=int, default=1100)
    parser.add_argument("--remote", type=int, default=50000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="one JSON object for each back end (always so)")
    given = parser.parse_args(argv)
    if not bubble.inside():
        bubble.enter([sys.executable, "-m", "bench", "apply", *argv])
    for backend in ("legacy", "nft") if given.backend == "both" else (given.backend,):
        figures = measure(
            backend, workloads=given.workloads, policies=given.policies, remote=given.remote, rounds=given.rounds
        )
        print(json.dumps(figures), flush=True)
    return 0
