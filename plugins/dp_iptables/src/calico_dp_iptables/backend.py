"""iptables' two back ends: which one this host uses, and reading and writing with it.

A node has one back end for both families. Detected as Calico does: the one in which Kubernetes' own chains are, else
the one with more rules, else legacy; the legacy tables are not looked at when their modules are not loaded, because
looking would load them.
"""

from __future__ import annotations

import os
import socket

import attrs

from calico_dp_iptables.programs import ProgramFailed, Programs, Run
from calico_dp_iptables.table import Observed, Transaction, parse_save
from calico_kernel.errors import UnsupportedError

_KUBERNETES = (":KUBE-IPTABLES-HINT", ":KUBE-KUBELET-CANARY")
_LOADED = {4: "/proc/net/ip_tables_names", 6: "/proc/net/ip6_tables_names"}


def _candidates(version: int, backend: str, verb: str) -> tuple[str, ...]:
    stem = "iptables" if version == 4 else "ip6tables"
    return (f"{stem}-{backend}-{verb}", f"{stem}-{verb}")


def legacy_tables(version: int) -> tuple[str, ...]:
    """Legacy tables that exist in this network namespace."""
    try:
        with open(_LOADED[version], encoding="ascii") as listed:
            return tuple(listed.read().split())
    except OSError:
        return ()


def kernel_has(version: int) -> bool:
    """Does the kernel speak this family at all?"""
    return version == 4 or os.path.exists("/proc/net/if_inet6")


def detect(programs: Programs, wanted: str) -> str:
    """ "legacy" or "nft". Raises UnsupportedError when there is no iptables at all."""
    if wanted in ("legacy", "nft"):
        return wanted
    if not programs.find("iptables-restore", "iptables-nft-restore", "iptables-legacy-restore"):
        raise UnsupportedError(what="iptables is not installed", todo="apt-get install iptables ipset")

    def saved(backend: str) -> str:
        text = ""
        for version in (4, 6):
            program = programs.find(f"{'iptables' if version == 4 else 'ip6tables'}-{backend}-save")
            if not program or (backend == "legacy" and not legacy_tables(version)):
                continue
            try:
                text += programs.run([program])
            except ProgramFailed:
                continue
        return text

    nft, legacy = saved("nft"), saved("legacy")
    if any(hint in nft for hint in _KUBERNETES):
        return "nft"
    if any(hint in legacy for hint in _KUBERNETES):
        return "legacy"

    def count(text: str) -> int:
        return sum(1 for line in text.splitlines() if line.startswith("-"))

    if count(nft) > count(legacy):
        return "nft"
    return "legacy" if programs.find("iptables-legacy-restore") else "nft"


def nft_limit_bytes() -> int:
    """Largest nft transaction that iptables can send: 0 for any. It asks for a larger buffer in the one way that needs
    privilege over the whole machine; in a user namespace it is left with the kernel's default."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, 32, 1 << 22)  # SO_SNDBUFFORCE, as iptables does
        except PermissionError:
            return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    return 0


@attrs.frozen
class Iptables:
    """One family with one back end. ``lock_wait_s``: how long to wait for another program's lock."""

    programs: Programs
    backend: str
    version: int
    lock_wait_s: int = 10

    def available(self) -> bool:
        return bool(self._program("restore") and self._program("save"))

    def is_exactly(self) -> bool:
        """Is this back end there under its own name? (The plain names belong to either.)"""
        return all(self.programs.find(_candidates(self.version, self.backend, verb)[0]) for verb in ("restore", "save"))

    def _program(self, verb: str) -> str:
        return self.programs.find(*_candidates(self.version, self.backend, verb))

    def start_save(self) -> Run:
        """Read every table that exists; ``parse_save`` understands the output. Raises ProgramFailed."""
        return self.programs.start([self._program("save")])

    def save(self) -> dict[str, Observed]:
        """Every table that exists. Raises ProgramFailed."""
        return parse_save(self.start_save().finish())

    def start_restore(self, transactions: list[Transaction]) -> Run:
        """Write, in order; tables are committed one by one, so a failure may leave the first ones written."""
        argv = [self._program("restore"), "--noflush"]
        if self.backend == "legacy":  # the nft back end has transactions of the kernel's own and takes no lock
            argv += ["--wait", str(self.lock_wait_s)]
        return self.programs.start(argv, "".join(transaction.text() for transaction in transactions))
