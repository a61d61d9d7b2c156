"""A directory of wheels installs a whole node where there is no network and no index."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = {"sqlite", "etcd", "kdd", "blocks", "iptables", "vxlan", "cni"}


def repacked(name: str, target: Path) -> None:
    """The wheel that ``name`` was installed from, made again from what it put here."""
    found = metadata.distribution(name)
    tags = [line.partition(": ")[2] for line in (found.read_text("WHEEL") or "").splitlines() if line[:4] == "Tag:"]
    parts = [".".join(dict.fromkeys(column)) for column in zip(*(tag.split("-") for tag in tags), strict=True)]
    stem = f"{found.metadata['Name'].replace('-', '_')}-{found.version}"
    record = ""
    with zipfile.ZipFile(target / f"{stem}-{'-'.join(parts)}.whl", "w") as wheel:
        for file in found.files or ():
            source = Path(str(file.locate()))
            if file.name == "RECORD":
                record = str(file)
            elif ".." not in file.parts and source.is_file() and file.suffix != ".pyc":
                wheel.write(source, str(file))
        lines = []
        for inside in wheel.namelist():
            digest = base64.urlsafe_b64encode(hashlib.sha256(wheel.read(inside)).digest()).rstrip(b"=").decode()
            lines.append(f'"{inside}",sha256={digest},')
        wheel.writestr(record, "\n".join([*lines, f"{record},,", ""]))


def test_wheelhouse_installs_a_node_without_an_index(
    tmp_path: Path, required_by: Callable[[list[str]], set[str]]
) -> None:
    index, house = tmp_path / "index", tmp_path / "house"
    index.mkdir()
    ours = ["calico-kernel", *(one.parent.name for one in ROOT.glob("plugins/*/pyproject.toml"))]
    names = [ours[0], *(f"calico-{name.replace('_', '-')}" for name in ours[1:])]
    for name in required_by(names):
        repacked(name, index)
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)}
    made = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "wheelhouse.py"), str(house)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    listed = (house / "requirements.txt").read_text().splitlines()
    assert len(listed) == len(list(house.glob("*.whl")))
    assert all("==" in line and "--hash=sha256:" in line for line in listed)

    home = tmp_path / "node"
    venv.create(home, with_pip=True)
    options = ["--no-index", "--find-links", str(house), "--require-hashes", "-r", str(house / "requirements.txt")]
    subprocess.run(
        [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", *options], check=True, capture_output=True
    )
    said = subprocess.run(
        [str(home / "bin" / "calico"), "plugins", "list", "-o", "json"], capture_output=True, text=True, check=True
    ).stdout
    assert {word for word in PLUGINS if f'"{word}"' in json.dumps(json.loads(said))} == PLUGINS


def test_directory_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    ran = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "wheelhouse.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert "is not empty" in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
