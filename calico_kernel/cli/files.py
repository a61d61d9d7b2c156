"""Find and read what people wrote: a file, the files of a directory, or standard input.

In:    ``--filename`` and its companions.
Out:   plain objects, file by file, by ``calico_kernel.model.documents``; ``calico_kernel.cli.documents`` goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from calico_kernel.errors import CalicoError, ValidationError

SUFFIXES = (".yaml", ".yml", ".json")


class FileError(CalicoError):
    """A file or document cannot be used. Nothing was done with any of them."""

    def __init__(self, what: str, todo: str = "correct the file and run the command again") -> None:
        super().__init__(what=what, todo=todo)


def read(filename: str, wrong: list[str], *, recursive: bool = False) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The documents of each file. What cannot be read or is no YAML or JSON is told in ``wrong`` and left out."""
    for file in _named(filename, recursive=recursive):
        try:
            if file == "-":
                yield file, documents(sys.stdin.buffer.read(), "standard input")
            else:
                yield file, documents(_bytes(Path(file)), file)
        except FileError as exc:
            wrong.append(exc.what)


def _named(filename: str, *, recursive: bool) -> list[str]:
    path = Path(filename)
    if filename == "-" or not path.is_dir():
        return [filename]
    found = path.rglob("*") if recursive else path.iterdir()
    return [str(file) for file in sorted(found) if file.suffix in SUFFIXES and file.is_file()]


def documents(text: str | bytes, source: str) -> list[dict[str, Any]]:
    """Every object of the text; lists are taken apart."""
    from calico_kernel.model.documents import load

    try:
        return load(text, source=source)
    except ValidationError as exc:
        raise FileError(said(exc)) from exc


def said(exc: ValidationError) -> str:
    """``NetworkPolicy(web): spec.tpyes: unknown field``."""
    return f"{exc.subject}: " + "; ".join(f"{path}: {reason}" if path else reason for path, reason in exc.problems)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise FileError(f"open {path}: {(exc.strerror or str(exc)).lower()}") from exc
