"""Endpoint kinds: the interfaces of workloads and of nodes, and the nodes themselves."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import field

from calico_kernel.model.meta import Resource, Wire, always
from calico_kernel.model.types import (
    AsNumber,
    Cidr,
    Cidrv4,
    Cidrv6,
    Dscp,
    EndpointProtocol,
    Interface,
    Ip,
    Ipv4,
    Ipv6,
    Mac,
    Must,
    Name,
    Net,
    PortName,
    PortNumber,
)

HostName = Annotated[str, Must(format="name", max_len=253)]


class EndpointPort(Wire):
    name: PortName = always("")
    protocol: EndpointProtocol = always("TCP")
    port: PortNumber = always(0)


class HostEndpointSpec(Wire):
    node: HostName = ""
    interface_name: Annotated[Interface, Must(max_len=15)] = ""
    expected_ips: tuple[Ip, ...] = field(default=(), name="expectedIPs")
    profiles: tuple[Name, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class HostEndpoint(Resource, tag="HostEndpoint"):
    spec: HostEndpointSpec = field(default_factory=HostEndpointSpec)
    plural: ClassVar[str] = "hostendpoints"


class WorkloadEndpointPort(Wire):
    name: PortName = always("")
    protocol: EndpointProtocol = always("TCP")
    port: PortNumber = always(0)
    host_port: Annotated[int, Must(ge=0, le=65535)] = always(0)
    host_ip: Net = always("", name="hostIP")


class IPNAT(Wire):
    internal_ip: Ip = always("", name="internalIP")
    external_ip: Ip = always("", name="externalIP")


class QoSControls(Wire):
    """Bandwidth in bit/s, bursts in bytes, rates in packets/s. Keys are Calico's."""

    ingress_bandwidth: int = 0
    ingress_burst: int = 0
    ingress_peakrate: int = 0
    ingress_minburst: int = 0
    egress_bandwidth: int = 0
    egress_burst: int = 0
    egress_peakrate: int = 0
    egress_minburst: int = 0
    ingress_packet_rate: int = 0
    ingress_packet_burst: int = 0
    egress_packet_rate: int = 0
    egress_packet_burst: int = 0
    ingress_max_connections: int = 0
    egress_max_connections: int = 0
    dscp: Dscp | None = None


class WorkloadEndpointSpec(Wire):
    orchestrator: Name = ""
    workload: Name = ""
    node: Name = ""
    container_id: Annotated[str, Must(format="container-id")] = field(default="", name="containerID")
    pod: Name = ""
    endpoint: Name = ""
    service_account_name: Name = ""
    ip_networks: tuple[Net, ...] = ()
    ip_nats: tuple[IPNAT, ...] = field(default=(), name="ipNATs")
    ipv4_gateway: Ipv4 = field(default="", name="ipv4Gateway")
    ipv6_gateway: Ipv6 = field(default="", name="ipv6Gateway")
    profiles: tuple[Name, ...] = ()
    interface_name: Annotated[str, Must(format="interface", required=True)] = ""
    mac: Mac = ""
    ports: tuple[WorkloadEndpointPort, ...] = ()
    allow_spoofed_source_prefixes: tuple[Cidr, ...] = ()
    qos_controls: QoSControls | None = field(default=None, name="qosControls")


class WorkloadEndpoint(Resource, tag="WorkloadEndpoint"):
    spec: WorkloadEndpointSpec = field(default_factory=WorkloadEndpointSpec)
    namespaced: ClassVar[bool] = True
    plural: ClassVar[str] = "workloadendpoints"


class NodeBGPSpec(Wire):
    as_number: AsNumber | None = None
    ipv4_address: Cidrv4 = field(default="", name="ipv4Address")
    ipv6_address: Cidrv6 = field(default="", name="ipv6Address")
    ipv4_ipip_tunnel_addr: Ipv4 = field(default="", name="ipv4IPIPTunnelAddr")
    route_reflector_cluster_id: Ipv4 = field(default="", name="routeReflectorClusterID")


class OrchRef(Wire):
    node_name: str = ""
    orchestrator: str = always("")


class NodeWireguardSpec(Wire):
    interface_ipv4_address: Ipv4 = field(default="", name="interfaceIPv4Address")
    interface_ipv6_address: Ipv6 = field(default="", name="interfaceIPv6Address")


class NodeAddress(Wire):
    address: str = always("")
    type: str = ""


class NodeInterface(Wire):
    name: str = ""
    addresses: tuple[str, ...] = ()


class NodeSpec(Wire):
    bgp: NodeBGPSpec | None = None
    ipv4_vxlan_tunnel_addr: Ipv4 = field(default="", name="ipv4VXLANTunnelAddr")
    vxlan_tunnel_mac_addr: Mac = field(default="", name="vxlanTunnelMACAddr")
    ipv6_vxlan_tunnel_addr: Ipv6 = field(default="", name="ipv6VXLANTunnelAddr")
    vxlan_tunnel_mac_addr_v6: Mac = field(default="", name="vxlanTunnelMACAddrV6")
    orch_refs: tuple[OrchRef, ...] = ()
    wireguard: NodeWireguardSpec | None = None
    addresses: tuple[NodeAddress, ...] = ()
    interfaces: tuple[NodeInterface, ...] = ()


class NodeStatus(Wire):
    wireguard_public_key: Annotated[str, Must(format="wireguard-key")] = ""
    wireguard_public_key_v6: Annotated[str, Must(format="wireguard-key")] = ""
    pod_cidrs: tuple[str, ...] = field(default=(), name="podCIDRs")


class Node(Resource, tag="Node"):
    spec: NodeSpec = field(default_factory=NodeSpec)
    status: NodeStatus = field(default_factory=NodeStatus)
    plural: ClassVar[str] = "nodes"


class WorkloadIdentifier(Wire):
    hostname: str = ""
    orchestrator_id: str = field(default="", name="orchestratorID")
    workload_id: str = field(default="", name="workloadID")


class WorkloadEndpointIdentifier(Wire):
    hostname: str = ""
    orchestrator_id: str = field(default="", name="orchestratorID")
    workload_id: str = field(default="", name="workloadID")
    endpoint_id: str = field(default="", name="endpointID")


class LiveMigrationSource(Wire):
    """Exactly one of the two."""

    workload: WorkloadIdentifier | None = None
    workload_endpoint: WorkloadEndpointIdentifier | None = None


class LiveMigrationTarget(Wire):
    """Exactly one of the two."""

    selector: str | None = None
    workload_endpoint: WorkloadEndpointIdentifier | None = None


class LiveMigrationSpec(Wire):
    source: LiveMigrationSource | None = None
    target: LiveMigrationTarget | None = None


class LiveMigration(Resource, tag="LiveMigration"):
    """A virtual machine on its way from one workload endpoint to another."""

    spec: LiveMigrationSpec = field(default_factory=LiveMigrationSpec)
    namespaced: ClassVar[bool] = True
    plural: ClassVar[str] = "livemigrations"
