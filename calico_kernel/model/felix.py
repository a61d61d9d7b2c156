"""FelixConfiguration: how the agent and its dataplane behave, per cluster, per group of nodes, per node.

The struct is the document. ``felix_parameters`` holds defaults and units, ``felix_resolve`` folds the layers into one
``ResolvedConfig``; its keys are this struct's attribute names.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import field

from calico_kernel.model.bgp import CLUSTER_ROUTES, LogLevel
from calico_kernel.model.meta import Resource, Wire, always
from calico_kernel.model.types import (
    Cidr,
    Dscp,
    Duration,
    Interface,
    Must,
    Port,
    Regexp,
    RoutePriority,
    Selector,
    Switch,
)

AcceptReturn = Annotated[str, Must(one_of=("Accept", "Return"), any_case=True)]
DropReject = Annotated[str, Must(one_of=("Drop", "Reject"), any_case=True)]
MarkMask = Annotated[int, Must(ge=0, le=4294967295)]
InterfaceFilter = Annotated[str, Must(format="interface-filter")]
ClientAuth = Annotated[
    str, Must(one_of=("RequireAndVerifyClientCert", "RequireAnyClientCert", "VerifyClientCertIfGiven", "NoClientCert"))
]
FeatureOverrides = Annotated[
    str, Must(format="key-value-list", pattern=r"^([a-zA-Z0-9-_]+=(true|false|),)*([a-zA-Z0-9-_]+=(true|false|))?$")
]
FeatureGates = Annotated[
    str, Must(format="key-value-list", pattern=r"^([a-zA-Z0-9-_]+=([^=]+),)*([a-zA-Z0-9-_]+=([^=]+))?$")
]
ConntrackTimeout = Annotated[str, Must(pattern=r"(?>[0-9]*(?:\.[0-9]*)?(?:ms|us|m|s|h))++|Auto")]
"""Calico's own pattern, made possessive: as it stands, a long run of "m" keeps a matcher busy for ever."""


class HealthTimeoutOverride(Wire):
    name: str = always("")
    timeout: Duration = always("0s")


class RouteTableRange(Wire):
    min: int = always(0)
    max: int = always(0)


class RouteTableIDRange(Wire):
    min: int = always(0)
    max: int = always(0)


class ProtoPort(Wire):
    """A failsafe port: always reachable, whatever policy says; ``net`` "" means from and to anywhere."""

    protocol: str = ""
    port: int = always(0)
    net: str = ""


class BPFConntrackTimeouts(Wire):
    creation_grace_period: ConntrackTimeout | None = None
    tcp_syn_sent: ConntrackTimeout | None = None
    tcp_established: ConntrackTimeout | None = None
    tcp_fins_seen: ConntrackTimeout | None = None
    tcp_reset_seen: ConntrackTimeout | None = None
    udp_timeout: ConntrackTimeout | None = None
    generic_timeout: ConntrackTimeout | None = None
    icmp_timeout: ConntrackTimeout | None = None


