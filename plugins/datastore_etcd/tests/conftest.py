"""One real etcd for each test session (of each worker), emptied for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from calico_datastore_etcd.testing import EtcdServer


@pytest.fixture(scope="session")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def etcd(etcd_server: EtcdServer) -> EtcdServer:
    etcd_server.wipe()
    return etcd_server
