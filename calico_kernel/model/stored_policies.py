"""Policies of Kubernetes, straight from the bytes in which an API server hands them out.

In:    a NetworkPolicy or ClusterNetworkPolicy object.
Out:   the NetworkPolicy or GlobalNetworkPolicy that it means, and what could not be converted.

Each rule is decoded for itself, and strictly: a field that this version does not know might have narrowed it. What
becomes of a rule that cannot be converted keeps it closed:

    NetworkPolicy          it is left out; such policies only ever allow
    ClusterNetworkPolicy   Accept: it is left out; Deny, Pass, or an action unknown here: one that denies everything

(Calico drops a rule with an unknown action, so that what it was to deny falls through to the next one.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct, field
from msgspec import json as mjson

from calico_kernel.errors import ValidationError
from calico_kernel.model import formats
from calico_kernel.model.documents import describe
from calico_kernel.model.kubernetes import (
    POLICY_ORDER,
    Converted,
    Problems,
    convert_rule,
    merged_ports,
    namespace_selector,
    pod_selector,
)
from calico_kernel.model.meta import ObjectMeta, Wire
from calico_kernel.model.policy import (
    Action,
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    IPBlock,
    KubernetesEgressRule,
    KubernetesIngressRule,
    KubernetesPeer,
    KubernetesPort,
    LabelSelector,
    LabelSelectorRequirement,
    NetworkPolicy,
    NetworkPolicySpec,
    PolicyType,
    Port,
    Rule,
    RuleMetadata,
)
from calico_kernel.model.uids import exchanged
from calico_kernel.model.wellknown import KUBERNETES_CLUSTER_POLICY_PREFIX, KUBERNETES_POLICY_PREFIX

TIERS = {"Admin": "kube-admin", "Baseline": "kube-baseline"}
_ACTIONS: dict[str, Action] = {"Accept": "Allow", "Deny": "Deny", "Pass": "Pass"}
_PROTOCOLS = ("tcp", "udp", "sctp")


class PolicyMeta(Wire):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None


# ── strict forms ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _Requirement(LabelSelectorRequirement, forbid_unknown_fields=True):
    pass


class _Selector(LabelSelector, forbid_unknown_fields=True):
    match_expressions: tuple[_Requirement, ...] = ()


class _Block(IPBlock, forbid_unknown_fields=True):
    pass


class _Peer(KubernetesPeer, forbid_unknown_fields=True):
    pod_selector: _Selector | None = None
    namespace_selector: _Selector | None = None
    ip_block: _Block | None = field(default=None, name="ipBlock")


class _Port(KubernetesPort, forbid_unknown_fields=True):
    pass


class _Ingress(KubernetesIngressRule, forbid_unknown_fields=True):
    ports: tuple[_Port, ...] = ()
    from_: tuple[_Peer, ...] = field(default=(), name="from")


class _Egress(KubernetesEgressRule, forbid_unknown_fields=True):
    ports: tuple[_Port, ...] = ()
    to: tuple[_Peer, ...] = ()


class _PolicySpec(Wire, forbid_unknown_fields=True):
    pod_selector: _Selector = field(default_factory=_Selector)
    ingress: tuple[msgspec.Raw, ...] | None = None
    egress: tuple[msgspec.Raw, ...] | None = None
    policy_types: tuple[PolicyType, ...] | None = None


class StoredNetworkPolicy(Wire):
    """``networking.k8s.io/v1`` NetworkPolicy."""

    metadata: PolicyMeta = PolicyMeta()
    spec: _PolicySpec = field(default_factory=_PolicySpec)


class _NetworkPolicyScope(Wire):
    pod_selector: _Selector = field(default_factory=_Selector)
    policy_types: tuple[PolicyType, ...] | None = None


class StoredNetworkPolicyScope(Wire):
    """Which pods a policy governs, and which way, whatever else it holds."""

    metadata: PolicyMeta = PolicyMeta()
    spec: _NetworkPolicyScope = field(default_factory=_NetworkPolicyScope)


class _Pods(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    pod_selector: _Selector
    namespace_selector: _Selector = field(default_factory=_Selector)


class _Subject(Wire, forbid_unknown_fields=True):
    namespaces: _Selector | None = None
    pods: _Pods | None = None


class _Range(Struct, frozen=True, forbid_unknown_fields=True):
    start: int
    end: int


class _Number(Wire, forbid_unknown_fields=True):
    number: int | None = None
    range: _Range | None = None


class _Transport(Wire, forbid_unknown_fields=True):
    destination_port: _Number | None = None


class _Protocol(Wire, forbid_unknown_fields=True):
    tcp: _Transport | None = None
    udp: _Transport | None = None
    sctp: _Transport | None = None
    destination_named_port: str = ""


class _ClusterPeer(Wire, forbid_unknown_fields=True):
    namespaces: _Selector | None = None
    pods: _Pods | None = None
    networks: tuple[str, ...] = ()


class _ClusterIngress(Wire, forbid_unknown_fields=True):
    action: str = ""
    name: str = ""
    peers: tuple[_ClusterPeer, ...] = field(default=(), name="from")
    protocols: tuple[_Protocol, ...] | None = None


class _ClusterEgress(Wire, forbid_unknown_fields=True):
    action: str = ""
    name: str = ""
    peers: tuple[_ClusterPeer, ...] = field(default=(), name="to")
    protocols: tuple[_Protocol, ...] | None = None


class _ActionOnly(Wire):
    action: str = ""


class _ClusterSpec(Wire, forbid_unknown_fields=True):
    tier: str = ""
    priority: int = 0
    subject: _Subject = field(default_factory=_Subject)
    ingress: tuple[msgspec.Raw, ...] | None = None
    egress: tuple[msgspec.Raw, ...] | None = None


class StoredClusterNetworkPolicy(Wire):
    """``policy.networking.k8s.io/v1alpha2`` ClusterNetworkPolicy."""

    metadata: PolicyMeta = PolicyMeta()
    spec: _ClusterSpec = field(default_factory=_ClusterSpec)


class _ClusterScope(Wire):
    tier: str = ""
    priority: int = 0
    subject: _Subject = field(default_factory=_Subject)
    ingress: tuple[msgspec.Raw, ...] | None = None
    egress: tuple[msgspec.Raw, ...] | None = None


class StoredClusterNetworkPolicyScope(Wire):
    metadata: PolicyMeta = PolicyMeta()
    spec: _ClusterScope = field(default_factory=_ClusterScope)


_ingress_rule = mjson.Decoder(_Ingress)
_egress_rule = mjson.Decoder(_Egress)
_cluster_ingress_rule = mjson.Decoder(_ClusterIngress)
_cluster_egress_rule = mjson.Decoder(_ClusterEgress)
_action_only = mjson.Decoder(_ActionOnly)
_cluster_policy = mjson.Decoder(StoredClusterNetworkPolicy)


# ── NetworkPolicy ─────────────────────────────────────────────────────────────────────────────────────────────────────


def network_policy(item: StoredNetworkPolicy) -> tuple[NetworkPolicy, Problems]:
    """Raises ValueError when the pods that the policy is for cannot be told."""
    spec = item.spec
    problems: Problems = []
    ingress = _rules("ingress", spec.ingress or (), _ingress_rule, problems)
    egress = _rules("egress", spec.egress or (), _egress_rule, problems)
    return _network_policy(item.metadata, spec.pod_selector, spec.policy_types or (), ingress, egress), problems


def denying_network_policy(item: StoredNetworkPolicyScope) -> NetworkPolicy:
    """What counts in place of a policy with something in it that is unknown here: its pods are isolated, in the
    directions that it names (in both, when it names none). Raises ValueError as above."""
    types = item.spec.policy_types or ("Ingress", "Egress")
    return _network_policy(item.metadata, item.spec.pod_selector, types, (), ())


def _network_policy(
    meta: PolicyMeta,
    selector: LabelSelector,
    types: Sequence[PolicyType],
    ingress: tuple[Rule, ...],
    egress: tuple[Rule, ...],
) -> NetworkPolicy:
    return NetworkPolicy(
        metadata=_metadata(meta, KUBERNETES_POLICY_PREFIX),
        spec=NetworkPolicySpec(
            tier="default",
            order=POLICY_ORDER,
            ingress=ingress,
            egress=egress,
            selector=pod_selector(selector),
            types=tuple(t for t in ("Ingress", "Egress") if t in types) or ("Ingress",),
        ),
    )


def _rules(direction: str, given: Sequence[msgspec.Raw], decoder: Any, problems: Problems) -> tuple[Rule, ...]:
    made: list[Rule] = []
    for index, raw in enumerate(given):
        path = f"spec.{direction}[{index}]"
        try:
            rules, bad = convert_rule(direction, decoder.decode(raw))
        except msgspec.ValidationError as exc:
            problems.append((path, str(exc)))
            continue
        if bad:
            problems += [(path + part, reason) for part, reason in bad]
        else:
            made += rules
    return tuple(made)


def _metadata(meta: PolicyMeta, prefix: str) -> ObjectMeta:
    return ObjectMeta(
        name=prefix + meta.name,
        namespace=meta.namespace,
        uid=exchanged(meta.uid),
        resource_version=meta.resource_version,
        creation_timestamp=meta.creation_timestamp,
    )


# ── ClusterNetworkPolicy ──────────────────────────────────────────────────────────────────────────────────────────────


def cluster_network_policy(document: Mapping[str, Any]) -> Converted:
    """A document that people wrote. Raises ValidationError when nothing can be made of it."""
    try:
        item = _cluster_policy.decode(mjson.encode(document))
        if not item.metadata.name:
            raise ValueError("metadata.name must be given")
        made, problems = converted_cluster_policy(item)
    except (msgspec.MsgspecError, ValueError, TypeError) as exc:
        raise ValidationError(describe(document), [("", str(exc))]) from exc
    return Converted(made, problems)


def converted_cluster_policy(
    item: StoredClusterNetworkPolicy | StoredClusterNetworkPolicyScope, *, closed: bool = False
) -> tuple[GlobalNetworkPolicy, Problems]:
    """Raises ValueError when its tier or the pods that it is for cannot be told: it counts as absent then.

    closed: something beside the rules is unknown here, so each counts as one that cannot be converted."""
    spec = item.spec
    tier = TIERS.get(spec.tier)
    if tier is None:
        raise ValueError(f"spec.tier: {spec.tier!r} is not Admin or Baseline")
    subject = spec.subject
    if subject.namespaces is not None:
        namespaces, pods = namespace_selector(subject.namespaces), pod_selector(None)
    elif subject.pods is not None:
        namespaces, pods = namespace_selector(subject.pods.namespace_selector), pod_selector(subject.pods.pod_selector)
    else:
        raise ValueError("spec.subject: neither namespaces nor pods are given")
    problems: Problems = []
    ingress = _cluster_rules("ingress", spec.ingress or (), _cluster_ingress_rule, problems, closed)
    egress = _cluster_rules("egress", spec.egress or (), _cluster_egress_rule, problems, closed)
    types: list[PolicyType] = []
    if ingress:
        types.append("Ingress")
    if egress:
        types.append("Egress")
    policy = GlobalNetworkPolicy(
        metadata=_metadata(item.metadata, KUBERNETES_CLUSTER_POLICY_PREFIX),
        spec=GlobalNetworkPolicySpec(
            tier=tier,
            order=spec.priority,
            ingress=ingress,
            egress=egress,
            selector=pods,
            types=tuple(types),
            namespace_selector=namespaces,
        ),
    )
    return policy, problems


def _cluster_rules(
    direction: str, given: Sequence[msgspec.Raw], decoder: Any, problems: Problems, closed: bool
) -> tuple[Rule, ...]:
    made: list[Rule] = []
    for index, raw in enumerate(given):
        try:
            if closed:
                raise ValueError("stands in a policy with a field that is not known here")
            made += _cluster_rule(direction, decoder.decode(raw))
        except ValueError as exc:  # msgspec's is one
            problems.append((f"spec.{direction}[{index}]", str(exc)))
            if _action(raw) != "Accept":
                made.append(Rule(action="Deny"))
    return tuple(made)


def _action(raw: msgspec.Raw) -> str:
    try:
        return _action_only.decode(raw).action
    except msgspec.ValidationError:
        return ""


def _cluster_rule(direction: str, rule: _ClusterIngress | _ClusterEgress) -> list[Rule]:
    action = _ACTIONS.get(rule.action)
    if action is None:
        raise ValueError(f"action: {rule.action!r} is not Accept, Deny or Pass")
    if not rule.peers:
        raise ValueError("no peer is given")
    metadata = RuleMetadata(annotations={"name": rule.name}) if rule.name else None
    remotes = [_remote(peer, direction) for peer in rule.peers]
    rules: list[Rule] = []
    for protocol, ports in _ports_by_protocol(rule.protocols or ()):
        for remote in remotes:
            if direction == "ingress":
                sides = {"source": remote, "destination": EntityRule(ports=ports)}
            else:
                sides = {"destination": msgspec.structs.replace(remote, ports=ports)}
            given: dict[str, Any] = {name: side for name, side in sides.items() if side != EntityRule()}
            rules.append(Rule(action=action, protocol=protocol or None, metadata=metadata, **given))
    return rules


def _remote(peer: _ClusterPeer, direction: str) -> EntityRule:
    given = (peer.namespaces is not None) + (peer.pods is not None) + bool(peer.networks)
    if given != 1 or (peer.networks and direction == "ingress"):
        raise ValueError("a peer must be one of namespaces, pods and, for egress, networks")
    if peer.namespaces is not None:
        return EntityRule(namespace_selector=namespace_selector(peer.namespaces))
    if peer.pods is not None:
        return EntityRule(
            selector=pod_selector(peer.pods.pod_selector),
            namespace_selector=namespace_selector(peer.pods.namespace_selector),
        )
    return EntityRule(nets=tuple(_network(text) for text in peer.networks))


def _network(text: str) -> str:
    if "/" not in text:
        raise ValueError(f"{text!r} is not a CIDR")
    return str(formats.loose_network(text))


def _ports_by_protocol(given: Sequence[_Protocol]) -> list[tuple[str, tuple[Port, ...]]]:
    """Destination ports of each protocol, () for all of them; "" for any protocol, or for named ports of any."""
    found: dict[str, tuple[Port, ...]] = {} if given else {"": ()}
    for one in given:
        name, ports = _protocol(one)
        if not name and not ports:
            return [("", ())]
        found[name] = () if not ports or found.get(name) == () else (*found.get(name, ()), *ports)
    return [(name, merged_ports(found[name])) for name in sorted(found)]


def _protocol(given: _Protocol) -> tuple[str, tuple[Port, ...]]:
    chosen = [(name, transport) for name in _PROTOCOLS if (transport := getattr(given, name)) is not None]
    if len(chosen) + bool(given.destination_named_port) > 1:
        raise ValueError("protocols: one entry names more than one protocol")
    if given.destination_named_port:
        return "", (formats.canonical_port(given.destination_named_port),)
    if not chosen:
        return "", ()
    name, transport = chosen[0]
    port = transport.destination_port
    if port is None:
        return name.upper(), ()
    if (port.number is None) == (port.range is None):
        raise ValueError("protocols: destinationPort needs a number or a range")
    text = str(port.number) if port.range is None else f"{port.range.start}:{port.range.end}"
    return name.upper(), (formats.canonical_port(text),)
