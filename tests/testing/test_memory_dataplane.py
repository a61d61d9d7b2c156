"""The in-memory dataplane runs the contract kit in a world of its own, without a kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from random import Random
from typing import Any

import attrs
import pytest

from calico_kernel.hookspecs import Dataplane
from calico_kernel.model.endpoints import WorkloadEndpoint
from calico_kernel.model.meta import Resource
from calico_kernel.model.nodestate import (
    ActivePolicy,
    Delta,
    IpSet,
    IpSetKind,
    MapDelta,
    Match,
    MembersDelta,
    ParsedRule,
    PolicyId,
)
from calico_kernel.policy.matching import Packet
from calico_kernel.testing import generators
from calico_kernel.testing.dataplane import DataplaneContract, MakeDataplane, Node, check_fields, check_members, holders
from calico_kernel.testing.memory_dataplane import MemoryDataplane, MemoryKernel, State
from calico_kernel.testing.node_world import NODE, NodeWorld, interface_of
from calico_kernel.testing.situations import addresses, random_cluster


class MemoryWorld:
    """A node in memory; the driver that was built last answers for its kernel."""

    versions: Sequence[int] = (4, 6)
    local: Sequence[int] = (1, 2, 3)
    remote: Sequence[int] = (4, 5)

    def __init__(self) -> None:
        self.kernel = MemoryKernel()
        self.build: type[MemoryDataplane] = MemoryDataplane
        self.dataplane = self.build(NODE, self.kernel)

    def restart(self) -> MemoryDataplane:
        self.dataplane = self.build(NODE, self.kernel)
        return self.dataplane

    def nodes(self) -> list[Resource]:
        return NodeWorld.nodes(self)  # type: ignore[arg-type]

    def workload(self, rng: Random, number: int, *, flaws: bool = False) -> WorkloadEndpoint:
        return NodeWorld.workload(self, rng, number, flaws=flaws)  # type: ignore[arg-type]

    outside = "outside"
    namespace = "node"

    def workload_namespace(self, number: int) -> str:
        return interface_of(number)

    def ends(self, *, node: bool = False) -> dict[str, str]:
        return NodeWorld.ends(self, node=node)  # type: ignore[arg-type]

    def measure(
        self, packets: Sequence[Packet], expected: Sequence[bool] | None = None, one_way: Collection[Packet] = ()
    ) -> list[bool]:
        plugged = {generators.workload_address(n, v): interface_of(n) for n in self.local for v in self.versions}
        return [self.dataplane.passes(packet, interfaces=plugged) for packet in packets]

    @contextlib.contextmanager
    def stream(self, packets: Sequence[Packet], expected: Sequence[bool]) -> Iterator[list[list[bool]]]:
        """Before and after: in memory nothing lies between."""
        rounds = [self.measure(packets)]
        yield rounds
        rounds += [self.measure(packets), self.measure(packets)]

    def snapshot(self) -> list[object]:
        return [*self.kernel.foreign, self.kernel.enforced]

    def add_foreign(self) -> None:
        self.kernel.foreign.append("OTHER")

    def foreign(self) -> list[str]:
        return list(self.kernel.foreign)

    def flush(self) -> None:
        self.kernel.enforced = None

    def unplug(self, number: int) -> None:
        """Policy in memory does not hang on an interface."""

    def plug(self, number: int) -> None:
        """As above."""


class TestMemoryDataplane(DataplaneContract):
    @pytest.fixture
    def world(self) -> MemoryWorld:
        return MemoryWorld()

    @pytest.fixture
    def make_dataplane(self, world: MemoryWorld) -> MakeDataplane:
        def make() -> Dataplane:
            return world.restart()

        return make


# ── the kit notices ───────────────────────────────────────────────────────────────────────────────────────────────────


class PassAccepts(MemoryDataplane):
    def _rules(self, rules: Sequence[ParsedRule], packet: Packet, state: State) -> Any:
        action = super()._rules(rules, packet, state)
        return "allow" if action == "pass" else action


class LogDecides(MemoryDataplane):
    def _rules(self, rules: Sequence[ParsedRule], packet: Packet, state: State) -> Any:
        return super()._rules(
            [attrs.evolve(r, action="allow") if r.action == "log" else r for r in rules], packet, state
        )


class FirstRuleOnly(MemoryDataplane):
    def _rules(self, rules: Sequence[ParsedRule], packet: Packet, state: State) -> Any:
        return super()._rules(rules[:1], packet, state)


class Forgets(MemoryDataplane):
    """Takes no notice of one field of every rule, or of one side of it."""

    rule_field = side_field = ""

    def _matches(self, rule: ParsedRule, packet: Packet, state: State) -> bool:
        if self.rule_field:
            rule = attrs.evolve(rule, **{self.rule_field: None})
        if self.side_field:
            source = attrs.evolve(rule.source, **{self.side_field: ()})
            rule = attrs.evolve(
                rule, source=source, destination=attrs.evolve(rule.destination, **{self.side_field: ()})
            )
        return super()._matches(rule, packet, state)


class KeepsOldMembers(MemoryDataplane):
    def update(self, delta: Delta) -> None:
        changes = {key: attrs.evolve(change, removed=()) for key, change in delta.ip_set_members.items()}
        super().update(attrs.evolve(delta, ip_set_members=changes))


class KeepsOldPolicies(MemoryDataplane):
    def update(self, delta: Delta) -> None:
        old = self.desired.policies if self.desired else {}
        changed = {key: old.get(key, policy) for key, policy in delta.policies.upserts.items()}
        super().update(attrs.evolve(delta, policies=attrs.evolve(delta.policies, upserts=changed)))


def forgetting(field: str) -> type[MemoryDataplane]:
    kind = (
        "rule_field"
        if field in ("ip_version", "protocol", "not_protocol", "icmp_type", "not_icmp_type")
        else "side_field"
    )
    return type(f"Forgets_{field}", (Forgets,), {kind: field})


FORGETTABLE = (
    *("ip_version", "protocol", "not_protocol", "icmp_type", "not_icmp_type", "nets", "ip_sets", "ports", "services"),
    *("named_ports", "not_nets", "not_ip_sets", "not_ports", "not_named_ports"),
)


@pytest.mark.parametrize(
    "faulty",
    [PassAccepts, LogDecides, FirstRuleOnly, KeepsOldMembers, KeepsOldPolicies, *map(forgetting, FORGETTABLE)],
    ids=lambda faulty: faulty.__name__,
)
def test_kit_notices_a_dataplane_that_gets_one_thing_wrong(faulty: type[MemoryDataplane]) -> None:
    for seed in range(20):
        rng, world = Random(seed), MemoryWorld()
        world.build = faulty
        node = Node(world, world.restart)
        try:
            if seed == 0:
                check_fields(node)
                check_members(node)
            node.change(*world.nodes(), *random_cluster(rng, world), gone=list(node.resources))
            node.check(generators.packets(rng, addresses(world), 80))
            replaced = [world.workload(rng, number) for number in (1, 4)]
            gone = [key for endpoint in replaced for key in holders(node, endpoint)]
            node.change(*generators.policies(rng, 5), *replaced, gone=gone)
            node.check(generators.packets(rng, addresses(world), 80))
        except AssertionError:
            return
    pytest.fail("no random cluster told the difference")


def test_state_that_refers_to_what_was_never_given_is_refused_and_not_enforced() -> None:
    kernel = MemoryKernel()
    dataplane = MemoryDataplane(NODE, kernel)
    rule = ParsedRule(action="allow", source=Match(ip_sets=("s:unknown",)))
    policy = ActivePolicy(id=PolicyId("GlobalNetworkPolicy", "", "p"), tier="default", inbound=(rule,))
    dataplane.update(Delta(full=True, policies=MapDelta(upserts={policy.id: policy})))
    assert [failure.subject for failure in dataplane.apply().failures] == ["set s:unknown"]
    assert kernel.enforced is None


def test_members_of_a_set_come_and_go() -> None:
    dataplane = MemoryDataplane(NODE)
    ip_set = IpSet(id="s:a", kind=IpSetKind.NET, members=("10.0.0.1", "10.1.0.0/16"))
    dataplane.update(Delta(full=True, ip_sets=MapDelta(upserts={"s:a": ip_set})))
    change = MembersDelta(added=("10.0.0.2",), removed=("10.0.0.1",))
    dataplane.update(Delta(ip_set_members={"s:a": change}))
    assert dataplane.desired is not None
    assert set(dataplane.desired.ip_sets["s:a"].members) == {"10.0.0.2", "10.1.0.0/16"}
