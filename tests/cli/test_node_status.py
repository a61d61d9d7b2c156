"""calicoctl node status against a health server that says what an agent would."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from calico_kernel.agent.health import HealthServer
from calico_kernel.hookspecs import Health, HealthCheck


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[HealthCheck]]:
    """The checks of a running agent's health server; the test adds what it needs."""
    checks: list[HealthCheck] = []
    server = HealthServer("127.0.0.1", 0, checks, list)
    server.start()
    monkeypatch.setenv("CALICO_AGENT_HEALTH_PORT", str(server.port))
    yield checks
    server.close()


def test_well_agent_is_live_and_ready(ctl: Any, agent: list[HealthCheck]) -> None:
    assert ctl("node", "status") == (
        0,
        "Calico process is running.\nThe agent is live.\nThe agent is ready.\n",
        "",
    )


def test_agent_that_is_not_ready_says_why(ctl: Any, agent: list[HealthCheck]) -> None:
    agent.append(HealthCheck(name="feed", affects="readiness", check=lambda: Health(ok=False, reason="not in sync")))
    ran = ctl("node", "status")
    assert ran.status == 0 and "The agent is live.\nThe agent is not ready:\n  " in ran.out and "not in sync" in ran.out
    data = json.loads(ctl("node", "status", "-o", "json").out)
    assert (data["running"], data["live"], data["ready"]) == (True, True, False)
