"""The contract kit of the dataplane hook: real packets through real namespaces, judged by ``policy.verdict``.

A plugin runs it by supplying one fixture:

    class TestIptables(DataplaneContract):
        @pytest.fixture
        def make_dataplane(self, world):
            return lambda: IptablesDataplane(Settings(), Services(node=NODE, log=...))

``make_dataplane()`` builds a driver in the current network namespace, which is the node's; calling it again is a
restart of the agent. Random clusters go through the real calculation to the driver, so the kit holds both to the
definition. The in-memory dataplane runs the same kit in a world without a kernel, so neither the kit nor it can drift.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from random import Random
from typing import Protocol

import pytest

from calico_kernel.calc import Calculator
from calico_kernel.hookspecs import ApplyReport, Dataplane
from calico_kernel.host import netns
from calico_kernel.model.endpoints import WorkloadEndpoint
from calico_kernel.model.keys import ResourceKey
from calico_kernel.model.meta import ObjectMeta, Resource
from calico_kernel.model.policy import (
    EntityRule,
    Profile,
    ProfileSpec,
    Rule,
)
from calico_kernel.policy.explain import explain, render
from calico_kernel.policy.matching import Packet
from calico_kernel.policy.verdict import Cluster, Step, verdict
from calico_kernel.testing import generators, situations
from calico_kernel.testing.node_world import NODE, NODE_ADDRESSES, UPLINK, NodeWorld
from calico_kernel.testing.situations import (
    EGRESS_SERVICE,
    FIELD_PORTS,
    addresses,
    every_packet,
    quiet_cluster,
    random_cluster,
    shut,
)

MakeDataplane = Callable[[], Dataplane]

MOST_UPDATES = 500
"""Made while packets flow, until several rounds of them were seen: a fast dataplane makes many between two rounds."""


class World(Protocol):
    """A node with workloads 1-3 plugged in, others on another node, and an outside. See ``NodeWorld``."""

    local: Sequence[int]
    remote: Sequence[int]
    versions: Sequence[int]

    def nodes(self) -> list[Resource]: ...
    def workload(self, rng: Random, number: int, *, flaws: bool = False) -> WorkloadEndpoint: ...
    def ends(self, *, node: bool = False) -> dict[str, str]: ...
    def measure(
        self, packets: Sequence[Packet], expected: Sequence[bool] | None = None, one_way: Collection[Packet] = ()
    ) -> list[bool]: ...
    def stream(
        self, packets: Sequence[Packet], expected: Sequence[bool]
    ) -> AbstractContextManager[list[list[bool]]]: ...
    def snapshot(self) -> Sequence[object]: ...
    def add_foreign(self) -> None: ...
    def foreign(self) -> Sequence[object]: ...
    def flush(self) -> None: ...
    def unplug(self, number: int) -> None: ...
    def plug(self, number: int) -> None: ...


class Node:
    """Resources, the calculation over them, and a driver under test; ``restart`` gives it a new calculation and driver,
    as a new agent process would have them."""

    def __init__(self, world: World, make_dataplane: MakeDataplane) -> None:
        self.world, self._make = world, make_dataplane
        self.resources: dict[ResourceKey, Resource] = {}
        self._flows: set[Packet] = set()
        self._cluster: Cluster | None = None
        self.restart()

    def restart(self) -> None:
        self.calculator = Calculator(NODE)
        self.calculator.update(list(self.resources.items()))
        self.calculator.in_sync()
        self.dataplane = self._make()

    def feed(self, *upserts: Resource, gone: Sequence[ResourceKey] = ()) -> None:
        """Change resources; the driver hears of it, but does not apply."""
        self._cluster = None
        for key in gone:
            self.resources.pop(key, None)
        changed = {key_of(resource): resource for resource in upserts}
        self.resources.update(changed)
        self.calculator.update([*((key, None) for key in gone), *changed.items()])
        delta = self.calculator.flush()
        if delta is not None:
            self.dataplane.update(delta)

    def apply(self) -> ApplyReport:
        report = self.dataplane.apply()
        assert not report.failures, report.failures
        return report

    def change(self, *upserts: Resource, gone: Sequence[ResourceKey] = ()) -> ApplyReport:
        self.feed(*upserts, gone=gone)
        return self.apply()

    def cluster(self) -> Cluster:
        if self._cluster is None:
            self._cluster = Cluster.from_resources(self.resources.values(), uplinks={NODE: UPLINK})
        return self._cluster

    def steps(self, packet: Packet) -> list[Step]:
        """The verdict, as far as it is taken on this node."""
        return [step for step in verdict(packet, self.cluster()).steps if step.endpoint.node == NODE]

    def expected(self, packet: Packet) -> bool:
        return all(step.outcome != "deny" for step in self.steps(packet))

    def is_untracked(self, packet: Packet) -> bool:
        """An untracked policy decides it or its answer, so the answer is another packet with a verdict of its own."""
        echo = {8: 0, 128: 129}
        answer = Packet(
            packet.destination,
            packet.source,
            packet.protocol,
            packet.destination_port,
            packet.source_port,
            None if packet.icmp_type is None else echo.get(packet.icmp_type, packet.icmp_type),
            packet.icmp_code,
        )
        steps = [*self.steps(packet), *self.steps(answer)]
        return any(step.hook == "untracked" and step.outcome != "pass" for step in steps)

    def check(self, packets: Sequence[Packet]) -> None:
        """Each packet, as a flow not seen before, fares as the definition says."""
        fresh = list(dict.fromkeys(p for p in packets if not p.has_ports or p not in self._flows))
        self._flows.update(fresh)
        expected = [self.expected(packet) for packet in fresh]
        got = self.world.measure(fresh, expected, {packet for packet in fresh if self.is_untracked(packet)})
        wrong = [(p, want) for p, want, have in zip(fresh, expected, got, strict=True) if want != have]
        if wrong:
            packet, want = wrong[0]
            told = render(explain(packet, self.cluster()))
            raise AssertionError(f"{len(wrong)} of {len(fresh)} differ; {packet} should {_arrive(want)}:\n{told}")


def _arrive(want: bool) -> str:
    return "arrive" if want else "not arrive"


def key_of(resource: Resource) -> ResourceKey:
    return ResourceKey(resource.kind, resource.metadata.namespace, resource.metadata.name)


def check_fields(node: Node) -> None:
    """Rules that differ in one field, three at a time, each against packets that tell it from the others."""
    node.change(*quiet_cluster(node.world), EGRESS_SERVICE)
    node.check(every_packet(node.world, ports=FIELD_PORTS))
    node.change(gone=[key_of(EGRESS_SERVICE)])
    for policies in situations.field_policies():
        node.change(*policies)
        node.check(every_packet(node.world, ports=FIELD_PORTS))


def check_members(node: Node) -> None:
    """One policy; workloads change the labels and ports by which its rules match them."""
    by_label = Rule(action="Allow", protocol="TCP", source=EntityRule(selector="app == 'db'"))
    by_port = Rule(action="Allow", protocol="UDP", destination=EntityRule(ports=("dns",)))
    node.change(*quiet_cluster(node.world), shut(by_label, by_port))
    node.check(every_packet(node.world, ports=FIELD_PORTS))
    for number in (node.world.local[1], node.world.remote[0]):
        endpoint = next(
            r for r in node.resources.values() if isinstance(r, WorkloadEndpoint) and r.spec.pod == f"w{number}"
        )
        for changed in (
            situations.relabelled(endpoint, "db"),
            situations.relabelled(endpoint, "api", named_ports=False),
            situations.relabelled(endpoint, "db"),
            situations.relabelled(endpoint, "web"),
        ):
            node.change(changed)
            node.check(every_packet(node.world, ports=FIELD_PORTS))


def holders(node: Node, endpoint: WorkloadEndpoint) -> list[ResourceKey]:
    """Workload endpoints with the addresses of ``endpoint``: the pods that it replaces."""
    return [
        key
        for key, r in node.resources.items()
        if isinstance(r, WorkloadEndpoint) and r.spec.ip_networks == endpoint.spec.ip_networks
    ]


class DataplaneContract:
    """Subclass it in the plugin's tests; the fixtures below say what a plugin supplies."""

    @pytest.fixture
    def world(self, netns_name: str) -> Iterator[World]:
        """The test lives in the node's namespace."""
        made = NodeWorld(netns_name)
        try:
            with netns.entered(made.namespace):
                yield made
        finally:
            made.close()

    @pytest.fixture
    def make_dataplane(self, world: World) -> MakeDataplane:
        raise NotImplementedError("return a function that builds the driver in the current network namespace")

    @pytest.fixture
    def node(self, world: World, make_dataplane: MakeDataplane) -> Iterator[Node]:
        made = Node(world, make_dataplane)
        yield made
        made.dataplane.close()

    # ── verdicts ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @pytest.mark.parametrize("seed", range(10))
    def test_random_clusters_and_changes_get_the_verdicts_of_the_definition(self, node: Node, seed: int) -> None:
        rng, world = Random(seed), node.world
        ends = addresses(world)
        node.change(*world.nodes(), *random_cluster(rng, world))
        node.check(generators.packets(rng, ends, 80))
        for _ in range(4):
            gone = rng.sample([key for key in node.resources if "NetworkPolicy" in key.kind], 1)
            replaced = world.workload(rng, rng.choice([*world.local, *world.remote]), flaws=True)
            policy = generators.policy(rng, rng.randrange(6), flaws=True)
            node.change(policy, replaced, gone=[*gone, *holders(node, replaced)])
            node.check(generators.packets(rng, ends, 40))

    @pytest.mark.parametrize("seed", range(9))
    def test_host_endpoints_and_their_hooks_get_the_verdicts_of_the_definition(self, node: Node, seed: int) -> None:
        rng, world = Random(100 + seed), node.world
        ends = addresses(world, node=True)
        interface = (UPLINK, "*", "")[seed % 3]
        own = () if interface else tuple(NODE_ADDRESSES.values())
        endpoint = generators.host_endpoint(rng, node=NODE, interface=interface, addresses=own)
        node.change(
            *world.nodes(),
            *random_cluster(rng, world),
            endpoint,
            *(generators.host_policy(rng, number) for number in range(4)),
        )
        node.check(generators.packets(rng, ends, 80))
        node.change(*(generators.host_policy(rng, number) for number in range(4)))
        node.check(generators.packets(rng, ends, 80))

    def test_every_protocol_is_told_from_every_other(self, node: Node) -> None:
        node.change(*quiet_cluster(node.world))
        for protocol in ("TCP", "UDP", "SCTP", "UDPLite", "ICMP", "ICMPv6"):
            ports = (80,) if protocol in ("TCP", "UDP", "SCTP") else ()
            rule = Rule(action="Allow", protocol=protocol, destination=EntityRule(ports=ports))
            node.change(shut(rule))
            node.check(every_packet(node.world))

    def test_every_field_of_a_rule_counts(self, node: Node) -> None:
        check_fields(node)

    def test_who_joins_or_leaves_a_set_is_matched_or_no_longer(self, node: Node) -> None:
        check_members(node)

    def test_missing_profile_tier_or_readable_rule_denies(self, node: Node) -> None:
        node.change(*quiet_cluster(node.world))
        node.check(every_packet(node.world))
        allow = Rule(action="Allow")
        for flaw in (
            Profile(
                metadata=ObjectMeta(name="kns.blue"), spec=ProfileSpec(ingress=(Rule(action="Allow", protocol="?"),))
            ),
            shut(tier="ghost"),
            shut(allow, Rule(action="Allow", source=EntityRule(selector="a ="))),
        ):
            node.change(flaw)
            node.check(every_packet(node.world))
        node.change(gone=[ResourceKey("Profile", "", "kns.blue"), ResourceKey("GlobalNetworkPolicy", "", "shut")])
        packets = every_packet(node.world)
        assert not any(node.expected(packet) for packet in packets)
        node.check(packets)

    def test_workload_interface_without_an_endpoint_is_dropped(self, node: Node) -> None:
        resources = quiet_cluster(node.world)
        node.change(*resources)
        stranger = next(r for r in resources if isinstance(r, WorkloadEndpoint) and r.spec.pod == "w3")
        node.change(gone=[key_of(stranger)])
        theirs = set(stranger.spec.ip_networks)
        packets = [p for p in every_packet(node.world) if {str(p.source), str(p.destination)} & theirs]
        assert packets
        assert not any(node.world.measure(packets, [False] * len(packets)))

    def test_workload_whose_interface_goes_and_comes_back_is_policed_again(self, node: Node) -> None:
        node.change(*quiet_cluster(node.world), shut(Rule(action="Allow", protocol="TCP")))
        node.world.unplug(3)
        node.dataplane.resync()
        node.apply()
        node.world.plug(3)
        node.dataplane.resync()
        node.apply()
        node.check(every_packet(node.world))

    # ── what changes when ─────────────────────────────────────────────────────────────────────────────────────────────

    def test_nothing_on_the_node_changes_before_the_first_apply(self, node: Node) -> None:
        before = node.world.snapshot()
        node.feed(*quiet_cluster(node.world), shut())
        assert node.world.snapshot() == before

    def test_every_workload_is_reported_as_programmed(self, node: Node) -> None:
        report = node.change(*quiet_cluster(node.world))
        assert {endpoint.workload for endpoint in report.programmed} == {"blue/w1", "blue/w2", "blue/w3"}

    def test_second_apply_and_restart_rewrite_nothing_and_keep_enforcing(self, node: Node) -> None:
        rng = Random(1)
        node.change(*node.world.nodes(), *random_cluster(rng, node.world))
        assert node.apply().changes == 0
        written = node.world.snapshot()
        node.dataplane.close()
        node.restart()
        node.check(generators.packets(rng, addresses(node.world), 40))  # the new agent has applied nothing yet
        assert node.change().changes == 0
        assert node.world.snapshot() == written
        node.check(generators.packets(rng, addresses(node.world), 40))

    def test_restart_removes_what_went_meanwhile(self, node: Node) -> None:
        node.change(*quiet_cluster(node.world), shut())
        node.dataplane.close()
        node.resources.pop(ResourceKey("GlobalNetworkPolicy", "", "shut"))
        node.restart()
        node.change()
        packets = every_packet(node.world)
        assert all(node.expected(packet) for packet in packets)
        node.check(packets)

    def test_update_never_opens_nor_closes_what_stays_as_it_is(self, node: Node) -> None:
        """w1 accepts TCP only, before, during and after changes of its policies, their sets, and other endpoints."""
        rng = Random(3)
        node.change(*quiet_cluster(node.world), shut(Rule(action="Allow", protocol="TCP"), selector="app == 'web'"))
        w1, w2 = (generators.workload_address(number, 4) for number in (1, 2))
        denied = [Packet(w2, w1, "UDP", 0, 80), Packet(generators.OUTSIDE[4][0], w1, "UDP", 0, 80)]
        allowed = [Packet(w2, w1, "TCP", 0, 80)]
        expected = [False] * len(denied) + [True] * len(allowed)
        with node.world.stream([*denied, *allowed], expected) as rounds:
            for number in range(MOST_UPDATES):
                if number >= 12 and len(rounds) >= 3:
                    break
                source = EntityRule(selector=f"app == 'db' || env == '{number}'")
                extra = Rule(
                    action="Allow", protocol="TCP", source=source, destination=EntityRule(ports=(1000 + number,))
                )
                tcp = Rule(action="Allow", protocol="TCP")
                rules = (extra, tcp) if number % 2 else (tcp, Rule(action="Deny", protocol="SCTP"), extra)
                replaced = node.world.workload(rng, 4)
                node.change(
                    shut(*rules, selector="app == 'web'" if number % 3 else "has(app) && app != 'db'"),
                    replaced,
                    shut(name="other", order=float(number), selector="app == 'nobody'" if number % 2 else "env == 'x'"),
                    gone=holders(node, replaced),
                )
        assert len(rounds) >= 3
        assert rounds == [expected] * len(rounds)

    # ── living with others ────────────────────────────────────────────────────────────────────────────────────────────

    def test_other_peoples_rules_and_sets_stay_as_they_are(self, node: Node) -> None:
        node.world.add_foreign()
        theirs = node.world.foreign()
        assert theirs
        node.change(*quiet_cluster(node.world), shut())
        assert node.world.foreign() == theirs
        node.check(every_packet(node.world))
        node.change(gone=list(node.resources))
        assert node.world.foreign() == theirs
        node.dataplane.uninstall()
        assert node.world.foreign() == theirs

    def test_rules_deleted_by_others_are_back_after_a_resync(self, node: Node) -> None:
        node.change(*quiet_cluster(node.world), shut())
        node.world.flush()
        node.dataplane.resync()
        node.apply()
        node.check(every_packet(node.world))

    def test_uninstall_leaves_nothing_and_is_safe_on_a_clean_node(self, node: Node) -> None:
        clean = node.world.snapshot()
        node.dataplane.uninstall()
        assert node.world.snapshot() == clean
        node.restart()
        node.change(*quiet_cluster(node.world), shut())
        assert node.world.snapshot() != clean
        node.dataplane.uninstall()
        assert node.world.snapshot() == clean
