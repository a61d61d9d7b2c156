"""Documents of Calico's first API (``apiVersion: v1``) as ``projectcalico.org/v3`` resources.

In:    documents of bgpPeer, hostEndpoint, ipPool, node, policy, profile, tier and workloadEndpoint; and custom
       resources as an API server keeps them (``crd.projectcalico.org/v1``).
Out:   the resources that Calico's own upgrade makes of them, and notes on what became different.

    policy         -> GlobalNetworkPolicy; its name loses its dots
    profile        -> Profile; tags become labels without a value, k8s_ns.<name> becomes kns.<name>
    hostEndpoint   -> HostEndpoint <node>.<name>
    bgpPeer        -> BGPPeer <address> or <node>.<address>
    ipPool         -> IPPool <address>-<length>

A name that v3 does not allow is brought to its form and gets the first 8 digits of the SHA-1 of the old name, so that
two old names never become one. (Calico's upgrade joins a rule's ``notSelector`` and ``notTag`` with "and", which
excludes less than the v1 rule did; ours joins them with "or".)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from calico_kernel.errors import ValidationError
from calico_kernel.model import formats, names
from calico_kernel.model.bgp import BGPPeer, BGPPeerSpec
from calico_kernel.model.codec import METADATA_ANNOTATION, POLICY_KINDS
from calico_kernel.model.documents import describe, read_struct
from calico_kernel.model.endpoints import (
    EndpointPort,
    HostEndpoint,
    HostEndpointSpec,
    Node,
    NodeBGPSpec,
    NodeSpec,
    WorkloadEndpoint,
    WorkloadEndpointPort,
    WorkloadEndpointSpec,
)
from calico_kernel.model.firstapi import (
    DocumentV1,
    EntityRuleV1,
    HostEndpointV1,
    NodeV1,
    PeerV1,
    PolicyV1,
    PoolV1,
    PortV1,
    ProfileV1,
    ProtocolV1,
    RuleV1,
    TierV1,
    WorkloadEndpointV1,
)
from calico_kernel.model.meta import API_VERSION as V3
from calico_kernel.model.meta import ObjectMeta, Resource
from calico_kernel.model.network import IPPool, IPPoolSpec
from calico_kernel.model.policy import (
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    Profile,
    ProfileSpec,
    Rule,
    Tier,
    TierSpec,
)
from calico_kernel.model.validate import SelectorCheck, struct_problems
from calico_kernel.model.wellknown import NAMESPACE_LABEL, NAMESPACE_PROFILE_PREFIX

API_VERSION = "v1"
NAMESPACE_LABEL_V1 = "calico/k8s_ns"
NAMESPACE_PROFILE_PREFIX_V1 = "k8s_ns."

Problems = list[tuple[str, str]]
S = TypeVar("S", bound="DocumentV1")


class Upgraded(Struct, frozen=True):
    """``notes``: what the resource has otherwise than the document, e.g. its name."""

    resource: Resource
    notes: Sequence[str] = ()


def supported(document: Mapping[str, Any]) -> bool:
    """Whether ``document`` is of Calico's first API. ``kind: Node`` with a capital is Kubernetes' own."""
    kind = document.get("kind")
    return document.get("apiVersion") == API_VERSION and kind != "Node" and str(kind).lower() in _CONVERTERS


def title(document: Mapping[str, Any]) -> str:
    """``policy(web)``; pools and peers of v1 have a CIDR and an address for a name."""
    meta = document.get("metadata")
    if not isinstance(meta, Mapping) or meta.get("name"):
        return describe(document)
    return f"{document.get('kind')}({meta.get('cidr') or meta.get('peerIP') or ''})"


def upgrade(document: Mapping[str, Any], *, selector_check: SelectorCheck | None = None) -> Upgraded:
    """The v3 resource of a v1 document, without v3's defaults.

    Raises ValidationError with every field of the document that is wrong, each with its path in the document.
    """
    kind = str(document.get("kind"))
    convert = _CONVERTERS.get(kind.lower())
    if convert is None or document.get("apiVersion") != API_VERSION:
        known = "bgpPeer, hostEndpoint, ipPool, node, policy, profile, tier and workloadEndpoint"
        said = f"conversion for the resource type '{kind}' of {document.get('apiVersion')} is not supported"
        raise ValidationError(title(document), [("kind", f"{said}; of apiVersion v1, these are: {known}")])
    return convert(_Reading(document, selector_check))


class _Reading:
    """One document on its way: collects what is wrong, and what becomes different."""

    def __init__(self, document: Mapping[str, Any], selector_check: SelectorCheck | None) -> None:
        self.document = document
        self.problems: Problems = []
        self.notes: list[str] = []
        self._selector_check = selector_check

    def read(self, struct: type[S]) -> S:
        found = read_struct(self.document, struct)
        struct_problems(found, "", self.problems, self._selector_check)
        self.end()
        return found

    def end(self) -> None:
        if self.problems:
            raise ValidationError(title(self.document), list(dict.fromkeys(self.problems)))

    def named(self, old: str, path: str, make: Callable[[str], str]) -> str:
        """The new form of a name. Says where it differs, and where nothing is left of it."""
        new = make(old)
        if not new:
            self.problems.append(
                (path, "must be given" if not old else f"{old!r} has nothing that v3 allows in a name")
            )
        elif new != old:
            self.notes.append(f"{path} {old!r} becomes {new!r}")
        return new

    def done(self, resource: Resource) -> Upgraded:
        self.end()
        return Upgraded(resource, tuple(dict.fromkeys(self.notes)))


# ── custom resources ──────────────────────────────────────────────────────────────────────────────────────────────────

_OF_THE_OBJECT = frozenset({"kubectl.kubernetes.io/last-applied-configuration", METADATA_ANNOTATION})


def from_custom_resource(document: Mapping[str, Any]) -> dict[str, Any]:
    """The v3 document of a custom resource of Calico's first group. There an annotation holds the metadata that people
    gave; what else the API server wrote (uid, times, versions) is left out.

    Raises ValidationError when the annotation cannot be read.
    """
    meta = document.get("metadata")
    meta = meta if isinstance(meta, Mapping) else {}
    given = _object(document, meta.get("annotations"), "metadata.annotations")
    own = given.get(METADATA_ANNOTATION)
    path = f"metadata.annotations.{METADATA_ANNOTATION}"
    try:
        kept = _object(document, msgspec.json.decode(own) if isinstance(own, str) else own, path)
    except msgspec.DecodeError as exc:
        raise ValidationError(describe(document), [(path, f"is not JSON: {exc}")]) from exc
    kind = "IPAMConfiguration" if document.get("kind") == "IPAMConfig" else document.get("kind")
    name = kept.get("name") or meta.get("name") or ""
    spec = document.get("spec")
    tier = spec.get("tier") if isinstance(spec, Mapping) else None
    if kind in POLICY_KINDS and not kept.get("name") and tier in (None, "", "default"):
        name = str(name).removeprefix("default.")
    metadata = {
        "name": name,
        "namespace": meta.get("namespace"),
        "labels": {**_object(document, meta.get("labels"), "metadata.labels"), **(kept.get("labels") or {})},
        "annotations": {
            **{key: value for key, value in given.items() if key not in _OF_THE_OBJECT},
            **(kept.get("annotations") or {}),
        },
    }
    rest = {key: value for key, value in document.items() if key not in ("apiVersion", "kind", "metadata", "status")}
    return {
        "apiVersion": V3,
        "kind": kind,
        "metadata": {key: value for key, value in metadata.items() if value},
        **rest,
    }


def _object(document: Mapping[str, Any], value: object, path: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValidationError(describe(document), [(path, "must be an object")])
    return value


# ── names ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

_NOT_IN_NAMES = re.compile(r"[^-.a-z0-9]+")
_DOTS_AND_DASHES = re.compile(r"[.-]*\.[.-]*")


def node_name(old: str) -> str:
    """Lower case, ``/`` as ``.``, anything else that v3 does not allow as ``-``; no hash, for it is a host's name."""
    return _DOTS_AND_DASHES.sub(".", _NOT_IN_NAMES.sub("-", old.lower().replace("/", "."))).strip(".-")


