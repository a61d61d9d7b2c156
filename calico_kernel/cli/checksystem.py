"""``calicoctl node checksystem``: what this machine has of what the configured plugins use, and what is lost without.

In:    ``host_needs`` of the plugins, ``/sys``, ``/proc``, ``/lib/modules``, the kernel's configuration, the programs.
Out:   tables, or JSON. Status 1 when a plugin that the configuration names cannot serve. Nothing is changed or loaded.

A feature counts as there when it is loaded or built in, when its module lies on disk, when netfilter lists it, or when
the kernel's configuration has it. Where none of these can be read it is unknown, which is no failure.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from calico_kernel.errors import CalicoError
from calico_kernel.host.programs import which

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session
    from calico_kernel.hookspecs import HostNeed

OLDEST_KERNEL = "4.18"
"""The oldest that any distribution still maintains with all that the plugins use (RHEL 8)."""
THERE, MISSING, UNKNOWN = "OK", "MISSING", "UNKNOWN"
SYSCTLS = (
    "net.ipv4.ip_forward",
    "net.ipv6.conf.all.forwarding",
    "net.ipv4.conf.all.rp_filter",
    "net.netfilter.nf_conntrack_count",
    "net.netfilter.nf_conntrack_max",
    "net.core.bpf_jit_enable",
    "fs.inotify.max_user_instances",
)
_FEATURE_FILES = ("ip_tables_matches", "ip_tables_targets", "ip6_tables_matches", "ip6_tables_targets")


class Finding(NamedTuple):
    """``plugins``: who needs it. ``found``: version, path or value; what stands for it."""

    kind: str
    name: str
    state: str
    found: str
    plugins: Sequence[str]
    required: bool
    effect: str

    @property
    def fails(self) -> bool:
        return self.required and self.state == MISSING


class Host:
    """What can be read of the machine. ``root``: of the file system, for tests. ``config_file``: of the kernel."""

    def __init__(self, root: str = "/", config_file: str = "") -> None:
        self.root = Path(root)
        self.release = platform.release()
        self._given = config_file

    @cached_property
    def modules(self) -> frozenset[str]:
        """Loaded, built in, or on disk; with underscores."""
        directory = self.root / "lib/modules" / self.release
        found = {path.name for path in _entries(self.root / "sys/module")}
        for name in ("modules.dep", "modules.builtin"):
            for line in _text(directory / name).splitlines():
                found.add(re.sub(r"\.ko(\.\w+)?$", "", line.partition(":")[0].rpartition("/")[2]))
        return frozenset(name.replace("-", "_") for name in found)

    @cached_property
    def knows_modules(self) -> bool:
        return bool(_text(self.root / "lib/modules" / self.release / "modules.dep"))

    @cached_property
    def features(self) -> frozenset[str]:
        """Matches and targets that netfilter has loaded, e.g. ``set``; their modules may be built in."""
        lines = (line for name in _FEATURE_FILES for line in _text(self.root / "proc/net" / name).splitlines())
        return frozenset(line.strip() for line in lines)

    @cached_property
    def config_path(self) -> str:
        if self._given:
            return self._given
        places = (
            "proc/config.gz",
            f"boot/config-{self.release}",
            f"lib/modules/{self.release}/config",
            f"lib/modules/{self.release}/build/.config",
            f"usr/src/linux-headers-{self.release}/.config",
            f"usr/src/linux-{self.release}/.config",
            "usr/src/linux/.config",
        )
        return next((str(self.root / place) for place in places if (self.root / place).is_file()), "")

    @cached_property
    def options(self) -> frozenset[str]:
        """Options of the kernel's configuration that are ``y`` or ``m``. Raises FileError for a file that was named."""
        from calico_kernel.cli.files import FileError

        if not self.config_path:
            return frozenset()
        try:
            with open(self.config_path, "rb") as file:
                raw = file.read()
            if raw[:2] == b"\x1f\x8b":
                import gzip

                raw = gzip.decompress(raw)
        except (OSError, EOFError) as exc:
            if self._given:
                raise FileError(f"open {self._given}: {getattr(exc, 'strerror', None) or exc}") from exc
            return frozenset()
        return frozenset(re.findall(r"^(CONFIG_\w+)=[ym]$", raw.decode(errors="replace"), re.MULTILINE))

    def sysctl(self, name: str) -> str:
        return _text(self.root / "proc/sys" / name.replace(".", "/")).strip()

    def program(self, *names: str) -> str:
        return next((path for path in map(which, names) if path), "")


