from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from calico_kernel.model.felix_parameters import PARAMETERS
from calico_kernel.model.kinds import public_kinds

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "resources.md").read_text()


def test_resource_reference_is_current() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.resource_reference", "--check"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr or "run python -m tools.resource_reference"


def test_every_kind_and_every_parameter_of_felix_is_in_the_reference() -> None:
    kinds = [info.kind for info in public_kinds()]
    assert len(kinds) >= 22 and all(f"\n## {kind}\n" in TEXT for kind in kinds)
    assert all(f"`FELIX_{parameter.name}`" in TEXT for parameter in PARAMETERS.values())