def _name(old: str) -> str:
    return _distinct(old, node_name(old))


def _name_without_dots(old: str) -> str:
    return _distinct(old, node_name(old).replace(".", "-"))


def _profile_name(old: str) -> str:
    if old.startswith(NAMESPACE_PROFILE_PREFIX_V1):
        old = NAMESPACE_PROFILE_PREFIX + old.removeprefix(NAMESPACE_PROFILE_PREFIX_V1)
    return _name(old)


def _distinct(old: str, new: str) -> str:
    if old == new or not new:
        return new
    return f"{new}-{hashlib.sha1(old.encode(), usedforsecurity=False).hexdigest()[:8]}"


def _address_name(text: str) -> str:
    return formats.address(text).exploded.replace(".", "-").replace(":", "-")


# ── conversion ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _policy(reading: _Reading) -> Upgraded:
    read = reading.read(PolicyV1)
    meta, spec = read.metadata, read.spec
    types = tuple(_policy_type(reading, index, text) for index, text in enumerate(spec.types))
    if not types:
        types = (("Ingress", "Egress") if spec.ingress else ("Egress",)) if spec.egress else ("Ingress",)
    given: dict[str, Any] = {
        "tier": meta.tier and reading.named(meta.tier, "metadata.tier", _name),
        "order": spec.order,
        "ingress": _rules(reading, "spec.ingress", spec.ingress),
        "egress": _rules(reading, "spec.egress", spec.egress),
        "selector": _selector(spec.selector),
        "types": types,
        "do_not_track": spec.do_not_track,
        "pre_dnat": spec.pre_dnat,
        # Both kinds have always met forwarded packets; v3 wants that said.
        "apply_on_forward": spec.do_not_track or spec.pre_dnat,
    }
    name = reading.named(meta.name, "metadata.name", _name_without_dots)
    return reading.done(
        GlobalNetworkPolicy(
            metadata=ObjectMeta(name=name, annotations=meta.annotations), spec=GlobalNetworkPolicySpec(**given)
        )
    )


