"""The host side of workloads: routes and sysctls of their interfaces, and flows of addresses that went."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from calico_kernel.host import netlink, sysctl
from calico_kernel.model import nodestate as ns

pytestmark = pytest.mark.node


def routes_through(name: str) -> set[str]:
    with netlink.Netlink() as nl:
        link = nl.link(name)
        assert link is not None
        found = [*nl.routes(version=4, ifindex=link.index), *nl.routes(version=6, ifindex=link.index)]
    return {route.prefix for route in found if not route.prefix.startswith("fe80:")}


@pytest.fixture
def backend() -> str:
    """Routes and flows are the same with either."""
    return "legacy"


@pytest.fixture
def driver(make_dataplane: Callable[..., Any]) -> Any:
    return make_dataplane()


def settle(driver: Any, asked: threading.Event) -> None:
    assert asked.wait(5.0)
    while True:
        asked.clear()
        assert not driver.apply().failures
        if not asked.wait(0.4):
            return


def test_routes_and_settings_are_made_and_mended(world: Any, driver: Any, kit: Any) -> None:
    pod = world.pods[0]
    wanted = {f"{pod.ipv4}/32", f"{pod.ipv6}/128"}
    with netlink.Netlink() as nl:
        for prefix in wanted:
            nl.run(netlink.delete_route(netlink.RouteEntry(prefix, protocol=0, scope=255)))
    sysctl.write(f"net/ipv4/conf/{pod.interface}/proxy_arp", 0)
    assert not routes_through(pod.interface)
    listed = kit.policy_list(profiles=("allow",))
    kit.applied(driver, kit.full(workloads={pod.id: pod.endpoint(listed)}))
    assert routes_through(pod.interface) == wanted
    assert sysctl.read(f"net/ipv4/conf/{pod.interface}/proxy_arp") == "1"
    with netlink.Netlink() as nl:
        nl.run(netlink.delete_route(netlink.RouteEntry(f"{pod.ipv4}/32", protocol=0, scope=255)))
    driver.resync()
    assert not driver.apply().failures
    assert routes_through(pod.interface) == wanted


def test_interface_that_appears_later_gets_its_routes(
    netns: str, driver: Any, kit: Any, asked: threading.Event
) -> None:
    endpoint = ns.LocalWorkload(
        id=ns.WorkloadEndpointId("k8s", "a/late", "eth0"),
        interface="calilate",
        addresses=("10.65.0.200", "fd65::200"),
        policies=kit.policy_list(profiles=("allow",)),
    )
    report = kit.applied(driver, kit.full(workloads={endpoint.id: endpoint}))
    assert set(report.programmed) == {endpoint.id}
    asked.clear()
    with netlink.Netlink() as nl:
        nl.run(netlink.add_veth("calilate", "peer0", up=True))
    settle(driver, asked)
    assert routes_through("calilate") == {"10.65.0.200/32", "fd65::200/128"}


def test_interface_that_gets_its_name_back_gets_its_routes_back(
    world: Any, driver: Any, kit: Any, asked: threading.Event
) -> None:
    pod = world.pods[0]
    kit.applied(driver, kit.full(workloads={pod.id: pod.endpoint(kit.policy_list(profiles=("allow",)))}))
    with netlink.Netlink() as nl:
        link = nl.link(pod.interface)
        assert link is not None
        nl.run(netlink.set_link(link.index, up=False))
        nl.run(netlink.set_link(link.index, name="other0"))
        settle(driver, asked)
        nl.run(netlink.set_link(link.index, name=pod.interface))
        nl.run(netlink.set_link(link.index, up=True))
    settle(driver, asked)
    assert routes_through(pod.interface) == {f"{pod.ipv4}/32", f"{pod.ipv6}/128"}


def test_address_that_moves_takes_its_route_along(world: Any, driver: Any, kit: Any) -> None:
    first, second, _ = world.pods
    listed = kit.policy_list(profiles=("allow",))
    kit.applied(driver, kit.full(workloads={pod.id: pod.endpoint(listed) for pod in (first, second)}))
    moved = ns.LocalWorkload(
        id=second.id, interface=second.interface, addresses=(second.ipv4, first.ipv4), policies=listed
    )
    kit.applied(driver, ns.Delta(workloads=ns.MapDelta(upserts={second.id: moved}, removes={first.id})))
    assert f"{first.ipv4}/32" not in routes_through(first.interface)
    assert f"{first.ipv4}/32" in routes_through(second.interface)
    assert f"{second.ipv6}/128" not in routes_through(second.interface)


def test_address_of_two_workloads_goes_to_the_newest_interface_that_is_up_and_back(
    world: Any, driver: Any, kit: Any
) -> None:
    """A workload made anew before the old one was taken away."""
    older, newer, _ = world.pods
    listed = kit.policy_list(profiles=("allow",))
    twin = ns.LocalWorkload(
        id=newer.id, interface=newer.interface, addresses=(newer.ipv4, older.ipv4, older.ipv6), policies=listed
    )
    shared = {f"{older.ipv4}/32", f"{older.ipv6}/128"}
    kit.applied(driver, kit.full(workloads={newer.id: twin, older.id: older.endpoint(listed)}))
    assert shared <= routes_through(newer.interface)
    driver.resync()
    assert driver.apply().changes == 0
    kit.applied(driver, ns.Delta(workloads=ns.MapDelta(removes={newer.id})))
    assert shared <= routes_through(older.interface)
    assert not shared & routes_through(newer.interface)


def test_interface_of_two_workloads_belongs_to_the_first_until_it_goes(world: Any, driver: Any, kit: Any) -> None:
    """In whatever order they came: a restarted node must decide the same."""
    pod, client, _ = world.pods
    second = ns.WorkloadEndpointId("k8s", "default/pod-9", "eth0")
    open_, closed = kit.policy_list(profiles=("allow",)), kit.policy_list()
    other, reaching = attrs.evolve(pod.endpoint(open_), id=second), {client.id: client.endpoint(open_)}
    kit.applied(driver, kit.full(workloads={second: other, **reaching}))
    assert world.reaches(client, pod)
    kit.applied(driver, ns.Delta(workloads=ns.MapDelta(upserts={pod.id: pod.endpoint(closed)})))
    assert not world.reaches(client, pod)
    kit.applied(driver, kit.full(workloads={pod.id: pod.endpoint(closed), second: other, **reaching}))
    assert not world.reaches(client, pod)
    kit.applied(driver, ns.Delta(workloads=ns.MapDelta(removes={pod.id})))
    assert world.reaches(client, pod)
    assert {f"{pod.ipv4}/32", f"{pod.ipv6}/128"} <= routes_through(pod.interface)


def test_route_that_somebody_deletes_is_noticed_and_made_again(
    world: Any, driver: Any, kit: Any, asked: threading.Event
) -> None:
    pod = world.pods[0]
    wanted = {f"{pod.ipv4}/32", f"{pod.ipv6}/128"}
    kit.applied(driver, kit.full(workloads={pod.id: pod.endpoint(kit.policy_list(profiles=("allow",)))}))
    for prefix in sorted(wanted):
        asked.clear()
        with netlink.Netlink() as nl:
            nl.run(netlink.delete_route(netlink.RouteEntry(prefix, protocol=0, scope=255)))
        settle(driver, asked)
        assert routes_through(pod.interface) == wanted


def test_flow_of_a_removed_address_does_not_outlive_it(world: Any, driver: Any, kit: Any) -> None:
    """An established flow skips policy; the next owner of the address must not inherit it."""
    first, second, _ = world.pods
    listed = kit.policy_list(profiles=("allow",))
    closed = kit.policy_list()
    kit.applied(driver, kit.full(workloads={pod.id: pod.endpoint(listed) for pod in (first, second)}))
    for version in (4, 6):
        server = second.serve(9000, version=version)
        client = first.serve(9001, version=version)
        target = (second.ipv4 if version == 4 else second.ipv6, 9000)
        client.sendto(b"hello", target)
        server.sendto(b"hello yourself", server.recvfrom(100)[1])
        assert client.recv(100) == b"hello yourself"
        kit.applied(driver, ns.Delta(workloads=ns.MapDelta(upserts={second.id: second.endpoint(closed)})))
        client.sendto(b"still established", target)
        assert server.recv(100) == b"still established"
        kit.applied(driver, ns.Delta(workloads=ns.MapDelta(removes={second.id})))
        kit.applied(driver, ns.Delta(workloads=ns.MapDelta(upserts={second.id: second.endpoint(closed)})))
        client.sendto(b"a new flow", target)
        with pytest.raises(TimeoutError):
            server.recv(100)
        kit.applied(driver, ns.Delta(workloads=ns.MapDelta(upserts={second.id: second.endpoint(listed)})))
        server.close()
        client.close()


def test_established_flow_outlives_a_change_of_policy_and_replies_need_none(world: Any, driver: Any, kit: Any) -> None:
    first, second, _ = world.pods
    one_way = ns.ActiveProfile(name="out", outbound=(ns.ParsedRule(action="allow"),))
    inward = ns.ActiveProfile(name="in", inbound=(ns.ParsedRule(action="allow"),))
    kit.applied(
        driver,
        kit.full(
            profiles={"out": one_way, "in": inward},
            workloads={
                first.id: first.endpoint(kit.policy_list(profiles=("out",))),
                second.id: second.endpoint(kit.policy_list(profiles=("in",))),
            },
        ),
    )
    server, client = second.serve(9000), first.serve(9001)
    client.sendto(b"x", (second.ipv4, 9000))
    server.sendto(b"y", server.recvfrom(100)[1])
    assert client.recv(100) == b"y"
    server.sendto(b"unasked", (first.ipv4, 9999))
    assert not world.reaches(second, first)
    server.close()
    client.close()


def test_masquerading_hides_a_workload_from_outside_only(driver: Any, kit: Any, world: Any, outside: Any) -> None:
    server = outside.serve(7000)
    first, second, _ = world.pods
    listed = kit.policy_list(profiles=("allow",))
    pool = ns.ActivePool(cidr="10.65.0.0/16", nat_outgoing=True)
    config = ns.ResolvedConfig(values={"nat_port_range": "40000:40100"})
    state = kit.full(workloads={pod.id: pod.endpoint(listed) for pod in world.pods}, pools={pool.cidr: pool})
    kit.applied(driver, state)
    client = first.serve(9001)
    client.sendto(b"x", (outside.ipv4, 7000))
    assert server.recvfrom(100)[1][0] == outside.node_ipv4
    inside = second.serve(7000)
    client.sendto(b"x", (second.ipv4, 7000))
    assert inside.recvfrom(100)[1] == (first.ipv4, 9001)
    kit.applied(driver, ns.Delta(config=config))
    other = first.serve(9002)
    other.sendto(b"x", (outside.ipv4, 7000))
    seen = server.recvfrom(100)[1]
    assert seen[0] == outside.node_ipv4 and 40000 <= seen[1] <= 40100
    kit.applied(driver, ns.Delta(pools=ns.MapDelta(removes={pool.cidr})))
    third = first.serve(9003)
    third.sendto(b"x", (outside.ipv4, 7000))
    assert server.recvfrom(100)[1] == (first.ipv4, 9003)
    for sock in (client, other, third, inside, server):
        sock.close()
