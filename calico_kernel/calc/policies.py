"""Which policies are active on this node, and in what order they apply to each local endpoint.

Every policy of the cluster is kept as a few hundred encoded bytes under its selector; only those whose selector matches
a local endpoint are decoded. Policies with one selector are matched together; endpoints that the same selectors match
share one list.

In:   policies and tiers as stored; local endpoints with their labels.
Out:  ``ActivePolicy`` values, uses of IP sets, and for each local endpoint its lists.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from calico_kernel.calc.ipsets import IpSets, SetSpec
from calico_kernel.calc.outbox import Outbox
from calico_kernel.calc.packing import Packer
from calico_kernel.calc.rules import DENY, RuleParser
from calico_kernel.calc.selections import Selection, Selections
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.nodestate import ActivePolicy, ParsedRule, PolicyId, TierPolicies
from calico_kernel.model.policy import (
    GlobalNetworkPolicy,
    NetworkPolicy,
    StagedGlobalNetworkPolicy,
    StagedNetworkPolicy,
    Tier,
)
from calico_kernel.policy.effective import PolicyResource, effective_policy, policy_selector_text
from calico_kernel.policy.order import default_action, policy_key, tier_key
from calico_kernel.selector import SelectorError

STAGED_KUBERNETES = "StagedKubernetesNetworkPolicy"
KINDS: dict[str, type[PolicyResource]] = {
    kind.__struct_config__.tag: kind  # type: ignore[misc]
    for kind in (NetworkPolicy, GlobalNetworkPolicy, StagedNetworkPolicy, StagedGlobalNetworkPolicy)
}
KINDS[STAGED_KUBERNETES] = StagedNetworkPolicy  # which is what it is converted to
_SPECS: dict[str, Any] = {
    name: next(field.type for field in msgspec.structs.fields(kind) if field.name == "spec")
    for name, kind in KINDS.items()
}


class _Content(NamedTuple):
    """What a policy's stored bytes mean; shared by policies with equal bytes."""

    tier: str
    order: float
    ingress: bool
    egress: bool
    untracked: bool
    pre_dnat: bool
    apply_on_forward: bool
    staged: bool
    failed: str
    inbound: tuple[ParsedRule, ...]
    outbound: tuple[ParsedRule, ...]
    sets: tuple[SetSpec, ...]
    selector_text: str

    @property
    def place(self) -> tuple[Any, ...]:
        """All that decides where it stands in lists."""
        return self[:8]


class Lists(NamedTuple):
    """Ordered policies for endpoints that the same selectors match."""

    normal: tuple[TierPolicies, ...] = ()
    forward: tuple[TierPolicies, ...] = ()
    untracked: tuple[TierPolicies, ...] = ()
    pre_dnat: tuple[TierPolicies, ...] = ()


_NO_LISTS = Lists()


