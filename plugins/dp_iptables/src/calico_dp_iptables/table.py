"""One table of one family: desired chains against those in the kernel, and the smallest text that makes them equal.

In:    chains and hooks (``set_chain``, ``set_hooks``), and what iptables-save shows (``observe``).
Out:   transactions for iptables-restore (``plan``); ``written`` and ``distrust`` tell what became of them.
Owns:  nothing outside memory.

A rule is known again by the 16 characters in its comment, so after a restart nothing that is right is written. A chain
that no hook leads to is not programmed. A chain that is referred to but not defined denies.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from calico_dp_iptables import rules as r
from calico_dp_iptables.names import OUR_CHAINS
from calico_dp_iptables.rules import RenderedRule, Rule, rendered, rule
from calico_dp_iptables.static_chains import Hook

_IDENTITY = re.compile(r'--comment "?cali:([A-Za-z0-9_-]{16})"?')
_OUR_JUMP = re.compile(r" -[jg] cali-")
_REFUSED = rule(r.DROP, note="Denied: this host refuses the rule")
_MISSING = (rule(r.DROP, note="Drop: the chain's content is not known"),)


@attrs.frozen
class ObservedRule:
    """A rule in a kernel chain. ``identity`` is "" for other people's. ``text``: as iptables-save writes it."""

    identity: str
    text: str


@attrs.frozen
class Observed:
    """Our chains with their rules' identities, and every rule of the kernel chains."""

    chains: Mapping[str, tuple[str, ...]]
    hooks: Mapping[str, tuple[ObservedRule, ...]]

    @classmethod
    def empty(cls) -> Observed:
        return cls(chains={}, hooks={})


def parse_save(text: str) -> dict[str, Observed]:
    """The output of iptables-save, by table. A rule of ours without identity counts as foreign to its chain."""
    tables: dict[str, Observed] = {}
    chains: dict[str, list[str]] = {}
    hooks: dict[str, list[ObservedRule]] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("*"):
            name, chains, hooks = line[1:].strip(), {}, {}
        elif line.startswith(":"):
            chain = line[1:].split(" ", 1)[0]
            if OUR_CHAINS.owns(chain):
                chains[chain] = []
            elif not line.startswith(f":{chain} -"):
                hooks[chain] = []
        elif line.startswith("-A "):
            chain, _, body = line[3:].partition(" ")
            found = _IDENTITY.search(body)
            if chain in chains:
                chains[chain].append(found.group(1) if found else "")
            elif chain in hooks:
                hooks[chain].append(ObservedRule(found.group(1) if found else "", body))
        elif line.startswith("COMMIT") and name:
            tables[name] = Observed(
                chains={key: tuple(value) for key, value in chains.items()},
                hooks={key: tuple(value) for key, value in hooks.items()},
            )
    return tables


@attrs.frozen
class Transaction:
    """One atomic write. ``lines``: between ``*table`` and ``COMMIT``. ``chains``, ``removed``: what it makes true."""

    table: str
    lines: tuple[str, ...]
    chains: Mapping[str, tuple[str, ...]]
    removed: frozenset[str] = frozenset()
    hooks: frozenset[str] = frozenset()
    partial: frozenset[str] = frozenset()
    """Of ``chains``: those that a later transaction completes."""

    def text(self) -> str:
        return "\n".join((f"*{self.table}", *self.lines, "COMMIT", ""))


