"""The loop coalesces what waits, contains records that break the calculation, and starts over when it broke itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import pytest

from calico_kernel.agent import loop as loops
from calico_kernel.agent.feed import Batch, Change
from calico_kernel.agent.loop import CalcLoop
from calico_kernel.agent.programmed import Programmed
from calico_kernel.calc import Calculator
from calico_kernel.model.endpoints import WorkloadEndpoint, WorkloadEndpointSpec
from calico_kernel.model.keys import Key, ResourceKey
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.nodestate import Delta, WorkloadEndpointId

NODE = "n1"
WAIT_S = 10.0


def endpoint(pod: str, address: str = "10.0.0.1") -> Change:
    name = f"{NODE}-k8s-{pod}-eth0"
    value = WorkloadEndpoint(
        metadata=ObjectMeta(name=name, namespace="default"),
        spec=WorkloadEndpointSpec(
            orchestrator="k8s",
            node=NODE,
            pod=pod,
            endpoint="eth0",
            ip_networks=(f"{address}/32",),
            interface_name=f"cali{pod}",
        ),
    )
    return Change(ResourceKey("WorkloadEndpoint", "default", name), value, "7")


class Fragile(Calculator):
    """Breaks on the keys in ``poison``, and at the flushes counted by ``broken_flushes``."""

    poison: ClassVar[set[Key]] = set()
    broken_flushes = 0

    def update(self, events: Iterable[Any]) -> None:
        def checked() -> Iterator[Any]:
            for key, value in events:
                if key in self.poison and value is not None:
                    raise ZeroDivisionError
                yield key, value

        super().update(checked())

    def flush(self) -> Delta | None:
        if Fragile.broken_flushes:
            Fragile.broken_flushes -= 1
            raise ZeroDivisionError
        return super().flush()


class Seen:
    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.pods: dict[WorkloadEndpointId, Any] = {}
        self.changed = threading.Condition()

    def saw(self, delta: Delta) -> None:
        with self.changed:
            if delta.full:
                self.pods = {}
            self.deltas.append(delta)
            self.pods.update(delta.workloads.upserts)
            for gone in delta.workloads.removes:
                self.pods.pop(gone, None)
            self.changed.notify_all()

    def names(self) -> set[str]:
        return {key.workload for key in self.pods}

    def until(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, WAIT_S), self.names()


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def loop(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> Iterator[CalcLoop]:
    monkeypatch.setattr(loops, "START_OVER_S", 0.01)
    monkeypatch.setattr(Fragile, "poison", set())
    monkeypatch.setattr(Fragile, "broken_flushes", 0)
    loop = CalcLoop(lambda: Fragile(NODE), NODE, [], Programmed(), [seen.saw])
    loop.start()
    yield loop
    loop.stop()
    loop.join(WAIT_S)
    assert not loop.is_alive()


def test_nothing_comes_out_before_in_sync_and_the_first_delta_is_whole(loop: CalcLoop, seen: Seen) -> None:
    loop.sink(Batch([endpoint("a")]))
    loop.sink(Batch([endpoint("b", "10.0.0.2")], in_sync=True))
    seen.until(lambda: seen.names() == {"default/a", "default/b"})
    assert [delta.full for delta in seen.deltas] == [True]


def test_a_record_that_breaks_the_calculation_counts_as_absent(loop: CalcLoop, seen: Seen) -> None:
    bad = endpoint("bad")
    Fragile.poison = {bad.key}
    loop.sink(Batch([endpoint("a"), bad, endpoint("b", "10.0.0.2")], in_sync=True))
    seen.until(lambda: seen.names() == {"default/a", "default/b"})


def test_a_calculation_that_broke_is_made_anew_and_told_everything(loop: CalcLoop, seen: Seen) -> None:
    loop.start_over = lambda: loop.sink(Batch([endpoint("a"), endpoint("b", "10.0.0.2")], in_sync=True))
    loop.sink(Batch([endpoint("a")], in_sync=True))
    seen.until(lambda: seen.names() == {"default/a"})
    Fragile.broken_flushes = 1
    loop.sink(Batch([endpoint("b", "10.0.0.2")]))
    seen.until(lambda: seen.names() == {"default/a", "default/b"})
    assert seen.deltas[-1].full


def test_asked_for_the_whole_it_sends_the_whole(loop: CalcLoop, seen: Seen) -> None:
    loop.sink(Batch([endpoint("a")], in_sync=True))
    seen.until(lambda: len(seen.deltas) == 1)
    loop.ask_whole()
    seen.until(lambda: len(seen.deltas) == 2)
    assert seen.deltas[1].full
    assert seen.names() == {"default/a"}
