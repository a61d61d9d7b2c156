"""What stevedore found last time, so that a short command need not search again.

In:    the import path of this process.
Out:   family and word -> the plugin's module, to ``calico_kernel.plugins``; it asks stevedore for what is not here.
Owns:  one small file in the user's cache directory for each Python environment and import path.

Installing, upgrading or removing a distribution changes the time of the directory it stands in, and with that all that
was remembered is forgotten. A word that two distributions claim is never remembered: stevedore then tells.
"""

from __future__ import annotations

import os
import sys
from binascii import crc32
from collections.abc import Iterable, Mapping

import msgspec

KEPT = 16
"""Files of so many environments."""


class Remembered(msgspec.Struct, frozen=True):
    """``path``: each entry of the import path and its time in ns, -1 for one that does not exist. ``targets``: modules
    by ``family:word``."""

    path: list[tuple[str, int]]
    targets: dict[str, str]


def recall() -> Mapping[str, str]:
    """Modules by ``family:word``; nothing where the environment changed, or the file is not this user's."""
    file = _file()
    if not file:
        return {}
    try:
        with open(file, "rb") as opened:
            if os.fstat(opened.fileno()).st_uid != os.geteuid():
                return {}
            found = msgspec.json.decode(opened.read(), type=Remembered)
    except (OSError, msgspec.MsgspecError):
        return {}
    return found.targets if found.path == _path() else {}


def remember(families: Iterable[str]) -> None:
    """Search all of ``families`` and keep what was found. Where that cannot be written, nothing is remembered."""
    from importlib.metadata import entry_points

    file = _file()
    if not file:
        return
    path, installed = _path(), entry_points()
    targets: dict[str, str] = {}
    doubled = set()
    for family in families:
        for entry in installed.select(group=f"calico.{family}"):
            name = f"{family}:{entry.name}"
            if targets.setdefault(name, entry.value) != entry.value or entry.attr:
                doubled.add(name)
    kept = Remembered(path, {name: value for name, value in targets.items() if name not in doubled})
    fresh = f"{file}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(file), mode=0o700, exist_ok=True)
        with open(fresh, "wb") as opened:
            opened.write(msgspec.json.encode(kept))
        os.replace(fresh, file)
        _tidy(os.path.dirname(file))
    except OSError:
        return


def _tidy(directory: str) -> None:
    """Environments come and go; what the oldest left goes. Raises OSError when another process does the same."""
    found = [entry for entry in os.scandir(directory) if entry.name.startswith("plugins-")]
    for entry in sorted(found, key=lambda entry: entry.stat().st_mtime, reverse=True)[KEPT:]:
        os.unlink(entry.path)


def _file() -> str:
    """ "" where there is no place of this user's own: another user's home (as after ``sudo -E``) is left alone."""
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("HOME", "")
    try:
        if not os.path.isabs(home) or os.stat(home).st_uid != os.geteuid():
            return ""
    except OSError:
        return ""
    cache = home if os.environ.get("XDG_CACHE_HOME") else os.path.join(home, ".cache")
    environment = crc32("\0".join([sys.executable, sys.prefix, *sys.path]).encode())
    return os.path.join(cache, "calico-kernel", f"plugins-{environment:08x}.json")


def _path() -> list[tuple[str, int]]:
    return [(entry, _time(entry)) for entry in sys.path]


def _time(entry: str) -> int:
    try:
        return os.stat(entry or ".").st_mtime_ns
    except OSError:
        return -1
