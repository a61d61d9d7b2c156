"""Kinds about the cluster as a whole: its identity, its controllers, and what nodes report."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import field

from calico_kernel.model.meta import Resource, Wire, always
from calico_kernel.model.types import Annotations, Cidr, Duration, FreeSelector, Ip, Labels, Must, Regexp, Switch

Interval = Duration | None
PortOrZero = Annotated[int | None, Must(ge=0, le=65535)]


class ClusterInformationSpec(Wire):
    """``datastore_ready`` False: the datastore is locked for migration; nobody writes, agents wait."""

    cluster_guid: str = field(default="", name="clusterGUID")
    cluster_type: str = ""
    calico_version: str = ""
    datastore_ready: bool | None = None
    variant: str = ""


class ClusterInformation(Resource, tag="ClusterInformation"):
    spec: ClusterInformationSpec = field(default_factory=ClusterInformationSpec)
    plural: ClassVar[str] = "clusterinformations"


class HostEndpointTemplate(Wire):
    generate_name: Annotated[str, Must(format="name", max_len=253)] = ""
    interface_cidrs: tuple[Cidr, ...] = field(default=(), name="interfaceCIDRs")
    interface_pattern: Regexp = ""
    labels: Labels = field(default_factory=dict)
    annotations: Annotations = field(default_factory=dict)
    node_selector: FreeSelector = ""


class AutoHostEndpoints(Wire):
    auto_create: Switch = ""
    create_default_host_endpoint: Switch = ""
    templates: tuple[HostEndpointTemplate, ...] = ()


class NodeController(Wire):
    reconciler_period: Interval = None
    sync_labels: Switch = ""
    host_endpoint: AutoHostEndpoints | None = None
    leak_grace_period: Interval = None


class PeriodicController(Wire):
    reconciler_period: Interval = None


class LoadBalancerController(Wire):
    assign_ips: Annotated[str, Must(one_of=("AllServices", "RequestedServicesOnly"))] = field(
        default="", name="assignIPs"
    )


class MigrationController(Wire):
    policy_name_migrator: Switch = ""


class ControllersConfig(Wire):
    """An absent controller does not run."""

    node: NodeController | None = None
    policy: PeriodicController | None = None
    workload_endpoint: PeriodicController | None = None
    service_account: PeriodicController | None = None
    namespace: PeriodicController | None = None
    load_balancer: LoadBalancerController | None = None
    migration: MigrationController | None = None


class KubeControllersConfigurationSpec(Wire):
    log_severity_screen: Annotated[
        str, Must(one_of=("None", "Debug", "Info", "Warning", "Error", "Fatal", "Panic"))
    ] = ""
    health_checks: Switch = ""
    etcd_v3_compaction_period: Interval = field(default=None, name="etcdV3CompactionPeriod")
    prometheus_metrics_port: PortOrZero = None
    controllers: ControllersConfig = field(default_factory=ControllersConfig)
    debug_profile_port: PortOrZero = None


class KubeControllersConfigurationStatus(Wire):
    running_config: KubeControllersConfigurationSpec | None = None
    environment_vars: dict[str, str] = field(default_factory=dict)


class KubeControllersConfiguration(Resource, tag="KubeControllersConfiguration"):
    spec: KubeControllersConfigurationSpec = field(default_factory=KubeControllersConfigurationSpec)
    status: KubeControllersConfigurationStatus = field(default_factory=KubeControllersConfigurationStatus)
    plural: ClassVar[str] = "kubecontrollersconfigurations"


class CalicoNodeStatusSpec(Wire):
    """``update_period_seconds`` 0: the report is made once and not refreshed."""

    node: Annotated[str, Must(format="name", required=True)] = ""
    classes: Annotated[
        tuple[Annotated[str, Must(one_of=("Agent", "BGP", "Routes"))], ...], Must(required=True, unique=True)
    ] = ()
    update_period_seconds: Annotated[int | None, Must(required=True, ge=0, le=86400)] = None


class BGPDaemonStatus(Wire):
    state: str = ""
    version: str = ""
    router_id: str = field(default="", name="routerID")
    last_boot_time: str = ""
    last_reconfiguration_time: str = ""


class NodeAgentStatus(Wire):
    bird_v4: BGPDaemonStatus = field(default_factory=BGPDaemonStatus)
    bird_v6: BGPDaemonStatus = field(default_factory=BGPDaemonStatus)


class NodePeer(Wire):
    peer_ip: Ip = field(default="", name="peerIP")
    type: str = ""
    state: str = ""
    since: str = ""


class NodeBGPStatus(Wire):
    number_established_v4: int = always(0)
    number_not_established_v4: int = always(0)
    number_established_v6: int = always(0)
    number_not_established_v6: int = always(0)
    peers_v4: tuple[NodePeer, ...] = ()
    peers_v6: tuple[NodePeer, ...] = ()


class RouteLearnedFrom(Wire):
    source_type: str = ""
    peer_ip: Ip = field(default="", name="peerIP")


class NodeRoute(Wire):
    type: str = ""
    destination: str = ""
    gateway: str = ""
    interface: str = ""
    learned_from: RouteLearnedFrom = field(default_factory=RouteLearnedFrom)


class NodeRouteStatus(Wire):
    routes_v4: tuple[NodeRoute, ...] = ()
    routes_v6: tuple[NodeRoute, ...] = ()


class CalicoNodeStatusStatus(Wire):
    last_updated: str | None = always(None)
    agent: NodeAgentStatus = field(default_factory=NodeAgentStatus)
    bgp: NodeBGPStatus = field(default_factory=NodeBGPStatus)
    routes: NodeRouteStatus = field(default_factory=NodeRouteStatus)


class CalicoNodeStatus(Resource, tag="CalicoNodeStatus"):
    spec: CalicoNodeStatusSpec = field(default_factory=CalicoNodeStatusSpec)
    status: CalicoNodeStatusStatus = field(default_factory=CalicoNodeStatusStatus)
    plural: ClassVar[str] = "caliconodestatuses"
