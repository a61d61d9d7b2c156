"""What the fields of each kind must be together: Calico's cross-field rules (struct validators and CEL).

In:    a resource whose single fields ``validate`` checks beside this; any of them may still be wrong here.
Out:   (field path, reason) for each problem.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from calico_kernel.model import formats
from calico_kernel.model.meta import Resource
from calico_kernel.model.wellknown import NAMESPACE_LABEL, TIERS

Found = Iterator[tuple[str, str]]

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_POLICY_NAME = re.compile(rf"({_LABEL}(\.{_LABEL})?|(knp|ossg)\.default\.{_SUBDOMAIN})")
_GLOBAL_POLICY_NAME = re.compile(rf"({_LABEL}\.)?{_LABEL}")
_OVERRIDE_NAME = re.compile(r"[a-zA-Z0-9_ -]+")
_GLOBAL = re.compile(r"[ \t]*global\([ \t]*\)[ \t]*")
_WITH_PORTS = ("TCP", "UDP", "SCTP", 6, 17, 132)
_ICMP = ("ICMP", 1)
_ICMPV6 = ("ICMPv6", 58)
_MAX_ROUTE_TABLES = 0xFFFF
_MAX_ROUTE_TABLE = 0xFFFFFFFF


def name_problems(resource: Resource) -> list[tuple[str, str]]:
    """The name of a resource, by its kind."""
    kind, name = resource.kind, resource.metadata.name
    if kind == "Tier":
        good, wanted = formats.dns_label(name), "at most 63 lower case letters, digits or inner '-'"
    elif kind in ("NetworkPolicy", "StagedNetworkPolicy"):
        good = len(name) <= 253 and _POLICY_NAME.fullmatch(name) is not None
        wanted = "lower case letters, digits and inner '-', with at most one '.' after the tier"
    elif kind in ("GlobalNetworkPolicy", "StagedGlobalNetworkPolicy"):
        good = len(name) <= 253 and _GLOBAL_POLICY_NAME.fullmatch(name) is not None
        wanted = "lower case letters, digits and inner '-', with at most one '.' after the tier"
    else:
        good, wanted = formats.CHECKS["name"](name) is None, "lower case letters, digits, '-' or '.'"
    found = [] if good else [("metadata.name", f"{name!r} must be {wanted}" if name else "must be given")]
    if resource.namespaced and not resource.metadata.namespace:
        found.append(("metadata.namespace", "must be given"))
    elif resource.metadata.namespace and not resource.namespaced:
        found.append(("metadata.namespace", f"a {kind} has no namespace"))
    elif resource.metadata.namespace and not re.fullmatch(_SUBDOMAIN, resource.metadata.namespace):
        found.append(("metadata.namespace", f"{resource.metadata.namespace!r} is not a namespace's name"))
    return found


def kind_problems(resource: Resource) -> list[tuple[str, str]]:
    """What the kind's fields must be together."""
    rules = _RULES.get(resource.kind)
    return [] if rules is None else list(rules(resource))


# ── policy ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _network_policy(policy: Any) -> Found:
    yield from _policy_spec(policy.spec, is_global=False)


def _global_policy(policy: Any) -> Found:
    yield from _policy_spec(policy.spec, is_global=True)
    spec = policy.spec
    if spec.do_not_track and spec.pre_dnat:
        yield "spec", "preDNAT and doNotTrack cannot both be true"
    if spec.pre_dnat and spec.egress:
        yield "spec.egress", "a preDNAT policy cannot have egress rules"
    if spec.pre_dnat and "Egress" in spec.types:
        yield "spec.types", "a preDNAT policy cannot have the type Egress"
    if (spec.do_not_track or spec.pre_dnat) and not spec.apply_on_forward:
        yield "spec.applyOnForward", "must be true when preDNAT or doNotTrack is true"


def _staged(enforced: Callable[[Any], Found]) -> Callable[[Any], Found]:
    def check(policy: Any) -> Found:
        if policy.spec.staged_action != "Delete":
            yield from enforced(policy)
            return
        empty = type(policy.spec)()
        for attribute in set(policy.spec.__struct_fields__) - {"staged_action", "tier"}:
            if getattr(policy.spec, attribute) != getattr(empty, attribute):
                yield "spec", "must hold nothing but the tier when stagedAction is Delete"
                return

    return check


