"""One real API server for each test session (of each worker)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from calico_datastore_kdd.testing import KubernetesServer


@pytest.fixture(scope="session")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesServer]:
    server = KubernetesServer(tmp_path_factory.mktemp("kubernetes"))
    server.start()
    yield server
    server.kill()
