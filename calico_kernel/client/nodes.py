"""Forget a node: everything that only had meaning on it goes before the Node itself.

In:    the node's name.
Out:   its workload endpoints and their addresses, tunnel addresses, block affinities, BGP peers, per-node configuration
       and host endpoints are gone, in that order. What is missing already is no error, so a broken-off run is repeated.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from calico_kernel.errors import NotFound

if TYPE_CHECKING:
    from calico_kernel.client.client import Client


def clear(client: Client, name: str) -> None:
    """Remove what belongs to the node. Raises what the datastore and the IPAM raise; safe to repeat."""
    endpoints = [one for one in client.list("WorkloadEndpoint").items if one.spec.node == name]
    addresses = [net for endpoint in endpoints for net in endpoint.spec.ip_networks]
    try:
        addresses += _tunnel_addresses(client.get("Node", name))
    except NotFound:
        pass  # a half-removed node: carry on and clean up what is left
    _release(client, addresses)
    for endpoint in endpoints:
        _delete(client, "WorkloadEndpoint", endpoint.metadata.name, endpoint.metadata.namespace)
    if client.ipam is not None:
        client.ipam().release_node(name)
    for peer in client.list("BGPPeer").items:
        if peer.spec.node == name:
            _delete(client, "BGPPeer", peer.metadata.name)
    _delete(client, "FelixConfiguration", f"node.{name}")
    _delete(client, "BGPConfiguration", f"node.{name}")
    for host_endpoint in client.list("HostEndpoint").items:
        if host_endpoint.spec.node == name:
            _delete(client, "HostEndpoint", host_endpoint.metadata.name)


def _tunnel_addresses(node: Any) -> list[str]:
    spec = node.spec
    found = [
        spec.bgp.ipv4_ipip_tunnel_addr if spec.bgp is not None else "",
        spec.ipv4_vxlan_tunnel_addr,
        spec.ipv6_vxlan_tunnel_addr,
        spec.wireguard.interface_ipv4_address if spec.wireguard is not None else "",
        spec.wireguard.interface_ipv6_address if spec.wireguard is not None else "",
    ]
    return [address for address in found if address]


def _release(client: Client, networks: list[str]) -> None:
    from calico_kernel.model.ipam import ReleaseRequest

    if client.ipam is None or not networks:
        return
    client.ipam().release([ReleaseRequest(address=ip_address(net.split("/")[0])) for net in networks])


def _delete(client: Client, kind: str, name: str, namespace: str = "") -> None:
    try:
        client.delete(kind, name, namespace)
    except NotFound:
        pass
