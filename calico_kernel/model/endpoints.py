"""Endpoint kinds: the interfaces of workloads and of nodes, and the nodes themselves."""

from __future__ import annotations

from typing import ClassVar

from msgspec import field

from calico_kernel.model.meta import Resource, Wire
from calico_kernel.model.policy import Protocol


class EndpointPort(Wire):
    name: str = ""
    protocol: Protocol = "TCP"
    port: int = 0


class HostEndpointSpec(Wire):
    node: str = ""
    interface_name: str = ""
    expected_ips: tuple[str, ...] = field(default=(), name="expectedIPs")
    profiles: tuple[str, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class HostEndpoint(Resource, tag="HostEndpoint"):
    spec: HostEndpointSpec = field(default_factory=HostEndpointSpec)
    plural: ClassVar[str] = "hostendpoints"


class WorkloadEndpointPort(Wire):
    name: str = ""
    protocol: Protocol = "TCP"
    port: int = 0
    host_port: int = 0
    host_ip: str = field(default="", name="hostIP")


class IPNAT(Wire):
    internal_ip: str = field(default="", name="internalIP")
    external_ip: str = field(default="", name="externalIP")


class QoSControls(Wire):
    """Bandwidth in bit/s, bursts in bytes, rates in packets/s. Keys are Calico's."""

    ingress_bandwidth: int = 0
    egress_bandwidth: int = 0
    ingress_burst: int = 0
    egress_burst: int = 0
    ingress_peakrate: int = 0
    egress_peakrate: int = 0
    ingress_minburst: int = 0
    egress_minburst: int = 0
    ingress_packet_rate: int = 0
    egress_packet_rate: int = 0
    ingress_packet_burst: int = 0
    egress_packet_burst: int = 0
    ingress_max_connections: int = 0
    egress_max_connections: int = 0
    dscp: int | str | None = None


class WorkloadEndpointSpec(Wire):
    orchestrator: str = ""
    workload: str = ""
    node: str = ""
    container_id: str = field(default="", name="containerID")
    pod: str = ""
    endpoint: str = ""
    service_account_name: str = ""
    ip_networks: tuple[str, ...] = ()
    ip_nats: tuple[IPNAT, ...] = field(default=(), name="ipNATs")
    ipv4_gateway: str = field(default="", name="ipv4Gateway")
    ipv6_gateway: str = field(default="", name="ipv6Gateway")
    profiles: tuple[str, ...] = ()
    interface_name: str = ""
    mac: str = ""
    ports: tuple[WorkloadEndpointPort, ...] = ()
    allow_spoofed_source_prefixes: tuple[str, ...] = ()
    qos_controls: QoSControls | None = None


class WorkloadEndpoint(Resource, tag="WorkloadEndpoint"):
    spec: WorkloadEndpointSpec = field(default_factory=WorkloadEndpointSpec)
    namespaced: ClassVar[bool] = True
    plural: ClassVar[str] = "workloadendpoints"


class NodeBGPSpec(Wire):
    as_number: int | str | None = None
    ipv4_address: str = field(default="", name="ipv4Address")
    ipv6_address: str = field(default="", name="ipv6Address")
    ipv4_ipip_tunnel_addr: str = field(default="", name="ipv4IPIPTunnelAddr")
    route_reflector_cluster_id: str = field(default="", name="routeReflectorClusterID")


class OrchRef(Wire):
    node_name: str = ""
    orchestrator: str = ""


class NodeWireguardSpec(Wire):
    interface_ipv4_address: str = field(default="", name="interfaceIPv4Address")
    interface_ipv6_address: str = field(default="", name="interfaceIPv6Address")


class NodeAddress(Wire):
    address: str = ""
    type: str = ""


class NodeInterface(Wire):
    name: str = ""
    addresses: tuple[str, ...] = ()


class NodeSpec(Wire):
    bgp: NodeBGPSpec | None = None
    ipv4_vxlan_tunnel_addr: str = field(default="", name="ipv4VXLANTunnelAddr")
    vxlan_tunnel_mac_addr: str = field(default="", name="vxlanTunnelMACAddr")
    ipv6_vxlan_tunnel_addr: str = field(default="", name="ipv6VXLANTunnelAddr")
    vxlan_tunnel_mac_addr_v6: str = field(default="", name="vxlanTunnelMACAddrV6")
    orch_refs: tuple[OrchRef, ...] = ()
    wireguard: NodeWireguardSpec | None = None
    addresses: tuple[NodeAddress, ...] = ()
    interfaces: tuple[NodeInterface, ...] = ()


class NodeStatus(Wire):
    wireguard_public_key: str = ""
    wireguard_public_key_v6: str = ""
    pod_cidrs: tuple[str, ...] = field(default=(), name="podCIDRs")


class Node(Resource, tag="Node"):
    spec: NodeSpec = field(default_factory=NodeSpec)
    status: NodeStatus | None = None
    plural: ClassVar[str] = "nodes"
