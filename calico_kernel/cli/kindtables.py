"""Which columns ``calicoctl get`` shows of each kind.

In:    resources.
Out:   headings and cells, to ``calico_kernel.cli.output.columns``. Headings are Calico's; so is the text of the cells,
       except where Calico's own is a slip (a tier's order is written as a plain number).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

Cell = Callable[[Any], str]
LONGEST_LIST = 80


class KindTable(NamedTuple):
    """``cells``: every heading that custom-columns may ask for. ``short``, ``wide``: what the two tables show."""

    cells: Mapping[str, Cell]
    short: tuple[str, ...] = ("NAME",)
    wide: tuple[str, ...] = ("NAME",)


def go(value: Any) -> str:
    """A value as Go's %v writes it: ``<nil>``, ``true``; whole numbers without a point."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    return str(value)


def join(items: Iterable[Any], longest: int = 0) -> str:
    text = ",".join(go(item) for item in items)
    return f"{text[: longest - 3]}..." if longest and len(text) > longest else text


def _name(resource: Any) -> str:
    return str(resource.metadata.name)


def _namespace(resource: Any) -> str:
    return str(resource.metadata.namespace)


def _policy(*, namespaced: bool) -> KindTable:
    cells: dict[str, Cell] = {
        "NAME": _name,
        "TIER": lambda r: str(r.spec.tier),
        "ORDER": lambda r: go(r.spec.order),
        "SELECTOR": lambda r: str(r.spec.selector),
    }
    if namespaced:
        cells["NAMESPACE"] = _namespace
    return KindTable(cells, ("NAME", "TIER"), ("NAME", "TIER", "ORDER", "SELECTOR"))


def _same(cells: dict[str, Cell]) -> KindTable:
    return KindTable(cells, tuple(cells), tuple(cells))


def _node_bgp(field: str) -> Cell:
    def cell(node: Any) -> str:
        return str(getattr(node.spec.bgp, field) or "") if node.spec.bgp is not None else ""

    return cell


def _nat(nat: Any) -> str:
    return f"{{{nat.internal_ip} {nat.external_ip}}}"


def _pod_selector(policy: Any) -> str:
    from calico_kernel.model.kubernetes import pod_selector

    return pod_selector(policy.spec.pod_selector)


