"""What Calico fills in before it stores a resource: the client library's defaults and those of the CRD schemas.

Pure; a value that is wrong stays as it is for ``validate`` to refuse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from msgspec.structs import replace

from calico_kernel.model.codec import whole
from calico_kernel.model.meta import Resource
from calico_kernel.model.wellknown import NAMESPACE_LABEL, ORCHESTRATOR_LABEL, TIER_LABEL

DEFAULT_TIER_ORDER = 1_000_000

R = TypeVar("R", bound=Resource)


def with_defaults(resource: R) -> R:
    """``resource`` as it would be stored. The same value again when nothing is missing."""
    fill = _FILLERS.get(resource.kind)
    return resource if fill is None else fill(resource)


def policy_types(ingress: object, egress: object) -> tuple[str, ...]:
    """The directions that a policy governs when it does not say."""
    if egress:
        return ("Ingress", "Egress") if ingress else ("Egress",)
    return ("Ingress",)


def _policy(policy: Any) -> Any:
    spec = policy.spec
    changes: dict[str, Any] = {"tier": spec.tier or "default", "order": whole(spec.order)}
    if hasattr(spec, "staged_action"):
        changes["staged_action"] = spec.staged_action or "Set"
    if changes.get("staged_action") == "Delete":
        changes["types"] = ()
    elif not spec.types:
        changes["types"] = policy_types(spec.ingress, spec.egress)
    return _labelled(replace(policy, spec=replace(spec, **changes)), {TIER_LABEL: changes["tier"]})


def _staged_kubernetes(policy: Any) -> Any:
    return replace(policy, spec=replace(policy.spec, staged_action=policy.spec.staged_action or "Set"))


def _tier(tier: Any) -> Any:
    order = tier.spec.order if tier.spec.order is not None else DEFAULT_TIER_ORDER
    spec = replace(tier.spec, order=whole(order), default_action=tier.spec.default_action or "Deny")
    return replace(tier, spec=spec)


def _pool(pool: Any) -> Any:
    from calico_kernel.model.formats import network as parse_network

    spec = pool.spec
    changes: dict[str, Any] = {
        "vxlan_mode": spec.vxlan_mode or "Never",
        "ipip_mode": spec.ipip_mode or "Never",
        "node_selector": spec.node_selector or "all()",
        "allowed_uses": spec.allowed_uses or ("Workload", "Tunnel"),
        "assignment_mode": spec.assignment_mode or "Automatic",
    }
    try:
        network = parse_network(spec.cidr)
    except ValueError:
        return replace(pool, spec=replace(spec, **changes))
    changes["cidr"] = str(network)
    changes["block_size"] = spec.block_size or (26 if network.version == 4 else 122)
    return replace(pool, spec=replace(spec, **changes))


def _felix(config: Any) -> Any:
    spec = config.spec
    changes: dict[str, Any] = {
        "floating_ips": spec.floating_ips or "Disabled",
        "nftables_mode": spec.nftables_mode or "Auto",
        "nftables_flow_table_offload": spec.nftables_flow_table_offload or "Disabled",
        "bpf_connect_time_load_balancing": spec.bpf_connect_time_load_balancing or "TCP",
        "bpf_host_networked_nat_without_ctlb": spec.bpf_host_networked_nat_without_ctlb or "Enabled",
    }
    if spec.bpf_connect_time_load_balancing_enabled is not None:  # deprecated; it wins over the two it stands for
        enabled = spec.bpf_connect_time_load_balancing_enabled
        changes["bpf_connect_time_load_balancing"] = "Enabled" if enabled else "Disabled"
        changes["bpf_host_networked_nat_without_ctlb"] = "Disabled"
    return replace(config, spec=replace(spec, **changes))


def _bgp(config: Any) -> Any:
    spec = config.spec
    return replace(
        config,
        spec=replace(
            spec,
            log_severity_screen=spec.log_severity_screen or "Info",
            service_load_balancer_aggregation=spec.service_load_balancer_aggregation or "Enabled",
        ),
    )


def _controllers(config: Any) -> Any:
    spec, controllers = config.spec, config.spec.controllers
    node, balancer, migration = controllers.node, controllers.load_balancer, controllers.migration
    if node is not None:
        node = replace(node, leak_grace_period=node.leak_grace_period or "15m0s")
        if node.host_endpoint is not None:
            templates = tuple(
                replace(t, node_selector=t.node_selector or "all()") for t in node.host_endpoint.templates
            )
            node = replace(node, host_endpoint=replace(node.host_endpoint, templates=templates))
    if balancer is not None:
        balancer = replace(balancer, assign_ips=balancer.assign_ips or "AllServices")
    if migration is not None:
        migration = replace(migration, policy_name_migrator=migration.policy_name_migrator or "Enabled")
    port = spec.prometheus_metrics_port
    filled = replace(
        spec,
        health_checks=spec.health_checks or "Enabled",
        prometheus_metrics_port=9094 if port is None else port,
        controllers=replace(controllers, node=node, load_balancer=balancer, migration=migration),
    )
    return replace(config, spec=filled)


def _workload_endpoint(endpoint: Any) -> Any:
    from calico_kernel.model.names import endpoint_ids, workload_endpoint_name

    meta = endpoint.metadata
    if not meta.name:
        try:
            endpoint = replace(endpoint, metadata=replace(meta, name=workload_endpoint_name(endpoint_ids(endpoint))))
        except ValueError:
            pass  # ``validate`` says which part is missing
    return _labelled(endpoint, {NAMESPACE_LABEL: meta.namespace, ORCHESTRATOR_LABEL: endpoint.spec.orchestrator})


def _labelled(resource: Any, labels: dict[str, str]) -> Any:
    meta = resource.metadata
    if all(meta.labels.get(key) == value for key, value in labels.items()):
        return resource
    return replace(resource, metadata=replace(meta, labels={**meta.labels, **labels}))


_FILLERS: dict[str, Callable[[Any], Any]] = {
    "NetworkPolicy": _policy,
    "GlobalNetworkPolicy": _policy,
    "StagedNetworkPolicy": _policy,
    "StagedGlobalNetworkPolicy": _policy,
    "StagedKubernetesNetworkPolicy": _staged_kubernetes,
    "Tier": _tier,
    "IPPool": _pool,
    "FelixConfiguration": _felix,
    "BGPConfiguration": _bgp,
    "KubeControllersConfiguration": _controllers,
    "WorkloadEndpoint": _workload_endpoint,
}
