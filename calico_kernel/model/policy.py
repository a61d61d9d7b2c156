"""Policy kinds: rules, tiers, network policies (enforced and staged) and profiles."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import field

from calico_kernel.model.meta import Condition, ConditionsStatus, Resource, Wire, always
from calico_kernel.model.types import Annotations, FreeSelector, Labels, Must, Name, Net, Port, Protocol, Selector

__all__ = [
    "Action",
    "Condition",
    "ConditionsStatus",
    "EntityRule",
    "GlobalNetworkPolicy",
    "GlobalNetworkPolicySpec",
    "HttpMatch",
    "HttpPath",
    "IcmpFields",
    "LabelSelector",
    "LabelSelectorRequirement",
    "NetworkPolicy",
    "NetworkPolicySpec",
    "PolicyType",
    "Port",
    "Profile",
    "ProfileSpec",
    "Protocol",
    "Rule",
    "RuleMetadata",
    "ServiceAccountMatch",
    "ServiceMatch",
    "StagedGlobalNetworkPolicy",
    "StagedGlobalNetworkPolicySpec",
    "StagedKubernetesNetworkPolicy",
    "StagedKubernetesNetworkPolicySpec",
    "StagedNetworkPolicy",
    "StagedNetworkPolicySpec",
    "Tier",
    "TierSpec",
]

Action = Literal["Allow", "Deny", "Log", "Pass"]
PolicyType = Literal["Ingress", "Egress"]
Order = int | float | None
"""Position in the tier; None comes last."""

StagedAction = Annotated[str, Must(one_of=("Set", "Delete", "Learn", "Ignore"))]
PolicyTypes = Annotated[tuple[PolicyType, ...], Must(unique=True, min_items=1, max_items=2)]
Hints = Annotated[tuple[Annotated[str, Must(one_of=("AssumeNeededOnEveryNode",))], ...], Must(unique=True)]
RuleNets = Annotated[tuple[Net, ...], Must(max_items=256)]
RulePorts = Annotated[tuple[Port, ...], Must(max_items=50)]
ServiceName = Annotated[str, Must(format="name", max_len=253)]
PathText = Annotated[str, Must(max_len=1024)]


class IcmpFields(Wire):
    type: Annotated[int | None, Must(ge=0, le=254)] = None
    code: Annotated[int | None, Must(ge=0, le=255)] = None


class HttpPath(Wire):
    exact: PathText = ""
    prefix: PathText = ""


class HttpMatch(Wire):
    methods: Annotated[tuple[str, ...], Must(max_items=20, unique=True)] = ()
    paths: Annotated[tuple[HttpPath, ...], Must(max_items=20)] = ()


class ServiceAccountMatch(Wire):
    names: tuple[str, ...] = ()
    selector: FreeSelector = ""


class ServiceMatch(Wire):
    name: ServiceName = ""
    namespace: ServiceName = ""


class EntityRule(Wire):
    """One side of a rule. What is given is ANDed; lists inside one field are ORed; ``not_*`` must fail to match."""

    nets: RuleNets = ()
    selector: Selector = ""
    namespace_selector: Selector = ""
    services: ServiceMatch | None = None
    ports: RulePorts = ()
    not_nets: RuleNets = ()
    not_selector: Selector = ""
    not_ports: RulePorts = ()
    service_accounts: ServiceAccountMatch | None = None


class RuleMetadata(Wire):
    annotations: Annotations = field(default_factory=dict)


Side = Annotated[EntityRule, Must(omit_empty=True)]


class Rule(Wire):
    action: Action
    ip_version: Annotated[int | None, Must(format="ip-version")] = field(default=None, name="ipVersion")
    protocol: Protocol | None = None
    icmp: IcmpFields | None = None
    not_protocol: Protocol | None = None
    not_icmp: IcmpFields | None = field(default=None, name="notICMP")
    source: Side = EntityRule()
    destination: Side = EntityRule()
    http: HttpMatch | None = None
    metadata: RuleMetadata | None = None


Rules = Annotated[tuple[Rule, ...], Must(max_items=1024)]


class NetworkPolicySpec(Wire):
    tier: Name = ""
    order: Order = None
    ingress: Rules = ()
    egress: Rules = ()
    selector: Selector = ""
    types: PolicyTypes = ()
    service_account_selector: Selector = ""
    performance_hints: Hints = ()


class NetworkPolicy(Resource, tag="NetworkPolicy"):
    spec: NetworkPolicySpec = field(default_factory=NetworkPolicySpec)
    namespaced: ClassVar[bool] = True
    plural: ClassVar[str] = "networkpolicies"


class GlobalNetworkPolicySpec(Wire):
    tier: Name = ""
    order: Order = None
    ingress: Rules = ()
    egress: Rules = ()
    selector: Selector = ""
    types: PolicyTypes = ()
    do_not_track: bool = False
    pre_dnat: bool = field(default=False, name="preDNAT")
    apply_on_forward: bool = False
    service_account_selector: Selector = ""
    namespace_selector: Selector = ""
    performance_hints: Hints = ()


class GlobalNetworkPolicy(Resource, tag="GlobalNetworkPolicy"):
    spec: GlobalNetworkPolicySpec = field(default_factory=GlobalNetworkPolicySpec)
    plural: ClassVar[str] = "globalnetworkpolicies"


class StagedNetworkPolicySpec(Wire):
    """``NetworkPolicySpec`` with ``stagedAction`` in front."""

    staged_action: StagedAction = ""
    tier: Name = ""
    order: Order = None
    ingress: Rules = ()
    egress: Rules = ()
    selector: Selector = ""
    types: PolicyTypes = ()
    service_account_selector: Selector = ""
    performance_hints: Hints = ()


class StagedNetworkPolicy(Resource, tag="StagedNetworkPolicy"):
    spec: StagedNetworkPolicySpec = field(default_factory=StagedNetworkPolicySpec)
    namespaced: ClassVar[bool] = True
    plural: ClassVar[str] = "stagednetworkpolicies"


class StagedGlobalNetworkPolicySpec(Wire):
    """``GlobalNetworkPolicySpec`` with ``stagedAction`` in front."""

    staged_action: StagedAction = ""
    tier: Name = ""
    order: Order = None
    ingress: Rules = ()
    egress: Rules = ()
    selector: Selector = ""
    types: PolicyTypes = ()
    do_not_track: bool = False
    pre_dnat: bool = field(default=False, name="preDNAT")
    apply_on_forward: bool = False
    service_account_selector: Selector = ""
    namespace_selector: Selector = ""
    performance_hints: Hints = ()


class StagedGlobalNetworkPolicy(Resource, tag="StagedGlobalNetworkPolicy"):
    spec: StagedGlobalNetworkPolicySpec = field(default_factory=StagedGlobalNetworkPolicySpec)
    plural: ClassVar[str] = "stagedglobalnetworkpolicies"


class LabelSelectorRequirement(Wire):
    key: str = always("")
    operator: Annotated[str, Must(one_of=("In", "NotIn", "Exists", "DoesNotExist"))] = always("")
    values: tuple[str, ...] = ()


class LabelSelector(Wire):
    """Kubernetes label selector; empty selects everything."""

    match_labels: Labels = field(default_factory=dict)
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()


class IPBlock(Wire):
    cidr: str = always("")
    except_: tuple[str, ...] = field(default=(), name="except")


class KubernetesPeer(Wire):
    pod_selector: LabelSelector | None = None
    namespace_selector: LabelSelector | None = None
    ip_block: IPBlock | None = field(default=None, name="ipBlock")


class KubernetesPort(Wire):
    protocol: str | None = None
    port: int | str | None = None
    end_port: int | None = None


class KubernetesIngressRule(Wire):
    ports: tuple[KubernetesPort, ...] = ()
    from_: tuple[KubernetesPeer, ...] = field(default=(), name="from")


class KubernetesEgressRule(Wire):
    ports: tuple[KubernetesPort, ...] = ()
    to: tuple[KubernetesPeer, ...] = ()


class StagedKubernetesNetworkPolicySpec(Wire):
    """A Kubernetes NetworkPolicy spec with ``stagedAction`` in front."""

    staged_action: StagedAction = ""
    pod_selector: LabelSelector = field(default_factory=LabelSelector)
    ingress: tuple[KubernetesIngressRule, ...] = ()
    egress: tuple[KubernetesEgressRule, ...] = ()
    policy_types: PolicyTypes = ()


class StagedKubernetesNetworkPolicy(Resource, tag="StagedKubernetesNetworkPolicy"):
    """A Kubernetes NetworkPolicy under trial."""

    spec: StagedKubernetesNetworkPolicySpec = field(default_factory=StagedKubernetesNetworkPolicySpec)
    namespaced: ClassVar[bool] = True
    plural: ClassVar[str] = "stagedkubernetesnetworkpolicies"


class TierSpec(Wire):
    order: Order = None
    default_action: Literal["Deny", "Pass"] | None = None


class Tier(Resource, tag="Tier"):
    spec: TierSpec = field(default_factory=TierSpec)
    status: ConditionsStatus = field(default_factory=ConditionsStatus)
    plural: ClassVar[str] = "tiers"


class ProfileSpec(Wire):
    ingress: Rules = ()
    egress: Rules = ()
    labels_to_apply: Labels = field(default_factory=dict)


class Profile(Resource, tag="Profile"):
    spec: ProfileSpec = field(default_factory=ProfileSpec)
    plural: ClassVar[str] = "profiles"
