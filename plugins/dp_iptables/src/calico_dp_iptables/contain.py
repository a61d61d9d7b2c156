"""After a refused write: what can this host not do, or which rule will it not take?

In:   rules that were refused together, and a back end to try them on.   Out: missing features, or the rules at fault.
Writes one chain of its own name that nothing leads to, and takes it away again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import attrs

from calico_dp_iptables import rules as r
from calico_dp_iptables.backend import Iptables
from calico_dp_iptables.programs import ProgramFailed
from calico_dp_iptables.rules import Rule
from calico_dp_iptables.table import Transaction

_PASSING = re.compile(
    r"[Ss]et \S+ does(n't| not) exist|xtables lock|temporarily unavailable|Interrupted|Device or resource"
)
"""For want of a set just now, or of somebody else's lock: no lack of the host."""
PROBE_CHAIN = "cali-probe"

EFFECTS = {
    "table raw": "source addresses of workloads are checked in the filter table; untracked policy has no effect",
    "table mangle": "policy before DNAT has no effect; DNATed traffic of the host itself is not policed",
    "table nat": "workloads are not masqueraded and have no floating addresses",
    "match rpfilter": "source addresses of workloads are checked one by one instead",
    "match set": "rules with selectors, named ports or network sets deny",
    "match multiport": "rules with ports deny",
    "match icmp": "rules with ICMP types deny",
    "match icmp6": "rules with ICMPv6 types deny",
    "match conntrack": "replies need rules of their own",
    "match limit": "rate-limited log rules log nothing",
    "target LOG": "log rules log nothing",
    "target REJECT": "denied packets are dropped silently",
    "target MASQUERADE --random-fully": "source ports of masqueraded flows are chosen without full randomness",
}


def effect_of(feature: str) -> str:
    return EFFECTS.get(feature, "rules that need it are left out, those of policies deny")


def _accepts(family: Iptables, table: str, texts: Iterable[str]) -> bool:
    """Does the host take these rules? Raises ProgramFailed when that cannot be told."""
    return not _refusal(family, table, texts)


def _refusal(family: Iptables, table: str, texts: Iterable[str]) -> str:
    """The host's words, or "" when it takes these rules."""
    lines = (f":{PROBE_CHAIN} - -", *(f"-A {PROBE_CHAIN} {text}" for text in texts))
    clear = Transaction(table, (f":{PROBE_CHAIN} - -", f"-X {PROBE_CHAIN}"), {})
    try:
        family.start_restore([Transaction(table, lines, {})]).finish()
    except ProgramFailed as exc:
        if exc.unknown:
            raise
        return exc.reason
    family.start_restore([clear]).finish()
    return ""


def is_table_missing(refusal: ProgramFailed) -> bool:
    """Legacy tables are kernel modules of their own."""
    return "able does not exist" in refusal.reason or "do you need to insmod" in refusal.reason


def missing_features(family: Iptables, table: str, rules: Iterable[Rule]) -> set[str]:
    """Features of these rules that the host refuses, each tried alone. Empty when the host refuses even an empty chain:
    then it is not a feature that is missing. Raises ProgramFailed."""
    examples: dict[str, str] = {}
    for item in rules:
        protocol = [match for match in item.matches if isinstance(match, r.Protocol) and not match.negate]
        for match in item.matches:
            if match.feature and match.feature not in examples:
                parts = (*protocol, match) if isinstance(match, r.Ports | r.Icmp) else (match,)
                examples[match.feature] = Rule(parts, r.RETURN).text()
        target = item.target
        if target.feature and target.feature not in examples:
            parts = tuple(protocol) if isinstance(target, r.Masquerade | r.SourceNat) else ()
            examples[target.feature] = Rule(parts, target).text()
    if not _accepts(family, table, ()):
        return set()
    if _accepts(family, table, examples.values()):
        return set()
    words = {feature: _refusal(family, table, [text]) for feature, text in examples.items()}
    return {feature for feature, said in words.items() if said and not _PASSING.search(said)}


def refused_rules(family: Iptables, table: str, rules: Sequence[Rule], *, most: int = 64) -> list[Rule]:
    """The rules that the host refuses for what they say, found by halving; at most ``most`` of them. Raises
    ProgramFailed."""

    def text_of(item: Rule) -> str:
        return (attrs.evolve(item, target=r.RETURN) if item.target.chain else item).text()

    found: list[Rule] = []
    waiting = [list(dict.fromkeys(rules))]
    while waiting and len(found) < most:
        some = waiting.pop()
        if not some or _accepts(family, table, map(text_of, some)):
            continue
        if len(some) == 1:
            found += some
            continue
        middle = len(some) // 2
        waiting += [some[:middle], some[middle:]]
    return found
