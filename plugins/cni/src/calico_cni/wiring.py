"""The interface of one workload: made, verified and removed with rtnetlink and sysctls.

In:    a ``Wiring``: what is wanted, as values.
Out:   a veth pair between the node and the workload's namespace, with Calico's addresses, routes and settings.
Owns:  host interfaces whose alias says so. No address is put on the host side but its link-local one: the IPv4 gateway
       169.254.1.1 exists only through proxy ARP.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence

import attrs

from calico_cni import errors
from calico_cni.errors import CniError
from calico_kernel.host import netns, nlwire, sysctl
from calico_kernel.host.netlink import (
    InterfaceAddress,
    Link,
    Neighbour,
    Netlink,
    NetlinkError,
    Request,
    RouteEntry,
    add_address,
    add_route,
    add_veth,
    delete_link,
    replace_neighbour,
    set_link,
)

HOST_MAC = "ee:ee:ee:ee:ee:ee"
GATEWAY_IPV4 = "169.254.1.1"
GATEWAY_IPV6 = "fe80::ecee:eeff:feee:eeee"  # EUI-64 of HOST_MAC
DEFAULT_ROUTES = ("0.0.0.0/0", "::/0")
_NS_GET_NSTYPE, _NEWNET = 0xB703, 0x40000000  # ioctl_ns(2), clone(2)


@attrs.frozen(kw_only=True)
class Wiring:
    """addresses: bare, both families. destinations: what the workload reaches through the node; those of a family
    without address are left out. mtu_bytes 0: the kernel's default."""

    host_name: str
    alias: str
    interface: str
    netns_fd: int
    mac: str
    addresses: tuple[str, ...]
    destinations: tuple[str, ...] = DEFAULT_ROUTES
    mtu_bytes: int = 0
    queues: int = 1
    ip_forwarding: bool = False

    @property
    def ipv4(self) -> tuple[str, ...]:
        return tuple(address for address in self.addresses if ":" not in address)

    @property
    def ipv6(self) -> tuple[str, ...]:
        return tuple(address for address in self.addresses if ":" in address)

    def reached(self, version: int) -> tuple[str, ...]:
        if not (self.ipv4 if version == 4 else self.ipv6):
            return ()
        return tuple(prefix for prefix in self.destinations if (":" in prefix) == (version == 6))


def is_namespace(fd: int) -> bool:
    """Is it a network namespace?"""
    import fcntl

    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE) == _NEWNET
    except OSError:
        return False


def refuse_own(fd: int, path: str) -> None:
    """The node's own namespace is no workload's: its devices are not to be touched. Raises CniError."""
    mine, given = os.stat("/proc/thread-self/ns/net"), os.fstat(fd)
    if (mine.st_dev, mine.st_ino) == (given.st_dev, given.st_ino):
        raise CniError(errors.INVALID_NETNS, f"CNI_NETNS {path} is the node's own network namespace")


def check_namespace(fd: int, path: str) -> None:
    """Refuse what is no network namespace, and the node's own. Raises CniError."""
    if not is_namespace(fd):
        raise CniError(errors.INVALID_NETNS, f"CNI_NETNS {path} is not a network namespace")
    refuse_own(fd, path)


# ── making ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def connect(wiring: Wiring) -> int:
    """Make the pair and return the MTU it got. Undone whole on failure. Raises CniError."""
    with _told(f"could not set up {wiring.interface} and {wiring.host_name}"), Netlink() as host:
        old = host.link(wiring.host_name)
        if old is not None:
            _refuse_foreign(old)
            host.run(delete_link(old.index))
        host.run(
            add_veth(
                wiring.host_name,
                wiring.interface,
                peer_netns_fd=wiring.netns_fd,
                mtu_bytes=wiring.mtu_bytes,
                mac=HOST_MAC,
                peer_mac=wiring.mac,
                queues=wiring.queues,
            )
        )
        try:
            link = host.link(wiring.host_name)
            if link is None:
                raise CniError(errors.NETWORKING, f"{wiring.host_name} vanished while it was being set up")
            _host_settings(wiring)
            _host_side(host, wiring, link)
            with _inside(wiring) as there:
                _container_side(there, wiring, link.mac)
        except BaseException:
            with contextlib.suppress(OSError):
                host.run(delete_link(name=wiring.host_name))
            raise
        return link.mtu_bytes


def _refuse_foreign(link: Link) -> None:
    if link.kind != "veth":
        raise CniError(
            errors.NETWORKING, f"{link.name} exists and is a {link.kind or 'real'} device", "it is not ours to replace"
        )


