"""NodeState as a plugin would hold it: deltas folded one after the other, each checked against its contract.

In:   deltas of ``calico_kernel.calc``.   Out: plain dictionaries to compare; AssertionError for a delta that is not
consistent, changes nothing, or repeats what is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from calico_kernel.model.nodestate import Delta, MapDelta, Match, ParsedRule, PolicyId, PolicyList

_MAPS = ("policies", "profiles", "workloads", "host_endpoints", "routes", "vteps", "pools", "hosts")


class FoldedState:
    """``maps``: name of the Delta field -> key -> value; IP sets as (kind, members)."""

    def __init__(self) -> None:
        self.maps: dict[str, dict[Any, Any]] = {name: {} for name in ("ip_sets", *_MAPS)}
        self.config: Any = None
        self.needs: Any = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FoldedState):
            return NotImplemented
        return (self.maps, self.config, self.needs) == (other.maps, other.config, other.needs)

    __hash__ = None  # type: ignore[assignment]

    def differences(self, other: FoldedState) -> dict[str, dict[Any, tuple[Any, Any]]]:
        """Map name -> key -> (value here, value there), for what differs; None for absent."""
        pairs = {name: (mine, other.maps[name]) for name, mine in self.maps.items()}
        pairs["rest"] = ({"config": self.config, "needs": self.needs}, {"config": other.config, "needs": other.needs})
        found: dict[str, dict[Any, tuple[Any, Any]]] = {}
        for name, (mine, theirs) in pairs.items():
            differ = [key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)]
            if differ:
                found[name] = {key: (mine.get(key), theirs.get(key)) for key in differ}
        return found

    def __repr__(self) -> str:
        return f"FoldedState({self.maps!r}, config={self.config!r}, needs={self.needs!r})"

    @classmethod
    def of(cls, *deltas: Delta | None) -> FoldedState:
        state = cls()
        for delta in deltas:
            if delta is not None:
                state.apply(delta)
        return state

    def apply(self, delta: Delta, *, strict: bool = True) -> None:
        """Fold ``delta`` in. ``strict``: also refuse what is no change; a merged delta may say what is known."""
        if delta.full:
            self.maps = {name: {} for name in self.maps}
            self.config = self.needs = None
        assert delta, "an empty delta was given out"
        self._apply_sets(delta, strict and not delta.full)
        for name in _MAPS:
            changed: MapDelta[Any, Any] = getattr(delta, name)
            known = self.maps[name]
            for key, value in changed.upserts.items():
                assert not strict or key not in known or known[key] != value, f"{name}: {key} is given out again"
                known[key] = value
            for key in changed.removes:
                assert not strict or key in known, f"{name}: {key} is removed but was never there"
                known.pop(key, None)
        if delta.config is not None:
            assert not strict or delta.config != self.config, "the configuration is given out again"
            self.config = delta.config
        if delta.needs is not None:
            assert not strict or delta.needs != self.needs, "the needs are given out again"
            self.needs = delta.needs
        self.check()

    def _apply_sets(self, delta: Delta, strict: bool) -> None:
        sets = self.maps["ip_sets"]
        for set_id, change in delta.ip_set_members.items():
            kind, members = sets[set_id]
            added, removed = set(change.added), set(change.removed)
            if strict:
                assert added or removed, f"{set_id}: no change of members"
                assert not added & members, f"{set_id}: {added & members} came again"
                assert removed <= members, f"{set_id}: {removed - members} went without being there"
            sets[set_id] = kind, (members - removed) | added
        for set_id, ip_set in delta.ip_sets.upserts.items():
            assert not strict or set_id not in sets, f"{set_id} is given out again"
            sets[set_id] = ip_set.kind, set(ip_set.members)
        for set_id in delta.ip_sets.removes:
            assert not strict or set_id in sets, f"{set_id} is removed but was never there"
            sets.pop(set_id, None)

    def check(self) -> None:
        """What is referred to is there, and nothing is there that is not referred to."""
        policies: Mapping[PolicyId, Any] = self.maps["policies"]
        profiles: Mapping[str, Any] = self.maps["profiles"]
        used_sets: set[str] = set()
        for value in (*policies.values(), *profiles.values()):
            for rule in (*value.inbound, *value.outbound):
                used_sets.update(sets_of(rule))
        assert used_sets == self.maps["ip_sets"].keys(), "sets and the rules that use them disagree"
        used_profiles: set[str] = set()
        lists = [value.policies for value in self.maps["workloads"].values()]
        for host in self.maps["host_endpoints"].values():
            lists += [host.normal, host.forward, host.untracked, host.pre_dnat]
        for policy_list in lists:
            used_profiles.update(policy_list.profiles)
            for policy in policies_of(policy_list):
                assert policy in policies, f"an endpoint names {policy}, which is not active"
                assert not policies[policy].staged, f"an endpoint names {policy}, which is staged"
        assert used_profiles == profiles.keys(), "profiles and the endpoints that use them disagree"
        by_value: dict[PolicyList, PolicyList] = {}
        for policy_list in lists:
            assert by_value.setdefault(policy_list, policy_list) is policy_list, "equal lists are not one object"


def policies_of(policy_list: PolicyList) -> Iterator[PolicyId]:
    for tier in policy_list.tiers:
        yield from tier.ingress
        yield from tier.egress


def sets_of(rule: ParsedRule) -> Iterator[str]:
    """Ids of the sets that a rule refers to."""
    for side in (rule.source, rule.destination):
        yield from _sets_of_side(side)


def _sets_of_side(side: Match) -> Iterator[str]:
    yield from side.ip_sets
    yield from side.named_ports
    yield from side.services
    yield from side.not_ip_sets
    yield from side.not_named_ports
