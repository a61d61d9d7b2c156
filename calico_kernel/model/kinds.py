"""The register of resource kinds: how each is called, where it is stored, and which class holds it.

Built-in kinds load their module on first use, so that a short command pays only for the kinds it handles. Plugins add
kinds with ``register`` (extension hook ``calico_resource_kinds``).
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from calico_kernel.errors import PluginError

if TYPE_CHECKING:
    from calico_kernel.model.meta import Resource


class KindInfo:
    """One kind. ``words``: every lower-case name that people may use for it. ``internal``: kept by machines, not
    offered by calicoctl."""

    __slots__ = ("_module", "_type", "internal", "kind", "namespaced", "plural", "words")

    def __init__(
        self,
        kind: str,
        plural: str,
        *,
        module: str = "",
        namespaced: bool = False,
        words: tuple[str, ...] = (),
        internal: bool = False,
        kind_class: type[Resource] | None = None,
    ) -> None:
        self.kind, self.plural, self.namespaced, self.internal = kind, plural, namespaced, internal
        self.words = tuple(dict.fromkeys((kind.lower(), plural, *words)))
        self._module, self._type = module, kind_class

    @property
    def type(self) -> type[Resource]:
        if self._type is None:
            found: Any = getattr(import_module(f"calico_kernel.model.{self._module}"), self.kind)
            self._type = found
        assert self._type is not None
        return self._type

    def __repr__(self) -> str:
        return f"KindInfo({self.kind})"


_BUILT_IN = (
    KindInfo("BGPConfiguration", "bgpconfigurations", module="bgp", words=("bgpconfig", "bgpconfigs")),
    KindInfo("BGPFilter", "bgpfilters", module="bgp", words=("bgpf", "bgpfs", "bf", "bfs")),
    KindInfo("BGPPeer", "bgppeers", module="bgp", words=("bgpp", "bgpps", "bp", "bps")),
    KindInfo("BlockAffinity", "blockaffinities", module="network", internal=True),
    KindInfo("CalicoNodeStatus", "caliconodestatuses", module="cluster", words=("nodestatus", "nodestatuses")),
    KindInfo("ClusterInformation", "clusterinformations", module="cluster", words=("clusterinfo", "clusterinfos")),
    KindInfo("FelixConfiguration", "felixconfigurations", module="felix", words=("felixconfig", "felixconfigs")),
    KindInfo("GlobalNetworkPolicy", "globalnetworkpolicies", module="policy", words=("gnp", "gnps")),
    KindInfo("GlobalNetworkSet", "globalnetworksets", module="network", words=("gnetset", "gnetsets")),
    KindInfo("HostEndpoint", "hostendpoints", module="endpoints", words=("hep", "heps")),
    KindInfo("IPAMBlock", "ipamblocks", module="network", internal=True),
    KindInfo("IPAMConfiguration", "ipamconfigurations", module="network", words=("ipamconfig", "ipamconfigs")),
    KindInfo("IPAMHandle", "ipamhandles", module="network", internal=True),
    KindInfo("IPPool", "ippools", module="network", words=("ipp", "ipps", "pool", "pools")),
    KindInfo("IPReservation", "ipreservations", module="network", words=("reservation", "reservations")),
    KindInfo(
        "KubeControllersConfiguration",
        "kubecontrollersconfigurations",
        module="cluster",
        words=("kubecontrollersconfig", "kubecontrollersconfigs"),
    ),
    KindInfo("KubernetesEndpointSlice", "kubernetesendpointslices", module="services", namespaced=True, internal=True),
    KindInfo("KubernetesService", "kubernetesservice", module="services", namespaced=True, internal=True),
    KindInfo("LiveMigration", "livemigrations", module="endpoints", namespaced=True, internal=True),
    KindInfo(
        "NetworkPolicy",
        "networkpolicies",
        module="policy",
        namespaced=True,
        words=("policy", "policies", "np", "nps", "pol", "pols"),
    ),
    KindInfo("NetworkSet", "networksets", module="network", namespaced=True, words=("netset", "netsets")),
    KindInfo("Node", "nodes", module="endpoints", words=("no", "nos")),
    KindInfo("Profile", "profiles", module="policy", words=("pro", "pros")),
    KindInfo("StagedGlobalNetworkPolicy", "stagedglobalnetworkpolicies", module="policy", words=("sgnp", "sgnps")),
    KindInfo(
        "StagedKubernetesNetworkPolicy",
        "stagedkubernetesnetworkpolicies",
        module="policy",
        namespaced=True,
        words=("stagedkubernetespolicy", "stagedkubernetespolicies", "sknp", "sknps", "skpol", "skpols"),
    ),
    KindInfo(
        "StagedNetworkPolicy",
        "stagednetworkpolicies",
        module="policy",
        namespaced=True,
        words=("stagedpolicy", "stagedpolicies", "snp", "snps", "spol", "spols"),
    ),
    KindInfo("Tier", "tiers", module="policy"),
    KindInfo("WorkloadEndpoint", "workloadendpoints", module="endpoints", namespaced=True, words=("wep", "weps")),
)

KINDS: dict[str, KindInfo] = {}
"""Every known kind by its name (``NetworkPolicy``)."""
PLURALS: dict[str, KindInfo] = {}
"""By the plural that stands in stored keys (``networkpolicies``)."""
_words: dict[str, KindInfo] = {}


def _add(info: KindInfo) -> None:
    KINDS[info.kind] = info
    PLURALS[info.plural] = info
    for word in info.words:
        _words[word] = info


for _info in _BUILT_IN:
    _add(_info)


def register(kind_class: type[Resource]) -> KindInfo:
    """Make a vendor's kind known everywhere. The same class twice is fine.
    Raises PluginError when the kind, its plural or one of its other names belongs to another kind."""
    tag = str(kind_class.__struct_config__.tag)
    known = KINDS.get(tag)
    if known is not None and known._type is kind_class:
        return known
    where = f"{kind_class.__module__}.{kind_class.__qualname__}"
    if not kind_class.plural or "/" in kind_class.plural or kind_class.plural != kind_class.plural.lower():
        raise PluginError(
            what=f"resource kind {tag} ({where}) has the plural {kind_class.plural!r}",
            todo="set `plural` to lower-case text without a slash",
        )
    info = KindInfo(
        tag, kind_class.plural, namespaced=kind_class.namespaced, words=kind_class.aliases, kind_class=kind_class
    )
    for word in info.words:
        taken = _words.get(word)
        if taken is not None:
            raise PluginError(
                what=f"resource kind {tag} ({where}) wants the name {word!r}, which belongs to {taken.kind}",
                todo="give the kind names of its own",
            )
    _add(info)
    return info


def unregister(kind_class: type[Resource]) -> None:
    """Forget a registered kind (a plugin's tests clean up with this). Built-in kinds stay."""
    info = KINDS.get(str(kind_class.__struct_config__.tag))
    if info is None or info in _BUILT_IN:
        return
    del KINDS[info.kind], PLURALS[info.plural]
    for word in info.words:
        _words.pop(word, None)


def lookup(word: str) -> KindInfo | None:
    """The kind that a person means by ``word``: kind, plural or short name, in any case."""
    return _words.get(word.lower())


def public_kinds() -> Iterator[KindInfo]:
    """What calicoctl offers, sorted by kind."""
    return (KINDS[kind] for kind in sorted(KINDS) if not KINDS[kind].internal)
