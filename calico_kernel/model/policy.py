"""Policy kinds: rules, tiers, network policies (enforced and staged) and profiles."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from msgspec import field

from calico_kernel.model.meta import Resource, Wire

Action = Literal["Allow", "Deny", "Log", "Pass"]
PolicyType = Literal["Ingress", "Egress"]
Protocol = str | int
"""``TCP`` ``UDP`` ``ICMP`` ``ICMPv6`` ``SCTP`` ``UDPLite`` or 1-255."""
Port = int | str
"""A number, ``"80:90"`` (inclusive), or the name of an endpoint's port."""


class IcmpFields(Wire):
    type: int | None = None
    code: int | None = None


class HttpPath(Wire):
    exact: str = ""
    prefix: str = ""


class HttpMatch(Wire):
    methods: tuple[str, ...] = ()
    paths: tuple[HttpPath, ...] = ()


class ServiceAccountMatch(Wire):
    names: tuple[str, ...] = ()
    selector: str = ""


class ServiceMatch(Wire):
    name: str = ""
    namespace: str = ""


class EntityRule(Wire):
    """One side of a rule. What is given is ANDed; lists inside one field are ORed; ``not_*`` must fail to match."""

    nets: tuple[str, ...] = ()
    selector: str = ""
    namespace_selector: str = ""
    services: ServiceMatch | None = None
    ports: tuple[Port, ...] = ()
    not_nets: tuple[str, ...] = ()
    not_selector: str = ""
    not_ports: tuple[Port, ...] = ()
    service_accounts: ServiceAccountMatch | None = None


class RuleMetadata(Wire):
    annotations: dict[str, str] = field(default_factory=dict)


class Rule(Wire):
    action: Action
    ip_version: int | None = field(default=None, name="ipVersion")
    protocol: Protocol | None = None
    icmp: IcmpFields | None = None
    not_protocol: Protocol | None = None
    not_icmp: IcmpFields | None = field(default=None, name="notICMP")
    source: EntityRule = EntityRule()
    destination: EntityRule = EntityRule()
    http: HttpMatch | None = None
    metadata: RuleMetadata | None = None


class NetworkPolicySpec(Wire):
    tier: str = ""
    order: float | None = None
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    selector: str = ""
    types: tuple[PolicyType, ...] = ()
    service_account_selector: str = ""
    performance_hints: tuple[str, ...] = ()


class NetworkPolicy(Resource, tag="NetworkPolicy"):
    spec: NetworkPolicySpec = field(default_factory=NetworkPolicySpec)
    namespaced: ClassVar[bool] = True
    plural: ClassVar[str] = "networkpolicies"


class GlobalNetworkPolicySpec(Wire):
    tier: str = ""
    order: float | None = None
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    selector: str = ""
    types: tuple[PolicyType, ...] = ()
    do_not_track: bool = False
    pre_dnat: bool = field(default=False, name="preDNAT")
    apply_on_forward: bool = False
    service_account_selector: str = ""
    namespace_selector: str = ""
    performance_hints: tuple[str, ...] = ()


class GlobalNetworkPolicy(Resource, tag="GlobalNetworkPolicy"):
    spec: GlobalNetworkPolicySpec = field(default_factory=GlobalNetworkPolicySpec)
    plural: ClassVar[str] = "globalnetworkpolicies"


class StagedNetworkPolicySpec(NetworkPolicySpec):
    staged_action: str = ""


class StagedNetworkPolicy(Resource, tag="StagedNetworkPolicy"):
    spec: StagedNetworkPolicySpec = field(default_factory=StagedNetworkPolicySpec)
    namespaced: ClassVar[bool] = True
    plural: ClassVar[str] = "stagednetworkpolicies"


class StagedGlobalNetworkPolicySpec(GlobalNetworkPolicySpec):
    staged_action: str = ""


class StagedGlobalNetworkPolicy(Resource, tag="StagedGlobalNetworkPolicy"):
    spec: StagedGlobalNetworkPolicySpec = field(default_factory=StagedGlobalNetworkPolicySpec)
    plural: ClassVar[str] = "stagedglobalnetworkpolicies"


class StagedKubernetesNetworkPolicy(Resource, tag="StagedKubernetesNetworkPolicy"):
    """A Kubernetes NetworkPolicy under trial; its spec is Kubernetes' own plus ``stagedAction``."""

    spec: dict[str, Any] = field(default_factory=dict)
    namespaced: ClassVar[bool] = True
    plural: ClassVar[str] = "stagedkubernetesnetworkpolicies"


class Condition(Wire):
    type: str = ""
    status: str = ""
    observed_generation: int = 0
    last_transition_time: str | None = None
    reason: str = ""
    message: str = ""


class ConditionsStatus(Wire):
    conditions: tuple[Condition, ...] = ()


class TierSpec(Wire):
    order: float | None = None
    default_action: Literal["Deny", "Pass"] | None = None


class Tier(Resource, tag="Tier"):
    spec: TierSpec = field(default_factory=TierSpec)
    status: ConditionsStatus | None = None
    plural: ClassVar[str] = "tiers"


class ProfileSpec(Wire):
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    labels_to_apply: dict[str, str] = field(default_factory=dict)


class Profile(Resource, tag="Profile"):
    spec: ProfileSpec = field(default_factory=ProfileSpec)
    plural: ClassVar[str] = "profiles"
