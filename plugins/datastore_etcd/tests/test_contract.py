"""etcd keeps the datastore contract."""

from __future__ import annotations

import contextlib
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
from calico_kernel.testing.faulty_proxy import BAD_NETWORK, FaultyProxy
from calico_kernel.testing.patient import PatientDatastore, unreachable


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


def patient_store(settings: EtcdSettings) -> Datastore:
    return PatientDatastore(EtcdDatastore(settings))


class TestEtcdThroughABadNetwork(TestEtcdDatastore):
    """All of it again, each call through a proxy that delays, cuts, refuses and freezes by chance."""

    program_examples = 8

    @pytest.fixture
    def store(self, _remember: None) -> Iterator[Datastore]:
        self.proxy = FaultyProxy(self.server.port, seed=1)
        self.proxy.take_chances(BAD_NETWORK)
        self.settings = EtcdSettings(endpoints=f"http://127.0.0.1:{self.proxy.port}", dial_timeout_s=0.3)
        store = patient_store(self.settings)
        yield store
        store.close()
        self.proxy.close()

    def forget_history(self, store: Datastore) -> None:
        assert isinstance(store, PatientDatastore)
        with contextlib.closing(EtcdDatastore(EtcdSettings(endpoints=self.server.url))) as direct:
            direct.compact()

    def outage(self, store: Datastore) -> AbstractContextManager[None]:
        assert isinstance(store, PatientDatastore)
        return unreachable(store, self.proxy)

    def opener(self, store: Datastore) -> Callable[[], Datastore]:
        return functools.partial(patient_store, self.settings)

    def test_random_programs_give_the_same_results_as_in_memory(self, store: Datastore) -> None:
        super().test_random_programs_give_the_same_results_as_in_memory(store)
        assert self.proxy.faults > 100
