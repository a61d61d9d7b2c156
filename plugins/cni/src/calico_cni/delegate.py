"""Run an IPAM program of another project (host-local, dhcp...) as the CNI specification says.

In:    a type, the runtime's variables and the network configuration.
Out:   its result, or CniError. The program gets CNI_* and a plain PATH, nothing else of the agent's environment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from calico_cni import errors
from calico_cni.errors import CniError
from calico_cni.netconf import VERSIONS

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MAX_OUTPUT = 1 << 20


@attrs.define
class Delegates:
    """Programs by type. ``fallback_path`` serves when the runtime gave no CNI_PATH."""

    fallback_path: Sequence[str]
    timeout_s: float
    _spoken: dict[tuple[str, int, int], tuple[str, ...]] = attrs.field(factory=dict, init=False)

    def run(
        self, kind: str, command: str, environment: Mapping[str, str], path: Sequence[str], conf: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """The program's result; {} where the command has none. Raises CniError: its own, or why there is none."""
        program = self._find(kind, path)
        variables = {key: value for key, value in environment.items() if key.startswith("CNI_")}
        variables |= {"CNI_COMMAND": command, "CNI_PATH": ":".join(path or self.fallback_path), "PATH": _SYSTEM_PATH}
        spoken = self._versions(program)
        wanted = str(conf.get("cniVersion") or "0.2.0")
        if wanted not in spoken:
            # An older program still serves a newer configuration: its result is converted like any other.
            older = [version for version in VERSIONS[: VERSIONS.index(wanted)] if version in spoken]
            if not older:
                raise CniError(errors.INCOMPATIBLE_VERSION, f"{program} does not know cniVersion {wanted}")
            conf = {**conf, "cniVersion": older[-1]}
        return self._execute(program, variables, json.dumps(conf))

    def speaks(self, kind: str, path: Sequence[str], version: str) -> bool:
        return version in self._versions(self._find(kind, path))

    def _find(self, kind: str, path: Sequence[str]) -> str:
        for directory in path or self.fallback_path:
            program = os.path.join(directory, kind)
            if os.access(program, os.X_OK) and os.path.isfile(program):
                return program
        raise CniError(
            errors.DELEGATE,
            f"IPAM program {kind!r} was not found",
            f"looked in {', '.join(path or self.fallback_path)}",
        )

    def _versions(self, program: str) -> tuple[str, ...]:
        stat = os.stat(program)
        key = (program, stat.st_mtime_ns, stat.st_ino)
        if key not in self._spoken:
            said = self._execute(program, {"CNI_COMMAND": "VERSION", "PATH": _SYSTEM_PATH}, '{"cniVersion":"1.0.0"}')
            versions = said.get("supportedVersions")
            self._spoken[key] = tuple(str(v) for v in versions) if isinstance(versions, list) else ()
        return self._spoken[key]

    def _execute(self, program: str, variables: Mapping[str, str], stdin: str) -> Mapping[str, Any]:
        try:
            done = self._finished(program, variables, stdin)
        except OSError as exc:
            raise CniError(errors.DELEGATE, f"{program} cannot be run", str(exc)) from exc
        said = _object(done.stdout)
        if done.returncode == 0:
            return said
        code, msg = said.get("code"), said.get("msg")
        if isinstance(code, int) and isinstance(msg, str):
            raise CniError(code, f"{os.path.basename(program)}: {msg}", str(said.get("details") or ""))
        raise CniError(
            errors.DELEGATE,
            f"{program} failed with status {done.returncode}",
            done.stderr[-500:].decode(errors="replace").strip(),
        )

    def _finished(self, program: str, variables: Mapping[str, str], stdin: str) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end, or to the end of its time together with all that it started."""
        pipe = subprocess.PIPE
        with subprocess.Popen(
            [program], env=dict(variables), stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        ) as process:
            try:
                out, err = process.communicate(stdin.encode(), timeout=self.timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                said = f"try again later: {program} ran longer than {self.timeout_s:g} s"
                raise CniError(errors.TRY_AGAIN, said) from None
        return subprocess.CompletedProcess([program], process.returncode, out, err)


def _object(output: bytes) -> Mapping[str, Any]:
    if len(output) > _MAX_OUTPUT:
        return {}
    try:
        found = json.loads(output)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
