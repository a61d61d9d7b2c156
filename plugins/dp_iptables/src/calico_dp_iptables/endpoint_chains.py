"""Chains that run an endpoint's policies, and the dispatch to them.

In:   ``PolicyList`` values and interface names.   Out: chain name -> rules, for one family. Pure.

    cali-to-wl-dispatch ── by interface ──► cali-tw-LIST ──► cali-gi-RUN ──► cali-pi-POLICY
                                                 └────────────────► cali-pri-PROFILE

A list has one chain in each direction, however many workloads share it. Long tiers are cut into runs; where a run
ends depends on the policies in it alone, so a policy put into a list of a thousand changes one run, and lists that have
a run in common share its chain.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

import attrs

from calico_dp_iptables import names
from calico_dp_iptables import rules as r
from calico_dp_iptables.options import Failsafe, Options
from calico_dp_iptables.policy_rules import ACCEPT_CHAIN, PASS_CHAIN
from calico_dp_iptables.rules import Rule, rule
from calico_kernel.model.nodestate import PolicyId, PolicyList, PortRange

RUN_THRESHOLD = 12
"""Tiers with more policies than this are cut into runs."""
RUN_MEAN = 24
RUN_MAX = 64
RETURN_EVERY = 8
"""Inside a run, a packet that has its verdict leaves after at most so many checks."""

Chains = dict[str, list[Rule]]
UDP_LITE = 136

FAILSAFE_IN = "cali-failsafe-in"
FAILSAFE_OUT = "cali-failsafe-out"


def mark_chains(options: Options) -> Chains:
    """Where allow and pass go to."""
    marks = options.marks
    return {
        ACCEPT_CHAIN: [rule(r.SetMark(marks.accept, marks.accept))],
        PASS_CHAIN: [rule(r.SetMark(marks.passed, marks.passed))],
    }


@functools.lru_cache(maxsize=16384)
def _ends_run(policy: PolicyId) -> bool:
    digest = hashlib.blake2b("\x00".join(policy).encode(), digest_size=2).digest()
    return int.from_bytes(digest, "big") % RUN_MEAN == 0


def runs(policies: Sequence[PolicyId]) -> Iterator[tuple[PolicyId, ...]]:
    """Cut a long tier where a policy's own hash says so."""
    run: list[PolicyId] = []
    for policy in policies:
        run.append(policy)
        if len(run) >= RUN_MAX or _ends_run(policy):
            yield tuple(run)
            run = []
    if run:
        yield tuple(run)


@attrs.frozen(kw_only=True)
class EndpointChains:
    """deny: what denying does. known: chains of runs that stand already; their names tell their content, so they are
    named again but not made again."""

    version: int
    options: Options
    deny: r.Target = r.DROP
    known: Container[str] = ()

    def workload(self, policies: PolicyList, digest: str, *, to_workload: bool) -> Chains:
        """The shared chain of a list in one direction, and the chains of its runs ([] for those known)."""
        made: Chains = {}
        name = names.workload_chain(digest, to_workload=to_workload)
        top = [*self._conntrack(), self._clear()]
        if not to_workload:
            if not self.options.allow_vxlan_from_workloads:
                port = (one_port(self.options.vxlan_port),)
                top.append(rule(r.Protocol(17), r.Ports(False, port), self.deny, note="Drop VXLAN from workloads"))
            if not self.options.allow_ipip_from_workloads:
                top.append(rule(r.Protocol(4), self.deny, note="Drop IPinIP from workloads"))
        top += self._tiers(policies, inbound=to_workload, made=made)
        top += self._profiles(policies, inbound=to_workload)
        made[name] = top
        return made

    def host(self, name: str, policies: PolicyList, *, inbound: bool, kind: str, failsafe: bool) -> Chains:
        """A host endpoint's chain. ``kind``: normal, forward, untracked or pre_dnat."""
        made: Chains = {}
        top: list[Rule] = []
        if kind != "untracked":
            top += self._conntrack(mangle=kind == "pre_dnat")
        if failsafe:
            top.append(rule(r.Jump(FAILSAFE_IN if inbound else FAILSAFE_OUT)))
        top.append(self._clear())
        if kind == "forward" and not any(tier.ingress if inbound else tier.egress for tier in policies.tiers):
            top.append(rule(r.SetMark(self.options.marks.accept, self.options.marks.accept)))
            return {name: top}
        top += self._tiers(policies, inbound=inbound, made=made, kind=kind)
        if kind == "normal":
            top += self._profiles(policies, inbound=inbound)
        made[name] = top
        return made

    # ── parts ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _conntrack(self, *, mangle: bool = False) -> Iterator[Rule]:
        marks = self.options.marks
        established = r.ConntrackState("RELATED,ESTABLISHED")
        if (self.options.mangle_allow if mangle else self.options.allow) == "accept":
            yield rule(established, r.ACCEPT)
        else:
            yield rule(established, r.SetMark(marks.accept, marks.accept))
            yield rule(established, r.RETURN)
        if self.options.check_invalid:
            # Connection tracking takes UDP-Lite whose checksum the sender left to the device (always so between two
            # workloads of a node) for corrupt; policy judges those packets one by one.
            not_lite = r.Protocol(UDP_LITE, negate=True)
            yield rule(not_lite, r.ConntrackState("INVALID"), r.DROP if mangle else self.deny)

    def _clear(self) -> Rule:
        return rule(r.SetMark(0, self.options.marks.verdict))

    def _tiers(self, policies: PolicyList, *, inbound: bool, made: Chains, kind: str = "normal") -> Iterator[Rule]:
        marks = self.options.marks
        undecided, accepted = r.Mark(0, marks.verdict), r.Mark(marks.accept, marks.accept)
        for position, tier in enumerate(policies.tiers):
            listed = tier.ingress if inbound else tier.egress
            if not listed:
                continue
            if position:
                yield rule(r.SetMark(0, marks.passed), note=f"Start of tier {tier.name}"[:200])
            for chain in self._steps(listed, inbound=inbound, made=made):
                yield rule(undecided, r.Jump(chain))
            if kind == "untracked":
                yield rule(accepted, r.NoTrack())
            yield rule(accepted, r.RETURN, note="Return if policy accepted")
            if kind in ("normal", "forward") and tier.default_action == "Deny":
                yield rule(r.Mark(0, marks.passed), self.deny, note="Drop if no policies passed packet")

    def _steps(self, listed: tuple[PolicyId, ...], *, inbound: bool, made: Chains) -> Iterator[str]:
        if len(listed) <= RUN_THRESHOLD:
            for policy in listed:
                yield names.policy_chain(policy, inbound=inbound)
            return
        for run in runs(listed):
            if len(run) == 1:
                yield names.policy_chain(run[0], inbound=inbound)
                continue
            name = names.group_chain(run, inbound=inbound)
            if name not in made:
                made[name] = [] if name in self.known else list(self._run(run, inbound=inbound))
            yield name

    def _run(self, run: Sequence[PolicyId], *, inbound: bool) -> Iterator[Rule]:
        """A run is entered undecided, so its first policy needs no check."""
        marks = self.options.marks
        for position, policy in enumerate(run):
            if position and position % RETURN_EVERY == 0:
                yield rule(r.Mark(0, marks.verdict, negate=True), r.RETURN, note="Return on verdict")
            matches = [r.Mark(0, marks.verdict)] if position else []
            yield rule(*matches, r.Jump(names.policy_chain(policy, inbound=inbound)))

    def _profiles(self, policies: PolicyList, *, inbound: bool) -> Iterator[Rule]:
        marks = self.options.marks
        accepted = r.Mark(marks.accept, marks.accept)
        for profile in policies.profiles:
            yield rule(r.Jump(names.profile_chain(profile, inbound=inbound)))
            yield rule(accepted, r.RETURN, note="Return if profile accepted")
        yield rule(self.deny, note="Drop if no profiles matched")