TABLES: dict[str, KindTable] = {
    "BGPConfiguration": _same(
        {
            "NAME": _name,
            "LOGSEVERITY": lambda r: str(r.spec.log_severity_screen),
            "MESHENABLED": lambda r: (
                "-" if r.spec.node_to_node_mesh_enabled is None else go(r.spec.node_to_node_mesh_enabled)
            ),
            "ASNUMBER": lambda r: "-" if r.spec.as_number is None else go(r.spec.as_number),
        }
    ),
    "BGPFilter": _same(
        {
            "NAME": _name,
            "NUMEXPORTV4": lambda r: str(len(r.spec.export_v4)),
            "NUMIMPORTV4": lambda r: str(len(r.spec.import_v4)),
            "NUMEXPORTV6": lambda r: str(len(r.spec.export_v6)),
            "NUMIMPORTV6": lambda r: str(len(r.spec.import_v6)),
        }
    ),
    "BGPPeer": _same(
        {
            "NAME": _name,
            "PEERIP": lambda r: str(r.spec.peer_ip),
            "NODE": lambda r: str(r.spec.node or r.spec.node_selector or "(global)"),
            "ASN": lambda r: go(r.spec.as_number or 0),
        }
    ),
    "CalicoNodeStatus": KindTable(
        {"NAME": _name, "NODE": lambda r: str(r.spec.node), "CLASSES": lambda r: join(r.spec.classes)},
        ("NAME", "NODE"),
        ("NAME", "NODE", "CLASSES"),
    ),
    "ClusterInformation": _same(
        {
            "NAME": _name,
            "CLUSTERGUID": lambda r: str(r.spec.cluster_guid),
            "CLUSTERTYPE": lambda r: str(r.spec.cluster_type),
            "CALICOVERSION": lambda r: str(r.spec.calico_version),
            "DATASTOREREADY": lambda r: go(r.spec.datastore_ready),
        }
    ),
    "GlobalNetworkPolicy": _policy(namespaced=False),
    "GlobalNetworkSet": KindTable(
        {"NAME": _name, "NETS": lambda r: join(r.spec.nets, LONGEST_LIST)}, ("NAME",), ("NAME", "NETS")
    ),
    "HostEndpoint": KindTable(
        {
            "NAME": _name,
            "NODE": lambda r: str(r.spec.node),
            "INTERFACE": lambda r: str(r.spec.interface_name),
            "IPS": lambda r: join(r.spec.expected_ips),
            "PROFILES": lambda r: join(r.spec.profiles),
        },
        ("NAME", "NODE"),
        ("NAME", "NODE", "INTERFACE", "IPS", "PROFILES"),
    ),
    "IPAMConfiguration": KindTable(
        {
            "NAME": _name,
            "STRICTAFFINITY": lambda r: go(r.spec.strict_affinity),
            "AUTOALLOCATEBLOCKS": lambda r: go(r.spec.auto_allocate_blocks),
            "MAXBLOCKSPERHOST": lambda r: go(r.spec.max_blocks_per_host),
        },
        ("NAME", "STRICTAFFINITY", "AUTOALLOCATEBLOCKS"),
        ("NAME", "STRICTAFFINITY", "AUTOALLOCATEBLOCKS", "MAXBLOCKSPERHOST"),
    ),
    "IPPool": KindTable(
        {
            "NAME": _name,
            "CIDR": lambda r: str(r.spec.cidr),
            "NAT": lambda r: go(r.spec.nat_outgoing),
            "IPIPMODE": lambda r: str(r.spec.ipip_mode or "Never"),
            "VXLANMODE": lambda r: str(r.spec.vxlan_mode or "Never"),
            "DISABLED": lambda r: go(r.spec.disabled),
            "DISABLEBGPEXPORT": lambda r: go(r.spec.disable_bgp_export),
            "SELECTOR": lambda r: str(r.spec.node_selector),
            "ASSIGNMENTMODE": lambda r: go(r.spec.assignment_mode),
        },
        ("NAME", "CIDR", "SELECTOR"),
        (
            "NAME",
            "CIDR",
            "NAT",
            "IPIPMODE",
            "VXLANMODE",
            "DISABLED",
            "DISABLEBGPEXPORT",
            "SELECTOR",
            "ASSIGNMENTMODE",
        ),
    ),
    "IPReservation": KindTable(
        {"NAME": _name, "CIDRS": lambda r: join(r.spec.reserved_cidrs, LONGEST_LIST)}, ("NAME",), ("NAME", "CIDRS")
    ),
    "NetworkPolicy": _policy(namespaced=True),
    "NetworkSet": KindTable(
        {"NAME": _name, "NAMESPACE": _namespace, "NETS": lambda r: join(r.spec.nets, LONGEST_LIST)},
        ("NAME",),
        ("NAME", "NETS"),
    ),
    "Node": KindTable(
        {
            "NAME": _name,
            "ASN": _node_bgp("as_number"),
            "IPV4": _node_bgp("ipv4_address"),
            "IPV6": _node_bgp("ipv6_address"),
        },
        ("NAME",),
        ("NAME", "ASN", "IPV4", "IPV6"),
    ),
    "Profile": KindTable(
        {
            "NAME": _name,
            "LABELS": lambda r: ",".join(f"{key}={value}" for key, value in sorted(r.spec.labels_to_apply.items())),
        },
        ("NAME",),
        ("NAME", "LABELS"),
    ),
    "StagedGlobalNetworkPolicy": _policy(namespaced=False),
    "StagedKubernetesNetworkPolicy": KindTable(
        {"NAME": _name, "NAMESPACE": _namespace, "PODSELECTOR": _pod_selector},
        ("NAME",),
        ("NAME", "PODSELECTOR"),
    ),
    "StagedNetworkPolicy": _policy(namespaced=True),
    "Tier": _same({"NAME": _name, "ORDER": lambda r: go(r.spec.order)}),
    "WorkloadEndpoint": KindTable(
        {
            "NAME": _name,
            "NAMESPACE": _namespace,
            "NODE": lambda r: str(r.spec.node),
            "ORCHESTRATOR": lambda r: str(r.spec.orchestrator),
            "WORKLOAD": lambda r: str(r.spec.workload or r.spec.pod),
            "NETWORKS": lambda r: join(r.spec.ip_networks),
            "NATS": lambda r: ",".join(_nat(nat) for nat in r.spec.ip_nats),
            "PROFILES": lambda r: join(r.spec.profiles),
            "INTERFACE": lambda r: str(r.spec.interface_name),
        },
        ("WORKLOAD", "NODE", "NETWORKS", "INTERFACE"),
        ("NAME", "WORKLOAD", "NODE", "NETWORKS", "INTERFACE", "PROFILES", "NATS"),
    ),
}


def table_for(kind: str, *, namespaced: bool) -> KindTable:
    """The table of a kind; a plugin's kind shows its name."""
    known = TABLES.get(kind)
    if known is not None:
        return known
    cells: dict[str, Cell] = {"NAME": _name}
    if namespaced:
        cells["NAMESPACE"] = _namespace
    return KindTable(cells)
