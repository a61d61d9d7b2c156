"""Make one IP version of this host agree with ``Wanted``: device, tunnel ends, routes. All that is ours is marked.

Ours are the device by its name and kind, every entry on it, and routes of our protocol number in the main table. Order:
device, forwarding entries and neighbours, then routes; removals the other way round.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Hashable, Mapping
from ipaddress import ip_address, ip_network
from typing import TypeVar

import attrs

from calico_encap_vxlan.desired import OVERHEAD_BYTES, Device, Wanted
from calico_encap_vxlan.settings import VxlanSettings
from calico_kernel.hookspecs import Failure
from calico_kernel.host import nlwire
from calico_kernel.host.netlink import (
    FdbEntry,
    InterfaceAddress,
    Link,
    Neighbour,
    Netlink,
    NetlinkError,
    Request,
    RouteEntry,
    VxlanInfo,
    add_address,
    add_link,
    delete_address,
    delete_fdb,
    delete_link,
    delete_neighbour,
    delete_route,
    replace_fdb,
    replace_neighbour,
    replace_route,
    set_link,
)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
GONE = {errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL}


@attrs.define
class Outcome:
    """What one pass did: writes made, what failed, and the device's index (0: there is none)."""

    changes: int = 0
    failures: list[Failure] = attrs.field(factory=list)
    ifindex: int = 0


def reconcile(netlink: Netlink, version: int, wanted: Wanted, settings: VxlanSettings) -> Outcome:
    """Read what is ours, write the difference. Raises OSError only when netlink itself is broken."""
    outcome = Outcome()
    name = device_name(settings, version)
    parent = _bearer(netlink, wanted.device.underlay) if wanted.device is not None else None
    device = _device(netlink, name, wanted.device, parent, outcome)
    outcome.ifindex = device.index if device is not None else 0
    ends, stale_ends = _tunnel_ends(netlink, version, wanted, outcome.ifindex)
    _write(netlink, ends, outcome)
    changed, stale = _routes(netlink, version, wanted, settings, outcome)
    _write(netlink, changed, outcome)
    _write(netlink, stale, outcome)
    _write(netlink, stale_ends, outcome)
    return outcome


def remove(netlink: Netlink, version: int, settings: VxlanSettings) -> Outcome:
    """Take away all that is ours."""
    return reconcile(netlink, version, Wanted(), settings)


def device_name(settings: VxlanSettings, version: int) -> str:
    return settings.device_ipv4 if version == 4 else settings.device_ipv6


def _write(netlink: Netlink, requests: Mapping[str, Request], outcome: Outcome) -> None:
    if not requests:
        return
    for subject, error in zip(requests, netlink.execute(list(requests.values())), strict=True):
        if error is None:
            outcome.changes += 1
        elif not (subject.startswith("remove ") and error.errno in GONE):
            outcome.failures.append(Failure(subject=subject, reason=str(error)))


# ── the device ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _bearer(netlink: Netlink, address: str) -> Link | None:
    """The device that bears an address of this node."""
    wanted = ip_address(address)
    for entry in netlink.addresses():
        if ip_address(entry.address) == wanted:
            return netlink.link(index=entry.ifindex)
    return None


def _device(netlink: Netlink, name: str, device: Device | None, parent: Link | None, outcome: Outcome) -> Link | None:
    """The device as wanted, made or mended; None when it is not wanted or cannot be."""
    found = netlink.link(name)
    if device is None:
        if found is not None and found.kind == "vxlan":
            _write(netlink, {f"remove device {name}": delete_link(found.index)}, outcome)
        return None
    if parent is None:
        reason = f"no interface bears {device.underlay}, which the Node resource says is this node's address"
        outcome.failures.append(Failure(subject=f"device {name}", reason=reason))
        return found if found is not None and found.kind == "vxlan" else None
    if found is not None and found.kind != "vxlan":
        outcome.failures.append(
            Failure(subject=f"device {name}", reason=f"a {found.kind or 'physical'} device has this name; rename it")
        )
        return None
    info = VxlanInfo(vni=device.vni, local=device.underlay, port=device.port, parent=parent.index)
    mtu_bytes = device.mtu_bytes or parent.mtu_bytes - OVERHEAD_BYTES[6 if ":" in device.underlay else 4]
    if found is not None and found.vxlan != info:
        _write(netlink, {f"remove device {name}": delete_link(found.index)}, outcome)
        found = None
    if found is None:
        make = add_link(name, "vxlan", mtu_bytes=mtu_bytes, mac=device.mac, up=True, vxlan=info)
        _write(netlink, {f"device {name}": make}, outcome)
        found = netlink.link(name)
        if found is None:
            return None
    elif found.mtu_bytes != mtu_bytes or found.mac != device.mac or not found.up:
        mend = set_link(found.index, mtu_bytes=mtu_bytes, mac=device.mac, up=True)
        _write(netlink, {f"device {name}": mend}, outcome)
    _addresses(netlink, found, device.address, outcome)
    return found


