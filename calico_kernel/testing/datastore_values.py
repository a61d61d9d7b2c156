"""The part of the datastore's contract that is about values: reports of status, what does not decode, what is not ours.

``DatastoreContract`` has these among its tests.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from calico_kernel.errors import (
    NotFound,
    NotPermitted,
)
from calico_kernel.hookspecs import Datastore
from calico_kernel.model import unread
from calico_kernel.model.ipam import AllocationBlock
from calico_kernel.model.keys import (
    BlockAffinityQuery,
    BlockKey,
    BlockQuery,
    HandleKey,
    HandleQuery,
    HostEndpointStatusKey,
    HostEndpointStatusQuery,
    IpamConfigQuery,
    Key,
    LastNodeStatusKey,
    NodeStatusKey,
    Query,
    ResourceKey,
    ResourceQuery,
    StatusQuery,
    WorkloadStatusKey,
    path,
)
from calico_kernel.model.meta import Resource
from calico_kernel.model.records import Malformed
from calico_kernel.model.status import EndpointStatus, NodeStatus
from calico_kernel.testing.datastore_records import ALL_SETS, collect, mark_of, network_set, set_key

NODE_STATUS = NodeStatus(time="2026-11-21T12:00:00Z", uptime=1.5, first_update=True)
FOREIGN_PATHS = (
    "/calico/ipam/v2/assignment/ipv4/block/nonsense",
    "/calico/ipam/v2/assignment/ipv4/block/10.0.0.1-26",
    "/calico/ipam/v2/handle/",
    "/calico/ipam/v2/config/more",
    "/calico/ipam/v2/elsewhere/n1/ipv4/block/10.0.0.0-26",
    "/calico/resources/v3/projectcalico.org/kindsofnextyear/a",
    "/calico/resources/v3/projectcalico.org/globalnetworksets/a/b",
    "/calico/resources/v3/other.org/globalnetworksets/a",
    "/calico/felix/v2/no-region/host/n1/metadata",
    "/calico/felix/v1/host/n1/endpoint",
    "/calico/v1/config/InterfacePrefix",
    "/calico/bgp/v1/global/as_num",
    "/calicovpp/x",
    "/registry/pods/shop/web-1",
)


class ValuesContract:
    keeps_bytes: ClassVar[bool] = True
    """Stored bytes are read as they were written. False: objects are kept, in whose form ``write_raw`` says as much of
    the bytes as they can hold."""

    def write_raw(self, store: Datastore, at: str, raw: bytes) -> None:
        raise NotImplementedError

    # ── status ──

    def test_status_records_round_trip_and_are_listed_by_node(self, store: Datastore) -> None:
        if not store.keeps_status:
            with pytest.raises(NotPermitted):
                store.put(NodeStatusKey("n1"), NODE_STATUS, ttl_s=60)
            assert list(store.list([StatusQuery(), HostEndpointStatusQuery()]).records) == []
            return
        stored: list[tuple[Key, Any]] = [
            (NodeStatusKey("n1"), NODE_STATUS),
            (LastNodeStatusKey("n1", "region-one"), NODE_STATUS),
            (WorkloadStatusKey("n1", "k8s", "shop/web", "eth0"), EndpointStatus(status="up")),
            (WorkloadStatusKey("n10", "k8s", "shop/web", "eth0"), EndpointStatus(status="down")),
            (HostEndpointStatusKey("n1", "eth0"), EndpointStatus(status="error")),
        ]
        made = [store.put(key, value) for key, value in stored]
        assert [store.get(key) for key, _ in stored] == made
        assert [record.value for record in made] == [value for _, value in stored]
        everything = store.list([StatusQuery(), HostEndpointStatusQuery()]).records
        assert {record.key for record in everything} == {key for key, _ in stored}
        of_one = store.list([StatusQuery("no-region", "n1"), HostEndpointStatusQuery("n1")]).records
        assert {record.key for record in of_one} == {stored[n][0] for n in (0, 2, 4)}

    def test_record_with_a_time_to_live_goes_by_itself_unless_it_is_put_again(self, store: Datastore) -> None:
        if not store.keeps_status:
            return
        keys = [NodeStatusKey(name) for name in ("renewed", "over", "stays", "remade")]
        watch = store.watch([StatusQuery()], revision=store.list([StatusQuery()]).revision)
        store.put(keys[0], NODE_STATUS, ttl_s=2)
        store.put(keys[0], NODE_STATUS, ttl_s=600)
        store.put(keys[1], NODE_STATUS, ttl_s=2)
        store.put(keys[2], NODE_STATUS, ttl_s=2)
        store.put(keys[2], NODE_STATUS)
        store.put(keys[3], NODE_STATUS, ttl_s=2)
        store.delete(keys[3])
        store.create(keys[3], NODE_STATUS)
        events = collect(watch, lambda got: any(e.record is None and e.key == keys[1] for e in got))
        assert [event.key for event in events if event.record is None] == [keys[3], keys[1]]
        with pytest.raises(NotFound):
            store.get(keys[1])
        found = store.list([StatusQuery()]).records
        assert {record.key for record in found} == {keys[0], keys[2], keys[3]}
        watch.close()

    def test_only_status_may_have_a_time_to_live(self, store: Datastore) -> None:
        with pytest.raises(ValueError, match="only a status key"):
            store.put(set_key("a"), network_set("a"), ttl_s=60)
        with pytest.raises(NotFound):
            store.get(set_key("a"))

    # ── malformed values ──

    def test_value_that_does_not_decode_comes_back_with_its_reason(self, store: Datastore) -> None:
        listing = store.list([ALL_SETS])
        for name, raw in (
            ("bad", b"{not json"),
            ("wrong", b'{"kind":"GlobalNetworkSet","spec":{"nets":7}}'),
            ("e", b""),
        ):
            self.write_raw(store, path(set_key(name)), raw)
            found = store.get(set_key(name)).value
            assert isinstance(found, Malformed)
            assert found.reason
            assert found.raw == raw or not self.keeps_bytes
        assert len(store.list([ALL_SETS]).records) == 3
        watch = store.watch([ALL_SETS], revision=listing.revision)
        events = collect(watch, lambda got: len(got) == 3)
        assert all(event.record is not None and isinstance(event.record.value, Malformed) for event in events)
        watch.close()
        store.put(set_key("bad"), network_set("bad", "mended"))
        assert mark_of(store.get(set_key("bad"))) == "mended"
        removed = store.delete(set_key("wrong"))
        assert isinstance(removed.value, Malformed)

    def test_stored_bytes_are_listed_and_written_back_as_they_are(self, store: Datastore) -> None:
        store.put(set_key("plain"), network_set("plain", "x"))
        newer = b'{"kind":"GlobalNetworkSet","metadata":{"name":"newer"},"spec":{"colour":"blue"}}'
        for name, raw in (("bad", b"{not json"), ("newer", newer)):
            self.write_raw(store, path(set_key(name)), raw)
        self.write_raw(store, "/calico/ipam/v2/assignment/ipv4/block/nonsense", b"{}")
        found = dict(store.list_stored([ALL_SETS, BlockQuery()]))
        assert list(found) == [set_key("bad"), set_key("newer"), set_key("plain")]
        as_found: Any = Malformed("of another version", newer)
        store.put(set_key("copy"), as_found)
        copy = dict(store.list_stored([ALL_SETS]))[set_key("copy")]
        if self.keeps_bytes:
            assert (found[set_key("bad")], found[set_key("newer")], copy) == (b"{not json", newer, newer)
        else:
            assert [json.loads(raw)["spec"] for raw in (found[set_key("newer")], copy)] == [{"colour": "blue"}] * 2

    def test_field_that_is_unknown_here_survives_a_get_and_its_writing_back(self, store: Datastore) -> None:
        raw = b'{"kind":"GlobalNetworkSet","metadata":{"newer":1},"spec":{"nets":["10.0.0.0/8"],"newer":{"x":[1]}}}'
        store.list([ALL_SETS])  # whatever is prepared at the first use is there from here on
        self.write_raw(store, path(set_key("a")), raw)
        there = store.get(set_key("a"))
        assert isinstance(there.value, Resource)
        store.update(set_key("a"), there.value, revision=there.revision)
        kept = unread.remembered(store.get(set_key("a")).value)
        assert kept["spec"] == {"nets": ["10.0.0.0/8"], "newer": {"x": [1]}}
        assert kept["metadata"]["newer"] == 1

    def test_path_that_is_no_record_is_passed_over(self, store: Datastore) -> None:
        listing = store.list([BlockQuery()])
        self.write_raw(store, "/calico/ipam/v2/assignment/ipv4/block/nonsense", b"{}")
        made = store.create(BlockKey("10.0.0.0/26"), AllocationBlock(cidr="10.0.0.0/26"))
        assert list(store.list([BlockQuery()]).records) == [made]
        watch = store.watch([BlockQuery()], revision=listing.revision)
        assert [event.record for event in collect(watch, bool)] == [made]
        watch.close()

    def test_keys_that_are_not_ours_are_neither_listed_nor_told(self, store: Datastore) -> None:
        """Those of other programs, of other versions, and of what only looks like a record."""
        queries: Sequence[Query] = [ALL_SETS, BlockQuery(), BlockAffinityQuery(), HandleQuery(), IpamConfigQuery()]
        asked = [*queries, StatusQuery(), HostEndpointStatusQuery()] if store.keeps_status else queries
        watch = store.watch(asked, revision=store.list(asked).revision)
        for number, at in enumerate(FOREIGN_PATHS if self.keeps_bytes else FOREIGN_PATHS[:1]):
            self.write_raw(store, at, b"{}")
            if number % 3 == 0:
                store.put(set_key("a"), network_set("a", number))
        made = store.put(set_key("a"), network_set("a", "last"))
        assert list(store.list(asked).records) == [made]
        assert [key for key, _ in store.list_stored(asked)] == [made.key]
        events = collect(watch, lambda got: bool(got) and got[-1].record == made)
        assert {event.key for event in events} == {made.key}
        watch.close()

    def test_hostile_values_never_break_a_reader(self, store: Datastore) -> None:
        start = store.list([ALL_SETS]).revision
        chance = random.Random(1)
        hostile = [
            b"[" * 100_000,
            b'{"a":' * 50_000,
            b'{"kind":"GlobalNetworkSet","spec":{"nets":[' + b'"x",' * 50_000 + b'"x"]}}',
            b'{"kind":"GlobalNetworkSet","metadata":{"labels":{"' + b"k" * 100_000 + b'":1}}}',
            b'{"kind":"IPPool"}',
            b'{"metadata":{"name":"\\ud800"}}',
            b"\xff\xfe\x00",
            b"null",
            b"1e999999",
            b'{"kind":null,"metadata":null,"spec":null}',
            *(chance.randbytes(chance.randrange(200)) for _ in range(100)),
        ]
        at = [
            path(set_key("x{}")),
            path(ResourceKey("GlobalNetworkPolicy", "", "x{}")),
            path(HandleKey("x{}")),
            "/calico/ipam/v2/assignment/ipv4/block/10.0.{}.0-26",
            "/calico/ipam/v2/host/n{}/ipv6/block/fd00::{}00-122",
            "/calico/ipam/v2/host/{}/ipv4/block/999.0.0.0-26",
        ]
        for number, raw in enumerate(hostile):
            self.write_raw(store, at[number % len(at)].format(number, number), raw)
        made = store.create(set_key("z"), network_set("z"))
        queries: Sequence[Query] = [ALL_SETS, ResourceQuery("GlobalNetworkPolicy"), HandleQuery(), BlockQuery()]
        records = store.list([*queries, BlockAffinityQuery()]).records
        assert made in records
        assert len(records) > 60
        watch = store.watch(queries, revision=start)
        collect(watch, lambda got: len(got) > 60 and any(event.key == set_key("z") for event in got))
        watch.close()
