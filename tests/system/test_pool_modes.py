"""Pools of other kinds than the demo's: a tunnel always, and none at all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from calico_kernel.lab import topology
from calico_kernel.testing.lab import RunningLab, running

pytestmark = pytest.mark.node

SHAPE = """
racks: {{rack1: [a, b], rack2: [c]}}
pools:
  four: {{cidr: 10.65.0.0/16, vxlanMode: {mode}}}
  six: {{cidr: "fd00:10:65::/48", vxlanMode: {mode}}}
namespaces: {{n: {{workloads: {{x: {{node: a}}, y: {{node: b}}, z: {{node: c}}}}}}}}
"""


@pytest.fixture(params=["Always", "Never"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def lab(mode: str) -> Iterator[RunningLab]:
    with running(topology.load(SHAPE.format(mode=mode))) as started:
        yield started


def test_workloads_reach_each_other_by_the_way_that_the_pool_says(lab: RunningLab, mode: str) -> None:
    everybody = [
        (source, target, service, True)
        for source, target in itertools.permutations(["n/x", "n/y", "n/z", "outside"], 2)
        for service in ("tcp/80", "udp/53")
    ]
    assert lab.settles(everybody) == []
    way = lab.run("a", "ip", "route", "get", lab.address("n/y"))
    assert ("vxlan.calico" in way) is (mode == "Always")
    assert ("vxlan.calico" in lab.run("c", "ip", "-o", "link")) is (mode == "Always")
    mtu = {"Always": 1430, "Never": 1500}[mode]
    assert f" mtu {mtu} " in lab.run("n/x", "ip", "-o", "link", "show", "eth0")
