"""Rules as values: matches and targets, and the one place where they become iptables' text.

Pure. ``Rule.text`` is what stands after ``-A CHAIN`` in the input of iptables-restore. Every match and target names the
kernel or iptables feature it needs, so that a host without it is found out and the rule made to deny.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator

import attrs

from calico_kernel.model.nodestate import PortRange

MAX_PORT_SLOTS = 15
"""What one multiport match holds; a range takes two."""


def quoted(text: str) -> str:
    """A word of iptables-restore input. Raises ValueError for what cannot stand there at all."""
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError(f"control character in {text!r}")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


# ── matches ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@attrs.frozen(slots=True)
class Match:
    """``negate``: true when the packet does not match."""

    @property
    def feature(self) -> str:
        """What the host must have, e.g. "match rpfilter"; "" for what every iptables has."""
        return ""

    def text(self) -> str:
        raise NotImplementedError


def _not(negate: bool) -> str:
    return "! " if negate else ""


@attrs.frozen(slots=True)
class Protocol(Match):
    number: int
    negate: bool = False

    def text(self) -> str:
        return f"{_not(self.negate)}-p {self.number}"


@attrs.frozen(slots=True)
class Net(Match):
    """``source``: compare the source address, else the destination."""

    source: bool
    net: str
    negate: bool = False

    def text(self) -> str:
        return f"{_not(self.negate)}{'-s' if self.source else '-d'} {self.net}"


@attrs.frozen(slots=True)
class Interface(Match):
    """``name`` may end in ``+``: every interface that starts so."""

    incoming: bool
    name: str
    negate: bool = False

    def text(self) -> str:
        return f"{_not(self.negate)}{'-i' if self.incoming else '-o'} {self.name}"


@attrs.frozen(slots=True)
class Mark(Match):
    value: int
    mask: int
    negate: bool = False

    @property
    def feature(self) -> str:
        return "match mark"

    def text(self) -> str:
        return f"-m mark {_not(self.negate)}--mark {self.value:#x}/{self.mask:#x}"


@attrs.frozen(slots=True)
class InSet(Match):
    """``with_port``: the set holds address, protocol and port."""

    source: bool
    name: str
    with_port: bool = False
    negate: bool = False

    @property
    def feature(self) -> str:
        return "match set"

    def text(self) -> str:
        side = "src" if self.source else "dst"
        return f"-m set {_not(self.negate)}--match-set {self.name} {side + ',' + side if self.with_port else side}"


@attrs.frozen(slots=True)
class Ports(Match):
    """Needs a ``Protocol`` match with ports before it in the rule."""

    source: bool
    ranges: tuple[PortRange, ...]
    negate: bool = False

    @property
    def feature(self) -> str:
        return "match multiport"

    def text(self) -> str:
        listed = ",".join(str(first) if first == last else f"{first}:{last}" for first, last in self.ranges)
        return f"-m multiport {_not(self.negate)}--{'source' if self.source else 'destination'}-ports {listed}"


@attrs.frozen(slots=True)
class Icmp(Match):
    """Needs a ``Protocol`` match with ICMP of the same family before it in the rule."""

    version: int
    type: int
    code: int | None = None
    negate: bool = False

    @property
    def feature(self) -> str:
        return "match icmp" if self.version == 4 else "match icmp6"

    def text(self) -> str:
        what = f"{self.type}" if self.code is None else f"{self.type}/{self.code}"
        option = "-m icmp {}--icmp-type" if self.version == 4 else "-m icmp6 {}--icmpv6-type"
        return f"{option.format(_not(self.negate))} {what}"


@attrs.frozen(slots=True)
class ConntrackState(Match):
    """``states``: e.g. "RELATED,ESTABLISHED", "INVALID", "DNAT"."""

    states: str
    negate: bool = False

    @property
    def feature(self) -> str:
        return "match conntrack"

    def text(self) -> str:
        return f"-m conntrack {_not(self.negate)}--ctstate {self.states}"


@attrs.frozen(slots=True)
class LocalAddress(Match):
    """The address is one of this host's; ``on_out_interface``: of the interface by which the packet leaves."""

    source: bool
    on_out_interface: bool = False
    negate: bool = False

    @property
    def feature(self) -> str:
        return "match addrtype"

    def text(self) -> str:
        side = "src" if self.source else "dst"
        limit = " --limit-iface-out" if self.on_out_interface else ""
        return f"-m addrtype {_not(self.negate)}--{side}-type LOCAL{limit}"


@attrs.frozen(slots=True)
class ReversePathFails(Match):
    """A packet to this source would not leave by the interface it came in on."""

    @property
    def feature(self) -> str:
        return "match rpfilter"

    def text(self) -> str:
        return "-m rpfilter --validmark --invert"


