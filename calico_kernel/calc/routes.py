"""Routes: what lies behind each prefix of the cluster, seen from this node.

Four sources say something of a prefix: pools, IPAM blocks (and single addresses borrowed from them), node addresses,
and references (local workloads, tunnel ends). What is known of all prefixes that contain one is put together for it.
A block's prefix is known by its text; containing prefixes are found by masking with the lengths in use.

In:   pools, blocks, nodes, addresses of workloads.   Out: ``Route`` values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_network

import attrs

from calico_kernel.calc.addresses import IpNetwork
from calico_kernel.calc.nodes import NodeInfo
from calico_kernel.calc.outbox import Outbox
from calico_kernel.calc.pools import PoolInfo
from calico_kernel.model.ipam import AllocationBlock
from calico_kernel.model.nodestate import Encapsulation, Route, RouteKind

_Prefix = tuple[int, int, int]
"""(IP version, network address as a number, length)."""

_WORKLOAD, _TUNNEL = 0, 1

_MOST_TRIED = 4096


@attrs.define(slots=True, eq=False)
class _Known:
    """What the sources say of one prefix."""

    pool: PoolInfo | None = None
    blocks: dict[str, str] = attrs.field(factory=dict)
    """Block CIDR -> node: of the block itself, or of an address in it that another node holds."""
    hosts: set[str] = attrs.field(factory=set)
    references: dict[tuple[str, int], int] = attrs.field(factory=dict)
    """(node, workload or tunnel) -> how many."""

    def __bool__(self) -> bool:
        return bool(self.pool or self.blocks or self.hosts or self.references)


class Routes:
    def __init__(self, node: str, nodes: Mapping[str, NodeInfo]) -> None:
        self.out: Outbox[str, Route] = Outbox()
        self._node = node
        self._nodes = nodes
        self._known: dict[_Prefix, _Known] = {}
        self._lengths: dict[int, Counter[int]] = {4: Counter(), 6: Counter()}
        self._dirty: set[_Prefix] = set()
        self._of_block: dict[str, dict[_Prefix, str]] = {}
        self._of_node: dict[str, Counter[_Prefix]] = {}
        self._hosts: dict[str, NodeInfo] = {}
        self._pools: dict[str, PoolInfo] = {}
        self._workloads: dict[str, tuple[tuple[str, ...], str]] = {}
        self._from_workloads = False

    # ── inputs ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def put_pool(self, cidr: str, pool: PoolInfo | None) -> None:
        if self._pools.get(cidr) == pool:
            return
        prefix = _prefix(ip_network(cidr))
        self._entry(prefix).pool = pool
        if pool is None:
            del self._pools[cidr]
        else:
            self._pools[cidr] = pool
        self._touched(prefix)
        self._touched_within(prefix)

    def put_block(self, cidr: str, block: AllocationBlock | None) -> None:
        """Raises ValueError, and changes nothing, when its prefix does not parse."""
        new = _block_routes(block) if block is not None and not block.deleted else {}
        old = self._of_block.pop(cidr, {})
        if new:
            self._of_block[cidr] = new
        if not self._from_workloads:
            self._replace_block(cidr, old, new)

    def _replace_block(self, cidr: str, old: Mapping[_Prefix, str], new: Mapping[_Prefix, str]) -> None:
        for prefix, node in old.items():
            if new.get(prefix) != node:
                entry = self._entry(prefix)
                entry.blocks.pop(cidr, None)
                self._unreference(node, prefix)
                self._touched(prefix)
                self._touched_within(prefix)
        for prefix, node in new.items():
            if old.get(prefix) != node:
                self._entry(prefix).blocks[cidr] = node
                self._reference(node, prefix)
                self._touched(prefix)
                self._touched_within(prefix)

    def put_node(self, name: str, info: NodeInfo | None) -> None:
        old = self._hosts.pop(name, None)
        if info is not None:
            self._hosts[name] = info
        for ip in _host_addresses(info):
            prefix = _prefix(ip_network(ip))
            self._entry(prefix).hosts.add(name)
            self._touched(prefix)
        for ip in _host_addresses(old) - _host_addresses(info):
            prefix = _prefix(ip_network(ip))
            self._entry(prefix).hosts.discard(name)
            self._touched(prefix)
        self._refer(name, _TUNNEL, info.tunnels if info else (), old.tunnels if old else ())
        if name == self._node and (old is None or info is None or _subnets(old) != _subnets(info)):
            self._dirty.update(self._known)  # "same subnet" is about this node: it may differ for every route
        else:
            self._dirty.update(self._of_node.get(name, ()))

    def put_workload(self, key: str, addresses: tuple[str, ...], node: str) -> None:
        """A workload on ``node`` has these addresses; () when it is gone. Those of this node always count, those of
        other nodes in place of blocks (``from_workloads``)."""
        old_addresses, old_node = self._workloads.pop(key, ((), node))
        if addresses:
            self._workloads[key] = addresses, node
        if (old_addresses, old_node) != (addresses, node):
            self._refer(node, _WORKLOAD, addresses, ())
            self._refer(old_node, _WORKLOAD, (), old_addresses)

    @property
    def from_workloads(self) -> bool:
        """Routes to remote workloads come from their endpoints, not from IPAM blocks (Felix: RouteSource)."""
        return self._from_workloads

    @from_workloads.setter
    def from_workloads(self, wanted: bool) -> None:
        if wanted == self._from_workloads:
            return
        self._from_workloads = wanted
        for cidr, prefixes in self._of_block.items():
            self._replace_block(cidr, prefixes if wanted else {}, {} if wanted else prefixes)
        if not wanted:
            for key, (_addresses, node) in list(self._workloads.items()):
                if node != self._node:
                    self.put_workload(key, (), node)

    def _refer(self, node: str, kind: int, new: Iterable[str], old: Iterable[str]) -> None:
        for ip in new:
            prefix = _prefix(ip_network(ip))
            references = self._entry(prefix).references
            references[node, kind] = references.get((node, kind), 0) + 1
            self._reference(node, prefix)
            self._touched(prefix)
        for ip in old:
            prefix = _prefix(ip_network(ip))
            references = self._entry(prefix).references
            references[node, kind] -= 1
            if not references[node, kind]:
                del references[node, kind]
            self._unreference(node, prefix)
            self._touched(prefix)

    def _entry(self, prefix: _Prefix) -> _Known:
        entry = self._known.get(prefix)
        if entry is None:
            entry = self._known[prefix] = _Known()
            self._lengths[prefix[0]][prefix[2]] += 1
        return entry

    def _touched(self, prefix: _Prefix) -> None:
        self._dirty.add(prefix)
        if not self._known[prefix]:
            del self._known[prefix]
            lengths = self._lengths[prefix[0]]
            lengths[prefix[2]] -= 1
            if not lengths[prefix[2]]:
                del lengths[prefix[2]]

    def _touched_within(self, outer: _Prefix) -> None:
        """What is inside a prefix is routed by what the prefix says too. A block is small: its addresses are tried one
        by one. A pool is not: then every known prefix is looked at, but pools change rarely."""
        version, number, length = outer
        bits = 32 if version == 4 else 128
        longer = [known for known in self._lengths[version] if known > length]
        if sum(1 << min(known - length, 16) for known in longer) > _MOST_TRIED:
            self._dirty.update(known for known in self._known if _contains(outer, known))
            return
        for known in longer:
            step = 1 << (bits - known)
            for inner in range(number, number + (1 << (bits - length)), step):
                prefix = (version, inner, known)
                if prefix in self._known:
                    self._dirty.add(prefix)

    def _reference(self, node: str, prefix: _Prefix) -> None:
        self._of_node.setdefault(node, Counter())[prefix] += 1

    def _unreference(self, node: str, prefix: _Prefix) -> None:
        prefixes = self._of_node[node]
        prefixes[prefix] -= 1
        if not prefixes[prefix]:
            del prefixes[prefix]
            if not prefixes:
                del self._of_node[node]

    # ── results ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def resolve(self) -> None:
        for prefix in self._dirty:
            text = _text(prefix)
            self.out.set(text, self._route(prefix, text) if prefix in self._known else None)
        self._dirty.clear()

    def _containing(self, prefix: _Prefix) -> Iterator[tuple[_Prefix, _Known]]:
        """What is known of ``prefix`` and of all that contain it, the widest first."""
        version, number, length = prefix
        bits = 32 if version == 4 else 128
        for wider in sorted(self._lengths[version]):
            if wider > length:
                return
            found = (version, number >> (bits - wider) << (bits - wider), wider)
            entry = self._known.get(found)
            if entry is not None:
                yield found, entry

    def _route(self, prefix: _Prefix, text: str) -> Route:
        kind = block_kind = RouteKind.CIDR_INFO
        node = block_node = ""
        encapsulation = Encapsulation.NONE
        nat_outgoing = cross_subnet = borrowed = exact_block = has_host = has_tunnel = False
        for found, entry in self._containing(prefix):
            if entry.pool is not None:
                if entry.pool.encapsulation is not None:
                    encapsulation = entry.pool.encapsulation
                nat_outgoing |= entry.pool.nat_outgoing
                cross_subnet |= entry.pool.cross_subnet
            if entry.blocks:
                node = entry.blocks[min(entry.blocks)]
                if block_node and block_node != node:
                    borrowed = True
                else:
                    block_node = node
                exact_block |= found == prefix
                block_kind |= RouteKind.LOCAL_WORKLOAD if node == self._node else RouteKind.REMOTE_WORKLOAD
            if entry.hosts:
                node = min(entry.hosts)
                has_host = True
                kind |= RouteKind.LOCAL_HOST if node == self._node else RouteKind.REMOTE_HOST
            if entry.references:
                node, reference = min(entry.references)
                if block_node and block_node != node:
                    borrowed = True
                local = node == self._node
                if reference == _WORKLOAD:
                    kind |= RouteKind.LOCAL_WORKLOAD if local else RouteKind.REMOTE_WORKLOAD
                else:
                    has_tunnel = True
                    kind |= RouteKind.LOCAL_TUNNEL if local else RouteKind.REMOTE_TUNNEL
        if block_node and not has_host and (exact_block or not has_tunnel):
            # A host's own address is reached by its own route, and a tunnel end inside a larger block by its node's:
            # marked as workloads, they would be sent into the tunnel that they carry.
            kind |= block_kind
        version = prefix[0]
        own = self._known.get(prefix)
        return Route(
            prefix=text,
            kind=kind,
            node=node,
            node_address=self._address(node, version),
            encapsulation=encapsulation,
            cross_subnet=cross_subnet,
            same_subnet=cross_subnet and self._same_subnet(node, version),
            nat_outgoing=nat_outgoing,
            borrowed=borrowed,
            block=own is not None and text in own.blocks,
        )

    def _address(self, node: str, version: int) -> str:
        info = self._nodes.get(node)
        if info is None or node == self._node:
            return ""
        return info.ipv4 if version == 4 else info.ipv6

    def _same_subnet(self, node: str, version: int) -> bool:
        mine, other = self._nodes.get(self._node), self._nodes.get(node)
        if mine is None or other is None:
            return False
        subnet, address = (mine.subnet_ipv4, other.ipv4) if version == 4 else (mine.subnet_ipv6, other.ipv6)
        return bool(subnet and address) and _contains(_prefix(ip_network(subnet)), _prefix(ip_network(address)))


def _block_routes(block: AllocationBlock) -> dict[_Prefix, str]:
    """Prefix -> node: the block for the node that it is affine to, and each address that another node holds."""
    net = ip_network(block.cidr)
    kind, _, owner = (block.affinity or "").partition(":")
    node = owner if kind in ("host", "virtual") else ""
    routes: dict[_Prefix, str] = {}
    bits = net.max_prefixlen
    first = int(net.network_address)
    holders = [(attributes.secondary or {}).get("node", "") for attributes in block.attributes]
    for ordinal, index in enumerate(block.allocations):
        if index is None or not 0 <= index < len(holders):
            continue
        holder = holders[index]
        if holder and holder != node:
            routes[net.version, first + ordinal, bits] = holder
    if node:
        routes[_prefix(net)] = node
    return routes


def _host_addresses(info: NodeInfo | None) -> set[str]:
    if info is None:
        return set()
    return {ip for ip in (info.ipv4, info.ipv6, *info.others) if ip and ip not in ("0.0.0.0", "::")}


def _subnets(info: NodeInfo) -> tuple[str, str]:
    return info.subnet_ipv4, info.subnet_ipv6


def _prefix(net: IpNetwork) -> _Prefix:
    return net.version, int(net.network_address), net.prefixlen


def _contains(outer: _Prefix, inner: _Prefix) -> bool:
    if outer[0] != inner[0] or outer[2] > inner[2]:
        return False
    shift = (32 if outer[0] == 4 else 128) - outer[2]
    return outer[1] >> shift == inner[1] >> shift


def _text(prefix: _Prefix) -> str:
    version, number, length = prefix
    if version == 4:
        return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}/{length}"
    return str(ip_network((number, length)))
