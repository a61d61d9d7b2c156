"""The kinds of Calico's first API (``apiVersion: v1``), as people wrote them until Calico 2.6.

In:    ``model.documents`` reads into them, with the same strictness as into v3.
Out:   to ``model.upgrade``, and to nothing else: v1 is not stored.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import field

from calico_kernel.model.endpoints import IPNAT, OrchRef
from calico_kernel.model.meta import Wire
from calico_kernel.model.policy import IcmpFields, Order
from calico_kernel.model.types import (
    Annotations,
    AsNumber,
    Cidr,
    Ip,
    Ipv4,
    Ipv6,
    Labels,
    Mac,
    Must,
    Port,
    PortNumber,
    Selector,
)

REQUIRED = Must(required=True)

ProtocolV1 = str | int


class DocumentV1(Wire):
    api_version: str = ""
    kind: str = ""


class NamedV1(Wire):
    name: str = ""


class EntityRuleV1(Wire):
    tag: str = ""
    net: Cidr = ""
    nets: tuple[Cidr, ...] = ()
    selector: Selector = ""
    ports: tuple[Port, ...] = ()
    not_tag: str = ""
    not_net: Cidr = ""
    not_nets: tuple[Cidr, ...] = ()
    not_selector: Selector = ""
    not_ports: tuple[Port, ...] = ()


class RuleV1(Wire):
    action: str = ""
    ip_version: Annotated[int | None, Must(format="ip-version")] = field(default=None, name="ipVersion")
    protocol: ProtocolV1 | None = None
    icmp: IcmpFields | None = None
    not_protocol: ProtocolV1 | None = None
    not_icmp: IcmpFields | None = field(default=None, name="notICMP")
    source: EntityRuleV1 = EntityRuleV1()
    destination: EntityRuleV1 = EntityRuleV1()


class PolicyMetadataV1(NamedV1):
    tier: str = ""
    annotations: Annotations = field(default_factory=dict)


class PolicySpecV1(Wire):
    order: Order = None
    ingress: tuple[RuleV1, ...] = ()
    egress: tuple[RuleV1, ...] = ()
    selector: Selector = ""
    do_not_track: bool = False
    pre_dnat: bool = field(default=False, name="preDNAT")
    types: tuple[str, ...] = ()


class PolicyV1(DocumentV1):
    metadata: PolicyMetadataV1 = PolicyMetadataV1()
    spec: PolicySpecV1 = PolicySpecV1()


class ProfileMetadataV1(NamedV1):
    tags: tuple[str, ...] = ()
    labels: Labels = field(default_factory=dict)


class ProfileSpecV1(Wire):
    ingress: tuple[RuleV1, ...] = ()
    egress: tuple[RuleV1, ...] = ()


class ProfileV1(DocumentV1):
    metadata: ProfileMetadataV1 = field(default_factory=ProfileMetadataV1)
    spec: ProfileSpecV1 = ProfileSpecV1()


class TierSpecV1(Wire):
    order: Order = None


class TierV1(DocumentV1):
    metadata: NamedV1 = NamedV1()
    spec: TierSpecV1 = TierSpecV1()


class PortV1(Wire):
    name: str = ""
    protocol: ProtocolV1 = "tcp"
    port: PortNumber = 0


class HostEndpointMetadataV1(NamedV1):
    node: str = ""
    labels: Labels = field(default_factory=dict)


class HostEndpointSpecV1(Wire):
    interface_name: str = ""
    expected_ips: tuple[Annotated[Ip, REQUIRED], ...] = field(default=(), name="expectedIPs")
    profiles: tuple[str, ...] = ()
    ports: tuple[PortV1, ...] = ()


class HostEndpointV1(DocumentV1):
    metadata: HostEndpointMetadataV1 = field(default_factory=HostEndpointMetadataV1)
    spec: HostEndpointSpecV1 = HostEndpointSpecV1()


class WorkloadEndpointMetadataV1(NamedV1):
    workload: str = ""
    orchestrator: str = ""
    node: str = ""
    active_instance_id: str = field(default="", name="activeInstanceID")
    labels: dict[str, str] = field(default_factory=dict)


class WorkloadEndpointSpecV1(Wire):
    ip_networks: tuple[Annotated[Cidr, REQUIRED], ...] = ()
    ip_nats: tuple[IPNAT, ...] = field(default=(), name="ipNATs")
    ipv4_gateway: Ipv4 = field(default="", name="ipv4Gateway")
    ipv6_gateway: Ipv6 = field(default="", name="ipv6Gateway")
    profiles: tuple[str, ...] = ()
    interface_name: str = ""
    mac: Mac = ""
    ports: tuple[PortV1, ...] = ()


class WorkloadEndpointV1(DocumentV1):
    metadata: WorkloadEndpointMetadataV1 = field(default_factory=WorkloadEndpointMetadataV1)
    spec: WorkloadEndpointSpecV1 = WorkloadEndpointSpecV1()


class NodeBgpV1(Wire):
    as_number: AsNumber | None = None
    ipv4_address: str = field(default="", name="ipv4Address")
    ipv6_address: str = field(default="", name="ipv6Address")


class NodeSpecV1(Wire):
    bgp: NodeBgpV1 | None = None
    orch_refs: tuple[OrchRef, ...] = ()


class NodeV1(DocumentV1):
    metadata: NamedV1 = NamedV1()
    spec: NodeSpecV1 = NodeSpecV1()


class PoolMetadataV1(Wire):
    cidr: Annotated[str, Must(required=True)] = ""


class IpipV1(Wire):
    enabled: bool = False
    mode: Annotated[str, Must(one_of=("always", "cross-subnet"), any_case=True)] = ""


class PoolSpecV1(Wire):
    ipip: IpipV1 | None = None
    nat_outgoing: bool = field(default=False, name="nat-outgoing")
    disabled: bool = False


class PoolV1(DocumentV1):
    metadata: PoolMetadataV1 = PoolMetadataV1()
    spec: PoolSpecV1 = PoolSpecV1()


class PeerMetadataV1(Wire):
    scope: Annotated[str, Must(one_of=("global", "node"), required=True)] = ""
    node: str = ""
    peer_ip: Annotated[str, Must(format="ip", required=True)] = field(default="", name="peerIP")


class PeerSpecV1(Wire):
    as_number: AsNumber = 0


class PeerV1(DocumentV1):
    metadata: PeerMetadataV1 = PeerMetadataV1()
    spec: PeerSpecV1 = PeerSpecV1()