class FelixConfigurationSpec(Wire):
    """Unset (None or empty) means: the next broader layer decides."""

    node_selector: Selector | None = None
    use_internal_dataplane_driver: bool | None = None
    dataplane_driver: str = ""
    dataplane_watchdog_timeout: Duration | None = None
    ipv6_support: bool | None = None
    route_refresh_interval: Duration | None = None
    interface_refresh_interval: Duration | None = None
    iptables_refresh_interval: Duration | None = None
    iptables_post_write_check_interval: Duration | None = None
    iptables_lock_probe_interval: Duration | None = None
    feature_detect_override: Annotated[
        str, Must(pattern=r"^([a-zA-Z0-9-_]+=(true|false|),)*([a-zA-Z0-9-_]+=(true|false|))?$", format="key-value-list")
    ] = ""
    feature_gates: Annotated[
        str, Must(pattern=r"^([a-zA-Z0-9-_]+=([^=]+),)*([a-zA-Z0-9-_]+=([^=]+))?$", format="key-value-list")
    ] = ""
    ipsets_refresh_interval: Duration | None = None
    max_ipset_size: int | None = None
    iptables_backend: Annotated[str | None, Must(one_of=("Auto", "Legacy", "NFT"), any_case=True)] = None
    xdp_refresh_interval: Duration | None = None
    netlink_timeout: Duration | None = None
    metadata_addr: str = ""
    metadata_port: int | None = None
    openstack_region: str = ""
    interface_prefix: str = ""
    interface_exclude: str = ""
    chain_insert_mode: Annotated[str, Must(one_of=("Insert", "Append"), any_case=True)] = ""
    default_endpoint_to_host_action: Annotated[str, Must(one_of=("Drop", "Accept", "Return"), any_case=True)] = ""
    iptables_filter_allow_action: AcceptReturn = ""
    iptables_mangle_allow_action: AcceptReturn = ""
    iptables_filter_deny_action: DropReject = ""
    log_prefix: Annotated[str, Must(pattern=r"^([a-zA-Z0-9%: /_-])*$")] = ""
    log_action_rate_limit: Annotated[str | None, Must(pattern=r"^[1-9]\d{0,3}/(?:second|minute|hour|day)$")] = None
    log_action_rate_limit_burst: Annotated[int | None, Must(ge=0, le=9999)] = None
    log_file_path: str = ""
    log_severity_file: LogLevel = ""
    log_severity_screen: LogLevel = ""
    log_severity_sys: LogLevel = ""
    log_debug_filename_regex: Regexp = ""
    ipip_enabled: bool | None = None
    ipip_mtu: int | None = field(default=None, name="ipipMTU")
    vxlan_enabled: bool | None = None
    vxlan_mtu: int | None = field(default=None, name="vxlanMTU")
    vxlan_mtu_v6: int | None = field(default=None, name="vxlanMTUV6")
    vxlan_port: int | None = None
    vxlan_vni: int | None = field(default=None, name="vxlanVNI")
    allow_vxlan_packets_from_workloads: bool | None = field(default=None, name="allowVXLANPacketsFromWorkloads")
    allow_ipip_packets_from_workloads: bool | None = field(default=None, name="allowIPIPPacketsFromWorkloads")
    reporting_interval: Duration | None = None
    reporting_ttl: Duration | None = field(default=None, name="reportingTTL")
    endpoint_reporting_enabled: bool | None = None
    endpoint_reporting_delay: Duration | None = None
    endpoint_status_path_prefix: str = ""
    iptables_mark_mask: MarkMask | None = None
    disable_conntrack_invalid_check: bool | None = None
    health_enabled: bool | None = None
    health_host: str | None = None
    health_port: int | None = None
    health_timeout_overrides: tuple[HealthTimeoutOverride, ...] = ()
    prometheus_metrics_enabled: bool | None = None
    prometheus_metrics_host: Annotated[str, Must(format="prometheus-host")] = ""
    prometheus_metrics_port: int | None = None
    prometheus_go_metrics_enabled: bool | None = None
    prometheus_process_metrics_enabled: bool | None = None
    prometheus_wireguard_metrics_enabled: bool | None = field(default=None, name="prometheusWireGuardMetricsEnabled")
    prometheus_metrics_ca_file: str | None = field(default=None, name="prometheusMetricsCAFile")
    prometheus_metrics_cert_file: str | None = None
    prometheus_metrics_key_file: str | None = None
    prometheus_metrics_client_auth: ClientAuth | None = None
    failsafe_inbound_host_ports: tuple[ProtoPort, ...] | None = None
    failsafe_outbound_host_ports: tuple[ProtoPort, ...] | None = None
    kube_node_port_ranges: Annotated[tuple[Port, ...] | None, Must(max_items=7)] = None
    policy_sync_path_prefix: str = ""
    usage_reporting_enabled: bool | None = None
    usage_reporting_initial_delay: Duration | None = None
    usage_reporting_interval: Duration | None = None
    nat_port_range: Port | None = None
    nat_outgoing_address: Annotated[str, Must(max_len=45)] = ""
    nat_outgoing_exclusions: Annotated[str | None, Must(one_of=("IPPoolsOnly", "IPPoolsAndHostIPs"))] = None
    device_route_source_address: Annotated[str, Must(max_len=45)] = ""
    device_route_source_address_ipv6: Annotated[str, Must(max_len=45)] = field(
        default="", name="deviceRouteSourceAddressIPv6"
    )
    device_route_protocol: int | None = None
    remove_external_routes: bool | None = None
    program_cluster_routes: Annotated[str | None, Must(one_of=CLUSTER_ROUTES)] = None
    ip_forwarding: Switch = ""
    external_nodes_list: tuple[str, ...] | None = None
    debug_memory_profile_path: str = ""
    debug_disable_log_dropping: bool | None = None
    debug_simulate_calc_graph_hang_after: Duration | None = None
    debug_simulate_dataplane_hang_after: Duration | None = None
    debug_simulate_dataplane_apply_delay: Duration | None = None
    debug_host: str | None = None
    debug_port: Annotated[int | None, Must(ge=0, le=65535)] = None
    iptables_nat_outgoing_interface_filter: InterfaceFilter = field(
        default="", name="iptablesNATOutgoingInterfaceFilter"
    )
    sidecar_acceleration_enabled: bool | None = None
    xdp_enabled: bool | None = None
    generic_xdp_enabled: bool | None = field(default=None, name="genericXDPEnabled")
    nftables_mode: Annotated[str | None, Must(one_of=("Disabled", "Enabled", "Auto"))] = None
    nftables_flow_table_offload: Annotated[str | None, Must(one_of=("All", "Disabled"))] = None
    nftables_flow_table_data_iface_pattern: Regexp = ""
    nftables_refresh_interval: Duration | None = None
    nftables_filter_allow_action: AcceptReturn = ""
    nftables_mangle_allow_action: AcceptReturn = ""
    nftables_filter_deny_action: DropReject = ""
    nftables_mark_mask: MarkMask | None = None
    bpf_enabled: bool | None = None
    bpf_overlay_host_source_ip: Annotated[str | None, Must(one_of=("TunnelAddress", "HostAddress"))] = field(
        default=None, name="bpfOverlayHostSourceIP"
    )
    bpf_disable_unprivileged: bool | None = None
    bpf_jit_hardening: Annotated[str | None, Must(one_of=("Auto", "Strict"))] = field(
        default=None, name="bpfJITHardening"
    )
    bpf_log_level: Annotated[str, Must(one_of=("Off", "Info", "Debug"), any_case=True)] = always("")
    bpf_conntrack_log_level: Annotated[str, Must(one_of=("Off", "Debug"))] = ""
    bpf_conntrack_mode: Annotated[str | None, Must(one_of=("Auto", "Userspace", "BPFProgram"))] = None
    bpf_conntrack_timeouts: BPFConntrackTimeouts | None = None
    bpf_ip_frag_timeout: Duration | None = field(default=None, name="bpfIPFragTimeout")
    bpf_log_filters: Annotated[dict[str, str] | None, Must(format="bpf-log-filters")] = None
    bpf_ctlb_log_filter: str = field(default="", name="bpfCTLBLogFilter")
    bpf_data_iface_pattern: Regexp = ""
    bpf_l3_iface_pattern: Regexp = ""
    bpf_connect_time_load_balancing_enabled: bool | None = None
    bpf_connect_time_load_balancing: Annotated[str | None, Must(one_of=("TCP", "Enabled", "Disabled"))] = None
    bpf_host_networked_nat_without_ctlb: Switch | None = field(default=None, name="bpfHostNetworkedNATWithoutCTLB")
    bpf_external_service_mode: Annotated[str, Must(one_of=("Tunnel", "DSR"), any_case=True)] = ""
    bpf_dsr_optout_cidrs: tuple[Cidr, ...] | None = field(default=None, name="bpfDSROptoutCIDRs")
    bpf_ext_to_service_connmark: MarkMask | None = None
    bpf_kube_proxy_iptables_cleanup_enabled: bool | None = None
    bpf_kube_proxy_min_sync_period: Duration | None = None
    bpf_kube_proxy_healthz_port: Annotated[int | None, Must(ge=0, le=65535)] = None
    bpf_psnat_ports: Port | None = field(default=None, name="bpfPSNATPorts")
    bpf_map_size_nat_frontend: int | None = field(default=None, name="bpfMapSizeNATFrontend")
    bpf_map_size_nat_backend: int | None = field(default=None, name="bpfMapSizeNATBackend")
    bpf_map_size_nat_affinity: int | None = field(default=None, name="bpfMapSizeNATAffinity")
    bpf_map_size_route: int | None = None
    bpf_map_size_conntrack: int | None = None
    bpf_map_size_per_cpu_conntrack: int | None = None
    bpf_map_size_conntrack_scaling: Annotated[str, Must(one_of=("Disabled", "DoubleIfFull"), any_case=True)] = ""
    bpf_map_size_conntrack_cleanup_queue: Annotated[int | None, Must(ge=1)] = None
    bpf_map_size_ipsets: int | None = field(default=None, name="bpfMapSizeIPSets")
    bpf_map_size_if_state: int | None = None
    bpf_host_conntrack_bypass: bool | None = None
    bpf_ip_fragment_reassembly_enabled: bool | None = field(default=None, name="bpfIPFragmentReassemblyEnabled")
    bpf_enforce_rpf: Annotated[str, Must(one_of=("Disabled", "Strict", "Loose"), any_case=True)] = field(
        default="", name="bpfEnforceRPF"
    )
    bpf_policy_debug_enabled: bool | None = None
    bpf_force_track_packets_from_ifaces: tuple[InterfaceFilter, ...] | None = None
    bpf_disable_gro_for_ifaces: Regexp = field(default="", name="bpfDisableGROForIfaces")
    bpf_exclude_cidrs_from_nat: tuple[Cidr, ...] | None = field(default=None, name="bpfExcludeCIDRsFromNAT")
    bpf_export_buffer_size_mb: int | None = field(default=None, name="bpfExportBufferSizeMB")
    istio_ambient_mode: Switch | None = None
    istio_dscp_mark: Dscp | None = field(default=None, name="istioDSCPMark")
    cgroup_v2_path: str = ""
    flow_logs_policy_evaluation_mode: Annotated[str | None, Must(one_of=("None", "Continuous"))] = None
    bpf_redirect_to_peer: Switch = ""
    bpf_attach_type: Annotated[str | None, Must(one_of=("TC", "TCX", "Netkit"))] = None
    flow_logs_flush_interval: Duration | None = None
    flow_logs_collector_debug_trace: bool | None = None
    flow_logs_goldmane_server: str | None = None
    flow_logs_local_reporter: Switch | None = None
    bpf_profiling: Switch = ""
    route_source: Annotated[str, Must(one_of=("WorkloadIPs", "CalicoIPAM"), any_case=True)] = ""
    route_table_ranges: tuple[RouteTableIDRange, ...] | None = None
    route_table_range: RouteTableRange | None = None
    route_sync_disabled: bool | None = None
    ipv4_normal_route_priority: RoutePriority | None = None
    ipv4_elevated_route_priority: RoutePriority | None = None
    ipv6_normal_route_priority: RoutePriority | None = None
    ipv6_elevated_route_priority: RoutePriority | None = None
    live_migration_route_convergence_time: Duration | None = None
    wireguard_enabled: bool | None = None
    wireguard_enabled_v6: bool | None = None
    wireguard_threading_enabled: bool | None = None
    wireguard_listening_port: Annotated[int | None, Must(le=65535, ge=1)] = None
    wireguard_listening_port_v6: Annotated[int | None, Must(le=65535, ge=1)] = None
    wireguard_routing_rule_priority: Annotated[int | None, Must(ge=1, le=32765)] = None
    wireguard_interface_name: Interface = ""
    wireguard_interface_name_v6: Interface = ""
    wireguard_mtu: int | None = field(default=None, name="wireguardMTU")
    wireguard_mtu_v6: int | None = field(default=None, name="wireguardMTUV6")
    wireguard_host_encryption_enabled: bool | None = None
    wireguard_keep_alive: Duration | None = None
    aws_src_dst_check: Annotated[str | None, Must(one_of=("DoNothing", "Enable", "Disable"))] = None
    service_loop_prevention: Annotated[str, Must(one_of=("Drop", "Reject", "Disabled"), any_case=True)] = ""
    workload_source_spoofing: Annotated[str, Must(one_of=("Disabled", "Any"), any_case=True)] = ""
    mtu_iface_pattern: Regexp = ""
    floating_ips: Switch | None = field(default=None, name="floatingIPs")
    local_subnet_l2_reachability: Annotated[str | None, Must(one_of=("Disabled", "PodsAndLoadBalancers"))] = None
    local_subnet_l2_reachability_refresh_interval: Duration | None = None
    windows_manage_firewall_rules: Switch | None = None
    go_gc_threshold: Annotated[int | None, Must(ge=-1)] = field(default=None, name="goGCThreshold")
    go_memory_limit_mb: Annotated[int | None, Must(ge=-1)] = field(default=None, name="goMemoryLimitMB")
    go_max_procs: Annotated[int | None, Must(ge=-1)] = None
    require_mtu_file: bool | None = field(default=None, name="requireMTUFile")
    bpf_maglev_max_endpoints_per_service: Annotated[int | None, Must(le=3000, ge=1)] = None
    bpf_maglev_max_services: Annotated[int | None, Must(le=3000, ge=1)] = None


class FelixConfiguration(Resource, tag="FelixConfiguration"):
    spec: FelixConfigurationSpec = field(default_factory=FelixConfigurationSpec)
    plural: ClassVar[str] = "felixconfigurations"