def _staged_kubernetes(policy: Any) -> Found:
    from calico_kernel.model.kubernetes import convert_rules, pod_selector

    spec = policy.spec
    if spec.staged_action == "Delete":
        if spec.ingress or spec.egress or spec.policy_types or spec.pod_selector != type(spec.pod_selector)():
            yield "spec", "must hold nothing else when stagedAction is Delete"
        return
    try:
        pod_selector(spec.pod_selector)
    except ValueError as exc:
        yield "spec.podSelector", str(exc)
    for direction, rules in (("ingress", spec.ingress), ("egress", spec.egress)):
        yield from ((f"spec.{place}", reason) for place, reason in convert_rules(direction, rules)[1])


def _profile(profile: Any) -> Found:
    for direction in ("ingress", "egress"):
        for index, rule in enumerate(getattr(profile.spec, direction)):
            yield from _rule(rule, f"spec.{direction}[{index}]")


def _policy_spec(spec: Any, *, is_global: bool) -> Found:
    for attribute, name in (
        ("selector", "selector"),
        ("service_account_selector", "serviceAccountSelector"),
        ("namespace_selector", "namespaceSelector"),
    ):
        if "global(" in getattr(spec, attribute, ""):
            yield f"spec.{name}", "global() can only be used in the namespaceSelector of a rule"
    for direction, inner, outer in (("ingress", "source", "destination"), ("egress", "destination", "source")):
        for index, rule in enumerate(getattr(spec, direction)):
            path = f"spec.{direction}[{index}]"
            if getattr(rule, outer).services is not None:
                yield f"{path}.{outer}.services", f"not allowed in the {outer} of an {direction} rule"
            services = getattr(rule, inner).services
            if is_global and services is not None and not services.namespace:
                yield f"{path}.{inner}.services.namespace", "must be given in a global policy"
            if direction == "egress" and rule.http is not None:
                yield f"{path}.http", "not allowed in egress rules"
            yield from _rule(rule, path)


def _rule(rule: Any, path: str) -> Found:
    for name, icmp in (("icmp", rule.icmp), ("notICMP", rule.not_icmp)):
        if icmp is not None and icmp.code is not None and icmp.type is None:
            yield f"{path}.{name}.code", "a code needs a type beside it"
    if rule.icmp is not None and rule.protocol not in _ICMP + _ICMPV6:
        yield f"{path}.icmp", "needs protocol ICMP or ICMPv6"
    for name, protocol in (("protocol", rule.protocol), ("notProtocol", rule.not_protocol)):
        for protocols, version in ((_ICMP, 4), (_ICMPV6, 6)):
            if protocol in protocols and rule.ip_version not in (None, version):
                yield f"{path}.{name}", f"{protocol} needs ipVersion {version}"
    if rule.http is not None:
        yield from _http(rule, f"{path}.http")
    for side_name in ("source", "destination"):
        yield from _ports(rule.protocol, getattr(rule, side_name), f"{path}.{side_name}")
        yield from _side(getattr(rule, side_name), f"{path}.{side_name}")
    to = rule.destination
    if to.services is not None and (to.ports or to.not_ports):
        yield f"{path}.destination", "ports and notPorts cannot be given beside services"
    yield from _families(rule, path)


def _http(rule: Any, path: str) -> Found:
    if rule.action != "Allow":
        yield path, "is only valid in Allow rules"
    if rule.protocol not in (None, "TCP", 6):
        yield path, "needs protocol TCP, or none"
    for index, where in enumerate(rule.http.paths):
        text = where.exact or where.prefix
        if bool(where.exact) == bool(where.prefix):
            yield f"{path}.paths[{index}]", "must have exactly one of exact and prefix"
        elif not text.startswith("/") or any(c in text for c in "? #"):
            yield f"{path}.paths[{index}]", f"{text!r} must begin with '/' and hold no '?', '#' or space"


def _ports(protocol: Any, side: Any, path: str) -> Found:
    for name, ports in (("ports", side.ports), ("notPorts", side.not_ports)):
        if protocol is None:
            if any(isinstance(port, int) or ":" in port for port in ports):
                yield f"{path}.{name}", "a rule with a port number or range must set protocol to TCP, UDP or SCTP"
        elif ports and protocol not in _WITH_PORTS:
            yield f"{path}.{name}", "a rule with ports must set protocol to TCP, UDP or SCTP"


