"""Active IP sets: what each selector matches, and what that makes the members of each set.

A set is active while a rule of an active policy or profile refers to it. Selectors are evaluated in bulk over posting
lists when they become active; after that, a change of one item asks only the selectors that could match it.

In:   specs from ``calc.rules``, item changes from ``calc.items``, endpoint slices.
Out:  new sets with all members, changes of members, sets that went.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import attrs
from pyroaring import BitMap

from calico_kernel.calc.candidates import Candidates
from calico_kernel.calc.items import Items, Nets, Ports, State
from calico_kernel.calc.postings import labels_of
from calico_kernel.calc.services import Services
from calico_kernel.model.nodestate import IpSet, IpSetKind, MapDelta, MembersDelta
from calico_kernel.selector import LabelRestriction, Selector


@attrs.frozen(kw_only=True, slots=True, eq=False)
class SetSpec:
    """What an IP set holds. Two specs with one id say the same.

    selector:   of the items; None for a service.
    port_name:  members are (address, protocol, port) of this named port; "" for plain addresses.
    protocol:   "tcp", "udp", "sctp", or "any".
    service:    "namespace/name" of a service instead of a selector.
    """

    id: str
    kind: IpSetKind
    selector: Selector | None = None
    port_name: str = ""
    protocol: str = "any"
    service: str = ""


class _Matched:
    """One distinct active selector, and the items that it matches."""

    __slots__ = ("items", "labels", "restrictions", "selector", "sets")

    def __init__(self, selector: Selector) -> None:
        self.selector = selector
        self.restrictions: Mapping[str, LabelRestriction] = selector.restrictions()
        self.labels = labels_of(selector.root)
        self.items = BitMap()
        self.sets: list[_ActiveSet] = []


class _ActiveSet:
    __slots__ = ("changed", "matched", "spec", "uses")

    def __init__(self, spec: SetSpec) -> None:
        self.spec = spec
        self.uses = 0
        self.matched: _Matched | None = None
        self.changed: dict[str, bool] = {}
        """Members that changed since the last take: True came, False went."""

    def note(self, member: str, came: bool) -> None:
        before = self.changed.get(member)
        if before is None:
            self.changed[member] = came
        elif before is not came:
            del self.changed[member]


class IpSets:
    def __init__(self, items: Items) -> None:
        self._items = items
        self._services = Services(self._service_changed)
        self._sets: dict[str, _ActiveSet] = {}
        self._known: set[str] = set()
        """Sets that the last delta left active."""
        self._touched: set[str] = set()
        """Sets whose being active may have changed since then."""
        self._with_changes: set[_ActiveSet] = set()
        self._matched: dict[str, _Matched] = {}
        self._candidates: Candidates[_Matched] = Candidates()
        self._label_uses: dict[str, int] = {}

    @property
    def services(self) -> Services:
        return self._services

    @property
    def selectors(self) -> tuple[int, int]:
        """Active selectors: (indexed by a label, candidates for everything)."""
        return len(self._matched) - self._candidates.unindexed, self._candidates.unindexed

    def use(self, specs: Iterable[SetSpec]) -> None:
        """One more rule list refers to these."""
        for spec in specs:
            entry = self._sets.get(spec.id)
            if entry is None:
                entry = self._sets[spec.id] = _ActiveSet(spec)
            entry.uses += 1
            if entry.uses == 1:
                self._touched.add(spec.id)

    def unuse(self, specs: Iterable[SetSpec]) -> None:
        """One rule list less refers to these."""
        for spec in specs:
            entry = self._sets[spec.id]
            entry.uses -= 1
            if not entry.uses:
                self._touched.add(spec.id)

    def take(self) -> tuple[MapDelta[str, IpSet], dict[str, MembersDelta]]:
        """What changed since the last call."""
        new = [self._sets[set_id] for set_id in self._touched if self._sets[set_id].uses and set_id not in self._known]
        gone = [set_id for set_id in self._touched if not self._sets[set_id].uses]
        self._touched.clear()
        self._activate(new)
        for set_id in gone:
            self._deactivate(self._sets.pop(set_id))
        removed = [set_id for set_id in gone if set_id in self._known]
        self._known.difference_update(removed)
        members: dict[str, MembersDelta] = {}
        for entry in self._with_changes:
            if entry.changed and entry.spec.id in self._known:
                members[entry.spec.id] = MembersDelta(
                    added=frozenset(member for member, came in entry.changed.items() if came),
                    removed=frozenset(member for member, came in entry.changed.items() if not came),
                )
            entry.changed = {}
        self._with_changes.clear()
        self._known.update(entry.spec.id for entry in new)
        upserts = {entry.spec.id: self._whole(entry) for entry in new}
        return MapDelta(upserts=upserts, removes=removed), members

    def snapshot(self) -> dict[str, IpSet]:
        """Every active set as of now; pending changes stay pending."""
        return {set_id: self._whole(self._sets[set_id]) for set_id in self._known}

    def changed(self, item: int, old: State | None, new: State | None) -> None:
        """An item changed (``calc.items.Watcher``)."""
        was: set[_Matched] = set()
        now: set[_Matched] = set()
        if old is not None:
            was.update(entry for entry in self._candidates.find(old.labels) if item in entry.items)
        if new is not None:
            now.update(entry for entry in self._candidates.find(new.labels) if entry.selector.matches(new.labels))
        if not was and not now:
            return
        same_members = old is not None and new is not None and old.nets == new.nets and old.ports == new.ports
        for entry in was:
            if entry not in now:
                entry.items.discard(item)
                if old is not None:
                    self._item_changed(entry, item, old, None)
        for entry in now:
            if entry not in was:
                entry.items.add(item)
                self._item_changed(entry, item, None, new)
            elif not same_members:
                self._item_changed(entry, item, old, new)

    def _item_changed(self, matched: _Matched, item: int, old: State | None, new: State | None) -> None:
        for entry in matched.sets:
            before = _contribution(entry.spec, old.nets, old.ports) if old is not None else ()
            after = _contribution(entry.spec, new.nets, new.ports) if new is not None else ()
            for member in after:
                if member not in before and not self._held_by_another(entry, matched, item, member):
                    entry.note(member, True)
                    self._with_changes.add(entry)
            for member in before:
                if member not in after and not self._held_by_another(entry, matched, item, member):
                    entry.note(member, False)
                    self._with_changes.add(entry)

    def _held_by_another(self, entry: _ActiveSet, matched: _Matched, item: int, member: str) -> bool:
        spec = entry.spec
        if not spec.port_name:
            return any(other in matched.items for other in self._items.others_with(member, item))
        address = member.partition(",")[0]
        return any(
            other in matched.items
            and member in _contribution(spec, self._items.nets_of[other], self._items.ports(other))
            for other in self._items.others_with(address, item)
        )

    def _service_changed(self, service: str, with_ports: bool, member: str, came: bool) -> None:
        """A member came into, or went from, what a service's slices hold (``calc.services``)."""
        for entry in self._service_sets(service, with_ports):
            entry.note(member, came)
            self._with_changes.add(entry)

    def _service_sets(self, service: str, with_ports: bool) -> Iterator[_ActiveSet]:
        kind = IpSetKind.IP_PORT if with_ports else IpSetKind.NET
        set_id = Services.set_id(service, with_ports)
        entry = self._sets.get(set_id)
        if entry is not None and entry.spec.kind is kind:
            yield entry

    def _activate(self, new: list[_ActiveSet]) -> None:
        fresh: dict[str, _Matched] = {}
        for entry in new:
            selector = entry.spec.selector
            if selector is None:
                self._services.activate(entry.spec.service, entry.spec.kind is IpSetKind.IP_PORT)
                continue
            matched = self._matched.get(selector.text)
            if matched is None:
                matched = self._matched[selector.text] = fresh[selector.text] = _Matched(selector)
            entry.matched = matched
            matched.sets.append(entry)
        if not fresh:
            return
        wanted: set[str] = set()
        for matched in fresh.values():
            wanted |= matched.labels
            for label in matched.labels:
                self._label_uses[label] = self._label_uses.get(label, 0) + 1
        self._items.watcher = self
        self._items.require(wanted)
        postings = self._items.postings
        for matched in fresh.values():
            matched.items = postings.match(matched.selector.root)
            self._candidates.add(matched, matched.restrictions)

    def _deactivate(self, entry: _ActiveSet) -> None:
        entry.changed = {}
        matched = entry.matched
        if matched is None:
            if entry.spec.service:
                self._services.deactivate(entry.spec.service, entry.spec.kind is IpSetKind.IP_PORT)
            return
        matched.sets.remove(entry)
        if matched.sets:
            return
        del self._matched[matched.selector.text]
        self._candidates.remove(matched, matched.restrictions)
        unused = []
        for label in matched.labels:
            self._label_uses[label] -= 1
            if not self._label_uses[label]:
                del self._label_uses[label]
                unused.append(label)
        self._items.postings.forget(unused)

    def _whole(self, entry: _ActiveSet) -> IpSet:
        return IpSet(id=entry.spec.id, kind=entry.spec.kind, members=self._members(entry))

    def _members(self, entry: _ActiveSet) -> Collection[str]:
        spec, items = entry.spec, self._items
        if entry.matched is None:
            return frozenset(self._services.members(spec.service, spec.kind is IpSetKind.IP_PORT))
        if spec.port_name:
            found: set[str] = set()
            for item in entry.matched.items & items.with_port.get(spec.port_name, BitMap()):
                found.update(_contribution(spec, items.nets_of[item], items.ports(item)))
            return frozenset(found)
        several = entry.matched.items & items.with_many
        if not several:
            return frozenset(map(items.nets_of.__getitem__, entry.matched.items))  # type: ignore[arg-type]
        if len(entry.matched.items) == 1:
            return frozenset(items.nets_of[several[0]])
        found = set(map(items.nets_of.__getitem__, entry.matched.items - several))  # type: ignore[arg-type]
        for item in several:
            found.update(items.nets_of[item])
        return frozenset(found)


def _contribution(spec: SetSpec, nets: Nets, ports: Ports) -> tuple[str, ...]:
    """Members that one matching item gives to a set."""
    all_nets = (nets,) if isinstance(nets, str) else nets
    if not spec.port_name:
        return all_nets
    return tuple(
        f"{net},{port.protocol}:{port.port}"
        for port in ports
        if port.name == spec.port_name and spec.protocol in ("any", port.protocol)
        for net in all_nets
        if "/" not in net
    )
