"""The kernel's IP sets of both families: desired members against real ones, written by one ``ipset restore``.

In:   ``IpSet`` values and ``MembersDelta``.   Out: lines for ipset restore, in two parts: what rules are about to use
comes first (``plan_upserts``), what rules no longer use goes last (``plan_removes``).

A set whose kind or size must change is built beside the old one and swapped in, so rules never see it half filled.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import attrs

from calico_dp_iptables.names import OUR_SETS, set_name, temporary_set_name
from calico_kernel.model.nodestate import IpSetKind, MembersDelta

_TYPES = {IpSetKind.NET: "hash:net", IpSetKind.IP_PORT: "hash:ip,port"}
_HALVES = {"0.0.0.0/0": ("0.0.0.0/1", "128.0.0.0/1"), "::/0": ("::/1", "8000::/1")}
REWRITE_SHARE = 4
"""A set of which more than one member in so many would change is filled anew beside the old one and swapped in."""


@attrs.frozen
class Header:
    """What cannot change while a set exists."""

    type: str
    family: str
    maxelem: int


@attrs.define
class _Set:
    """Desired: ``header`` (None: to go) and ``members``. Real: ``real_header`` (None: not there), and members =
    ``members`` - ``adds`` + ``removes``, unless ``known`` is False."""

    header: Header | None = None
    members: set[str] = attrs.field(factory=set)
    real_header: Header | None = None
    known: bool = True
    adds: set[str] = attrs.field(factory=set)
    removes: set[str] = attrs.field(factory=set)

    def real(self) -> set[str]:
        return (self.members - self.adds) | self.removes

    def want(self, members: set[str]) -> None:
        real = self.real() if self.real_header is not None else set()
        self.members, self.adds, self.removes = members, members - real, real - members


class IpSets:
    """Both families. ``versions``: those that this host has."""

    def __init__(self, *, maxelem: int = 1048576, versions: Collection[int] = (4, 6)) -> None:
        self._maxelem = maxelem
        self._versions = tuple(versions)
        self._sets: dict[str, _Set] = {}
        self._dirty: set[str] = set()
        self._temporary: set[str] = set()
        self._next = 0

    # ── desired ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def replace(self, set_id: str, kind: IpSetKind, members: Iterable[str]) -> None:
        split = _by_family(members)
        for version in self._versions:
            name = set_name(set_id, version)
            entry = self._sets.setdefault(name, _Set())
            entry.header = Header(_TYPES[kind], "inet" if version == 4 else "inet6", self._maxelem)
            entry.want(split[version])
            self._dirty.add(name)

    def change(self, set_id: str, delta: MembersDelta) -> None:
        added, removed = _by_family(delta.added), _by_family(delta.removed)
        for version in self._versions:
            if not (added[version] or removed[version]):
                continue
            name = set_name(set_id, version)
            entry = self._sets.get(name)
            if entry is None or entry.header is None:
                continue
            for member in removed[version] - added[version]:
                if member in entry.members:
                    entry.members.discard(member)
                    if member in entry.adds:
                        entry.adds.discard(member)
                    else:
                        entry.removes.add(member)
            for member in added[version] - entry.members:
                entry.members.add(member)
                if member in entry.removes:
                    entry.removes.discard(member)
                else:
                    entry.adds.add(member)
            self._dirty.add(name)

    def remove(self, set_id: str) -> None:
        for version in (4, 6):
            name = set_name(set_id, version)
            entry = self._sets.get(name)
            if entry is not None:
                entry.header = None
                entry.want(set())
                self._dirty.add(name)

    def set_maxelem(self, maxelem: int) -> None:
        if maxelem == self._maxelem:
            return
        self._maxelem = maxelem
        for name, entry in self._sets.items():
            if entry.header is not None:
                entry.header = attrs.evolve(entry.header, maxelem=maxelem)
                self._dirty.add(name)

    def names(self) -> Collection[str]:
        return [name for name, entry in self._sets.items() if entry.header is not None]

    def sizes(self) -> Mapping[str, int]:
        """Members that each set should have once everything is written."""
        return {name: len(entry.members) for name, entry in self._sets.items() if entry.header is not None}

    # ── observed ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def observe(self, real: Mapping[str, tuple[Header, set[str]]]) -> bool:
        """Take the kernel's sets (those with our names) as the truth. True when they differ from what was believed."""
        changed = False
        for name, (header, members) in real.items():
            if name[5:6] == "t":
                self._temporary.add(name)
                continue
            entry = self._sets.setdefault(name, _Set())
            adds, removes = entry.members - members, members - entry.members
            believed = (entry.real_header, entry.known, entry.adds, entry.removes)
            if believed != (header, True, adds, removes):
                changed = True
                self._dirty.add(name)
            entry.real_header, entry.known, entry.adds, entry.removes = header, True, adds, removes
        for name, entry in self._sets.items():
            if name not in real and entry.real_header is not None:
                changed = True
                entry.real_header, entry.known = None, True
                entry.adds, entry.removes = set(entry.members), set()
                self._dirty.add(name)
        return changed

    def forget_real(self, names: Iterable[str]) -> None:
        """A write failed half way: what these sets hold is not known until they are read."""
        for name in names:
            if name in self._sets:
                self._sets[name].known = False
                self._dirty.add(name)

    # ── plan ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def plan_upserts(self) -> tuple[list[str], list[str]]:
        """Lines for ipset restore, and the sets they concern."""
        lines: list[str] = []
        touched: list[str] = []
        for name in sorted(self._dirty):
            if self._sets[name].header is None:
                continue
            found = self.plan_one(name)
            if found:
                lines += found
                touched.append(name)
            else:
                self._dirty.discard(name)
        return lines, touched

    def plan_one(self, name: str) -> list[str]:
        """Lines that make one set right; [] when it is."""
        entry = self._sets[name]
        if entry.header is None:
            return []
        if entry.real_header is None:
            return [_create(name, entry.header), *(f"add {name} {member}" for member in entry.members)]
        if entry.real_header != entry.header or not entry.known or _is_rewrite(entry):
            return self._swap(name, entry)
        return [
            *(f"del {name} {member}" for member in entry.removes),
            *(f"add {name} {member}" for member in entry.adds),
        ]

    def _swap(self, name: str, entry: _Set) -> list[str]:
        if entry.header is None:
            return []
        self._next += 1
        beside = temporary_set_name(self._next, int(name[4]))
        while beside in self._temporary:
            self._next += 1
            beside = temporary_set_name(self._next, int(name[4]))
        return [
            _create(beside, entry.header),
            *(f"add {beside} {member}" for member in entry.members),
            f"swap {name} {beside}",
            f"destroy {beside}",
        ]

    def upserts_written(self, touched: Iterable[str]) -> None:
        for name in touched:
            entry = self._sets[name]
            entry.real_header, entry.known = entry.header, True
            entry.adds, entry.removes = set(), set()
            self._dirty.discard(name)

    def plan_removes(self) -> list[str]:
        """Names of sets to destroy, left-over temporary ones among them."""
        gone = [name for name in self._dirty if self._sets[name].header is None]
        return sorted(gone) + sorted(self._temporary)

    def removed(self, name: str) -> None:
        self._temporary.discard(name)
        entry = self._sets.get(name)
        if entry is not None and entry.header is None:
            del self._sets[name]
            self._dirty.discard(name)


def _is_rewrite(entry: _Set) -> bool:
    changes = len(entry.adds) + len(entry.removes)
    return changes > 1000 and changes * REWRITE_SHARE > len(entry.members)


def _create(name: str, header: Header) -> str:
    return f"create {name} {header.type} family {header.family} maxelem {header.maxelem}"


def _by_family(members: Iterable[str]) -> dict[int, set[str]]:
    split: dict[int, set[str]] = {4: set(), 6: set()}
    for member in members:
        side = split[6 if ":" in member.partition(",")[0] else 4]
        for part in _HALVES.get(member, (member,)):
            side.add(part)
    return split


def parse_save(text: str) -> dict[str, tuple[Header, set[str]]]:
    """The output of ``ipset save``; only sets with our names."""
    found: dict[str, tuple[Header, set[str]]] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 3 and words[0] == "create" and OUR_SETS.owns(words[1]):
            options = dict(zip(words[3::2], words[4::2], strict=False))
            header = Header(words[2], options.get("family", "inet"), int(options.get("maxelem", "65536")))
            found[words[1]] = (header, set())
        elif len(words) >= 3 and words[0] == "add" and words[1] in found:
            found[words[1]][1].add(words[2])
    return found