def _side(side: Any, path: str) -> Found:
    if "global(" in side.selector:
        yield f"{path}.selector", "global() can only be used in the namespaceSelector of a rule"
    if (
        "global(" in side.namespace_selector
        and side.namespace_selector.replace(" ", "").replace("\t", "") != "global()"
    ):
        yield f"{path}.namespaceSelector", "global() cannot be combined with other selectors"
    if side.services is None:
        return
    if not side.services.name:
        yield f"{path}.services.name", "must be given"
    for name, given in (
        ("selector", side.selector),
        ("notSelector", side.not_selector),
        ("namespaceSelector", side.namespace_selector),
        ("nets", side.nets),
        ("notNets", side.not_nets),
        ("serviceAccounts", side.service_accounts),
    ):
        if given:
            yield f"{path}.{name}", "cannot be given beside services"


def _families(rule: Any, path: str) -> Found:
    """Every prefix of a rule is of one family, that of ``ipVersion`` if given."""
    seen: set[int] = set()
    for side in ("source", "destination"):
        for name, nets in (("nets", getattr(rule, side).nets), ("notNets", getattr(rule, side).not_nets)):
            here: set[int] = set()
            for index, net in enumerate(nets):
                where = f"{path}.{side}.{name}[{index}]"
                try:
                    network = formats.loose_network(net)
                except ValueError:
                    continue  # refused as a field already
                if "/" not in net:
                    yield where, f"{net!r} lacks its prefix length (/{network.prefixlen})"
                if name == "notNets" and network.prefixlen == 0:
                    yield where, f"{net} excludes everything, so the rule could never match"
                if rule.ip_version not in (None, network.version):
                    yield where, f"{net} is not of ipVersion {rule.ip_version}"
                here.add(network.version)
            if len(here) > 1 or (here and seen and here != seen):
                yield f"{path}.{side}.{name}", "a rule cannot hold both IPv4 and IPv6 prefixes"
            seen |= here


def _tier(tier: Any) -> Found:
    known = TIERS.get(tier.metadata.name)
    if known is None:
        return
    order, action = known
    if tier.spec.order != order:
        yield "spec.order", f"{tier.metadata.name} tier order must be {order}"
    if tier.spec.default_action != action:
        yield "spec.defaultAction", f"the {tier.metadata.name} tier must have the default action {action}"


def _network_set(networks: Any) -> Found:
    if NAMESPACE_LABEL in networks.metadata.labels:
        yield "metadata.labels", "projectcalico.org/namespace is set by Calico and cannot be given"


# ── endpoints and nodes ───────────────────────────────────────────────────────────────────────────────────────────────


def _host_endpoint(endpoint: Any) -> Found:
    spec = endpoint.spec
    if not spec.node:
        yield "spec.node", "must be given"
    if not spec.interface_name and not spec.expected_ips:
        yield "spec", "at least one of interfaceName or expectedIPs must be given"
    for index, port in enumerate(spec.ports):
        if not port.name:
            yield f"spec.ports[{index}].name", "must be given"


def _workload_endpoint(endpoint: Any) -> Found:
    from calico_kernel.model.names import endpoint_ids, workload_endpoint_name

    spec = endpoint.spec
    try:
        expected = workload_endpoint_name(endpoint_ids(endpoint))
    except ValueError as exc:
        yield "spec", str(exc)
    else:
        if endpoint.metadata.name and endpoint.metadata.name != expected:
            yield "metadata.name", f"must be {expected}, as node, orchestrator, workload and endpoint say"
    networks = []
    for index, text in enumerate(spec.ip_networks):
        try:
            network = formats.loose_network(text)
        except ValueError:
            continue  # refused as a field already
        networks.append(network)
        if network.num_addresses != 1:
            yield f"spec.ipNetworks[{index}]", f"{text} holds more than one address"
    for index, nat in enumerate(spec.ip_nats):
        yield from _nat(nat, networks, f"spec.ipNATs[{index}]")
    for index, port in enumerate(spec.ports):
        if not port.name and not port.host_port:
            yield f"spec.ports[{index}].name", "must be given when there is no hostPort"


def _nat(nat: Any, networks: list[Any], path: str) -> Found:
    try:
        inside, outside = formats.address(nat.internal_ip), formats.address(nat.external_ip)
    except ValueError:
        if not nat.internal_ip or not nat.external_ip:
            yield path, "must have internalIP and externalIP"
        return
    if inside.version != outside.version:
        yield f"{path}.externalIP", "must be of the same IP version as internalIP"
    if not any(inside in network for network in networks if network.version == inside.version):
        yield f"{path}.internalIP", f"{inside} is not an address of the endpoint"


