"""What a short command costs: ``python -m bench cli``: ``calicoctl version`` and ``calicoctl get`` on each datastore.

The limit in the same run: a bare ``python -c pass``. Commands take turns, so a loaded machine weighs on all alike; CPU
time (user and system, with all threads of the process) and its ratio to the bare interpreter are what to compare.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import _common as common
from calico_kernel.errors import CalicoError

TIERS = "".join(
    f"apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {{name: tier-{n}}}\nspec: {{order: {n}}}\n---\n"
    for n in range(10)
)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench cli", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--datastores", default="sqlite,etcd,kubernetes", help="comma-separated; one that cannot be started is left out"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    common.enter_bubble("cli", argv)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is measured is an installed tool, with its bytecode
    with tempfile.TemporaryDirectory(prefix="calico-bench-") as directory, contextlib.ExitStack() as stack:
        root = Path(directory)
        tool = _tool()
        commands = {"python": [sys.executable, "-c", "pass"], "version": [tool, "version", "--client"]}
        for name in options.datastores.split(","):
            try:
                config = stack.enter_context(_SERVERS[name](root))
            except CalicoError as exc:
                print(f"{name} is left out: {exc.what}", file=sys.stderr)
                continue
            _filled(tool, config, root)
            commands[f"get_{name}"] = [tool, "-c", str(config), "get", "tiers"]
        os.environ["XDG_CACHE_HOME"] = directory  # not before: what kube-apiserver is built into lies there too
        spent = _measured(commands, options.rounds)
    result: dict[str, object] = {"rounds": options.rounds}
    bare = statistics.median(cpu for cpu, _ in spent["python"])
    for name, found in spent.items():
        cpu = statistics.median(cpu for cpu, _ in found)
        result[f"{name}_cpu_ms"] = round(cpu, 1)
        result[f"{name}_wall_ms"] = round(statistics.median(wall for _, wall in found), 1)
        result[f"{name}_ratio"] = round(cpu / bare, 2)
    common.report(result, as_json=options.json)
    return 0


def _measured(commands: dict[str, list[str]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """(CPU, elapsed) in ms of each run; the first of each, which writes bytecode, does not count."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            found = _run(command)
            if turn:
                spent[name].append(found)
    return spent


def _run(command: list[str], text: Path | None = None) -> tuple[float, float]:
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)
    ]
    if text is not None:
        actions.append((os.POSIX_SPAWN_OPEN, 0, str(text), os.O_RDONLY, 0))
    started = time.perf_counter()
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
    _, status, used = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed with {os.waitstatus_to_exitcode(status)}")
    return (used.ru_utime + used.ru_stime) * 1e3, (time.perf_counter() - started) * 1e3


def _tool() -> str:
    return str(Path(sys.executable).with_name("calicoctl"))


def _filled(tool: str, config: Path, root: Path) -> None:
    (root / "tiers.yaml").write_text(TIERS)
    _run([tool, "-c", str(config), "apply", "-f", "-"], root / "tiers.yaml")


# ── servers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def _sqlite(root: Path) -> Iterator[Path]:
    yield _config(root, "sqlite", f"path: {root}/calico.db")


@contextlib.contextmanager
def _etcd(root: Path) -> Iterator[Path]:
    from calico_datastore_etcd.testing import EtcdServer

    server = EtcdServer(root / "etcd")
    server.directory.mkdir()
    server.start()
    try:
        yield _config(root, "etcd", f"endpoints: {server.url}")
    finally:
        server.kill()


@contextlib.contextmanager
def _kubernetes(root: Path) -> Iterator[Path]:
    from calico_datastore_kdd.testing import KubernetesServer
    from calico_kernel.model.crds import custom_kinds, definition

    server = KubernetesServer(root / "kubernetes")
    server.directory.mkdir()
    server.start()
    try:
        server.define(map(definition, custom_kinds()))
        yield _config(root, "kdd", f"kubeconfig: {server.kubeconfig}")
    finally:
        server.kill()


def _config(root: Path, word: str, setting: str) -> Path:
    path = root / f"{word}.yaml"
    path.write_text(f"node: n1\ndatastore: {{plugin: {word}, {setting}}}\nipam: blocks\n")
    return path


_SERVERS = {"sqlite": _sqlite, "etcd": _etcd, "kubernetes": _kubernetes}
