"""A node of real network namespaces: workloads behind ``cali`` interfaces, and an outside host.

In:   numbers of workloads.   Out: namespaces, addresses and resources, to ``calico_kernel.testing.dataplane``.
Owns: the namespaces that it makes; ``close`` removes them. Runs in a bubble only.

    w1 ── cali001 ─┐
    w2 ── cali002 ─┤ node ── eth0 ─────── eth0 ── outside
    w3 ── cali003 ─┘      172.30.0.1   172.30.0.254   (also other clients, and the workloads of other nodes)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from random import Random

import attrs

from calico_kernel.errors import UnsupportedError
from calico_kernel.host import bubble, netlink, netns, sysctl
from calico_kernel.model.endpoints import Node, NodeBGPSpec, NodeSpec, WorkloadEndpoint
from calico_kernel.model.meta import ObjectMeta, Resource
from calico_kernel.policy.matching import Packet
from calico_kernel.testing import generators
from calico_kernel.testing.probes import Probe, Prober

NODE = "n1"
OTHER_NODE = "n2"
UPLINK = "eth0"
NODE_ADDRESSES = {4: "172.30.0.1", 6: "fd00:172:30::1"}
GATEWAYS = {4: "172.30.0.254", 6: "fd00:172:30::fe"}
_NODAD = 0x02
_LINK_SCOPE, _HOST_BITS = 253, {4: 32, 6: 128}


@attrs.frozen
class Place:
    """Where packets start and end. ``number``: of a workload; 0 for the node and the outside."""

    namespace: str
    number: int = 0
    interface: str = ""


class NodeWorld:
    """``local``: numbers of the workloads here; ``remote``: of those that other nodes have (they answer outside)."""

    versions: Sequence[int] = (4, 6)

    def __init__(self, name: str, *, local: Sequence[int] = (1, 2, 3), remote: Sequence[int] = (4, 5)) -> None:
        self.name = name
        self.local: Sequence[int] = tuple(local)
        self.remote: Sequence[int] = tuple(remote)
        self.namespace = name
        self.outside = f"{name}-out"
        self._made: list[str] = []
        self._prober: Prober | None = None
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._prober is not None:
            self._prober.close()
        for namespace in reversed(self._made):
            netns.delete(namespace)
        self._made.clear()

    # ── wires ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _build(self) -> None:
        for namespace in (self.namespace, self.outside):
            self._make(namespace)
        netns.run_in(self.namespace, self._build_node)
        for number in self.local:
            self._make(self.workload_namespace(number))
            self.plug(number)

    def _make(self, namespace: str) -> None:
        netns.create(namespace)
        self._made.append(namespace)
        netns.run_in(namespace, _prepare)

    def workload_namespace(self, number: int) -> str:
        return f"{self.name}-w{number}"

    def _build_node(self) -> None:
        sysctl.write("net/ipv4/ip_forward", "1")
        sysctl.write("net/ipv6/conf/all/forwarding", "1")
        # Connection tracking sums UDP-Lite with UDP's protocol number (seen on Linux 6.18, with the kernel's own
        # sockets too), so a right checksum makes the packet "invalid": dropped before any policy is asked.
        with contextlib.suppress(OSError):
            sysctl.write("net/netfilter/nf_conntrack_checksum", "0")
        with netlink.Netlink() as nl:
            outside = netns.open_fd(self.outside)
            try:
                nl.run(netlink.add_veth(UPLINK, UPLINK, peer_netns_fd=outside, up=True))
            finally:
                os.close(outside)
            uplink = nl.link(UPLINK)
            assert uplink is not None
            _give(nl, uplink.index, {4: f"{NODE_ADDRESSES[4]}/24", 6: f"{NODE_ADDRESSES[6]}/64"})
            nl.run(
                *(
                    netlink.replace_route(netlink.RouteEntry(net, ifindex=uplink.index, gateway=GATEWAYS[version]))
                    for version, net in ((4, "0.0.0.0/0"), (6, "::/0"))
                )
            )
            theirs = netns.run_in(self.outside, partial(self._build_outside, uplink.mac))
            # Known neighbours: the first burst of probes must not wait, or overflow, while they are asked for.
            nl.run(*(netlink.replace_neighbour(netlink.Neighbour(uplink.index, g, theirs)) for g in GATEWAYS.values()))

    def _build_outside(self, node_mac: str) -> str:
        with netlink.Netlink() as nl:
            uplink, loopback = nl.link(UPLINK), nl.link("lo")
            assert uplink is not None and loopback is not None
            nl.run(netlink.set_link(uplink.index, up=True))
            _give(nl, uplink.index, {4: f"{GATEWAYS[4]}/24", 6: f"{GATEWAYS[6]}/64"})
            for version in (4, 6):
                nl.run(
                    netlink.replace_neighbour(netlink.Neighbour(uplink.index, NODE_ADDRESSES[version], node_mac)),
                    netlink.replace_route(
                        netlink.RouteEntry(
                            generators.WORKLOAD_NETS[version], ifindex=uplink.index, gateway=NODE_ADDRESSES[version]
                        )
                    ),
                )
                theirs = [generators.workload_address(number, version) for number in self.remote]
                for address in (*generators.OUTSIDE[version], *theirs):
                    _give(nl, loopback.index, {version: f"{address}/{_HOST_BITS[version]}"})
            return uplink.mac

    def plug(self, number: int) -> None:
        """Make the interface pair of workload ``number``, as the CNI plugin does."""
        netns.run_in(self.namespace, partial(self._plug, number))

    def unplug(self, number: int) -> None:
        """Delete the interface pair of workload ``number``; its namespace stays."""

        def delete() -> None:
            with netlink.Netlink() as nl:
                link = nl.link(interface_of(number))
                assert link is not None
                nl.run(netlink.delete_link(link.index))

        netns.run_in(self.namespace, delete)

    def _plug(self, number: int) -> None:
        interface, namespace = interface_of(number), self.workload_namespace(number)
        addresses = {version: generators.workload_address(number, version) for version in (4, 6)}
        with netlink.Netlink() as nl:
            inside = netns.open_fd(namespace)
            try:
                nl.run(netlink.add_veth(interface, UPLINK, peer_netns_fd=inside, up=True))
            finally:
                os.close(inside)
            link = nl.link(interface)
            assert link is not None
            for key, value in (
                (f"net/ipv4/conf/{interface}/proxy_arp", "1"),
                (f"net/ipv4/neigh/{interface}/proxy_delay", "0"),
                (f"net/ipv6/conf/{interface}/forwarding", "1"),
            ):
                sysctl.write(key, value)
            mac = netns.run_in(namespace, lambda: _inside(addresses, link.mac))
            for version, address in addresses.items():
                prefix, scope = f"{address}/{_HOST_BITS[version]}", _LINK_SCOPE if version == 4 else 0
                nl.run(netlink.replace_route(netlink.RouteEntry(prefix, ifindex=link.index, scope=scope)))
                nl.run(netlink.replace_neighbour(netlink.Neighbour(link.index, address, mac)))

    # ── what lives here, as resources ─────────────────────────────────────────────────────────────────────────────────

    def nodes(self) -> list[Resource]:
        bgp = NodeBGPSpec(ipv4_address=f"{NODE_ADDRESSES[4]}/24", ipv6_address=f"{NODE_ADDRESSES[6]}/64")
        return [Node(metadata=ObjectMeta(name=NODE), spec=NodeSpec(bgp=bgp))]

    def workload(self, rng: Random, number: int, *, flaws: bool = False) -> WorkloadEndpoint:
        """Workload ``number`` with random labels, profiles and ports."""
        here = number in self.local
        node, interface = (NODE, interface_of(number)) if here else (OTHER_NODE, "")
        return generators.workload(rng, number, node=node, interface=interface, flaws=flaws)

    # ── packets ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def prober(self) -> Prober:
        return Prober([self.namespace, self.outside, *map(self.workload_namespace, self.local)])

    def ends(self, *, node: bool = False) -> dict[str, str]:
        """Address -> namespace where it answers; with ``node`` also the node's own."""
        numbers = {number: self.workload_namespace(number) for number in self.local}
        numbers |= dict.fromkeys(self.remote, self.outside)
        found = {
            generators.workload_address(number, version): namespace
            for number, namespace in numbers.items()
            for version in self.versions
        }
        found |= {address: self.outside for version in self.versions for address in generators.OUTSIDE[version]}
        if node:
            found |= {NODE_ADDRESSES[version]: self.namespace for version in self.versions}
        return found

    def probe(self, packet: Packet, *, one_way: bool = False) -> Probe:
        return Probe(self.ends(node=True)[str(packet.source)], packet, one_way)

    def measure(
        self,
        packets: Sequence[Packet],
        expected: Sequence[bool] | None = None,
        one_way: Collection[Packet] = (),
    ) -> list[bool]:
        """Which of ``packets`` get through; ``expected`` makes it faster where they agree. Of those in ``one_way`` no
        answer is wanted."""
        if self._prober is None:
            self._prober = self.prober()
        return self._prober.measure([self.probe(p, one_way=p in one_way) for p in packets], expected)

    @contextlib.contextmanager
    def stream(self, packets: Sequence[Packet], expected: Sequence[bool]) -> Iterator[list[list[bool]]]:
        """Send ``packets`` as new flows again and again while the body runs; yields the list of rounds, each with what
        got through (what is ``expected`` to is waited for). The rounds are complete when the body has ended."""
        rounds: list[list[bool]] = []
        stop = threading.Event()
        prober = self.prober()
        probes = [self.probe(packet) for packet in packets]

        def run() -> None:
            while not stop.is_set():
                rounds.append(prober.measure(probes, expected, quiet_s=0.02))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield rounds
        finally:
            stop.set()
            thread.join()
            prober.close()

    # ── what others see and do on the node ────────────────────────────────────────────────────────────────────────────

    def snapshot(self) -> list[str]:
        """Every rule, chain and set on the node, without counters and without what is there on an untouched one."""
        return netns.run_in(self.namespace, _snapshot)

    def add_foreign(self) -> None:
        """Rules and a set of somebody else's, before and between ours."""

        def add() -> None:
            for program in ("iptables", "ip6tables"):
                for line in _FOREIGN_RULES:
                    subprocess.run([_program(program), *line.split()], check=True)
            subprocess.run([_program("ipset"), "create", "other-people", "hash:net"], check=True)

        netns.run_in(self.namespace, add)

    def foreign(self) -> list[str]:
        """The part of ``snapshot`` that ``add_foreign`` made."""
        return [line for line in self.snapshot() if "other-people" in line or "OTHER" in line]

    def flush(self) -> None:
        """Somebody deletes every rule."""

        def run() -> None:
            for program in ("iptables", "ip6tables"):
                for backend in ("legacy", "nft"):
                    found = shutil.which(f"{program}-{backend}", path=_PATH)
                    if found and any(line.startswith("-A") for line in _saved(program, backend)):
                        subprocess.run([found, "-F"], check=True)

        netns.run_in(self.namespace, run)


_PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
_FOREIGN_RULES = (
    "-N OTHER",
    "-A OTHER -p tcp --dport 9999 -j RETURN",
    "-A FORWARD -m comment --comment other-people -j OTHER",
    "-A INPUT -p udp --dport 9999 -m comment --comment other-people -j DROP",
    "-t mangle -A PREROUTING -p udp --dport 9998 -m comment --comment other-people -j DROP",
)


def _program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise UnsupportedError(what=f"{name} is not installed", todo="apt-get install iptables ipset")
    return found


def _saved(program: str, backend: str) -> list[str]:
    found = shutil.which(f"{program}-{backend}-save", path=_PATH)
    if found is None:
        return []
    text = subprocess.run([found], capture_output=True, text=True, check=True).stdout
    # What is left after a chain's counters; built-in chains and tables exist, or not, whoever looked first.
    lines = [line.split(" [")[0] if line.startswith(":") else line for line in text.splitlines()]
    return [line for line in lines if line.startswith("-A") or (line.startswith(":") and line.endswith(" -"))]


def _snapshot() -> list[str]:
    lines = [
        f"{program}-{backend} {line}"
        for program in ("iptables", "ip6tables")
        for backend in ("legacy", "nft")
        for line in _saved(program, backend)
    ]
    ipset, nft = shutil.which("ipset", path=_PATH), shutil.which("nft", path=_PATH)
    if ipset:
        text = subprocess.run([ipset, "save"], capture_output=True, text=True, check=True).stdout
        lines += sorted(f"ipset {line}" for line in text.splitlines())
    if nft:
        text = subprocess.run([nft, "list", "tables"], capture_output=True, text=True, check=False).stdout
        built_in = {"filter", "nat", "mangle", "raw", "security"}  # iptables-nft makes these when it looks
        lines += sorted(f"nft {line}" for line in text.splitlines() if line.split()[-1] not in built_in)
    return lines


