"""Contract kit of the routing hook.

A plugin supplies a rig: its driver in a world in which this node is ``n1`` with one peer, and a way to ask what that
peer has been told.
"""

from __future__ import annotations

import abc

import pytest

from calico_kernel.hookspecs import RoutingDriver
from calico_kernel.model.nodestate import Delta, HostAddresses, MapDelta, Route, RouteKind

NODE = "n1"
OWN_BLOCK, OTHER_BLOCK = "10.65.0.0/26", "10.65.0.64/26"
BORROWED = "10.65.0.70/32"


class RoutingRig(abc.ABC):
    @abc.abstractmethod
    def driver(self) -> RoutingDriver:
        """A new driver in the same world, as after a restart of the agent."""

    @abc.abstractmethod
    def advertised(self) -> set[str]:
        """The prefixes that the peer has from us, once things have settled."""

    @abc.abstractmethod
    def withdrawals(self) -> int:
        """How many prefixes we have taken back so far."""


def block(prefix: str, node: str) -> Route:
    own = node == NODE
    return Route(
        prefix=prefix,
        kind=RouteKind.LOCAL_WORKLOAD if own else RouteKind.REMOTE_WORKLOAD,
        node=node,
        node_address="" if own else "172.30.1.12",
        block=True,
    )


def state(*routes: Route) -> Delta:
    host = HostAddresses(node=NODE, ipv4="172.30.1.11", subnet_ipv4="172.30.1.11/24", as_number=64512)
    return Delta(
        full=True,
        routes=MapDelta(upserts={route.prefix: route for route in routes}),
        hosts=MapDelta(upserts={NODE: host}),
    )


def applied(driver: RoutingDriver, delta: Delta) -> None:
    driver.update(delta)
    report = driver.apply()
    assert not report.failures, list(report.failures)


class RoutingContract:
    """Subclass it in the plugin's tests and supply ``rig``."""

    @pytest.fixture
    def rig(self) -> RoutingRig:
        raise NotImplementedError("return a rig with this driver")

    def test_before_the_first_apply_nothing_is_advertised(self, rig: RoutingRig) -> None:
        driver = rig.driver()
        driver.update(state(block(OWN_BLOCK, NODE)))
        assert rig.advertised() == set()
        driver.close()

    def test_own_blocks_are_advertised_and_those_of_others_are_not(self, rig: RoutingRig) -> None:
        driver = rig.driver()
        applied(driver, state(block(OWN_BLOCK, NODE), block(OTHER_BLOCK, "n2")))
        assert rig.advertised() == {OWN_BLOCK}
        driver.close()

    def test_a_single_address_is_advertised_only_when_it_is_borrowed(self, rig: RoutingRig) -> None:
        borrowed = Route(prefix=BORROWED, kind=RouteKind.LOCAL_WORKLOAD, node=NODE, borrowed=True)
        own = Route(prefix="10.65.0.5/32", kind=RouteKind.LOCAL_WORKLOAD, node=NODE)
        driver = rig.driver()
        applied(driver, state(block(OWN_BLOCK, NODE), block(OTHER_BLOCK, "n2"), own, borrowed))
        assert rig.advertised() == {OWN_BLOCK, BORROWED}
        driver.close()

    def test_a_block_that_is_given_back_is_withdrawn(self, rig: RoutingRig) -> None:
        driver = rig.driver()
        applied(driver, state(block(OWN_BLOCK, NODE)))
        applied(driver, Delta(routes=MapDelta(removes=[OWN_BLOCK])))
        assert rig.advertised() == set()
        driver.close()

    def test_a_restart_withdraws_nothing(self, rig: RoutingRig) -> None:
        driver = rig.driver()
        applied(driver, state(block(OWN_BLOCK, NODE)))
        driver.close()
        before = rig.withdrawals()
        again = rig.driver()
        applied(again, state(block(OWN_BLOCK, NODE)))
        assert rig.advertised() == {OWN_BLOCK}
        assert rig.withdrawals() == before
        again.close()

    def test_peers_are_reported_with_address_and_state(self, rig: RoutingRig) -> None:
        driver = rig.driver()
        applied(driver, state(block(OWN_BLOCK, NODE)))
        peers = driver.peers()
        assert peers
        assert all(peer["address"] and peer["state"] for peer in peers)
        driver.close()

    def test_uninstall_takes_everything_back(self, rig: RoutingRig) -> None:
        driver = rig.driver()
        applied(driver, state(block(OWN_BLOCK, NODE)))
        driver.close()
        rig.driver().uninstall()
        assert rig.advertised() == set()