def one_port(port: int) -> PortRange:
    return PortRange(port, port)


def failsafe_chains(options: Options, *, version: int, raw: bool) -> Chains:
    """Ports that host policy can never close. In raw, before conntrack, the answers need accepting too."""

    def accept(entries: Iterable[Failsafe], *, inbound: bool, answers: bool = False) -> Iterator[Rule]:
        for entry in entries:
            if entry.net and (6 if ":" in entry.net else 4) != version:
                continue
            remote = [r.Net(inbound, entry.net)] if entry.net else []
            ports = r.Ports(answers, (one_port(entry.port),))
            yield rule(r.Protocol(entry.protocol), *remote, ports, r.ACCEPT)

    incoming = list(accept(options.failsafe_in, inbound=True))
    outgoing = list(accept(options.failsafe_out, inbound=False))
    if raw:
        incoming += accept(options.failsafe_out, inbound=True, answers=True)
        outgoing += accept(options.failsafe_in, inbound=False, answers=True)
    return {FAILSAFE_IN: incoming, FAILSAFE_OUT: outgoing}


def dispatch(root: str, targets: Mapping[str, str], *, incoming: bool, end: Sequence[Rule], marker: str = "") -> Chains:
    """A shallow tree: by the character after the common prefix, then by interface.

    targets: interface -> chain it goes to. end: the last rules of every chain of the tree (what befalls an interface
    that is not listed). marker: put before the character in a child's name, where two trees share a table.
    """
    if len(targets) <= 8:
        return {root: [*_leaves(targets, incoming=incoming), *end]}
    ordered = sorted(targets)
    shared = 0
    while shared < min(len(ordered[0]), len(ordered[-1])) and ordered[0][shared] == ordered[-1][shared]:
        shared += 1
    branches: dict[str, dict[str, str]] = {}
    for interface in ordered:
        branches.setdefault(interface[: shared + 1], {})[interface] = targets[interface]
    made: Chains = {root: []}
    for stem, inside in branches.items():
        if len(inside) == 1 or stem in inside:  # a name that is its own stem has no next character to go by
            made[root] += _leaves(inside, incoming=incoming)
            continue
        child = names.host_chain(f"{marker or root}-", stem[shared:])
        made[root].append(rule(r.Interface(incoming, f"{stem}+"), r.Goto(child)))
        made[child] = [*_leaves(inside, incoming=incoming), *end]
    made[root] += end
    return made


def _leaves(targets: Mapping[str, str], *, incoming: bool) -> Iterator[Rule]:
    for interface, chain in sorted(targets.items()):
        yield _leaf(interface, chain, incoming)


@functools.lru_cache(maxsize=8192)
def _leaf(interface: str, chain: str, incoming: bool) -> Rule:
    """The same object each time: chains of dispatch are compared whenever a workload changes."""
    return rule(r.Interface(incoming, interface), r.Goto(chain))
