"""An archive of what helps to find a fault: files, outputs of programs, and a list of what could not be had.

In:    text, files, commands.
Out:   one ``.tar.gz``, readable by its owner alone; what was left out and why, in ``LEFT_OUT.txt`` in it.
Owns:  a directory of its own for temporary files, gone at the end; no program outlives its time.

Nothing that fails ends the collection. Secrets are masked in all text (``calico_kernel.cli.masking``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from calico_kernel.cli.masking import masked
from calico_kernel.host.programs import which

PROGRAM_S = 30.0
MOST_BYTES = 64 << 20
"""Of one file; of a longer one the end is kept, which is what happened last."""
MOST_TREE_BYTES = 512 << 20


class Bundle:
    """``name``: of the archive and of the directory in it. ``keep``: do not remove the temporary directory."""

    def __init__(self, name: str, *, keep: bool = False) -> None:
        self.name = name
        self.left_out: list[tuple[str, str]] = []
        self._keep = keep
        self.directory = Path(tempfile.mkdtemp(prefix="calico-diags-"))
        self._root = self.directory / name
        self._root.mkdir()
        self._tree_bytes = 0

    def text(self, path: str, content: str) -> None:
        """Write a file of the archive, without secrets."""
        place = self._root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(masked(content), encoding="utf-8", errors="replace")

    def leave_out(self, what: str, why: str) -> None:
        self.left_out.append((what, why))

    def command(self, path: str, argv: Sequence[str], *, timeout_s: float = PROGRAM_S) -> str | None:
        """Its output, which ``path`` of the archive gets too; None, and noted, where it cannot be had. An output that
        ends in failure is kept with what the program said."""
        done = self.output(argv, timeout_s=timeout_s)
        if done is None:
            return None
        status, said, error = done
        shown = " ".join(argv)
        self.text(path, said + (f"\n# {shown}: exit status {status}: {error}\n" if status else ""))
        if status:
            self.leave_out(shown, _last_line(error) or f"exit status {status}")
        return None if status else said

    def output(self, argv: Sequence[str], *, timeout_s: float = PROGRAM_S) -> tuple[int, str, str] | None:
        """(exit status, output, errors); None, and noted, where there is no such program or it does not end."""
        program = which(argv[0])
        if program is None:
            self.leave_out(" ".join(argv), f"{argv[0]} is not installed")
            return None
        with tempfile.TemporaryFile(dir=self.directory) as out, tempfile.TemporaryFile(dir=self.directory) as err:
            try:
                done = subprocess.run(
                    [program, *argv[1:]],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    timeout=timeout_s,
                    check=False,
                    env={**os.environ, "LC_ALL": "C"},
                )
                return done.returncode, _end_of(out.fileno()), _end_of(err.fileno()).strip()
            except subprocess.TimeoutExpired:
                why = f"no end within {timeout_s:g} s"
            except OSError as exc:
                why = exc.strerror or str(exc)
        self.leave_out(" ".join(argv), why)
        return None

    def file(self, path: str, source: Path, *, missing_is_fine: bool = False) -> None:
        try:
            with source.open("rb") as opened:
                self.text(path, _end_of(opened.fileno()))
        except FileNotFoundError:
            if not missing_is_fine:
                self.leave_out(str(source), "there is no such file")
        except OSError as exc:
            self.leave_out(str(source), exc.strerror or str(exc))

    def tree(self, path: str, source: Path, *, newer_than: float = 0.0) -> None:
        """Every file below ``source`` that changed since (Unix time), compressed ones byte for byte."""
        if not source.is_dir():
            self.leave_out(str(source), "there is no such directory")
            return
        for file in _files(source, lambda exc: self.leave_out(str(exc.filename), exc.strerror or str(exc))):
            try:
                status = file.stat()
                if status.st_mtime < newer_than:
                    continue
                if self._tree_bytes + min(status.st_size, MOST_BYTES) > MOST_TREE_BYTES:
                    self.leave_out(str(file), f"the archive has {MOST_TREE_BYTES >> 20} MiB of such files already")
                    continue
                self._tree_bytes += min(status.st_size, MOST_BYTES)
                place = f"{path}/{file.relative_to(source)}"
                if file.suffix in {".gz", ".xz", ".zst", ".bz2"}:
                    (self._root / place).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, self._root / place)
                else:
                    self.file(place, file)
            except OSError as exc:
                self.leave_out(str(file), exc.strerror or str(exc))

    def finish(self, directory: Path) -> Path:
        """Write the archive into ``directory``; returns its path. Raises OSError."""
        lines = [f"{what}: {why}\n" for what, why in self.left_out]
        self.text("LEFT_OUT.txt", "".join(lines) or "nothing\n")
        archive = directory / f"{self.name}.tar.gz"
        descriptor = os.open(archive, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as opened, tarfile.open(fileobj=opened, mode="w:gz") as tar:
            tar.add(self._root, arcname=self.name)
        return archive

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if not self._keep:
            shutil.rmtree(self.directory, ignore_errors=True)


def stamped(prefix: str) -> str:
    """``diags-20261121_130000``, in UTC."""
    return f"{prefix}-{time.strftime('%Y%m%d_%H%M%S', time.gmtime())}"


def _end_of(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    start = max(0, size - MOST_BYTES)
    os.lseek(descriptor, start, os.SEEK_SET)
    parts = []
    while part := os.read(descriptor, 1 << 20):
        parts.append(part)
    text = b"".join(parts).decode(errors="replace")
    return f"(the first {start} bytes are left out)\n{text}" if start else text


def _files(source: Path, failed: Callable[[OSError], None]) -> Iterator[Path]:
    for directory, below, names in os.walk(source, onerror=failed):
        below.sort()
        for name in sorted(names):
            file = Path(directory, name)
            if file.is_file() and not file.is_symlink():
                yield file


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")
