"""One real etcd for each module that asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from calico_datastore_etcd.testing import EtcdServer


@pytest.fixture(scope="module")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.kill()
