"""Workloads as network namespaces on a node that is the test's own namespace, and probes between them."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import pytest

from calico_dp_iptables.driver import IptablesDataplane
from calico_dp_iptables.settings import Settings
from calico_kernel.hookspecs import ApplyReport, Services
from calico_kernel.host import bubble, netlink, sysctl
from calico_kernel.host import netns as namespaces
from calico_kernel.model import nodestate as ns

BACKENDS = ("legacy", "nft")
NODAD = 0x02


@attrs.define
class Pod:
    """A workload: ``namespace`` holds its end of the pair, ``interface`` is the node's."""

    number: int
    namespace: str
    interface: str
    ipv4: str
    ipv6: str

    def endpoint(self, policies: ns.PolicyList, **more: Any) -> ns.LocalWorkload:
        return ns.LocalWorkload(
            id=self.id, interface=self.interface, addresses=(self.ipv4, self.ipv6), policies=policies, **more
        )

    @property
    def id(self) -> ns.WorkloadEndpointId:
        return ns.WorkloadEndpointId("k8s", f"default/pod-{self.number}", "eth0")

    def serve(self, port: int, *, version: int = 4) -> socket.socket:
        """A UDP socket bound in the workload."""
        family = socket.AF_INET if version == 4 else socket.AF_INET6

        def make() -> socket.socket:
            sock = socket.socket(family, socket.SOCK_DGRAM)
            sock.bind((self.ipv4 if version == 4 else self.ipv6, port))
            sock.settimeout(0.25)
            return sock

        return namespaces.run_in(self.namespace, make)


@attrs.define
class World:
    """The node (the test's namespace) with its workloads."""

    name: str
    pods: list[Pod]
    _ports: int = 20000

    def reaches(self, source: Pod, target: Pod, port: int = 8080, *, version: int = 4, from_address: str = "") -> bool:
        """Does a datagram of a new flow arrive?"""
        self._ports += 1
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        address = target.ipv4 if version == 4 else target.ipv6
        own = from_address or (source.ipv4 if version == 4 else source.ipv6)
        server = target.serve(port, version=version)

        def send() -> None:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.bind((own, self._ports))
                sock.sendto(b"probe", (address, port))

        try:
            try:
                namespaces.run_in(source.namespace, send)
            except PermissionError:
                return False
            return server.recvfrom(100)[1][1] == self._ports
        except TimeoutError:
            return False
        finally:
            server.close()


def _make_pod(nl: netlink.Netlink, world: str, number: int) -> Pod:
    namespace = f"{world}-p{number}"
    pod = Pod(number, namespace, f"cali{number:03d}", f"10.65.0.{number + 10}", f"fd65::{number + 10:x}")
    namespaces.create(namespace)
    fd = namespaces.open_fd(namespace)
    try:
        nl.run(netlink.add_veth(pod.interface, "eth0", peer_netns_fd=fd, up=True))
    finally:
        os.close(fd)
    link = nl.link(pod.interface)
    assert link is not None
    for key, value in (
        (f"net/ipv4/conf/{pod.interface}/proxy_arp", "1"),
        (f"net/ipv4/neigh/{pod.interface}/proxy_delay", "0"),
        (f"net/ipv6/conf/{pod.interface}/proxy_ndp", "1"),
        (f"net/ipv6/conf/{pod.interface}/forwarding", "1"),
    ):
        sysctl.write(key, value)

    def inside() -> None:
        bubble.loopback_up()
        sysctl.write("net/ipv6/conf/eth0/accept_dad", "0")
        with netlink.Netlink() as inner:
            own = inner.link("eth0")
            assert own is not None
            inner.run(netlink.set_link(own.index, up=True))
            inner.run(netlink.add_address(netlink.InterfaceAddress(own.index, pod.ipv4, 32)))
            inner.run(netlink.add_address(netlink.InterfaceAddress(own.index, pod.ipv6, 128, flags=NODAD)))
            inner.run(netlink.replace_neighbour(netlink.Neighbour(own.index, "169.254.1.1", link.mac)))
            inner.run(netlink.replace_neighbour(netlink.Neighbour(own.index, "fe80::1", link.mac)))
            inner.run(netlink.replace_route(netlink.RouteEntry("169.254.1.1/32", ifindex=own.index, scope=253)))
            inner.run(netlink.replace_route(netlink.RouteEntry("0.0.0.0/0", ifindex=own.index, gateway="169.254.1.1")))
            inner.run(netlink.replace_route(netlink.RouteEntry("::/0", ifindex=own.index, gateway="fe80::1")))

    namespaces.run_in(namespace, inside)
    nl.run(netlink.replace_route(netlink.RouteEntry(f"{pod.ipv4}/32", ifindex=link.index, scope=253)))
    nl.run(netlink.replace_route(netlink.RouteEntry(f"{pod.ipv6}/128", ifindex=link.index)))
    mac = namespaces.run_in(namespace, _own_mac)
    nl.run(netlink.replace_neighbour(netlink.Neighbour(link.index, pod.ipv6, mac)))
    return pod


def _own_mac() -> str:
    with netlink.Netlink() as inner:
        own = inner.link("eth0")
        assert own is not None
        return own.mac


def _knows(address: str, mac: str) -> None:
    with netlink.Netlink() as nl:
        link = nl.link("eth0")
        assert link is not None
        nl.run(netlink.replace_neighbour(netlink.Neighbour(link.index, address, mac)))


