"""The programs that read and write the kernel's tables and sets, and how they are run.

Owns: processes. A program that does not answer in time is ended and its work counts as not known.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import ClassVar

import attrs

from calico_kernel.errors import DataplaneError

PIPE_BYTES = 32768
"""What a pipe takes at once without a reader, with room to spare."""


class ProgramFailed(DataplaneError):
    """A program refused or did not end. ``unknown``: whether it changed anything is not known. ``line``: of its input,
    1 for the first, 0 when it named none."""

    def __init__(self, *, program: str, reason: str, unknown: bool = False, line: int = 0) -> None:
        super().__init__(
            what=f"{os.path.basename(program)} failed: {reason}",
            kept="the desired state; what is in the kernel is read again",
            todo="nothing if it passes: it is retried; else look at the host's iptables, ipset and kernel modules",
        )
        self.reason, self.unknown, self.line = reason, unknown, line


@attrs.frozen
class Run:
    """A process under way, with what it has not been given of its input yet."""

    program: str
    process: subprocess.Popen[bytes]
    payload: bytes
    timeout_s: float

    def finish(self) -> str:
        """Its output. Raises ProgramFailed."""
        try:
            out, err = self.process.communicate(self.payload or None, timeout=self.timeout_s)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.communicate()
            raise ProgramFailed(
                program=self.program, reason=f"no answer within {self.timeout_s:g} s", unknown=True
            ) from None
        if self.process.returncode != 0:
            said = err.decode(errors="replace").strip() or f"exit status {self.process.returncode}"
            raise ProgramFailed(program=self.program, reason=said[:2000], line=_line_number(said))
        return out.decode(errors="replace")


def _line_number(said: str) -> int:
    for part in ("line ", "line: "):
        _, found, rest = said.rpartition(part)
        if found:
            digits = rest.split(" ", 1)[0].rstrip(":.")
            if digits.isdigit():
                return int(digits)
    return 0


@attrs.define
class Programs:
    """Where the programs are (``paths`` replaces names by paths), and how long they may take."""

    timeout_s: float = 30.0
    paths: Mapping[str, str] = attrs.field(factory=dict)
    _found: dict[tuple[str, ...], str] = attrs.field(factory=dict, init=False)
    _search: ClassVar[str] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

    def find(self, *names: str) -> str:
        """Path of the first that exists, or ""; one that was found stays, one that was not may be installed later."""
        found = self._found.get(names, "")
        if not found:
            found = self._found[names] = self._look(names)
        return found

    def _look(self, names: tuple[str, ...]) -> str:
        search = os.pathsep.join(filter(None, (os.environ.get("PATH"), self._search)))
        for name in names:
            path = shutil.which(self.paths.get(name, name), path=search)
            if path:
                return path
        return ""

    def start(self, argv: Sequence[str], payload: str = "") -> Run:
        """Raises ProgramFailed when the program cannot be started."""
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_environment()
            )
        except OSError as exc:
            raise ProgramFailed(program=argv[0], reason=exc.strerror or str(exc)) from exc
        given = payload.encode()
        if len(given) <= PIPE_BYTES and process.stdin is not None:
            # Fits in the pipe, so it can start while we prepare the next one.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(given)
                process.stdin.close()
            process.stdin = None
            given = b""
        return Run(argv[0], process, given, self.timeout_s)

    def run(self, argv: Sequence[str], payload: str = "") -> str:
        """Output of a program. Raises ProgramFailed."""
        return self.start(argv, payload).finish()


def _environment() -> dict[str, str]:
    """Messages in English, and nothing else of ours."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "XTABLES_LIBDIR", "XTABLES_LOCKFILE")}
    return {**kept, "LC_ALL": "C"}
