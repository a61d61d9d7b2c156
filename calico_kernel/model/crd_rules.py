"""What the schemas of CustomResourceDefinitions say beyond the types of fields: rules over several fields, defaults,
and the few places where what Kubernetes stores differs from our structs.

In:    names of structs and of their fields as they are written.
Out:   rules in CEL (Kubernetes 1.31 or newer). ``rules`` says the same for our own client; here stands what a server
       can judge on its own, for those who write with kubectl. Pure.

A server prices each rule by the longest lists and texts that it may meet, and refuses the definition when the price is
too high: what has no bound (templates of host endpoints, service account names) has no rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calico_kernel.model.meta import API_VERSION
from calico_kernel.model.wellknown import CRD_GROUP, TIERS

Rule = dict[str, str]


def _rule(expression: str, message: str, *, forbidden: bool = False) -> Rule:
    reason = "FieldValueForbidden" if forbidden else "FieldValueInvalid"
    return {"rule": expression, "message": message, "reason": reason}


def _given(name: str, of: str = "self") -> str:
    """A list or text that is there and not empty."""
    return f"(has({of}.{name}) && size({of}.{name}) > 0)"


def _on(name: str) -> str:
    return f"(has(self.{name}) && self.{name})"


def _none(*conditions: str) -> str:
    return f"!({' || '.join(conditions)})"


def _without_global(name: str, where: str = "it belongs in the namespaceSelector of a rule") -> Rule:
    return _rule(f"!has(self.{name}) || !self.{name}.contains('global(')", f"global() is not valid in {name}: {where}")


FIXED = "self == oldSelf"

# ── policy ────────────────────────────────────────────────────────────────────────────────────────────────────────────

_SIDES = ("source", "destination")
_LISTS = ("ports", "notPorts")
_BESIDE_SERVICES = ("selector", "notSelector", "namespaceSelector", "nets", "notNets")


def _is(name: str, words: tuple[str, ...], numbers: tuple[int, ...]) -> str:
    """Text or number among these; CEL wants lists of one type."""
    texts = ", ".join(f"'{word}'" for word in words)
    return f"(self.{name} in [{texts}] || self.{name} in [{', '.join(map(str, numbers))}])"


def _ports_need_protocol() -> list[Rule]:
    lists = [
        (f"!has(self.{side}) || !has(self.{side}.{name})", f"self.{side}.{name}") for side in _SIDES for name in _LISTS
    ]
    empty = " && ".join(f"({missing} || size({ports}) == 0)" for missing, ports in lists)
    return [
        *(
            _rule(
                f"has(self.protocol) || {missing} || {ports}.all(port, type(port) == string)",
                f"a rule with a number in {ports[5:]} must set protocol to TCP, UDP or SCTP",
            )
            for missing, ports in lists
        ),
        _rule(
            f"!has(self.protocol) || {_is('protocol', ('TCP', 'UDP', 'SCTP'), (6, 17, 132))} || ({empty})",
            "a rule with ports must set protocol to TCP, UDP or SCTP",
        ),
    ]


def _families() -> list[Rule]:
    return [
        _rule(
            f"!has(self.ipVersion) || !has(self.{side}) || !has(self.{side}.{name}) || "
            f"self.{side}.{name}.all(net, net.contains(':') == (self.ipVersion == 6))",
            f"{side}.{name} holds a prefix that is not of ipVersion",
        )
        for side in _SIDES
        for name in ("nets", "notNets")
    ]


def _icmp_version(name: str) -> list[Rule]:
    return [
        _rule(
            f"!has(self.{name}) || !has(self.ipVersion) || self.ipVersion == {version} || "
            f"!{_is(name, (word,), (number,))}",
            f"{name} {word} needs ipVersion {version}",
        )
        for word, number, version in (("ICMP", 1, 4), ("ICMPv6", 58, 6))
    ]


_RULE = [
    _rule(
        f"!has(self.icmp) || (has(self.protocol) && {_is('protocol', ('ICMP', 'ICMPv6'), (1, 58))})",
        "icmp needs protocol ICMP or ICMPv6",
    ),
    *_icmp_version("protocol"),
    *_icmp_version("notProtocol"),
    _rule("!has(self.http) || self.action == 'Allow'", "http is only valid in Allow rules", forbidden=True),
    _rule(
        f"!has(self.http) || !has(self.protocol) || {_is('protocol', ('TCP',), (6,))}",
        "http needs protocol TCP, or none",
    ),
    _rule(
        "!has(self.destination) || !has(self.destination.services) || "
        + _none(_given("ports", "self.destination"), _given("notPorts", "self.destination")),
        "ports and notPorts cannot be given beside services",
        forbidden=True,
    ),
    *_ports_need_protocol(),
    *_families(),
]

_SIDE = [
    _without_global("selector"),
    _rule(
        f"!has(self.services) || {_none(*map(_given, _BESIDE_SERVICES), 'has(self.serviceAccounts)')}",
        "selectors, nets and serviceAccounts cannot be given beside services",
        forbidden=True,
    ),
]


def _policy(*, is_global: bool, staged: bool) -> list[Rule]:
    found = [_without_global("selector"), _without_global("serviceAccountSelector")]
    found += [
        _rule(
            f"!has(self.{direction}) || self.{direction}.all(rule, !has(rule.{outer}) || !has(rule.{outer}.services))",
            f"services are not allowed in the {outer} of an {direction} rule",
            forbidden=True,
        )
        for direction, outer in (("ingress", "destination"), ("egress", "source"))
    ]
    found.append(
        _rule(
            "!has(self.egress) || self.egress.all(rule, !has(rule.http))",
            "http is not allowed in egress rules",
            forbidden=True,
        )
    )
    if is_global:
        found += [
            _without_global("namespaceSelector"),
            *(
                _rule(
                    f"!has(self.{direction}) || self.{direction}.all(rule, !has(rule.{inner}) || "
                    f"!has(rule.{inner}.services) || {_given('namespace', f'rule.{inner}.services')})",
                    "services need a namespace in a global policy",
                )
                for direction, inner in (("ingress", "source"), ("egress", "destination"))
            ),
            _rule(
                f"!({_on('preDNAT')} && {_on('doNotTrack')})",
                "preDNAT and doNotTrack cannot both be true",
                forbidden=True,
            ),
            _rule(
                f"!{_on('preDNAT')} || {_none(_given('egress'), _contains('types', 'Egress'))}",
                "a preDNAT policy cannot have egress rules, nor the type Egress",
                forbidden=True,
            ),
            _rule(
                f"{_on('applyOnForward')} || {_none(_on('preDNAT'), _on('doNotTrack'))}",
                "applyOnForward must be true when preDNAT or doNotTrack is true",
            ),
        ]
    if staged:
        texts = ["selector", "serviceAccountSelector", "ingress", "egress", "types", "performanceHints"]
        flags = ["doNotTrack", "preDNAT", "applyOnForward"] if is_global else []
        texts += ["namespaceSelector"] if is_global else []
        found.append(_delete_is_bare("has(self.order)", *map(_given, texts), *map(_on, flags)))
    return found


def _contains(name: str, word: str) -> str:
    return f"(has(self.{name}) && self.{name}.exists(one, one == '{word}'))"


def _delete_is_bare(*given: str) -> Rule:
    return _rule(
        f"!has(self.stagedAction) || self.stagedAction != 'Delete' || {_none(*given)}",
        "nothing but the tier may be given when stagedAction is Delete",
        forbidden=True,
    )


# ── addresses ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_LOAD_BALANCER = _contains("allowedUses", "LoadBalancer")
_FAMILY = "cidr(self.cidr).ip().family()"


def _tunnelled(mode: str) -> str:
    return f"(has(self.{mode}) && !(self.{mode} in ['', 'Never']))"


def _outside(prefix: str, address: str) -> str:
    return f"!cidr('{prefix}').containsIP(cidr(self.cidr).ip()) && !cidr(self.cidr).containsIP('{address}')"


_POOL = [
    _rule(
        f"!({_tunnelled('ipipMode')} && {_tunnelled('vxlanMode')})",
        "ipipMode and vxlanMode cannot both be enabled",
        forbidden=True,
    ),
    _rule(
        f"!{_LOAD_BALANCER} || {_none(_tunnelled('ipipMode'), _tunnelled('vxlanMode'), _on('disableBGPExport'))}",
        "a LoadBalancer pool cannot have IPIP or VXLAN enabled, nor disable BGP export",
        forbidden=True,
    ),
    _rule(
        f"!{_LOAD_BALANCER} || size(self.allowedUses) == 1",
        "LoadBalancer cannot be combined with Workload or Tunnel",
        forbidden=True,
    ),
    _rule(
        f"!{_LOAD_BALANCER} || !has(self.nodeSelector) || self.nodeSelector == 'all()'",
        "a LoadBalancer pool must have the nodeSelector all()",
    ),
    _rule(
        f"!{_contains('allowedUses', 'Tunnel')} || !{_given('namespaceSelector')}",
        "a pool for tunnels cannot have a namespaceSelector: set allowedUses to [Workload]",
        forbidden=True,
    ),
    _without_global("nodeSelector", "pools know no global networks"),
    _without_global("namespaceSelector", "pools know no global networks"),
    _rule("cidr(self.cidr) == cidr(self.cidr).masked()", "cidr is not strictly masked: its host bits are not zero"),
    _rule(_outside("169.254.0.0/16", "169.254.0.0"), "cidr overlaps with the link local range 169.254.0.0/16"),
    _rule(_outside("fe80::/10", "fe80::"), "cidr overlaps with the link local range fe80::/10"),
    _rule(f"{_FAMILY} == 4 || !{_tunnelled('ipipMode')}", "IPIP is not supported on IPv6 pools", forbidden=True),
    _rule(
        "!has(self.blockSize) || self.blockSize == 0 || "
        f"({_FAMILY} == 4 ? 20 <= self.blockSize && self.blockSize <= 32 : self.blockSize >= 116)",
        "blockSize must be from 20 to 32 for an IPv4 pool, from 116 to 128 for an IPv6 pool",
    ),
    _rule(
        f"{_on('disabled')} || cidr(self.cidr).prefixLength() <= "
        f"(has(self.blockSize) && self.blockSize > 0 ? self.blockSize : {_FAMILY} == 4 ? 26 : 122)",
        "cidr is smaller than one block: widen it or choose a blockSize that fits",
    ),
]

# ── endpoints, BGP, configuration ─────────────────────────────────────────────────────────────────────────────────────

_HOST_ENDPOINT = [
    _rule(_given("node"), "node must be given"),
    _rule(
        f"{_given('interfaceName')} || {_given('expectedIPs')}",
        "at least one of interfaceName and expectedIPs must be given",
    ),
]

_BGP_CONFIGURATION = [
    _rule(
        f"!has(self.nodeToNodeMeshEnabled) || self.nodeToNodeMeshEnabled || !has(self.{name})",
        f"{name} cannot be set when nodeToNodeMeshEnabled is false",
        forbidden=True,
    )
    for name in ("nodeMeshPassword", "nodeMeshMaxRestartTime")
] + [
    _rule(
        f"!{_given('communities')} || {_given('prefixAdvertisements')}",
        "communities are defined but no prefixAdvertisements use them",
    )
]

_DEFAULT_ONLY = (
    ("nodeToNodeMeshEnabled", False),
    ("asNumber", False),
    ("serviceLoadBalancerIPs", True),
    ("serviceExternalIPs", True),
    ("serviceClusterIPs", True),
    ("nodeMeshPassword", False),
    ("nodeMeshMaxRestartTime", False),
)

_BGP_PEER = [
    _rule(f"!({_given('node')} && {_given('nodeSelector')})", "node and nodeSelector cannot both be set"),
    _rule(f"!({_given('peerIP')} && {_given('peerSelector')})", "peerIP and peerSelector cannot both be set"),
    _rule(
        f"!{_given('peerSelector')} || !has(self.asNumber) || self.asNumber == 0",
        "asNumber must be empty when peerSelector is set",
        forbidden=True,
    ),
    _rule(
        f"!{_given('localWorkloadSelector')} || {_none(_given('peerIP'), _given('peerSelector'))}",
        "peerIP and peerSelector must be empty when localWorkloadSelector is set",
        forbidden=True,
    ),
    _rule(
        f"!{_given('localWorkloadSelector')} || (has(self.asNumber) && self.asNumber != 0)",
        "asNumber is required when localWorkloadSelector is set",
    ),
    _rule(
        f"!{_given('reachableBy')} || {_given('peerIP')}",
        "reachableBy must be empty when peerIP is empty",
        forbidden=True,
    ),
    _rule(
        f"!({_on('keepOriginalNextHop')} && has(self.nextHopMode))",
        "nextHopMode cannot be set beside keepOriginalNextHop, which is deprecated",
        forbidden=True,
    ),
]

_FILTER_RULE = [
    _rule(f"{_given('cidr')} == {_given('matchOperator')}", "cidr and matchOperator must both be set or both be empty"),
    _rule(f"!has(self.prefixLength) || {_given('cidr')}", "cidr is required when prefixLength is set"),
    _rule(f"!{_given('operations')} || self.action == 'Accept'", "operations may only be used with action Accept"),
]

_RANGE_OF_TABLES = [_rule("1 <= self.min && self.min <= self.max", "must be a range of tables: 1 <= min <= max")]

_FELIX = [
    _rule(
        "!(has(self.routeTableRange) && has(self.routeTableRanges))",
        "routeTableRange and routeTableRanges cannot both be set",
        forbidden=True,
    ),
    *(
        _rule(
            f"!{_given(name)} || (isIP(self.{name}) && ip(self.{name}).family() == {version})",
            f"{name} must be an IPv{version} address",
        )
        for name, version in (
            ("natOutgoingAddress", 4),
            ("deviceRouteSourceAddress", 4),
            ("deviceRouteSourceAddressIPv6", 6),
        )
    ),
]

_BY_STRUCT: Mapping[str, list[Rule]] = {
    "Rule": _RULE,
    "EntityRule": _SIDE,
    "IcmpFields": [_rule("!has(self.code) || has(self.type)", "a code needs a type beside it")],
    "ServiceMatch": [_rule(_given("name"), "services must name a service")],
    "NetworkPolicySpec": _policy(is_global=False, staged=False),
    "GlobalNetworkPolicySpec": _policy(is_global=True, staged=False),
    "StagedNetworkPolicySpec": _policy(is_global=False, staged=True),
    "StagedGlobalNetworkPolicySpec": _policy(is_global=True, staged=True),
    "StagedKubernetesNetworkPolicySpec": [
        _delete_is_bare(
            *map(_given, ("ingress", "egress", "policyTypes")),
            *(
                f"(has(self.podSelector) && {_given(name, 'self.podSelector')})"
                for name in ("matchLabels", "matchExpressions")
            ),
        )
    ],
    "IPPoolSpec": _POOL,
    "HostEndpointSpec": _HOST_ENDPOINT,
    "BGPConfigurationSpec": _BGP_CONFIGURATION,
    "BGPPeerSpec": _BGP_PEER,
    "BGPFilterRuleV4": _FILTER_RULE,
    "BGPFilterRuleV6": _FILTER_RULE,
    "FelixConfigurationSpec": _FELIX,
    "RouteTableRange": [*_RANGE_OF_TABLES, _rule("self.max <= 250", "max must be at most 250")],
    "RouteTableIDRange": _RANGE_OF_TABLES,
}

_BY_KIND: Mapping[str, list[Rule]] = {
    "Tier": [
        _rule(
            f"self.metadata.name != '{name}' || (has(self.spec.order) && self.spec.order == {order:.1f} && "
            f"has(self.spec.defaultAction) && self.spec.defaultAction == '{action}')",
            f"the tier {name} must have order {order:.0f} and defaultAction {action}",
        )
        for name, (order, action) in TIERS.items()
    ],
    "FelixConfiguration": [
        _rule(
            "!has(self.spec) || !has(self.spec.nodeSelector) || "
            "!(self.metadata.name == 'default' || self.metadata.name.startsWith('node.'))",
            "nodeSelector must not be set on 'default' or on 'node.*'",
            forbidden=True,
        )
    ],
    "BGPConfiguration": [
        _rule(
            "self.metadata.name == 'default' || !has(self.spec) || "
            + _none(*(_given(n, "self.spec") if is_list else f"has(self.spec.{n})" for n, is_list in _DEFAULT_ONLY)),
            f"only the BGPConfiguration named default may set {', '.join(name for name, _ in _DEFAULT_ONLY)}",
            forbidden=True,
        )
    ],
}


def of_struct(name: str) -> list[Rule]:
    """Rules for every object of the struct with this name."""
    return _BY_STRUCT.get(name, [])


def of_kind(kind: str) -> list[Rule]:
    """Rules for the whole resource, its name included."""
    return _BY_KIND.get(kind, [])


# ── where Kubernetes stores it otherwise ──────────────────────────────────────────────────────────────────────────────

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "SecretKeySelector": ("key",),
    "EndpointPort": ("name", "port"),
    "RouteTableRange": ("min", "max"),
    "RouteTableIDRange": ("min", "max"),
    "ProtoPort": ("port",),
    "HealthTimeoutOverride": ("name", "timeout"),
    "BlockAffinitySpec": ("state", "node", "cidr", "deleted"),
    "IPAMBlockSpec": ("cidr", "allocations", "unallocated", "attributes"),
    "IPAMHandleSpec": ("handleID", "block"),
    "AddCommunity": ("value",),
    "Condition": ("type", "status"),
    "Tier": ("metadata", "spec"),
}
"""Fields that must be there, beside those that the structs say."""

OBJECTS: Mapping[str, Mapping[str, Any]] = {"BGPFilterOperation": {"minProperties": 1, "maxProperties": 1}}
"""By struct: what is added to its schema."""

OVERRIDES: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("NetworkPolicySpec", "tier"): {"default": "default"},
    ("GlobalNetworkPolicySpec", "tier"): {"default": "default"},
    ("StagedNetworkPolicySpec", "tier"): {"default": "default"},
    ("StagedGlobalNetworkPolicySpec", "tier"): {"default": "default"},
    ("StagedNetworkPolicySpec", "stagedAction"): {"default": "Set"},
    ("StagedGlobalNetworkPolicySpec", "stagedAction"): {"default": "Set"},
    ("StagedKubernetesNetworkPolicySpec", "stagedAction"): {"default": "Set"},
    ("TierSpec", "defaultAction"): {"default": "Deny"},
    ("IPPoolSpec", "cidr"): {"x-kubernetes-validations": [_rule(FIXED, "cidr cannot be changed: make another pool")]},
    ("IPPoolSpec", "blockSize"): {
        "x-kubernetes-validations": [_rule(FIXED, "blockSize cannot be changed: make another pool")]
    },
    ("IPPoolSpec", "nodeSelector"): {"default": "all()"},
    ("IPPoolSpec", "assignmentMode"): {"default": "Automatic"},
    ("IPAMBlockSpec", "allocations"): {"items": {"type": "integer", "nullable": True}},
    ("IPAMBlockSpec", "sequenceNumber"): {"default": 0, "format": "int64"},
    ("IPAMBlockSpec", "strictAffinity"): {"default": False},
    ("BGPConfigurationSpec", "logSeverityScreen"): {"default": "Info"},
    ("BGPConfigurationSpec", "serviceLoadBalancerAggregation"): {"default": "Enabled"},
    ("SecretKeySelector", "name"): {"default": ""},
    ("FelixConfigurationSpec", "nftablesMode"): {"default": "Auto"},
    ("FelixConfigurationSpec", "nftablesFlowTableOffload"): {"default": "Disabled"},
    ("KubeControllersConfigurationSpec", "healthChecks"): {"default": "Enabled"},
    ("LoadBalancerController", "assignIPs"): {"default": "AllServices"},
    ("MigrationController", "policyNameMigrator"): {"default": "Enabled"},
    ("ConditionsStatus", "conditions"): {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ("IPAMBlockSpec", "affinityClaimTime"): {"format": "date-time"},
    ("BlockAttributes", "releasedAt"): {"format": "date-time"},
    ("Condition", "lastTransitionTime"): {"format": "date-time"},
    ("CalicoNodeStatusStatus", "lastUpdated"): {"format": "date-time"},
}
"""By struct and field: what is added to, or set in place of, what the struct says. Defaults are those that Calico's
definitions set; a server fills them in for those who write with kubectl, and our own client writes them itself."""

GROUP_OVERRIDES: Mapping[tuple[str, str, str], Mapping[str, Any]] = {
    (CRD_GROUP, "BlockAffinitySpec", "deleted"): {"type": "string", "enum": ["true", "false", ""]},
    (API_VERSION, "BlockAffinitySpec", "deleted"): {"type": "boolean", "default": False},
    (CRD_GROUP, "IPAMConfigurationSpec", "maxBlocksPerHost"): {"maximum": 2147483647},
    (API_VERSION, "IPAMConfigurationSpec", "maxBlocksPerHost"): {"default": 0},
    (API_VERSION, "IPAMConfigurationSpec", "strictAffinity"): {"default": False},
    (API_VERSION, "IPAMConfigurationSpec", "autoAllocateBlocks"): {"default": True},
}


def stand_in(struct: str, field: str) -> Any:
    """A plan in place of the field's own, which the structs leave open."""
    if (struct, field) == ("IPAMBlockSpec", "attributes"):
        from calico_kernel.model.ipam import BlockAttributes
        from calico_kernel.model.schema import Plan

        return Plan(shape="list", item=Plan(shape="struct", struct=BlockAttributes))
    if (struct, field) == ("BlockAffinitySpec", "deleted"):
        from calico_kernel.model.schema import Plan

        return Plan(scalars=frozenset({bool}))
    return None
