"""calicoctl node run: Calico's options become the agent's settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from calico_kernel.agent import node


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Configurations that an agent was started with; none is."""
    found: list[Any] = []

    def run(config: Any) -> int:
        found.append(config)
        return 0

    monkeypatch.setattr(node, "run", run)
    before: Mapping[str, str] = dict(os.environ)
    monkeypatch.setattr(os, "environ", dict(before))
    return found


def test_options_become_settings_and_the_agent_runs_here(ctl: Any, started: list[Any]) -> None:
    assert ctl("node", "run", "--name", "n7", "--ip", "192.0.2.4/24", "--ip6", "none", "--backend=none").status == 0
    (config,) = started
    assert (config.node, config.agent.ipv4_address, config.agent.ipv6_address) == ("n7", "192.0.2.4/24", "none")
    assert not config.chosen("routing")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--ip", "autodetect"], "first-found"),
        (["--ip", "autodetect", "--ip-autodetection-method", "interface=eth.*"], "interface=eth.*"),
        (["--ip-autodetection-method=can-reach=192.0.2.1"], "can-reach=192.0.2.1"),
        ([], "keep"),
    ],
)
def test_detection_method_is_used_where_no_address_is_given(
    ctl: Any, started: list[Any], given: list[str], expected: str
) -> None:
    assert ctl("node", "run", *given).status == 0
    assert started[0].agent.ipv4_address == expected


def test_as_number_goes_into_the_node_whether_it_exists_or_not(ctl: Any, started: list[Any]) -> None:
    assert ctl("node", "run", "--as", "64513").status == 0
    assert "asNumber: 64513" in ctl("get", "node", "n1", "-o", "yaml").out
    assert ctl("node", "run", "--as", "1.10").status == 0
    assert "asNumber: 65546" in ctl("get", "node", "n1", "-o", "yaml").out


def test_felix_configuration_file_becomes_variables_that_win_over_nothing_set(
    ctl: Any, started: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "felix.cfg").write_text("[global]\nLogSeverityScreen = Info\nChainInsertMode=append\n")
    os.environ["FELIX_CHAININSERTMODE"] = "insert"
    assert ctl("node", "run", "--felix-config", str(tmp_path / "felix.cfg")).status == 0
    assert os.environ["FELIX_LOGSEVERITYSCREEN"] == "Info" and os.environ["FELIX_CHAININSERTMODE"] == "insert"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--ip", "300.1.1.1"], "invalid IP address specified"),
        (["--ip", "2001:db8::1"], "--ip is wrong IP version"),
        (["--ip6", "192.0.2.1"], "--ip6 is wrong IP version"),
        (["--as", "1.99999"], "invalid AS Number specified: 1.99999"),
        (["--as", "4294967296"], "invalid AS Number"),
        (["--ip-autodetection-method", "guess"], "invalid IP autodetection method"),
        (["--node-image", "quay.io/calico/node:v3.30"], "no container is started"),
        (["--felix-config", "/nowhere"], "open /nowhere"),
    ],
)
def test_wrong_option_starts_nothing(ctl: Any, started: list[Any], given: list[str], said: str) -> None:
    ran = ctl("node", "run", *given)
    assert ran.status == 1 and said in ran.err and not started


def test_user_without_privileges_is_told(ctl: Any, started: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    ran = ctl("node", "run")
    assert ran.status == 1 and "super user" in ran.err and not started


def test_dry_run_says_the_command_and_runs_nothing(ctl: Any, config: Path, started: list[Any]) -> None:
    ran = ctl("node", "run", "--dryrun", "--init-system", "--ip", "autodetect", "--as", "64513", "-c", str(config))
    assert ran.status == 0 and not started
    assert f"CALICO_AGENT_IPV4_ADDRESS=first-found calico node run --config {config}\n" in ran.out
    assert "calicoctl patch node n1" in ran.out and "systemctl enable --now calico-node" in ran.out
