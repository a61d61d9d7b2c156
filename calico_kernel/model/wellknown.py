"""Words with a meaning of their own in Calico: labels that it fills in, prefixes of names, tiers that are always there.

Read by every room that fills them in, strips them or matches them. Pure; source: Calico's libcalico-go constants.
"""

from __future__ import annotations

from typing import Final, Literal

NAME_LABEL = "projectcalico.org/name"
NAMESPACE_LABEL = "projectcalico.org/namespace"
ORCHESTRATOR_LABEL = "projectcalico.org/orchestrator"
SERVICE_ACCOUNT_LABEL = "projectcalico.org/serviceaccount"
TIER_LABEL = "projectcalico.org/tier"

NAMESPACE_LABEL_PREFIX = "pcns."
"""Before the labels of a namespace, where its workloads inherit them."""
SERVICE_ACCOUNT_LABEL_PREFIX = "pcsa."

NAMESPACE_PROFILE_PREFIX = "kns."
SERVICE_ACCOUNT_PROFILE_PREFIX = "ksa."
DEFAULT_ALLOW_PROFILE = "projectcalico-default-allow"
"""Built in: allows everything both ways; never stored."""

KUBERNETES_POLICY_PREFIX = "knp.default."
KUBERNETES_CLUSTER_POLICY_PREFIX = "kcnp."
"""Before the name of a ClusterNetworkPolicy of Kubernetes, where it is a GlobalNetworkPolicy."""

KUBERNETES_LABELS_ANNOTATION = "projectcalico.org/kube-labels"
"""On a Node that Kubernetes has: which of its labels are Kubernetes' own, as JSON."""

TIERS: dict[str, tuple[float, Literal["Deny", "Pass"]]] = {
    "default": (1_000_000, "Deny"),
    "kube-admin": (1_000, "Pass"),
    "kube-baseline": (10_000_000, "Pass"),
}
"""Tiers of every cluster: order and default action, which cannot be changed."""

CRD_GROUP: Final = "crd.projectcalico.org/v1"
"""What Calico's Kubernetes datastore keeps its data in, as custom resources; of their own name they are
``meta.API_VERSION``."""
