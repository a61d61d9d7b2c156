"""Wheels of the kernel and of every plugin, built once, and clean virtual environments to install them into."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

Python = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one wheel for each distribution. The sources are copied: a build leaves files beside them."""
    built = tmp_path_factory.mktemp("wheels")
    source = tmp_path_factory.mktemp("source")
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, tracked.split("\0")):
        origin = ROOT / name
        if origin.is_file():
            copy = source / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(origin.read_bytes())
    for project in [source, *sorted(path.parent for path in source.glob("plugins/*/pyproject.toml"))]:
        subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built), str(project)],
            check=True,
            capture_output=True,
        )
    return built


@pytest.fixture(scope="session")
def make_environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[Path]], Python]:
    """``make_environment(wheels)`` makes a clean environment with exactly those and what they require; returns a
    function that runs its Python."""

    def make(chosen: list[Path]) -> Python:
        home = tmp_path_factory.mktemp("venv")
        venv.create(home, with_pip=True)
        python = str(home / "bin" / "python")
        install = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-c",
            str(ROOT / "requirements.lock"),
        ]
        subprocess.run([python, *install, *map(str, chosen)], check=True, capture_output=True)

        def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
            return subprocess.run(  # type: ignore[call-overload,no-any-return]
                [python, *arguments], check=False, capture_output=True, text=True, cwd=home, **options
            )

        return run

    return make
