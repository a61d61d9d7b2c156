"""The calico program: configuration, plugins, and the doors to agent and lab."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def calico(config: Path, calico_program: Any) -> Any:
    return calico_program


def test_config_show_says_where_each_value_came_from(
    calico: Any, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALICO_AGENT_HEALTH_PORT", "9100")
    rows = {row["key"]: row for row in json.loads(calico("config", "show", "-o", "json").out)}
    assert rows["node"] == {"key": "node", "value": "n1", "origin": f"{config}:1"}
    assert rows["datastore.path"]["origin"] == f"{config}:2"
    assert rows["datastore.durability"]["origin"] == "default"
    assert rows["agent.health_port"] == {
        "key": "agent.health_port",
        "value": 9100,
        "origin": "environment CALICO_AGENT_HEALTH_PORT",
    }
    text = calico("config", "show").out
    assert text.startswith("KEY ") and f"{config}:1" in text


def test_config_check_touches_nothing(calico: Any, config: Path, tmp_path: Path) -> None:
    ran = calico("config", "check")
    assert ran.status == 0 and f"{config}: correct" in ran.out and "datastore:sqlite, ipam:blocks" in ran.out
    assert not (tmp_path / "calico.db").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("dataplane: iptable", "there is no plugin 'iptable'; did you mean 'iptables'?"),
        ("routing: [bird]", "pip install calico-bgp-bird"),
        ("agent: {log_level: loud}", "agent.log_level is 'loud'"),
        ("encapsulation: [{plugin: vxlan, colour: red}]", "has no setting 'colour'"),
    ],
)
def test_config_check_refuses_with_file_and_line(calico: Any, config: Path, line: str, said: str) -> None:
    config.write_text(config.read_text() + line + "\n")
    ran = calico("config", "check")
    assert ran.status == 1 and said in ran.err and f"{config}:4: " in ran.err


def test_plugins_list_info_and_check(calico: Any) -> None:
    listed = {(one["family"], one["word"]): one for one in json.loads(calico("plugins", "list", "-o", "json").out)}
    assert listed["datastore", "sqlite"]["configured"] is True
    assert listed["dataplane", "iptables"]["configured"] is False
    assert all("problem" not in one for one in listed.values())
    info = calico("plugins", "info", "sqlite").out
    assert "hookApi:      1.1" in info and "calico_datastore" in info and "durability" in info
    assert calico("plugins", "info", "nothing").status == 1
    assert "datastore:sqlite: fits (calico_datastore_sqlite.plugin; datastore)" in calico("plugins", "check").out


def test_help_lists_the_commands_even_without_a_usable_configuration(
    calico_program: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALICO_CONFIG", "/nowhere.yaml")
    ran = calico_program("--help")
    assert ran.status == 0 and all(f"    {name} " in ran.out for name in ("node", "plugins", "config", "lab"))


def test_doors_to_agent_and_lab_open(calico: Any) -> None:
    assert "uninstall" in calico("node", "--help").out
    assert calico("lab", "list").status == 0
