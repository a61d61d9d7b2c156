"""Whether one rule matches one packet, and if not, on account of which fields.

In:   an effective rule, a packet, and the cluster (for who holds its addresses).
Out:  the criteria that failed, to ``policy.verdict`` (none: the rule matches) and ``policy.explain`` (what to change).

All criteria of a rule are ANDed; the entries of a list are ORed; a ``not`` criterion must fail to match.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address

import attrs

from calico_kernel.model.nodestate import PortRange
from calico_kernel.policy.cluster import NO_SERVICE, Address, Cluster, Endpoint
from calico_kernel.policy.effective import (
    EffectiveRule,
    EffectiveSide,
    Network,
    protocol_name,
    protocol_number,
)
from calico_kernel.selector import Selector

ICMP_OF_VERSION = {4: 1, 6: 58}
ECHO_REQUEST = {4: 8, 6: 128}
_WITH_PORTS = frozenset({6, 17, 132, 136})


def _address(value: str | Address) -> Address:
    return ip_address(value) if isinstance(value, str) else value


@attrs.frozen(slots=True)
class Packet:
    """The first packet of a flow. Addresses and protocol may be given as text.

    source_port, destination_port: 0 where the protocol has none.
    icmp_type, icmp_code: of ICMP and ICMPv6; None for other protocols.
    """

    source: Address = attrs.field(converter=_address)
    destination: Address = attrs.field(converter=_address)
    protocol: int = attrs.field(converter=protocol_number)
    source_port: int = 0
    destination_port: int = 0
    icmp_type: int | None = None
    icmp_code: int | None = None

    def __attrs_post_init__(self) -> None:
        if self.source.version != self.destination.version:
            raise ValueError(f"{self.source} and {self.destination} are not of one IP version")

    @classmethod
    def echo(cls, source: str | Address, destination: str | Address) -> Packet:
        """A ping: ICMP or ICMPv6 echo request, as the addresses ask."""
        version = _address(source).version
        return cls(source, destination, ICMP_OF_VERSION[version], icmp_type=ECHO_REQUEST[version], icmp_code=0)

    @property
    def version(self) -> int:
        return self.source.version

    @property
    def has_ports(self) -> bool:
        return self.protocol in _WITH_PORTS

    @property
    def is_icmp(self) -> bool:
        return self.protocol == ICMP_OF_VERSION[self.version]

    def __str__(self) -> str:
        name = protocol_name(self.protocol)
        if self.has_ports:
            return f"{name} {self.source} -> {self.destination} port {self.destination_port}"
        if self.is_icmp and self.icmp_type is not None:
            return f"{name} type {self.icmp_type} code {self.icmp_code or 0} {self.source} -> {self.destination}"
        return f"{name} {self.source} -> {self.destination}"


@attrs.frozen(slots=True)
class Mismatch:
    """A criterion of a rule that the packet does not meet. ``field``: as in the resource, e.g. ``source.nets``."""

    field: str
    wanted: str
    found: str

    def __str__(self) -> str:
        return f"{self.field} wants {self.wanted}, the packet has {self.found}"


def matches(rule: EffectiveRule, packet: Packet, cluster: Cluster) -> bool:
    return next(mismatches(rule, packet, cluster), None) is None


def mismatches(rule: EffectiveRule, packet: Packet, cluster: Cluster) -> Iterator[Mismatch]:
    """Every criterion of ``rule`` that ``packet`` does not meet."""
    protocol = protocol_name(packet.protocol)
    if rule.ip_version is not None and rule.ip_version != packet.version:
        yield Mismatch("ipVersion", str(rule.ip_version), str(packet.version))
    if rule.protocol is not None and rule.protocol != packet.protocol:
        yield Mismatch("protocol", protocol_name(rule.protocol), protocol)
    if rule.not_protocol is not None and rule.not_protocol == packet.protocol:
        yield Mismatch("notProtocol", f"any but {protocol_name(rule.not_protocol)}", protocol)
    if rule.icmp_type is not None and not _icmp_matches(rule.icmp_type, rule.icmp_code, packet):
        yield Mismatch("icmp", _icmp_text(rule.icmp_type, rule.icmp_code), _packet_icmp_text(packet))
    if rule.not_icmp_type is not None and _icmp_matches(rule.not_icmp_type, rule.not_icmp_code, packet):
        wanted = f"any but {_icmp_text(rule.not_icmp_type, rule.not_icmp_code)}"
        yield Mismatch("notICMP", wanted, _packet_icmp_text(packet))
    source, destination = (packet.source, packet.source_port), (packet.destination, packet.destination_port)
    yield from _side_mismatches("source", rule.source, *source, rule=rule, packet=packet, cluster=cluster)
    yield from _side_mismatches(
        "destination", rule.destination, *destination, rule=rule, packet=packet, cluster=cluster
    )


def _side_mismatches(
    name: str,
    side: EffectiveSide,
    address: Address,
    port: int,
    *,
    rule: EffectiveRule,
    packet: Packet,
    cluster: Cluster,
) -> Iterator[Mismatch]:
    if side.nets and not any(address in net for net in side.nets):
        yield Mismatch(f"{name}.nets", _one_of(side.nets), str(address))
    if side.not_nets and not _outside(address, side.not_nets):
        yield Mismatch(f"{name}.notNets", f"none of {_list(side.not_nets)}", str(address))

    holders = cluster.holders(address)
    # Where only named ports are given beside a selector, the named ports of what it selects say it all.
    selector_counts = side.ports or not side.named_ports
    if side.selector is not None and selector_counts and not _selected(side.selector, holders):
        yield Mismatch(f"{name}.selector", side.selector.text, _holders_text(address, holders))
    if side.not_selector is not None and _selected(side.not_selector, holders):
        yield Mismatch(f"{name}.notSelector", f"not {side.not_selector.text}", _holders_text(address, holders))

    def named(names: Sequence[str]) -> bool:
        """Whether (address, protocol, port) is a port of one of these names, of an endpoint the selector selects."""
        return any(
            have.name in names and (have.protocol, have.port) == (packet.protocol, port)
            for holder in holders
            if (side.selector is None or side.selector.matches(holder.labels)) and address in holder.addresses
            for have in holder.ports
            if rule.protocol in (None, have.protocol)
        )

    if (side.ports or side.named_ports) and not (_in_ranges(port, packet, side.ports) or named(side.named_ports)):
        yield Mismatch(f"{name}.ports", _one_of(_port_texts(side.ports, side.named_ports)), _port_text(port, packet))
    if (side.not_ports or side.not_named_ports) and (
        _in_ranges(port, packet, side.not_ports) or named(side.not_named_ports)
    ):
        wanted = f"none of {_list(_port_texts(side.not_ports, side.not_named_ports))}"
        yield Mismatch(f"{name}.notPorts", wanted, _port_text(port, packet))

    if side.service is not None:
        service = cluster.services.get(side.service, NO_SERVICE)
        as_destination = (address, packet.protocol, port) in service.endpoints
        if not (address in service.addresses if name == "source" else as_destination):
            yield Mismatch(f"{name}.services", f"an endpoint of {'/'.join(side.service)}", f"{address} port {port}")


def _outside(address: Address, nets: Sequence[Network]) -> bool:
    """Outside all of ``nets``. A list that names prefixes of the other IP version only is about that version, so the
    rule does not apply to this one."""
    same_version = [net for net in nets if net.version == address.version]
    return bool(same_version) and not any(address in net for net in same_version)


def _selected(selector: Selector, holders: Sequence[Endpoint]) -> bool:
    return any(selector.matches(holder.labels) for holder in holders)


def _in_ranges(port: int, packet: Packet, ranges: Sequence[PortRange]) -> bool:
    return packet.has_ports and any(first <= port <= last for first, last in ranges)


def _icmp_matches(icmp_type: int, icmp_code: int | None, packet: Packet) -> bool:
    return packet.is_icmp and packet.icmp_type == icmp_type and icmp_code in (None, packet.icmp_code)


# ── in words ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _list(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _one_of(values: Sequence[object]) -> str:
    return _list(values) if len(values) == 1 else f"one of {_list(values)}"


def _port_texts(ranges: Sequence[PortRange], names: Sequence[str]) -> list[str]:
    return [str(first) if first == last else f"{first}:{last}" for first, last in ranges] + list(names)


def _port_text(port: int, packet: Packet) -> str:
    return str(port) if packet.has_ports else f"no port ({protocol_name(packet.protocol)})"


def _icmp_text(icmp_type: int, icmp_code: int | None) -> str:
    return f"type {icmp_type}" if icmp_code is None else f"type {icmp_type} code {icmp_code}"


def _packet_icmp_text(packet: Packet) -> str:
    if packet.icmp_type is None:
        return f"{protocol_name(packet.protocol)}, no ICMP type"
    return _icmp_text(packet.icmp_type, packet.icmp_code)


def _holders_text(address: Address, holders: Sequence[Endpoint]) -> str:
    if not holders:
        return f"{address}, which no endpoint or network set holds"
    labels = " and ".join(
        "{" + ", ".join(f"{label}={value}" for label, value in sorted(holder.labels.items())) + "}"
        for holder in holders
    )
    return f"{address} of {_list(holders)} with labels {labels}"
