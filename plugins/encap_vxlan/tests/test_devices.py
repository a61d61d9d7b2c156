"""The tunnel device: made right, mended, MTU from the underlay, both families, and what happens when it cannot be."""

from __future__ import annotations

import logging
import subprocess
import threading
from typing import Any

import pytest
from pyroute2 import IPRoute

from calico_encap_vxlan.driver import VxlanDriver
from calico_encap_vxlan.settings import VxlanSettings
from calico_kernel.hookspecs import Services
from calico_kernel.host.netlink import Link, add_link, set_link
from calico_kernel.model.nodestate import (
    Delta,
    Encapsulation,
    EncapsulationNeeds,
    HostAddresses,
    MapDelta,
    Route,
    RouteKind,
    Vtep,
)
from calico_kernel.testing.encapsulation import FAR_ADDRESS, NODE, Forward, applied, config, state

pytestmark = pytest.mark.node

VXLAN = Encapsulation.VXLAN


def device(rig: Any, name: str = "vxlan.calico") -> Link:
    link: Link | None = rig.netlink.link(name)
    assert link is not None
    return link


@pytest.fixture
def driver(namespace: Any) -> Any:
    driver = namespace.driver()
    yield driver
    driver.close()


def test_the_device_is_as_an_independent_observer_expects(namespace: Any, driver: VxlanDriver) -> None:
    applied(driver, state(VXLAN))
    with IPRoute() as observer:
        index = observer.link_lookup(ifname="vxlan.calico")[0]
        link = observer.get_links(index)[0]
        data = link.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
        assert link.get_attr("IFLA_MTU") == 1450
        assert link.get_attr("IFLA_ADDRESS") == "66:00:00:00:00:01"
        assert data.get_attr("IFLA_VXLAN_ID") == 4096
        assert data.get_attr("IFLA_VXLAN_PORT") == 4789
        assert data.get_attr("IFLA_VXLAN_LEARNING") == 0
        assert data.get_attr("IFLA_VXLAN_LOCAL") == "172.30.1.11"
        (address,) = observer.get_addr(index=index, family=2)
        assert (address.get_attr("IFA_ADDRESS"), address["prefixlen"]) == ("10.65.9.1", 32)


def test_the_mtu_follows_the_underlay_unless_it_is_configured(namespace: Any, driver: VxlanDriver) -> None:
    namespace.netlink.run(set_link(namespace.eth0, mtu_bytes=9000))
    applied(driver, state(VXLAN))
    assert device(namespace).mtu_bytes == 8950
    namespace.netlink.run(set_link(namespace.eth0, mtu_bytes=1500))
    assert not driver.apply().failures
    assert device(namespace).mtu_bytes == 1450
    applied(driver, Delta(config=config(vxlan_mtu=1300)))
    assert device(namespace).mtu_bytes == 1300


def test_a_device_that_does_not_fit_is_made_anew_with_everything_on_it(namespace: Any, driver: VxlanDriver) -> None:
    applied(driver, state(VXLAN))
    applied(driver, Delta(config=config(vxlan_vni=77, vxlan_port=8472)))
    vxlan = device(namespace).vxlan
    assert vxlan is not None
    assert (vxlan.vni, vxlan.port) == (77, 8472)
    assert namespace.forward("10.65.0.130") == Forward("tunnel", FAR_ADDRESS)


def test_a_device_that_is_down_or_has_another_mac_is_mended_in_place(namespace: Any, driver: VxlanDriver) -> None:
    applied(driver, state(VXLAN))
    index = device(namespace).index
    subprocess.run(["ip", "link", "set", "vxlan.calico", "down", "address", "02:00:00:00:00:01"], check=True)
    assert not driver.apply().failures
    link = device(namespace)
    assert (link.index, link.up, link.mac) == (index, True, "66:00:00:00:00:01")
    assert namespace.forward("10.65.0.130") == Forward("tunnel", FAR_ADDRESS)


def test_a_foreign_device_of_that_name_is_left_alone_and_reported(namespace: Any, driver: VxlanDriver) -> None:
    namespace.netlink.run(add_link("vxlan.calico", "bridge"))
    driver.update(state(VXLAN))
    report = driver.apply()
    assert any("bridge" in failure.reason for failure in report.failures)
    assert device(namespace).kind == "bridge"
    driver.uninstall()
    assert device(namespace).kind == "bridge"


