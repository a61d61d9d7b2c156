"""What fails half-way leaves nothing: each step of ADD broken in turn, the agent killed in between, many at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from calico_cni import wiring
from calico_kernel.errors import DatastoreUnavailable, RevisionConflict
from calico_kernel.host import netns as namespaces
from calico_kernel.host.netlink import Netlink, RouteEntry, add_link, add_route, add_veth, set_link
from calico_kernel.model.endpoints import WorkloadEndpoint
from calico_kernel.model.keys import ResourceKey

pytestmark = pytest.mark.node


class Killed(BaseException):
    """The agent's process ends here: nothing after this point runs, no undoing either."""


STEPS = ["assign", "connect", "create", "await"]


def _break(node: Any, step: str, how: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do the step, then fail."""

    def after(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            original(*args, **more)
            return how()

        return call

    if step == "assign":
        monkeypatch.setattr(node.ipam, "assign", after(node.ipam.assign))
    elif step == "connect":
        monkeypatch.setattr(wiring, "connect", after(wiring.connect))
    elif step == "create":
        original = node.store.create

        def create(key: Any, value: Any) -> Any:
            made = original(key, value)
            if isinstance(value, WorkloadEndpoint):
                how()
            return made

        monkeypatch.setattr(node.store, "create", create)
    else:
        node.admit = lambda endpoint: endpoint
        node.programmed = False


@pytest.mark.parametrize("step", STEPS)
def test_agent_killed_after_a_step_then_del_leaves_nothing(
    node: Any, workload: Callable[[], str], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = workload()
    _killed_add(node, name, step, monkeypatch)
    assert node.run("DEL", "c1", name).status == 0
    assert node.nothing_left()


@pytest.mark.parametrize("step", STEPS)
def test_agent_killed_after_a_step_then_the_same_add_completes(
    node: Any, workload: Callable[[], str], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = workload()
    _killed_add(node, name, step, monkeypatch)
    said = node.add("c1", name).said
    assert len(node.endpoints()) == len(node.links()) == len(node.ipam.handles()) == 1
    assert node.run("CHECK", "c1", name, conf=node.conf(prevResult=said)).status == 0
    assert node.run("DEL", "c1", name).status == 0
    assert node.nothing_left()


def _killed_add(node: Any, name: str, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ADD in process, cut off after ``step`` with no undoing, as kill -9 does."""

    def kill() -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("calico_cni.verbs.Undo.run", lambda self: None)
        _break(node, step, kill, patch)
        environment = {
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": "c1",
            "CNI_IFNAME": "eth0",
            "CNI_NETNS": namespaces.path_of(name),
        }
        if step == "await":
            node.service.handle({"env": environment, "config": json.dumps(node.conf())})
        else:
            with pytest.raises(Killed):
                node.service.handle({"env": environment, "config": json.dumps(node.conf())})
    node.programmed = True


@pytest.mark.parametrize("step", ["connect", "await"])
def test_a_step_that_fails_is_undone_at_once(
    node: Any, workload: Callable[[], str], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise DatastoreUnavailable(what="the disk is full", todo="make room")

    name = workload()
    with monkeypatch.context() as patch:
        _break(node, step, fail, patch)
        answer = node.run("ADD", "c1", name)
    assert (answer.status, answer.said["code"]) == (1, 11)
    if step == "connect":  # the broken step had made the interface without telling: the next ADD or DEL clears it
        node.run("DEL", "c1", name)
    assert node.nothing_left()


def test_an_interface_of_that_name_in_the_container_is_left_alone(node: Any, workload: Callable[[], str]) -> None:
    name = workload()
    with Netlink(name) as inside:
        inside.run(add_veth("eth0", "other0"))
    answer = node.run("ADD", "c1", name)
    assert (answer.status, answer.said["code"]) == (1, 102)
    assert node.nothing_left()
    with Netlink(name) as inside:
        assert inside.link("eth0") is not None


def test_a_device_that_is_not_ours_is_not_replaced(node: Any, workload: Callable[[], str]) -> None:
    with Netlink() as host:
        host.run(add_link("calic1", "bridge"))
    answer = node.run("ADD", "c1", workload())
    assert (answer.status, answer.said["code"]) == (1, 102)
    assert "bridge" in answer.said["msg"]
    assert node.links() == {"calic1"}
    assert not node.endpoints() and not node.ipam.handles()


def test_an_address_that_is_routed_elsewhere_is_refused_by_name(node: Any, workload: Callable[[], str]) -> None:
    with Netlink() as host:
        host.run(add_veth("old0", "old1", up=True), set_link(name="old1", up=True))
        link = host.link("old0")
        assert link is not None
        host.run(add_route(RouteEntry("10.65.0.0/32", link.index, scope=253)))
    answer = node.run("ADD", "c1", workload())
    assert (answer.status, answer.said["code"]) == (1, 102)
    assert "old0" in answer.said["msg"]
    assert node.links() == {"old0", "old1"}


def test_endpoint_written_by_another_meanwhile_is_read_again(
    node: Any, workload: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = workload()
    node.add("c1", name)
    namespaces.delete(name)
    fails = iter([True, True, False])
    original = node.store.delete

    def delete(key: Any, *, revision: str | None = None) -> Any:
        if isinstance(key, ResourceKey) and next(fails):
            raise RevisionConflict(what="somebody was faster", todo="read again")
        return original(key, revision=revision)

    monkeypatch.setattr(node.store, "delete", delete)
    assert node.run("DEL", "c1", name).status == 0
    assert node.nothing_left()


def test_many_adds_and_dels_at_once_keep_apart(node: Any, workload: Callable[[], str]) -> None:
    names = [workload() for _ in range(16)]

    def one(number: int) -> str:
        answer = node.run("ADD", f"c{number}", names[number])
        assert answer.status == 0, answer.said
        return str(answer.addresses[0])

    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(one, range(16)))
        assert len(set(given)) == 16
        done = list(pool.map(lambda number: node.run("DEL", f"c{number}", names[number]).status, range(16)))
    assert done == [0] * 16
    assert node.nothing_left()


def test_add_and_del_of_one_container_at_once_leave_all_or_nothing(node: Any, workload: Callable[[], str]) -> None:
    name = workload()
    for _ in range(3):
        threads = [threading.Thread(target=node.run, args=(verb, "c1", name)) for verb in ("ADD", "DEL", "ADD", "DEL")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counts = {len(node.endpoints()), len(node.links()), len(node.ipam.handles())}
        assert counts in ({0}, {1})
    assert node.run("DEL", "c1", name).status == 0
    assert node.nothing_left()
