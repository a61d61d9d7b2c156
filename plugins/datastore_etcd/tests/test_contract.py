"""etcd keeps the datastore contract."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from calico_datastore_etcd import proto
from calico_datastore_etcd.settings import EtcdSettings
from calico_datastore_etcd.store import EtcdDatastore
from calico_datastore_etcd.testing import EtcdServer
from calico_kernel.hookspecs import Datastore
from calico_kernel.testing.datastore import SharedDatastoreContract


class TestEtcdDatastore(SharedDatastoreContract):
    sends_ahead = True

    @pytest.fixture(autouse=True)
    def _remember(self, etcd: EtcdServer) -> None:
        self.server = etcd
        self.settings = EtcdSettings(endpoints=etcd.url, dial_timeout_s=0.3)

    @pytest.fixture
    def store(self, _remember: None) -> Iterator[Datastore]:
        store = EtcdDatastore(self.settings)
        yield store
        store.close()

    def forget_history(self, store: Datastore) -> None:
        assert isinstance(store, EtcdDatastore)
        store.compact()

    def outage(self, store: Datastore) -> AbstractContextManager[None]:
        return self._server_down()

    @contextmanager
    def _server_down(self) -> Iterator[None]:
        self.server.kill()
        try:
            yield
        finally:
            self.server.start()

    def write_raw(self, store: Datastore, at: str, raw: bytes) -> None:
        self.server.call("Put", proto.PutRequest(key=at.encode(), value=raw))

    def opener(self, store: Datastore) -> Callable[[], Datastore]:
        return functools.partial(EtcdDatastore, self.settings)
