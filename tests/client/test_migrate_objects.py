"""Copies into and out of a store that is made of another system's objects, killed wherever that can happen."""

from __future__ import annotations

import json
from typing import Any, cast

import msgspec
import pytest

from calico_kernel.client import Client, ensure_initialized
from calico_kernel.client.lock import INFORMATION, is_locked, marker_of
from calico_kernel.client.migrate import ENGINE_CONFIG, copy, everything
from calico_kernel.errors import DatastoreError, NotPermitted
from calico_kernel.model import codec, keys, storing
from calico_kernel.model.endpoints import Node, NodeBGPSpec, NodeSpec
from calico_kernel.model.ipam import IpamConfig, IpamHost
from calico_kernel.model.keys import IpamConfigKey, IpamHostKey, Key, ResourceKey
from calico_kernel.model.meta import ObjectMeta, Resource
from calico_kernel.model.network import GlobalNetworkSet, IPAMConfiguration, IPAMConfigurationSpec, NetworkSetSpec
from calico_kernel.model.policy import NetworkPolicy, Profile
from calico_kernel.model.records import Malformed, Value
from calico_kernel.testing.memory_datastore import MemoryDatastore

NODE = ResourceKey("Node", "", "n1")
SHOP = ResourceKey("Profile", "", "kns.shop")
POLICY = ResourceKey("NetworkPolicy", "shop", "knp.default.web")


class Killed(BaseException):
    """Ends the process that copies."""


class Objects(MemoryDatastore):
    """As Kubernetes: Nodes, profiles and Kubernetes' policies are objects of another's; uids are the store's; lists are
    filled in where none was given; the engine's configuration and the resource of it are one object.

    ``left``: writes before the one that ends the process."""

    left: float = float("inf")
    numbers = 0

    def derived_from(self, key: Key) -> str:
        if isinstance(key, IpamConfigKey):
            return "IPAMConfiguration default"
        if isinstance(key, IpamHostKey):
            return f"Node {key.node}"
        if isinstance(key, ResourceKey) and (
            key.kind == "Node" or key.name.startswith(("kns.", "ksa.", "knp.default."))
        ):
            return f"the object of {key.name}"
        return ""

    def has(self, key: Key, value: Any) -> None:
        """The other system makes an object."""
        super().put(key, value)

    def create(self, key: Key, value: Value) -> Any:
        return super().create(key, value) if keys.path(key) in contents(self) else self.put(key, value)

    def put(self, key: Key, value: Value, *, ttl_s: float | None = None) -> Any:
        if self.derived_from(key) and not isinstance(key, IpamConfigKey):
            raise NotPermitted(what="not ours", todo="leave it")
        if isinstance(key, ResourceKey) and key.kind == "Profile":
            raise NotPermitted(what="no place for it", todo="leave it")
        self._count()
        made = super().put(key, self._own(value))
        if key in (ENGINE_CONFIG, IpamConfigKey()):
            self._mirror(key, value)
        return made

    def update(self, key: Key, value: Value, *, revision: str) -> Any:
        if self.derived_from(key) and not isinstance(value, Node):
            raise NotPermitted(what="not ours", todo="leave it")
        self._required(key, revision)
        self._count()
        return super().update(key, self._own(value), revision=revision)

    def _mirror(self, key: Key, value: Any) -> None:
        if isinstance(key, IpamConfigKey):
            spec = IPAMConfigurationSpec(max_blocks_per_host=value.max_blocks_per_host)
            super().put(ENGINE_CONFIG, IPAMConfiguration(metadata=ObjectMeta(name="default"), spec=spec))
        else:
            super().put(IpamConfigKey(), IpamConfig(max_blocks_per_host=value.spec.max_blocks_per_host))

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    def _own(self, value: Any) -> Any:
        if not isinstance(value, Resource):
            return value
        self.numbers += 1
        meta = msgspec.structs.replace(value.metadata, uid=f"own-{self.numbers}")
        if isinstance(value, GlobalNetworkSet) and not value.spec.nets:
            value = msgspec.structs.replace(value, spec=NetworkSetSpec(nets=("192.0.2.0/24",)))
        return msgspec.structs.replace(value, metadata=meta)


def node(**labels: str) -> Node:
    spec = NodeSpec(bgp=NodeBGPSpec(as_number=64512))
    return Node(metadata=ObjectMeta(name="n1", labels=labels), spec=spec)


def fill(store: MemoryDatastore) -> None:
    ensure_initialized(Client(store=store))
    for number in range(4):
        nets = (f"10.{number}.0.0/16",) if number else ()
        value = GlobalNetworkSet(metadata=ObjectMeta(name=f"s{number}"), spec=NetworkSetSpec(nets=nets))
        store.create(keys.key_of(value), value)
    store.create(NODE, node(rack="r1"))
    store.create(SHOP, Profile(metadata=ObjectMeta(name="kns.shop")))
    store.create(ResourceKey("Profile", "", "by-hand"), Profile(metadata=ObjectMeta(name="by-hand")))
    store.create(POLICY, NetworkPolicy(metadata=ObjectMeta(name=POLICY.name, namespace="shop")))
    store.create(IpamHostKey("n1"), IpamHost())
    store.create(IpamConfigKey(), IpamConfig(max_blocks_per_host=3))
    engine = IPAMConfiguration(metadata=ObjectMeta(name="default"), spec=IPAMConfigurationSpec(max_blocks_per_host=9))
    store.create(ENGINE_CONFIG, engine)