def run(args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli.output import json_text

    host, findings = checked(session, args.kernel_config)
    failed = [finding for finding in findings if finding.fails]
    if args.output == "json":
        print(json_text(as_report(host, findings)))
        return 1 if failed else 0
    _print(host, findings, list(around(host)))
    if failed:
        print("System doesn't meet one or more minimum systems requirements to run Calico:")
        for finding in failed:
            print(f"  {', '.join(finding.plugins) or 'calico'}: no {finding.kind} {finding.name}: {finding.effect}")
        return 1
    print("System meets minimum system requirements to run Calico!")
    return 0


def checked(session: Session, kernel_config: str = "") -> tuple[Host, list[Finding]]:
    """This machine, and what was found. Raises FileError for a configuration of the kernel that cannot be read."""
    host = Host(config_file=kernel_config)
    composition = session.plugins_or_none()
    findings = [*kernel(host), *look(host, _needs(composition))]
    return host, findings + (list(_opened(composition)) if composition is not None else [])


def as_report(host: Host, findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "ok": not any(finding.fails for finding in findings),
        "kernel": host.release,
        "checks": [finding._asdict() for finding in findings],
        "facts": dict(around(host)),
    }


def _needs(composition: Any) -> Iterable[tuple[str, HostNeed]]:
    """Of the plugins that the configuration names; of all that are installed where it names none for a node."""
    loaded = composition.plugins.loaded if composition is not None else ()
    if any(not set(plugin.choices) <= {"datastore", "ipam"} for plugin in loaded):
        for plugin in loaded:
            yield from ((plugin.name, need) for need in plugin.info.host_needs)
        return
    from importlib import import_module

    from calico_kernel.cli.plugins import installed
    from calico_kernel.plugins import describe

    for family, word, module in installed():
        name = f"{family}:{word}"
        try:
            info = describe(name, import_module(module), module, where="installed")
        except Exception:  # noqa: BLE001  one that does not load cannot say; `calico plugins list` tells
            continue
        yield from ((name, need) for need in info.host_needs)


# ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def kernel(host: Host) -> Iterable[Finding]:
    state = THERE if _version(host.release) >= _version(OLDEST_KERNEL) else MISSING
    yield Finding("kernel", f"Linux {OLDEST_KERNEL} or newer", state, host.release, (), True, "nothing is tested there")


def look(host: Host, needs: Iterable[tuple[str, HostNeed]]) -> list[Finding]:
    """One finding for each thing, with all plugins that use it."""
    found: dict[tuple[str, str], Finding] = {}
    for plugin, need in needs:
        state, said = _LOOKS[need.kind](host, need)
        there = found.get((need.kind, need.name))
        plugins = [*there.plugins, plugin] if there is not None else [plugin]
        required = need.required or (there is not None and there.required)
        effect = there.effect if there is not None else need.effect
        found[need.kind, need.name] = Finding(need.kind, need.name, state, said, plugins, required, effect)
    return list(found.values())


def _look_module(host: Host, need: HostNeed) -> tuple[str, str]:
    for name in (need.name, *need.others):
        if name.replace("-", "_") in host.modules:
            return THERE, name
        prefix, _, short = name.partition("_")
        if prefix in {"xt", "ipt"} and short in host.features:
            return THERE, f"{name} (in use)"
    option = next((option for option in need.options if option in host.options), "")
    if option:
        return THERE, option
    known = host.knows_modules or (host.options and need.options)
    return (MISSING, "") if known else (UNKNOWN, "neither the modules nor the configuration of the kernel can be read")


def _look_program(host: Host, need: HostNeed) -> tuple[str, str]:
    path = host.program(need.name, *need.others)
    return (THERE, path) if path else (MISSING, "")


def _look_sysctl(host: Host, need: HostNeed) -> tuple[str, str]:
    name, _, wanted = need.name.partition("=")
    value = host.sysctl(name)
    return (THERE if value == wanted else MISSING if value else UNKNOWN), value


def _look_kernel(host: Host, need: HostNeed) -> tuple[str, str]:
    return (THERE if _version(host.release) >= _version(need.name) else MISSING), host.release


_LOOKS = {"module": _look_module, "program": _look_program, "sysctl": _look_sysctl, "kernel": _look_kernel}


def _opened(composition: Any) -> Iterable[Finding]:
    """Whether each driver can be made here: its factory reads the host and changes nothing."""
    for family, make in (
        ("dataplane", lambda: [composition.open_dataplane()]),
        ("encapsulation", composition.open_encapsulation),
        ("routing", composition.open_routing),
    ):
        names = [choice.name for choice in composition.config.chosen(family)]
        if not names:
            continue
        try:
            for opened in make():
                if opened is not None:
                    opened.value.close()
        except CalicoError as exc:
            yield Finding("plugin", ", ".join(names), MISSING, exc.what, names, True, exc.todo)
        else:
            yield Finding("plugin", ", ".join(names), THERE, "", names, True, "")


def around(host: Host) -> Iterable[tuple[str, str]]:
    """What people ask for next; judged by nobody."""
    yield "kernel configuration", host.config_path or "not found"
    for name in SYSCTLS:
        yield name, host.sysctl(name) or "(none)"
    for name in ("iptables", "ipset", "nft", "ip"):
        path = host.program(name)
        yield name, _first_line([path, "-V" if name == "ip" else "--version"]) if path else "not installed"
    controllers = _text(host.root / "sys/fs/cgroup/cgroup.controllers").split()
    yield "cgroup", f"v2 ({', '.join(controllers)})" if controllers else "v1, or not mounted"
    mounts = [line.split() for line in _text(host.root / "proc/mounts").splitlines()]
    yield "bpffs", next((words[1] for words in mounts if len(words) > 2 and words[2] == "bpf"), "not mounted")
    yield "BTF", "yes" if (host.root / "sys/kernel/btf/vmlinux").exists() else "no"
    yield "user", "root" if os.geteuid() == 0 else f"uid {os.geteuid()}: some of this is seen by root only"


def _first_line(command: Sequence[str]) -> str:
    import subprocess

    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        return f"{command[0]} does not run: {exc}"
    said = (done.stdout or done.stderr).strip().splitlines()
    return said[0] if said else f"exit status {done.returncode}"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text.partition("-")[0])[:3])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _entries(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError:
        return []


# ── showing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _print(host: Host, findings: Sequence[Finding], facts: Sequence[tuple[str, str]]) -> None:
    from calico_kernel.cli.output import box

    print(f"Checking kernel version, modules and programs ({host.release})...")
    rows = [
        [f.kind, f.name, f.state, f.found, ", ".join(f.plugins), f.effect if f.state != THERE else ""] for f in findings
    ]
    print(box(["WHAT", "NAME", "STATE", "FOUND", "USED BY", "WITHOUT IT"], rows), end="")
    print("\nThis machine")
    print(box(["WHAT", "VALUE"], [list(fact) for fact in facts]), end="")
    print()
