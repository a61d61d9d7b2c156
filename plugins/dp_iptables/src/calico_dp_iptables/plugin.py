"""Hook implementations of calico-dp-iptables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calico_dp_iptables.settings import Settings
from calico_kernel.hookspecs import HostNeed, PluginInfo, hookimpl

if TYPE_CHECKING:
    from calico_kernel.hookspecs import Dataplane, Services


def _module(name: str, *options: str, effect: str, others: tuple[str, ...] = (), required: bool = False) -> HostNeed:
    return HostNeed(kind="module", name=name, others=others, options=options, effect=effect, required=required)


_NEEDS = (
    HostNeed(
        kind="program",
        name="iptables-restore",
        others=("iptables-nft-restore", "iptables-legacy-restore"),
        effect="nothing is enforced",
        required=True,
    ),
    HostNeed(
        kind="program",
        name="ip6tables-restore",
        others=("ip6tables-nft-restore", "ip6tables-legacy-restore"),
        effect="nothing is enforced for IPv6; the host must not forward it",
    ),
    HostNeed(kind="program", name="ipset", effect="rules with selectors, named ports or network sets deny"),
    HostNeed(kind="program", name="nft", effect="with the nft back end, drift is found by the resync timer alone"),
    _module(
        "ip_tables",
        "CONFIG_IP_NF_IPTABLES",
        "CONFIG_NF_TABLES",
        others=("nf_tables",),
        required=True,
        effect="nothing is enforced",
    ),
    _module(
        "ip6_tables",
        "CONFIG_IP6_NF_IPTABLES",
        "CONFIG_NF_TABLES_IPV6",
        others=("nf_tables",),
        effect="nothing is enforced for IPv6; the host must not forward it",
    ),
    _module("ip_set", "CONFIG_IP_SET", effect="rules with selectors, named ports or network sets deny"),
    _module("xt_set", "CONFIG_NETFILTER_XT_SET", effect="rules with selectors, named ports or network sets deny"),
    _module("xt_mark", "CONFIG_NETFILTER_XT_MARK", required=True, effect="nothing is enforced"),
    _module("xt_conntrack", "CONFIG_NETFILTER_XT_MATCH_CONNTRACK", effect="replies need rules of their own"),
    _module("xt_multiport", "CONFIG_NETFILTER_XT_MATCH_MULTIPORT", effect="rules with ports deny"),
    _module("xt_addrtype", "CONFIG_NETFILTER_XT_MATCH_ADDRTYPE", effect="rules that need it are left out"),
    _module(
        "xt_rpfilter",
        "CONFIG_IP_NF_MATCH_RPFILTER",
        others=("ipt_rpfilter",),
        effect="source addresses of workloads are checked one by one instead",
    ),
    _module("xt_limit", "CONFIG_NETFILTER_XT_MATCH_LIMIT", effect="rate-limited log rules log nothing"),
    _module(
        "ipt_REJECT",
        "CONFIG_IP_NF_TARGET_REJECT",
        "CONFIG_NFT_REJECT",
        others=("xt_REJECT", "nft_reject"),
        effect="denied packets are dropped silently",
    ),
    _module("xt_LOG", "CONFIG_NETFILTER_XT_TARGET_LOG", effect="log rules log nothing"),
    _module(
        "iptable_raw",
        "CONFIG_IP_NF_RAW",
        others=("nf_tables",),
        effect="source addresses are checked in the filter table; untracked policy has no effect",
    ),
    _module("iptable_mangle", "CONFIG_IP_NF_MANGLE", others=("nf_tables",), effect="policy before DNAT has no effect"),
    _module(
        "iptable_nat",
        "CONFIG_IP_NF_NAT",
        "CONFIG_NF_NAT",
        others=("nf_nat",),
        effect="workloads are not masqueraded and have no floating addresses",
    ),
    _module(
        "nf_conntrack_netlink",
        "CONFIG_NF_CT_NETLINK",
        effect="flows of an address that is gone are not ended: they end by their time-outs",
    ),
)


@hookimpl
def calico_plugin() -> PluginInfo:
    return PluginInfo(
        summary="Policy enforcement for Calico Kernel with iptables and ipset",
        hook_api=(1, 1),
        settings=Settings,
        distribution="calico-dp-iptables",
        host_needs=_NEEDS,
    )


@hookimpl
def calico_dataplane(settings: Any, services: Services) -> Dataplane | None:
    from calico_dp_iptables.driver import IptablesDataplane

    return IptablesDataplane(settings, services)
