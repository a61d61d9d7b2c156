"""A short command imports no heavy library: what is not imported costs nothing, on any machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = (
    "pyroute2",
    "kubernetes",
    "asyncio",
    "concurrent.futures",
    "ssl",
    "http",
    "pyroaring",
    "hypothesis",
    "pkg_resources",
    "difflib",
    "calico_kernel.agent",
    "calico_kernel.calc",
    "calico_kernel.lab",
    "calico_kernel.policy",
    "calico_kernel.selector",
    "calico_kernel.cli.write",
)
"""Modules that reading a resource has no use for."""


def _imported(config: Path, *argv: str) -> set[str]:
    program = (
        "import sys; from calico_kernel.cli.calicoctl import main; status = main(sys.argv[1:]);"
        "print('\\n'.join(sys.modules), file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "-c", str(config), *argv], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_get_imports_nothing_heavy(config: Path) -> None:
    modules = _imported(config, "get", "networkpolicies", "-A")
    assert "calico_kernel.cli.get" in modules
    assert [name for name in HEAVY if any(m == name or m.startswith(f"{name}.") for m in modules)] == []


def test_help_of_the_version_opens_nothing(config: Path) -> None:
    modules = _imported(config, "version", "--client")
    assert "calico_kernel.compose" not in modules and "stevedore" not in modules and "yaml" not in modules
