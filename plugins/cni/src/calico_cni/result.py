"""Results in every version of the specification: built as 1.1.0, said as asked. Pure.

Source: CNI specification, "ADD success"; Calico's shape: addresses with /32 and /128, no gateway, interface 1 is the
container's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

_ROUTE_KEYS_1_1 = ("mtu", "advmss", "priority", "table", "scope")


@attrs.frozen(kw_only=True)
class Allocation:
    """What an IPAM plugin gave. ``addresses`` are bare text; ``routes`` and ``dns`` as in its result."""

    addresses: tuple[str, ...]
    routes: tuple[Mapping[str, Any], ...] = ()
    dns: Mapping[str, Any] = attrs.field(factory=dict)


def host_prefix(address: str) -> str:
    return f"{address}/128" if ":" in address else f"{address}/32"


def added(
    allocation: Allocation,
    *,
    version: str,
    host_interface: str,
    interface: str,
    mac: str,
    mtu_bytes: int,
    sandbox: str,
) -> Mapping[str, Any]:
    """The answer to ADD."""
    inside: dict[str, Any] = {"name": interface, "mac": mac, "mtu": mtu_bytes, "sandbox": sandbox}
    whole: dict[str, Any] = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": host_interface}, {k: value for k, value in inside.items() if value}],
        "ips": [{"interface": 1, "address": host_prefix(address)} for address in allocation.addresses],
        "routes": [dict(route) for route in allocation.routes],
        "dns": dict(allocation.dns),
    }
    return converted(whole, version)


def assigned(allocation: Allocation, version: str) -> Mapping[str, Any]:
    """The answer to ADD of IPAM alone: no interfaces."""
    whole: dict[str, Any] = {
        "ips": [{"address": host_prefix(address)} for address in allocation.addresses],
        "routes": [dict(route) for route in allocation.routes],
        "dns": dict(allocation.dns),
    }
    return converted(whole, version)


def converted(result: Mapping[str, Any], version: str) -> Mapping[str, Any]:
    """A result of version 1.1.0 in the words of ``version``."""
    number = _number(version)
    ips: Sequence[Mapping[str, Any]] = result.get("ips", ())
    routes: Sequence[Mapping[str, Any]] = result.get("routes", ())
    if number < (1, 1, 0):
        routes = [{k: value for k, value in route.items() if k not in _ROUTE_KEYS_1_1} for route in routes]
    if number < (0, 3, 0):
        return _ip4_ip6(result, version, ips, routes)
    interfaces = [dict(interface) for interface in result.get("interfaces", ())]
    if number < (1, 1, 0):
        for interface in interfaces:
            for key in ("mtu", "socketPath", "pciID"):
                interface.pop(key, None)
    if number < (1, 0, 0):
        ips = [{"version": "6" if ":" in ip["address"] else "4", **ip} for ip in ips]
    said: dict[str, Any] = {"cniVersion": version}
    if interfaces:
        said["interfaces"] = interfaces
    said["ips"] = [dict(ip) for ip in ips]
    if routes:
        said["routes"] = routes
    said["dns"] = result.get("dns", {})
    return said


def _ip4_ip6(
    result: Mapping[str, Any], version: str, ips: Sequence[Mapping[str, Any]], routes: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any]:
    """0.1.0 and 0.2.0 hold one address of each family and no interfaces."""
    said: dict[str, Any] = {"cniVersion": version}
    for key, six in (("ip4", False), ("ip6", True)):
        mine = [ip for ip in ips if (":" in ip["address"]) == six]
        if mine:
            said[key] = {"ip": mine[0]["address"]}
            via = [dict(route) for route in routes if (":" in str(route.get("dst"))) == six]
            if via:
                said[key]["routes"] = via
    said["dns"] = result.get("dns", {})
    return said


def addresses_of(result: Mapping[str, Any]) -> tuple[str, ...]:
    """Bare addresses of a result of any version; ignores what has no shape."""
    found = []
    ips = result.get("ips")
    for ip in ips if isinstance(ips, list) else ():
        if isinstance(ip, dict) and isinstance(ip.get("address"), str):
            found.append(ip["address"])
    for key in ("ip4", "ip6"):
        ip = result.get(key)
        if isinstance(ip, dict) and isinstance(ip.get("ip"), str):
            found.append(ip["ip"])
    return tuple(address.partition("/")[0] for address in found)


def routes_of(result: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Routes of a result of any version."""
    found = []
    for holder in (result, result.get("ip4"), result.get("ip6")):
        routes = holder.get("routes") if isinstance(holder, dict) else None
        found += [route for route in routes or () if isinstance(route, dict) and isinstance(route.get("dst"), str)]
    return tuple(found)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
