"""What ``kubectl explain`` says of kinds, objects and fields.

In:    structs and fields.
Out:   short text, "" where a name and a type say it all. Docstrings of the structs are used where they are written for
       readers of documents; what a field may hold comes from its annotations; defaults of FelixConfiguration from its
       parameters. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from calico_kernel.model.kinds import KindInfo
from calico_kernel.model.meta import Resource
from calico_kernel.model.schema import Field

KINDS: Mapping[str, str] = {
    "BGPConfiguration": "How nodes speak BGP: `default` for the cluster, `node.NAME` for one node.",
    "BGPFilter": "Which routes BGP peers that name this filter import and export.",
    "BGPPeer": "A BGP peer of some or all nodes.",
    "BlockAffinity": "A node's claim on a block of addresses. Kept by Calico; do not edit.",
    "CalicoNodeStatus": "A request for a node's state, which the node answers in the status.",
    "ClusterInformation": "What the cluster is: its identity, version, and whether its data may be changed.",
    "FelixConfiguration": "How the node agent works: `default` for the cluster, `node.NAME` for one node, or any name "
    "with a nodeSelector.",
    "GlobalNetworkPolicy": "Network policy for endpoints of all namespaces, and of hosts.",
    "GlobalNetworkSet": "Addresses that global policies, and those of every namespace, can select by label.",
    "HostEndpoint": "An interface of a node that policy applies to.",
    "IPAMBlock": "A block of addresses and who holds each of them. Kept by Calico; do not edit.",
    "IPAMConfiguration": "How addresses are handed out; there is one, named `default`.",
    "IPAMHandle": "How many addresses one owner holds in which blocks. Kept by Calico; do not edit.",
    "IPPool": "A range of addresses for workloads, tunnels or load balancers.",
    "IPReservation": "Addresses that are never handed out.",
    "KubeControllersConfiguration": "Which cluster-wide controllers run, and how; there is one, named `default`.",
    "NetworkPolicy": "Network policy for workloads of one namespace.",
    "NetworkSet": "Addresses that policies of one namespace can select by label.",
    "StagedGlobalNetworkPolicy": "A GlobalNetworkPolicy under trial: reported on, not enforced.",
    "StagedKubernetesNetworkPolicy": "A Kubernetes NetworkPolicy under trial: reported on, not enforced.",
    "StagedNetworkPolicy": "A NetworkPolicy under trial: reported on, not enforced.",
    "Tier": "An ordered group of policies.",
}

_STRUCTS: Mapping[str, str] = {
    "EntityRule": "One side of a rule. What is given is ANDed; entries of one list ORed; not... must not match.",
    "ProtoPort": "A failsafe port: always reachable, whatever policy says.",
    "BGPFilterOperation": "What is done to a route; exactly one of the three.",
    "IcmpFields": "ICMP type and, beside it, code.",
    "ServiceMatch": "A Kubernetes Service: its addresses and ports at any time.",
    "LabelSelector": "A Kubernetes label selector; empty selects everything.",
    "Condition": "One condition of the resource, as Kubernetes knows them.",
    "HttpMatch": "HTTP methods and paths.",
    "ServiceAccountMatch": "Service accounts, by name or by selector.",
}

_POLICY: Mapping[str, str] = {
    "tier": "The tier that the policy belongs to.",
    "order": "Position in the tier: lower comes first, none comes last.",
    "ingress": "Rules for traffic to the endpoints, first match decides.",
    "egress": "Rules for traffic from the endpoints, first match decides.",
    "selector": "The endpoints that the policy applies to.",
    "types": "The directions that the policy governs. Default: Ingress, and Egress when there are egress rules.",
    "serviceAccountSelector": "Narrows the policy to workloads of service accounts with these labels.",
    "namespaceSelector": "Narrows the policy to workloads of namespaces with these labels.",
    "performanceHints": "Hints that change nothing about what the policy means.",
    "doNotTrack": "Apply before connection tracking: needs rules for both directions, and applyOnForward.",
    "preDNAT": "Apply before destination NAT: ingress only, and applyOnForward.",
    "applyOnForward": "Apply to traffic that a host forwards too.",
    "stagedAction": "What the policy would do: Set, Delete, Learn or Ignore.",
}

_FIELDS: Mapping[tuple[str, str], str] = {
    ("Rule", "action"): "Allow, Deny, Log (and go on), or Pass (to the next tier).",
    ("Rule", "ipVersion"): "4 or 6; both when not given.",
    ("Rule", "protocol"): "TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite, or a number from 1 to 255.",
    ("Rule", "notProtocol"): "As protocol; must not match.",
    ("Rule", "metadata"): "Annotations of the rule.",
    ("EntityRule", "nets"): "Prefixes, all of one IP version.",
    ("EntityRule", "notNets"): "Prefixes that must not match.",
    (
        "EntityRule",
        "selector",
    ): "Endpoints and network sets; of the policy's namespace without a namespaceSelector.",
    ("EntityRule", "namespaceSelector"): "Widens selector to these namespaces; global() means what is in none.",
    ("EntityRule", "ports"): "Ports: a number, a range 80:90, or the name of an endpoint's port.",
    ("EntityRule", "notPorts"): "Ports that must not match.",
    ("TierSpec", "order"): "Position among tiers: lower comes first, none comes last.",
    ("TierSpec", "defaultAction"): "What happens to traffic that policies of the tier select but no rule matches.",
    ("IPPoolSpec", "cidr"): "The range. Cannot be changed.",
    ("IPPoolSpec", "blockSize"): "Prefix length of the blocks that nodes claim; 26 or 122 when 0. Cannot be changed.",
    ("IPPoolSpec", "vxlanMode"): "When traffic between nodes is encapsulated in VXLAN.",
    ("IPPoolSpec", "ipipMode"): "When traffic between nodes is encapsulated in IPIP.",
    ("IPPoolSpec", "natOutgoing"): "Masquerade traffic from the pool to addresses in no pool.",
    ("IPPoolSpec", "disabled"): "No new addresses are handed out.",
    ("IPPoolSpec", "disableBGPExport"): "Do not advertise the pool's routes over BGP.",
    ("IPPoolSpec", "nodeSelector"): "Nodes whose workloads get addresses from the pool.",
    ("IPPoolSpec", "namespaceSelector"): "Namespaces whose workloads get addresses from the pool.",
    ("IPPoolSpec", "allowedUses"): "Workload, Tunnel, LoadBalancer. Default: Workload and Tunnel.",
    ("IPPoolSpec", "assignmentMode"): "Manual: only for workloads that ask for the pool.",
    ("IPReservationSpec", "reservedCIDRs"): "Ranges that are never handed out.",
    ("IPAMConfigurationSpec", "strictAffinity"): "Nodes use addresses of their own blocks only; no borrowing.",
    ("IPAMConfigurationSpec", "maxBlocksPerHost"): "How many blocks a node may claim; 0: any number.",
    ("IPAMConfigurationSpec", "autoAllocateBlocks"): "Nodes may claim blocks as they need them.",
    ("IPAMConfigurationSpec", "ipCooldownSeconds"): "How long a released address is not handed out again.",
    ("NetworkSetSpec", "nets"): "Addresses and prefixes.",
    ("HostEndpointSpec", "node"): "The node that has the interface.",
    ("HostEndpointSpec", "interfaceName"): "The interface; * for all traffic of the host.",
    ("HostEndpointSpec", "expectedIPs"): "Addresses to know the interface by when it is not named, and for policy.",
    ("HostEndpointSpec", "profiles"): "Profiles that apply where no policy does.",
    ("HostEndpointSpec", "ports"): "Named ports, for rules that name them.",
    ("BGPPeerSpec", "node"): "The node that peers; with neither this nor nodeSelector: every node.",
    ("BGPPeerSpec", "nodeSelector"): "The nodes that peer.",
    ("BGPPeerSpec", "peerIP"): "Address of the peer, with a port if it is not 179.",
    ("BGPPeerSpec", "asNumber"): "AS number of the peer.",
    ("BGPPeerSpec", "localASNumber"): "AS number to use towards this peer in place of the node's.",
    ("BGPPeerSpec", "peerSelector"): "Nodes to peer with, in place of peerIP.",
    ("BGPPeerSpec", "filters"): "BGPFilters that apply to this peer.",
    ("BGPConfigurationSpec", "nodeToNodeMeshEnabled"): "Every node peers with every other. Default: true.",
    ("BGPConfigurationSpec", "asNumber"): "AS number of nodes without one of their own. Default: 64512.",
    ("BGPFilterSpec", "exportV4"): "Rules for IPv4 routes to the peer, first match decides.",
    ("BGPFilterSpec", "importV4"): "Rules for IPv4 routes from the peer, first match decides.",
    ("BGPFilterSpec", "exportV6"): "Rules for IPv6 routes to the peer, first match decides.",
    ("BGPFilterSpec", "importV6"): "Rules for IPv6 routes from the peer, first match decides.",
    ("ClusterInformationSpec", "datastoreReady"): "False while data is carried to another datastore: nobody writes.",
    ("CalicoNodeStatusSpec", "node"): "The node to report on.",
    ("CalicoNodeStatusSpec", "classes"): "What to report: Agent, BGP, Routes.",
    ("CalicoNodeStatusSpec", "updatePeriodSeconds"): "How often to report; 0: once.",
    ("SecretKeySelector", "name"): "The Secret, in the namespace of the node agent.",
    ("SecretKeySelector", "key"): "The key in the Secret.",
    ("BlockAffinitySpec", "state"): "confirmed, pending or pendingDeletion.",
    (
        "IPAMBlockSpec",
        "allocations",
    ): "For each address, an index into attributes, or null when it is free.",
    ("IPAMBlockSpec", "unallocated"): "Free addresses, next to be handed out first.",
    ("IPAMBlockSpec", "attributes"): "Who holds the addresses that point here.",
}

_FORMATS: Mapping[str, str] = {
    "selector": "A selector, such as role == 'web' && has(zone).",
    "duration": "A duration, such as 1m30s.",
    "port": "A port number, a range 80:90, or a port's name.",
    "dscp": "A DSCP: 0 to 63, or a name such as EF or AF41.",
    "asn": "An AS number.",
    "regexp": "A regular expression.",
    "community": "A BGP community: aa:nn or aa:nn:mm.",
}


def of_kind(info: KindInfo) -> str:
    """A built-in kind's text, else the first paragraph of its class's docstring, which a plugin writes for readers."""
    said = (info.type.__doc__ or "").strip().split("\n\n", maxsplit=1)[0]
    return KINDS.get(info.kind) or " ".join(said.split()) or f"{info.kind} of a plugin."


def of_struct(struct: type[Struct]) -> str:
    return KINDS.get(struct.__name__) or _STRUCTS.get(struct.__name__, "")


def of_field(struct: type[Struct], field: Field) -> str:
    name = struct.__name__
    if issubclass(struct, Resource):
        return {"spec": "What is wanted.", "status": "What was observed."}.get(field.name, "")
    said = _FIELDS.get((name, field.name), "")
    if not said and name.endswith("PolicySpec"):
        said = _POLICY.get(field.name, "")
    if not said:
        said = next((_FORMATS[must.format] for must in field.plan.musts if must.format in _FORMATS), "")
    if name == "FelixConfigurationSpec":
        said = " ".join(filter(None, (said, _felix(field))))
    return said


def _felix(field: Field) -> str:
    from calico_kernel.model.durations import format_duration
    from calico_kernel.model.felix_parameters import PARAMETERS

    parameter = PARAMETERS.get(field.attribute)
    if parameter is None:
        return ""
    value = parameter.default
    if any(must.format == "duration" for must in field.plan.musts):
        value = format_duration(round(value * 1e9))
    elif isinstance(value, bool):
        value = str(value).lower()
    elif field.attribute.endswith("mark_mask"):
        value = f"{value:#x}"
    default = f"Default: {value}. " if isinstance(value, str | int | float) and value != "" else ""
    return f"{default}Environment: FELIX_{parameter.name}."
