"""Pools: where masquerading applies, and which encapsulations the cluster needs.

In:   pools as stored.   Out: ``ActivePool`` values, ``EncapsulationNeeds``; ``PoolInfo`` for routes.
"""

from __future__ import annotations

import attrs

from calico_kernel.calc.addresses import network
from calico_kernel.calc.outbox import Outbox
from calico_kernel.model.network import IPPoolSpec
from calico_kernel.model.nodestate import ActivePool, Encapsulation, EncapsulationNeeds, ResolvedConfig


@attrs.frozen(kw_only=True, slots=True)
class PoolInfo:
    """A pool as routes need it. ``encapsulation`` None: one only for load balancers, which holds no workloads."""

    cidr: str
    encapsulation: Encapsulation | None
    cross_subnet: bool
    nat_outgoing: bool


class Pools:
    def __init__(self) -> None:
        self.out: Outbox[str, ActivePool] = Outbox()
        self.infos: dict[str, PoolInfo] = {}
        """By prefix. Prefixes of pools are unique; of two that are equal all the same, the first name counts."""
        self._by_name: dict[str, IPPoolSpec] = {}
        self._names: dict[str, set[str]] = {}

    def put(self, name: str, spec: IPPoolSpec | None) -> set[str]:
        """Store, replace or (None) forget; returns the prefixes that may have changed.
        Raises ValueError on a prefix that does not parse, and changes nothing."""
        new = str(network(spec.cidr)) if spec is not None else ""
        touched: set[str] = set()
        old = self._by_name.pop(name, None)
        if old is not None:
            cidr = str(network(old.cidr))
            touched.add(cidr)
            names = self._names[cidr]
            names.discard(name)
            if not names:
                del self._names[cidr]
        if spec is not None:
            touched.add(new)
            self._by_name[name] = spec
            self._names.setdefault(new, set()).add(name)
        for cidr in touched:
            self._refresh(cidr)
        return touched

    def _refresh(self, cidr: str) -> None:
        names = self._names.get(cidr)
        if not names:
            self.infos.pop(cidr, None)
            self.out.set(cidr, None)
            return
        spec = self._by_name[min(names)]
        encapsulation = _encapsulation(spec)
        cross_subnet = "CrossSubnet" in (spec.ipip_mode, spec.vxlan_mode)
        balancers_only = tuple(spec.allowed_uses) == ("LoadBalancer",)
        self.infos[cidr] = PoolInfo(
            cidr=cidr,
            encapsulation=None if balancers_only else encapsulation,
            cross_subnet=cross_subnet,
            nat_outgoing=spec.nat_outgoing,
        )
        pool = ActivePool(
            cidr=cidr,
            nat_outgoing=spec.nat_outgoing,
            encapsulation=encapsulation,
            cross_subnet=cross_subnet,
            disabled=spec.disabled,
        )
        self.out.set(cidr, None if balancers_only else pool)

    def needs(self, config: ResolvedConfig) -> EncapsulationNeeds:
        """What the pools ask for; ``ipip_enabled`` and ``vxlan_enabled`` of the configuration overrule them."""
        ipip = vxlan_ipv4 = vxlan_ipv6 = none = False
        for cidr, names in self._names.items():
            spec = self._by_name[min(names)]
            with_ipip, with_vxlan = spec.ipip_mode not in ("", "Never"), spec.vxlan_mode not in ("", "Never")
            ipip |= with_ipip
            vxlan_ipv4 |= with_vxlan and ":" not in cidr
            vxlan_ipv6 |= with_vxlan and ":" in cidr
            none |= not with_ipip and not with_vxlan
        forced_ipip: bool | None = config.ipip_enabled
        forced_vxlan: bool | None = config.vxlan_enabled
        return EncapsulationNeeds(
            ipip=ipip if forced_ipip is None else forced_ipip,
            vxlan_ipv4=vxlan_ipv4 if forced_vxlan is None else forced_vxlan,
            vxlan_ipv6=vxlan_ipv6,
            none=none,
        )


def _encapsulation(spec: IPPoolSpec) -> Encapsulation:
    if spec.vxlan_mode not in ("", "Never"):
        return Encapsulation.VXLAN
    if spec.ipip_mode not in ("", "Never"):
        return Encapsulation.IPIP
    return Encapsulation.NONE
