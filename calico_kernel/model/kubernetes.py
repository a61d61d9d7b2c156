"""Kubernetes objects as Calico sees them: profiles, policies, endpoints and services.

In:    documents of Kubernetes kinds (from people, or mirrored from an API server).
Out:   the resources that they mean to Calico, and what could not be converted.

    NetworkPolicy   -> NetworkPolicy knp.default.<name>, tier default, order 1000
    ClusterNetworkPolicy -> GlobalNetworkPolicy kcnp.<name>, tier kube-admin or kube-baseline
    Namespace       -> Profile kns.<name>: allow all, and the namespace's labels as pcns.*
    ServiceAccount  -> Profile ksa.<namespace>.<name>: its labels as pcsa.*
    Pod             -> WorkloadEndpoint <node>-k8s-<pod>-eth0
    Service, EndpointSlice -> KubernetesService, KubernetesEndpointSlice

What the API server would have filled in is filled in here too: a document that people apply never went through one.
A rule that cannot be converted is left out and reported; as policies of Kubernetes only ever allow, less is admitted.
(Calico's own converter lets a rule with an unreadable ``ipBlock`` match everything; ours leaves it out.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from calico_kernel.errors import ValidationError
from calico_kernel.model import formats
from calico_kernel.model.codec import without_nulls
from calico_kernel.model.documents import describe, read_struct
from calico_kernel.model.meta import ObjectMeta, Resource, Wire
from calico_kernel.model.policy import (
    EntityRule,
    KubernetesEgressRule,
    KubernetesIngressRule,
    KubernetesPeer,
    KubernetesPort,
    LabelSelector,
    NetworkPolicy,
    NetworkPolicySpec,
    PolicyType,
    Port,
    Profile,
    ProfileSpec,
    Rule,
    StagedKubernetesNetworkPolicy,
    StagedNetworkPolicy,
    StagedNetworkPolicySpec,
)
from calico_kernel.model.wellknown import (
    KUBERNETES_POLICY_PREFIX,
    NAME_LABEL,
    NAMESPACE_LABEL_PREFIX,
    NAMESPACE_PROFILE_PREFIX,
    SERVICE_ACCOUNT_LABEL_PREFIX,
    SERVICE_ACCOUNT_PROFILE_PREFIX,
)

POLICY_ORDER = 1000

Problems = list[tuple[str, str]]
S = TypeVar("S", bound=msgspec.Struct)


class Converted(Struct, frozen=True):
    """``problems``: (field path, reason) of what was left out."""

    resource: Resource
    problems: Sequence[tuple[str, str]] = ()


def supported(document: Mapping[str, Any]) -> bool:
    """Whether ``convert`` knows the document's kind."""
    return _kind_of(document) in _CONVERTERS


def _kind_of(document: Mapping[str, Any]) -> tuple[str, str]:
    """("v1", "Pod"); text for whatever stands there, so that it can be looked up."""
    return str(document.get("apiVersion")), str(document.get("kind"))


def convert(document: Mapping[str, Any]) -> Converted:
    """What a Kubernetes object means to Calico. Raises ValidationError when nothing can be made of it."""
    convert_one = _CONVERTERS.get(_kind_of(document))
    if convert_one is None:
        kind, version = document.get("kind"), document.get("apiVersion")
        raise ValidationError(describe(document), [("kind", f"cannot convert {kind} of {version}")])
    return convert_one(document)


def namespace_profile_name(namespace: str) -> str:
    return NAMESPACE_PROFILE_PREFIX + namespace


def service_account_profile_name(namespace: str, name: str) -> str:
    return f"{SERVICE_ACCOUNT_PROFILE_PREFIX}{namespace or 'default'}.{name}"


# ── profiles ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class _NamedObject(Wire):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)


def namespace(document: Mapping[str, Any]) -> Converted:
    meta = read_lenient(document, _NamedObject).metadata
    return Converted(namespace_profile(_named(document, meta.name), meta.labels))


