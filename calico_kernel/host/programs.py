"""Where this machine has a program.

In:    a program's name, and what the environment says.
Out:   its path, to the lab, to diagnostics and to the kits that start real servers.
Owns:  nothing.

Kubernetes' server programs are in no distribution's archive. They are looked for where ``KUBEBUILDER_ASSETS`` says, a
convention of Kubernetes' own test tools; else where ``tools/kubernetes/build.sh`` puts what it builds; else in the
PATH.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

USUAL = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def which(program: str) -> str | None:
    """As shutil.which, then also where an ordinary user's PATH does not look."""
    return shutil.which(program, path=os.pathsep.join(filter(None, (os.environ.get("PATH"), USUAL))))


def kubernetes_program(name: str) -> str | None:
    """Path of a program of Kubernetes, None when there is none. Of several built versions, the one built last."""
    assets = kubernetes_assets()
    if assets:
        return shutil.which(name, path=assets)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "calico-kernel"
    built = [path for path in cache.glob(f"kubernetes-v*/{name}") if path.parent.suffix != ".new"]
    return str(max(built, key=lambda path: path.lstat().st_mtime)) if built else which(name)


def kubernetes_assets() -> str:
    """The directory that the environment names, empty when it names none. Then no other place counts."""
    return os.environ.get("KUBEBUILDER_ASSETS", "")
