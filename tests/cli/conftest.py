"""calicoctl and calico run in this process on a SQLite datastore of the test's own."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from calico_datastore_kdd.testing import KubernetesServer
from calico_kernel.cli import calico, calicoctl, calicoq
from calico_kernel.model.crds import custom_kinds, definition


class Ran(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesServer]:
    """A real API server with our custom resources, for all tests that need one."""
    made = KubernetesServer(tmp_path_factory.mktemp("kubernetes"))
    made.start()
    made.define(map(definition, custom_kinds()))
    yield made
    made.kill()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration of datastore and IPAM; what runs finds it by CALICO_CONFIG."""
    path = tmp_path / "calico.yaml"
    path.write_text(f"node: n1\ndatastore: {{plugin: sqlite, path: {tmp_path}/calico.db}}\nipam: blocks\n")
    monkeypatch.setenv("CALICO_CONFIG", str(path))
    return path


@pytest.fixture
def ctl(config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """``ctl("get", "nodes")``; ``text`` becomes standard input."""
    return _runner(calicoctl.main, capsys, monkeypatch)


@pytest.fixture
def q(config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """``q("endpoint", "web")``: calicoq, on the same datastore as ``ctl``."""
    return _runner(calicoq.main, capsys, monkeypatch)


@pytest.fixture
def calico_program(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    return _runner(calico.main, capsys, monkeypatch)


def _runner(
    main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    def run(*argv: str, text: str = "") -> Ran:
        stdin = io.TextIOWrapper(io.BytesIO(text.encode()))
        monkeypatch.setattr(sys, "stdin", stdin)
        capsys.readouterr()
        try:
            status = main(list(argv))
        except SystemExit as exc:
            status = int(exc.code or 0)
        said = capsys.readouterr()
        return Ran(status, said.out, said.err)

    return run