def _addresses(netlink: Netlink, link: Link, address: str, outcome: Outcome) -> None:
    """Exactly one address of universal scope: the tunnel address, host-sized."""
    version = 6 if ":" in address else 4
    length = 32 if version == 4 else 128
    requests: dict[str, Request] = {}
    present = False
    for entry in netlink.addresses(link.index, version=version):
        if entry.scope != nlwire.RT_SCOPE_UNIVERSE:
            continue
        if ip_address(entry.address) == ip_address(address) and entry.prefix_length == length:
            present = True
        else:
            requests[f"remove address {entry.address} of {link.name}"] = delete_address(entry)
    if not present:
        requests[f"address {address} of {link.name}"] = add_address(InterfaceAddress(link.index, address, length))
    _write(netlink, requests, outcome)


# ── tunnel ends ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _difference(
    desired: Mapping[K, V],
    observed: Mapping[K, V],
    said: Callable[[K], str],
    put: Callable[[V], Request],
    drop: Callable[[V], Request],
) -> tuple[dict[str, Request], dict[str, Request]]:
    puts = {said(key): put(value) for key, value in desired.items() if observed.get(key) != value}
    drops = {f"remove {said(key)}": drop(value) for key, value in observed.items() if key not in desired}
    return puts, drops


def _tunnel_ends(
    netlink: Netlink, version: int, wanted: Wanted, ifindex: int
) -> tuple[dict[str, Request], dict[str, Request]]:
    if not ifindex:
        return {}, {}
    forwarding = {peer.mac: FdbEntry(ifindex, peer.mac, peer.underlay) for peer in wanted.peers}
    neighbours = {peer.address: Neighbour(ifindex, peer.address, peer.mac) for peer in wanted.peers}
    puts, drops = _difference(
        forwarding,
        {entry.mac: entry for entry in netlink.fdb(ifindex) if entry.destination},
        lambda mac: f"forwarding entry of {mac}",
        replace_fdb,
        delete_fdb,
    )
    observed = {
        entry.address: entry
        for entry in netlink.neighbours(ifindex, version=version)
        if entry.state & nlwire.NUD_PERMANENT and not ip_address(entry.address).is_multicast
    }
    more, fewer = _difference(
        neighbours, observed, lambda address: f"neighbour {address}", replace_neighbour, delete_neighbour
    )
    return puts | more, drops | fewer


# ── routes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _routes(
    netlink: Netlink, version: int, wanted: Wanted, settings: VxlanSettings, outcome: Outcome
) -> tuple[dict[str, Request], dict[str, Request]]:
    observed: dict[str, RouteEntry] = {}
    for entry in netlink.routes(version=version, protocol=settings.route_protocol):
        observed[_canonical(entry.prefix)] = _comparable(entry)
    desired = {route.prefix: route for route in _entries(netlink, version, wanted, settings, outcome)}
    puts, drops = _difference(desired, observed, lambda prefix: f"route to {prefix}", replace_route, delete_route)
    if version == 6:
        # The kernel cannot turn an IPv6 route with a next hop into a blackhole, or back.
        for prefix, route in desired.items():
            old = observed.get(prefix)
            if old is not None and old.kind != route.kind:
                _write(netlink, {f"remove route to {prefix}": delete_route(old)}, outcome)
    return puts, drops


def _entries(
    netlink: Netlink, version: int, wanted: Wanted, settings: VxlanSettings, outcome: Outcome
) -> list[RouteEntry]:
    protocol, ifindex = settings.route_protocol, outcome.ifindex
    routes = [RouteEntry(prefix, protocol=protocol, kind=nlwire.RTN_BLACKHOLE) for prefix in wanted.blackholes]
    if ifindex:
        routes += [
            RouteEntry(prefix, ifindex=ifindex, gateway=gateway, protocol=protocol, onlink=True)
            for prefix, gateway in wanted.tunnelled.items()
        ]
        scope = nlwire.RT_SCOPE_LINK if version == 4 else nlwire.RT_SCOPE_UNIVERSE
        routes += [RouteEntry(prefix, ifindex=ifindex, protocol=protocol, scope=scope) for prefix in wanted.onlink]
    parents: dict[str, int] = {}
    for prefix, gateway in wanted.direct.items():
        if gateway not in parents:
            parents[gateway] = _device_towards(netlink, gateway)
        if parents[gateway]:
            routes.append(RouteEntry(prefix, ifindex=parents[gateway], gateway=gateway, protocol=protocol))
        else:
            outcome.failures.append(
                Failure(subject=f"route to {prefix}", reason=f"node {gateway} is not on our subnet")
            )
    return routes


def _device_towards(netlink: Netlink, gateway: str) -> int:
    """The device on whose subnet a neighbour node is; 0 when it is reached through a router or not at all."""
    try:
        route = netlink.route_to(gateway)
    except NetlinkError:
        return 0
    return 0 if route.gateway else route.ifindex


def _canonical(prefix: str) -> str:
    return prefix if ":" not in prefix else str(ip_network(prefix))


def _comparable(entry: RouteEntry) -> RouteEntry:
    """As we would have written it: the kernel fills in an IPv6 metric, and the loopback device of a blackhole."""
    metric = 0 if entry.version == 6 and entry.metric == 1024 else entry.metric
    ifindex = 0 if entry.kind == nlwire.RTN_BLACKHOLE else entry.ifindex
    return entry._replace(prefix=_canonical(entry.prefix), metric=metric, ifindex=ifindex)