@contextlib.contextmanager
def _told(doing: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as exc:
        raise CniError(errors.NETWORKING, doing, str(exc)) from exc
    except OSError as exc:
        raise CniError(errors.NETWORKING, doing, f"{exc.filename or ''}: {exc.strerror}") from exc


def _host_settings(wiring: Wiring) -> None:
    four, six = f"net/ipv4/conf/{wiring.host_name}/", f"net/ipv6/conf/{wiring.host_name}/"
    if wiring.ipv4:
        sysctl.write(four + "route_localnet", 1)
        with contextlib.suppress(OSError):  # answers come a moment later without it
            sysctl.write(f"net/ipv4/neigh/{wiring.host_name}/proxy_delay", 0)
        sysctl.write(four + "proxy_arp", 1)
        sysctl.write(four + "forwarding", 1)
    with contextlib.suppress(OSError):  # no IPv6 in this kernel: nothing to be told by a workload's advertisements
        sysctl.write(six + "accept_ra", 0)
    if wiring.ipv6:
        sysctl.write(six + "disable_ipv6", 0)
        sysctl.write(six + "accept_dad", 0)
        sysctl.write(six + "proxy_ndp", 1)
        sysctl.write(six + "forwarding", 1)


def _host_side(host: Netlink, wiring: Wiring, link: Link) -> None:
    host.run(set_link(link.index, up=True, alias=wiring.alias))
    requests: list[Request] = [add_route(_host_route(address, link.index)) for address in wiring.addresses]
    if wiring.ipv6:  # the kernel makes this one too, later, unless it was told to make unpredictable ones
        entry = InterfaceAddress(link.index, GATEWAY_IPV6, 64, scope=nlwire.RT_SCOPE_LINK, flags=nlwire.IFA_F_NODAD)
        requests.append(add_address(entry))
    for index, error in enumerate(host.execute(requests)):
        if error is None or (error.errno == errno.EEXIST and index >= len(wiring.addresses)):
            continue
        if error.errno == errno.EEXIST:
            _same_route(host, wiring.addresses[index], link)
            continue
        raise error


def _host_route(address: str, ifindex: int) -> RouteEntry:
    if ":" in address:
        return RouteEntry(f"{address}/128", ifindex, metric=1024)
    return RouteEntry(f"{address}/32", ifindex, scope=nlwire.RT_SCOPE_LINK)


def _same_route(host: Netlink, address: str, link: Link) -> None:
    """The dataplane may have been faster, as it sees the endpoint too; any other route is somebody else's."""
    wanted = _host_route(address, link.index)
    for route in host.routes(version=wanted.version):
        if route.prefix == wanted.prefix and route.ifindex != link.index:
            other = host.link(index=route.ifindex)
            raise CniError(
                errors.NETWORKING,
                f"{address} is routed to {other.name if other else 'another interface'} already",
                f"remove that route, or find out why IPAM gave out {address} twice",
            )


@contextlib.contextmanager
def _inside(wiring: Wiring) -> Iterator[Netlink]:
    """A socket of the workload's namespace, its settings made. The thread is back when the body runs."""
    with netns.entered(wiring.netns_fd):
        there = Netlink()
        try:
            if wiring.ipv6:
                for scope in ("all", "default", "lo", wiring.interface):
                    sysctl.ensure(f"net/ipv6/conf/{scope}/disable_ipv6", 0)
                sysctl.write(f"net/ipv6/conf/{wiring.interface}/accept_dad", 0)
                sysctl.ensure("net/ipv6/conf/all/forwarding", int(wiring.ip_forwarding))
            if wiring.ipv4:
                sysctl.ensure("net/ipv4/ip_forward", int(wiring.ip_forwarding))
        except BaseException:
            there.close()
            raise
    with there:
        yield there


def _container_side(there: Netlink, wiring: Wiring, host_mac: str) -> None:
    link = there.link(wiring.interface)
    if link is None:
        raise CniError(errors.NETWORKING, f"{wiring.interface} vanished from the workload's namespace")
    requests = [set_link(link.index, up=True)]
    if wiring.ipv4:
        # A node without a default route answers no ARP for 169.254.1.1; so the workload need not ask.
        requests.append(replace_neighbour(Neighbour(link.index, GATEWAY_IPV4, host_mac)))
    requests += [add_route(route) for route in _container_routes(wiring, link.index)]
    for address in wiring.addresses:
        length, flags = (128, nlwire.IFA_F_NODAD) if ":" in address else (32, 0)
        requests.append(add_address(InterfaceAddress(link.index, address, length, flags=flags)))
    there.run(*requests)


def _container_routes(wiring: Wiring, ifindex: int) -> list[RouteEntry]:
    routes = []
    if wiring.ipv4:
        routes.append(RouteEntry(f"{GATEWAY_IPV4}/32", ifindex, scope=nlwire.RT_SCOPE_LINK))
        routes += [RouteEntry(prefix, ifindex, GATEWAY_IPV4) for prefix in wiring.reached(4)]
    if wiring.ipv6:
        routes += [RouteEntry(prefix, ifindex, GATEWAY_IPV6, metric=1024) for prefix in wiring.reached(6)]
    return routes


def mtu_of(host_name: str) -> int:
    """MTU of a host interface, 0 when there is none."""
    with Netlink() as host:
        link = host.link(host_name)
        return link.mtu_bytes if link is not None else 0


def mac_of(netns_fd: int, interface: str) -> str:
    """MAC address of a workload's interface, "" when there is none."""
    with Netlink(netns_fd) as there:
        link = there.link(interface)
        return link.mac if link is not None else ""


# ── removing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def disconnect(netns_fd: int | None, interface: str, host_name: str | None, alias: str) -> None:
    """Remove the pair by whichever end can be reached. What is gone already is fine. Raises CniError.

    host_name: None when that interface may serve a newer container; it is removed only if it bears ``alias``.
    """
    with _told(f"could not remove {interface}"):
        if netns_fd is not None:
            with Netlink(netns_fd) as there:
                _delete(there, interface)
        if host_name is not None:
            with Netlink() as host:
                link = host.link(host_name)
                if link is not None and link.alias == alias:
                    _delete(host, host_name)


def _delete(nl: Netlink, name: str) -> None:
    try:
        nl.run(delete_link(name=name))
    except NetlinkError as exc:
        if exc.errno != errno.ENODEV:
            raise


# ── verifying ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def differences(wiring: Wiring) -> Sequence[str]:
    """What is not as ``connect`` leaves it, in words; empty when all is. Changes nothing."""
    with _told(f"could not inspect {wiring.interface}"):
        return [*_host_differences(wiring), *_container_differences(wiring)]


def _host_differences(wiring: Wiring) -> Iterator[str]:
    with Netlink() as host:
        link = host.link(wiring.host_name)
        if link is None or link.alias != wiring.alias:
            yield f"the node has no interface {wiring.host_name} of this attachment"
            return
        if not link.up:
            yield f"{wiring.host_name} is down"
        for version in (4, 6):
            routed = {route.prefix for route in host.routes(version=version, ifindex=link.index)}
            for address in wiring.ipv4 if version == 4 else wiring.ipv6:
                if _host_route(address, link.index).prefix not in routed:
                    yield f"the node has no route to {address} by {wiring.host_name}"
    settings = [f"net/ipv4/conf/{wiring.host_name}/{name}" for name in ("proxy_arp", "forwarding") if wiring.ipv4]
    settings += [f"net/ipv6/conf/{wiring.host_name}/{name}" for name in ("proxy_ndp", "forwarding") if wiring.ipv6]
    yield from (f"{name} is not 1" for name in settings if sysctl.read(name) != "1")


def _container_differences(wiring: Wiring) -> Iterator[str]:
    with Netlink(wiring.netns_fd) as there:
        link = there.link(wiring.interface)
        if link is None:
            yield f"the workload has no interface {wiring.interface}"
            return
        if not link.up:
            yield f"{wiring.interface} is down"
        if link.mac != wiring.mac:
            yield f"{wiring.interface} has MAC {link.mac}, not {wiring.mac}"
        if wiring.mtu_bytes and link.mtu_bytes != wiring.mtu_bytes:
            yield f"{wiring.interface} has MTU {link.mtu_bytes}, not {wiring.mtu_bytes}"
        held = {entry.address for entry in there.addresses(link.index)}
        yield from (f"{wiring.interface} has not got {address}" for address in wiring.addresses if address not in held)
        routes = {
            (route.prefix, route.gateway)
            for version in (4, 6)
            for route in there.routes(version=version, ifindex=link.index)
        }
        for route in _container_routes(wiring, link.index):
            if (route.prefix, route.gateway) not in routes:
                via = f" via {route.gateway}" if route.gateway else ""
                yield f"the workload has no route to {route.prefix}{via}"
