"""calicoctl node checksystem: on a machine of the test's making, and on this one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from calico_kernel.cli import checksystem
from calico_kernel.cli.checksystem import MISSING, THERE, UNKNOWN, Host
from calico_kernel.cli.files import FileError
from calico_kernel.hookspecs import HostNeed
from calico_kernel.host import programs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "sys/module/ip_set").mkdir(parents=True)
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/ip_tables_matches").write_text("set\nmultiport\n")
    return tmp_path


def state(root: Path, *others: str, options: tuple[str, ...] = (), config: str = "") -> str:
    need = HostNeed(kind="module", name=others[0], others=others[1:], options=options)
    (found,) = checksystem.look(Host(str(root), config), [("one", need)])
    return found.state


def test_module_is_there_when_it_is_loaded_in_use_on_disk_or_built_in(root: Path) -> None:
    directory = root / "lib/modules" / Host().release
    directory.mkdir(parents=True)
    (directory / "modules.dep").write_text("kernel/net/xt_one.ko.zst: kernel/a.ko\nkernel/net/dash-ed.ko:\n")
    (directory / "modules.builtin").write_text("kernel/net/built.ko\n")
    for name in ("ip_set", "xt_set", "xt_one", "dash_ed", "built"):
        assert state(root, name) == THERE, name
    assert state(root, "nothing", "built") == THERE
    assert state(root, "nothing") == MISSING


def test_option_of_the_kernel_stands_for_a_module(root: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.gz"
    config.write_bytes(gzip.compress(b"CONFIG_ONE=m\nCONFIG_TWO=y\n# CONFIG_THREE is not set\n"))
    for option, expected in (("CONFIG_ONE", THERE), ("CONFIG_TWO", THERE), ("CONFIG_THREE", MISSING)):
        assert state(root, "nothing", options=(option,), config=str(config)) == expected


def test_where_nothing_can_be_read_the_answer_is_unknown(root: Path) -> None:
    assert state(root, "nothing", options=("CONFIG_ONE",)) == UNKNOWN


def test_kernel_configuration_that_was_named_must_be_readable(ctl: Any, root: Path) -> None:
    with pytest.raises(FileError, match="open /nowhere"):
        state(root, "nothing", options=("CONFIG_ONE",), config="/nowhere")
    ran = ctl("node", "checksystem", "--kernel-config", "/nowhere")
    assert ran.status == 1 and "open /nowhere: no such file" in ran.err.lower()


def test_programs_sysctls_and_versions_are_needs_too(root: Path) -> None:
    (root / "proc/sys/net").mkdir(parents=True)
    (root / "proc/sys/net/x").write_text("2\n")
    needs = [
        HostNeed(kind="program", name="no-such-program", others=("sh",)),
        HostNeed(kind="program", name="no-such-program-2"),
        HostNeed(kind="sysctl", name="net.x=2"),
        HostNeed(kind="sysctl", name="net.x=1 "),
        HostNeed(kind="sysctl", name="net.none=1"),
        HostNeed(kind="kernel", name="2.6"),
        HostNeed(kind="kernel", name="99"),
    ]
    found = checksystem.look(Host(str(root)), [("one", need) for need in needs])
    assert [one.state for one in found] == [THERE, MISSING, THERE, MISSING, UNKNOWN, THERE, MISSING]


def test_need_of_two_plugins_is_one_finding_as_strict_as_the_stricter(root: Path) -> None:
    lax, strict = (HostNeed(kind="program", name="nothing-here", required=required) for required in (False, True))
    (found,) = checksystem.look(Host(str(root)), [("one", lax), ("two", strict)])
    assert found.plugins == ["one", "two"] and found.fails


def test_every_need_of_the_installed_plugins_is_shown_where_none_is_configured(ctl: Any) -> None:
    data = json.loads(ctl("node", "checksystem", "-o", "json").out)
    names = {check["name"]: check for check in data["checks"]}
    assert {"ipset", "vxlan", "veth", "xt_set"} <= names.keys()
    assert "dataplane:iptables" in names["ipset"]["plugins"] and names["ipset"]["effect"]
    assert data["facts"]["net.ipv4.ip_forward"] in {"0", "1"}


def test_configured_driver_that_cannot_be_made_fails(ctl: Any, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text(config.read_text() + "dataplane: {plugin: iptables, backend: nft}\n")
    ran = ctl("node", "checksystem")
    assert ran.status == 0 and ran.out.endswith("System meets minimum system requirements to run Calico!\n")
    monkeypatch.setattr(programs, "USUAL", "")
    monkeypatch.setenv("PATH", "")
    ran = ctl("node", "checksystem")
    assert ran.status == 1 and "no program iptables-restore: nothing is enforced" in ran.out
