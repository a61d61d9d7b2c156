"""CustomResourceDefinitions of our kinds, as ``calicoctl crds`` prints them.

In:    the register of kinds (a plugin's kinds included) and the name of a group.
Out:   plain dicts for JSON or YAML, in a fixed order. Pure.

Names, scopes, short names, subresources and, in the native group, columns are those of Calico's own definitions, so
that either can stand in for the other; in the older group, where Calico has none, the columns are the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calico_kernel.model import crd_rules, crd_words
from calico_kernel.model.crd_schema import Schema, schema_of
from calico_kernel.model.kinds import KINDS, KindInfo
from calico_kernel.model.meta import API_VERSION
from calico_kernel.model.wellknown import CRD_GROUP

NATIVE_GROUP = API_VERSION
"""The same resources under their own name, without an aggregated API server between."""
GROUPS = (CRD_GROUP, NATIVE_GROUP)

NOT_CUSTOM = frozenset(
    ["KubernetesEndpointSlice", "KubernetesService", "LiveMigration", "Node", "Profile", "WorkloadEndpoint"]
)
"""Kinds that are made from objects which Kubernetes itself has."""

_V1_NAMES = {"IPAMConfiguration": ("IPAMConfig", "ipamconfigs")}

_SHORT: Mapping[str, tuple[str, ...]] = {
    "BGPConfiguration": ("bgpconfig", "bgpconfigs"),
    "BlockAffinity": ("affinity", "affinities"),
    "ClusterInformation": ("clusterinfo", "clusterinfos"),
    "GlobalNetworkPolicy": ("gnp", "cgnp"),
    "GlobalNetworkSet": ("gns",),
    "HostEndpoint": ("hep", "heps"),
    "IPAMConfiguration": ("ipamconfig", "ipamconfigs"),
    "KubeControllersConfiguration": ("kcc", "kccs"),
    "NetworkPolicy": ("cnp", "caliconetworkpolicy"),
    "StagedGlobalNetworkPolicy": ("sgnp",),
    "StagedKubernetesNetworkPolicy": ("sknp",),
    "StagedNetworkPolicy": ("scnp", "snp"),
}
"""In the native group; the older one has none."""

_WITH_STATUS = frozenset(["CalicoNodeStatus", "IPPool", "KubeControllersConfiguration", "Tier"])
"""Their status is a subresource: written by itself, and not by who writes the spec."""

_POLICY_COLUMNS = (("Tier", "string", ".spec.tier"), ("Order", "number", ".spec.order"))
_AGE = ("Age", "date", ".metadata.creationTimestamp")

_COLUMNS: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "BGPConfiguration": (
        ("Mesh", "boolean", ".spec.nodeToNodeMeshEnabled"),
        ("ASN", "integer", ".spec.asNumber"),
        ("Log", "string", ".spec.logSeverityScreen"),
        _AGE,
    ),
    "BGPFilter": (_AGE,),
    "BGPPeer": (
        ("Node Selector", "string", ".spec.nodeSelector"),
        ("Node", "string", ".spec.node"),
        ("Local ASN", "string", ".spec.localASNumber"),
        ("Peer Selector", "string", ".spec.peerSelector"),
        ("Peer IP", "string", ".spec.peerIP"),
        ("Peer ASN", "string", ".spec.asNumber"),
    ),
    "BlockAffinity": (
        ("CIDR", "string", ".spec.cidr"),
        ("Node", "string", ".spec.node"),
        ("Type", "string", ".spec.type"),
        ("State", "string", ".spec.state"),
    ),
    "CalicoNodeStatus": (
        ("Node", "string", ".spec.node"),
        ("Classes", "string", ".spec.classes"),
        ("Updated", "date", ".status.lastUpdated"),
    ),
    "ClusterInformation": (
        ("Version", "string", ".spec.calicoVersion"),
        ("Ready", "boolean", ".spec.datastoreReady"),
        ("Types", "string", ".spec.clusterType"),
    ),
    "FelixConfiguration": (("Node Selector", "string", ".spec.nodeSelector"), _AGE),
    "GlobalNetworkPolicy": (*_POLICY_COLUMNS, ("Selector", "string", ".spec.selector"), _AGE),
    "GlobalNetworkSet": (("Nets", "string", ".spec.nets"), _AGE),
    "HostEndpoint": (
        ("Node", "string", ".spec.node"),
        ("Interface", "string", ".spec.interfaceName"),
        ("IPs", "string", ".spec.expectedIPs"),
    ),
    "IPAMBlock": (
        ("CIDR", "string", ".spec.cidr"),
        ("Affinity", "string", ".spec.affinity"),
        ("ClaimTime", "date", ".spec.affinityClaimTime"),
    ),
    "IPAMConfiguration": (
        ("StrictAffinity", "boolean", ".spec.strictAffinity"),
        ("MaxBlocksPerHost", "integer", ".spec.maxBlocksPerHost"),
        ("AutoAllocateBlocks", "boolean", ".spec.autoAllocateBlocks"),
    ),
    "IPAMHandle": (("ID", "string", ".spec.handleID"),),
    "IPPool": (
        ("CIDR", "string", ".spec.cidr"),
        ("VXLAN", "string", ".spec.vxlanMode"),
        ("IPIP", "string", ".spec.ipipMode"),
        ("NAT", "boolean", ".spec.natOutgoing"),
        ("Disabled", "boolean", ".spec.disabled"),
        ("Allocatable", "string", ".status.conditions[?(@.type=='Allocatable')].status"),
        _AGE,
    ),
    "IPReservation": (("CIDRs", "string", ".spec.reservedCIDRs"), _AGE),
    "KubeControllersConfiguration": (("Metrics Port", "integer", ".spec.prometheusMetricsPort"), _AGE),
    "NetworkPolicy": (*_POLICY_COLUMNS, ("Selector", "string", ".spec.selector"), _AGE),
    "NetworkSet": (("Nets", "string", ".spec.nets"), _AGE),
    "StagedGlobalNetworkPolicy": (*_POLICY_COLUMNS, ("Action", "string", ".spec.stagedAction"), _AGE),
    "StagedKubernetesNetworkPolicy": (("Action", "string", ".spec.stagedAction"), _AGE),
    "StagedNetworkPolicy": (*_POLICY_COLUMNS, ("Action", "string", ".spec.stagedAction"), _AGE),
    "Tier": (
        ("Order", "number", ".spec.order"),
        ("DefaultAction", "string", ".spec.defaultAction"),
        ("Status", "string", ".status.conditions[?(@.type=='Ready')].reason"),
    ),
}
"""Heading, type and path; a plugin's kind shows its age."""

