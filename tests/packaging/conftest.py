"""Wheels of the kernel and of every plugin, built once, and clean virtual environments to install them into."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

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


def requirements(names: Iterable[str]) -> set[str]:
    """What these distributions require, and what that requires, by name; ours left out."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        for line in metadata.requires(waiting.pop()) or ():
            requirement = Requirement(line)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            name = requirement.name
            if name not in found and not name.startswith("calico-"):
                found.add(name)
                waiting.append(name)
    return found


@pytest.fixture(scope="session")
def required_by() -> Callable[[Iterable[str]], set[str]]:
    """``requirements``, for tests."""
    return requirements


@pytest.fixture(scope="session")
def make_environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[Path]], Python]:
    """``make_environment(wheels)`` makes a clean environment with exactly those and what they require; returns a
    function that runs its Python. The bubble has no way out, so what they require is copied from this environment."""

    def make(chosen: list[Path]) -> Python:
        home = tmp_path_factory.mktemp("venv")
        venv.create(home, with_pip=True)
        python = str(home / "bin" / "python")
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
        subprocess.run([python, *install, *map(str, chosen)], check=True, capture_output=True)
        (packages,) = home.glob("lib/python*/site-packages")
        for name in requirements(path.name.split("-")[0].replace("_", "-") for path in chosen):
            for file in metadata.files(name) or ():
                source = Path(str(file.locate()))
                if ".." not in file.parts and source.is_file():
                    target = packages / file
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(source.read_bytes())

        def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
            return subprocess.run(  # type: ignore[call-overload,no-any-return]
                [python, *arguments], check=False, capture_output=True, text=True, cwd=home, **options
            )

        return run

    return make
