"""Labels as selectors see them: own labels, what the kernel adds, and what profiles hand down.

In:   resources of the model.   Out: plain mappings, to ``policy.cluster`` and to the label index of calc.

An endpoint's own labels always win; of several profiles the first in the endpoint's list wins. Labels that carry the
prefixes of namespaces and service accounts are stripped from workload endpoints: only profiles may bring them, so no
workload can pretend to live elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from calico_kernel.model.endpoints import HostEndpoint, WorkloadEndpoint
from calico_kernel.model.network import GlobalNetworkSet, NetworkSet
from calico_kernel.model.wellknown import (
    NAMESPACE_LABEL,
    NAMESPACE_LABEL_PREFIX,
    NAMESPACE_PROFILE_PREFIX,
    ORCHESTRATOR_LABEL,
    SERVICE_ACCOUNT_LABEL,
    SERVICE_ACCOUNT_LABEL_PREFIX,
)


def workload_labels(endpoint: WorkloadEndpoint) -> dict[str, str]:
    """Own labels of a workload endpoint, with namespace, orchestrator and service account filled in from its fields."""
    labels = {
        label: value
        for label, value in endpoint.metadata.labels.items()
        if not label.startswith((NAMESPACE_LABEL_PREFIX, SERVICE_ACCOUNT_LABEL_PREFIX))
    }
    if endpoint.metadata.namespace:
        labels[NAMESPACE_LABEL] = endpoint.metadata.namespace
    if endpoint.spec.orchestrator:
        labels[ORCHESTRATOR_LABEL] = endpoint.spec.orchestrator
    if endpoint.spec.service_account_name:
        labels[SERVICE_ACCOUNT_LABEL] = endpoint.spec.service_account_name
    return labels


def host_endpoint_labels(endpoint: HostEndpoint) -> dict[str, str]:
    """Own labels, as they are."""
    return dict(endpoint.metadata.labels)


def network_set_labels(network_set: NetworkSet | GlobalNetworkSet) -> dict[str, str]:
    """Own labels; those of a namespaced set with its namespace."""
    labels = dict(network_set.metadata.labels)
    if network_set.metadata.namespace:
        labels[NAMESPACE_LABEL] = network_set.metadata.namespace
    return labels


def network_set_profiles(network_set: NetworkSet | GlobalNetworkSet) -> tuple[str, ...]:
    """A namespaced set inherits the labels of its namespace, as that namespace's pods do."""
    namespace = network_set.metadata.namespace
    return (NAMESPACE_PROFILE_PREFIX + namespace,) if namespace else ()


def inherit(own: Mapping[str, str], handed_down: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """``own`` over the ``labelsToApply`` of the profiles, given in the order of the endpoint's list."""
    labels: dict[str, str] = {}
    for given in handed_down:
        labels = {**given, **labels}
    return {**labels, **own}
