"""Which policies and profiles govern which endpoints, and whose rules name them: what ``calicoq`` shows.

In:    resources, stored or of manifests.
Out:   ``Related``: subjects (endpoints and network sets), policies in evaluation order, and which match which.

What a policy means is said by ``calico_kernel.policy``: its effective selectors, its order, where it has a say, the
labels that endpoints inherit. What matches is told by the posting lists of ``calico_kernel.calc``, for all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from calico_kernel.calc.snapshot import Snapshot
from calico_kernel.errors import ValidationError
from calico_kernel.model import kubernetes, names
from calico_kernel.model.endpoints import HostEndpoint, WorkloadEndpoint
from calico_kernel.model.network import GlobalNetworkSet, NetworkSet
from calico_kernel.model.policy import EntityRule, Profile, StagedKubernetesNetworkPolicy, Tier
from calico_kernel.model.wellknown import (
    DEFAULT_ALLOW_PROFILE,
    KUBERNETES_CLUSTER_POLICY_PREFIX,
    KUBERNETES_POLICY_PREFIX,
)
from calico_kernel.policy.effective import (
    EffectivePolicy,
    EffectiveRule,
    effective_policy,
    effective_profile,
    entity_selector_text,
    policy_selector_text,
)
from calico_kernel.policy.labels import (
    host_endpoint_labels,
    inherit,
    network_set_labels,
    network_set_profiles,
    workload_labels,
)
from calico_kernel.policy.order import ordered_tiers
from calico_kernel.policy.verdict import Hook, hooks_of
from calico_kernel.selector import Selector

POLICIES = ("NetworkPolicy", "GlobalNetworkPolicy")
STAGED = ("StagedNetworkPolicy", "StagedGlobalNetworkPolicy", "StagedKubernetesNetworkPolicy")
KINDS = ("Tier", *POLICIES, "Profile", "WorkloadEndpoint", "HostEndpoint", "NetworkSet", "GlobalNetworkSet")
"""What has a part in the answers; staged policies only where asked for."""


class Subject(NamedTuple):
    """Something that selectors match. ``node``: "" of a network set. ``path``: what stands behind the node in its full
    id, ``<orchestrator>/<namespace>.<workload>/<endpoint>`` or its name. ``labels``: with what is handed down."""

    kind: str
    namespace: str
    name: str
    node: str
    path: str
    labels: Mapping[str, str]
    profiles: tuple[str, ...] = ()
    interface: str = ""

    @property
    def id(self) -> str:
        return f"{self.node}/{self.path}" if self.node else self.path


class Named(NamedTuple):
    """A policy or profile by the name that people use. ``staged`` policies are shown, but have no effect."""

    kind: str
    namespace: str
    name: str
    tier: str = ""
    staged: bool = False

    @property
    def title(self) -> str:
        """``shop/web``, as ``calicoq policy`` takes it."""
        return f"{'staged:' if self.staged else ''}{f'{self.namespace}/' if self.namespace else ''}{self.name}"


class Reference(NamedTuple):
    """A selector in a rule. ``rule`` counts from 1. ``excludes``: the rule is for those that it does not match."""

    by: Named
    direction: str
    rule: int
    side: str
    excludes: bool
    text: str
    selector: Selector


class Policy(NamedTuple):
    """``text``: its selector as the operator would recognise it."""

    named: Named
    effective: EffectivePolicy
    text: str
    references: tuple[Reference, ...]


class TierOfPolicies(NamedTuple):
    """``order``: None without one, or where the tier does not exist (``stored``)."""

    name: str
    order: float | None
    stored: bool
    policies: tuple[Policy, ...]


class Governing(NamedTuple):
    policy: Policy
    tier: TierOfPolicies
    hooks: tuple[Hook, ...]


Wanted = Callable[[Subject], bool]
"""Whether a subject is asked about; its labels are not known yet."""


class Related:
    """``wanted``: of the subjects, those that are asked about. ``rejected``: (resource, reason) of what cannot be read
    and counts as absent."""

    def __init__(self, resources: Iterable[Any], wanted: Wanted) -> None:
        policies: list[tuple[EffectivePolicy, Policy]] = []
        tiers: dict[str, Tier] = {}
        profiles: dict[str, Profile] = {}
        found: list[tuple[Subject, Any]] = []
        self.rejected: list[tuple[str, str]] = []
        self.nodes: set[str] = set()
        for resource in resources:
            if isinstance(resource, Tier):
                tiers[resource.metadata.name] = resource
            elif isinstance(resource, Profile):
                profiles[resource.metadata.name] = resource
            elif isinstance(resource, WorkloadEndpoint | HostEndpoint | NetworkSet | GlobalNetworkSet):
                subject = _subject(resource)
                self.nodes.add(subject.node)
                if wanted(subject):
                    found.append((subject, resource))
            else:
                policies += self._read(resource)
        self.profiles: Mapping[str, tuple[Reference, ...]] = {
            DEFAULT_ALLOW_PROFILE: (),
            **{name: _profile_references(profile) for name, profile in sorted(profiles.items())},
        }
        handed_down = {name: profile.spec.labels_to_apply for name, profile in profiles.items()}
        self.subjects = sorted(self._labelled(found, handed_down), key=lambda subject: (_rank(subject), subject.id))
        made = {effective.id: policy for effective, policy in policies}
        self.tiers = [
            TierOfPolicies(
                name=name,
                order=tiers[name].spec.order if name in tiers else None,
                stored=name in tiers,
                policies=tuple(made[effective.id] for effective in ordered),
            )
            for name, ordered in ordered_tiers((effective for effective, _ in policies), tiers)
        ]

    def _labelled(
        self, found: Iterable[tuple[Subject, Any]], handed_down: Mapping[str, Mapping[str, str]]
    ) -> Iterator[Subject]:
        for subject, resource in found:
            given = (handed_down[name] for name in subject.profiles if name in handed_down)
            labels = inherit(_own_labels(resource), given)
            if "\0" in "".join(labels.values()):
                self.rejected.append((f"{subject.kind}({subject.id})", "a label value holds a NUL character"))
            else:
                yield subject._replace(labels=labels)

    def _read(self, resource: Any) -> Iterator[tuple[EffectivePolicy, Policy]]:
        kind, meta = resource.kind, resource.metadata
        try:
            if isinstance(resource, StagedKubernetesNetworkPolicy):
                resource = kubernetes.staged_policy(resource)
            effective = effective_policy(resource)
        except (ValidationError, ValueError) as exc:
            reason = "; ".join(f"{path}: {said}" for path, said in getattr(exc, "problems", ())) or str(exc)
            self.rejected.append((f"{kind}({meta.namespace + '/' if meta.namespace else ''}{meta.name})", reason))
            return
        named = Named(kind, meta.namespace, meta.name, effective.tier, effective.staged)
        references = tuple(_references(named, effective, resource))
        yield effective, Policy(named, effective, policy_selector_text(resource) or "all()", references)

    def policies(self) -> Iterator[tuple[TierOfPolicies, Policy]]:
        """In the order in which they are evaluated."""
        for tier in self.tiers:
            for policy in tier.policies:
                yield tier, policy

    @cached_property
    def _snapshot(self) -> Snapshot:
        return Snapshot(subject.labels for subject in self.subjects)

    def places(self, selector: Selector) -> Iterable[int]:
        """Where in ``subjects`` those stand that ``selector`` matches, ascending."""
        return self._snapshot.matching(selector)

    def matching(self, selector: Selector) -> list[Subject]:
        return [self.subjects[place] for place in self.places(selector)]

    def governing(self) -> list[list[Governing]]:
        """For each subject, the policies that have a say there, in the order in which packets meet them."""
        found: list[list[Governing]] = [[] for _ in self.subjects]
        self._snapshot.index(policy.effective.selector for _, policy in self.policies())
        for tier, policy in self.policies():
            for place in self._snapshot.matching(policy.effective.selector):
                hooks = hooks_at(policy.effective, self.subjects[place])
                if hooks:
                    found[place].append(Governing(policy, tier, hooks))
        for one in found:
            one.sort(key=lambda governing: _HOOK_ORDER.index(governing.hooks[-1]))  # stable: tiers stay in order
        return found

    def references(self) -> list[list[Reference]]:
        """For each subject, the selectors in rules that match it, in the order of evaluation, profiles last."""
        every = [reference for _, policy in self.policies() for reference in policy.references]
        every += [reference for references in self.profiles.values() for reference in references]
        self._snapshot.index(reference.selector for reference in every)
        found: list[list[Reference]] = [[] for _ in self.subjects]
        for reference in every:
            for place in self._snapshot.matching(reference.selector):
                found[place].append(reference)
        return found

    def named(self, name: str) -> Policy | None:
        """The policy that people mean by ``[staged:][NAMESPACE/]NAME``: by ``TIER.NAME`` too where the name lacks its
        tier, and by the name that a policy of Kubernetes has there."""
        staged, rest = name.startswith("staged:"), name.removeprefix("staged:")
        namespace, _, short = rest.rpartition("/")
        of_place = [
            policy
            for _, policy in self.policies()
            if policy.named.namespace == namespace and policy.named.staged is staged
        ]
        prefix = KUBERNETES_POLICY_PREFIX if namespace else KUBERNETES_CLUSTER_POLICY_PREFIX
        for wanted in (
            lambda one: one.name == short,
            lambda one: f"{one.tier}.{one.name}" == short,
            lambda one: one.name == prefix + short,
        ):
            found = next((policy for policy in of_place if wanted(policy.named)), None)
            if found is not None:
                return found
        return None


_HOOK_ORDER: tuple[Hook, ...] = ("untracked", "pre-DNAT", "normal")


def hooks_at(policy: EffectivePolicy, subject: Subject) -> tuple[Hook, ...]:
    """Where at ``subject`` a policy that matches it has a say; nowhere at a network set."""
    if not subject.node:
        return ()
    return hooks_of(policy, of_host=subject.kind == "HostEndpoint", interface=subject.interface)


# ── subjects ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _subject(resource: Any) -> Subject:
    meta = resource.metadata
    if isinstance(resource, WorkloadEndpoint):
        spec = resource.spec
        third = names.endpoint_ids(resource).segments()[2][1]
        path = f"{spec.orchestrator}/{meta.namespace}.{third}/{spec.endpoint}"
        return Subject("WorkloadEndpoint", meta.namespace, meta.name, spec.node, path, {}, spec.profiles)
    if isinstance(resource, HostEndpoint):
        host = resource.spec
        return Subject(
            "HostEndpoint", "", meta.name, host.node, meta.name, {}, host.profiles, interface=host.interface_name
        )
    path = f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name
    return Subject(resource.kind, meta.namespace, meta.name, "", path, {}, network_set_profiles(resource))


def _own_labels(resource: Any) -> dict[str, str]:
    if isinstance(resource, WorkloadEndpoint):
        return workload_labels(resource)
    return host_endpoint_labels(resource) if isinstance(resource, HostEndpoint) else network_set_labels(resource)


def _rank(subject: Subject) -> int:
    return ("WorkloadEndpoint", "HostEndpoint", "NetworkSet", "GlobalNetworkSet").index(subject.kind)


# ── selectors of rules ────────────────────────────────────────────────────────────────────────────────────────────────


def _references(named: Named, effective: Any, resource: Any) -> Iterator[Reference]:
    """``effective``: of a policy or profile. One that denies because a rule cannot be understood names nobody."""
    if effective.failed:
        return
    rules: tuple[tuple[str, Sequence[EffectiveRule], Any], ...] = (
        ("inbound", effective.inbound, resource.spec.ingress),
        ("outbound", effective.outbound, resource.spec.egress),
    )
    for direction, meant, written in rules:
        for rule in meant:
            for side in ("source", "destination"):
                entity: EntityRule = getattr(written[rule.index], side)
                positive, negative = getattr(rule, side).selector, getattr(rule, side).not_selector
                if positive is not None:
                    text = entity_selector_text(entity, named.namespace)
                    if text and entity.not_selector:
                        text = f"({text}) && (!({entity.not_selector}))"
                    yield Reference(named, direction, rule.index + 1, side, False, text, positive)
                if negative is not None:
                    yield Reference(named, direction, rule.index + 1, side, True, entity.not_selector, negative)


def _profile_references(profile: Profile) -> tuple[Reference, ...]:
    named = Named("Profile", "", profile.metadata.name)
    return tuple(_references(named, effective_profile(profile), profile))
