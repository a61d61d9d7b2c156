"""One real Kubernetes cluster for all tests of this directory. ``make e2e`` runs them; see ``tests/e2e/world.py``.

Modules run in the order of their names: what wears the cluster down comes last.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.e2e import figures, world
from tests.e2e.cluster import Cluster
from tests.e2e.ours import Network

WHERE = Path("/run/calico-e2e")
"""In the world's own tmpfs: it goes with the world."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = "" if world.inside() else world.lacking() or "runs in a world of its own: make e2e"
    if reason:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure brings along what the cluster's programs said last; their files go with the world."""
    report = yield
    if report.failed and WHERE.exists():
        for log in sorted(WHERE.rglob("*.log")):
            lines = log.read_text(errors="replace").splitlines()
            told = [line for line in lines if not line.startswith("I") and '"level": "info"' not in line]
            report.sections.append((f"last of {log.relative_to(WHERE)}", "\n".join(told[-12:])))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = figures.table()
    if lines:
        terminalreporter.section("measured on the cluster")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """API server, controllers, scheduler and two nodes, without a network."""
    made = Cluster.of(WHERE)
    try:
        with figures.timed("control plane and two nodes started"):
            made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def network(cluster: Cluster) -> Iterator[Network]:
    """Ours on every node."""
    made = Network.of(cluster)
    with figures.timed("definitions, rights and agents in place, nodes Ready"):
        made.install()
    yield made
    figures.note_spread("all CNI ADDs, in the agent", made.took_ms("ADD"))
    figures.note_spread("all CNI DELs, in the agent", made.took_ms("DEL"))
    starts = [ms for node in cluster.nodes for ms in node.pod_starts_ms()]
    figures.note_spread("all pods, from creation to running (kubelet)", starts)
