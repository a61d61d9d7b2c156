"""calicoctl node diags: an archive of whatever can be had, without secrets."""

from __future__ import annotations

import os
import stat
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from calico_kernel.agent.health import HealthServer
from calico_kernel.cli import bundle, nodediags
from calico_kernel.cli.bundle import Bundle


def unpacked(directory: Path) -> dict[str, str]:
    """Text by path in the archive; removes it."""
    (archive,) = directory.glob("*.tar.gz")
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            opened = tar.extractfile(member)
            if opened is not None:
                found[member.name.partition("/")[2]] = opened.read().decode(errors="replace")
    archive.unlink()
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where archives go; the machine's own configuration and pods are not looked at."""
    monkeypatch.setattr(nodediags, "CONFIGURATION", (str(tmp_path / "etc"),))
    monkeypatch.setattr(nodediags, "POD_LOGS", str(tmp_path / "pods/*calico*"))
    monkeypatch.setattr(nodediags, "COMMANDS", [("system/date", "date"), ("network/ipset", "no-such-ipset list")])
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_archive_holds_outputs_agent_logs_and_configuration_without_secrets(
    ctl: Any, here: Path, tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = HealthServer("127.0.0.1", 0, [], list)
    server.start()
    monkeypatch.setenv("CALICO_AGENT_HEALTH_PORT", str(server.port))
    monkeypatch.setenv("CALICO_AGENT_METRICS_PORT", str(server.port))
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/10-calico.conflist").write_text('{"cniVersion": "1.0.0", "token": "hush"}')
    (tmp_path / "etc/key.pem").write_text("hush")
    (tmp_path / "log/cni").mkdir(parents=True)
    (tmp_path / "log/cni/cni.log").write_text("added\npassword=hush\n")
    (tmp_path / "pods/kube-system_calico-node-x/calico-node").mkdir(parents=True)
    (tmp_path / "pods/kube-system_calico-node-x/calico-node/0.log").write_text("started\n")
    ran = ctl("node", "diags", "--output-dir", str(here), "--log-dir", str(tmp_path / "log"))
    server.close()
    assert ran.status == 0 and "Diags saved to " in ran.out
    found = unpacked(here)
    assert "hush" not in "".join(found.values())
    assert found["system/date.txt"] and found["agent/readiness.txt"] == "ok\n"
    assert '"liveness"' in found["agent/health.json"] and "net/ipv4/ip_forward = " in found["system/sysctl.txt"]
    assert found["logs/files/cni/cni.log"].startswith("added\n")
    assert found["logs/pods/kube-system_calico-node-x/calico-node/0.log"] == "started\n"
    assert any(path.endswith("10-calico.conflist") for path in found) and "sqlite" in found[f"config/{config.name}"]
    assert "calico-datastore-sqlite" in found["calico/versions.json"] and "ipset" in found["calico/checksystem.json"]
    assert "no-such-ipset list: no-such-ipset is not installed\n" in found["LEFT_OUT.txt"]
    assert "key.pem: only configuration is taken" in found["LEFT_OUT.txt"] and "no-such-ipset" in ran.err


def test_nothing_to_be_had_still_gives_an_archive_that_says_so(
    ctl: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALICO_AGENT_HEALTH_PORT", "1")
    monkeypatch.setenv("CALICO_CONFIG", "/nowhere.yaml")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    ran = ctl("node", "diags", "--output-dir", str(here), "--log-dir", "/nowhere")
    assert ran.status == 0
    missing = unpacked(here)["LEFT_OUT.txt"]
    for word in ("run this as root", "/nowhere: there is no such directory", "there is no configuration file"):
        assert word in missing


def test_directory_that_is_not_there_is_refused_before_anything_is_collected(ctl: Any) -> None:
    ran = ctl("node", "diags", "--output-dir", "/nowhere")
    assert ran.status == 1 and "no directory /nowhere" in ran.err and ran.out == ""


def test_temporary_files_are_gone_whatever_happens() -> None:
    made = Bundle("x")
    made.text("a/b", "c")
    made.__exit__(KeyboardInterrupt, None, None)
    assert not made.directory.exists()


def test_program_that_fails_or_does_not_end_is_noted_with_what_it_said() -> None:
    with Bundle("x") as made:
        script = "import sys; print('half'); print('it broke', file=sys.stderr); sys.exit(3)"
        assert made.command("a", [sys.executable, "-c", script]) is None
        assert "half\n" in (made.directory / "x/a").read_text() and "it broke" in (made.directory / "x/a").read_text()
        assert made.command("b", [sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.2) is None
        assert [why for _, why in made.left_out] == ["it broke", "no end within 0.2 s"]


def test_of_a_long_file_the_end_is_kept_and_of_old_ones_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "MOST_BYTES", 10)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/long").write_text("0123456789" * 3 + "the end...")
    (tmp_path / "logs/old").write_text("old")
    (tmp_path / "logs/packed.gz").write_bytes(b"\x1f\x8b\xff")
    (tmp_path / "logs/link").symlink_to("/etc/passwd")
    os.utime(tmp_path / "logs/old", (1, 1))
    with Bundle("x") as made:
        made.tree("l", tmp_path / "logs", newer_than=1000.0)
        kept = {path.name: path.read_bytes() for path in (made.directory / "x/l").iterdir()}
    assert kept == {"long": b"(the first 30 bytes are left out)\nthe end...", "packed.gz": b"\x1f\x8b\xff"}
