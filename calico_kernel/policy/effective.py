"""Policies as they take effect: selectors joined and prefixed, protocols as numbers, ports and prefixes parsed.

In:   policy and profile resources of the model.
Out:  EffectivePolicy and EffectiveRule, to ``policy.verdict`` and to ``calico_kernel.calc``, which turns the selectors
      into IP sets. Both read policy through this one module, so they cannot differ in what a field means.

Selectors are joined as text exactly as Calico joins them, so that their ids (and the names of IP sets) are Calico's.
A policy whose own selector does not parse is refused (ValidationError): it counts as absent. A policy of which a rule
cannot be understood is kept closed: it denies in every direction that it governs, and ``failed`` says why.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network

import attrs

from calico_kernel.errors import ValidationError
from calico_kernel.model.nodestate import PolicyId, PortRange, RuleAction
from calico_kernel.model.policy import (
    EntityRule,
    GlobalNetworkPolicy,
    NetworkPolicy,
    Port,
    Profile,
    Protocol,
    Rule,
    ServiceAccountMatch,
    StagedGlobalNetworkPolicy,
    StagedNetworkPolicy,
)
from calico_kernel.model.wellknown import (
    NAMESPACE_LABEL,
    NAMESPACE_LABEL_PREFIX,
    SERVICE_ACCOUNT_LABEL,
    SERVICE_ACCOUNT_LABEL_PREFIX,
)
from calico_kernel.selector import Selector, SelectorError, parse

Network = IPv4Network | IPv6Network
PolicyResource = NetworkPolicy | GlobalNetworkPolicy | StagedNetworkPolicy | StagedGlobalNetworkPolicy

DEFAULT_TIER = "default"

PROTOCOL_NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132, "udplite": 136}
PROTOCOL_NAMES = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP", 136: "UDPLite"}

_PORT_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")
_ACTIONS: dict[str, RuleAction] = {"Allow": "allow", "Deny": "deny", "Pass": "pass", "Log": "log"}


@attrs.frozen(kw_only=True, slots=True)
class EffectiveSide:
    """One side of a rule. What is given is ANDed.

    nets, ports:    lists are ORed; ``ports`` and ``named_ports`` together are one list.
    selector:       some endpoint or network set that holds the address must match it (a negated selector beside a
                    positive one is folded into it). It also narrows whose named ports count.
    not_selector:   given alone: no endpoint or network set that holds the address may match it.
    service:        (namespace, name): address (and, on a destination, protocol and port) of one of its endpoints.
    """

    nets: tuple[Network, ...] = ()
    selector: Selector | None = None
    ports: tuple[PortRange, ...] = ()
    named_ports: tuple[str, ...] = ()
    service: tuple[str, str] | None = None
    not_nets: tuple[Network, ...] = ()
    not_selector: Selector | None = None
    not_ports: tuple[PortRange, ...] = ()
    not_named_ports: tuple[str, ...] = ()


@attrs.frozen(kw_only=True, slots=True)
class EffectiveRule:
    """``index`` is the place in the list that the operator wrote, from 0. HTTP matches are not part of it: no packet
    filter of Calico's reads them; they belong to an application-layer proxy."""

    action: RuleAction
    ip_version: int | None = None
    protocol: int | None = None
    not_protocol: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    not_icmp_type: int | None = None
    not_icmp_code: int | None = None
    source: EffectiveSide = EffectiveSide()
    destination: EffectiveSide = EffectiveSide()
    index: int = 0


DENY_ALL = (EffectiveRule(action="deny"),)
ALLOW_ALL = (EffectiveRule(action="allow"),)


@attrs.frozen(kw_only=True, slots=True)
class EffectivePolicy:
    """``order``: infinity when none was given. ``ingress``, ``egress``: the directions governed. ``failed``: why its
    rules were replaced by a deny, or ""."""

    id: PolicyId
    tier: str
    order: float
    selector: Selector
    ingress: bool
    egress: bool
    inbound: tuple[EffectiveRule, ...] = ()
    outbound: tuple[EffectiveRule, ...] = ()
    untracked: bool = False
    pre_dnat: bool = False
    apply_on_forward: bool = False
    staged: bool = False
    failed: str = ""


@attrs.frozen(kw_only=True, slots=True)
class EffectiveProfile:
    name: str
    inbound: tuple[EffectiveRule, ...] = ()
    outbound: tuple[EffectiveRule, ...] = ()
    failed: str = ""