def _policy_type(reading: _Reading, index: int, text: str) -> str:
    if text.lower() not in ("ingress", "egress"):
        reading.problems.append((f"spec.types[{index}]", f"must be one of ingress, egress, is {text!r}"))
    return text.capitalize()


def _profile(reading: _Reading) -> Upgraded:
    read = reading.read(ProfileV1)
    labels = dict(read.metadata.labels)
    for index, tag in enumerate(read.metadata.tags):
        if tag in labels:
            said = f"the tag {tag!r} and the label {tag!r} = {labels[tag]!r} would become one label; rename the label"
            reading.problems.append((f"metadata.tags[{index}]", said))
    labels.update(dict.fromkeys(read.metadata.tags, ""))
    spec = ProfileSpec(
        ingress=_rules(reading, "spec.ingress", read.spec.ingress),
        egress=_rules(reading, "spec.egress", read.spec.egress),
        labels_to_apply=labels,
    )
    name = reading.named(read.metadata.name, "metadata.name", _profile_name)
    return reading.done(Profile(metadata=ObjectMeta(name=name), spec=spec))


def _tier(reading: _Reading) -> Upgraded:
    read = reading.read(TierV1)
    name = reading.named(read.metadata.name, "metadata.name", _name)
    return reading.done(Tier(metadata=ObjectMeta(name=name), spec=TierSpec(order=read.spec.order)))


def _host_endpoint(reading: _Reading) -> Upgraded:
    read = reading.read(HostEndpointV1)
    meta, spec = read.metadata, read.spec
    if not meta.name:
        reading.problems.append(("metadata.name", "must be given"))
    node = reading.named(meta.node, "metadata.node", node_name)
    addresses = sorted((formats.address(text) for text in spec.expected_ips), key=lambda address: address.version)
    return reading.done(
        HostEndpoint(
            metadata=ObjectMeta(name=_name(f"{node}.{meta.name}"), labels=meta.labels),
            spec=HostEndpointSpec(
                node=node,
                interface_name=spec.interface_name,
                expected_ips=tuple(map(str, addresses)),
                profiles=_profiles(reading, spec.profiles),
                ports=tuple(
                    EndpointPort(name=port.name, protocol=protocol, port=port.port)
                    for port, protocol in _ports(reading, spec.ports)
                ),
            ),
        )
    )


