"""Which family of objects answers for a query or a key.

In:    queries, keys and values, from the store by way of ``collection.Mapping``.
Out:   selections, places and requests, made by the modules of this package, one for each family.
"""

from __future__ import annotations

from collections.abc import Sequence

from calico_datastore_kdd.collection import Collection, Group, Mapping, Place, Request, Selection
from calico_kernel.model.keys import Key, Query
from calico_kernel.model.records import Value


class KubernetesMapping(Mapping):
    def __init__(self, group: Group, *, use_pod_cidr: bool, interface_prefix: str) -> None:
        self.group = group
        self._use_pod_cidr, self._interface_prefix = use_pod_cidr, interface_prefix

    def collections(self, query: Query) -> Sequence[Selection]:
        return ()

    def every_collection(self) -> Sequence[Collection]:
        return ()

    def locate(self, key: Key) -> Sequence[Place]:
        return ()

    def creation(self, key: Key, value: Value) -> Request:
        raise NotImplementedError

    def updating(self, key: Key, value: Value, *, revision: str, place: Place | None = None) -> Request:
        raise NotImplementedError

    def deletion(self, key: Key, *, revision: str = "", place: Place | None = None) -> Request:
        raise NotImplementedError

    def leftover(self, key: Key, raw: bytes) -> Request | None:
        raise NotImplementedError

    def derived_from(self, key: Key) -> str:
        return ""
