"""Every value of a whole configuration replaced by what does not belong there: read and composed, or refused with file
and line; never anything else."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from calico_kernel.compose import compose
from calico_kernel.config import load
from calico_kernel.errors import CalicoError

WHOLE: dict[str, Any] = {
    "node": "worker-1",
    "datastore": {"plugin": "sqlite", "path": "/nowhere/calico.db", "durability": "full", "retain_s": 600},
    "ipam": "blocks",
    "dataplane": {"plugin": "iptables", "timeout_s": 30},
    "encapsulation": [{"plugin": "vxlan", "check_interval_s": 10}],
    "routing": [],
    "extensions": ["cni"],
    "agent": {"health_port": 9099, "log_level": "info", "retry_min_s": 0.1, "run_dir": "/run/calico"},
}
HOSTILE: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**70,
    1e300,
    float("nan"),
    "",
    " ",
    "x" * 3000,
    "no-such-thing",
    "../../etc",
    [],
    [[]],
    [None],
    ["a", "a"],
    {},
    {"plugin": None},
    {"plugin": ["x"]},
    {"a": {"b": []}},
)


def _places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        yield (*above, key)
        yield from _places(item, (*above, key))


@pytest.mark.parametrize("place", list(_places(WHOLE)), ids=lambda place: ".".join(map(str, place)))
def test_damaged_configuration_is_composed_or_refused(tmp_path: Path, place: tuple[Any, ...]) -> None:
    path = tmp_path / "calico.yaml"
    for harm in HOSTILE:
        made = copy.deepcopy(WHOLE)
        inside: Any = made
        for step in place[:-1]:
            inside = inside[step]
        inside[place[-1]] = harm
        path.write_text(yaml.safe_dump(made))
        try:
            compose(load(str(path), {}))
        except CalicoError as exc:
            assert str(path) in str(exc) and exc.todo  # noqa: PT017  the sweep also takes what composes


@pytest.mark.parametrize("key", ["NODE", "DATASTORE", "DATASTORE_RETAIN_S", "ENCAPSULATION", "AGENT_HEALTH_PORT"])
def test_damaged_variable_is_composed_or_refused_by_name(tmp_path: Path, key: str) -> None:
    path = tmp_path / "calico.yaml"
    path.write_text(yaml.safe_dump(WHOLE))
    for harm in ("", " ", "x" * 3000, "-1", "nan", "[1", "{a: b}", "a,,b", "\n", "!!python/object:os.system", "*x"):
        try:
            compose(load(str(path), {f"CALICO_{key}": harm}))
        except CalicoError as exc:
            assert f"CALICO_{key}" in str(exc)  # noqa: PT017
