"""``calico cni install`` and ``uninstall``: what is written, with which modes, and that the executable runs alone."""

from __future__ import annotations

import argparse
import json
import logging
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import calico_cni
from calico_cni.plugin import calico_cli_commands, calico_local_service, calico_metrics, calico_plugin
from calico_cni.settings import CniSettings
from calico_kernel.hookspecs import Services
from calico_kernel.testing.memory_datastore import MemoryDatastore


def run(*line: str) -> int:
    parser = argparse.ArgumentParser()
    (command,) = calico_cli_commands()
    command.configure(parser)
    return command.run(parser.parse_args(list(line)))


@pytest.fixture
def where(tmp_path: Path) -> list[str]:
    return ["--bin-dir", str(tmp_path / "bin"), "--net-dir", str(tmp_path / "net.d")]


def test_install_writes_a_private_list_and_an_executable_that_runs_alone(tmp_path: Path, where: list[str]) -> None:
    for _ in range(2):
        assert run("install", *where, "--network", "blue", "--ipv6", "--mtu", "1440", "--kubernetes") == 0
    listed = tmp_path / "net.d" / "10-calico.conflist"
    assert stat.S_IMODE(listed.stat().st_mode) == 0o600
    assert json.loads(listed.read_text()) == {
        "name": "blue",
        "cniVersion": "1.0.0",
        "plugins": [
            {
                "type": "calico",
                "ipam": {"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": "true"},
                "policy": {"type": "k8s"},
                "mtu": 1440,
            },
            {"type": "portmap", "snat": True, "capabilities": {"portMappings": True}},
        ],
    }
    program = tmp_path / "bin" / "calico"
    assert stat.S_IMODE(program.stat().st_mode) == 0o755
    done = subprocess.run([program], env={"CNI_COMMAND": "VERSION"}, capture_output=True, check=True)
    assert "1.1.0" in json.loads(done.stdout)["supportedVersions"]
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        "calico",
        "calico-ipam",
        "10-calico.conflist",
    }


def test_uninstall_removes_both_and_may_run_twice(
    tmp_path: Path, where: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run("install", *where)
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"wrote {tmp_path}/{name}" for name in ("bin/calico", "bin/calico-ipam", "net.d/10-calico.conflist")
    ]
    (tmp_path / "net.d" / "99-other.conflist").write_text("{}")
    for _ in range(2):
        assert run("uninstall", *where) == 0
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"99-other.conflist"}


def test_calicos_variables_are_understood(tmp_path: Path, where: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNI_CONF_NAME", "05-mine.conflist")
    monkeypatch.setenv("CNI_OLD_CONF_NAME", "10-calico.conflist")
    monkeypatch.setenv("CNI_NETWORK_CONFIG", '{"name": "given"}')
    (tmp_path / "net.d").mkdir()
    (tmp_path / "net.d" / "10-calico.conflist").write_text("{}")
    assert run("install", *where) == 0
    assert {path.name: path.read_text() for path in (tmp_path / "net.d").iterdir()} == {
        "05-mine.conflist": '{"name": "given"}'
    }


def test_a_variable_that_is_no_number_is_named(
    where: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CNI_MTU", "big")
    with pytest.raises(SystemExit):
        run("install", *where)
    assert "invalid int value: 'big'" in capsys.readouterr().err


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run("install", "--bin-dir", str(tmp_path / "file" / "bin"), "--net-dir", str(tmp_path)) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_requests_are_counted_by_verb_and_outcome() -> None:
    services = Services(node="counting", log=logging.getLogger("calico.test"), datastore=MemoryDatastore())
    service = calico_local_service(CniSettings(), services)
    assert service is not None
    service.handle({"env": {}, "config": "{}"})
    conf = '{"cniVersion": "1.0.0", "name": "net1", "ipam": {"type": "calico-ipam"}}'
    service.handle({"env": {"CNI_COMMAND": "VERSION"}, "config": conf})
    counted = {
        (metric.labels["command"], metric.labels["outcome"]): metric.value
        for metric in calico_metrics(services)
        if metric.name == "calico_cni_requests_total"
    }
    assert counted == {("?", "error"): 1, ("VERSION", "ok"): 1}
    assert list(calico_metrics(Services(node="other", log=services.log))) == []


def test_the_plugin_describes_its_settings() -> None:
    info = calico_plugin()
    assert info.settings is CniSettings


def test_the_executable_without_input_answers_with_an_error_document() -> None:
    shim = Path(calico_cni.__file__).parent / "shim.py"
    line = ["sh", "-c", f"exec {sys.executable} -I -S {shim} <&-"]
    done = subprocess.run(line, env={"CNI_COMMAND": "ADD"}, capture_output=True, check=False)
    assert done.returncode == 1 and done.stderr == b""
    assert json.loads(done.stdout)["code"] == 999
    done = subprocess.run([sys.executable, "-I", "-S", shim], env={}, capture_output=True, check=False)
    assert json.loads(done.stdout)["code"] == 4
