"""What the agent reports of itself and of its endpoints: Felix' keys, when asked for, no oftener than asked for."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import pytest

from calico_kernel.agent import status
from calico_kernel.agent.status import FIRST_REPORT_S, StatusReporter
from calico_kernel.hookspecs import ApplyReport, Failure
from calico_kernel.model.felix import FelixConfiguration, FelixConfigurationSpec
from calico_kernel.model.felix_resolve import resolve
from calico_kernel.model.keys import (
    HostEndpointStatusKey,
    HostEndpointStatusQuery,
    LastNodeStatusKey,
    NodeStatusKey,
    StatusQuery,
    WorkloadStatusKey,
)
from calico_kernel.model.nodestate import (
    Delta,
    LocalHostEndpoint,
    LocalWorkload,
    MapDelta,
    PolicyList,
    ResolvedConfig,
    WorkloadEndpointId,
)
from calico_kernel.model.status import EndpointStatus, NodeStatus
from calico_kernel.testing.memory_datastore import MemoryDatastore

WEB = WorkloadEndpointId("k8s", "shop/web-1", "eth0")
DB = WorkloadEndpointId("k8s", "shop/db-1", "eth0")
WEB_KEY, DB_KEY = (WorkloadStatusKey("n1", *one) for one in (WEB, DB))
PORT_KEY = HostEndpointStatusKey("n1", "port")


def config(**fields: object) -> ResolvedConfig:
    return resolve(default=FelixConfiguration(spec=FelixConfigurationSpec(**fields))).config  # type: ignore[arg-type]


def workload(one: WorkloadEndpointId) -> LocalWorkload:
    return LocalWorkload(id=one, interface="cali1", addresses=("10.0.0.1",), policies=PolicyList())


def endpoints(*ids: WorkloadEndpointId, full: bool = False) -> Delta:
    return Delta(full=full, workloads=MapDelta(upserts={one: workload(one) for one in ids}))


def programmed(*ids: WorkloadEndpointId) -> ApplyReport:
    return ApplyReport(programmed=ids)


@attrs.define
class World:
    """A reporter whose clock and interfaces are the test's."""

    store: MemoryDatastore = attrs.field(factory=MemoryDatastore)
    now: float = 1000.0
    interfaces: set[str] = attrs.field(factory=set)

    def reporter(self, **fields: object) -> StatusReporter:
        made = StatusReporter("n1", self.store, clock=lambda: self.now, has_interface=self.interfaces.__contains__)
        if fields:
            made.saw(Delta(config=config(**fields)))
        return made

    def stored(self) -> dict[object, object]:
        records = self.store.list([StatusQuery(), HostEndpointStatusQuery()]).records
        return {r.key: r.value.status for r in records if isinstance(r.value, EndpointStatus)}

    def step(self, reporter: StatusReporter, after_s: float = 0.0) -> float | None:
        self.now += after_s
        return reporter.step()


@pytest.fixture
def world() -> World:
    return World()


# ── the node ──


def test_node_says_that_it_lives_at_each_interval_and_what_it_said_last_stays(world: World) -> None:
    reporter = world.reporter(reporting_interval="20s", reporting_ttl="60s")
    assert world.step(reporter) == FIRST_REPORT_S
    assert not world.store.list([StatusQuery()]).records
    wait_s = world.step(reporter, FIRST_REPORT_S)
    assert wait_s is not None
    assert 19 <= wait_s <= 21
    alive, last = (world.store.get(key).value for key in (NodeStatusKey("n1"), LastNodeStatusKey("n1")))
    assert isinstance(alive, NodeStatus)
    assert alive == last
    assert (alive.uptime, alive.first_update) == (FIRST_REPORT_S, True)
    assert alive.time.endswith("Z")
    world.step(reporter, 21)
    again = world.store.get(NodeStatusKey("n1")).value
    assert isinstance(again, NodeStatus)
    assert (again.uptime, again.first_update) == (FIRST_REPORT_S + 21, False)


def test_node_of_a_region_says_so_and_interval_zero_says_nothing(world: World) -> None:
    silent = world.reporter(reporting_interval="0s")
    assert world.step(silent, 100) is None
    assert not world.store.list([StatusQuery()]).records
    reporter = world.reporter()
    environment = {"FELIX_OpenstackRegion": "one"}
    reporter.saw(Delta(config=resolve(environment=environment).config))
    world.step(reporter, FIRST_REPORT_S)
    assert isinstance(world.store.get(NodeStatusKey("n1", "region-one")).value, NodeStatus)


# ── endpoints ──


def reporting(world: World) -> StatusReporter:
    return world.reporter(reporting_interval="0s", endpoint_reporting_enabled=True)


def test_endpoint_is_up_once_the_dataplane_enforces_it_and_its_status_goes_with_it(world: World) -> None:
    reporter = reporting(world)
    reporter.saw(endpoints(WEB, DB, full=True))
    world.step(reporter)
    assert world.stored() == {}, "nothing was applied yet"
    reporter.applied(programmed(WEB))
    world.step(reporter, 1)
    assert world.stored() == {WEB_KEY: "up", DB_KEY: "down"}
    reporter.applied(ApplyReport(programmed=[WEB], failures=[Failure(subject="x", reason="y")]))
    world.step(reporter, 1)
    assert world.stored() == {WEB_KEY: "up", DB_KEY: "error"}
    reporter.saw(Delta(workloads=MapDelta(removes=[WEB])))
    world.step(reporter, 1)
    assert world.stored() == {DB_KEY: "error"}


