"""Make one IP version of this host agree with ``Wanted``: device, tunnel ends, routes. All that is ours is marked.

In:    ``Wanted``, from ``calico_encap_vxlan.desired``.   Out: rtnetlink batches, and an ``Outcome``.
Ours:  the device by its name and kind, every entry on it, and routes of our protocol number in the main table.
Order: device, forwarding entries, neighbours, then routes; removals the other way round
       (``calico_kernel.reconcile.ordered``).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Mapping
from ipaddress import ip_address, ip_network
from typing import Generic, TypeVar

import attrs

from calico_encap_vxlan.desired import OVERHEAD_BYTES, Device, Wanted
from calico_encap_vxlan.settings import VxlanSettings
from calico_kernel.errors import CalicoError, DataplaneError
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
from calico_kernel.reconcile.ordered import Reconciler, apply_in_order
from calico_kernel.reconcile.tracker import DeltaTracker

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
    kinds: list[_Entries[FdbEntry] | _Entries[Neighbour] | _Entries[RouteEntry]] = []
    if outcome.ifindex:
        kinds += (
            _forwarding(netlink, wanted, outcome.ifindex),
            _neighbours(netlink, version, wanted, outcome.ifindex),
        )
    kinds.append(_routes(netlink, version, wanted, settings, outcome))
    for (_, subject), error in apply_in_order(kinds).failed.items():
        outcome.failures.append(Failure(subject=subject, reason=error.what))
    outcome.changes += sum(kind.changes for kind in kinds)
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


class _Entries(Reconciler, Generic[V]):
    """One kind of entry, by its address, prefix or MAC: what is pending goes out in one batch."""

    def __init__(self, name: str, netlink: Netlink, put: Callable[[V], Request], drop: Callable[[V], Request]) -> None:
        self.name = name
        self.tracker: DeltaTracker[str, V] = DeltaTracker()
        self.changes = 0
        self._netlink, self._put, self._drop = netlink, put, drop

    def write(self) -> Mapping[str, CalicoError]:
        upserts = self.tracker.upserts
        return self._execute({f"{self.name} {key}": self._put(value) for key, value in upserts.items()})

    def prune(self) -> Mapping[str, CalicoError]:
        return self._remove(self.tracker.removes)

    def _remove(self, entries: Mapping[str, V]) -> Mapping[str, CalicoError]:
        requests = {f"remove {self.name} {key}": self._drop(value) for key, value in entries.items()}
        return self._execute(requests, fine=GONE)

    def _execute(self, requests: Mapping[str, Request], fine: Collection[int] = ()) -> dict[str, CalicoError]:
        failed: dict[str, CalicoError] = {}
        answers = self._netlink.execute(list(requests.values())) if requests else []
        for subject, error in zip(requests, answers, strict=True):
            if error is None:
                self.changes += 1
            elif error.errno not in fine:
                failed[subject] = DataplaneError(what=str(error), todo="the next apply tries again")
        return failed


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
        for (
            other
        ) in netlink.links():  # ours under another name: it would keep the VNI, and the MAC is this node's alone
            if other.vxlan == info and other.mac == device.mac:
                _write(netlink, {f"remove device {other.name}, once {name}": delete_link(other.index)}, outcome)
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


def _forwarding(netlink: Netlink, wanted: Wanted, ifindex: int) -> _Entries[FdbEntry]:
    kind = _Entries("forwarding entry of", netlink, replace_fdb, delete_fdb)
    kind.tracker.want_exactly({peer.mac: FdbEntry(ifindex, peer.mac, peer.underlay) for peer in wanted.peers})
    kind.tracker.saw_exactly({entry.mac: entry for entry in netlink.fdb(ifindex) if entry.destination})
    return kind


def _neighbours(netlink: Netlink, version: int, wanted: Wanted, ifindex: int) -> _Entries[Neighbour]:
    kind = _Entries("neighbour", netlink, replace_neighbour, delete_neighbour)
    kind.tracker.want_exactly({peer.address: Neighbour(ifindex, peer.address, peer.mac) for peer in wanted.peers})
    kind.tracker.saw_exactly(
        {
            entry.address: entry
            for entry in netlink.neighbours(ifindex, version=version)
            if entry.state & nlwire.NUD_PERMANENT and not ip_address(entry.address).is_multicast
        }
    )
    return kind


# ── routes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Routes(_Entries[RouteEntry]):
    def write(self) -> Mapping[str, CalicoError]:
        """The kernel cannot turn an IPv6 route with a next hop into a blackhole, or back: the old one goes first."""
        observed = self.tracker.observed
        other_kind = {
            prefix: observed[prefix]
            for prefix, route in self.tracker.upserts.items()
            if route.version == 6 and prefix in observed and observed[prefix].kind != route.kind
        }
        return {**self._remove(other_kind), **super().write()}


def _routes(netlink: Netlink, version: int, wanted: Wanted, settings: VxlanSettings, outcome: Outcome) -> _Routes:
    kind = _Routes("route to", netlink, replace_route, delete_route)
    kind.tracker.want_exactly(
        {route.prefix: route for route in _wanted_routes(netlink, version, wanted, settings, outcome)}
    )
    kind.tracker.saw_exactly(
        {
            _canonical(entry.prefix): _comparable(entry)
            for entry in netlink.routes(version=version, protocol=settings.route_protocol)
        }
    )
    return kind


def _wanted_routes(
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