_BY_TIER = frozenset(["GlobalNetworkPolicy", "NetworkPolicy", "StagedGlobalNetworkPolicy", "StagedNetworkPolicy"])


def custom_kinds() -> list[KindInfo]:
    """Every kind that is kept as a custom resource, plugins' kinds included, sorted by name."""
    return [KINDS[kind] for kind in sorted(KINDS) if kind not in NOT_CUSTOM]


def names_in(info: KindInfo, group: str) -> tuple[str, str]:
    """Kind and plural under which ``group`` (of ``GROUPS``) has it."""
    return _V1_NAMES.get(info.kind, (info.kind, info.plural)) if group == CRD_GROUP else (info.kind, info.plural)


def definition(info: KindInfo, group: str = CRD_GROUP) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind in ``group``, one of ``GROUPS``."""
    api_group, _, version = group.partition("/")
    kind, plural = names_in(info, group)
    names: dict[str, Any] = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
    short = _short_names(info, group)
    if short:
        names["shortNames"] = list(short)
    served: dict[str, Any] = {
        "name": version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _schema(info, group)},
        "additionalPrinterColumns": [
            {"name": heading, "type": kind_of, "jsonPath": path}
            for heading, kind_of, path in _COLUMNS.get(info.kind, (_AGE,))
        ],
    }
    if info.kind in _WITH_STATUS:
        served["subresources"] = {"status": {}}
    if group == NATIVE_GROUP and info.kind in _BY_TIER:
        served["selectableFields"] = [{"jsonPath": ".spec.tier"}]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{api_group}"},
        "spec": {
            "group": api_group,
            "names": names,
            "scope": "Namespaced" if info.namespaced else "Cluster",
            "versions": [served],
        },
    }


def _short_names(info: KindInfo, group: str) -> tuple[str, ...]:
    if info.kind in _COLUMNS:
        return _SHORT.get(info.kind, ()) if group == NATIVE_GROUP else ()
    return tuple(word for word in info.words if word not in (info.kind.lower(), info.plural))


def _schema(info: KindInfo, group: str) -> Schema:
    found = schema_of(info.type, group, without=("apiVersion", "kind", "metadata"))
    found["properties"] = {
        "apiVersion": {"type": "string", "description": f"Always {group}."},
        "kind": {"type": "string", "description": f"Always {names_in(info, group)[0]}."},
        "metadata": {"type": "object"},
        **found.get("properties", {}),
    }
    rules = crd_rules.of_kind(info.kind)
    if rules:
        found["x-kubernetes-validations"] = rules
    found.setdefault("description", crd_words.of_kind(info))
    return found
