"""Effective rules to parsed rules: selectors become IP set ids.

In:   ``calico_kernel.policy.effective`` (which says what the fields mean).
Out:  ``ParsedRule`` values, and the specs of the sets that they refer to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from calico_kernel.calc.addresses import IpNetwork
from calico_kernel.calc.ipsets import SetSpec
from calico_kernel.model.nodestate import ANY, PORT_PROTOCOLS, IpSetKind, Match, ParsedRule
from calico_kernel.model.policy import Rule
from calico_kernel.policy.effective import EffectiveRule, EffectiveSide
from calico_kernel.selector import Selector, parse
from calico_kernel.selector.ids import named_port_id, service_id

_ANY_SIDE = EffectiveSide()

DENY = (ParsedRule(action="deny"),)
ALLOW = (ParsedRule(action="allow"),)


class RuleParser:
    """Collects the sets that the rules of one policy or profile refer to, each once."""

    def __init__(self) -> None:
        self._sets: dict[str, SetSpec] = {}

    @property
    def sets(self) -> tuple[SetSpec, ...]:
        return tuple(self._sets.values())

    def parse(self, rules: Iterable[EffectiveRule], written: Sequence[Rule]) -> tuple[ParsedRule, ...]:
        """``written``: the rules as the operator wrote them, for their annotations."""
        return tuple(self._rule(rule, written) for rule in rules)

    def _rule(self, rule: EffectiveRule, written: Sequence[Rule]) -> ParsedRule:
        metadata = written[rule.index].metadata if rule.index < len(written) else None
        return ParsedRule(
            action=rule.action,
            ip_version=rule.ip_version,
            protocol=rule.protocol,
            not_protocol=rule.not_protocol,
            icmp_type=rule.icmp_type,
            icmp_code=rule.icmp_code,
            not_icmp_type=rule.not_icmp_type,
            not_icmp_code=rule.not_icmp_code,
            source=self._side(rule.source, rule.protocol, False),
            destination=self._side(rule.destination, rule.protocol, True),
            annotations=metadata.annotations if metadata is not None else {},
            index=rule.index,
        )

    def _side(self, side: EffectiveSide, protocol: int | None, is_destination: bool) -> Match:
        if side is _ANY_SIDE or side == _ANY_SIDE:
            return ANY
        transport = "any" if protocol is None else PORT_PROTOCOLS.get(protocol, "tcp")
        ip_sets: list[str] = []
        if side.selector is not None and (side.ports or not side.named_ports):
            # With named ports alone, their sets are already narrowed by the selector.
            ip_sets.append(self._selected(side.selector))
        services: list[str] = []
        if side.service is not None and side.service[1]:
            (services if is_destination else ip_sets).append(self._service(side.service, is_destination))
        return Match(
            nets=_texts(side.nets),
            ip_sets=tuple(ip_sets),
            ports=side.ports,
            named_ports=tuple(self._named_port(name, side.selector, transport) for name in side.named_ports),
            services=tuple(services),
            not_nets=_texts(side.not_nets),
            not_ip_sets=() if side.not_selector is None else (self._selected(side.not_selector),),
            not_ports=side.not_ports,
            not_named_ports=tuple(self._named_port(name, side.selector, transport) for name in side.not_named_ports),
        )

    def _selected(self, selector: Selector) -> str:
        return self._add(SetSpec(id=selector.id, kind=IpSetKind.NET, selector=selector))

    def _named_port(self, name: str, selector: Selector | None, transport: str) -> str:
        selector = parse("all()") if selector is None else selector
        set_id = named_port_id(selector.id, transport, name)
        return self._add(
            SetSpec(id=set_id, kind=IpSetKind.IP_PORT, selector=selector, port_name=name, protocol=transport)
        )

    def _service(self, service: tuple[str, str], with_ports: bool) -> str:
        kind = IpSetKind.IP_PORT if with_ports else IpSetKind.NET
        set_id = service_id(*service, with_ports=with_ports)
        return self._add(SetSpec(id=set_id, kind=kind, service="/".join(service)))

    def _add(self, spec: SetSpec) -> str:
        self._sets.setdefault(spec.id, spec)
        return spec.id


def _texts(nets: Iterable[IpNetwork]) -> tuple[str, ...]:
    return tuple(str(net) for net in nets)
