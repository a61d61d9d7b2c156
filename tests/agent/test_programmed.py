"""Waiting for an endpoint ends when it is enforced at the revision that was written, not before."""

from __future__ import annotations

import threading

from calico_kernel.agent.programmed import Programmed
from calico_kernel.hookspecs import EndpointObserver
from calico_kernel.model.nodestate import LocalWorkload, PolicyList, WorkloadEndpointId

WEB = WorkloadEndpointId("k8s", "default/web", "eth0")
DB = WorkloadEndpointId("k8s", "default/db", "eth0")


def workload(endpoint: WorkloadEndpointId) -> LocalWorkload:
    return LocalWorkload(id=endpoint, interface="cali1", addresses=("10.0.0.1",), policies=PolicyList())


class Seen(EndpointObserver):
    def __init__(self) -> None:
        self.events: list[tuple[str, WorkloadEndpointId]] = []

    def programmed(self, endpoint: LocalWorkload) -> None:
        self.events.append(("programmed", endpoint.id))

    def removed(self, endpoint: WorkloadEndpointId) -> None:
        self.events.append(("removed", endpoint))


def test_an_older_revision_does_not_end_the_wait() -> None:
    tracker = Programmed()
    tracker.applied([WEB], {WEB: "5"})
    assert tracker.wait(WEB, "5", 0)
    assert not tracker.wait(WEB, "6", 0.01)
    tracker.applied([WEB], {WEB: "6"})
    assert tracker.wait(WEB, "6", 0)


def test_a_later_revision_ends_the_wait_since_others_write_too() -> None:
    tracker = Programmed()
    tracker.applied([WEB], {WEB: "10"})
    assert tracker.wait(WEB, "9", 0)


def test_an_apply_that_carried_nothing_new_keeps_the_revision() -> None:
    tracker = Programmed()
    tracker.applied([WEB], {WEB: "5"})
    tracker.applied([WEB, DB], {})
    assert tracker.wait(WEB, "5", 0)


def test_an_endpoint_that_the_dataplane_lost_is_waited_for_again() -> None:
    tracker = Programmed()
    tracker.applied([WEB], {WEB: "5"})
    tracker.applied([], {})
    assert not tracker.wait(WEB, "5", 0)


def test_a_waiter_is_woken() -> None:
    tracker = Programmed()
    results: list[bool] = []
    waiter = threading.Thread(target=lambda: results.append(tracker.wait(WEB, "1", 10)))
    waiter.start()
    tracker.applied([WEB], {WEB: "1"})
    waiter.join(10)
    assert results == [True]


def test_observers_hear_of_each_endpoint_once_and_one_that_fails_harms_nobody() -> None:
    class Broken(EndpointObserver):
        def programmed(self, endpoint: LocalWorkload) -> None:
            raise RuntimeError("boom")

    seen = Seen()
    tracker = Programmed([Broken(), seen])
    tracker.workloads({WEB: workload(WEB)}, ())
    tracker.applied([WEB], {WEB: "1"})
    tracker.applied([WEB], {})
    tracker.applied([], {})
    assert seen.events == [("programmed", WEB), ("removed", WEB)]


def test_an_endpoint_carried_before_its_interface_came_is_known_by_its_revision_later() -> None:
    tracker = Programmed()
    tracker.applied([], {WEB: "5"})
    assert not tracker.wait(WEB, "5", 0)
    tracker.applied([WEB], {})
    assert tracker.wait(WEB, "5", 0)