@pytest.fixture
def source() -> MemoryDatastore:
    store = MemoryDatastore()
    fill(store)
    return store


def cluster() -> Objects:
    store = Objects()
    store.has(NODE, Node(metadata=ObjectMeta(name="n1", uid="theirs")))
    store.has(SHOP, Profile(metadata=ObjectMeta(name="kns.shop", uid="theirs")))
    store.has(POLICY, NetworkPolicy(metadata=ObjectMeta(name=POLICY.name, namespace="shop", uid="theirs")))
    return store


def contents(store: MemoryDatastore) -> dict[str, bytes]:
    return {keys.path(key): raw for key, raw in store.list_stored(everything())}


def test_objects_get_what_only_we_know_and_the_engines_own_configuration_wins(source: MemoryDatastore) -> None:
    target = cluster()
    report = copy(source, target, settle_s=0)
    found = target.get(NODE).value
    assert isinstance(found, Node)
    assert found.spec.bgp is not None and found.spec.bgp.as_number == 64512
    assert cast("Any", target.get(IpamConfigKey()).value).max_blocks_per_host == 3
    assert cast("Any", target.get(ENGINE_CONFIG).value).spec.max_blocks_per_host == 3
    assert report.homeless == {keys.path(ResourceKey("Profile", "", "by-hand")): "no place for it"}
    assert (report.underived, report.adjusted, report.verified) == ({}, {}, True)
    assert cast("Any", target.get(SHOP).value).metadata.uid == "theirs"
    assert is_locked(source) and not is_locked(target)


def test_copy_into_objects_killed_at_any_write_goes_on(source: MemoryDatastore) -> None:
    wanted = cluster()
    copy(source, wanted, settle_s=0)
    expected = {path: gist(raw) for path, raw in contents(wanted).items()}
    deaths = 0
    while True:
        origin, target = MemoryDatastore(), cluster()
        fill(origin)
        target.left = deaths
        try:
            copy(origin, target, settle_s=0)
        except Killed:
            deaths += 1
        else:
            break
        target.left = float("inf")
        assert is_locked(origin) or deaths == 1
        copy(origin, target, settle_s=0)
        found = {path: gist(raw) for path, raw in contents(target).items()}
        skip = keys.path(INFORMATION)
        assert {k: v for k, v in found.items() if k != skip} == {k: v for k, v in expected.items() if k != skip}
        assert is_locked(origin) and not is_locked(target)
        assert marker_of(origin.get(INFORMATION).value) is None
    assert deaths > 5


def gist(raw: bytes) -> Any:
    document = json.loads(raw)
    for name in ("uid", "creationTimestamp"):
        document.get("metadata", {}).pop(name, None)
    return document


def test_copy_that_finished_is_known_again(source: MemoryDatastore) -> None:
    target = cluster()
    copy(source, target, settle_s=0)
    there = {path: gist(raw) for path, raw in contents(target).items()}
    assert copy(source, target, settle_s=0).written == 0
    assert {path: gist(raw) for path, raw in contents(target).items()} == there


def test_policy_of_the_other_system_that_is_missing_there_keeps_both_locked(source: MemoryDatastore) -> None:
    target = cluster()
    target.delete(POLICY)
    with pytest.raises(DatastoreError, match=r"1 policies .* \(the object of knp\.default\.web\)"):
        copy(source, target, settle_s=0)
    assert is_locked(source) and is_locked(target)
    report = copy(source, target, partial=True, settle_s=0)
    assert report.resumed and report.underived == {keys.path(POLICY): "the object of knp.default.web"}


def test_one_cluster_is_copied_into_another(source: MemoryDatastore) -> None:
    first, second = cluster(), cluster()
    copy(source, first, settle_s=0)
    report = copy(first, second, settle_s=0)
    assert (report.underived, report.homeless, report.adjusted) == ({}, {}, {})
    assert cast("Any", second.get(IpamConfigKey()).value).max_blocks_per_host == 3
    skip = keys.path(INFORMATION)
    one, other = ({p: gist(r) for p, r in contents(each).items() if p != skip} for each in (first, second))
    assert one == other


def test_objects_become_records_and_their_bytes_are_those_of_the_codec(source: MemoryDatastore) -> None:
    first, last = cluster(), MemoryDatastore()
    copy(source, first, settle_s=0)
    copy(first, last, settle_s=0)
    for key in (NODE, SHOP, POLICY):
        raw = dict(last.list_stored(everything()))[key]
        value = codec.decode(key, raw)
        assert not isinstance(value, Malformed) and storing.encode(key, value) == raw
        assert not last.derived_from(key)
