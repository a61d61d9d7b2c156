"""Put every wheel that a node needs into one directory, for hosts without a network and for images.

    python tools/wheelhouse.py build/wheelhouse
    pip install --no-index --find-links DIR --require-hashes --requirement DIR/requirements.txt

Ours are built from this checkout, the others are fetched as they are pinned in ``requirements.lock``, as wheels for the
Python that runs this (or for ``--python-version`` and ``--platform``, as pip names them). ``requirements.txt`` beside
them names each with its hash. pip's own variables hold (PIP_INDEX_URL, PIP_FIND_LINKS, PIP_NO_INDEX).
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--python-version", default="", help="of the hosts, when it is another one (3.12)")
    parser.add_argument("--platform", action="append", default=[], help="of the hosts (manylinux_2_28_aarch64)")
    arguments = parser.parse_args(argv)
    target: Path = arguments.directory
    if target.exists() and any(target.iterdir()):
        sys.stderr.write(f"{target} is not empty: choose another directory, or remove it\n")
        return 1
    target.mkdir(parents=True, exist_ok=True)
    try:
        ours = build(target)
        fetch(target, ours, arguments.python_version, arguments.platform)
    except subprocess.CalledProcessError as exc:
        sys.stderr.write(f"{' '.join(exc.cmd[2:4])} failed; what it said stands above\n")
        return 1
    listed = requirements(target)
    (target / "requirements.txt").write_text("\n".join(listed) + "\n")
    sys.stdout.write(f"{len(listed)} wheels in {target}\n")
    return 0


def build(target: Path) -> list[Path]:
    """Wheels of the kernel and of every plugin. Built from copies: a build leaves files beside the sources."""
    with tempfile.TemporaryDirectory() as scratch:
        plugins = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
        for number, project in enumerate([ROOT, *plugins]):
            copy = Path(scratch) / str(number)
            left = [".*", "build", "dist", "plugins", "tests", "bench", "__pycache__", "*.egg-info"]
            shutil.copytree(project, copy, ignore=shutil.ignore_patterns(*left))
            _python("build", "--wheel", "--no-isolation", "--outdir", str(target), str(copy))
    return sorted(target.glob("*.whl"))


def fetch(target: Path, ours: Sequence[Path], python_version: str, platforms: Sequence[str]) -> None:
    options = ["--dest", str(target), "--only-binary", ":all:", "--constraint", str(ROOT / "requirements.lock")]
    if python_version:
        options += ["--python-version", python_version]
    for platform in platforms:
        options += ["--platform", platform]
    _python("pip", "download", "--quiet", "--disable-pip-version-check", *options, *map(str, ours))


def requirements(target: Path) -> list[str]:
    """A line for each wheel, by name."""
    lines = []
    for wheel in sorted(target.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        lines.append(f"{name.replace('_', '-').lower()}=={version} --hash=sha256:{digest}")
    return lines


def _python(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
