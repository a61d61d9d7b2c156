"""Every labelled thing with addresses in the cluster (workload and host endpoints, network sets), in a few bytes each.

An item is a small number into parallel columns. What is kept: its label set and context (``calc.labels``), its set
members, its named ports, and who else has the same address. The resource itself is dropped.

In:   parsed endpoints and network sets.   Out: changes of selector matches, to ``calc.ipsets``.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from pyroaring import BitMap

from calico_kernel.calc.labels import ContextKey, Contexts, LabelSets, each, with_id, without_id
from calico_kernel.calc.postings import Postings

Nets = str | tuple[str, ...]
"""Set members of an item: the only one, or each once."""


class NamedPort(NamedTuple):
    """A port that an endpoint names. ``protocol``: "tcp", "udp" or "sctp"."""

    name: str
    protocol: str
    port: int


Ports = tuple[NamedPort, ...]


class State(NamedTuple):
    """What an item has at one moment."""

    labels: Mapping[str, str]
    nets: Nets
    ports: Ports


class Watcher(Protocol):
    """Is told of each change of an item, before and after in one call; None means absent."""

    def changed(self, item: int, old: State | None, new: State | None) -> None: ...


class Items:
    def __init__(self) -> None:
        self.label_sets = LabelSets()
        self.contexts = Contexts()
        self.postings = Postings(self.label_sets, self.contexts)
        self.watcher: Watcher | None = None
        """None until the first selector is active: until then nothing but the columns is kept."""
        self.ids: dict[str, int] = {}
        self._free: list[int] = []
        self._label_set_of = array("I")
        self._context_of = array("I")
        self._ports_of = array("I")
        self._node_of = array("I")
        self.nets_of: list[Nets] = []
        self.holders: dict[str, int | set[int]] = {}
        """Set member -> the items that have it."""
        self._nodes = [""]
        self._node_ids = {"": 0}
        self._ports: list[Ports] = [()]
        self._port_ids: dict[Ports, int] = {(): 0}
        self._port_uses = array("I", [0])
        self._free_ports: list[int] = []
        self.with_port: dict[str, BitMap] = {}
        """Items that define a port of this name."""
        self.with_many = BitMap()
        """Items that have not exactly one member."""

    def __len__(self) -> int:
        return len(self.ids)

    def put(
        self, key: str, labels: Mapping[str, str], context_key: ContextKey, nets: Nets, ports: Ports, node: str = ""
    ) -> None:
        """Add or replace the item. ``node``: where the workload runs that it is; "" for anything else.
        Raises ValueError, and changes nothing, when a label cannot be held."""
        context = self.contexts.take(context_key)
        try:
            label_set = self.label_sets.take(labels)
        except ValueError:
            self.contexts.give(context)
            raise
        ports_id = self._ports_id(ports) if ports else 0
        item = self.ids.get(key)
        if item is None:
            item = self._new_item(key, nets)
            self._node_of[item] = self._node_id(node)
            self._label_set_of[item] = label_set
            self._context_of[item] = context
            self.contexts.items[context] = with_id(self.contexts.items[context], item)
            self._hold(item, nets, ports_id)
            if self.watcher is not None:
                new = State(self._labels(label_set, context), nets, ports)
                self.postings.add(item, new.labels)
                self.watcher.changed(item, None, new)
            return
        self._node_of[item] = self._node_id(node)
        old_label_set, old_context = self._label_set_of[item], self._context_of[item]
        old_nets, old_ports = self.nets_of[item], self._ports_of[item]
        if label_set == old_label_set and context == old_context and ports_id == old_ports and nets == old_nets:
            self.label_sets.give(label_set)
            self.contexts.give(context)
            return
        old = self.state(item) if self.watcher is not None else None
        if nets != old_nets or ports_id != old_ports:
            self._port_uses[ports_id] += 1  # held meanwhile: old and new ports may be the same
            self._release(item, old_nets, old_ports)
            self.nets_of[item] = nets
            self._hold(item, nets, ports_id)
            self._port_uses[ports_id] -= 1
        self._label_set_of[item] = label_set
        if context != old_context:
            held = self.contexts.items
            held[old_context] = without_id(held[old_context], item)
            held[context] = with_id(held[context], item)
            self._context_of[item] = context
        self.label_sets.give(old_label_set)
        self.contexts.give(old_context)
        if self.watcher is not None and old is not None:
            new = State(self._labels(label_set, context), nets, ports)
            self.postings.move(item, old.labels, new.labels)
            self.watcher.changed(item, old, new)

    def drop(self, key: str) -> None:
        """Remove the item; nothing happens when it is unknown."""
        item = self.ids.pop(key, None)
        if item is None:
            return
        old = self.state(item) if self.watcher is not None else None
        label_set, context = self._label_set_of[item], self._context_of[item]
        self._release(item, self.nets_of[item], self._ports_of[item])
        self.contexts.items[context] = without_id(self.contexts.items[context], item)
        self.label_sets.give(label_set)
        self.contexts.give(context)
        self.nets_of[item] = ()
        self.postings.all.discard(item)
        self.with_many.discard(item)
        self._free.append(item)
        if self.watcher is not None and old is not None:
            self.postings.remove(item, old.labels)
            self.watcher.changed(item, old, None)

    def set_profile(self, profile: str, labels: Mapping[str, str] | None) -> bool:
        """Replace what ``profile`` gives to its endpoints (None: it is gone); True when that is a change.
        Costs as much as it has endpoints."""
        contexts = self.contexts
        if contexts.gives(profile, labels):
            return False
        if self.watcher is None:
            contexts.set_profile(profile, labels)
            return True
        affected = [(context, contexts.labels(context)) for context in contexts.with_profile(profile)]
        contexts.set_profile(profile, labels)
        for context, before in affected:
            after = contexts.labels(context)
            if before == after:
                continue
            for item in list(each(contexts.items[context])):
                own = self.label_sets.labels(self._label_set_of[item])
                nets, ports = self.nets_of[item], self._ports[self._ports_of[item]]
                old, new = State({**before, **own}, nets, ports), State({**after, **own}, nets, ports)
                self.postings.move(item, old.labels, new.labels)
                self.watcher.changed(item, old, new)
        return True

    def state(self, item: int) -> State:
        return State(
            self._labels(self._label_set_of[item], self._context_of[item]),
            self.nets_of[item],
            self._ports[self._ports_of[item]],
        )

    def ports(self, item: int) -> Ports:
        return self._ports[self._ports_of[item]]

    def effective_labels(self, labels: Mapping[str, str], context_key: ContextKey) -> Mapping[str, str]:
        """Labels as selectors see them, for something that need not be an item."""
        context = self.contexts.take(context_key)
        try:
            return {**self.contexts.labels(context), **labels}
        finally:
            self.contexts.give(context)

    def require(self, labels: set[str]) -> None:
        """Index these labels."""
        self.postings.require(labels, self._label_set_of)

    def others_with(self, member: str, item: int) -> Iterator[int]:
        """Items other than ``item`` that have ``member``."""
        holders = self.holders.get(member)
        if isinstance(holders, int):
            if holders != item:
                yield holders
        elif holders is not None:
            for other in holders:
                if other != item:
                    yield other

    def _labels(self, label_set: int, context: int) -> Mapping[str, str]:
        inherited = self.contexts.labels(context)
        return {**inherited, **self.label_sets.labels(label_set)} if label_set else inherited

    def _new_item(self, key: str, nets: Nets) -> int:
        if self._free:
            item = self._free.pop()
            self.nets_of[item] = nets
        else:
            item = len(self.nets_of)
            self.nets_of.append(nets)
            self._label_set_of.append(0)
            self._context_of.append(0)
            self._ports_of.append(0)
            self._node_of.append(0)
        self.ids[key] = item
        self.postings.all.add(item)
        return item

    def _hold(self, item: int, nets: Nets, ports_id: int) -> None:
        holders = self.holders
        if type(nets) is str:
            if holders.setdefault(nets, item) is not item:
                self._share(nets, item)
            self.with_many.discard(item)
        else:
            self.with_many.add(item)
            for member in nets:
                if holders.setdefault(member, item) is not item:
                    self._share(member, item)
        self._ports_of[item] = ports_id
        if ports_id:
            self._port_uses[ports_id] += 1
            for port in self._ports[ports_id]:
                self.with_port.setdefault(port.name, BitMap()).add(item)

    def _share(self, member: str, item: int) -> None:
        held = self.holders[member]
        if isinstance(held, set):
            held.add(item)
        elif held != item:
            self.holders[member] = {held, item}

    def _release(self, item: int, nets: Nets, ports_id: int) -> None:
        for member in (nets,) if type(nets) is str else nets:
            held = self.holders.get(member)
            if isinstance(held, set):
                held.discard(item)
                if len(held) == 1:
                    self.holders[member] = held.pop()
            elif held == item:
                del self.holders[member]
        if ports_id:
            ports = self._ports[ports_id]
            for port in ports:
                items = self.with_port.get(port.name)
                if items is not None:
                    items.discard(item)
                    if not items:
                        del self.with_port[port.name]
            self._port_uses[ports_id] -= 1
            if not self._port_uses[ports_id]:
                del self._port_ids[ports]
                self._ports[ports_id] = ()
                self._free_ports.append(ports_id)

    def workloads(self) -> Iterator[tuple[str, str, Nets]]:
        """(key, node, addresses) of every item that is a workload on a node."""
        for key, item in self.ids.items():
            if self._node_of[item]:
                yield key, self._nodes[self._node_of[item]], self.nets_of[item]

    def _node_id(self, node: str) -> int:
        """Nodes are few next to what runs on them; a name is never forgotten."""
        found = self._node_ids.get(node)
        if found is None:
            found = self._node_ids[node] = len(self._nodes)
            self._nodes.append(node)
        return found

    def _ports_id(self, ports: Ports) -> int:
        found = self._port_ids.get(ports)
        if found is None:
            if self._free_ports:
                found = self._free_ports.pop()
                self._ports[found] = ports
            else:
                found = len(self._ports)
                self._ports.append(ports)
                self._port_uses.append(0)
            self._port_ids[ports] = found
        return found
