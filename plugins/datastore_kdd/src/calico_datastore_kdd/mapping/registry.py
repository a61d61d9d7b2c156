"""Which family of objects answers for a query or a key.

In:    queries, keys and values, from the store by way of ``collection.Mapping``.
Out:   selections, places and requests, made by the modules of this package, one for each family. A module is imported
       when it is first needed: ``calicoctl get ippool`` has no use for that of Pods.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Mapping as Table

from calico_datastore_kdd.collection import Collection, Group, Mapping, Place, Request, Selection
from calico_datastore_kdd.mapping.family import Family
from calico_kernel.errors import NotPermitted
from calico_kernel.model import codec, storing
from calico_kernel.model.keys import Key, Query, ResourceKey, ResourceQuery
from calico_kernel.model.kinds import KINDS
from calico_kernel.model.records import Value

_ADDRESSES = ("Block", "BlockAffinity", "Handle", "IpamConfig", "IpamHost")
_SERVES: Table[str, frozenset[str]] = {
    "ipam": frozenset(f"{name}{what}" for name in _ADDRESSES for what in ("Key", "Query")),
    "pods": frozenset({"WorkloadEndpoint"}),
    "nodes": frozenset({"Node", "BlockKey", "BlockQuery"}),
    "profiles": frozenset({"Profile"}),
    "policies": frozenset({"NetworkPolicy", "GlobalNetworkPolicy"}),
    "services": frozenset({"KubernetesService", "KubernetesEndpointSlice", "LiveMigration"}),
}
"""Family -> the kinds of resources, and the classes of other keys and queries, of which it may have some. Custom
resources may be of any kind."""


class KubernetesMapping(Mapping):
    def __init__(self, group: Group, *, use_pod_cidr: bool, interface_prefix: str) -> None:
        self.group = group
        self._use_pod_cidr, self._interface_prefix = use_pod_cidr, interface_prefix
        self._made: dict[str, Family] = {}

    def collections(self, query: Query) -> Sequence[Selection]:
        return [selection for family in self._families(query) for selection in family.selections(query)]

    def every_collection(self) -> Sequence[Collection]:
        names = [name for name in ("custom", *_SERVES) if self._is_used(name)]
        return [collection for name in names for collection in self._family(name).collections()]

    def locate(self, key: Key) -> Place | None:
        for family in self._families(key):
            place = family.place(key)
            if place is not None:
                return place
        return None

    def _families(self, about: Key | Query) -> Iterable[Family]:
        if isinstance(about, ResourceKey | ResourceQuery):
            yield self._family("custom")
            word = about.kind
        else:
            word = type(about).__name__
        for name, served in _SERVES.items():
            if word in served and self._is_used(name):
                yield self._family(name)

    def _is_used(self, name: str) -> bool:
        return name != "ipam" or not self._use_pod_cidr

    def _family(self, name: str) -> Family:
        found = self._made.get(name)
        if found is None:
            with codec.making:
                found = self._made.get(name) or self._make(name)
                self._made[name] = found
        return found

    def _make(self, name: str) -> Family:
        if name == "custom":
            from calico_datastore_kdd.mapping.custom import CustomFamily

            return CustomFamily(self.group)
        if name == "ipam":
            from calico_datastore_kdd.mapping.ipam import IpamFamily

            return IpamFamily(self.group)
        if name == "pods":
            from calico_datastore_kdd.mapping.pods import PodFamily

            return PodFamily(self._interface_prefix)
        if name == "nodes":
            from calico_datastore_kdd.mapping.nodes import NodeFamily

            return NodeFamily(use_pod_cidr=self._use_pod_cidr)
        if name == "profiles":
            from calico_datastore_kdd.mapping.profiles import ProfileFamily

            return ProfileFamily()
        if name == "policies":
            from calico_datastore_kdd.mapping.policies import PolicyFamily

            return PolicyFamily()
        from calico_datastore_kdd.mapping.services import ServiceFamily

        return ServiceFamily()

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
        return next((source for family in self._families(key) if (source := family.derived_from(key))), "")

    def _writable(self, key: Key) -> Family:
        """The family that has a place for the key. Raises NotPermitted where none has."""
        if isinstance(key, ResourceKey):
            KINDS[key.kind]  # an unregistered kind is a mistake of the caller's
        for family in self._families(key):
            if family.place(key) is not None:
                return family
        source = self.derived_from(key)
        reason = f"it is what {source} of Kubernetes says" if source else "Kubernetes has no place for it"
        raise NotPermitted(what=f"{storing.describe(key)} cannot be written: {reason}", todo="leave it out")