class Table:
    def __init__(self, name: str, *, insert: bool = True) -> None:
        self.name = name
        self._insert = insert
        self._desired: dict[str, tuple[Rule, ...]] = {}
        self._hooks: dict[str, Hook] = {}
        self._references: Counter[str] = Counter()
        self._refused: frozenset[Rule] = frozenset()
        self._dirty: set[str] = set()
        self._hooks_dirty: set[str] = set()
        self._observed: dict[str, tuple[str, ...]] = {}
        self._observed_hooks: dict[str, tuple[ObservedRule, ...]] = {}

    # ── desired ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def set_chain(self, name: str, rules: Iterable[Rule]) -> None:
        new = tuple(rules)
        old = self._desired.get(name)
        if new == old:
            return
        self._desired[name] = new
        self._dirty.add(name)
        if self._references[name]:
            self._exchange(old or (), new)

    def remove_chain(self, name: str) -> None:
        old = self._desired.pop(name, None)
        if old is None:
            return
        self._dirty.add(name)
        if self._references[name]:
            self._exchange(old, ())

    def set_hooks(self, hooks: Mapping[str, Hook], *, insert: bool) -> None:
        """The complete set of hooks; kernel chains without any lose ours."""
        if hooks == self._hooks and insert == self._insert:
            return
        self._hooks_dirty |= hooks.keys() | self._hooks.keys()
        old, self._hooks, self._insert = self._hooks, dict(hooks), insert
        self._exchange(
            [one for hook in old.values() for one in (*hook.top, *hook.bottom)],
            [one for hook in hooks.values() for one in (*hook.top, *hook.bottom)],
        )

    def refuse(self, rules: Iterable[Rule]) -> None:
        """The host does not take these; in their place everything is denied."""
        self._refused |= frozenset(rules)
        self._dirty |= {name for name, own in self._desired.items() if not self._refused.isdisjoint(own)}

    def forget_refusals(self) -> None:
        """Try them again at the next plan."""
        if self._refused:
            self._dirty |= {name for name, own in self._desired.items() if not self._refused.isdisjoint(own)}
            self._refused = frozenset()

    def refused(self) -> list[Rule]:
        """Rules that are wanted and refused."""
        if not self._refused:
            return []
        return sorted(
            {item for own in self._desired.values() for item in own if item in self._refused},
            key=lambda item: item.text(),
        )

    def dirty_rules(self) -> list[Rule]:
        """Rules of the chains that are to be written."""
        live = [name for name in sorted(self._dirty) if self._references[name]]
        return [item for name in live for item in self._writable(self._desired.get(name, ()))]

    def in_use(self) -> bool:
        """Is anything of ours in the kernel's table?"""
        return bool(self._observed)

    def desired_rule_count(self) -> int:
        return sum(len(rules) for name, rules in self._desired.items() if self._references[name])

    def _exchange(self, old: Iterable[Rule], new: Iterable[Rule]) -> None:
        for name in _targets(new):
            self._refer(name)
        for name in _targets(old):
            self._release(name)

    def _refer(self, name: str) -> None:
        waiting = [name]
        while waiting:
            chain = waiting.pop()
            self._references[chain] += 1
            if self._references[chain] == 1:
                self._dirty.add(chain)
                waiting += _targets(self._desired.get(chain, ()))

    def _release(self, name: str) -> None:
        waiting = [name]
        while waiting:
            chain = waiting.pop()
            self._references[chain] -= 1
            if self._references[chain] == 0:
                del self._references[chain]
                self._dirty.add(chain)
                waiting += _targets(self._desired.get(chain, ()))

    # ── observed ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def observe(self, observed: Observed) -> bool:
        """Take what the kernel holds as the truth. True when it differs from what was believed."""
        changed = False
        for name in observed.chains.keys() | self._observed.keys():
            if observed.chains.get(name) != self._observed.get(name):
                self._dirty.add(name)
                changed = True
        self._observed = dict(observed.chains)
        for name in observed.hooks.keys() | self._observed_hooks.keys():
            if not self._hook_is_right(name, observed.hooks.get(name, ())):
                self._hooks_dirty.add(name)
                changed = True
        self._observed_hooks = dict(observed.hooks)
        return changed

    def written(self, done: Transaction) -> None:
        """The transaction is in the kernel."""
        for name, identities in done.chains.items():
            self._observed[name] = identities
            if name not in done.partial:
                self._dirty.discard(name)
        for name in done.removed:
            self._observed.pop(name, None)
            self._dirty.discard(name)
        for name in done.hooks:
            self._observed_hooks[name] = self._hook_wanted(name, self._observed_hooks.get(name, ()))
            self._hooks_dirty.discard(name)

    # ── plan ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def plan(self, *, limit: int = 0) -> list[Transaction]:
        """What to write, in order. ``limit``: most lines of one transaction where the kernel takes no more (0: all).

        Cut, chains that nothing leads to yet go first, referents before referrers, so that nothing half-made is seen;
        what is in use changes in the last one, at once if it fits.
        """
        fresh: list[_Change] = []
        live: list[_Change] = []
        removed: list[str] = []
        for name in sorted(self._dirty):
            old = self._observed.get(name)
            if not self._references[name]:
                if old is not None:
                    removed.append(name)
                continue
            new = [rendered(name, item) for item in self._writable(self._desired.get(name, _MISSING))]
            identities = tuple(item.identity for item in new)
            if old is None:
                fresh.append(_Change(name, (f":{name} - -", *(f"-A {name} {item.text}" for item in new)), identities))
            elif old != identities:
                live.append(_Change(name, tuple(_edits(name, old, new)), identities))
        self._dirty = {change.name for change in (*fresh, *live)} | set(removed)
        hook_lines, hooks = self._plan_hooks()
        if not (fresh or live or removed or hooks):
            return []
        batches = self._cut(fresh, live, len(hook_lines), limit) if limit else [[*fresh, *live]]
        transactions = [
            Transaction(self.name, _lines(batch), _identities(batch), partial=_partial(batch)) for batch in batches[:-1]
        ]
        last = batches[-1]
        main = (*_lines(last), *hook_lines)
        apart = bool(limit) and len(main) + 2 * len(removed) > limit
        removal = () if apart else (*(f"-F {name}" for name in removed), *(f"-X {name}" for name in removed))
        transactions.append(
            Transaction(
                self.name,
                (*main, *removal),
                _identities(last),
                removed=frozenset(() if apart else removed),
                hooks=frozenset(hooks),
                partial=_partial(last),
            )
        )
        if apart:  # nothing leads to them any more, so emptying and deleting may take as many steps as it needs
            some = [removed[start : start + limit] for start in range(0, len(removed), limit)]
            for names in some:
                emptied: dict[str, tuple[str, ...]] = dict.fromkeys(names, ())
                lines = tuple(f"-F {name}" for name in names)
                transactions.append(Transaction(self.name, lines, emptied, partial=frozenset(names)))
            for names in some:
                lines = tuple(f"-X {name}" for name in names)
                transactions.append(Transaction(self.name, lines, {}, removed=frozenset(names)))
        return [transaction for transaction in transactions if transaction.lines]

    def _writable(self, rules: Sequence[Rule]) -> Sequence[Rule]:
        if not self._refused:
            return rules
        return [_REFUSED if item in self._refused else item for item in rules]

    def _cut(self, fresh: list[_Change], live: list[_Change], others: int, limit: int) -> list[list[_Change]]:
        if sum(len(change.lines) for change in (*fresh, *live)) + others <= limit:
            return [[*fresh, *live]]
        by_name = {change.name: change for change in fresh}
        ordered: dict[str, _Change] = {}

        def visit(name: str) -> None:
            change = by_name.pop(name, None)
            if change is not None:
                for target in _targets(self._desired.get(name, ())):
                    visit(target)
                ordered[name] = change

        for name in [change.name for change in fresh]:
            visit(name)
        batches: list[list[_Change]] = [[]]
        used = 0
        for change in ordered.values():
            for part in change.parts(limit):
                if used and used + len(part.lines) > limit:
                    batches.append([])
                    used = 0
                batches[-1].append(part)
                used += len(part.lines)
        batches.append([])
        used = others
        for change in (part for whole in live for part in self._live_parts(whole, limit)):
            if used and batches[-1] and used + len(change.lines) > limit:
                batches.append([])
                used = 0
            batches[-1].append(change)
            used += len(change.lines)
        return [batch for batch in batches[:-1] if batch] + [batches[-1]]

    def _live_parts(self, change: _Change, limit: int) -> Iterator[_Change]:
        """A chain in use that is too long for one transaction denies while it is filled."""
        if len(change.lines) <= limit:
            yield change
            return
        name = change.name
        guard = rendered(name, rule(r.DROP, note="Drop: the chain is being filled"))
        texts = [rendered(name, item).text for item in self._writable(self._desired.get(name, _MISSING))]
        step = max(limit - 2, 1)
        yield _Change(name, (f"-F {name}", f"-A {name} {guard.text}"), (guard.identity,), complete=False)
        for start in range(0, len(texts), step):
            end = min(start + step, len(texts))
            lines = tuple(f"-A {name} {text}" for text in texts[start:end])
            yield _Change(name, lines, (guard.identity, *change.identities[:end]), complete=False)
        yield _Change(name, (f"-D {name} 1",), change.identities)

    # ── hooks ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _hook_wanted(self, name: str, observed: Sequence[ObservedRule]) -> tuple[ObservedRule, ...]:
        hook = self._hooks.get(name, Hook())
        foreign = [item for item in observed if not _is_ours(item)]
        top, bottom = self._hook_rules(name, hook)
        return (
            tuple(ObservedRule(one.identity, one.text) for one in top)
            + tuple(foreign)
            + tuple(ObservedRule(one.identity, one.text) for one in bottom)
        )

    def _hook_rules(self, name: str, hook: Hook) -> tuple[list[RenderedRule], list[RenderedRule]]:
        top = [rendered(name, item) for item in hook.top]
        bottom = [rendered(f"{name}*appends*", item) for item in hook.bottom]
        return (top, bottom) if self._insert else ([], top + bottom)

    def _hook_is_right(self, name: str, observed: Sequence[ObservedRule]) -> bool:
        top, bottom = self._hook_rules(name, self._hooks.get(name, Hook()))
        ours = [item.identity for item in observed if _is_ours(item)]
        if ours != [one.identity for one in (*top, *bottom)]:
            return False
        shown = [item.identity for item in observed]
        # What others append after our last part stays where they put it: moving it would be touching their rules.
        return shown[: len(top)] == [one.identity for one in top]

    def _plan_hooks(self) -> tuple[list[str], list[str]]:
        lines: list[str] = []
        changed: list[str] = []
        for name in sorted(self._hooks_dirty):
            observed = self._observed_hooks.get(name, ())
            if self._hook_is_right(name, observed):
                continue
            # By text, never by number: the numbers may have moved since they were read.
            lines += [f"-D {name} {item.text}" for item in observed if _is_ours(item)]
            top, bottom = self._hook_rules(name, self._hooks.get(name, Hook()))
            lines += [f"-I {name} {position} {one.text}" for position, one in enumerate(top, start=1)]
            lines += [f"-A {name} {one.text}" for one in bottom]
            changed.append(name)
        self._hooks_dirty = set(changed)
        return lines, changed