@pytest.fixture
def world(netns: str) -> Iterator[World]:
    """Three workloads on a forwarding node."""
    sysctl.write("net/ipv4/ip_forward", "1")
    sysctl.write("net/ipv6/conf/all/forwarding", "1")
    pods: list[Pod] = []
    try:
        with netlink.Netlink() as nl:
            for number in range(3):
                pods.append(_make_pod(nl, netns, number))
        yield World(netns, pods)
    finally:
        for pod in pods:
            namespaces.delete(pod.namespace)


@attrs.define
class Outside(Pod):
    """A machine at the far end of the node's uplink."""

    node_ipv4: str
    node_ipv6: str


@pytest.fixture
def outside(netns: str) -> Iterator[Outside]:
    """Reaches the node and, through it, the workloads."""
    name = f"{netns}-out"
    there = Outside(900, name, "up0", "172.30.1.2", "fd30::2", "172.30.1.1", "fd30::1")
    namespaces.create(name)
    fd = namespaces.open_fd(name)

    def addresses(nl: netlink.Netlink, interface: str, *own: tuple[str, int]) -> int:
        link = nl.link(interface)
        assert link is not None
        nl.run(netlink.set_link(link.index, up=True))
        for address, length in own:
            nl.run(netlink.add_address(netlink.InterfaceAddress(link.index, address, length, flags=NODAD)))
        return link.index

    def inside() -> None:
        bubble.loopback_up()
        with netlink.Netlink() as nl:
            index = addresses(nl, "eth0", (there.ipv4, 24), (there.ipv6, 64))
            nl.run(netlink.replace_route(netlink.RouteEntry("0.0.0.0/0", index, there.node_ipv4)))
            nl.run(netlink.replace_route(netlink.RouteEntry("::/0", index, there.node_ipv6)))

    try:
        with netlink.Netlink() as nl:
            nl.run(netlink.add_veth("up0", "eth0", peer_netns_fd=fd, up=True))
            addresses(nl, "up0", (there.node_ipv4, 24), (there.node_ipv6, 64))
            namespaces.run_in(name, inside)
            own, far = nl.link("up0"), namespaces.run_in(name, _own_mac)
            assert own is not None
            # Neighbours are known, so that tests of host policy are not about ICMPv6.
            nl.run(netlink.replace_neighbour(netlink.Neighbour(own.index, there.ipv6, far)))
            namespaces.run_in(name, lambda: _knows(there.node_ipv6, own.mac))
        yield there
    finally:
        os.close(fd)
        namespaces.delete(name)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def asked() -> threading.Event:
    """Set when the driver asks for an apply."""
    return threading.Event()


@pytest.fixture
def services(asked: threading.Event) -> Services:
    return Services(node="node-1", log=logging.getLogger("test"), request_apply=asked.set)


@pytest.fixture
def make_dataplane(services: Services, backend: str) -> Iterator[Callable[..., IptablesDataplane]]:
    """A driver of the back end under test; closed at the end."""
    made: list[IptablesDataplane] = []

    def make(**settings: Any) -> IptablesDataplane:
        made.append(IptablesDataplane(Settings(backend=backend, **settings), services))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for driver in made:
        driver.close()


def policy_list(*ingress: ns.PolicyId, egress: tuple[ns.PolicyId, ...] = (), profiles: tuple[str, ...] = ()) -> Any:
    tier = ns.TierPolicies(name="default", default_action="Deny", ingress=ingress, egress=egress)
    return ns.PolicyList(tiers=(tier,) if ingress or egress else (), profiles=profiles)


ALLOW_ALL = ns.ActiveProfile(
    name="allow", inbound=(ns.ParsedRule(action="allow"),), outbound=(ns.ParsedRule(action="allow"),)
)


def full(**maps: Mapping[Any, Any]) -> ns.Delta:
    """A whole state with the allowing profile in it."""
    maps.setdefault("profiles", {"allow": ALLOW_ALL})
    return ns.Delta(full=True, **{name: ns.MapDelta(upserts=value) for name, value in maps.items()})


@pytest.fixture
def kit() -> Any:
    """Builders of states, by attribute."""

    class Kit:
        policy_list = staticmethod(policy_list)
        full = staticmethod(full)

        @staticmethod
        def applied(driver: IptablesDataplane, delta: ns.Delta) -> ApplyReport:
            driver.update(delta)
            report = driver.apply()
            assert not report.failures
            return report

        @staticmethod
        def tool(*argv: str, given: str = "") -> str:
            """Run a program; its output."""
            done = subprocess.run(argv, input=given, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout

        @staticmethod
        def add_address(pod: Pod, address: str, length: int) -> None:
            """One more address of the workload, of which its endpoint does not tell."""

            def give() -> None:
                with netlink.Netlink() as nl:
                    link = nl.link("eth0")
                    assert link is not None
                    nl.run(netlink.add_address(netlink.InterfaceAddress(link.index, address, length, flags=NODAD)))

            namespaces.run_in(pod.namespace, give)

        @staticmethod
        def rules(backend: str, version: int = 4) -> list[str]:
            """Everything in the tables but comments and counters."""
            program = f"{'iptables' if version == 4 else 'ip6tables'}-{backend}-save"
            text = Kit.tool(program)
            return [line.split(" [")[0] for line in text.splitlines() if not line.startswith("#")]

    return Kit
