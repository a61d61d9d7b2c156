"""The chains that hang in the kernel's own, for one family: where a packet enters and leaves policy.

In:   ``Options`` and what this node needs (``Needs``).   Out: for each table, chains and the hooks into kernel chains.
Pure. Order and meaning are Calico's; tables that nothing needs stay untouched, because every rule that is not there
costs neither packets nor commits anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs

from calico_dp_iptables import rules as r
from calico_dp_iptables.endpoint_chains import Chains, one_port
from calico_dp_iptables.names import set_name
from calico_dp_iptables.options import Options
from calico_dp_iptables.rules import Rule, rule
from calico_kernel.model.nodestate import PortRange

FROM_WORKLOAD = "cali-from-wl-dispatch"
TO_WORKLOAD = "cali-to-wl-dispatch"
FROM_HOST_ENDPOINT = "cali-from-host-endpoint"
TO_HOST_ENDPOINT = "cali-to-host-endpoint"
FROM_HOST_FORWARD = "cali-from-hep-forward"
TO_HOST_FORWARD = "cali-to-hep-forward"
WORKLOAD_TO_HOST = "cali-wl-to-host"
RPF_SKIP = "cali-rpf-skip"
SOURCE_CHECK = "cali-source-check"
NAT_OUTGOING = "cali-nat-outgoing"
FLOATING_DNAT = "cali-fip-dnat"
FLOATING_SNAT = "cali-fip-snat"

POOLS_SET = "network-ip-pools"
MASQUERADED_POOLS_SET = "masq-ipam-pools"
ALL_HOSTS_SET = "all-hosts-net"
ALL_VXLAN_SET = "all-vxlan-net"

_ND_TYPES = (130, 131, 132, 133, 135, 136)


@attrs.frozen(kw_only=True)
class Needs:
    """What decides which parts exist on this node, for one family."""

    vxlan: bool = False
    ipip: bool = False
    nat_outgoing: bool = False
    floating_ips: bool = False
    host_endpoints: bool = False
    untracked: bool = False
    pre_dnat: bool = False


@attrs.frozen(kw_only=True)
class Hook:
    """Rules of ours in a kernel chain: ``top`` before everything (or, in append mode, after), ``bottom`` at the end."""

    top: tuple[Rule, ...] = ()
    bottom: tuple[Rule, ...] = ()


@attrs.frozen(kw_only=True)
class TableContent:
    chains: Mapping[str, Sequence[Rule]]
    hooks: Mapping[str, Hook]


EMPTY = TableContent(chains={}, hooks={})


@attrs.frozen(kw_only=True)
class StaticChains:
    version: int
    options: Options
    needs: Needs
    deny: r.Target
    drop: r.Target = r.DROP
    random_fully: bool = True
    check_source: bool = True
    reverse_path: bool = True
    early_tables: bool = True

    def tables(self) -> dict[str, TableContent]:
        needs = self.needs
        return {
            "raw": self._raw(),
            "mangle": self._mangle() if needs.host_endpoints else EMPTY,
            "nat": self._nat() if needs.nat_outgoing or needs.floating_ips or needs.vxlan else EMPTY,
            "filter": self._filter(),
        }

    # ── helpers ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _from_workloads(self, *targets: r.Target) -> Iterator[Rule]:
        for prefix in self.options.workload_prefixes:
            for target in targets:
                yield rule(r.Interface(True, f"{prefix}+"), target)

    def _to_workloads(self, target: r.Target) -> Iterator[Rule]:
        for prefix in self.options.workload_prefixes:
            yield rule(r.Interface(False, f"{prefix}+"), target)

    def _accepted(self) -> r.Match:
        return r.Mark(self.options.marks.accept, self.options.marks.accept)

    def _not_accepted(self) -> r.Match:
        return r.Mark(0, self.options.marks.accept)

    def _clear_all(self) -> Rule:
        return rule(r.SetMark(0, self.options.marks.all))

    def _allow(self, *matches: r.Match, note: str = "") -> Iterator[Rule]:
        if self.options.allow == "accept":
            yield rule(*matches, r.ACCEPT, note=note)
            return
        yield rule(*matches, r.SetMark(self.options.marks.accept, self.options.marks.accept), note=note)
        yield rule(*matches, r.RETURN)

    def _set(self, source: bool, name: str, *, negate: bool = False) -> r.Match:
        return r.InSet(source, set_name(name, self.version), negate=negate)

    # ── filter ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _filter(self) -> TableContent:
        chains: Chains = {
            "cali-INPUT": list(self._input()),
            "cali-FORWARD": list(self._forward()),
            "cali-OUTPUT": list(self._output()),
            WORKLOAD_TO_HOST: list(self._workload_to_host()),
        }
        marks = self.options.marks
        bottom = (
            *self._forward_end(),
            rule(r.SetMark(marks.accept, marks.accept)),
        )
        hooks = {
            "INPUT": Hook(top=(rule(r.Jump("cali-INPUT")),)),
            "FORWARD": Hook(top=(rule(r.Jump("cali-FORWARD")),), bottom=bottom),
            "OUTPUT": Hook(top=(rule(r.Jump("cali-OUTPUT")),)),
        }
        return TableContent(chains=chains, hooks=hooks)

    def _forward_end(self) -> Iterator[Rule]:
        target = r.ACCEPT if self.options.allow == "accept" else r.RETURN
        yield rule(self._accepted(), target, note="Policy explicitly accepted packet.")

    def _input(self) -> Iterator[Rule]:
        local = r.LocalAddress(False)
        if self.version == 4 and self.needs.ipip:
            yield from self._allow(
                r.Protocol(4), self._set(True, ALL_HOSTS_SET), local, note="Allow IPIP from Calico hosts"
            )
            yield rule(r.Protocol(4), self.deny, note="Drop IPIP from non-Calico hosts")
        if self.needs.vxlan:
            vxlan = (r.Protocol(17), r.Ports(False, (one_port(self.options.vxlan_port),)))
            yield from self._allow(*vxlan, self._set(True, ALL_VXLAN_SET), local, note="Allow VXLAN from Calico hosts")
            yield rule(*vxlan, local, r.DROP if self.version == 4 else self.deny, note="Drop other VXLAN")
        yield from self._from_workloads(r.Goto(WORKLOAD_TO_HOST))
        if self.needs.host_endpoints:
            yield from self._allow(self._accepted())
            yield self._clear_all()
            yield rule(r.Jump(FROM_HOST_ENDPOINT))
            yield from self._allow(self._accepted(), note="Host endpoint policy accepted packet.")

    def _workload_to_host(self) -> Iterator[Rule]:
        if self.version == 6:
            for kind in _ND_TYPES:
                yield rule(r.Protocol(58), r.Icmp(6, kind), r.ACCEPT)
        if self.check_source and not self.early_tables:
            yield rule(r.Jump(SOURCE_CHECK))
        yield rule(r.Jump(FROM_WORKLOAD))
        after = {"accept": r.ACCEPT, "return": r.RETURN, "reject": r.Reject()}.get(
            self.options.workload_to_host, r.DROP
        )
        yield rule(after, note="Configured DefaultEndpointToHostAction")

    def _forward(self) -> Iterator[Rule]:
        marks = self.options.marks
        yield rule(r.SetMark(0, marks.all & ~marks.accept))
        if self.needs.host_endpoints:
            yield rule(self._not_accepted(), r.Jump(FROM_HOST_FORWARD))
        if self.check_source and not self.early_tables:
            yield from self._from_workloads(r.Jump(SOURCE_CHECK))
        yield from self._from_workloads(r.Jump(FROM_WORKLOAD))
        yield from self._to_workloads(r.Jump(TO_WORKLOAD))
        if self.needs.host_endpoints:
            yield rule(r.Jump(TO_HOST_FORWARD))

    def _output(self) -> Iterator[Rule]:
        yield from self._allow(self._accepted())
        yield from self._to_workloads(r.RETURN)
        local = r.LocalAddress(True)
        if self.version == 4 and self.needs.ipip:
            yield from self._allow(
                r.Protocol(4), self._set(False, ALL_HOSTS_SET), local, note="Allow IPIP to Calico hosts"
            )
        if self.needs.vxlan:
            vxlan = (r.Protocol(17), r.Ports(False, (one_port(self.options.vxlan_port),)))
            yield from self._allow(*vxlan, self._set(False, ALL_VXLAN_SET), local, note="Allow VXLAN to Calico hosts")
        if self.needs.host_endpoints:
            yield self._clear_all()
            yield rule(r.ConntrackState("DNAT", negate=True), r.Jump(TO_HOST_ENDPOINT))
            yield from self._allow(self._accepted(), note="Host endpoint policy accepted packet.")

    # ── raw ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _raw(self) -> TableContent:
        marks = self.options.marks
        from_workload = r.Mark(marks.scratch0, marks.scratch0)
        untracked = self.needs.untracked
        vxlan = (r.Protocol(17), r.Ports(False, (one_port(self.options.vxlan_port),)))
        incoming = [self._clear_all()]
        if self.needs.vxlan:
            incoming.append(rule(*vxlan, r.NoTrack()))
        if self.check_source or untracked:
            incoming += self._from_workloads(r.SetMark(marks.scratch0, marks.scratch0))
        if self.check_source:
            incoming.append(rule(from_workload, r.Jump(RPF_SKIP)))
            if self.reverse_path:
                incoming.append(rule(from_workload, r.ReversePathFails(), self.drop))
            else:
                incoming.append(rule(from_workload, r.Jump(SOURCE_CHECK)))
        if untracked:
            incoming.append(rule(r.Mark(0, marks.scratch0), r.Jump(FROM_HOST_ENDPOINT)))
            incoming.append(rule(self._accepted(), r.ACCEPT))
        outgoing: list[Rule] = []
        if untracked or self.needs.vxlan:
            outgoing.append(self._clear_all())
        if untracked:
            outgoing.append(rule(r.Jump(TO_HOST_ENDPOINT)))
        if self.needs.vxlan:
            outgoing.append(rule(*vxlan, r.NoTrack()))
        if untracked:
            outgoing.append(rule(self._accepted(), r.ACCEPT))
        hooks = {"PREROUTING": Hook(top=(rule(r.Jump("cali-PREROUTING")),))}
        if outgoing:
            hooks["OUTPUT"] = Hook(top=(rule(r.Jump("cali-OUTPUT")),))
        return TableContent(chains={"cali-PREROUTING": incoming, "cali-OUTPUT": outgoing}, hooks=hooks)

    # ── mangle ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _mangle(self) -> TableContent:
        accept = r.ACCEPT if self.options.mangle_allow == "accept" else r.RETURN
        incoming = [rule(r.ConntrackState("RELATED,ESTABLISHED"), accept), rule(self._accepted(), accept)]
        if self.needs.pre_dnat:
            incoming.append(rule(r.Jump(FROM_HOST_ENDPOINT)))
            incoming.append(rule(self._accepted(), accept, note="Host endpoint policy accepted packet."))
        outgoing = [
            rule(self._accepted(), r.RETURN),
            self._clear_all(),
            rule(r.ConntrackState("DNAT"), r.Jump(TO_HOST_ENDPOINT)),
            rule(self._accepted(), r.RETURN, note="Host endpoint policy accepted packet."),
        ]
        hooks = {
            "PREROUTING": Hook(top=(rule(r.Jump("cali-PREROUTING")),)),
            "POSTROUTING": Hook(top=(rule(r.Jump("cali-POSTROUTING")),)),
        }
        return TableContent(chains={"cali-PREROUTING": incoming, "cali-POSTROUTING": outgoing}, hooks=hooks)

    # ── nat ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _nat(self) -> TableContent:
        needs = self.needs
        chains: Chains = {"cali-POSTROUTING": []}
        # After everyone else's: kube-proxy must have cleared its mark, or encapsulated packets are masqueraded too.
        hooks = {"POSTROUTING": Hook(bottom=(rule(r.Jump("cali-POSTROUTING")),))}
        if needs.floating_ips:
            chains["cali-POSTROUTING"].append(rule(r.Jump(FLOATING_SNAT)))
            for kernel_chain in ("PREROUTING", "OUTPUT"):
                chains[f"cali-{kernel_chain}"] = [rule(r.Jump(FLOATING_DNAT))]
                hooks[kernel_chain] = Hook(top=(rule(r.Jump(f"cali-{kernel_chain}")),))
        if needs.nat_outgoing:
            chains["cali-POSTROUTING"].append(rule(r.Jump(NAT_OUTGOING)))
            chains[NAT_OUTGOING] = list(self._nat_outgoing())
        if needs.vxlan:
            device = "vxlan.calico" if self.version == 4 else "vxlan-v6.calico"
            foreign = (
                r.Interface(False, device),
                r.LocalAddress(True, on_out_interface=True, negate=True),
                r.LocalAddress(True),
            )
            chains["cali-POSTROUTING"].append(rule(*foreign, r.Masquerade(random_fully=self.random_fully)))
        return TableContent(chains=chains, hooks=hooks)

    def _nat_outgoing(self) -> Iterator[Rule]:
        options = self.options
        matches: list[r.Match] = [
            self._set(True, MASQUERADED_POOLS_SET),
            self._set(False, POOLS_SET, negate=True),
        ]
        if options.nat_exclude_hosts:
            matches.append(self._set(False, ALL_HOSTS_SET, negate=True))
        if options.nat_interface:
            matches.append(r.Interface(False, options.nat_interface))
        address = options.nat_address if self.version == (6 if ":" in options.nat_address else 4) else ""

        def target(ports: str) -> r.Target:
            if address:
                return r.SourceNat(address, ports, self.random_fully)
            return r.Masquerade(ports, self.random_fully)

        if options.nat_ports or self.needs.vxlan:
            ports = options.nat_ports
            if ports:
                for protocol in (6, 17):
                    yield rule(r.Protocol(protocol), *matches, target(ports))
                    yield rule(r.Protocol(protocol), *matches, r.RETURN)
            else:
                # A source port equal to VXLAN's would make the answers look like VXLAN, which the host drops.
                wide = _widest_without(options.vxlan_port)
                yield rule(r.Protocol(17), *matches, target(f"{wide.first}-{wide.last}"))
        yield rule(*matches, target(""))


def _widest_without(port: int) -> PortRange:
    """The larger part of 1024-65535 beside a port."""
    low, high = PortRange(1024, port - 1), PortRange(max(port + 1, 1024), 65535)
    return low if low.last - low.first > high.last - high.first else high
