"""One real Kubernetes cluster for all tests of this directory. ``make e2e`` runs them; see ``tests/e2e/world.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import world
from tests.e2e.cluster import Cluster

WHERE = Path("/run/calico-e2e")
"""In the world's own tmpfs: it goes with the world."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = "" if world.inside() else world.lacking() or "runs in a world of its own: make e2e"
    if reason:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """API server, controllers, scheduler and two nodes."""
    made = Cluster.of(WHERE)
    try:
        made.start()
        yield made
    finally:
        made.stop()