def namespace_profile(name: str, labels: Mapping[str, str]) -> Profile:
    """The profile of a namespace. The API server gives every namespace the label ``kubernetes.io/metadata.name``."""
    inherited = {NAMESPACE_LABEL_PREFIX + key: value for key, value in labels.items()}
    inherited.setdefault(f"{NAMESPACE_LABEL_PREFIX}kubernetes.io/metadata.name", name)
    inherited[NAMESPACE_LABEL_PREFIX + NAME_LABEL] = name
    allow = (Rule(action="Allow"),)
    return Profile(
        metadata=ObjectMeta(name=namespace_profile_name(name)),
        spec=ProfileSpec(ingress=allow, egress=allow, labels_to_apply=inherited),
    )


def service_account(document: Mapping[str, Any]) -> Converted:
    meta = read_lenient(document, _NamedObject).metadata
    return Converted(service_account_profile(meta.namespace, _named(document, meta.name), meta.labels))


def service_account_profile(namespace: str, name: str, labels: Mapping[str, str]) -> Profile:
    inherited = {SERVICE_ACCOUNT_LABEL_PREFIX + key: value for key, value in labels.items()}
    inherited[SERVICE_ACCOUNT_LABEL_PREFIX + NAME_LABEL] = name
    return Profile(
        metadata=ObjectMeta(name=service_account_profile_name(namespace, name)),
        spec=ProfileSpec(labels_to_apply=inherited),
    )


# ── policy ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class _PolicySpec(Wire):
    pod_selector: LabelSelector = msgspec.field(default_factory=LabelSelector)
    ingress: tuple[KubernetesIngressRule, ...] = ()
    egress: tuple[KubernetesEgressRule, ...] = ()
    policy_types: tuple[PolicyType, ...] = ()


class _Policy(Wire):
    api_version: str = ""
    kind: str = ""
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: _PolicySpec = msgspec.field(default_factory=_PolicySpec)
    status: dict[str, str] = msgspec.field(default_factory=dict)


def network_policy(document: Mapping[str, Any]) -> Converted:
    """A policy document is read strictly: a field that is not understood might have narrowed it."""
    policy = read_struct(document, _Policy)
    spec = policy.spec
    types: tuple[PolicyType, ...] = spec.policy_types
    if not types:
        types = ("Ingress", "Egress") if spec.egress else ("Ingress",)
    try:
        converted, problems = _converted_spec(spec, types)
    except ValueError as exc:
        raise ValidationError(describe(document), [("spec.podSelector", str(exc))]) from exc
    meta = ObjectMeta(
        name=KUBERNETES_POLICY_PREFIX + _named(document, policy.metadata.name),
        namespace=policy.metadata.namespace or "default",
    )
    return Converted(NetworkPolicy(metadata=meta, spec=NetworkPolicySpec(**converted)), problems)


def staged_policy(staged: StagedKubernetesNetworkPolicy) -> StagedNetworkPolicy:
    """A staged Kubernetes policy as the staged Calico policy that it stands for; rules that cannot be converted are
    left out. Raises ValueError when its podSelector cannot be converted."""
    types = staged.spec.policy_types or (("Ingress", "Egress") if staged.spec.egress else ("Ingress",))
    converted, _ = _converted_spec(staged.spec, types)
    spec = StagedNetworkPolicySpec(staged_action=staged.spec.staged_action, **converted)
    return StagedNetworkPolicy(metadata=staged.metadata, spec=spec)


def _converted_spec(spec: Any, types: Sequence[PolicyType]) -> tuple[dict[str, Any], Problems]:
    """Raises ValueError when the pods that the policy is for cannot be told."""
    ingress, problems = convert_rules("ingress", spec.ingress)
    egress, more = convert_rules("egress", spec.egress)
    fields = {
        "tier": "default",
        "order": POLICY_ORDER,
        "ingress": ingress,
        "egress": egress,
        "selector": pod_selector(spec.pod_selector),
        "types": tuple(t for t in ("Ingress", "Egress") if t in types),
    }
    return fields, [(f"spec.{path}", reason) for path, reason in (*problems, *more)]