class Policies:
    def __init__(self, ip_sets: IpSets) -> None:
        self._ip_sets = ip_sets
        self.out: Outbox[PolicyId, ActivePolicy] = Outbox()
        self.failed: dict[PolicyId, str] = {}
        """Active policies that deny, and why."""
        self._stored: dict[PolicyId, bytes] = {}
        self._packer = Packer()
        self._selections = Selections()
        self._tiers: dict[str, Tier] = {}
        self._endpoints: dict[Hashable, Mapping[str, str]] = {}
        self._matched: dict[Hashable, frozenset[Selection]] = {}
        self._active: dict[PolicyId, _Content] = {}
        self._contents: dict[tuple[str, str, bytes], _Content] = {}
        self._lists: dict[frozenset[Selection], Lists] = {}
        self._new_selections: dict[Selection, None] = {}
        self._new_endpoints: dict[Hashable, None] = {}
        self._dirty_policies: dict[PolicyId, None] = {}
        self._dirty_endpoints: set[Hashable] = set()
        self._moved: set[Selection] = set()
        """Selections in whose lists a policy came, went, or took another place."""
        self._tiers_changed = False

    def __len__(self) -> int:
        return len(self._stored)

    @property
    def tiers(self) -> int:
        return len(self._tiers)

    # ── inputs ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def put(self, policy_id: PolicyId, policy: PolicyResource) -> None:
        """Store or replace. Raises SelectorError when its selector is unusable; the old one is gone then too.
        A staged policy that only announces a deletion counts as absent."""
        if getattr(policy.spec, "staged_action", "") == "Delete":
            self.drop(policy_id)
            return
        try:
            selection, is_new = self._selections.take(policy_selector_text(policy))
        except SelectorError:
            self.drop(policy_id)
            raise
        packed = self._packer.pack(policy.spec)
        old = self._stored.get(policy_id)
        if old == packed:
            return
        if old is not None and self._selection(policy_id, old) is not selection:
            self.drop(policy_id)
        self._stored[policy_id] = packed
        selection.add(policy_id)
        if is_new:
            self._new_selections[selection] = None
        if selection.endpoints:
            self._dirty_policies[policy_id] = None

    def drop(self, policy_id: PolicyId) -> None:
        """Forget it; nothing happens when it is unknown."""
        packed = self._stored.pop(policy_id, None)
        if packed is None:
            return
        selection = self._selection(policy_id, packed)
        selection.discard(policy_id)
        if policy_id in self._active:
            self._dirty_policies[policy_id] = None
            self._moved.add(selection)
        if selection.policies is None:
            self._selections.remove(selection)
            self._new_selections.pop(selection, None)
            for endpoint in selection.endpoints or ():
                self._matched[endpoint] -= {selection}
                self._dirty_endpoints.add(endpoint)

    def _selection(self, policy_id: PolicyId, packed: bytes) -> Selection:
        """Where a stored policy belongs: read from what is stored, so that nothing need be kept for it."""
        content = self._contents.get((policy_id.kind, policy_id.namespace, packed))
        text = policy_selector_text(self._policy(policy_id, packed)) if content is None else content.selector_text
        selection = self._selections.get(text)
        assert selection is not None  # it is kept for as long as a stored policy has it
        return selection

    def put_tier(self, name: str, tier: Tier | None) -> None:
        stored = None if tier is None else Tier(metadata=ObjectMeta(name=name), spec=tier.spec)
        if self._tiers.get(name) != stored:
            self._tiers_changed = True
            if stored is None:
                del self._tiers[name]
            else:
                self._tiers[name] = stored

    def put_endpoint(self, endpoint: Hashable, labels: Mapping[str, str] | None) -> None:
        """A local endpoint has these labels (inherited ones included); None when it is gone."""
        if labels is not None:
            if self._endpoints.get(endpoint) != labels:
                self._endpoints[endpoint] = labels
                self._new_endpoints[endpoint] = None
        elif self._endpoints.pop(endpoint, None) is not None:
            self._new_endpoints.pop(endpoint, None)
            for selection in self._matched.pop(endpoint, ()):
                self._unmatch(selection, endpoint)

    # ── results ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def resolve(self) -> set[Hashable]:
        """Bring active policies and lists up to date; returns the endpoints whose lists may have changed."""
        if not (self._new_selections or self._new_endpoints or self._dirty_policies or self._tiers_changed):
            changed, self._dirty_endpoints = self._dirty_endpoints, set()
            return changed
        self._match()
        self._refresh_policies()
        moved, self._moved = self._moved, set()
        if self._tiers_changed:
            self._lists.clear()
            self._dirty_endpoints.update(self._endpoints)
            self._tiers_changed = False
        elif moved:
            self._lists = {key: lists for key, lists in self._lists.items() if moved.isdisjoint(key)}
            for selection in moved:
                self._dirty_endpoints.update(selection.endpoints or ())
        if len(self._lists) > 2 * len(self._endpoints) + 16:
            used = set(self._matched.values())
            self._lists = {key: lists for key, lists in self._lists.items() if key in used}
        changed, self._dirty_endpoints = self._dirty_endpoints, set()
        return changed

    def lists(self, endpoint: Hashable) -> Lists:
        """Ordered policies of a local endpoint, after ``resolve``."""
        key = self._matched.get(endpoint)
        if not key:
            return _NO_LISTS
        lists = self._lists.get(key)
        if lists is None:
            lists = self._lists[key] = self._build(key)
        return lists

    # ── matching ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _match(self) -> None:
        if len(self._new_selections) > 64:
            self._new_endpoints = dict.fromkeys(self._endpoints)  # then it is cheaper to ask the index for each
        elif self._new_selections:
            for endpoint, labels in self._endpoints.items():
                if endpoint in self._new_endpoints:
                    continue
                found = [selection for selection in self._new_selections if selection.matches(labels)]
                if found:
                    self._set_matched(endpoint, self._matched.get(endpoint, frozenset()).union(found))
        self._new_selections = {}
        for endpoint in self._new_endpoints:
            labels = self._endpoints[endpoint]
            self._set_matched(
                endpoint,
                frozenset(self._selections.matching(labels)),
            )
        self._new_endpoints = {}

    def _set_matched(self, endpoint: Hashable, now: frozenset[Selection]) -> None:
        was = self._matched.get(endpoint)
        self._matched[endpoint] = now
        if was == now:
            return
        self._dirty_endpoints.add(endpoint)
        for selection in now if was is None else now - was:
            if not selection.endpoints:
                selection.endpoints = set()
                self._dirty_policies.update(dict.fromkeys(selection))
            selection.endpoints.add(endpoint)
        for selection in () if was is None else was - now:
            self._unmatch(selection, endpoint)

    def _unmatch(self, selection: Selection, endpoint: Hashable) -> None:
        if selection.endpoints is not None:
            selection.endpoints.discard(endpoint)
            if not selection.endpoints:
                selection.endpoints = None
                self._dirty_policies.update(dict.fromkeys(selection))

    # ── active policies ──────────────────────────────────────────────────────────────────────────────────────────────

    def _refresh_policies(self) -> None:
        for policy_id in self._dirty_policies:
            packed = self._stored.get(policy_id)
            old = self._active.get(policy_id)
            new = None
            if packed is not None:
                new = self._content(policy_id, packed)
                selection = self._selections.get(new.selector_text)
                if selection is None or not selection.endpoints:
                    new = None
                elif old is None or old.place != new.place:
                    self._moved.add(selection)
            if new is not None:
                self._ip_sets.use(new.sets)
                self._active[policy_id] = new
                self.out.set(policy_id, _active_policy(policy_id, new))
            else:
                self._active.pop(policy_id, None)
                self.out.set(policy_id, None)
            if old is not None:
                self._ip_sets.unuse(old.sets)
            if new is not None and new.failed:
                self.failed[policy_id] = new.failed
            else:
                self.failed.pop(policy_id, None)
        self._dirty_policies = {}
        if len(self._contents) > 2 * len(self._active) + 256:
            self._contents.clear()

    def _content(self, policy_id: PolicyId, packed: bytes) -> _Content:
        key = (policy_id.kind, policy_id.namespace, packed)
        found = self._contents.get(key)
        if found is None:
            found = self._contents[key] = _content(self._policy(policy_id, packed))
        return found

    def _policy(self, policy_id: PolicyId, packed: bytes) -> PolicyResource:
        metadata = ObjectMeta(name=policy_id.name, namespace=policy_id.namespace)
        return KINDS[policy_id.kind](metadata=metadata, spec=self._packer.unpack(packed, _SPECS[policy_id.kind]))

    # ── lists ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _build(self, selections: Iterable[Selection]) -> Lists:
        by_tier: dict[str, list[tuple[tuple[float, str], PolicyId, _Content]]] = {}
        for selection in selections:
            for policy_id in selection:
                content = self._active[policy_id]
                if not content.staged:
                    entry = (policy_key(content.order, policy_id), policy_id, content)
                    by_tier.setdefault(content.tier, []).append(entry)
        lists: tuple[list[TierPolicies], ...] = ([], [], [], [])
        for name in sorted(by_tier, key=lambda name: tier_key(name, self._tiers.get(name))):
            policies = sorted(by_tier[name], key=lambda entry: entry[0])
            action = default_action(self._tiers.get(name))
            tracked = [(i, c) for _, i, c in policies if not c.untracked and not c.pre_dnat]
            _append(lists[0], name, action, tracked)
            _append(lists[1], name, action, [(i, c) for i, c in tracked if c.apply_on_forward])
            _append(lists[2], name, "Pass", [(i, c) for _, i, c in policies if c.untracked])
            before_dnat = [(i, c) for _, i, c in policies if c.pre_dnat and not c.untracked]
            _append(lists[3], name, "Pass", before_dnat, with_egress=False)
        return Lists(*map(tuple, lists))