@attrs.frozen(slots=True)
class RateBelow(Match):
    """``rate``: e.g. "10/minute"."""

    rate: str
    burst: int

    @property
    def feature(self) -> str:
        return "match limit"

    def text(self) -> str:
        return f"-m limit --limit {self.rate} --limit-burst {self.burst}"


# ── targets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@attrs.frozen(slots=True)
class Target:
    """``chain``: the chain of ours that the target refers to, or ""."""

    @property
    def feature(self) -> str:
        return ""

    @property
    def chain(self) -> str:
        return ""

    def text(self) -> str:
        raise NotImplementedError


@attrs.frozen(slots=True)
class Builtin(Target):
    name: str

    def text(self) -> str:
        return f"-j {self.name}"


ACCEPT = Builtin("ACCEPT")
DROP = Builtin("DROP")
RETURN = Builtin("RETURN")


@attrs.frozen(slots=True)
class Jump(Target):
    to: str

    @property
    def chain(self) -> str:
        return self.to

    def text(self) -> str:
        return f"-j {self.to}"


@attrs.frozen(slots=True)
class Goto(Target):
    """As a jump, but the end of that chain returns to where this chain was called from."""

    to: str

    @property
    def chain(self) -> str:
        return self.to

    def text(self) -> str:
        return f"-g {self.to}"


@attrs.frozen(slots=True)
class Reject(Target):
    @property
    def feature(self) -> str:
        return "target REJECT"

    def text(self) -> str:
        return "-j REJECT"


@attrs.frozen(slots=True)
class SetMark(Target):
    """mark = (mark & ~mask) | value."""

    value: int
    mask: int

    @property
    def feature(self) -> str:
        return "target MARK"

    def text(self) -> str:
        return f"-j MARK --set-xmark {self.value:#x}/{self.mask:#x}"


@attrs.frozen(slots=True)
class Log(Target):
    """``prefix``: at most 29 characters reach the log. Level 5 is "notice"."""

    prefix: str
    level: int = 5

    @property
    def feature(self) -> str:
        return "target LOG"

    def text(self) -> str:
        return f"-j LOG --log-prefix {quoted(self.prefix[:29])} --log-level {self.level}"


@attrs.frozen(slots=True)
class NoTrack(Target):
    @property
    def feature(self) -> str:
        return "target CT"

    def text(self) -> str:
        return "-j CT --notrack"


@attrs.frozen(slots=True)
class Masquerade(Target):
    ports: str = ""
    random_fully: bool = True

    @property
    def feature(self) -> str:
        return "target MASQUERADE --random-fully" if self.random_fully else "target MASQUERADE"

    def text(self) -> str:
        ports = f" --to-ports {self.ports}" if self.ports else ""
        return f"-j MASQUERADE{ports}{' --random-fully' if self.random_fully else ''}"


@attrs.frozen(slots=True)
class SourceNat(Target):
    to: str
    ports: str = ""
    random_fully: bool = True

    @property
    def feature(self) -> str:
        return "target SNAT"

    def text(self) -> str:
        ports = f":{self.ports}" if self.ports else ""
        return f"-j SNAT --to-source {self.to}{ports}{' --random-fully' if self.random_fully else ''}"


@attrs.frozen(slots=True)
class DestinationNat(Target):
    to: str

    @property
    def feature(self) -> str:
        return "target DNAT"

    def text(self) -> str:
        return f"-j DNAT --to-destination {self.to}"


# ── rules ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@attrs.frozen(slots=True)
class Rule:
    matches: tuple[Match, ...]
    target: Target
    note: str = ""

    def features(self) -> Iterator[str]:
        for match in self.matches:
            if match.feature:
                yield match.feature
        if self.target.feature:
            yield self.target.feature

    def text(self) -> str:
        """Without chain and identity. Raises ValueError for a value that cannot be written."""
        note = (f"-m comment --comment {quoted(self.note)}",) if self.note else ()
        return " ".join((*note, *(match.text() for match in self.matches), self.target.text()))


def rule(*parts: Match | Target, note: str = "") -> Rule:
    """``rule(Protocol(6), Ports(...), DROP)``: matches first, the target last."""
    *matches, target = parts
    if not isinstance(target, Target):
        raise TypeError("the last part of a rule is its target")
    return Rule(tuple(match for match in matches if isinstance(match, Match)), target, note)


@attrs.frozen(slots=True)
class RenderedRule:
    """``identity``: 16 characters that stand in the rule's comment, by which it is found again in the kernel."""

    identity: str
    text: str


IDENTITY_PREFIX = "cali:"


def rendered(chain: str, item: Rule) -> RenderedRule:
    text = item.text()
    digest = hashlib.blake2b(f"{chain} {text}".encode(), digest_size=12).digest()
    identity = base64.urlsafe_b64encode(digest).decode()
    return RenderedRule(identity, f'-m comment --comment "{IDENTITY_PREFIX}{identity}" {text}')
