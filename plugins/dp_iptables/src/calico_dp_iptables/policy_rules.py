"""A policy's or profile's parsed rules as iptables rules of one family.

In:   ``ParsedRule`` values.   Out: ``Rule`` values of one chain (cali-pi-, cali-po-, cali-pri-, cali-pro-). Pure.

A rule becomes one iptables rule wherever its alternatives fit into one. Where they do not, it becomes blocks: each
block is one list of alternatives, of which one must match; scratch0 is set while every block so far matched. The final
rule takes scratch0 and everything that needs no block. Allow and pass are a ``goto`` to a chain that sets the mark,
whose end returns to the caller of the policy's chain: one rule where a mark and a return would be two.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Sequence

import attrs

from calico_dp_iptables import rules as r
from calico_dp_iptables.names import Marks, set_name
from calico_dp_iptables.rules import Rule, rule
from calico_kernel.model.nodestate import Match, ParsedRule, PolicyId, PortRange

ACCEPT_CHAIN = "cali-set-accept"
PASS_CHAIN = "cali-set-pass"
_WITH_PORTS = (6, 17, 132, 136)
_ICMP = {4: 1, 6: 58}


class Inexpressible(ValueError):
    """The rule cannot be written on this host; it must deny instead."""


@attrs.frozen(kw_only=True)
class Renderer:
    """version: 4 or 6. deny: what denying does. lacking: features this host does not have. log_*: of the Log action."""

    version: int
    marks: Marks
    deny: r.Target = r.DROP
    lacking: Collection[str] = frozenset()
    log_prefix: str = "calico-packet"
    log_rate: str = ""
    log_burst: int = 5

    def chain(
        self, parsed: Iterable[ParsedRule], *, owner: PolicyId | str, tier: str = ""
    ) -> tuple[list[Rule], list[str]]:
        """The chain's rules, and what could not be expressed (each of those denies)."""
        made: list[Rule] = []
        lacks: list[str] = []
        for item in parsed:
            try:
                written = list(self._rule(item, owner, tier))
                missing = sorted({feature for one in written for feature in one.features()} & set(self.lacking))
                if missing:
                    raise Inexpressible(f"this host has no {', '.join(missing)}")
            except ValueError as exc:
                lacks.append(f"rule {item.index} of {owner}: {exc}")
                if item.action != "log":
                    made.append(self._denial(item))
                continue
            made += written
        return made, lacks

    def _denial(self, item: ParsedRule) -> Rule:
        """Deny whatever the rule might have matched, as far as protocol and family tell."""
        if item.protocol is not None:
            return rule(r.Protocol(item.protocol), self.deny, note="Denied: the rule cannot be expressed here")
        return rule(self.deny, note="Denied: the rule cannot be expressed here")

    def _rule(self, item: ParsedRule, owner: PolicyId | str, tier: str) -> Iterator[Rule]:
        if item.ip_version not in (None, self.version):
            return
        if item.icmp_type is not None and item.protocol not in (None, _ICMP[self.version]):
            return
        conditions = _Conditions()
        if not self._collect(item, conditions):
            return
        yield from self._blocks(conditions)
        final = conditions.single
        if conditions.blocks or conditions.exceptions:
            final = [*final, r.Mark(self.marks.scratch0, self.marks.scratch0)]
        yield self._final(item, final, owner, tier)

    def _final(self, item: ParsedRule, matches: Sequence[r.Match], owner: PolicyId | str, tier: str) -> Rule:
        if item.action == "log":
            limit = [r.RateBelow(_rate(self.log_rate), self.log_burst)] if self.log_rate else []
            return rule(*matches, *limit, r.Log(_log_prefix(self.log_prefix, owner, tier) + ": "))
        if item.action == "allow":
            return rule(*matches, r.Goto(ACCEPT_CHAIN))
        if item.action == "pass":
            return rule(*matches, r.Goto(PASS_CHAIN))
        return rule(*matches, self.deny)

    # ── what the rule asks for ────────────────────────────────────────────────────────────────────────────────────────

    def _collect(self, item: ParsedRule, into: _Conditions) -> bool:
        """False: no packet of this family can match."""
        protocol = item.protocol
        if protocol is None and item.icmp_type is not None:
            protocol = _ICMP[self.version]
        if protocol is not None:
            into.single.append(r.Protocol(protocol))
        if item.not_protocol is not None:
            if protocol is None:
                into.single.append(r.Protocol(item.not_protocol, negate=True))
            elif protocol == item.not_protocol:
                return False
        if item.icmp_type is not None:
            into.single.append(r.Icmp(self.version, item.icmp_type, item.icmp_code))
        if item.not_icmp_type is not None and protocol in (None, _ICMP[self.version]):
            negated = r.Icmp(self.version, item.not_icmp_type, item.not_icmp_code)
            if protocol is None:
                into.exceptions.append((r.Protocol(_ICMP[self.version]), negated))
            else:
                into.single.append(attrs.evolve(negated, negate=True))
        return all(
            self._collect_side(side, source, protocol, into)
            for source, side in ((True, item.source), (False, item.destination))
        )

    def _collect_side(self, side: Match, source: bool, protocol: int | None, into: _Conditions) -> bool:
        nets = self._nets(side.nets)
        if side.nets and not nets:
            return False
        excluded = self._nets(side.not_nets)
        if (side.not_nets and not excluded) or any(net.prefixlen == 0 for net in excluded):
            return False  # a list about the other family only, or about everything
        if any(net.prefixlen == 0 for net in nets):
            nets = []  # every address of the family
        one_net_taken = False
        if len(nets) == 1:
            into.single.append(r.Net(source, str(nets[0])))
            one_net_taken = True
        elif nets:
            into.blocks.append([(r.Net(source, str(net)),) for net in nets])
            one_net_taken = (
                True  # the final rule could still hold one exclusion, but one form is enough to reason about
            )
        if len(excluded) == 1 and not one_net_taken:
            into.single.append(r.Net(source, str(excluded[0]), negate=True))
        else:
            into.exceptions += [(r.Net(source, str(net)),) for net in excluded]
        into.single += [r.InSet(source, set_name(name, self.version)) for name in side.ip_sets]
        into.single += [r.InSet(source, set_name(name, self.version), negate=True) for name in side.not_ip_sets]
        if side.services:
            alternatives = [(r.InSet(source, set_name(name, self.version), with_port=True),) for name in side.services]
            into.single += [alternative[0] for alternative in alternatives]
        return self._collect_ports(side, source, protocol, into)

    def _collect_ports(self, side: Match, source: bool, protocol: int | None, into: _Conditions) -> bool:
        named = [(r.InSet(source, set_name(name, self.version), with_port=True),) for name in side.named_ports]
        numeric = self._port_matches(side.ports, source, protocol)
        alternatives = [*numeric, *named]
        if side.ports or side.named_ports:
            if not alternatives:
                return False
            if len(alternatives) == 1:
                into.single += alternatives[0]
            else:
                into.blocks.append(alternatives)
        for name in side.not_named_ports:
            into.single.append(r.InSet(source, set_name(name, self.version), with_port=True, negate=True))
        for excluded in self._port_matches(side.not_ports, source, protocol):
            if protocol is None:
                into.exceptions.append(excluded)
            else:
                into.single += [attrs.evolve(match, negate=True) for match in excluded if isinstance(match, r.Ports)]
        return True

    def _port_matches(
        self, ranges: Sequence[PortRange], source: bool, protocol: int | None
    ) -> list[tuple[r.Match, ...]]:
        """Alternatives: runs of at most 15 slots; for a rule without protocol, once for each protocol with ports."""
        if not ranges or (protocol is not None and protocol not in _WITH_PORTS):
            return []
        runs: list[list[PortRange]] = [[]]
        used = 0
        for item in ranges:
            slots = 1 if item.first == item.last else 2
            if used + slots > r.MAX_PORT_SLOTS:
                runs.append([])
                used = 0
            runs[-1].append(item)
            used += slots
        if protocol is not None:
            return [(r.Ports(source, tuple(run)),) for run in runs]
        return [(r.Protocol(p), r.Ports(source, tuple(run))) for p in _WITH_PORTS for run in runs]

    def _nets(self, listed: Iterable[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        nets = [ipaddress.ip_network(net, strict=False) for net in listed]
        return [net for net in nets if net.version == self.version]

    # ── blocks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _blocks(self, conditions: _Conditions) -> Iterator[Rule]:
        if not (conditions.blocks or conditions.exceptions):
            return
        all_match, this_matches = self.marks.scratch0, self.marks.scratch1
        protocol = [match for match in conditions.single if isinstance(match, r.Protocol)]
        if not conditions.blocks:
            yield rule(r.SetMark(all_match, all_match))
        for position, block in enumerate(conditions.blocks):
            hit = this_matches if position else all_match
            yield rule(r.SetMark(0, this_matches if position else all_match | this_matches))
            for alternative in block:
                yield rule(*_with_protocol(protocol, alternative), r.SetMark(hit, hit))
            if position:
                yield rule(r.Mark(0, this_matches), r.SetMark(0, all_match))
        for exception in conditions.exceptions:
            yield rule(*_with_protocol(protocol, exception), r.SetMark(0, all_match))


@attrs.define
class _Conditions:
    """single: all must match. blocks: of each, one alternative must match. exceptions: none may match."""

    single: list[r.Match] = attrs.field(factory=list)
    blocks: list[list[tuple[r.Match, ...]]] = attrs.field(factory=list)
    exceptions: list[tuple[r.Match, ...]] = attrs.field(factory=list)


def _with_protocol(protocol: Sequence[r.Match], alternative: Sequence[r.Match]) -> list[r.Match]:
    """Port and ICMP matches want their protocol in the same rule."""
    if any(isinstance(match, r.Protocol) for match in alternative):
        return list(alternative)
    if any(isinstance(match, r.Ports | r.Icmp) for match in alternative):
        return [*protocol, *alternative]
    return list(alternative)


def _rate(text: str) -> str:
    """ "10/minute" and "10" (per second) as iptables writes them."""
    count, _, unit = text.partition("/")
    return f"{int(count)}/{unit or 'second'}"


def _log_prefix(template: str, owner: PolicyId | str, tier: str) -> str:
    """%t tier, %k kind, %n name, %p namespace/name."""
    if "%" not in template:
        return template
    if isinstance(owner, PolicyId):
        short = {"NetworkPolicy": "np", "GlobalNetworkPolicy": "gnp", "KubernetesNetworkPolicy": "knp"}
        kind, name = short.get(owner.kind, owner.kind), owner.name
        full = f"{owner.namespace}/{owner.name}" if owner.namespace else owner.name
    else:
        kind, name, full = "pro", owner, owner
    for specifier, value in (("%t", tier), ("%k", kind), ("%n", name), ("%p", full)):
        template = template.replace(specifier, value)
    return template