def _workload_endpoint(reading: _Reading) -> Upgraded:
    read = reading.read(WorkloadEndpointV1)
    meta, spec = read.metadata, read.spec
    namespace = "default"
    third: dict[str, Any]
    if meta.orchestrator == "k8s":
        namespace, dot, pod = meta.workload.partition(".")
        if not (namespace and dot and pod):
            said = f"of orchestrator k8s it must be <namespace>.<pod>, is {meta.workload!r}"
            reading.problems.append(("metadata.workload", said))
        third = {"pod": pod, "container_id": meta.active_instance_id}
    elif meta.orchestrator == "cni":
        third = {"container_id": meta.workload}
    elif meta.orchestrator == "libnetwork":
        third = {"workload": "libnetwork"}
    else:
        third = {"workload": reading.named(meta.workload, "metadata.workload", _name)}
    made = WorkloadEndpointSpec(
        orchestrator=reading.named(meta.orchestrator, "metadata.orchestrator", _name),
        node=reading.named(meta.node, "metadata.node", node_name),
        endpoint=reading.named(meta.name, "metadata.name", _name),
        ip_networks=_by_version(spec.ip_networks),
        ip_nats=tuple(sorted(spec.ip_nats, key=lambda nat: ":" in nat.internal_ip)),
        ipv4_gateway=spec.ipv4_gateway,
        ipv6_gateway=spec.ipv6_gateway,
        profiles=_profiles(reading, spec.profiles),
        interface_name=spec.interface_name,
        mac=spec.mac,
        ports=tuple(
            WorkloadEndpointPort(name=port.name, protocol=protocol, port=port.port)
            for port, protocol in _ports(reading, spec.ports)
        ),
        **third,
    )
    labels = dict(meta.labels)
    if NAMESPACE_LABEL_V1 in labels:
        labels[NAMESPACE_LABEL] = labels.pop(NAMESPACE_LABEL_V1)
    endpoint = WorkloadEndpoint(metadata=ObjectMeta(namespace=namespace, labels=labels), spec=made)
    reading.end()
    try:
        name = names.workload_endpoint_name(names.endpoint_ids(endpoint))
    except ValueError as exc:
        raise ValidationError(title(reading.document), [("metadata", str(exc))]) from exc
    metadata = msgspec.structs.replace(endpoint.metadata, name=name)
    return reading.done(msgspec.structs.replace(endpoint, metadata=metadata))


def _node(reading: _Reading) -> Upgraded:
    read = reading.read(NodeV1)
    bgp = None
    if read.spec.bgp is not None:
        if not (read.spec.bgp.ipv4_address or read.spec.bgp.ipv6_address):
            reading.problems.append(("spec.bgp", "ipv4Address or ipv6Address must be given"))
        bgp = NodeBGPSpec(
            as_number=read.spec.bgp.as_number,
            ipv4_address=_interface_address(reading, "spec.bgp.ipv4Address", read.spec.bgp.ipv4_address, 4),
            ipv6_address=_interface_address(reading, "spec.bgp.ipv6Address", read.spec.bgp.ipv6_address, 6),
        )
    name = reading.named(read.metadata.name, "metadata.name", node_name)
    return reading.done(Node(metadata=ObjectMeta(name=name), spec=NodeSpec(bgp=bgp, orch_refs=read.spec.orch_refs)))


def _interface_address(reading: _Reading, path: str, text: str, version: int) -> str:
    """An address with its prefix length; a bare one is alone in its network."""
    if not text:
        return ""
    address, slash, length = text.partition("/")
    try:
        found = formats.address(address)
        whole = formats.loose_network(text)
    except ValueError:
        reading.problems.append((path, f"{text!r} is not an IPv{version} address"))
        return ""
    if found.version != version:
        reading.problems.append((path, f"{text!r} is not an IPv{version} address"))
    return f"{found}/{length if slash else whole.max_prefixlen}"


def _pool(reading: _Reading) -> Upgraded:
    read = reading.read(PoolV1)
    try:
        network = formats.loose_network(read.metadata.cidr)
    except ValueError:
        problem = ("metadata.cidr", f"{read.metadata.cidr!r} is not a CIDR")
        raise ValidationError(title(reading.document), [problem]) from None
    ipip = read.spec.ipip
    mode: Literal["Never", "CrossSubnet", "Always"] = "Never"
    if ipip is not None and ipip.enabled:
        mode = "CrossSubnet" if ipip.mode.lower() == "cross-subnet" else "Always"
    cidr = str(network) if "/" not in read.metadata.cidr else read.metadata.cidr
    spec = IPPoolSpec(
        cidr=cidr,
        ipip_mode=mode,
        nat_outgoing=read.spec.nat_outgoing,
        disabled=read.spec.disabled,
        node_selector="all()",
        block_size=26 if network.version == 4 else 122,
    )
    return reading.done(IPPool(metadata=ObjectMeta(name=re.sub(r"[.:/]", "-", str(network))), spec=spec))


