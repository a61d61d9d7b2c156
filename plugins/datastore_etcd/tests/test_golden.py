"""What Calico stored in etcd is what we store there, byte for byte, and reads back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from calico_datastore_etcd import proto
from calico_datastore_etcd.settings import EtcdSettings
from calico_datastore_etcd.store import EtcdDatastore
from calico_datastore_etcd.testing import EtcdServer
from calico_kernel.model import keys
from calico_kernel.model.keys import BlockAffinityQuery, BlockQuery, HandleQuery, IpamConfigQuery, Query, ResourceQuery
from calico_kernel.model.kinds import KINDS
from calico_kernel.model.records import Malformed


def as_go_writes(value: object) -> bytes:
    raw = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return raw.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").encode()


RECORDED = {
    one["key"]: as_go_writes(one["value"])
    for one in map(json.loads, (Path(__file__).parent / "data" / "calico-etcd.jsonl").read_text().splitlines())
}
EVERYTHING: tuple[Query, ...] = (
    *(ResourceQuery(kind) for kind in KINDS),
    BlockQuery(),
    BlockAffinityQuery(),
    HandleQuery(),
    IpamConfigQuery(),
)


@pytest.fixture
def store(etcd: EtcdServer) -> Iterator[EtcdDatastore]:
    store = EtcdDatastore(EtcdSettings(endpoints=etcd.url))
    yield store
    store.close()


def stored(etcd: EtcdServer) -> dict[str, bytes]:
    answer = etcd.call("Range", proto.RangeRequest(key=b"/calico/", range_end=b"/calico0"))
    return {kv.key.decode(): kv.value for kv in answer.kvs}  # type: ignore[attr-defined]


def test_store_that_calico_wrote_is_read_whole_and_written_back_byte_for_byte(
    etcd: EtcdServer, store: EtcdDatastore
) -> None:
    for path, raw in RECORDED.items():
        etcd.call("Put", proto.PutRequest(key=path.encode(), value=raw))
    records = store.list(EVERYTHING).records
    assert {keys.path(record.key) for record in records} == {path for path in RECORDED if keys.parse(path)}
    assert len(records) > 30
    assert not [record for record in records if isinstance(record.value, Malformed)]
    etcd.wipe()
    for record in records:
        assert not isinstance(record.value, Malformed)
        store.create(record.key, record.value)
    assert stored(etcd) == {keys.path(record.key): RECORDED[keys.path(record.key)] for record in records}


def test_list_of_several_pages_is_as_of_one_moment_and_in_order(
    etcd: EtcdServer, store: EtcdDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, raw in RECORDED.items():
        etcd.call("Put", proto.PutRequest(key=path.encode(), value=raw))
    whole = store.list(EVERYTHING)
    monkeypatch.setattr("calico_datastore_etcd.store.FIRST_PAGE_KEYS", 2)
    monkeypatch.setattr("calico_datastore_etcd.store.PAGE_BYTES", 2000)
    pages = store.list(EVERYTHING)
    assert pages == whole
    paths = [keys.path(record.key) for record in pages.records]
    assert paths == sorted(set(paths))
