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
    ("Rule", "source"): "Where packets come from.",
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

_NAMED: Mapping[str, str] = {
    # BGPConfiguration, BGPPeer
    "logSeverityScreen": "Least severity that is logged.",
    "serviceLoadBalancerIPs": "Ranges of load balancer addresses that are advertised.",
    "serviceExternalIPs": "Ranges of external addresses of services that are advertised.",
    "serviceClusterIPs": "Ranges of cluster addresses of services that are advertised.",
    "serviceLoadBalancerAggregation": "Whether load balancer ranges are advertised whole, or address by address.",
    "communities": "BGP communities: in a filter those that match, else names for them.",
    "prefixAdvertisements": "Communities that are put on what is advertised of a range.",
    "listenPort": "Port that BGP listens on. Default: 179.",
    "nodeMeshPassword": "Password between nodes of the mesh.",
    "password": "Password towards the peer.",
    "secretKeyRef": "The Secret that holds it.",
    "optional": "Whether the Secret, or its key, may be missing.",
    "bindMode": "Listen on every address (None), or on the node's only (NodeIP).",
    "ignoredInterfaces": "Interfaces whose routes BGP does not learn of.",
    "localWorkloadPeeringIPV4": "Address that workloads of the node peer with.",
    "localWorkloadPeeringIPV6": "Address that workloads of the node peer with.",
    "programClusterRoutes": "Which routes to other nodes' blocks BGP programs.",
    "ipv4NormalRoutePriority": "Metric of programmed routes.",
    "ipv6NormalRoutePriority": "Metric of programmed routes.",
    "keepOriginalNextHop": "Deprecated: nextHopMode Keep.",
    "nextHopMode": "Next hop of advertised routes: left to BGP (Auto), this node (Self), as received (Keep).",
    "sourceAddress": "Speak from the node's address (UseNodeIP), or leave it to the system (None).",
    "numAllowedLocalASNumbers": "How often our AS number may stand in a received path.",
    "ttlSecurity": "Hops that the peer may be away; packets from further are dropped.",
    "reachableBy": "Gateway towards the peer.",
    "reversePeering": "Whether selected nodes peer back by themselves.",
    # BGPFilter
    "prefixLength": "Lengths of prefixes that match.",
    "source": "RemotePeers: routes that other nodes learned.",
    "interface": "Interface of the route; may hold *.",
    "matchOperator": "How cidr is compared.",
    "peerType": "eBGP or iBGP.",
    "values": "The values.",
    "value": "The value.",
    "asPathPrefix": "What the AS path begins with.",
    "priority": "Metric of the route.",
    "action": "What is done with what matches.",
    "operations": "Changes to the routes that are accepted, in this order.",
    "addCommunity": "Put a community on the route.",
    "prependASPath": "Lengthen the AS path.",
    "setPriority": "Set the route's metric.",
    # addresses
    "affinity": "Who the block belongs to: host:NODE, or virtual:OWNER.",
    "affinityClaimTime": "Since when.",
    "handle_id": "Whose addresses these are.",
    "secondary": "Facts about the owner: pod, namespace, node.",
    "alternateOwnerAttrs": "Facts about whom the addresses go to next (live migration).",
    "releasedAt": "Since when the addresses cool down before they are handed out again.",
    "sequenceNumber": "Counts changes of the block.",
    "sequenceNumberForAllocation": "Of each address that is held: the count when it was handed out.",
    "deleted": "It is about to be removed.",
    "kubeVirtVMAddressPersistence": "Whether virtual machines keep their addresses over restarts.",
    "handleID": "The owner's key.",
    "block": "How many addresses, by block.",
    # the cluster
    "clusterGUID": "Identity of the cluster.",
    "clusterType": "Words on what kind of cluster it is, with commas between.",
    "calicoVersion": "Newest version that has run here.",
    "variant": "Edition of Calico.",
    "conditions": "Conditions as Kubernetes knows them.",
    "observedGeneration": "Generation of the spec that this was said of.",
    "lastTransitionTime": "When it last changed.",
    "reason": "Why, in one word.",
    "message": "Why, in a sentence.",
    "healthChecks": "Whether the controllers serve health.",
    "prometheusMetricsPort": "Port of metrics; 0 for none. Default: 9094.",
    "debugProfilePort": "Port of a profiler.",
    "controllers": "The controllers; one that is absent does not run.",
    "syncLabels": "Copy labels of Kubernetes' Nodes.",
    "hostEndpoint": "Make host endpoints of nodes by themselves.",
    "autoCreate": "Whether host endpoints are made.",
    "createDefaultHostEndpoint": "Whether one of all interfaces is made.",
    "templates": "More host endpoints for each node.",
    "generateName": "End of the made endpoint's name.",
    "interfaceCIDRs": "Interfaces with an address in these.",
    "labels": "Labels of what is made.",
    "annotations": "Annotations of what is made.",
    "loadBalancer": "Gives services of type LoadBalancer their addresses.",
    "assignIPs": "To all services, or to those that ask.",
    "migration": "Moves what older versions stored under other names.",
    "policyNameMigrator": "Whether it renames policies.",
    "runningConfig": "The configuration in force.",
    "environmentVars": "Variables that overrule the spec.",
    "lastUpdated": "When the node answered.",
    "agent": "The node's BGP daemons.",
    "routerID": "Identity in BGP.",
    "bgp": "BGP sessions.",
    "routes": "Routes of the node, by where they come from.",
    "peerIP": "Address of the peer.",
    "since": "Since when the session is in its state.",
    "learnedFrom": "Where the route comes from.",
    # rules and ports
    "type": "The type.",
    "code": "The code; needs a type beside it.",
    "names": "Names of service accounts.",
    "methods": "HTTP methods, such as GET.",
    "paths": "HTTP paths.",
    "exact": "The whole path.",
    "prefix": "What the path begins with; of an AS path, the numbers that are put before it.",
    "icmp": "ICMP type and code that match.",
    "notICMP": "ICMP type and code that must not match.",
    "destination": "Where packets go.",
    "http": "HTTP requests that match.",
    "services": "A Kubernetes Service: its addresses and ports.",
    "serviceAccounts": "Workloads of these service accounts.",
    "podSelector": "Pods, as in a Kubernetes NetworkPolicy.",
    "policyTypes": "The directions that the policy governs.",
    "name": "The name.",
    "namespace": "The namespace.",
    "protocol": "The protocol.",
    "port": "The port.",
    "endPort": "Last port of a range.",
    "net": "From and to these addresses only; empty: any.",
    "cidr": "The range.",
    "min": "Least.",
    "max": "Most.",
    "node": "The node.",
    "state": "The state.",
    "status": "True, False or Unknown.",
    "strictAffinity": "Not used any more.",
    "peersV4": "Sessions over IPv4.",
    "peersV6": "Sessions over IPv6.",
    "routesV4": "IPv4 routes.",
    "routesV6": "IPv6 routes.",
    "matchLabels": "Labels with these values.",
    "matchExpressions": "Conditions on labels, all of which must hold.",
    "operator": "In, NotIn, Exists or DoesNotExist.",
    "key": "The key.",
    "ports": "Ports.",
    "from": "Whom packets come from.",
    "to": "Whom packets go to.",
    "ipBlock": "Addresses outside the cluster.",
    "except": "Ranges that are left out.",
}
"""Where the name of a field is enough to know what it means."""

_OURS = __name__.rpartition(".")[0] + "."
"""What a field is called says something only where we named it."""

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
    said = _of_ours(name, field) if struct.__module__.startswith(_OURS) else ""
    if not said:
        said = next((_FORMATS[must.format] for must in field.plan.musts if must.format in _FORMATS), "")
    return " ".join(filter(None, (said, _felix(field)))) if name == "FelixConfigurationSpec" else said


def _of_ours(name: str, field: Field) -> str:
    said = _FIELDS.get((name, field.name), "")
    if not said and name.endswith("PolicySpec"):
        said = _POLICY.get(field.name, "")
    if not said and name != "FelixConfigurationSpec":
        said = _NAMED.get(field.name, "")
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
