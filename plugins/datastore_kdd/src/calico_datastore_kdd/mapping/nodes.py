"""Kubernetes' Nodes as ours.

In:    Nodes, whose annotations hold what Calico knows of them.
Out:   Node records; with host-local IPAM also the blocks that their podCIDRs are; and annotations, to write one.

A node's labels are Kubernetes' labels over Calico's own, which stand in an annotation. So that a node that was read can
be written back, the annotation ``projectcalico.org/kube-labels`` of the record says which ones are Kubernetes'. To
create or update a node is to set the annotations of a Kubernetes Node; to delete it takes them away. An annotation with
a value that makes no sense is as if it were not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any

import msgspec
from msgspec import field
from msgspec import json as mjson

from calico_datastore_kdd.collection import Collection, Place, Request, Selection
from calico_datastore_kdd.mapping.family import Family, annotating, decoded
from calico_datastore_kdd.mapping.reading import Made, PlainMeta, PlainReader
from calico_kernel.model import codec
from calico_kernel.model.endpoints import (
    Node,
    NodeAddress,
    NodeBGPSpec,
    NodeInterface,
    NodeSpec,
    NodeStatus,
    NodeWireguardSpec,
    OrchRef,
)
from calico_kernel.model.formats import CHECKS, canonical_as_number
from calico_kernel.model.ipam import AllocationBlock
from calico_kernel.model.keys import BlockKey, BlockQuery, Key, Query, ResourceKey, ResourceQuery
from calico_kernel.model.meta import ObjectMeta, Wire
from calico_kernel.model.records import Value

_OURS = "projectcalico.org/"
LABELS, ANNOTATIONS = f"{_OURS}labels", f"{_OURS}annotations"
KUBERNETES_LABELS = f"{_OURS}kube-labels"
INTERFACES = f"{_OURS}Interfaces"
AS_NUMBER = f"{_OURS}ASNumber"
ADDRESS_V4, ADDRESS_V6 = f"{_OURS}IPv4Address", f"{_OURS}IPv6Address"
REFLECTOR = f"{_OURS}RouteReflectorClusterID"
IPIP_ADDRESS = f"{_OURS}IPv4IPIPTunnelAddr"
VXLAN_ADDRESS_V4, VXLAN_ADDRESS_V6 = f"{_OURS}IPv4VXLANTunnelAddr", f"{_OURS}IPv6VXLANTunnelAddr"
VXLAN_MAC_V4, VXLAN_MAC_V6 = f"{_OURS}VXLANTunnelMACAddr", f"{_OURS}VXLANTunnelMACAddrV6"
WIREGUARD_ADDRESS_V4 = f"{_OURS}IPv4WireguardInterfaceAddr"
WIREGUARD_ADDRESS_V6 = f"{_OURS}IPv6WireguardInterfaceAddr"
WIREGUARD_KEY_V4, WIREGUARD_KEY_V6 = f"{_OURS}WireguardPublicKey", f"{_OURS}WireguardPublicKeyV6"
_FORMATS = {
    ADDRESS_V4: "cidrv4",
    ADDRESS_V6: "cidrv6",
    REFLECTOR: "ipv4",
    IPIP_ADDRESS: "ipv4",
    VXLAN_ADDRESS_V4: "ipv4",
    VXLAN_ADDRESS_V6: "ipv6",
    VXLAN_MAC_V4: "mac",
    VXLAN_MAC_V6: "mac",
    WIREGUARD_ADDRESS_V4: "ipv4",
    WIREGUARD_ADDRESS_V6: "ipv6",
}


class _Spec(Wire):
    pod_cidr: str = field(default="", name="podCIDR")
    pod_cidrs: tuple[str, ...] = field(default=(), name="podCIDRs")


class _Status(Wire):
    addresses: tuple[NodeAddress, ...] = ()


class KubernetesNode(Wire):
    """The part of a Node that Calico looks at."""

    metadata: PlainMeta = PlainMeta()
    spec: _Spec = _Spec()
    status: _Status = _Status()


_text_map = mjson.Decoder(dict[str, str])
_interfaces = mjson.Decoder(tuple[NodeInterface, ...])


def node_of(item: KubernetesNode, *, use_pod_cidr: bool) -> Node:
    meta, annotations = item.metadata, item.metadata.annotations
    labels = {**_map(annotations, LABELS), **meta.labels}
    kubernetes = codec.to_json(meta.labels or None).decode()
    tunnel = static_tunnel_address(item.spec.pod_cidr) if use_pod_cidr and item.spec.pod_cidr else None
    if tunnel is None:
        ipip = _valid(annotations, IPIP_ADDRESS)
        wireguard = NodeWireguardSpec(
            interface_ipv4_address=_valid(annotations, WIREGUARD_ADDRESS_V4),
            interface_ipv6_address=_valid(annotations, WIREGUARD_ADDRESS_V6),
        )
    else:
        ipip = tunnel
        wireguard = NodeWireguardSpec(interface_ipv4_address=tunnel if annotations.get(WIREGUARD_KEY_V4) else "")
    bgp = NodeBGPSpec(
        as_number=_as_number(annotations),
        ipv4_address=_valid(annotations, ADDRESS_V4),
        ipv6_address=_valid(annotations, ADDRESS_V6),
        ipv4_ipip_tunnel_addr=ipip,
        route_reflector_cluster_id=_valid(annotations, REFLECTOR),
    )
    own = [NodeAddress(address=a, type="CalicoNodeIP") for a in (bgp.ipv4_address, bgp.ipv6_address) if a]
    theirs = [address for address in item.status.addresses if address.type in ("InternalIP", "ExternalIP")]
    return Node(
        metadata=ObjectMeta(
            name=meta.name,
            uid=meta.uid,
            resource_version=meta.resource_version,
            creation_timestamp=meta.creation_timestamp,
            labels=labels,
            annotations={**_map(annotations, ANNOTATIONS), KUBERNETES_LABELS: kubernetes},
        ),
        spec=NodeSpec(
            bgp=bgp if bgp != NodeBGPSpec() else None,
            ipv4_vxlan_tunnel_addr=_valid(annotations, VXLAN_ADDRESS_V4),
            vxlan_tunnel_mac_addr=_valid(annotations, VXLAN_MAC_V4),
            ipv6_vxlan_tunnel_addr=_valid(annotations, VXLAN_ADDRESS_V6),
            vxlan_tunnel_mac_addr_v6=_valid(annotations, VXLAN_MAC_V6),
            orch_refs=(OrchRef(node_name=meta.name, orchestrator="k8s"),),
            wireguard=wireguard if wireguard != NodeWireguardSpec() else None,
            addresses=(*own, *theirs),
            interfaces=_read_interfaces(annotations),
        ),
        status=NodeStatus(
            wireguard_public_key=annotations.get(WIREGUARD_KEY_V4, ""),
            wireguard_public_key_v6=annotations.get(WIREGUARD_KEY_V6, ""),
            pod_cidrs=item.spec.pod_cidrs,
        ),
    )


def annotations_of(node: Node) -> dict[str, str | None]:
    """Every annotation of ours, None for one that is to go. A label that Kubernetes also has is left to it."""
    meta, spec, status = node.metadata, node.spec, node.status
    theirs = _map(meta.annotations, KUBERNETES_LABELS)
    labels = {key: text for key, text in meta.labels.items() if key not in theirs}
    annotations = {key: text for key, text in meta.annotations.items() if key != KUBERNETES_LABELS}
    bgp, wireguard = spec.bgp or NodeBGPSpec(), spec.wireguard or NodeWireguardSpec()
    found = {
        LABELS: codec.to_json(labels).decode() if labels else "",
        ANNOTATIONS: codec.to_json(annotations).decode() if annotations else "",
        INTERFACES: codec.to_json(spec.interfaces).decode() if spec.interfaces else "",
        AS_NUMBER: "" if bgp.as_number is None else str(bgp.as_number),
        ADDRESS_V4: bgp.ipv4_address,
        ADDRESS_V6: bgp.ipv6_address,
        REFLECTOR: bgp.route_reflector_cluster_id,
        IPIP_ADDRESS: bgp.ipv4_ipip_tunnel_addr,
        VXLAN_ADDRESS_V4: spec.ipv4_vxlan_tunnel_addr,
        VXLAN_ADDRESS_V6: spec.ipv6_vxlan_tunnel_addr,
        VXLAN_MAC_V4: spec.vxlan_tunnel_mac_addr,
        VXLAN_MAC_V6: spec.vxlan_tunnel_mac_addr_v6,
        WIREGUARD_ADDRESS_V4: wireguard.interface_ipv4_address,
        WIREGUARD_ADDRESS_V6: wireguard.interface_ipv6_address,
        WIREGUARD_KEY_V4: status.wireguard_public_key,
        WIREGUARD_KEY_V6: status.wireguard_public_key_v6,
    }
    return {name: text or None for name, text in found.items()}


def static_tunnel_address(pod_cidr: str) -> str | None:
    """The first address of a podCIDR: host-local IPAM leaves it to the node. None for any but an IPv4 CIDR."""
    try:
        network = ip_network(pod_cidr, strict=False)
    except ValueError:
        return None
    return str(network.network_address + 1) if isinstance(network, IPv4Network) else None


def _valid(annotations: Mapping[str, str], name: str) -> str:
    text = annotations.get(name, "")
    return "" if text and CHECKS[_FORMATS[name]](text) else text


def _as_number(annotations: Mapping[str, str]) -> int | None:
    try:
        return canonical_as_number(annotations[AS_NUMBER]) if AS_NUMBER in annotations else None
    except ValueError:
        return None


def _map(annotations: Mapping[str, str], name: str) -> dict[str, str]:
    try:
        return _text_map.decode(annotations.get(name, "{}"))
    except (msgspec.DecodeError, UnicodeEncodeError):
        return {}


def _read_interfaces(annotations: Mapping[str, str]) -> tuple[NodeInterface, ...]:
    try:
        found = _interfaces.decode(annotations.get(INTERFACES, "[]"))
    except (msgspec.DecodeError, UnicodeEncodeError):
        return ()
    return tuple(NodeInterface(name=one.name, addresses=tuple(filter(_is_address, one.addresses))) for one in found)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


# ── blocks of host-local IPAM ─────────────────────────────────────────────────────────────────────────────────────────


def block_of(item: KubernetesNode, version: int) -> tuple[BlockKey, AllocationBlock] | None:
    """The node's podCIDR of one family as a block with affinity to it, so that there are routes to it. Who holds which
    address is known to host-local IPAM alone."""
    for cidr in item.spec.pod_cidrs or (item.spec.pod_cidr,):
        try:
            network = ip_network(cidr, strict=False)
        except ValueError:
            continue
        if network.version == version:
            key = BlockKey(str(network))
            return key, AllocationBlock(cidr=key.cidr, affinity=f"host:{item.metadata.name}")
    return None


class NodeFamily(Family):
    """``use_pod_cidr``: it also answers for blocks."""

    def __init__(self, *, use_pod_cidr: bool) -> None:
        def node(item: KubernetesNode) -> Made:
            meta = item.metadata
            return ResourceKey("Node", "", meta.name), node_of(item, use_pod_cidr=use_pod_cidr), meta.resource_version

        def block(version: int) -> PlainReader[KubernetesNode]:
            def one(item: KubernetesNode) -> Made:
                found = block_of(item, version)
                return (found[0], found[1], item.metadata.resource_version) if found else None

            return PlainReader(KubernetesNode, one, lambda _name, _namespace: None)

        reader = PlainReader(KubernetesNode, node, lambda name, _namespace: ResourceKey("Node", "", name))
        self._nodes = _collection("Nodes", reader)
        self._blocks: dict[int, Collection] = {}
        if use_pod_cidr:
            self._blocks = {
                version: _collection(f"IPv{version} podCIDRs of Nodes", block(version)) for version in (4, 6)
            }

    def collections(self) -> Sequence[Collection]:
        return (self._nodes, *self._blocks.values())

    def selections(self, query: Query) -> Sequence[Selection]:
        if isinstance(query, ResourceQuery) and query.kind == "Node":
            return (Selection(collection=self._nodes),)
        if isinstance(query, BlockQuery):
            versions = (4, 6) if query.version is None else (query.version,)
            return [Selection(collection=self._blocks[version]) for version in versions if version in self._blocks]
        return ()

    def place(self, key: Key) -> Place | None:
        if not isinstance(key, ResourceKey) or key.kind != "Node":
            return None
        return Place(collection=self._nodes, name=key.name, derived=True)

    def derived_from(self, key: Key) -> str:
        if isinstance(key, ResourceKey) and key.kind == "Node":
            return f"Node {key.name}"
        return "a Node's podCIDRs" if isinstance(key, BlockKey) and self._blocks else ""

    def updating(self, key: Key, value: Value, *, revision: str) -> Request:
        value = decoded(key, value)
        place = self.place(key)
        if place is None or not isinstance(value, Node):
            raise self.read_only(key)
        return annotating(place, annotations_of(value), revision=revision)

    def deletion(self, key: Key, *, revision: str) -> Request:
        place = self.place(key)
        if place is None:
            raise self.read_only(key)
        return annotating(place, annotations_of(Node()), revision=revision)


def _collection(name: str, reader: PlainReader[Any]) -> Collection:
    return Collection(name=name, path="/api/v1", plural="nodes", namespaced=False, reader=reader)
