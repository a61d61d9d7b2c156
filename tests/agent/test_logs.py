"""Log entries stand on lines of their own, whatever they hold."""

from __future__ import annotations

import json
import logging

import pytest

from calico_kernel.agent.logs import JsonFormatter, TextFormatter


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_an_entry_can_forge_no_other_and_move_no_cursor(formatter: logging.Formatter) -> None:
    name = "web\n2026-01-01 00:00:00,000 INFO    calico.agent: all is well\x1b[2J"
    record = logging.makeLogRecord({"name": "calico", "levelname": "WARNING", "msg": "refused %s", "args": (name,)})
    line = formatter.format(record)
    assert line.isprintable()
    assert "all is well" in line


def test_an_entry_for_machines_has_its_parts() -> None:
    record = logging.makeLogRecord({"name": "calico", "levelname": "INFO", "msg": "up", "node": "n1"})
    entry = json.loads(JsonFormatter().format(record))
    assert (entry["level"], entry["message"], entry["node"]) == ("info", "up", "n1")