def interface_of(number: int) -> str:
    return f"cali{number:03d}"


def _prepare() -> None:
    bubble.loopback_up()
    for name in ("all", "default"):
        sysctl.write(f"net/ipv6/conf/{name}/accept_dad", "0")
    for name in ("all", "default", "lo"):
        sysctl.write(f"net/ipv6/conf/{name}/disable_ipv6", "0")


def _give(nl: netlink.Netlink, ifindex: int, addresses: dict[int, str]) -> None:
    for version, text in addresses.items():
        address, length = text.split("/")
        flags = _NODAD if version == 6 else 0
        nl.run(netlink.add_address(netlink.InterfaceAddress(ifindex, address, int(length), flags=flags)))


def _inside(addresses: dict[int, str], node_mac: str) -> str:
    """A workload's own end, as the CNI plugin sets it up: no subnet, everything through the node. Returns its MAC."""
    with netlink.Netlink() as nl:
        own = nl.link(UPLINK)
        assert own is not None
        nl.run(netlink.set_link(own.index, up=True))
        _give(nl, own.index, {version: f"{address}/{_HOST_BITS[version]}" for version, address in addresses.items()})
        for gateway, everything in (("169.254.1.1", "0.0.0.0/0"), ("fe80::1", "::/0")):
            nl.run(netlink.replace_neighbour(netlink.Neighbour(own.index, gateway, node_mac)))
            if gateway == "169.254.1.1":
                nl.run(netlink.replace_route(netlink.RouteEntry(f"{gateway}/32", ifindex=own.index, scope=_LINK_SCOPE)))
            nl.run(netlink.replace_route(netlink.RouteEntry(everything, ifindex=own.index, gateway=gateway)))
        return own.mac
