"""A few pods that policies are about, and who of them gets through to whom."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import attrs

from tests.e2e import workloads
from tests.e2e.cluster import Cluster
from tests.e2e.workloads import ADMIN_PORT, PORT, namespace, pod, service_account

WEB, API, DESK, GUEST = "shop/web", "shop/api", "office/desk", "office/guest"
PLACES = {WEB: "node1", API: "node2", DESK: "node1", GUEST: "node2"}
ACCOUNTS = {WEB: "shopper", API: "keeper", DESK: "clerk", GUEST: "default"}
PORTS = (PORT, ADMIN_PORT)

Way = tuple[str, str, int]
"""From whom, to whom, at which port."""


@attrs.frozen
class People:
    cluster: Cluster
    pods: Mapping[str, Mapping[str, Any]]

    @classmethod
    def arrive(cls, cluster: Cluster) -> People:
        cluster.apply(namespace("shop", team="sales"), namespace("office", team="staff"))
        cluster.apply(*(service_account(ACCOUNTS[who], who.split("/")[0]) for who in (WEB, API, DESK)))
        for who, node in PLACES.items():
            where, name = who.split("/")
            cluster.apply(pod(name, where, node, {"app": name}, account=ACCOUNTS[who]))
        found = [*cluster.running("shop", 2), *cluster.running("office", 2)]
        return cls(cluster, {f"{one['metadata']['namespace']}/{one['metadata']['name']}": one for one in found})

    def address(self, who: str) -> str:
        return str(self.pods[who]["status"]["podIP"])

    def gets_through(self, way: Way) -> bool:
        here, there, port = way
        return workloads.fetches(self.cluster.netns_of(self.pods[here]), self.address(there), port, 0.5)

    def open_ways(self) -> set[Way]:
        """Every way that a real connection takes."""
        ways = [(here, there, port) for here, there, port in product(PLACES, PLACES, PORTS) if here != there]
        with ThreadPoolExecutor(len(ways)) as pool:
            return {way for way, through in zip(ways, pool.map(self.gets_through, ways), strict=True) if through}

    def expect(self, is_open: Callable[[str, str, int], bool], within_s: float = 15.0) -> None:
        """Exactly these ways are open: soon, and then still a moment later."""
        wanted = {(a, b, port) for a, b, port in product(PLACES, PLACES, PORTS) if a != b and is_open(a, b, port)}
        deadline = time.monotonic() + within_s
        while (found := self.open_ways()) != wanted:
            if time.monotonic() > deadline:
                too_much, missing = sorted(found - wanted), sorted(wanted - found)
                raise AssertionError(f"open but should not be: {too_much}; closed but should not be: {missing}")


def everything(_here: str, _there: str, _port: int) -> bool:
    return True