def test_without_an_interface_that_bears_the_node_address_the_rest_goes_on(namespace: Any, driver: VxlanDriver) -> None:
    subprocess.run(["ip", "addr", "del", "172.30.1.11/24", "dev", "eth0"], check=True)
    driver.update(state(VXLAN))
    report = driver.apply()
    assert any("172.30.1.11" in failure.reason for failure in report.failures)
    assert namespace.forward("10.65.0.9").how == "blackhole"
    subprocess.run(["ip", "addr", "add", "172.30.1.11/24", "dev", "eth0"], check=True)
    assert not driver.apply().failures
    assert namespace.forward("10.65.0.130") == Forward("tunnel", FAR_ADDRESS)


def test_what_somebody_else_breaks_is_noticed_at_once_and_mended(namespace: Any) -> None:
    asked = threading.Event()
    services = Services(node=NODE, log=logging.getLogger("test"), request_apply=asked.set)
    driver = VxlanDriver(VxlanSettings(), services)
    applied(driver, state(VXLAN))
    while asked.wait(1.5):  # until the kernel is done with the link-local addresses of new devices
        asked.clear()
        driver.apply()
    before = namespace.snapshot()
    mac = next(entry.mac for entry in namespace.netlink.fdb() if entry.destination)
    end = next(entry.address for entry in namespace.netlink.neighbours(version=4) if entry.mac == mac)
    for damage in (
        "ip route del 10.65.0.128/26",
        "ip route replace blackhole 10.65.0.128/26 proto static",
        f"ip neigh del {end} dev vxlan.calico",
        f"bridge fdb del {mac} dev vxlan.calico",
        "ip link set vxlan.calico down name vx9",
        "ip link del vxlan.calico",
    ):
        subprocess.run(damage.split(), check=True)
        assert asked.wait(10), damage
        assert not driver.apply().failures, damage
        assert namespace.forward("10.65.0.130") == Forward("tunnel", FAR_ADDRESS), damage
        assert namespace.snapshot() == before, damage
        while asked.wait(0.2):
            asked.clear()
            driver.apply()
    driver.close()


def test_ipv6_has_a_tunnel_of_its_own(namespace: Any, driver: VxlanDriver) -> None:
    def end(node: str, number: int, underlay: str) -> Vtep:
        mac = f"66:00:00:00:06:{number:02x}"
        return Vtep(node=node, address_ipv6=f"fd65::{number}", parent_ipv6=underlay, mac_ipv6=mac)

    block = Route(
        prefix="fd65:0:0:1::/122",
        kind=RouteKind.REMOTE_WORKLOAD,
        node="n3",
        node_address="fd30:2::13",
        encapsulation=VXLAN,
        block=True,
    )
    own = Route(prefix="fd65:0:0:2::/122", kind=RouteKind.LOCAL_WORKLOAD, node=NODE, encapsulation=VXLAN, block=True)
    six = Delta(
        full=True,
        config=config(),
        needs=EncapsulationNeeds(vxlan_ipv6=True),
        routes=MapDelta(upserts={block.prefix: block, own.prefix: own}),
        vteps=MapDelta(upserts={NODE: end(NODE, 1, "fd30:1::11"), "n3": end("n3", 3, "fd30:2::13")}),
        hosts=MapDelta(upserts={NODE: HostAddresses(node=NODE, ipv6="fd30:1::11", subnet_ipv6="fd30:1::11/64")}),
    )
    applied(driver, six)
    assert device(namespace, "vxlan-v6.calico").mtu_bytes == 1430
    assert namespace.forward("fd65:0:0:1::5") == Forward("tunnel", "fd30:2::13")
    assert namespace.forward("fd65:0:0:2::5").how == "blackhole"
    assert driver.apply().changes == 0
    moved = Route(
        prefix=own.prefix,
        kind=RouteKind.REMOTE_WORKLOAD,
        node="n3",
        node_address="fd30:2::13",
        encapsulation=VXLAN,
        block=True,
    )
    applied(driver, Delta(routes=MapDelta(upserts={own.prefix: moved})))
    assert namespace.forward("fd65:0:0:2::5") == Forward("tunnel", "fd30:2::13")
    applied(driver, Delta(needs=EncapsulationNeeds()))
    assert namespace.netlink.link("vxlan-v6.calico") is None