def _node(node: Any) -> Found:
    if node.spec.bgp is not None and node.spec.bgp == type(node.spec.bgp)():
        yield "spec.bgp", "must not be empty"


# ── addresses ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _pool(pool: Any) -> Found:
    spec = pool.spec
    for name, selector in (("nodeSelector", spec.node_selector), ("namespaceSelector", spec.namespace_selector)):
        if "global(" in selector:
            yield f"spec.{name}", "global() is not valid here"
    ipip, vxlan = (mode not in ("", "Never") for mode in (spec.ipip_mode, spec.vxlan_mode))
    if ipip and vxlan:
        yield "spec", "ipipMode and vxlanMode cannot both be enabled"
    uses = set(spec.allowed_uses)
    if "LoadBalancer" in uses:
        if ipip or vxlan:
            yield "spec", "a LoadBalancer pool cannot have IPIP or VXLAN enabled"
        if uses & {"Workload", "Tunnel"}:
            yield "spec.allowedUses", "LoadBalancer cannot be combined with Workload or Tunnel"
        if spec.disable_bgp_export:
            yield "spec.disableBGPExport", "a LoadBalancer pool cannot disable BGP export"
        if spec.node_selector != "all()":
            yield "spec.nodeSelector", "a LoadBalancer pool must have the nodeSelector all()"
    if "Tunnel" in uses and spec.namespace_selector:
        yield "spec.namespaceSelector", "not allowed in a pool for tunnels: set allowedUses to [Workload]"
    try:
        network = formats.loose_network(spec.cidr)
    except ValueError:
        return  # refused as a field already
    yield from _pool_range(spec, network, ipip=ipip)


def _pool_range(spec: Any, network: formats.Network, *, ipip: bool) -> Found:
    version = network.version
    if str(network.network_address) != str(formats.address(spec.cidr.partition("/")[0])):
        yield "spec.cidr", f"{spec.cidr} is not strictly masked: the network is {network}"
    link_local: formats.Network = formats.network("169.254.0.0/16" if version == 4 else "fe80::/10")
    if network.overlaps(link_local):
        yield "spec.cidr", f"overlaps with the link local range {link_local}"
    if ipip and version == 6:
        yield "spec.ipipMode", "IPIP is not supported on IPv6 pools"
    low, high = (20, 32) if version == 4 else (116, 128)
    size = spec.block_size or (26 if version == 4 else 122)
    if not low <= size <= high:
        yield "spec.blockSize", f"must be from {low} to {high} for an IPv{version} pool, is {size}"
    if not spec.disabled and network.prefixlen > size:
        yield "spec.cidr", f"{network} is smaller than one block (/{size})"


def _block_affinity(affinity: Any) -> Found:
    if affinity.spec.deleted in (True, "true"):
        yield "spec.deleted", "cannot be set"


# ── BGP ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _bgp_configuration(config: Any) -> Found:
    spec, name = config.spec, config.metadata.name
    if name != "default":
        if not name.startswith("node.") or name == "node.":
            yield "metadata.name", "must be 'default' or 'node.<name of a node>'"
        for field, given in (
            ("nodeToNodeMeshEnabled", spec.node_to_node_mesh_enabled is not None),
            ("asNumber", spec.as_number is not None),
            ("serviceLoadBalancerIPs", spec.service_load_balancer_ips),
            ("serviceExternalIPs", spec.service_external_ips),
            ("serviceClusterIPs", spec.service_cluster_ips),
            ("nodeMeshPassword", spec.node_mesh_password is not None),
            ("nodeMeshMaxRestartTime", spec.node_mesh_max_restart_time is not None),
        ):
            if given:
                yield f"spec.{field}", "can only be set on the BGPConfiguration named default"
    if spec.node_to_node_mesh_enabled is False:
        if spec.node_mesh_password is not None:
            yield "spec.nodeMeshPassword", "cannot be set when nodeToNodeMeshEnabled is false"
        if spec.node_mesh_max_restart_time is not None:
            yield "spec.nodeMeshMaxRestartTime", "cannot be set when nodeToNodeMeshEnabled is false"
    if spec.communities and not spec.prefix_advertisements:
        yield "spec.communities", "are defined but no prefixAdvertisements use them"
    defined = {community.name for community in spec.communities}
    for index, advertised in enumerate(spec.prefix_advertisements):
        for at, community in enumerate(advertised.communities):
            if community not in defined:
                reason = formats.CHECKS["community"](community)
                if reason:
                    yield f"spec.prefixAdvertisements[{index}].communities[{at}]", f"{reason}, nor a defined name"


