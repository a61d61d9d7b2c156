"""Which family of objects answers for a query or a key.

In:    queries, keys and values, from the store by way of ``collection.Mapping``.
Out:   selections, places and requests, made by the modules of this package, one for each family.
"""

from __future__ import annotations

from collections.abc import Sequence

from calico_datastore_kdd.collection import Collection, Group, Mapping, Place, Request, Selection
from calico_datastore_kdd.mapping.custom import CustomFamily
from calico_datastore_kdd.mapping.family import Family
from calico_datastore_kdd.mapping.ipam import IpamFamily
from calico_datastore_kdd.mapping.nodes import NodeFamily
from calico_datastore_kdd.mapping.pods import PodFamily
from calico_datastore_kdd.mapping.policies import PolicyFamily
from calico_datastore_kdd.mapping.profiles import ProfileFamily
from calico_datastore_kdd.mapping.services import ServiceFamily
from calico_kernel.errors import NotPermitted
from calico_kernel.model import storing
from calico_kernel.model.keys import Key, Query, ResourceKey
from calico_kernel.model.kinds import KINDS
from calico_kernel.model.records import Value


class KubernetesMapping(Mapping):
    def __init__(self, group: Group, *, use_pod_cidr: bool, interface_prefix: str) -> None:
        self.group = group
        addresses = () if use_pod_cidr else (IpamFamily(group),)
        self._families: Sequence[Family] = (
            CustomFamily(group),
            *addresses,
            PodFamily(interface_prefix),
            NodeFamily(use_pod_cidr=use_pod_cidr),
            ProfileFamily(),
            PolicyFamily(),
            ServiceFamily(),
        )

    def collections(self, query: Query) -> Sequence[Selection]:
        return [selection for family in self._families for selection in family.selections(query)]

    def every_collection(self) -> Sequence[Collection]:
        return [collection for family in self._families for collection in family.collections()]

    def locate(self, key: Key) -> Place | None:
        for family in self._families:
            place = family.place(key)
            if place is not None:
                return place
        return None

    def creation(self, key: Key, value: Value) -> Request:
        return self._writable(key).creation(key, value)

    def updating(self, key: Key, value: Value, *, revision: str) -> Request:
        return self._writable(key).updating(key, value, revision=revision)

    def completion(self, key: Key, value: Value, answer: bytes) -> Request | None:
        return self._writable(key).completion(key, value, answer)

    def deletion(self, key: Key, *, revision: str = "") -> Request:
        return self._writable(key).deletion(key, revision=revision)

    def leftover(self, key: Key, raw: bytes) -> Request | None:
        return self._writable(key).leftover(key, raw)

    def derived_from(self, key: Key) -> str:
        return next((source for family in self._families if (source := family.derived_from(key))), "")

    def _writable(self, key: Key) -> Family:
        """The family that has a place for the key. Raises NotPermitted where none has."""
        if isinstance(key, ResourceKey):
            KINDS[key.kind]  # an unregistered kind is a mistake of the caller's
        for family in self._families:
            if family.place(key) is not None:
                return family
        source = self.derived_from(key)
        reason = f"it is what {source} of Kubernetes says" if source else "Kubernetes has no place for it"
        raise NotPermitted(what=f"{storing.describe(key)} cannot be written: {reason}", todo="leave it out")