def convert_rules(
    direction: str, rules: Sequence[KubernetesIngressRule | KubernetesEgressRule]
) -> tuple[tuple[Rule, ...], Problems]:
    """The rules that can be converted, and (path, reason) of those that cannot."""
    converted: list[Rule] = []
    problems: Problems = []
    for index, rule in enumerate(rules):
        made, bad = convert_rule(direction, rule)
        if bad:
            problems += [(f"{direction}[{index}]{path}", reason) for path, reason in bad]
        else:
            converted += made
    return tuple(converted), problems


def convert_rule(direction: str, rule: KubernetesIngressRule | KubernetesEgressRule) -> tuple[list[Rule], Problems]:
    """The rules that one rule becomes; not to be used when there are problems."""
    peers, side = (rule.from_, "from") if isinstance(rule, KubernetesIngressRule) else (rule.to, "to")
    return _convert_rule(direction, peers, rule.ports, side)


def _convert_rule(
    direction: str, peers: Sequence[KubernetesPeer], ports: Sequence[KubernetesPort], side: str
) -> tuple[list[Rule], Problems]:
    problems: Problems = []
    by_protocol: dict[str, tuple[Port, ...] | None] = {} if ports else {"": None}
    for index, port in enumerate(ports):
        protocol = port.protocol or "TCP"
        try:
            formats.canonical_protocol(protocol)
            if port.port is None:
                by_protocol[protocol] = None
            elif by_protocol.get(protocol, ()) is not None:
                by_protocol[protocol] = (*(by_protocol.get(protocol) or ()), _port(port))
        except ValueError as exc:
            problems.append((f".ports[{index}]", str(exc)))
    remotes: list[EntityRule] = [] if peers else [EntityRule()]
    for index, peer in enumerate(peers):
        try:
            remotes.append(_peer(peer))
        except ValueError as exc:
            problems.append((f".{side}[{index}]", str(exc)))
    rules: list[Rule] = []
    for protocol in sorted(by_protocol):
        merged = merged_ports(by_protocol[protocol] or ())
        for remote in remotes:
            if direction == "ingress":
                sides = {"source": remote, "destination": EntityRule(ports=merged)}
            else:
                sides = {"destination": msgspec.structs.replace(remote, ports=merged)}
            given: dict[str, Any] = {name: value for name, value in sides.items() if value != EntityRule()}
            rules.append(Rule(action="Allow", protocol=protocol or None, **given))
    return rules, problems


def _port(port: KubernetesPort) -> Port:
    text = str(port.port)
    if port.end_port is not None:
        text = f"{text}:{port.end_port}"
    return formats.canonical_port(text)


def merged_ports(ports: Sequence[Port]) -> tuple[Port, ...]:
    """Names first, as given; then the numbers in the fewest ranges that cover them."""
    if len(ports) <= 1:
        return tuple(ports)
    names: list[Port] = []
    ranges: list[tuple[int, int]] = []
    for port in ports:
        if isinstance(port, int):
            ranges.append((port, port))
        elif ":" in port:
            first, _, last = port.partition(":")
            ranges.append((int(first), int(last)))
        else:
            names.append(port)
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    if len(merged) == 1 and len(ranges) == 1:
        return tuple(ports)
    return (*names, *(low if low == high else f"{low}:{high}" for low, high in merged))


def _peer(peer: KubernetesPeer) -> EntityRule:
    block = peer.ip_block
    if block is not None:
        nets = (str(_cidr(block.cidr)),)
        return EntityRule(nets=nets, not_nets=tuple(str(_cidr(cidr)) for cidr in block.except_))
    return EntityRule(
        selector=pod_selector(peer.pod_selector), namespace_selector=namespace_selector(peer.namespace_selector)
    )


