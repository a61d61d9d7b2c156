"""The Kubernetes datastore keeps the datastore contract."""

from __future__ import annotations

import contextlib
import functools
import json
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from calico_datastore_kdd.settings import KubernetesSettings
from calico_datastore_kdd.store import KubernetesDatastore
from calico_datastore_kdd.testing import KubernetesServer
from calico_kernel.hookspecs import Datastore
from calico_kernel.model import keys
from calico_kernel.model.keys import Key
from calico_kernel.model.records import Malformed, Record, Value
from calico_kernel.testing.datastore import ALL_SETS, SharedDatastoreContract
from calico_kernel.testing.faulty_proxy import BAD_NETWORK, FaultyProxy
from calico_kernel.testing.patient import PatientDatastore, unreachable

CRD = "/apis/crd.projectcalico.org/v1"


class Noting(PatientDatastore):
    """Notes the revision of its last change: those of the API server go on by what it writes for itself, which is no
    history that the contract speaks of."""

    newest = ""

    def create(self, key: Key, value: Value) -> Record:
        return self._noted(super().create(key, value))

    def update(self, key: Key, value: Value, *, revision: str) -> Record:
        return self._noted(super().update(key, value, revision=revision))

    def put(self, key: Key, value: Value, *, ttl_s: float | None = None) -> Record:
        return self._noted(super().put(key, value, ttl_s=ttl_s))

    def delete(self, key: Key, *, revision: str | None = None) -> Record:
        removed = super().delete(key, revision=revision)
        self.newest = self.list([ALL_SETS]).revision
        return removed

    def _noted(self, made: Record) -> Record:
        self.newest = made.revision
        return made


class TestKubernetesDatastore(SharedDatastoreContract):
    sends_ahead = True
    keeps_bytes = False
    answer_s = 3.0
    program_examples = 10

    @pytest.fixture(autouse=True)
    def _remember(self, empty_uncached: KubernetesServer) -> None:
        self.server = empty_uncached
        self.settings = KubernetesSettings(kubeconfig=str(empty_uncached.kubeconfig), qps=0)

    @pytest.fixture
    def store(self, _remember: None) -> Iterator[Datastore]:
        store = Noting(KubernetesDatastore(self.settings), patience_s=0.0)
        yield store
        store.close()

    def forget_history(self, store: Datastore) -> None:
        assert isinstance(store, Noting)
        if store.newest:
            self.server.compact(store.newest)

    def outage(self, store: Datastore) -> AbstractContextManager[None]:
        return self._server_down()

    @contextmanager
    def _server_down(self) -> Iterator[None]:
        self.server.kill_server()
        try:
            yield
        finally:
            self.server.start_server()
            self.server.wait_ready()

    def write_raw(self, store: Datastore, at: str, raw: bytes) -> None:
        """As an object whose ``spec`` is what the bytes say, or the bytes."""
        document: Any = None
        with contextlib.suppress(ValueError, RecursionError):
            document = json.loads(raw)
        if not isinstance(document, dict):
            document = {"spec": raw.decode("latin-1")}
        key = keys.parse(at)
        if isinstance(key, keys.ResourceKey):
            store.put(key, Malformed("written as it is", json.dumps(document).encode()))  # type: ignore[arg-type]
            return
        if isinstance(key, keys.HandleKey):
            kind, plural, name = "IPAMHandle", "ipamhandles", key.handle
        elif "/assignment/" in at:
            kind, plural, name = "IPAMBlock", "ipamblocks", at.rpartition("/block/")[2].replace(".", "-")
        else:
            kind, plural, name = "BlockAffinity", "blockaffinities", at.rpartition("/block/")[2].replace(".", "-")
        body = {"apiVersion": CRD.removeprefix("/apis/"), "kind": kind, "metadata": {"name": name.replace(":", "-")}}
        with contextlib.suppress(urllib.error.HTTPError):  # of some names there can be only one
            self.server.request("POST", f"{CRD}/{plural}", {**document, **body})

    def opener(self, store: Datastore) -> Callable[[], Datastore]:
        return functools.partial(KubernetesDatastore, self.settings)


def patient_store(settings: KubernetesSettings) -> Datastore:
    return PatientDatastore(KubernetesDatastore(settings))


class TestKubernetesThroughABadNetwork(TestKubernetesDatastore):
    """All of it again, each call through a proxy that delays, cuts, refuses and freezes by chance."""

    program_examples = 4

    @pytest.fixture
    def store(self, _remember: None) -> Iterator[Datastore]:
        self.proxy = FaultyProxy(self.server.port, seed=1)
        self.proxy.take_chances(BAD_NETWORK)
        endpoint = f"https://127.0.0.1:{self.proxy.port}"
        self.settings = KubernetesSettings(
            kubeconfig=str(self.server.kubeconfig), api_endpoint=endpoint, qps=0, request_timeout_s=5
        )
        store = Noting(KubernetesDatastore(self.settings))
        yield store
        store.close()
        self.proxy.close()

    def outage(self, store: Datastore) -> AbstractContextManager[None]:
        assert isinstance(store, PatientDatastore)
        return unreachable(store, self.proxy)

    def opener(self, store: Datastore) -> Callable[[], Datastore]:
        return functools.partial(patient_store, self.settings)
