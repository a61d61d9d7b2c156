"""Namespaces and ServiceAccounts as profiles.

In:    Namespaces and ServiceAccounts.
Out:   Profile records ``kns.<namespace>`` and ``ksa.<namespace>.<account>``, which cannot be written.

A profile of a Namespace also carries the annotations by which people choose addresses for all of its Pods: the CNI
plugin looks for them there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from calico_datastore_kdd.collection import Collection, Place, Selection
from calico_datastore_kdd.mapping.family import Family
from calico_datastore_kdd.mapping.reading import Made, PlainMeta, PlainReader
from calico_kernel.model import kubernetes
from calico_kernel.model.keys import Key, Query, ResourceKey, ResourceQuery
from calico_kernel.model.meta import ObjectMeta, Wire
from calico_kernel.model.pods import ADDRESSING
from calico_kernel.model.policy import Profile
from calico_kernel.model.uids import exchanged
from calico_kernel.model.wellknown import NAMESPACE_PROFILE_PREFIX, SERVICE_ACCOUNT_PROFILE_PREFIX

KIND = "Profile"


class _Labelled(Wire):
    """All that matters of either."""

    metadata: PlainMeta = PlainMeta()


def _namespace(item: _Labelled) -> Made:
    meta = item.metadata
    asked = {name: meta.annotations[name] for name in ADDRESSING if name in meta.annotations}
    return _record(kubernetes.namespace_profile(meta.name, meta.labels), meta, asked)


def _account(item: _Labelled) -> Made:
    meta = item.metadata
    return _record(kubernetes.service_account_profile(meta.namespace, meta.name, meta.labels), meta, {})


def _record(profile: Profile, meta: PlainMeta, annotations: dict[str, str]) -> Made:
    made = msgspec.structs.replace(
        profile,
        metadata=ObjectMeta(
            name=profile.metadata.name,
            uid=exchanged(meta.uid),
            resource_version=meta.resource_version,
            creation_timestamp=meta.creation_timestamp,
            annotations=annotations,
        ),
    )
    return ResourceKey(KIND, "", profile.metadata.name), made, meta.resource_version


class ProfileFamily(Family):
    def __init__(self) -> None:
        self._namespaces = _collection(
            "Namespaces",
            "namespaces",
            PlainReader(
                _Labelled,
                _namespace,
                lambda name, _namespace: ResourceKey(KIND, "", kubernetes.namespace_profile_name(name)),
            ),
        )
        self._accounts = _collection(
            "ServiceAccounts",
            "serviceaccounts",
            PlainReader(
                _Labelled,
                _account,
                lambda name, space: ResourceKey(KIND, "", kubernetes.service_account_profile_name(space, name)),
            ),
        )

    def collections(self) -> Sequence[Collection]:
        return (self._namespaces, self._accounts)

    def selections(self, query: Query) -> Sequence[Selection]:
        if not isinstance(query, ResourceQuery) or query.kind != KIND:
            return ()
        found = []
        if _compatible(query.name_prefix, NAMESPACE_PROFILE_PREFIX):
            found.append(Selection(collection=self._namespaces))
        if _compatible(query.name_prefix, SERVICE_ACCOUNT_PROFILE_PREFIX):
            space, dot, _ = query.name_prefix.removeprefix(SERVICE_ACCOUNT_PROFILE_PREFIX).partition(".")
            whole = dot and query.name_prefix.startswith(SERVICE_ACCOUNT_PROFILE_PREFIX)
            found.append(Selection(collection=self._accounts, namespace=space if whole else None))
        return found

    def place(self, key: Key) -> Place | None:
        if not isinstance(key, ResourceKey) or key.kind != KIND:
            return None
        if key.name.startswith(NAMESPACE_PROFILE_PREFIX) and (name := key.name[len(NAMESPACE_PROFILE_PREFIX) :]):
            return Place(collection=self._namespaces, name=name, derived=True)
        space, _, account = key.name.removeprefix(SERVICE_ACCOUNT_PROFILE_PREFIX).partition(".")
        if key.name.startswith(SERVICE_ACCOUNT_PROFILE_PREFIX) and space and account:
            return Place(collection=self._accounts, namespace=space, name=account, derived=True)
        return None

    def derived_from(self, key: Key) -> str:
        place = self.place(key)
        if place is None:
            return ""
        return f"ServiceAccount {place.namespace}/{place.name}" if place.namespace else f"Namespace {place.name}"


def _compatible(prefix: str, begin: str) -> bool:
    return prefix.startswith(begin) or begin.startswith(prefix)


def _collection(name: str, plural: str, reader: PlainReader[Any]) -> Collection:
    namespaced = plural == "serviceaccounts"
    return Collection(name=name, path="/api/v1", plural=plural, namespaced=namespaced, reader=reader)
