"""The host side of local workloads: routes to their addresses, sysctls of their interfaces, flows of addresses gone.

In:   local workloads, and names of interfaces that changed.   Out: rtnetlink batches, /proc/sys, ctnetlink.
Owns: /32 and /128 routes through the interfaces of local workloads, and nothing else.

The CNI plugin writes routes and sysctls first; here they are kept, mended, and made when an interface appears late, is
replaced or gets its old name back.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Mapping

import attrs

from calico_dp_iptables.names import is_usable_interface
from calico_dp_iptables.netfilter import Netfilter
from calico_dp_iptables.options import Options
from calico_dp_iptables.programs import ProgramFailed, Programs
from calico_kernel.hookspecs import Failure
from calico_kernel.host import nlwire, sysctl
from calico_kernel.host.netlink import (
    Link,
    Neighbour,
    Netlink,
    Request,
    RouteEntry,
    delete_route,
    replace_neighbour,
    replace_route,
)
from calico_kernel.model.nodestate import LocalHostEndpoint, LocalWorkload


@attrs.frozen
class Wanted:
    """What one interface should have."""

    addresses: frozenset[str]
    mac: str = ""
    any_source: bool = False


class Links:
    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self._wanted: dict[str, Wanted] = {}
        self._dirty: set[str] = set()
        self._claims: dict[str, set[str]] = {}
        self._stale: dict[str, set[str]] = {}
        self._left: set[str] = set()
        self._neighbours: dict[str, tuple[int, Wanted]] = {}
        self._default_rp_filter: str | None = None
        self._globals_done = False
        self._sweep = False

    # ── desired ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def workload_changed(self, old: LocalWorkload | None, new: LocalWorkload | None) -> None:
        """Addresses of ``old`` that no workload has any more, or that moved, lose their flows."""
        if old is not None and new is not None and _same_link(old, new):
            return
        if old is not None:
            gone = set(old.addresses)
            if new is not None and new.interface == old.interface:
                gone -= set(new.addresses)
            self._left |= gone
            self._stale.setdefault(old.interface, set()).update(gone)
            if new is None or new.interface != old.interface:
                self._want(old.interface, None)
            self._dirty.add(old.interface)
        if new is not None:
            if old is None:
                self._left -= {address for address in new.addresses if address in self._stale.get(new.interface, ())}
            if is_usable_interface(new.interface):
                addresses = frozenset(new.addresses) if new.active else frozenset()
                self._want(new.interface, Wanted(addresses, new.mac, bool(new.spoofable_prefixes)))
                stale = self._stale.get(new.interface)
                if stale is not None:
                    stale -= set(new.addresses)
                self._dirty.add(new.interface)

    def _want(self, interface: str, wanted: Wanted | None) -> None:
        old = self._wanted.pop(interface, None)
        if wanted is not None:
            self._wanted[interface] = wanted
        for address in old.addresses if old is not None else ():
            self._claims[address].discard(interface)
            self._dirty |= self._claims[address]  # one of the others gets the route
            if not self._claims[address]:
                del self._claims[address]
        for address in wanted.addresses if wanted is not None else ():
            self._claims.setdefault(address, set()).add(interface)

    def _rivals(self, wanted: Wanted) -> set[str]:
        """Every interface that wants one of these addresses, where more than one does."""
        return {
            name for address in wanted.addresses if len(self._claims[address]) > 1 for name in self._claims[address]
        }

    def touched(self, interfaces: Iterable[str]) -> None:
        """The kernel told of changes of these interfaces."""
        for name in interfaces:
            if name in self._wanted:
                self._dirty.add(name)
                self._dirty |= self._rivals(self._wanted[name])

    def touched_all(self) -> None:
        self._dirty |= self._wanted.keys()
        self._sweep = True
        self._globals_done = False

    @property
    def interfaces(self) -> Mapping[str, Wanted]:
        return self._wanted

    # ── apply ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def apply(self, options: Options, failures: list[Failure], versions: Iterable[int]) -> int:
        """Make dirty interfaces right; returns the writes made."""
        if not self._globals_done:
            self._set_globals(options, failures)
        changes = 0
        if self._dirty and options.sync_routes:
            try:
                with Netlink() as nl:
                    changes += self._apply_dirty(nl, options, failures, set(versions))
            except OSError as exc:
                failures.append(Failure(subject="workload routes", reason=str(exc)))
            self._sweep = False
        elif self._dirty:
            self._dirty.clear()
        return changes + self._forget_flows(failures)

    def _apply_dirty(self, nl: Netlink, options: Options, failures: list[Failure], versions: set[int]) -> int:
        changes = 0
        many = len(self._dirty) > 8
        by_name = {link.name: link for link in nl.links()} if many else {}
        grouped = {version: _by_index(nl, version) for version in versions} if many else {}
        for name in sorted(self._dirty):
            link = by_name.get(name) if many else nl.link(name)
            if link is None:
                self._dirty.discard(name)  # the kernel tells when it appears
                self._stale.pop(name, None)
                self._neighbours.pop(name, None)
                continue
            wanted = self._wanted.get(name, Wanted(frozenset()))
            present: list[RouteEntry] = []
            for version in versions:
                present += (
                    grouped[version].get(link.index, []) if many else nl.routes(version=version, ifindex=link.index)
                )
            if name in self._wanted:
                changes += self._sysctls(name, wanted, options)
            if rivals := self._rivals(wanted):
                wanted = attrs.evolve(wanted, addresses=self._won(nl, link, wanted, rivals))
            requests, about = self._route_plan(name, link, wanted, present, options, versions)
            settled = True
            for error, subject in zip(nl.execute(requests), about, strict=True):
                if error is None:
                    changes += 1
                elif error.errno in (errno.ESRCH, errno.ENODEV, errno.ENETDOWN):
                    continue  # gone already, or the interface is down: the kernel tells when it comes up
                else:
                    settled = False
                    failures.append(Failure(subject=subject, reason=str(error)))
            if settled:
                self._dirty.discard(name)
                self._stale.pop(name, None)
        return changes

    def _won(self, nl: Netlink, link: Link, wanted: Wanted, rivals: Iterable[str]) -> frozenset[str]:
        """The addresses that this interface has before all others that want them: the newest that is up, as in Calico,
        because a workload that is made anew is the one that lives."""
        newer = {name for name in rivals if (other := nl.link(name)) and other.up and other.index > link.index}
        return frozenset(address for address in wanted.addresses if self._claims[address].isdisjoint(newer))

    def _route_plan(
        self,
        name: str,
        link: Link,
        wanted: Wanted,
        present: Iterable[RouteEntry],
        options: Options,
        versions: set[int],
    ) -> tuple[list[Request], list[str]]:
        requests: list[Request] = []
        about: list[str] = []
        prefixes = {_host_prefix(address): address for address in wanted.addresses if _version(address) in versions}
        stale = {_host_prefix(address) for address in self._stale.get(name, ())}
        right: set[str] = set()
        for route in present:
            is_host_route = route.prefix.endswith("/32" if route.version == 4 else "/128")
            if not is_host_route or route.kind != nlwire.RTN_UNICAST or route.prefix.startswith("fe80:"):
                continue
            if route.prefix in prefixes:
                right.add(route.prefix)
            elif route.prefix in stale or (self._sweep and options.remove_external_routes and name in self._wanted):
                # Unknown ones go with the timer only: the CNI plugin writes routes before their endpoint is known.
                requests.append(delete_route(route))
                about.append(f"route to {route.prefix} through {name}")
        if not link.up:
            return requests, about
        for prefix, address in prefixes.items():
            if prefix in right:
                continue
            four = _version(address) == 4
            requests.append(
                replace_route(
                    RouteEntry(
                        prefix,
                        link.index,
                        protocol=options.route_protocol,
                        scope=nlwire.RT_SCOPE_LINK if four else nlwire.RT_SCOPE_UNIVERSE,
                        metric=0 if four else 1024,
                        source=options.route_source_ipv4 if four else options.route_source_ipv6,
                    )
                )
            )
            about.append(f"route to {prefix} through {name}")
        if wanted.mac and self._neighbours.get(name) != (link.index, wanted):
            for address in wanted.addresses:
                if _version(address) == 4 and 4 in versions:
                    requests.append(replace_neighbour(Neighbour(link.index, address, wanted.mac)))
                    about.append(f"neighbour {address} on {name}")
            self._neighbours[name] = (link.index, wanted)
        return requests, about

    def _sysctls(self, name: str, wanted: Wanted, options: Options) -> int:
        if self._default_rp_filter is None:
            self._default_rp_filter = "1"
            with contextlib.suppress(OSError):
                self._default_rp_filter = sysctl.read("net/ipv4/conf/default/rp_filter")
        free = wanted.any_source or options.any_source
        changes = 0
        for key, value in (
            (f"net/ipv4/conf/{name}/route_localnet", "1"),
            (f"net/ipv4/neigh/{name}/proxy_delay", "0"),
            (f"net/ipv4/conf/{name}/proxy_arp", "1"),
            (f"net/ipv4/conf/{name}/forwarding", "1"),
            (f"net/ipv4/conf/{name}/rp_filter", "0" if free else self._default_rp_filter),
            (f"net/ipv6/conf/{name}/accept_ra", "0"),
            (f"net/ipv6/conf/{name}/proxy_ndp", "1"),
            (f"net/ipv6/conf/{name}/forwarding", "1"),
        ):
            with contextlib.suppress(OSError):  # no such family here, or the interface has just gone
                changes += sysctl.ensure(key, value)
        return changes

    def _set_globals(self, options: Options, failures: list[Failure]) -> None:
        self._globals_done = True
        if not options.ip_forwarding:
            return
        for key in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            try:
                sysctl.ensure(key, "1")
            except FileNotFoundError:
                continue
            except OSError as exc:
                failures.append(Failure(subject=key, reason=exc.strerror or str(exc)))
                self._globals_done = False

    # ── flows ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _forget_flows(self, failures: list[Failure]) -> int:
        """Tracked flows skip policy, so those of an address that left must not wait for its next owner."""
        if not self._left:
            return 0
        left = sorted(self._left)
        try:
            with Netfilter() as netfilter:
                netfilter.forget_flows(left)
        except OSError as exc:
            if exc.errno == errno.ENOPROTOOPT or not self._forget_by_program(left, failures):
                self._left.clear()
                return 0
        self._left.clear()
        return len(left)

    def _forget_by_program(self, addresses: Iterable[str], failures: list[Failure]) -> bool:
        """For kernels that cannot delete by a filter."""
        program = self._programs.find("conntrack")
        if not program:
            reason = "this kernel cannot delete flows by address and conntrack is not installed"
            failures.append(Failure(subject="tracked flows", reason=reason))
            return False
        for address in addresses:
            family = "ipv6" if ":" in address else "ipv4"
            for side in ("--orig-src", "--orig-dst", "--reply-src", "--reply-dst"):
                with contextlib.suppress(ProgramFailed):  # exits with 1 when there was no such flow
                    self._programs.run([program, "--family", family, "--delete", side, address])
        return True

    # ── end ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    def uninstall(self) -> None:
        """Remove the routes to workloads; sysctls go with the interfaces."""
        with contextlib.suppress(OSError), Netlink() as nl:
            by_name = {link.name: link.index for link in nl.links()}
            for version in (4, 6):
                grouped = _by_index(nl, version)
                for name, wanted in self._wanted.items():
                    prefixes = {_host_prefix(address) for address in wanted.addresses}
                    routes = grouped.get(by_name.get(name, -1), [])
                    nl.execute([delete_route(route) for route in routes if route.prefix in prefixes])


def _same_link(old: LocalWorkload, new: LocalWorkload) -> bool:
    """Only the policies of a workload changed."""
    return (old.interface, old.addresses, old.mac, old.active, bool(old.spoofable_prefixes)) == (
        new.interface,
        new.addresses,
        new.mac,
        new.active,
        bool(new.spoofable_prefixes),
    )


def interfaces_of(endpoints: Mapping[str, LocalHostEndpoint]) -> dict[str, tuple[str, ...]]:
    """For host endpoints that name addresses only: the interfaces that have one of them. Raises OSError."""
    with Netlink() as nl:
        named = {link.index: link.name for link in nl.links()}
        present = [(entry.address, named[entry.ifindex]) for entry in nl.addresses() if entry.ifindex in named]
    return {
        name: tuple(sorted({interface for address, interface in present if address in endpoint.expected_addresses}))
        for name, endpoint in endpoints.items()
    }


def _by_index(nl: Netlink, version: int) -> dict[int, list[RouteEntry]]:
    grouped: dict[int, list[RouteEntry]] = {}
    for route in nl.routes(version=version):
        grouped.setdefault(route.ifindex, []).append(route)
    return grouped


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def _host_prefix(address: str) -> str:
    return f"{address}/128" if ":" in address else f"{address}/32"
