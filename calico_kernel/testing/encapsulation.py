"""Contract kit of the encapsulation hook.

A plugin supplies a rig: its driver in a world (a network namespace, or one in memory) in which this node is ``n1`` with
172.30.1.11/24, and a way to ask where the world would forward a packet.
"""

from __future__ import annotations

import abc
from typing import Any

import attrs
import pytest

from calico_kernel.hookspecs import EncapsulationDriver
from calico_kernel.model.nodestate import (
    Delta,
    Encapsulation,
    EncapsulationNeeds,
    HostAddresses,
    MapDelta,
    ResolvedConfig,
    Route,
    RouteKind,
    Vtep,
)

NODE, NEAR, FAR = "n1", "n2", "n3"
SUBNET = "172.30.1.11/24"
NEAR_ADDRESS, FAR_ADDRESS = "172.30.1.12", "172.30.2.13"
GATEWAY = "172.30.1.1"
OWN_BLOCK, NEAR_BLOCK, FAR_BLOCK = "10.65.0.0/26", "10.65.0.64/26", "10.65.0.128/26"
MODES = {Encapsulation.VXLAN: "vxlan", Encapsulation.IPIP: "ipip", Encapsulation.NONE: "none"}


@attrs.frozen
class Forward:
    """How a packet leaves. how: "tunnel", "direct", "blackhole", "other" (not by this driver). to: underlay address."""

    how: str
    to: str = ""


class EncapsulationRig(abc.ABC):
    """One world. ``encapsulation``: the tunnel that the driver serves. The default route goes to ``GATEWAY``."""

    encapsulation: Encapsulation

    @abc.abstractmethod
    def driver(self) -> EncapsulationDriver:
        """A new driver in the same world, as after a restart of the agent."""

    @abc.abstractmethod
    def forward(self, address: str) -> Forward: ...

    @abc.abstractmethod
    def snapshot(self) -> Any:
        """Everything in the world that a driver could have changed, comparable."""

    @abc.abstractmethod
    def damage(self) -> None:
        """Take away part of what the driver made, as a careless person would."""


def config(**values: Any) -> ResolvedConfig:
    """The part of FelixConfiguration that concerns tunnels, at its defaults but for ``values``."""
    defaults = {"vxlan_vni": 4096, "vxlan_port": 4789, "vxlan_mtu": 0, "vxlan_mtu_v6": 0, "ipip_mtu": 0}
    return ResolvedConfig(values={**defaults, **values})


def route(prefix: str, node: str, address: str, **changes: Any) -> Route:
    own = node == NODE
    return Route(
        prefix=prefix,
        kind=RouteKind.LOCAL_WORKLOAD if own else RouteKind.REMOTE_WORKLOAD,
        node=node,
        node_address="" if own else address,
        block=True,
        **changes,
    )


def vtep(node: str, number: int, parent: str) -> Vtep:
    return Vtep(
        node=node, address_ipv4=f"10.65.9.{number}", parent_ipv4=parent, mac_ipv4=f"66:00:00:00:00:{number:02x}"
    )


def state(encapsulation: Encapsulation, *, cross_subnet: bool = False, without_vtep: str = "") -> Delta:
    """Three nodes, a block each; n2 on our subnet, n3 behind the router."""
    common = {"encapsulation": encapsulation, "cross_subnet": cross_subnet}
    routes = [
        route(OWN_BLOCK, NODE, "", **common),
        route(NEAR_BLOCK, NEAR, NEAR_ADDRESS, same_subnet=cross_subnet, **common),
        route(FAR_BLOCK, FAR, FAR_ADDRESS, **common),
    ]
    vteps = [vtep(NODE, 1, "172.30.1.11"), vtep(NEAR, 2, NEAR_ADDRESS), vtep(FAR, 3, FAR_ADDRESS)]
    hosts = [
        HostAddresses(node=NODE, ipv4="172.30.1.11", subnet_ipv4=SUBNET),
        HostAddresses(node=NEAR, ipv4=NEAR_ADDRESS, subnet_ipv4=f"{NEAR_ADDRESS}/24"),
        HostAddresses(node=FAR, ipv4=FAR_ADDRESS, subnet_ipv4=f"{FAR_ADDRESS}/24"),
    ]
    tunnelled = encapsulation is not Encapsulation.NONE
    return Delta(
        full=True,
        config=config(),
        needs=EncapsulationNeeds(
            vxlan_ipv4=encapsulation is Encapsulation.VXLAN,
            ipip=encapsulation is Encapsulation.IPIP,
            none=not tunnelled,
        ),
        routes=MapDelta(upserts={one.prefix: one for one in routes}),
        vteps=MapDelta(upserts={one.node: one for one in vteps if tunnelled and one.node != without_vtep}),
        hosts=MapDelta(upserts={one.node: one for one in hosts}),
    )


def applied(driver: EncapsulationDriver, delta: Delta) -> int:
    """Apply a delta until it converges; returns the writes that it took."""
    driver.update(delta)
    changes = 0
    for _ in range(3):
        report = driver.apply()
        changes += report.changes
        if not report.failures:
            return changes
    raise AssertionError(list(report.failures))


