"""The kernel installs and imports without any plugin and without any plugin's dependency."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

IMPORT_ALL = """
import importlib, pkgutil, sys
import calico_kernel
names = [m.name for m in pkgutil.walk_packages(calico_kernel.__path__, "calico_kernel.")
         if not m.name.startswith("calico_kernel.testing") and not m.name.endswith("__main__")]
assert len(names) > 60, names
for name in names:
    importlib.import_module(name)
foreign = {"pyroute2", "bcc", "kubernetes", "etcd3", "grpc", "pytest", "hypothesis"} & set(sys.modules)
assert not foreign, foreign
assert not [name for name in sys.modules if name.startswith("calico_") and not name.startswith("calico_kernel")]
for name in ("pyroute2", "kubernetes", "etcd3", "pytest"):
    assert importlib.util.find_spec(name) is None, name
print("imported", len(names))
"""


def test_the_kernel_alone_imports_no_plugin_and_no_plugin_dependency(
    wheels: Path, make_environment: Callable[..., Callable[..., object]]
) -> None:
    kernel = list(wheels.glob("calico_kernel-*.whl"))
    assert len(kernel) == 1
    result = make_environment(kernel)("-c", IMPORT_ALL)
    assert result.returncode == 0, result.stderr  # type: ignore[attr-defined]