@attrs.frozen
class _Change:
    name: str
    lines: tuple[str, ...]
    identities: tuple[str, ...]
    complete: bool = True

    def parts(self, limit: int) -> Iterator[_Change]:
        """A new chain may be filled in steps, because nothing leads to it yet."""
        for start in range(0, len(self.lines), limit):
            end = min(start + limit, len(self.lines))
            yield _Change(self.name, self.lines[start:end], self.identities[: end - 1], end == len(self.lines))


def _lines(changes: Sequence[_Change]) -> tuple[str, ...]:
    """New chains are declared before any rule, because rules may refer to them."""
    declared = [line for change in changes for line in change.lines if line.startswith(":")]
    others = [line for change in changes for line in change.lines if not line.startswith(":")]
    return (*declared, *others)


def _identities(changes: Iterable[_Change]) -> dict[str, tuple[str, ...]]:
    """Where several parts of a chain are written together, the last one tells what it then holds."""
    return {change.name: change.identities for change in changes}


def _partial(changes: Iterable[_Change]) -> frozenset[str]:
    return frozenset(name for name, complete in {c.name: c.complete for c in changes}.items() if not complete)


def _is_ours(item: ObservedRule) -> bool:
    return bool(item.identity) or bool(_OUR_JUMP.search(f" {item.text}"))


def _targets(rules: Iterable[Rule]) -> list[str]:
    return [item.target.chain for item in rules if item.target.chain]


def _edits(name: str, old: Sequence[str], new: Sequence[RenderedRule]) -> Iterator[str]:
    """Change the part between what is equal at both ends, so counters stay and the kernel has little to do."""
    identities = [item.identity for item in new]
    shortest = min(len(old), len(new))
    head = 0
    while head < shortest and old[head] == identities[head]:
        head += 1
    tail = 0
    while tail < shortest - head and old[-1 - tail] == identities[-1 - tail]:
        tail += 1
    gone, come = len(old) - head - tail, new[head : len(new) - tail]
    if head == tail == 0 and gone:
        yield f"-F {name}"
        yield from (f"-A {name} {item.text}" for item in come)
        return
    common = min(gone, len(come))
    for offset in range(common):
        yield f"-R {name} {head + offset + 1} {come[offset].text}"
    for _ in range(gone - common):
        yield f"-D {name} {head + common + 1}"
    for offset in range(common, len(come)):
        position = head + offset + 1
        if tail:
            yield f"-I {name} {position} {come[offset].text}"
        else:
            yield f"-A {name} {come[offset].text}"