def _bgp_peer(peer: Any) -> Found:
    spec = peer.spec
    if spec.node and spec.node_selector:
        yield "spec", "node and nodeSelector cannot both be set"
    if spec.peer_ip and spec.peer_selector:
        yield "spec", "peerIP and peerSelector cannot both be set"
    if spec.peer_selector and spec.as_number:
        yield "spec.asNumber", "must be empty when peerSelector is set"
    if spec.local_workload_selector:
        if spec.peer_ip:
            yield "spec.peerIP", "must be empty when localWorkloadSelector is set"
        if spec.peer_selector:
            yield "spec.peerSelector", "must be empty when localWorkloadSelector is set"
        if not spec.as_number:
            yield "spec.asNumber", "is required when localWorkloadSelector is set"
    if spec.keep_original_next_hop and spec.next_hop_mode is not None:
        yield "spec.nextHopMode", "cannot be set beside keepOriginalNextHop, which is deprecated"
    if spec.reachable_by:
        yield from _reachable_by(spec)


def _reachable_by(spec: Any) -> Found:
    if not spec.peer_ip:
        yield "spec.reachableBy", "must be empty when peerIP is empty"
    elif formats.CHECKS["ip-port"](spec.peer_ip) is None and formats.CHECKS["ip"](spec.reachable_by) is None:
        peer_is_6 = spec.peer_ip.startswith("[") or spec.peer_ip.count(":") > 1
        if peer_is_6 != (":" in spec.reachable_by):
            yield "spec.reachableBy", "must be of the same IP version as peerIP"


def _bgp_filter(bgp_filter: Any) -> Found:
    for name, rules in (
        ("exportV4", bgp_filter.spec.export_v4),
        ("importV4", bgp_filter.spec.import_v4),
        ("exportV6", bgp_filter.spec.export_v6),
        ("importV6", bgp_filter.spec.import_v6),
    ):
        for index, rule in enumerate(rules):
            yield from _filter_rule(rule, f"spec.{name}[{index}]")


def _filter_rule(rule: Any, path: str) -> Found:
    if bool(rule.cidr) != bool(rule.match_operator):
        yield path, "cidr and matchOperator must both be set or both be empty"
    length = rule.prefix_length
    if length is not None:
        if not rule.cidr:
            yield f"{path}.cidr", "is required when prefixLength is set"
        if length.min is not None and length.max is not None and length.min > length.max:
            yield f"{path}.prefixLength", "min is greater than max"
    if rule.operations and rule.action != "Accept":
        yield f"{path}.operations", "may only be used with action Accept"
    for index, step in enumerate(rule.operations):
        if sum(part is not None for part in (step.add_community, step.prepend_as_path, step.set_priority)) != 1:
            yield f"{path}.operations[{index}]", "must have exactly one of addCommunity, prependASPath and setPriority"
        elif step.add_community is not None and not step.add_community.value:
            yield f"{path}.operations[{index}].addCommunity.value", "must be given"


