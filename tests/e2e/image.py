"""The one container image of the test cluster, made by hand, since no registry is needed: busybox and nothing else.

It is the sandbox's image as well: pods here need no reaper, so the pause program is busybox's sleep.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

NAME = "calico.test/busybox:1"
APPLETS = ("sh", "sleep", "httpd", "nc", "wget", "cat", "ip")
PAUSE = ["/bin/sleep", "2147483647"]


def archive(path: Path) -> None:
    """Write it as ``docker save`` would. Needs a static busybox (Debian: busybox-static)."""
    busybox = shutil.which("busybox")
    assert busybox is not None, "busybox-static is not installed"
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name in ("bin", "etc", "www", "proc", "sys", "dev", "tmp"):
            tar.addfile(_entry(name, tarfile.DIRTYPE, 0o755))
        _file(tar, "bin/busybox", Path(busybox).read_bytes(), 0o755)
        _file(tar, "etc/passwd", b"root:x:0:0::/:/bin/sh\n", 0o644)
        _file(tar, "www/index.html", b"served\n", 0o644)
        for applet in APPLETS:
            link = _entry(f"bin/{applet}", tarfile.SYMTYPE, 0o777)
            link.linkname = "busybox"
            tar.addfile(link)
    content = layer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": PAUSE, "Env": ["PATH=/bin"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created_by": "calico tests"}],
    }
    manifest = [{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        _file(tar, "layer.tar", content, 0o644)
        _file(tar, "config.json", json.dumps(config).encode(), 0o644)
        _file(tar, "manifest.json", json.dumps(manifest).encode(), 0o644)


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode
    return entry


def _file(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = _entry(name, tarfile.REGTYPE, mode)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
