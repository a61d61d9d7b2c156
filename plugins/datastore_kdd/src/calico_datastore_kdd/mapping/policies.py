"""Policies of Kubernetes as ours.

In:    NetworkPolicies of ``networking.k8s.io``; ClusterNetworkPolicies, where their definition is installed.
Out:   NetworkPolicy records ``knp.default.<name>`` and GlobalNetworkPolicy records ``kcnp.<name>``, which cannot be
       written. One of which a part could not be converted comes as ``Malformed``, with what counts instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import json as mjson

from calico_datastore_kdd.collection import Collection, Place, Selection
from calico_datastore_kdd.mapping.family import Family
from calico_datastore_kdd.mapping.reading import Made, ObjectReader
from calico_kernel.model import stored_policies as stored
from calico_kernel.model.keys import Key, Query, ResourceKey, ResourceQuery
from calico_kernel.model.kubernetes import Problems
from calico_kernel.model.meta import Resource
from calico_kernel.model.records import Malformed, Value
from calico_kernel.model.wellknown import KUBERNETES_CLUSTER_POLICY_PREFIX, KUBERNETES_POLICY_PREFIX

_scope = mjson.Decoder(stored.StoredNetworkPolicyScope)
_cluster_scope = mjson.Decoder(stored.StoredClusterNetworkPolicyScope)


class NetworkPolicyReader(ObjectReader[stored.StoredNetworkPolicy]):
    def __init__(self) -> None:
        super().__init__(stored.StoredNetworkPolicy)

    def _make(self, item: stored.StoredNetworkPolicy) -> Made:
        try:
            policy, problems = stored.network_policy(item)
        except ValueError as exc:
            raise msgspec.ValidationError(f"spec.podSelector: {exc}") from exc
        return _key(policy), _told(policy, problems, item), item.metadata.resource_version

    def _malformed(self, name: str, namespace: str, raw: bytes, reason: str) -> tuple[Key, Value | Malformed] | None:
        key = ResourceKey("NetworkPolicy", namespace, KUBERNETES_POLICY_PREFIX + name)
        try:
            return key, Malformed(reason, raw, stored.denying_network_policy(_scope.decode(raw)))
        except ValueError:  # whom it is for cannot be told
            return key, Malformed(reason, raw)


class ClusterNetworkPolicyReader(ObjectReader[stored.StoredClusterNetworkPolicy]):
    def __init__(self) -> None:
        super().__init__(stored.StoredClusterNetworkPolicy)

    def _make(self, item: stored.StoredClusterNetworkPolicy) -> Made:
        try:
            policy, problems = stored.converted_cluster_policy(item)
        except ValueError as exc:
            raise msgspec.ValidationError(str(exc)) from exc
        return _key(policy), _told(policy, problems, item), item.metadata.resource_version

    def _malformed(self, name: str, namespace: str, raw: bytes, reason: str) -> tuple[Key, Value | Malformed] | None:
        key = ResourceKey("GlobalNetworkPolicy", "", KUBERNETES_CLUSTER_POLICY_PREFIX + name)
        try:
            policy, _ = stored.converted_cluster_policy(_cluster_scope.decode(raw), closed=True)
        except ValueError:
            return key, Malformed(reason, raw)
        return key, Malformed(reason, raw, policy)


def _key(policy: Resource) -> ResourceKey:
    return ResourceKey(policy.kind, policy.metadata.namespace, policy.metadata.name)


def _told(policy: Resource, problems: Problems, item: Any) -> Value | Malformed:
    """The policy; where a part was left out, said aloud."""
    if not problems:
        return policy
    return Malformed("; ".join(f"{path}: {reason}" for path, reason in problems), mjson.encode(item), policy)


class PolicyFamily(Family):
    def __init__(self) -> None:
        self._collections = {
            "NetworkPolicy": Collection(
                name="NetworkPolicies of Kubernetes",
                path="/apis/networking.k8s.io/v1",
                plural="networkpolicies",
                namespaced=True,
                reader=NetworkPolicyReader(),
            ),
            "GlobalNetworkPolicy": Collection(
                name="ClusterNetworkPolicies of Kubernetes",
                path="/apis/policy.networking.k8s.io/v1alpha2",
                plural="clusternetworkpolicies",
                namespaced=False,
                reader=ClusterNetworkPolicyReader(),
                optional=True,
            ),
        }
        self._prefixes = {
            "NetworkPolicy": KUBERNETES_POLICY_PREFIX,
            "GlobalNetworkPolicy": KUBERNETES_CLUSTER_POLICY_PREFIX,
        }

    def collections(self) -> Sequence[Collection]:
        return tuple(self._collections.values())

    def selections(self, query: Query) -> Sequence[Selection]:
        if not isinstance(query, ResourceQuery) or query.kind not in self._collections:
            return ()
        begin, asked = self._prefixes[query.kind], query.name_prefix
        if not (asked.startswith(begin) or begin.startswith(asked)):
            return ()
        return (Selection(collection=self._collections[query.kind], namespace=query.namespace),)

    def place(self, key: Key) -> Place | None:
        if not isinstance(key, ResourceKey) or key.kind not in self._collections:
            return None
        begin = self._prefixes[key.kind]
        if not key.name.startswith(begin) or key.name == begin:
            return None
        name = key.name[len(begin) :]
        return Place(collection=self._collections[key.kind], namespace=key.namespace, name=name, derived=True)

    def derived_from(self, key: Key) -> str:
        place = self.place(key)
        if place is None:
            return ""
        return (
            f"NetworkPolicy {place.namespace}/{place.name}" if place.namespace else f"ClusterNetworkPolicy {place.name}"
        )