def test_host_endpoint_is_up_while_its_interface_is_there(world: World) -> None:
    reporter = reporting(world)
    named = {"port": LocalHostEndpoint(name="port", interface="eth9")}
    reporter.saw(Delta(full=True, host_endpoints=MapDelta(upserts=named)))
    reporter.applied(programmed())
    world.step(reporter)
    assert world.stored() == {PORT_KEY: "down"}
    world.interfaces.add("eth9")
    reporter.applied(ApplyReport(failures=[Failure(subject="x", reason="y")]))
    world.step(reporter, 1)
    assert world.stored() == {PORT_KEY: "error"}
    reporter.applied(programmed())
    world.step(reporter, 1)
    assert world.stored() == {PORT_KEY: "up"}


def test_what_flaps_within_the_delay_is_written_once(world: World) -> None:
    reporter = reporting(world)
    reporter.saw(endpoints(WEB, full=True))
    reporter.applied(programmed(WEB))
    world.step(reporter)
    revision = world.store.get(WEB_KEY).revision
    for ids in ((), (WEB,), (), (WEB,)):
        reporter.applied(programmed(*ids))
        world.step(reporter, 0.1)
    world.step(reporter, 1)
    assert world.store.get(WEB_KEY).revision == revision
    reporter.applied(programmed())
    world.step(reporter, 0.1)
    assert world.stored() == {WEB_KEY: "up"}, "the delay is not over"
    world.step(reporter, 1)
    assert world.stored() == {WEB_KEY: "down"}


def test_fresh_agent_writes_only_what_differs_and_removes_what_its_predecessor_left(world: World) -> None:
    world.store.put(WEB_KEY, EndpointStatus(status="up"))
    world.store.put(DB_KEY, EndpointStatus(status="up"))
    world.store.put(WorkloadStatusKey("n2", *DB), EndpointStatus(status="up"))
    revision = world.store.get(WEB_KEY).revision
    reporter = reporting(world)
    reporter.saw(endpoints(WEB, full=True))
    reporter.applied(programmed(WEB))
    world.step(reporter)
    assert set(world.stored()) == {WEB_KEY, WorkloadStatusKey("n2", *DB)}
    assert world.store.get(WEB_KEY).revision == revision
    world.store.put(WEB_KEY, EndpointStatus(status="nonsense"))
    world.step(reporter, status.RESYNC_DELAYS + 1)
    assert world.stored()[WEB_KEY] == "up"


def test_reporting_switched_off_takes_back_what_was_reported(world: World) -> None:
    reporter = reporting(world)
    reporter.saw(endpoints(WEB, full=True))
    reporter.applied(programmed(WEB))
    world.step(reporter)
    reporter.saw(Delta(config=config(reporting_interval="0s")))
    world.step(reporter, 1)
    assert world.stored() == {}
    assert world.step(reporter, 1) is None


def test_many_endpoints_are_written_over_several_rounds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "MOST_WRITES", 10)
    ids = [WorkloadEndpointId("k8s", f"shop/web-{number}", "eth0") for number in range(25)]
    reporter = reporting(world)
    reporter.saw(endpoints(*ids, full=True))
    reporter.applied(programmed(*ids))
    counts = []
    for _ in range(3):
        assert world.step(reporter, 1) is not None
        counts.append(len(world.stored()))
    assert counts == [10, 20, 25]


def test_datastore_away_is_tried_again_and_all_is_told_when_it_is_back(world: World) -> None:
    reporter = world.reporter(reporting_interval="20s", endpoint_reporting_enabled=True)
    reporter.saw(endpoints(WEB, full=True))
    reporter.applied(programmed(WEB))
    with world.store.outage():
        wait_s = world.step(reporter, FIRST_REPORT_S)
        assert wait_s is not None
        assert world.step(reporter, wait_s) is not None
    world.step(reporter, 25)
    assert world.stored() == {WEB_KEY: "up"}
    assert isinstance(world.store.get(NodeStatusKey("n1")).value, NodeStatus)


def test_nothing_is_written_while_the_datastore_is_locked(world: World) -> None:
    locked = [True]
    reporter = StatusReporter("n1", world.store, is_locked=lambda: locked[0], clock=lambda: world.now)
    reporter.saw(Delta(config=config(endpoint_reporting_enabled=True)))
    reporter.saw(endpoints(WEB, full=True))
    reporter.applied(programmed(WEB))
    assert world.step(reporter, 100) == status.LOCKED_S
    assert not world.store.list([StatusQuery()]).records
    locked[0] = False
    world.step(reporter, status.LOCKED_S)
    assert {record.key for record in world.store.list([StatusQuery()]).records} == {
        WEB_KEY,
        NodeStatusKey("n1"),
        LastNodeStatusKey("n1"),
    }


# ── the thread ──


def test_thread_reports_what_it_is_told_and_ends_when_it_is_stopped() -> None:
    store = MemoryDatastore()
    watch = store.watch([StatusQuery()], revision="0")
    reporter = StatusReporter("n1", store)
    reporter.start()
    reporter.saw(Delta(config=config(reporting_interval="0s", endpoint_reporting_enabled=True)))
    reporter.saw(endpoints(WEB, full=True))
    reporter.applied(programmed(WEB))
    assert keys(watch.next(10)) == [WEB_KEY]
    reporter.stop()
    reporter.join(10)
    assert not reporter.is_alive()


def keys(events: Iterable[object]) -> list[object]:
    return [event.key for event in events]  # type: ignore[attr-defined]