class EncapsulationContract:
    """Subclass it in the plugin's tests and supply ``rig``."""

    @pytest.fixture
    def rig(self) -> EncapsulationRig:
        raise NotImplementedError("return a rig with this driver")

    def test_before_the_first_apply_the_host_is_untouched(self, rig: EncapsulationRig) -> None:
        before = rig.snapshot()
        driver = rig.driver()
        driver.update(state(rig.encapsulation))
        assert rig.snapshot() == before
        driver.close()

    def test_an_encapsulating_pool_sends_every_remote_block_through_the_tunnel(self, rig: EncapsulationRig) -> None:
        driver = rig.driver()
        applied(driver, state(rig.encapsulation))
        assert rig.forward("10.65.0.70") == Forward("tunnel", NEAR_ADDRESS)
        assert rig.forward("10.65.0.130") == Forward("tunnel", FAR_ADDRESS)
        driver.close()

    def test_cross_subnet_uses_the_tunnel_only_where_a_router_is_between(self, rig: EncapsulationRig) -> None:
        driver = rig.driver()
        applied(driver, state(rig.encapsulation, cross_subnet=True))
        assert rig.forward("10.65.0.70") == Forward("direct", NEAR_ADDRESS)
        assert rig.forward("10.65.0.130") == Forward("tunnel", FAR_ADDRESS)
        driver.close()

    def test_an_address_of_an_own_block_without_workload_does_not_leave_the_node(self, rig: EncapsulationRig) -> None:
        driver = rig.driver()
        applied(driver, state(rig.encapsulation))
        assert rig.forward("10.65.0.9").how == "blackhole"
        driver.close()

    def test_a_node_without_tunnel_end_gets_no_route_and_comes_in_when_it_has_one(self, rig: EncapsulationRig) -> None:
        driver = rig.driver()
        applied(driver, state(rig.encapsulation, without_vtep=FAR))
        assert rig.forward("10.65.0.130").how == "other"
        applied(driver, Delta(vteps=MapDelta(upserts={FAR: vtep(FAR, 3, FAR_ADDRESS)})))
        assert rig.forward("10.65.0.130") == Forward("tunnel", FAR_ADDRESS)
        driver.close()

    def test_a_block_that_moves_is_followed(self, rig: EncapsulationRig) -> None:
        driver = rig.driver()
        applied(driver, state(rig.encapsulation))
        moved = route(FAR_BLOCK, NEAR, NEAR_ADDRESS, encapsulation=rig.encapsulation)
        applied(driver, Delta(routes=MapDelta(upserts={FAR_BLOCK: moved})))
        assert rig.forward("10.65.0.130") == Forward("tunnel", NEAR_ADDRESS)
        driver.close()

    def test_a_remote_block_that_becomes_ours_stops_leaving(self, rig: EncapsulationRig) -> None:
        driver = rig.driver()
        applied(driver, state(rig.encapsulation))
        ours = route(FAR_BLOCK, NODE, "", encapsulation=rig.encapsulation)
        applied(driver, Delta(routes=MapDelta(upserts={FAR_BLOCK: ours})))
        assert rig.forward("10.65.0.130").how == "blackhole"
        driver.close()

    def test_a_node_that_leaves_takes_its_routes_with_it(self, rig: EncapsulationRig) -> None:
        driver = rig.driver()
        applied(driver, state(rig.encapsulation))
        applied(driver, Delta(routes=MapDelta(removes=[FAR_BLOCK]), vteps=MapDelta(removes=[FAR])))
        assert rig.forward("10.65.0.130").how == "other"
        assert rig.forward("10.65.0.70") == Forward("tunnel", NEAR_ADDRESS)
        driver.close()

    def test_applying_again_and_after_a_restart_changes_nothing(self, rig: EncapsulationRig) -> None:
        driver = rig.driver()
        applied(driver, state(rig.encapsulation))
        made = rig.snapshot()
        assert driver.apply().changes == 0
        driver.close()
        again = rig.driver()
        assert applied(again, state(rig.encapsulation)) == 0
        assert rig.snapshot() == made
        again.close()

    def test_what_others_take_away_is_put_back(self, rig: EncapsulationRig) -> None:
        driver = rig.driver()
        applied(driver, state(rig.encapsulation))
        made = rig.snapshot()
        rig.damage()
        assert rig.snapshot() != made
        driver.resync()
        assert not driver.apply().failures
        assert rig.forward("10.65.0.130") == Forward("tunnel", FAR_ADDRESS)
        assert rig.snapshot() == made
        driver.close()

    def test_when_no_pool_needs_it_nothing_of_it_is_left(self, rig: EncapsulationRig) -> None:
        before = rig.snapshot()
        driver = rig.driver()
        applied(driver, state(rig.encapsulation))
        applied(driver, Delta(full=True, config=config(), needs=EncapsulationNeeds()))
        assert rig.snapshot() == before
        driver.close()

    def test_uninstall_leaves_the_host_as_it_was(self, rig: EncapsulationRig) -> None:
        before = rig.snapshot()
        rig.driver().uninstall()
        assert rig.snapshot() == before
        driver = rig.driver()
        applied(driver, state(rig.encapsulation, cross_subnet=True))
        driver.close()
        rig.driver().uninstall()
        assert rig.snapshot() == before

    def test_the_overhead_is_stated_for_both_families(self, rig: EncapsulationRig) -> None:
        driver = rig.driver()
        assert MODES[rig.encapsulation] in driver.modes
        assert 0 < driver.overhead_bytes(4) <= driver.overhead_bytes(6) < 200
        driver.close()
