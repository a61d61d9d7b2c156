"""A worker coalesces, retries, resyncs and survives its plugin."""

from __future__ import annotations

import threading
from collections.abc import Callable

import attrs
import pytest

from calico_kernel.agent.worker import DriverWorker
from calico_kernel.errors import DataplaneError
from calico_kernel.hookspecs import ApplyReport, Driver, Failure, Lack
from calico_kernel.model.nodestate import ActiveProfile, Delta, MapDelta, WorkloadEndpointId

WAIT_S = 10.0
ENDPOINT = WorkloadEndpointId("k8s", "default/web", "eth0")


def profile(name: str) -> Delta:
    return Delta(profiles=MapDelta(upserts={name: ActiveProfile(name=name)}))


class Recorder(Driver):
    """Keeps the names of the profiles it was told of; ``script`` decides what each apply does."""

    def __init__(self) -> None:
        self.desired: set[str] = set()
        self.applied: set[str] = set()
        self.updates = self.applies = self.resyncs = 0
        self.script: list[Callable[[], ApplyReport]] = []
        self.break_update = False
        self.closed = False
        self.gate = threading.Event()
        self.gate.set()
        self.happened = threading.Condition()

    def update(self, delta: Delta) -> None:
        self.updates += 1
        if self.break_update:
            self.break_update = False
            raise RuntimeError("boom")
        self.desired |= set(delta.profiles.upserts)

    def apply(self) -> ApplyReport:
        assert self.gate.wait(WAIT_S)
        report = self.script.pop(0)() if self.script else ApplyReport()
        with self.happened:
            self.applies += 1
            if not report.failures:
                self.applied = set(self.desired)
            self.happened.notify_all()
        return report

    def resync(self) -> None:
        self.resyncs += 1

    def close(self) -> None:
        self.closed = True

    def until(self, condition: Callable[[], bool]) -> None:
        with self.happened:
            assert self.happened.wait_for(condition, WAIT_S)


@pytest.fixture
def driver() -> Recorder:
    return Recorder()


def started(driver: Recorder, **settings: float) -> DriverWorker:
    worker = DriverWorker("dataplane:test", driver, retry_min_s=0.01, retry_max_s=0.05, **settings)
    worker.start()
    return worker


def finish(worker: DriverWorker) -> None:
    worker.stop()
    worker.join(WAIT_S)
    assert not worker.is_alive()


def test_changes_that_arrive_while_busy_become_one_apply(driver: Recorder) -> None:
    driver.gate.clear()
    worker = started(driver)
    worker.submit(profile("a"))
    while not worker.state.busy_since:
        threading.Event().wait(0.001)
    for name in "bcdefgh":
        worker.submit(profile(name))
    driver.gate.set()
    driver.until(lambda: driver.applied == set("abcdefgh"))
    finish(worker)
    assert driver.applies == 2
    assert driver.closed


def test_a_failure_is_retried_and_its_stamps_come_with_the_success(driver: Recorder) -> None:
    reports: list[tuple[bool, dict[WorkloadEndpointId, str]]] = []
    worker = DriverWorker(
        "dataplane:test",
        driver,
        lambda report, stamps: reports.append((bool(report.failures), dict(stamps))),
        retry_min_s=0.01,
    )
    driver.script = [lambda: ApplyReport(failures=[Failure(subject="x", reason="busy")])]
    worker.start()
    worker.submit(profile("a"), {ENDPOINT: "7"})
    driver.until(lambda: driver.applies == 2)
    finish(worker)
    assert reports[0] == (True, {ENDPOINT: "7"})
    assert reports[1] == (False, {ENDPOINT: "7"})
    assert worker.state.converged


@pytest.mark.parametrize("error", [DataplaneError(what="no", todo="wait"), ValueError("a bug")])
def test_an_exception_ends_the_apply_and_not_the_worker(driver: Recorder, error: Exception) -> None:
    def fail() -> ApplyReport:
        with driver.happened:
            driver.applies += 1
        raise error

    driver.script = [fail]
    worker = started(driver)
    worker.submit(profile("a"))
    driver.until(lambda: driver.applied == {"a"})
    finish(worker)
    assert worker.state.failed_applies == 1


def test_a_plugin_that_cannot_take_a_change_is_given_the_whole_and_counts_as_failed_until_it_took_it(
    driver: Recorder,
) -> None:
    driver.break_update = True
    reports: list[ApplyReport] = []
    worker = DriverWorker(
        "dataplane:test",
        driver,
        lambda report, _stamps: reports.append(report),
        lambda: worker.submit(attrs.evolve(profile("a"), full=True)),
        retry_min_s=0.01,
    )
    worker.start()
    worker.submit(profile("a"), {ENDPOINT: "7"})
    driver.until(lambda: driver.applied == {"a"})
    finish(worker)
    assert reports[0].failures
    assert not reports[0].programmed
    assert not reports[-1].failures
    assert worker.state.converged


def test_a_plugin_that_can_never_take_the_whole_is_given_it_with_back_off(driver: Recorder) -> None:
    class Broken(Recorder):
        def update(self, delta: Delta) -> None:
            self.updates += 1
            raise RuntimeError("boom")

    broken = Broken()
    worker = DriverWorker(
        "dataplane:test",
        broken,
        ask_whole=lambda: worker.submit(attrs.evolve(profile("a"), full=True)),
        retry_min_s=60.0,
        retry_max_s=60.0,
    )
    worker.start()
    worker.submit(profile("a"))
    broken.until(lambda: broken.applies >= 1)
    threading.Event().wait(0.1)
    finish(worker)
    assert broken.updates == 1
    assert not worker.state.converged


def test_what_the_host_lacks_is_logged_once(driver: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    lacks = [Lack(capability="ipset", effect="rules with sets deny")]
    driver.script = [lambda: ApplyReport(lacks=lacks)] * 3
    worker = started(driver)
    worker.submit(profile("a"))
    for count in (1, 2):
        driver.until(lambda count=count: driver.applies >= count)  # type: ignore[misc]
        worker.poke()
    driver.until(lambda: driver.applies >= 3)
    finish(worker)
    assert [record.message for record in caplog.records].count(
        "dataplane:test: not possible on this host: ipset: rules with sets deny"
    ) == 1


def test_a_poke_before_the_first_change_applies_nothing(driver: Recorder) -> None:
    worker = started(driver)
    worker.poke()
    threading.Event().wait(0.05)
    assert driver.applies == 0
    worker.submit(profile("a"))
    driver.until(lambda: driver.applies >= 1)
    worker.poke()
    driver.until(lambda: driver.applies >= 2)
    finish(worker)


def test_the_timer_makes_the_driver_look_again(driver: Recorder) -> None:
    worker = started(driver, resync_s=0.02)
    worker.submit(profile("a"))
    driver.until(lambda: driver.applies >= 3)
    finish(worker)
    assert driver.resyncs >= 2


def test_a_driver_that_asks_for_a_check_gets_it(driver: Recorder) -> None:
    driver.script = [lambda: ApplyReport(next_check_s=0.01), ApplyReport]
    worker = started(driver)
    worker.submit(profile("a"))
    driver.until(lambda: driver.applies == 2)
    finish(worker)
