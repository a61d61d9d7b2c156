"""BGP kinds: configuration, peers and filters."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import field

from calico_kernel.model.meta import Resource, Wire, always
from calico_kernel.model.types import (
    WITH_LENGTH,
    AsNumber,
    Duration,
    Ipv4,
    Ipv6,
    Must,
    Name,
    Net,
    RoutePriority,
    Selector,
    Switch,
)

LOG_LEVELS = ("Trace", "Debug", "Info", "Warning", "Error", "Fatal")
LogLevel = Annotated[str, Must(one_of=LOG_LEVELS, any_case=True)]
CLUSTER_ROUTES = ("Enabled", "Disabled", "EnabledIPIPOnly", "EnabledNoEncapOnly")
RuleCommunity = Annotated[str, Must(format="community", max_len=32, required=True)]


class SecretKeySelector(Wire):
    name: str = ""
    key: str = always("")
    optional: bool | None = None


class BGPPassword(Wire):
    secret_key_ref: SecretKeySelector | None = None


class ServiceIPBlock(Wire):
    cidr: Annotated[Net, WITH_LENGTH] = ""


class Community(Wire):
    name: Annotated[str, Must(format="name", required=True, max_len=253)] = ""
    value: Annotated[str, Must(format="community", required=True, max_len=40)] = ""


class PrefixAdvertisement(Wire):
    cidr: Annotated[str, Must(format="net", required=True), WITH_LENGTH] = ""
    communities: Annotated[tuple[str, ...], Must(required=True, max_items=50)] = ()


class BGPConfigurationSpec(Wire):
    log_severity_screen: LogLevel = ""
    node_to_node_mesh_enabled: bool | None = None
    as_number: AsNumber | None = None
    service_load_balancer_ips: tuple[ServiceIPBlock, ...] = field(default=(), name="serviceLoadBalancerIPs")
    service_external_ips: tuple[ServiceIPBlock, ...] = field(default=(), name="serviceExternalIPs")
    service_cluster_ips: tuple[ServiceIPBlock, ...] = field(default=(), name="serviceClusterIPs")
    service_load_balancer_aggregation: Switch | None = None
    communities: Annotated[tuple[Community, ...], Must(max_items=500)] = ()
    prefix_advertisements: Annotated[tuple[PrefixAdvertisement, ...], Must(max_items=500)] = ()
    listen_port: Annotated[int, Must(ge=0, le=65535)] = 0
    node_mesh_password: BGPPassword | None = None
    node_mesh_max_restart_time: Duration | None = None
    bind_mode: Annotated[str | None, Must(one_of=("None", "NodeIP"))] = None
    ignored_interfaces: tuple[Annotated[str, Must(format="ignored-interface")], ...] = ()
    local_workload_peering_ipv4: Ipv4 = field(default="", name="localWorkloadPeeringIPV4")
    local_workload_peering_ipv6: Ipv6 = field(default="", name="localWorkloadPeeringIPV6")
    program_cluster_routes: Annotated[str | None, Must(one_of=CLUSTER_ROUTES)] = None
    ipv4_normal_route_priority: RoutePriority | None = field(default=None, name="ipv4NormalRoutePriority")
    ipv6_normal_route_priority: RoutePriority | None = field(default=None, name="ipv6NormalRoutePriority")


class BGPConfiguration(Resource, tag="BGPConfiguration"):
    spec: BGPConfigurationSpec = field(default_factory=BGPConfigurationSpec)
    plural: ClassVar[str] = "bgpconfigurations"


class BGPPeerSpec(Wire):
    node: Annotated[str, Must(format="name", max_len=253)] = ""
    node_selector: Selector = ""
    peer_ip: Annotated[str, Must(format="ip-port", max_len=64)] = field(default="", name="peerIP")
    as_number: AsNumber = 0
    local_as_number: AsNumber | None = field(default=None, name="localASNumber")
    peer_selector: Selector = ""
    keep_original_next_hop: bool = False
    next_hop_mode: Annotated[str | None, Must(one_of=("Auto", "Self", "Keep"))] = None
    password: BGPPassword | None = None
    source_address: Annotated[str, Must(one_of=("UseNodeIP", "None"))] = ""
    max_restart_time: Duration | None = None
    keepalive_time: Duration | None = None
    num_allowed_local_as_numbers: Annotated[int | None, Must(ge=0, le=2147483647)] = field(
        default=None, name="numAllowedLocalASNumbers"
    )
    ttl_security: Annotated[int | None, Must(ge=0, le=255)] = None
    reachable_by: Annotated[str, Must(format="ip", max_len=64)] = ""
    filters: tuple[Name, ...] = ()
    local_workload_selector: Selector = ""
    reverse_peering: Annotated[str | None, Must(one_of=("Auto", "Manual"))] = None


class BGPPeer(Resource, tag="BGPPeer"):
    spec: BGPPeerSpec = field(default_factory=BGPPeerSpec)
    plural: ClassVar[str] = "bgppeers"


class PrefixLengthV4(Wire):
    min: Annotated[int | None, Must(ge=0, le=32)] = None
    max: Annotated[int | None, Must(ge=0, le=32)] = None


class PrefixLengthV6(Wire):
    min: Annotated[int | None, Must(ge=0, le=128)] = None
    max: Annotated[int | None, Must(ge=0, le=128)] = None


class CommunityMatch(Wire):
    values: Annotated[tuple[RuleCommunity, ...], Must(required=True, min_items=1, max_items=1)] = always(())


class AddCommunity(Wire):
    value: RuleCommunity | None = always(None)


class PrependASPath(Wire):
    prefix: Annotated[tuple[AsNumber, ...], Must(required=True, min_items=1, max_items=10)] = always(())


class SetPriority(Wire):
    value: Annotated[int | None, Must(required=True, ge=1, le=2147483646)] = always(None)


class BGPFilterOperation(Wire):
    """Exactly one of the three."""

    add_community: AddCommunity | None = None
    prepend_as_path: PrependASPath | None = field(default=None, name="prependASPath")
    set_priority: SetPriority | None = None


MatchSource = Annotated[str, Must(one_of=("RemotePeers",))]
FilterInterface = Annotated[str, Must(format="filter-interface", max_len=15)]
MatchOperator = Annotated[str, Must(one_of=("Equal", "NotEqual", "In", "NotIn"))]
PeerType = Annotated[str, Must(one_of=("eBGP", "iBGP"))]
FilterAction = Annotated[str, Must(one_of=("Accept", "Reject"), required=True)]
Operations = Annotated[tuple[BGPFilterOperation, ...], Must(min_items=1, max_items=10)]


class BGPFilterRuleV4(Wire):
    cidr: Annotated[str, Must(format="netv4", max_len=18), WITH_LENGTH] = ""
    prefix_length: PrefixLengthV4 | None = None
    source: MatchSource = ""
    interface: FilterInterface = ""
    match_operator: MatchOperator = ""
    peer_type: PeerType = ""
    communities: CommunityMatch | None = None
    as_path_prefix: tuple[AsNumber, ...] = field(default=(), name="asPathPrefix")
    priority: RoutePriority | None = None
    action: FilterAction = always("")
    operations: Operations = ()


class BGPFilterRuleV6(Wire):
    cidr: Annotated[str, Must(format="netv6", max_len=43), WITH_LENGTH] = ""
    prefix_length: PrefixLengthV6 | None = None
    source: MatchSource = ""
    interface: FilterInterface = ""
    match_operator: MatchOperator = ""
    peer_type: PeerType = ""
    communities: CommunityMatch | None = None
    as_path_prefix: tuple[AsNumber, ...] = field(default=(), name="asPathPrefix")
    priority: RoutePriority | None = None
    action: FilterAction = always("")
    operations: Operations = ()


class BGPFilterSpec(Wire):
    export_v4: tuple[BGPFilterRuleV4, ...] = ()
    import_v4: tuple[BGPFilterRuleV4, ...] = ()
    export_v6: tuple[BGPFilterRuleV6, ...] = ()
    import_v6: tuple[BGPFilterRuleV6, ...] = ()


class BGPFilter(Resource, tag="BGPFilter"):
    spec: BGPFilterSpec = field(default_factory=BGPFilterSpec)
    plural: ClassVar[str] = "bgpfilters"