def _append(
    tiers: list[TierPolicies],
    name: str,
    action: Any,
    policies: list[tuple[PolicyId, _Content]],
    *,
    with_egress: bool = True,
) -> None:
    ingress = tuple(policy_id for policy_id, content in policies if content.ingress)
    egress = tuple(policy_id for policy_id, content in policies if content.egress and with_egress)
    if ingress or egress:
        tiers.append(TierPolicies(name=name, default_action=action, ingress=ingress, egress=egress))


def _active_policy(policy_id: PolicyId, content: _Content) -> ActivePolicy:
    return ActivePolicy(
        id=policy_id,
        tier=content.tier,
        inbound=content.inbound,
        outbound=content.outbound,
        untracked=content.untracked,
        pre_dnat=content.pre_dnat,
        apply_on_forward=content.apply_on_forward,
        staged=content.staged,
        failed=content.failed,
    )


def _content(policy: PolicyResource) -> _Content:
    effective = effective_policy(policy)
    parser = RuleParser()
    inbound: tuple[ParsedRule, ...] = DENY
    outbound: tuple[ParsedRule, ...] = DENY
    if not effective.failed:
        inbound = parser.parse(effective.inbound, policy.spec.ingress)
        outbound = parser.parse(effective.outbound, policy.spec.egress)
    return _Content(
        tier=effective.tier,
        order=effective.order,
        ingress=effective.ingress,
        egress=effective.egress,
        untracked=effective.untracked,
        pre_dnat=effective.pre_dnat,
        apply_on_forward=effective.apply_on_forward,
        staged=effective.staged,
        failed=effective.failed,
        inbound=inbound,
        outbound=outbound,
        sets=parser.sets,
        selector_text=policy_selector_text(policy),
    )
