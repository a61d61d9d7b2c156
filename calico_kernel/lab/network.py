"""Build the wires of a lab: a namespace for each host and router, a segment for each rack, routes between them.

In:    a Topology.   Out: namespaces in /run/netns, to calico_kernel.lab.hosts.
Owns:  every namespace named host-*, router-* and core in this bubble. Runs inside the bubble only.

    node1 ─┐                                            ┌─ node3
    node2 ─┤ br0 router-rack1 ── core ── router-rack2 br0
                                  │ br0
                          outside, the server
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from ipaddress import ip_network

from calico_kernel.errors import CalicoError, UnsupportedError
from calico_kernel.host import bubble, netns
from calico_kernel.host.programs import which
from calico_kernel.lab import servers
from calico_kernel.lab.topology import CORE, Host, Segment, Topology, router_name

UPLINK = "eth0"
BRIDGE = "br0"
BLOCK_TABLE = 100
"""Routing table of the routers that knows address blocks; consulted for what comes from the outside only."""

PROGRAMS = {
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "iptables-restore": "iptables",
    "ipset": "ipset",
    "conntrack": "conntrack",
}

SERVER_WIRE = ("169.254.250.1/30", "169.254.250.2/30")
"""Between the bubble's own network, where the lab itself reads and writes, and the server's host."""

_FORWARDING = (
    ("/proc/sys/net/ipv4/ip_forward", "1"),
    ("/proc/sys/net/ipv6/conf/all/forwarding", "1"),
)
_NO_DAD = (  # addresses are usable at once: nobody else can have them
    ("/proc/sys/net/ipv6/conf/all/accept_dad", "0"),
    ("/proc/sys/net/ipv6/conf/default/accept_dad", "0"),
)


class LabError(CalicoError):
    """The lab could not be built or used."""


def check_programs(datastore: str) -> None:
    """Raises UnsupportedError with the exact install line when a program is missing."""
    needed = {**PROGRAMS, **servers.PACKAGES.get(datastore, {})}
    missing = sorted({package for program, package in needed.items() if which(program) is None})
    if missing:
        raise UnsupportedError(
            what=f"programs that a lab needs are missing ({', '.join(missing)})",
            todo=f"sudo apt-get install -y --no-install-recommends {' '.join(missing)}",
        )
    servers.check(datastore)


def ip_batch(namespace: str, lines: Iterable[str]) -> None:
    """Run ip(8) commands, one a line, in a namespace by one process. Raises LabError with what ip said."""
    _ip(["-n", namespace, "-batch", "-"], "\n".join(lines) + "\n", namespace)


def _ip(arguments: Sequence[str], text: str, namespace: str) -> None:
    line = [which("ip") or "ip", *arguments]
    done = subprocess.run(line, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(
            what=f"ip failed in namespace {namespace}: {done.stderr.strip() or done.returncode}",
            todo="look whether this kernel has veth, bridge and IPv6; `calico lab down` clears the rest away",
        )


def ip6_rule(namespace: str, interface: str) -> None:
    """The same as the IPv4 rule of the batch: a batch cannot say which family a rule without address is of."""
    _ip(["-6", "-n", namespace, "rule", "add", "iif", interface, "lookup", str(BLOCK_TABLE)], "", namespace)


def build(topology: Topology) -> None:
    """Everything up to hosts that reach each other."""
    routers = [router_name(rack) for rack in topology.racks]
    hosts = [*topology.nodes, *_beyond(topology)]
    for name in (CORE, *routers):
        _namespace(name, forwarding=True)
    for host in hosts:
        _namespace(host.netns, forwarding=bool(host.rack))
    _core(topology)
    for rack in topology.racks:
        _rack_router(topology, rack, [host for host in topology.nodes if host.rack == rack.name])
    racks = {rack.name: rack for rack in topology.racks}
    for host in hosts:
        _host(host, racks.get(host.rack, topology.outside_segment), topology.mtu_bytes)
    if topology.server is not None:
        _wire_to_server(topology.server)


def set_block_routes(
    topology: Topology, blocks: Sequence[tuple[str, str]], previous: Sequence[tuple[str, str]]
) -> None:
    """Let the routers know which node holds which block ((prefix, node) pairs).

    For a pool with a tunnel they use it for packets from the outside only: between racks they forward nothing that
    bears a workload's address, like a network that was not told of it, and what arrives has come through the tunnel.
    For a pool without one they forward it all, as a network that takes part in routing.
    """
    nodes = {host.name: host for host in topology.nodes}
    racks = {rack.name: rack for rack in topology.racks}
    per_router: dict[str, list[str]] = {}
    gone = set(previous) - set(blocks)
    for verb, pairs in (("del", sorted(gone)), ("replace", sorted(set(blocks)))):
        for prefix, node in pairs:
            host = nodes.get(node)
            if host is None:
                continue
            six = ":" in prefix
            rack = racks[host.rack]
            table = BLOCK_TABLE if _tunnelled(topology, prefix) else "main"
            routes = per_router.setdefault(router_name(rack), [])
            routes.append(f"route {verb} {prefix} via {host.ipv6 if six else host.ipv4} table {table}")
            routes = per_router.setdefault(CORE, [])
            routes.append(f"route {verb} {prefix} via {_link(rack, six)[1]} table {table}")
    for router, lines in per_router.items():
        ip_batch(router, lines)


def _tunnelled(topology: Topology, prefix: str) -> bool:
    address = ip_network(prefix)[0]
    return any(pool.vxlan_mode != "Never" for pool in topology.pools if address in ip_network(pool.cidr))


def _namespace(name: str, *, forwarding: bool) -> None:
    netns.create(name)

    def settle() -> None:
        bubble.loopback_up()
        for path, value in (*_NO_DAD, *(_FORWARDING if forwarding else ())):
            with open(path, "w") as file:
                file.write(value)

    netns.run_in(name, settle)


def _link(rack: Segment, six: bool) -> tuple[str, str]:
    """Addresses of the core's and of the rack router's end of their link."""
    if six:
        return f"fd00:172:31:{rack.number}::1", f"fd00:172:31:{rack.number}::2"
    return f"172.31.{rack.number}.1", f"172.31.{rack.number}.2"


def _bridge(segment: Segment, mtu: int) -> list[str]:
    return [
        f"link add {BRIDGE} mtu {mtu} type bridge",
        f"link set {BRIDGE} up",
        f"addr add {segment.router4}/24 dev {BRIDGE}",
        f"addr add {segment.router6}/64 dev {BRIDGE} nodad",
    ]


def _port(host: Host, mtu: int) -> list[str]:
    """A host's wire into the bridge of the router at hand."""
    port = f"to-{host.name}"[:15]
    return [
        f"link add {port} mtu {mtu} type veth peer name {UPLINK} mtu {mtu} netns {host.netns}",
        f"link set {port} master {BRIDGE}",
        f"link set {port} up",
    ]