def effective_policy(policy: PolicyResource) -> EffectivePolicy:
    """What ``policy`` means. No ``types`` at all means both directions, as Felix reads a stored policy (the defaulting
    at write time happens in the model). Raises ValidationError when the policy's own selector is unusable."""
    name = f"{policy.kind} {policy_id(policy)}"
    spec = policy.spec
    is_global = isinstance(policy, GlobalNetworkPolicy)
    namespace = "" if is_global else policy.metadata.namespace
    try:
        selector = parse(policy_selector_text(policy))
    except SelectorError as exc:
        raise ValidationError(name, [("spec.selector", str(exc.what))]) from exc
    failed = ""
    try:
        inbound = effective_rules(spec.ingress, namespace, path="spec.ingress")
        outbound = effective_rules(spec.egress, namespace, path="spec.egress")
    except RuleError as exc:
        failed, inbound, outbound = str(exc), DENY_ALL, DENY_ALL
    return EffectivePolicy(
        id=policy_id(policy),
        tier=spec.tier or DEFAULT_TIER,
        order=math.inf if spec.order is None else spec.order,
        selector=selector,
        ingress=not spec.types or "Ingress" in spec.types,
        egress=not spec.types or "Egress" in spec.types,
        inbound=inbound,
        outbound=outbound,
        untracked=is_global and getattr(spec, "do_not_track", False),
        pre_dnat=is_global and getattr(spec, "pre_dnat", False),
        apply_on_forward=is_global and getattr(spec, "apply_on_forward", False),
        staged=policy.kind.startswith("Staged"),
        failed=failed,
    )


def effective_profile(profile: Profile) -> EffectiveProfile:
    """What ``profile`` means; one with an unusable rule denies both ways, as a missing one does."""
    try:
        return EffectiveProfile(
            name=profile.metadata.name,
            inbound=effective_rules(profile.spec.ingress, "", path="spec.ingress"),
            outbound=effective_rules(profile.spec.egress, "", path="spec.egress"),
        )
    except RuleError as exc:
        return EffectiveProfile(name=profile.metadata.name, inbound=DENY_ALL, outbound=DENY_ALL, failed=str(exc))


def policy_id(policy: PolicyResource) -> PolicyId:
    return PolicyId(policy.kind, policy.metadata.namespace, policy.metadata.name)


class RuleError(ValueError):
    """A rule that cannot be understood; the text says where and why."""


def effective_rules(rules: Sequence[Rule], namespace: str, *, path: str) -> tuple[EffectiveRule, ...]:
    """Rules of a policy in ``namespace`` ("" for a global policy or a profile). Raises RuleError."""
    effective = []
    for index, rule in enumerate(rules):
        try:
            effective.append(_effective_rule(rule, namespace, index))
        except SelectorError as exc:
            raise RuleError(f"{path}[{index}]: {exc.what}") from exc
        except ValueError as exc:
            raise RuleError(f"{path}[{index}]: {exc}") from exc
    return tuple(effective)


def _effective_rule(rule: Rule, namespace: str, index: int) -> EffectiveRule:
    return EffectiveRule(
        action=_ACTIONS[rule.action],
        ip_version=rule.ip_version,
        protocol=None if rule.protocol is None else protocol_number(rule.protocol),
        not_protocol=None if rule.not_protocol is None else protocol_number(rule.not_protocol),
        icmp_type=rule.icmp.type if rule.icmp else None,
        icmp_code=rule.icmp.code if rule.icmp else None,
        not_icmp_type=rule.not_icmp.type if rule.not_icmp else None,
        not_icmp_code=rule.not_icmp.code if rule.not_icmp else None,
        source=_effective_side(rule.source, namespace),
        destination=_effective_side(rule.destination, namespace),
        index=index,
    )


_ANY_SIDE = EffectiveSide()
_ANY_ENTITY = EntityRule()


def _effective_side(entity: EntityRule, namespace: str) -> EffectiveSide:
    if entity == _ANY_ENTITY:
        return _ANY_SIDE
    positive, negative = entity_selector_text(entity, namespace), entity.not_selector
    if positive and negative:
        positive, negative = f"({positive}) && (!({negative}))", ""
    ports, named_ports = _split_ports(entity.ports)
    not_ports, not_named_ports = _split_ports(entity.not_ports)
    return EffectiveSide(
        nets=tuple(parse_net(net) for net in entity.nets),
        selector=parse(positive) if positive else None,
        ports=ports,
        named_ports=named_ports,
        service=(entity.services.namespace, entity.services.name) if entity.services else None,
        not_nets=tuple(parse_net(net) for net in entity.not_nets),
        not_selector=parse(negative) if negative else None,
        not_ports=not_ports,
        not_named_ports=not_named_ports,
    )


# ── selectors, joined as Calico joins them ────────────────────────────────────────────────────────────────────────────


