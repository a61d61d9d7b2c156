"""The in-memory dataplane runs the contract kit in a world of its own, without a kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from random import Random

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
from calico_kernel.testing.dataplane import DataplaneContract, MakeDataplane
from calico_kernel.testing.memory_dataplane import MemoryDataplane, MemoryKernel
from calico_kernel.testing.node_world import NODE, NodeWorld, interface_of


class MemoryWorld:
    """A node in memory; the driver that was built last answers for its kernel."""

    versions: Sequence[int] = (4, 6)
    local: Sequence[int] = (1, 2, 3)
    remote: Sequence[int] = (4, 5)

    def __init__(self) -> None:
        self.kernel = MemoryKernel()
        self.dataplane = MemoryDataplane(NODE, self.kernel)

    def restart(self) -> MemoryDataplane:
        self.dataplane = MemoryDataplane(NODE, self.kernel)
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

    def snapshot(self) -> list[str]:
        return [*self.kernel.foreign, *([repr(self.kernel.enforced)] if self.kernel.enforced else [])]

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
