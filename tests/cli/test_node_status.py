"""calicoctl node status against a health server that says what an agent would."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from calico_kernel.agent.feed import FeedState
from calico_kernel.agent.health import HealthServer
from calico_kernel.agent.selfreport import agent_status
from calico_kernel.agent.worker import DriverWorker
from calico_kernel.hookspecs import ApplyReport, Failure, Health, HealthCheck, Lack, RoutingDriver


class Bgp(RoutingDriver):
    def update(self, _delta: Any) -> None: ...

    def apply(self) -> ApplyReport:
        return ApplyReport()

    def peers(self) -> list[Mapping[str, Any]]:
        return [
            {
                "address": "192.0.2.7",
                "type": "node-to-node mesh",
                "state": "up",
                "since": "10:00",
                "info": "Established",
            },
            {"address": "2001:db8::7", "state": "start", "info": "\x1b[31mConnect"},
        ]

    def uninstall(self) -> None: ...


class Agent:
    """``checks`` and ``status``: what the server will say; the test changes them."""

    def __init__(self) -> None:
        self.checks: list[HealthCheck] = []
        self.lacks: list[tuple[str, Lack]] = []
        self.status: Mapping[str, Any] = {}


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    agent = Agent()
    server = HealthServer("127.0.0.1", 0, agent.checks, list, lambda: agent.lacks, lambda: agent.status)
    server.start()
    monkeypatch.setenv("CALICO_AGENT_HEALTH_PORT", str(server.port))
    yield agent
    server.close()


def worker(name: str = "routing:bgp", **state: Any) -> DriverWorker:
    made = DriverWorker(name, Bgp())
    for key, value in state.items():
        setattr(made.state, key, value)
    return made


def status(*workers: DriverWorker, **feed: Any) -> Mapping[str, Any]:
    state = FeedState(**{"in_sync": True, "connected": True, "trouble": "", **feed})
    return agent_status("n1", "running", ["datastore:etcd", "ipam:blocks"], state, 0, workers)


def test_well_agent_is_live_and_ready(ctl: Any, agent: Agent) -> None:
    assert ctl("node", "status") == (
        0,
        "Calico process is running.\nThe agent is live.\nThe agent is ready.\n",
        "",
    )


def test_agent_that_is_not_ready_says_why(ctl: Any, agent: Agent) -> None:
    check = HealthCheck(name="feed", affects="readiness", check=lambda: Health(ok=False, reason="not in sync"))
    agent.checks.append(check)
    ran = ctl("node", "status")
    assert ran.status == 0 and "The agent is live.\nThe agent is not ready:\n  feed: not in sync\n" in ran.out
    data = json.loads(ctl("node", "status", "-o", "json").out)
    assert (data["running"], data["live"], data["ready"]) == (True, True, False)


def test_no_agent_is_said_and_fails(ctl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALICO_AGENT_HEALTH_PORT", "1")
    ran = ctl("node", "status")
    assert ran.status == 1 and ran.err.startswith("Calico process is not running: no agent answers at 127.0.0.1:1")
    ran = ctl("node", "status", "-o", "json")
    assert ran.status == 1 and json.loads(ran.out)["running"] is False


def test_plugins_datastore_and_what_the_host_lacks_are_shown(ctl: Any, agent: Agent) -> None:
    failed = worker("dataplane:iptables", applies=7, failed_applies=2, failures=[Failure(subject="ip6", reason="no")])
    agent.status = status(failed, worker(converged=True, applies=1))
    agent.lacks.append(("dataplane:iptables", Lack(capability="match set", effect="rules deny")))
    out = ctl("node", "status").out
    assert "Datastore:  etcd: in sync\n" in out
    assert "| dataplane:iptables | not converged |       7 |      2 |" in out
    assert "  dataplane:iptables: ip6: no\n" in out
    assert "| dataplane:iptables | match set  | rules deny |" in out


def test_datastore_that_is_away_or_locked_is_said(ctl: Any, agent: Agent) -> None:
    agent.status = status(connected=False, trouble="etcd does not answer")
    assert "Datastore:  etcd: etcd does not answer\n" in ctl("node", "status").out
    agent.status = status(locked=True)
    assert "in sync, locked\n" in ctl("node", "status").out


def test_bgp_sessions_stand_in_a_table_for_each_family(ctl: Any, agent: Agent) -> None:
    agent.status = status(worker())
    out = ctl("node", "status").out
    assert "\nIPv4 BGP status\n" in out and "\nIPv6 BGP status\n" in out
    assert "| 192.0.2.7    | node-to-node mesh | up    | 10:00 | Established |" in out
    assert "\x1b" not in out and "| 2001:db8::7  |" in out
    agent.status = status()
    assert "this node speaks no BGP" in ctl("node", "status").out


def test_routing_plugin_that_breaks_hides_nothing_else(ctl: Any, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bgp, "peers", lambda _self: 1 / 0)
    agent.status = status(worker())
    assert "No IPv4 peers found." in ctl("node", "status").out