def _core(topology: Topology) -> None:
    mtu = topology.mtu_bytes
    lines = [*_bridge(topology.outside_segment, mtu), f"rule add iif {BRIDGE} lookup {BLOCK_TABLE}"]
    for host in _beyond(topology):
        lines += _port(host, mtu)
    for rack in topology.racks:
        near, far = _link(rack, six=False)
        near6, far6 = _link(rack, six=True)
        lines += [
            f"link add rack{rack.number} mtu {mtu} type veth peer name core mtu {mtu} netns {router_name(rack)}",
            f"link set rack{rack.number} up",
            f"addr add {near}/30 dev rack{rack.number}",
            f"addr add {near6}/64 dev rack{rack.number} nodad",
            f"route add {rack.ipv4} via {far}",
            f"route add {rack.ipv6} via {far6} dev rack{rack.number}",
        ]
    ip_batch(CORE, lines)
    ip6_rule(CORE, BRIDGE)


def _beyond(topology: Topology) -> list[Host]:
    """Every host of the outside segment."""
    return [*topology.outside, *([topology.server] if topology.server is not None else [])]


def _wire_to_server(server: Host) -> None:
    """So that the lab's own process reaches the server by the address that nodes use."""
    here, there = SERVER_WIRE
    lines = [
        f"link add to-{server.name} type veth peer name lab netns {server.netns}",
        f"link set to-{server.name} up",
        f"addr add {here} dev to-{server.name}",
        f"route add {server.ipv4}/32 dev to-{server.name} src {here.partition('/')[0]}",
    ]
    _ip(["-batch", "-"], "\n".join(lines) + "\n", "of the lab itself")
    ip_batch(server.netns, ["link set lab up", f"addr add {there} dev lab"])


def _rack_router(topology: Topology, rack: Segment, members: Sequence[Host]) -> None:
    mtu = topology.mtu_bytes
    near, far = _link(rack, six=False)
    near6, far6 = _link(rack, six=True)
    lines = [
        *_bridge(rack, mtu),
        "link set core up",
        f"rule add iif core lookup {BLOCK_TABLE}",
        f"addr add {far}/30 dev core",
        f"addr add {far6}/64 dev core nodad",
        f"route add default via {near}",
        f"route add ::/0 via {near6} dev core",
    ]
    for host in members:
        lines += _port(host, mtu)
    ip_batch(router_name(rack), lines)
    ip6_rule(router_name(rack), "core")


def _host(host: Host, segment: Segment, mtu: int) -> None:
    ip_batch(
        host.netns,
        [
            f"link set {UPLINK} mtu {mtu} up",
            f"addr add {host.ipv4}/24 dev {UPLINK}",
            f"addr add {host.ipv6}/64 dev {UPLINK} nodad",
            f"route add default via {segment.router4}",
            f"route add ::/0 via {segment.router6} dev {UPLINK}",
        ],
    )