def _peer(reading: _Reading) -> Upgraded:
    read = reading.read(PeerV1)
    meta = read.metadata
    node = ""
    if meta.scope == "node":
        node = reading.named(meta.node, "metadata.node", node_name)
    elif meta.node:
        reading.problems.append(("metadata.node", "must not be given where metadata.scope is global"))
    address = _address_name(meta.peer_ip)
    spec = BGPPeerSpec(node=node, peer_ip=str(formats.address(meta.peer_ip)), as_number=read.spec.as_number)
    return reading.done(BGPPeer(metadata=ObjectMeta(name=f"{node}.{address}" if node else address), spec=spec))


# ── rules ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

_ACTIONS = {"": "Allow", "allow": "Allow", "deny": "Deny", "log": "Log", "pass": "Pass", "next-tier": "Pass"}
_PROTOCOLS = {name.lower(): name for name in formats.PROTOCOLS}


def _rules(reading: _Reading, path: str, rules: Sequence[RuleV1]) -> tuple[Rule, ...]:
    return tuple(_rule(reading, f"{path}[{index}]", rule) for index, rule in enumerate(rules))


def _rule(reading: _Reading, path: str, rule: RuleV1) -> Rule:
    action = _ACTIONS.get(rule.action.lower())
    if action is None:
        reading.problems.append((f"{path}.action", f"must be one of allow, deny, log, pass, is {rule.action!r}"))
    given: dict[str, Any] = {
        "action": action or "Deny",
        "ip_version": rule.ip_version,
        "protocol": _protocol(reading, f"{path}.protocol", rule.protocol),
        "icmp": rule.icmp,
        "not_protocol": _protocol(reading, f"{path}.notProtocol", rule.not_protocol),
        "not_icmp": rule.not_icmp,
        "source": _side(rule.source),
        "destination": _side(rule.destination),
    }
    return Rule(**{name: value for name, value in given.items() if value not in (None, EntityRule())})


def _side(side: EntityRuleV1) -> EntityRule:
    excluded = [f"({_selector(side.not_selector)})"] if side.not_selector and side.not_tag else []
    return EntityRule(
        nets=_nets((*side.nets, side.net)),
        selector=_tagged(_selector(side.selector), side.tag),
        ports=side.ports,
        not_nets=_nets((*side.not_nets, side.not_net)),
        not_selector=" || ".join([*excluded, f"{side.not_tag} == ''"])
        if side.not_tag
        else _selector(side.not_selector),
        not_ports=side.not_ports,
    )


def _tagged(selector: str, tag: str) -> str:
    """Whoever had a tag has, since tags are gone, the label of that name without a value."""
    if not tag:
        return selector
    return f"({selector}) && {tag} == ''" if selector else f"{tag} == ''"


def _selector(text: str) -> str:
    return text.replace(NAMESPACE_LABEL_V1, NAMESPACE_LABEL)


def _nets(nets: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(formats.loose_network(net)) for net in nets if net)


def _by_version(nets: Sequence[str]) -> tuple[str, ...]:
    return tuple(map(str, sorted((formats.loose_network(net) for net in nets), key=lambda net: net.version)))


def _protocol(reading: _Reading, path: str, protocol: ProtocolV1 | None) -> str | int | None:
    if protocol is None:
        return None
    if isinstance(protocol, str):
        protocol = _PROTOCOLS.get(protocol.lower(), protocol)
    try:
        return formats.canonical_protocol(protocol)
    except ValueError as exc:
        reading.problems.append((path, str(exc)))
        return None


def _ports(reading: _Reading, ports: Sequence[PortV1]) -> list[tuple[PortV1, str | int]]:
    return [
        (port, _protocol(reading, f"spec.ports[{index}].protocol", port.protocol) or "TCP")
        for index, port in enumerate(ports)
    ]


def _profiles(reading: _Reading, profiles: Sequence[str]) -> tuple[str, ...]:
    return tuple(reading.named(name, f"spec.profiles[{index}]", _profile_name) for index, name in enumerate(profiles))


_CONVERTERS: dict[str, Callable[[_Reading], Upgraded]] = {
    "bgppeer": _peer,
    "hostendpoint": _host_endpoint,
    "ippool": _pool,
    "node": _node,
    "policy": _policy,
    "profile": _profile,
    "tier": _tier,
    "workloadendpoint": _workload_endpoint,
}
