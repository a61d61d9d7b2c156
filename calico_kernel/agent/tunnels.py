"""Give this node the tunnel addresses that its pools' encapsulations need, and take them back when no pool does.

In:    every delta (pools, needs).   Out: addresses from IPAM, under Calico's handles, and the Node resource.
Calico: ``node/pkg/allocateip``. A tunnel address comes from an enabled pool of that encapsulation that selects the
node.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Sequence

import attrs
import msgspec

from calico_kernel import selector
from calico_kernel.agent.upkeep import Upkeep
from calico_kernel.errors import NotFound, RevisionConflict
from calico_kernel.hookspecs import Datastore, Ipam
from calico_kernel.model.endpoints import Node, NodeBGPSpec, NodeSpec
from calico_kernel.model.ipam import AssignRequest
from calico_kernel.model.keys import ResourceKey, ResourceQuery
from calico_kernel.model.names import tunnel_handle
from calico_kernel.model.network import IPPool, IPPoolSpec
from calico_kernel.model.nodestate import Delta

log = logging.getLogger(__name__)


@attrs.frozen
class Tunnel:
    """One kind of tunnel address: of its handle, its IPAM type attribute, its pools, its place in the Node."""

    kind: str
    type: str
    version: int
    serves: Callable[[IPPoolSpec], bool]
    read: Callable[[NodeSpec], str]
    write: Callable[[NodeSpec, str], NodeSpec]


def _write_ipip(spec: NodeSpec, address: str) -> NodeSpec:
    bgp = msgspec.structs.replace(spec.bgp or NodeBGPSpec(), ipv4_ipip_tunnel_addr=address)
    return msgspec.structs.replace(spec, bgp=None if bgp == NodeBGPSpec() else bgp)


def _enabled(mode: str) -> bool:
    return mode not in ("", "Never")


TUNNELS = (
    Tunnel(
        kind="vxlan",
        type="vxlanTunnelAddress",
        version=4,
        serves=lambda pool: _enabled(pool.vxlan_mode),
        read=lambda spec: spec.ipv4_vxlan_tunnel_addr,
        write=lambda spec, address: msgspec.structs.replace(spec, ipv4_vxlan_tunnel_addr=address),
    ),
    Tunnel(
        kind="vxlan-v6",
        type="vxlanV6TunnelAddress",
        version=6,
        serves=lambda pool: _enabled(pool.vxlan_mode),
        read=lambda spec: spec.ipv6_vxlan_tunnel_addr,
        write=lambda spec, address: msgspec.structs.replace(spec, ipv6_vxlan_tunnel_addr=address),
    ),
    Tunnel(
        kind="ipip",
        type="ipipTunnelAddress",
        version=4,
        serves=lambda pool: _enabled(pool.ipip_mode),
        read=lambda spec: spec.bgp.ipv4_ipip_tunnel_addr if spec.bgp else "",
        write=_write_ipip,
    ),
)


class TunnelAddresses(Upkeep):
    def __init__(self, node: str, store: Datastore, ipam: Ipam) -> None:
        super().__init__("tunnels", node, store)
        self._ipam = ipam

    def concerns(self, delta: Delta) -> bool:
        own = (
            self._node in delta.hosts.upserts or self._node in delta.vteps.upserts or self._node in delta.vteps.removes
        )
        return bool(delta.full or delta.pools or delta.needs is not None or own)

    def work(self) -> None:
        records = self._store.list([ResourceQuery("IPPool")]).records
        pools = [record.value for record in records if isinstance(record.value, IPPool)]
        try:
            record = self._store.get(ResourceKey("Node", "", self._node))
        except NotFound:
            return
        node = record.value
        if not isinstance(node, Node):
            return
        spec = node.spec
        for tunnel in TUNNELS:
            spec = tunnel.write(spec, self._address(tunnel, pools, node))
        if spec == node.spec:
            return
        try:
            self._store.update(record.key, msgspec.structs.replace(node, spec=spec), revision=record.revision)
        except RevisionConflict:
            self.again()  # somebody else wrote the Node

    def _address(self, tunnel: Tunnel, pools: Sequence[IPPool], node: Node) -> str:
        """The address to have; assigns or releases as needed."""
        cidrs = [pool.spec.cidr for pool in pools if self._usable(pool, tunnel, node)]
        handle = tunnel_handle(self._node, tunnel.kind)
        held = self._ipam.addresses_by_handle(handle)
        networks = [ipaddress.ip_network(cidr) for cidr in cidrs]
        good = [one for one in held if any(one.address in network for network in networks)]
        if good:
            current = tunnel.read(node.spec)
            return current if any(str(a.address) == current for a in good) else str(good[0].address)
        if held:
            self._ipam.release_by_handle(handle)
            log.info("gave back the %s: no pool needs it", tunnel.type)
        if not cidrs:
            return ""
        assigned = self._ipam.assign(
            AssignRequest(
                handle=handle,
                node=self._node,
                num_ipv4=1 if tunnel.version == 4 else 0,
                num_ipv6=1 if tunnel.version == 6 else 0,
                pools_ipv4=tuple(cidrs) if tunnel.version == 4 else (),
                pools_ipv6=tuple(cidrs) if tunnel.version == 6 else (),
                attributes={"node": self._node, "type": tunnel.type},
                intended_use="Tunnel",
            )
        )
        address = str(assigned.addresses[0].address)
        log.info("%s is %s", tunnel.type, address)
        return address

    @staticmethod
    def _usable(pool: IPPool, tunnel: Tunnel, node: Node) -> bool:
        spec = pool.spec
        if spec.disabled or not tunnel.serves(spec) or ipaddress.ip_network(spec.cidr).version != tunnel.version:
            return False
        if spec.allowed_uses and "Tunnel" not in spec.allowed_uses:
            return False
        return selector.parse(spec.node_selector or "all()").evaluate(node.metadata.labels)
