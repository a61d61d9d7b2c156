"""Names and mark bits that Calico uses in the kernel, so that its operators and tools find their way.

Pure. Sources: Calico's ``rules`` and ``ipsets`` packages (behaviour), iptables' limit of 28 characters for a chain name
and ipset's of 31 for a set.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Iterable

import attrs

from calico_kernel.model.names import hashed_id, length_limited_id
from calico_kernel.model.nodestate import PolicyId, PolicyList
from calico_kernel.reconcile.ownership import NameMark

OUR_CHAINS = NameMark(("cali-",))
OUR_SETS = NameMark(("cali40", "cali60", "cali4t", "cali6t"))
MAX_CHAIN = 28
MAX_SET = 31

_SHORT_KINDS = {
    "NetworkPolicy": "np",
    "GlobalNetworkPolicy": "gnp",
    "StagedNetworkPolicy": "snp",
    "StagedGlobalNetworkPolicy": "sgnp",
    "StagedKubernetesNetworkPolicy": "sknp",
    "KubernetesNetworkPolicy": "knp",
    "KubernetesClusterNetworkPolicy": "kcnp",
}
_SAFE = re.compile(r"[A-Za-z0-9_.:/@=-]+\Z")
_INTERFACE = re.compile(r"[A-Za-z0-9_.:@=][A-Za-z0-9_.:@=-]{0,14}\Z")


def _limited(prefix: str, suffix: str, limit: int) -> str:
    """``prefix + suffix``, or a hash in place of a suffix that is too long or holds what a name cannot."""
    return length_limited_id(prefix, suffix, limit) if _SAFE.match(suffix or "_") else hashed_id(prefix, suffix, limit)


@functools.lru_cache(maxsize=16384)
def policy_chain(policy: PolicyId, *, inbound: bool) -> str:
    short = _SHORT_KINDS.get(policy.kind, policy.kind)
    suffix = f"{short}/{policy.namespace}/{policy.name}" if policy.namespace else f"{short}/{policy.name}"
    return _limited("cali-pi-" if inbound else "cali-po-", suffix, MAX_CHAIN)


def profile_chain(profile: str, *, inbound: bool) -> str:
    return _limited("cali-pri-" if inbound else "cali-pro-", profile, MAX_CHAIN)


def _digest(parts: Iterable[object]) -> str:
    text = "\x00".join(str(part) for part in parts)
    return base64.urlsafe_b64encode(hashlib.blake2b(text.encode(), digest_size=15).digest()).decode().rstrip("=")


@functools.lru_cache(maxsize=8192)
def group_chain(policies: tuple[PolicyId, ...], *, inbound: bool) -> str:
    """Chain of a run of policies; equal runs share it."""
    return ("cali-gi-" if inbound else "cali-go-") + _digest(policies)[: MAX_CHAIN - 8]


@functools.lru_cache(maxsize=1024)
def list_digest(policies: PolicyList) -> str:
    """Stable across restarts, so that the chain of an unchanged list is found again."""
    parts: list[object] = []
    for tier in policies.tiers:
        parts += ("t", tier.name, tier.default_action, "i", *tier.ingress, "e", *tier.egress)
    return _digest([*parts, "p", *policies.profiles])


def workload_chain(digest: str, *, to_workload: bool) -> str:
    """Chain that all workloads with one policy list share."""
    prefix = "cali-tw-" if to_workload else "cali-fw-"
    return prefix + digest[: MAX_CHAIN - len(prefix)]


def host_chain(prefix: str, interface: str) -> str:
    """``prefix``: cali-th-, cali-fh-, cali-thfw- or cali-fhfw-."""
    return _limited(prefix, "any" if interface == "*" else interface, MAX_CHAIN)


def set_name(set_id: str, version: int) -> str:
    """IDs end in a secure hash, so cutting keeps them apart."""
    prefix = f"cali{version}0"
    name = (prefix + set_id)[:MAX_SET]
    return name if _SAFE.match(name) else _limited(prefix, set_id, MAX_SET)


def temporary_set_name(number: int, version: int) -> str:
    return f"cali{version}t{number}"


def is_usable_interface(name: str) -> bool:
    """Can the name stand in a rule for exactly one interface? A ``+`` at its end would match many."""
    return bool(_INTERFACE.match(name))


@attrs.frozen
class Marks:
    """Bits of the packet mark, from ``iptablesMarkMask``, lowest first in Calico's order.

    accept:   a policy or profile accepted; tells chains and tables of each other's decision.
    passed:   a policy said "next tier".
    scratch0: every block of the rule at hand matches so far; in raw: the packet came from a workload.
    scratch1: this block of the rule at hand matches.
    """

    accept: int
    passed: int
    scratch0: int
    scratch1: int

    @classmethod
    def from_mask(cls, mask: int) -> Marks:
        """Raises ValueError when the mask has fewer than five bits (the third is Calico's drop bit)."""
        bits = [1 << position for position in range(32) if mask >> position & 1]
        if len(bits) < 5:
            raise ValueError(f"iptablesMarkMask {mask:#x} has {len(bits)} bits; at least 5 are needed")
        return cls(accept=bits[0], passed=bits[1], scratch0=bits[3], scratch1=bits[4])

    @property
    def verdict(self) -> int:
        return self.accept | self.passed

    @property
    def all(self) -> int:
        return self.accept | self.passed | self.scratch0 | self.scratch1