def _cidr(text: str) -> formats.Network:
    if "/" not in text:
        raise ValueError(f"{text!r} is not a CIDR")
    try:
        return formats.loose_network(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a CIDR") from None


def pod_selector(selector: LabelSelector | None) -> str:
    """Calico's form of a pod selector: only pods of Kubernetes, whatever else."""
    return " && ".join(["projectcalico.org/orchestrator == 'k8s'", *_clauses(selector)])


def namespace_selector(selector: LabelSelector | None) -> str:
    """None selects the policy's own namespace, an empty selector every namespace."""
    if selector is None:
        return ""
    return " && ".join(_clauses(selector)) or "all()"


def _clauses(selector: LabelSelector | None) -> list[str]:
    if selector is None:
        return []
    clauses = [f"{_key(key)} == {_quoted(selector.match_labels[key])}" for key in sorted(selector.match_labels)]
    for needed in selector.match_expressions:
        if needed.operator in ("In", "NotIn") and not needed.values:
            raise ValueError(f"{needed.key} {needed.operator} needs values")
        values = ", ".join(_quoted(value) for value in needed.values)
        if needed.operator == "In":
            clauses.append(f"{_key(needed.key)} in {{ {values} }}")
        elif needed.operator == "NotIn":
            clauses.append(f"{_key(needed.key)} not in {{ {values} }}")
        elif needed.operator == "Exists":
            clauses.append(f"has({_key(needed.key)})")
        elif needed.operator == "DoesNotExist":
            clauses.append(f"! has({_key(needed.key)})")
        else:
            raise ValueError(f"{needed.operator!r} is not In, NotIn, Exists or DoesNotExist")
    return clauses


def _key(key: str) -> str:
    """Nothing but a label key may become part of a selector's text."""
    reason = formats.qualified_name(key)
    if reason:
        raise ValueError(reason)
    return key


def _quoted(value: str) -> str:
    if "'" in value or "\n" in value:
        raise ValueError(f"{value!r} is not a label value")
    return f"'{value}'"


# ── services ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _mirror(document: Mapping[str, Any], kind: str) -> Converted:
    from calico_kernel.model.kinds import KINDS

    _named(document, read_lenient(document, _NamedObject).metadata.name)
    body = {**without_nulls(dict(document)), "kind": kind}
    body["metadata"] = {"namespace": "default", **body["metadata"]}
    return Converted(_converted(body, KINDS[kind].type, document))


def service(document: Mapping[str, Any]) -> Converted:
    return _mirror(document, "KubernetesService")


def endpoint_slice(document: Mapping[str, Any]) -> Converted:
    return _mirror(document, "KubernetesEndpointSlice")


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_lenient(document: Mapping[str, Any], struct: type[S]) -> S:
    """The part of an object that matters here; the rest of it is not ours to check."""
    return _converted(without_nulls(dict(document)), struct, document)


def _converted(body: Any, struct: type[S], document: Mapping[str, Any]) -> S:
    try:
        return msgspec.convert(body, struct)
    except msgspec.ValidationError as exc:
        reason, _, place = str(exc).partition(" - at `$")
        raise ValidationError(describe(document), [(place.rstrip("`").lstrip("."), reason)]) from exc


def _named(document: Mapping[str, Any], name: str) -> str:
    if not name:
        raise ValidationError(describe(document), [("metadata.name", "must be given")])
    return name


def cluster_network_policy(document: Mapping[str, Any]) -> Converted:
    from calico_kernel.model.stored_policies import cluster_network_policy as convert_one

    return convert_one(document)


def pod(document: Mapping[str, Any]) -> Converted:
    from calico_kernel.model.pods import workload_endpoint

    return workload_endpoint(document)


_CONVERTERS: dict[tuple[Any, Any], Callable[[Mapping[str, Any]], Converted]] = {
    ("networking.k8s.io/v1", "NetworkPolicy"): network_policy,
    ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"): cluster_network_policy,
    ("v1", "Namespace"): namespace,
    ("v1", "ServiceAccount"): service_account,
    ("v1", "Pod"): pod,
    ("v1", "Service"): service,
    ("discovery.k8s.io/v1", "EndpointSlice"): endpoint_slice,
}
