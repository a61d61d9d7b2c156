"""This node as a namespace: ``eth0`` with 172.30.1.11/24 and fd30:1::11/64, and a default route to a router."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from calico_encap_vxlan.driver import VxlanDriver
from calico_encap_vxlan.settings import VxlanSettings
from calico_kernel.hookspecs import EncapsulationDriver, Services
from calico_kernel.host import nlwire
from calico_kernel.host.netlink import (
    InterfaceAddress,
    Netlink,
    NetlinkError,
    RouteEntry,
    add_address,
    add_route,
    add_veth,
    delete_link,
    delete_route,
    set_link,
)
from calico_kernel.model.nodestate import Encapsulation
from calico_kernel.testing.encapsulation import GATEWAY, NODE, EncapsulationRig, Forward

FOREIGN = RouteEntry("192.0.2.0/24", gateway=GATEWAY, protocol=4)


class NamespaceRig(EncapsulationRig):
    encapsulation = Encapsulation.VXLAN

    def __init__(self) -> None:
        self.netlink = Netlink()
        self.netlink.run(add_veth("eth0", "peer0", up=True))
        eth0 = self.netlink.link("eth0")
        assert eth0 is not None
        self.eth0 = eth0.index
        self.netlink.run(
            set_link(name="peer0", up=True),
            set_link(self.eth0, up=True),
            add_address(InterfaceAddress(self.eth0, "172.30.1.11", 24)),
            add_address(InterfaceAddress(self.eth0, "fd30:1::11", 64, flags=nlwire.IFA_F_NODAD)),
            add_route(RouteEntry("0.0.0.0/0", ifindex=self.eth0, gateway=GATEWAY)),
            add_route(FOREIGN._replace(ifindex=self.eth0)),
        )

    def close(self) -> None:
        self.netlink.close()

    def driver(self) -> EncapsulationDriver:
        return VxlanDriver(VxlanSettings(), Services(node=NODE, log=logging.getLogger("test")))

    def forward(self, address: str) -> Forward:
        try:
            route = self.netlink.route_to(address)
        except NetlinkError:
            return Forward("blackhole")
        link = self.netlink.link(index=route.ifindex)
        if link is None or link.kind != "vxlan":
            return Forward("other") if route.gateway in ("", GATEWAY) else Forward("direct", route.gateway)
        version = 6 if ":" in address else 4
        macs = {n.address: n.mac for n in self.netlink.neighbours(link.index, version=version)}
        ends = {entry.mac: entry.destination for entry in self.netlink.fdb(link.index)}
        return Forward("tunnel", ends[macs[route.gateway or address]])

    def snapshot(self) -> Any:
        links = {link.index: link for link in self.netlink.links() if link.name != "lo"}
        names = {index: link.name for index, link in links.items()}
        routes = [
            (names.get(route.ifindex, ""), route._replace(ifindex=0))
            for version in (4, 6)
            for route in self.netlink.routes(version=version, table=nlwire.RT_TABLE_MAIN)
            if route.protocol != nlwire.RTPROT_KERNEL
        ]
        ends = [
            (names[entry.ifindex], entry.mac, entry.destination)
            for entry in self.netlink.fdb()
            if entry.ifindex in names and entry.destination
        ]
        neighbours = [
            (names[entry.ifindex], entry.address, entry.mac)
            for entry in self.netlink.neighbours()
            if entry.ifindex in names and entry.state & nlwire.NUD_PERMANENT
        ]
        devices = [(link.name, link.kind, link.mtu_bytes, link.mac, link.vxlan) for link in links.values()]
        return sorted(devices, key=str), sorted(routes, key=str), sorted(ends), sorted(neighbours)

    def damage(self) -> None:
        device = self.netlink.link("vxlan.calico")
        assert device is not None
        own = self.netlink.routes(version=4, protocol=80)
        self.netlink.run(delete_route(next(route for route in own if route.ifindex == device.index)))
        self.netlink.run(delete_link(device.index))


@pytest.fixture
def namespace(netns: str) -> Iterator[NamespaceRig]:
    rig = NamespaceRig()
    yield rig
    rig.close()