def policy_selector_text(policy: PolicyResource) -> str:
    """The selector of the endpoints that a policy applies to. Raises SelectorError on an unusable part."""
    spec = policy.spec
    text = spec.selector
    if text and (policy.metadata.namespace or spec.service_account_selector or getattr(spec, "namespace_selector", "")):
        parse(text)  # alone: "all()) || (all()" must not reach out of the parentheses that it is put in below
    if isinstance(policy, GlobalNetworkPolicy | StagedGlobalNetworkPolicy):
        namespaces = getattr(spec, "namespace_selector", "")
        if namespaces:
            text = _and_prefixed(text, namespaces, NAMESPACE_LABEL_PREFIX).replace("all()", f"has({NAMESPACE_LABEL})")
        if spec.service_account_selector:
            text = _and_prefixed(text, spec.service_account_selector, SERVICE_ACCOUNT_LABEL_PREFIX)
            text = text.replace("all()", f"has({SERVICE_ACCOUNT_LABEL})")
        return text
    if policy.metadata.namespace:
        own_namespace = f"{NAMESPACE_LABEL} == '{policy.metadata.namespace}'"
        text = f"({text}) && {own_namespace}" if text else own_namespace
    if spec.service_account_selector:
        text = _and_prefixed(text, spec.service_account_selector, SERVICE_ACCOUNT_LABEL_PREFIX)
    return text


def _and_prefixed(text: str, added: str, prefix: str) -> str:
    prefixed = parse(added).prefixed(prefix).text
    return f"({text}) && {prefixed}" if text else prefixed


def entity_selector_text(entity: EntityRule, namespace: str) -> str:
    """The positive selector of one side of a rule, "" when it names no endpoints. Raises SelectorError.

    In a namespaced policy any selector field, also a negative one, limits the side to the policy's own namespace,
    unless ``namespaceSelector`` says which namespaces are meant.
    """
    for text in (entity.selector, entity.not_selector):
        if text:
            parse(text)  # alone, as in policy_selector_text
    parts = [part for part in (_service_accounts_text(entity.service_accounts), entity.selector) if part]
    selector = parts[0] if len(parts) == 1 else f"({') && ('.join(parts)})" if parts else ""
    namespaces = _namespaces_text(entity.namespace_selector, namespace)
    if namespaces and (selector or entity.not_selector or entity.namespace_selector):
        return f"({namespaces}) && ({selector})" if selector else namespaces
    return selector


def _namespaces_text(namespace_selector: str, namespace: str) -> str:
    if namespace_selector:
        text = parse(namespace_selector).prefixed(NAMESPACE_LABEL_PREFIX).text
        return text.replace("all()", f"has({NAMESPACE_LABEL})").replace("global()", f"!has({NAMESPACE_LABEL})")
    return f"{NAMESPACE_LABEL} == '{namespace}'" if namespace else ""


def _service_accounts_text(accounts: ServiceAccountMatch | None) -> str:
    if accounts is None:
        return ""
    selected = parse(accounts.selector).prefixed(SERVICE_ACCOUNT_LABEL_PREFIX).text if accounts.selector else ""
    if not accounts.names:
        return selected
    names = ", ".join(f"'{name}'" for name in accounts.names)
    named = parse(f"{SERVICE_ACCOUNT_LABEL} in {{{names}}}").text
    return f"({selected}) && ({named})" if selected else named


# ── protocols, ports, prefixes ────────────────────────────────────────────────────────────────────────────────────────


def protocol_number(protocol: Protocol) -> int:
    """1-255, from a number, digits, or one of Calico's six names in any case. Raises ValueError."""
    if isinstance(protocol, str):
        number = PROTOCOL_NUMBERS.get(protocol.lower())
        if number is None:
            if not (protocol.isascii() and protocol.isdigit()):
                raise ValueError(f"unknown protocol {protocol!r}")
            number = int(protocol[:4])
    else:
        number = protocol
    if not 1 <= number <= 255:
        raise ValueError(f"protocol {protocol!r} is not between 1 and 255")
    return number


def protocol_name(number: int) -> str:
    """``TCP`` ...; the digits where Calico has no name for it."""
    return PROTOCOL_NAMES.get(number, str(number))


def parse_port(port: Port) -> PortRange | str:
    """A range from 80, "80" or "80:90"; the text itself when it is a name. Raises ValueError."""
    if isinstance(port, int):
        return _port_range(port, port, port)
    first, colon, last = port.partition(":")
    if first.isascii() and first.isdigit():
        if not colon:
            return _port_range(int(first[:6]), int(first[:6]), port)
        if last.isascii() and last.isdigit():
            return _port_range(int(first[:6]), int(last[:6]), port)
    if not _PORT_NAME.fullmatch(port):
        raise ValueError(f"{port!r} is neither a port, nor a range of ports, nor the name of one")
    return port


def _port_range(first: int, last: int, written: Port) -> PortRange:
    if not 1 <= first <= last <= 65535:
        raise ValueError(f"port {written!r} is not between 1 and 65535 in ascending order")
    return PortRange(first, last)


def _split_ports(ports: Sequence[Port]) -> tuple[tuple[PortRange, ...], tuple[str, ...]]:
    parsed = [parse_port(port) for port in ports]
    return (
        tuple(port for port in parsed if isinstance(port, PortRange)),
        tuple(port for port in parsed if isinstance(port, str)),
    )


def parse_net(text: str) -> Network:
    """A prefix; host bits are cleared, a bare address is a prefix of one. Raises ValueError."""
    return ip_network(text, strict=False)