# ── configuration ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _felix_configuration(config: Any) -> Found:
    spec, name = config.spec, config.metadata.name
    if spec.node_selector is not None and (name == "default" or name.startswith("node.")):
        yield "spec.nodeSelector", "must not be set on 'default' or on 'node.*'"
    if spec.route_table_range is not None and spec.route_table_ranges is not None:
        yield "spec", "routeTableRange and routeTableRanges cannot both be set"
    single = spec.route_table_range
    if single is not None and not 1 <= single.min <= single.max <= 250:
        yield "spec.routeTableRange", "must be a range of route table indices within 1..250"
    tables = 0
    for index, tables_range in enumerate(spec.route_table_ranges or ()):
        tables += max(0, tables_range.max - tables_range.min + 1)
        if not 1 <= tables_range.min <= tables_range.max <= _MAX_ROUTE_TABLE:
            yield f"spec.routeTableRanges[{index}]", f"must be a range within 1..{_MAX_ROUTE_TABLE}"
    if tables > _MAX_ROUTE_TABLES:
        yield "spec.routeTableRanges", f"name {tables} tables, more than {_MAX_ROUTE_TABLES}"
    for field, value, version in (
        ("natOutgoingAddress", spec.nat_outgoing_address, 4),
        ("deviceRouteSourceAddress", spec.device_route_source_address, 4),
        ("deviceRouteSourceAddressIPv6", spec.device_route_source_address_ipv6, 6),
    ):
        reason = formats.CHECKS[f"ipv{version}"](value) if value else None
        if reason:
            yield f"spec.{field}", reason
    for index, port in enumerate(spec.kube_node_port_ranges or ()):
        if isinstance(port, str) and ":" not in port:
            yield f"spec.kubeNodePortRanges[{index}]", "must not be a named port"
    for index, cidr in enumerate(spec.external_nodes_list or ()):
        reason = formats.CHECKS["cidrv4"](cidr)
        if reason:
            yield f"spec.externalNodesList[{index}]", reason
    region = spec.openstack_region
    if region and (len(region) > 46 or not formats.dns_label(region)):
        yield "spec.openstackRegion", "must be a DNS label of at most 46 characters"
    yield from _felix_lists(spec)


def _felix_lists(spec: Any) -> Found:
    for name, ports in (
        ("failsafeInboundHostPorts", spec.failsafe_inbound_host_ports),
        ("failsafeOutboundHostPorts", spec.failsafe_outbound_host_ports),
    ):
        for index, port in enumerate(ports or ()):
            if port.protocol.upper() not in ("TCP", "UDP", "SCTP"):
                yield f"spec.{name}[{index}].protocol", f"must be tcp, udp or sctp, is {port.protocol!r}"
            if not 0 <= port.port <= 65535:
                yield f"spec.{name}[{index}].port", f"must be from 0 to 65535, is {port.port}"
            reason = formats.CHECKS["cidr"](port.net) if port.net else None
            if reason:
                yield f"spec.{name}[{index}].net", reason
    for index, override in enumerate(spec.health_timeout_overrides):
        if not _OVERRIDE_NAME.fullmatch(override.name):
            yield f"spec.healthTimeoutOverrides[{index}].name", "must consist of letters, digits, '_', '-' or spaces"


def _controllers(config: Any) -> Found:
    node = config.spec.controllers.node
    seen: set[str] = set()
    templates = node.host_endpoint.templates if node is not None and node.host_endpoint is not None else ()
    for index, template in enumerate(templates):
        path = f"spec.controllers.node.hostEndpoint.templates[{index}]"
        if not template.generate_name:
            yield f"{path}.generateName", "must be given"
        elif template.generate_name in seen:
            yield f"{path}.generateName", f"{template.generate_name!r} is used by another template"
        seen.add(template.generate_name)
        if not template.interface_cidrs and not template.interface_pattern:
            yield path, "must have interfaceCIDRs or interfacePattern"


def _live_migration(migration: Any) -> Found:
    spec = migration.spec
    if spec.source is not None and (spec.source.workload is None) == (spec.source.workload_endpoint is None):
        yield "spec.source", "must have exactly one of workload and workloadEndpoint"
    if spec.target is not None and (spec.target.selector is None) == (spec.target.workload_endpoint is None):
        yield "spec.target", "must have exactly one of selector and workloadEndpoint"


_RULES: dict[str, Callable[[Any], Found]] = {
    "NetworkPolicy": _network_policy,
    "GlobalNetworkPolicy": _global_policy,
    "StagedNetworkPolicy": _staged(_network_policy),
    "StagedGlobalNetworkPolicy": _staged(_global_policy),
    "StagedKubernetesNetworkPolicy": _staged_kubernetes,
    "Profile": _profile,
    "Tier": _tier,
    "NetworkSet": _network_set,
    "GlobalNetworkSet": _network_set,
    "HostEndpoint": _host_endpoint,
    "WorkloadEndpoint": _workload_endpoint,
    "LiveMigration": _live_migration,
    "Node": _node,
    "IPPool": _pool,
    "BlockAffinity": _block_affinity,
    "BGPConfiguration": _bgp_configuration,
    "BGPPeer": _bgp_peer,
    "BGPFilter": _bgp_filter,
    "FelixConfiguration": _felix_configuration,
    "KubeControllersConfiguration": _controllers,
}
