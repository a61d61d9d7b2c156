"""What the agent says of itself over HTTP."""

from __future__ import annotations

import json
import urllib.request

from calico_kernel.agent.health import READINESS, HealthServer
from calico_kernel.hookspecs import Health, HealthCheck, Lack


def test_what_the_host_lacks_is_said_in_words_and_makes_nothing_unready() -> None:
    checks = [HealthCheck(name="datastore", affects=READINESS, check=lambda: Health(ok=True))]
    lacks = [("dataplane:iptables", Lack(capability="ipset", effect="rules with sets deny"))]
    server = HealthServer("127.0.0.1", 0, checks, list, lambda: lacks)
    server.start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/health", timeout=10) as answer:
            said = json.load(answer)
    finally:
        server.close()
    assert said["lacks"] == [
        {"driver": "dataplane:iptables", "capability": "ipset", "effect": "rules with sets deny"},
    ]
    assert said["readiness"]["ok"]
