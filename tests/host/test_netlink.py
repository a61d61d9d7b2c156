"""Our rtnetlink against the kernel, with pyroute2 as the second observer."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from pyroute2 import IPRoute

from calico_kernel.host import netns as namespaces
from calico_kernel.host import nlwire as w
from calico_kernel.host.netlink import (
    FdbEntry,
    InterfaceAddress,
    Monitor,
    Neighbour,
    Netlink,
    NetlinkError,
    NextHop,
    RouteEntry,
    Rule,
    VxlanInfo,
    add_address,
    add_link,
    add_route,
    add_rule,
    add_veth,
    delete_address,
    delete_fdb,
    delete_link,
    delete_neighbour,
    delete_route,
    delete_rule,
    replace_fdb,
    replace_neighbour,
    replace_route,
    set_link,
)

pytestmark = pytest.mark.node


@pytest.fixture
def nl(netns: str) -> Iterator[Netlink]:
    with Netlink() as opened:
        yield opened


@pytest.fixture
def device(nl: Netlink) -> int:
    """A device that is up and has 10.0.0.1/24 and fd00::1/64."""
    nl.run(add_veth("d0", "d0p", up=True), set_link(name="d0p", up=True))
    link = nl.link("d0")
    assert link is not None
    nl.run(
        add_address(InterfaceAddress(link.index, "10.0.0.1", 24)),
        add_address(InterfaceAddress(link.index, "fd00::1", 64, flags=w.IFA_F_NODAD)),
    )
    return link.index


def test_veth_with_its_peer_in_another_namespace_is_made_in_one_request(nl: Netlink, netns_name: str) -> None:
    other = f"{netns_name}p"
    namespaces.create(other)
    fd = namespaces.open_fd(other)
    try:
        nl.run(
            add_veth(
                "cali0",
                "eth0",
                peer_netns_fd=fd,
                mtu_bytes=1400,
                mac="ee:ee:ee:ee:ee:ee",
                peer_mac="02:00:00:00:00:01",
                up=True,
            )
        )
        here = nl.link("cali0")
        with Netlink(fd) as there:
            peer = there.link("eth0")
        assert here is not None and peer is not None
        assert (here.kind, here.mtu_bytes, here.mac, here.up) == ("veth", 1400, "ee:ee:ee:ee:ee:ee", True)
        assert (peer.kind, peer.mtu_bytes, peer.mac, peer.up) == ("veth", 1400, "02:00:00:00:00:01", False)
        assert here.parent == peer.index and here.netns_id >= 0
        assert nl.link("eth0") is None
        with pytest.raises(NetlinkError) as caught:
            nl.run(add_veth("cali0", "eth1"))
        assert caught.value.errno == errno.EEXIST
        nl.run(delete_link(name="cali0"))
        with Netlink(fd) as there:
            assert there.link("eth0") is None
    finally:
        os.close(fd)
        namespaces.delete(other)


def test_links_are_changed_renamed_enslaved_and_read_back_as_pyroute2_reads_them(nl: Netlink) -> None:
    nl.run(add_link("br0", "bridge", up=True), add_veth("d1", "d1p"))
    bridge, port = nl.link("br0"), nl.link("d1")
    assert bridge is not None and port is not None
    nl.run(
        set_link(port.index, rename="d2", mtu_bytes=1300, mac="02:aa:bb:cc:dd:ee", master=bridge.index, alias="mine"),
        set_link(name="d2", up=True),
    )
    with IPRoute() as observer:
        seen = observer.link("get", ifname="d2")[0]
    changed = nl.link("d2")
    assert changed is not None
    assert changed == next(link for link in nl.links() if link.name == "d2")
    assert (changed.mtu_bytes, changed.mac, changed.master, changed.alias) == (
        seen.get_attr("IFLA_MTU"),
        seen.get_attr("IFLA_ADDRESS"),
        seen.get_attr("IFLA_MASTER"),
        "mine",
    )
    assert changed.master == bridge.index and changed.up
    nl.run(set_link(changed.index, up=False, master=0))
    freed = nl.link(index=changed.index)
    assert freed is not None and freed.master == 0 and not freed.up
    assert [link.name for link in nl.links(kind="bridge")] == ["br0"]


def test_vxlan_device_reads_back_as_it_was_asked_for(nl: Netlink, device: int) -> None:
    four = VxlanInfo(vni=4096, local="10.0.0.1", port=4789, parent=device)
    six = VxlanInfo(vni=4097, local="fd00::1", port=8472, learning=True)
    nl.run(
        add_link("vx4", "vxlan", vxlan=four, mtu_bytes=1450, mac="66:00:00:00:00:01", up=True),
        add_link("vx6", "vxlan", vxlan=six),
    )
    first, second = nl.link("vx4"), nl.link("vx6")
    assert first is not None and first.vxlan == four and first.mtu_bytes == 1450
    assert second is not None and second.vxlan == six


@pytest.mark.parametrize(
    "entry",
    [
        RouteEntry("10.1.0.0/26", gateway="10.0.0.7", protocol=80),
        RouteEntry("10.1.0.64/26", gateway="192.0.2.9", protocol=80, onlink=True, mtu_bytes=1400),
        RouteEntry("10.1.0.5/32", scope=w.RT_SCOPE_LINK, source="10.0.0.1", metric=7),
        RouteEntry("10.2.0.0/26", kind=w.RTN_BLACKHOLE, protocol=80),
        RouteEntry("0.0.0.0/0", gateway="10.0.0.254", table=1000),
        RouteEntry("fd00:1::/122", gateway="fd00::7", protocol=80, metric=1024),
        RouteEntry("fd00:2::5/128", protocol=80, metric=1024),
        RouteEntry("fd00:3::/122", kind=w.RTN_BLACKHOLE, metric=1024),
        RouteEntry("::/0", gateway="fe80::1", metric=1024, table=252),
    ],
    ids=lambda entry: f"{entry.prefix}",
)
def test_route_reads_back_as_it_was_written_and_goes_when_deleted(nl: Netlink, device: int, entry: RouteEntry) -> None:
    if entry.kind == w.RTN_UNICAST:
        entry = entry._replace(ifindex=device)
    nl.run(add_route(entry))
    assert entry in nl.routes(version=entry.version, table=entry.table)
    assert entry in nl.routes(version=entry.version, table=0, protocol=entry.protocol)
    with pytest.raises(NetlinkError) as caught:
        nl.run(add_route(entry))
    assert caught.value.errno == errno.EEXIST
    nl.run(replace_route(entry))
    nl.run(delete_route(entry))
    with pytest.raises(NetlinkError) as gone:
        nl.run(delete_route(entry))
    assert gone.value.errno == errno.ESRCH
    assert entry not in nl.routes(version=entry.version, table=entry.table)


def test_multipath_route_reads_back_leg_by_leg(nl: Netlink, device: int) -> None:
    hops = (NextHop(device, "10.0.0.7"), NextHop(device, "10.0.0.8", weight=3))
    nl.run(add_route(RouteEntry("10.9.0.0/16", next_hops=hops)))
    assert [route.next_hops for route in nl.routes() if route.prefix == "10.9.0.0/16"] == [hops]


def test_a_batch_answers_each_request_in_order_and_carries_on_after_failures(nl: Netlink, device: int) -> None:
    good = [RouteEntry(f"10.{64 + i // 256}.{i % 256}.0/26", device, "10.0.0.7", protocol=80) for i in range(1000)]
    requests = [add_route(route) for route in good]
    requests[3] = add_route(RouteEntry("10.3.0.0/26", device, "198.51.100.1"))
    requests[700] = delete_route(RouteEntry("10.5.0.0/16"))
    requests[999] = add_route(good[0])
    answers = nl.execute(requests)
    assert {i: error.errno for i, error in enumerate(answers) if error} == {
        3: errno.ENETUNREACH,
        700: errno.ESRCH,
        999: errno.EEXIST,
    }
    assert answers[3] is not None and "gateway" in answers[3].reason
    assert len(nl.routes(protocol=80)) == 997
    assert nl.routes(protocol=81) == []


def test_a_batch_in_which_all_fail_loses_no_answer(nl: Netlink) -> None:
    answers = nl.execute([delete_route(RouteEntry(f"10.0.{i % 256}.0/24")) for i in range(3000)])
    assert len(answers) == 3000
    assert {error.errno for error in answers if error} == {errno.ESRCH}


def test_no_requests_are_no_work(nl: Netlink) -> None:
    assert nl.execute([]) == []


def test_routes_of_a_table_that_nobody_used_are_none(nl: Netlink) -> None:
    assert nl.routes(table=12345) == []
    assert nl.routes(table=12345, version=6) == []
    assert nl.routes(ifindex=999) == []


def test_lookup_names_device_and_gateway(nl: Netlink, device: int) -> None:
    nl.run(add_route(RouteEntry("203.0.113.0/24", device, "10.0.0.7")))
    found = nl.route_to("203.0.113.5")
    assert (found.ifindex, found.gateway, found.source) == (device, "10.0.0.7", "10.0.0.1")
    with pytest.raises(NetlinkError) as caught:
        nl.route_to("192.0.2.1")
    assert caught.value.errno == errno.ENETUNREACH


def test_addresses_are_listed_and_removed(nl: Netlink, device: int) -> None:
    listed = {(entry.address, entry.prefix_length) for entry in nl.addresses(device) if entry.scope == 0}
    assert listed == {("10.0.0.1", 24), ("fd00::1", 64)}
    nl.run(delete_address(InterfaceAddress(device, "10.0.0.1", 24)))
    assert nl.addresses(device, version=4) == []
    with pytest.raises(NetlinkError):
        nl.run(delete_address(InterfaceAddress(device, "10.0.0.1", 24)))


def test_neighbours_permanent_and_proxy_are_kept_apart(nl: Netlink, device: int) -> None:
    permanent = [Neighbour(device, "10.0.0.9", "66:00:00:00:00:09"), Neighbour(device, "fd00::9", "66:00:00:00:00:09")]
    proxy = Neighbour(device, "fd00::5", flags=w.NTF_PROXY, state=0)
    nl.run(*(replace_neighbour(entry) for entry in [*permanent, proxy]))
    with pytest.raises(NetlinkError):
        nl.run(replace_neighbour(Neighbour(9999, "10.0.0.9", "66:00:00:00:00:09")))
    assert set(permanent) <= set(nl.neighbours(device))
    assert [entry.address for entry in nl.neighbours(device, proxy=True)] == ["fd00::5"]
    nl.run(*(delete_neighbour(entry) for entry in [*permanent, proxy]))
    assert not set(permanent) & set(nl.neighbours(device))
    assert nl.neighbours(device, proxy=True) == []


def test_fdb_entries_of_a_vxlan_device_read_back(nl: Netlink, device: int) -> None:
    nl.run(add_link("vx", "vxlan", vxlan=VxlanInfo(vni=1, local="10.0.0.1", parent=device), up=True))
    tunnel = nl.link("vx")
    assert tunnel is not None
    entries = [FdbEntry(tunnel.index, f"66:00:00:00:00:{i:02x}", f"10.0.0.{i}") for i in range(2, 20)]
    nl.run(*map(replace_fdb, entries))
    moved = entries[0]._replace(destination="10.0.0.200")
    nl.run(replace_fdb(moved))
    assert set(nl.fdb(tunnel.index)) == {moved, *entries[1:]}
    nl.run(*map(delete_fdb, entries[1:]), delete_fdb(moved))
    assert nl.fdb(tunnel.index) == []


@pytest.mark.parametrize(
    "rule",
    [
        Rule(99, 200, mark=0x100, mask=0xFF00, invert=True, protocol=80),
        Rule(98, 4000, source="10.1.0.0/16", destination="10.2.0.0/24", input_interface="lo"),
        Rule(97, 200, version=6, source="fd00::/64", output_interface="lo"),
    ],
    ids=lambda rule: f"{rule.priority}",
)
def test_rule_reads_back_and_goes_when_deleted(nl: Netlink, rule: Rule) -> None:
    nl.run(add_rule(rule))
    assert rule in nl.rules(version=rule.version)
    with pytest.raises(NetlinkError):
        nl.run(add_rule(rule))
    nl.run(delete_rule(rule))
    assert rule not in nl.rules(version=rule.version)


def test_monitor_tells_what_changed_once_and_nothing_before(nl: Netlink, device: int) -> None:
    with Monitor(links=True, routes=True, addresses=True, neighbours=True) as monitor:
        assert monitor.next(0) == []
        route = RouteEntry("10.1.0.0/26", device, "10.0.0.7", protocol=80)
        nl.run(add_route(route), delete_route(route))
        nl.run(add_veth("d9", "d9p"), delete_link(name="d9"))
        nl.run(replace_neighbour(Neighbour(device, "10.0.0.9", "66:00:00:00:00:09")))
        seen = list(monitor.notices(0.2))
        assert [(n.topic, n.deleted) for n in seen if n.value == route] == [("route", False), ("route", True)]
        assert [n.deleted for n in seen if n.topic == "link" and getattr(n.value, "name", "") == "d9"][-1]
        assert any(n.topic == "neighbour" for n in seen)


def test_monitor_that_overflowed_says_that_something_was_lost(nl: Netlink, device: int) -> None:
    with Monitor(routes=True, receive_bytes=4096) as monitor:
        routes = [RouteEntry(f"10.1.{i}.0/24", device) for i in range(200)]
        nl.run(*map(add_route, routes))
        notices = monitor.next(1.0)
        assert any(notice.topic == "lost" for notice in notices)
        nl.run(delete_route(routes[0]))
        assert [notice.topic for notice in monitor.next(1.0)] == ["route"]


def test_dump_while_others_change_routes_is_whole(nl: Netlink, device: int) -> None:
    nl.run(*(add_route(RouteEntry(f"10.{1 + i // 256}.{i % 256}.0/24", device, protocol=80)) for i in range(2000)))
    stop = threading.Event()

    def change() -> None:
        with Netlink() as other:
            while not stop.is_set():
                flapping = [RouteEntry(f"172.16.{i}.0/24", device, protocol=81) for i in range(8)]
                other.execute([*map(add_route, flapping), *map(delete_route, flapping)])
                time.sleep(0.001)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(5):
            found = [route.prefix for route in nl.routes(table=0) if route.protocol == 80]
            assert len(found) == len(set(found)) == 2000
    finally:
        stop.set()
        thread.join()


def test_import_is_light() -> None:
    code = (
        "import sys, calico_kernel.host.netlink; print([m for m in ('attrs', 'ctypes', 'asyncio') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert shown.strip() == "[]"
