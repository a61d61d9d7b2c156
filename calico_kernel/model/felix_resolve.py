"""One value for each parameter of FelixConfiguration, out of all the layers that may set it. Pure.

    built-in default  <  "default"  <  the selected document  <  "node.<name>"  <  environment FELIX_<Name>

A value that cannot be used counts as the built-in default, as in Felix, and is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
from msgspec.structs import replace

from calico_kernel.model import formats
from calico_kernel.model.durations import parse_duration, seconds
from calico_kernel.model.felix import (
    BPFConntrackTimeouts,
    FelixConfiguration,
    FelixConfigurationSpec,
    HealthTimeoutOverride,
    ProtoPort,
    RouteTableIDRange,
    RouteTableRange,
)
from calico_kernel.model.felix_parameters import EXTRA_CHECKS, PARAMETERS, P
from calico_kernel.model.nodestate import ResolvedConfig
from calico_kernel.model.schema import Field, fields_of
from calico_kernel.model.validate import value_problems

PREFIX = "FELIX_"
_TRUE = frozenset({"true", "1", "yes", "y", "t"})
_FALSE = frozenset({"false", "0", "no", "n", "f"})
_FIELDS = {field.attribute: field for field in fields_of(FelixConfigurationSpec).values()}
_BY_NAME = {parameter.name.lower(): attribute for attribute, parameter in PARAMETERS.items()}


@attrs.frozen
class Resolution:
    """``problems``: (parameter, source and reason) of values that were not used."""

    config: ResolvedConfig
    problems: tuple[tuple[str, str], ...] = ()


def resolve(
    default: FelixConfiguration | None = None,
    selected: FelixConfiguration | None = None,
    node: FelixConfiguration | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    prefix: str = PREFIX,
) -> Resolution:
    """The effective configuration of one node.

    selected:     the document whose ``nodeSelector`` chose this node (``choose`` picks among several).
    environment:  the process's variables; names that are not ``<prefix><parameter>`` (any case) are ignored.
    Returns:      every parameter by attribute name. Choices are spelt as in the v3 API ("Drop", "NFT"); durations are
                  seconds; ``health_timeout_overrides`` is {name: seconds}; unset is None, "" or ().
    """
    values = {attribute: parameter.default for attribute, parameter in PARAMETERS.items()}
    values["health_timeout_overrides"] = {}
    sources = dict.fromkeys(values, "default")
    problems: list[tuple[str, str]] = []

    def use(attribute: str, read: Callable[[], Any], source: str) -> None:
        try:
            values[attribute], sources[attribute] = read(), source
        except ValueError as exc:
            values[attribute], sources[attribute] = PARAMETERS[attribute].default, "default"
            problems.append((attribute, f"{source}: {exc}; the built-in default is used"))

    layers = ((default, "global"), (selected, f"selector:{selected.metadata.name}" if selected else ""), (node, "node"))
    for document, source in layers:
        if document is not None:
            for attribute in PARAMETERS:
                given = getattr(document.spec, attribute)
                if given is not None and given != "" and not (given == () and attribute == "health_timeout_overrides"):
                    use(attribute, lambda a=attribute, g=given: _usable(_FIELDS[a], g), source)
    for name, text in sorted((environment or {}).items()):
        ours = name.lower().startswith(prefix.lower())
        found = _BY_NAME.get(name[len(prefix) :].lower()) if ours else None
        if found is not None:
            use(found, lambda a=found, t=text: _from_text(_FIELDS[a], PARAMETERS[a], t), "environment")
    return Resolution(ResolvedConfig(values=values, sources=sources), tuple(problems))


def choose(candidates: Iterable[FelixConfiguration]) -> FelixConfiguration | None:
    """Of several documents that select one node, the oldest counts, so that a newcomer disturbs nobody."""
    return min(candidates, key=lambda c: (c.metadata.creation_timestamp or "", c.metadata.name), default=None)


def _usable(field: Field, value: Any) -> Any:
    """A document's value in the form that plugins use. Raises ValueError."""
    found: list[tuple[str, str]] = []
    value_problems(value, field.plan, field.name, found)
    extra = EXTRA_CHECKS.get(field.attribute)
    if extra is not None:
        value_problems(value, replace(field.plan, musts=(extra,)), field.name, found)
    if found:
        raise ValueError("; ".join(reason for _, reason in found))
    if field.attribute in ("iptables_mark_mask", "nftables_mark_mask") and int(value).bit_count() < 2:
        raise ValueError(f"{value:#x} has fewer than two bits")
    if field.attribute == "kube_node_port_ranges" and any(isinstance(p, str) and ":" not in p for p in value):
        raise ValueError("must hold no named port")
    if field.attribute == "health_timeout_overrides":
        return {override.name: seconds(override.timeout) for override in value}
    if isinstance(value, BPFConntrackTimeouts):
        return _filled(value)
    if _is(field, "duration"):
        return seconds(value)
    return _spelt(field, value)


def _filled(timeouts: BPFConntrackTimeouts) -> BPFConntrackTimeouts:
    defaults: BPFConntrackTimeouts = PARAMETERS["bpf_conntrack_timeouts"].default
    names = BPFConntrackTimeouts.__struct_fields__
    return BPFConntrackTimeouts(**{name: getattr(timeouts, name) or getattr(defaults, name) for name in names})


def _spelt(field: Field, value: Any) -> Any:
    """Where case does not matter, the API's spelling."""
    for must in field.plan.musts:
        if must.one_of and isinstance(value, str):
            return next((word for word in must.one_of if word.lower() == value.lower()), value)
    return value


def _is(field: Field, wanted: str) -> bool:
    return field.plan.shape == "scalar" and any(must.format == wanted for must in field.plan.musts)


# ── text of environment variables ─────────────────────────────────────────────────────────────────────────────────────


def _from_text(field: Field, parameter: P, text: str) -> Any:
    """An environment variable as a value. "none" is the zero value: usually "off". Raises ValueError."""
    text = text.strip()
    if text.lower() == "none" and not any("None" in must.one_of for must in field.plan.musts):
        if parameter.required:
            raise ValueError("cannot be set to none")
        return _zero(field, parameter.default)
    if _is(field, "duration"):
        return _duration(text, 1000 if parameter.milliseconds else 1)
    reader = _READERS.get(field.attribute)
    if reader is not None:
        return _usable(field, reader(text))
    if field.plan.shape == "list":
        return _usable(field, tuple(part.strip() for part in text.split(",") if part.strip()))
    if bool in field.plan.scalars:
        return _boolean(text)
    if field.plan.scalars == {int}:
        try:
            return _usable(field, int(text, 0))
        except ValueError as exc:
            raise ValueError(str(exc) if text.lstrip("+-").isdigit() else f"{text!r} is not a whole number") from exc
    if _is(field, "port"):
        return None if text == "0" else formats.canonical_port(text)
    if _is(field, "dscp"):
        return formats.canonical_dscp(text)
    return _usable(field, _spelt(field, text))


def _zero(field: Field, default: Any) -> Any:
    if default is None or isinstance(default, str) or field.plan.shape == "struct":
        return None if default is None or field.plan.shape == "struct" else ""
    return {bool: False, int: 0, float: 0.0}.get(type(default), ())


def _duration(text: str, divisor: int) -> float:
    try:
        return float(text) / divisor
    except ValueError:
        return parse_duration(text) / 1e9


def _boolean(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def _pairs(text: str) -> dict[str, str]:
    pairs = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{part!r} is not key=value")
        pairs[key.strip()] = value.strip()
    return pairs


def _proto_ports(text: str) -> tuple[ProtoPort, ...]:
    """``tcp:22``, ``udp:10.0.0.0/8:53``, ``tcp:[fd00::/8]:53``, ``22``."""
    return tuple(_proto_port(part.strip()) for part in text.split(",") if part.strip())


def _proto_port(text: str) -> ProtoPort:
    protocol, colon, rest = text.partition(":")
    if not colon:
        protocol, rest = "tcp", text
    net, _, port = rest.rpartition(":")
    net = net.removeprefix("[").removesuffix("]")
    if protocol.lower() not in ("tcp", "udp", "sctp"):
        raise ValueError(f"{text!r} has an unknown protocol")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f"{text!r} has no port from 0 to 65535")
    if net and formats.CHECKS["cidr"](net):
        raise ValueError(f"{net!r} is not an address or CIDR")
    return ProtoPort(protocol=protocol.lower(), port=int(port), net=net)


def _ranges(text: str) -> tuple[RouteTableIDRange, ...]:
    ranges = []
    for part in text.replace(",", " ").split():
        first, _, last = part.partition("-")
        try:
            ranges.append(RouteTableIDRange(min=int(first), max=int(last or first)))
        except ValueError as exc:
            raise ValueError(f"{part!r} is not a range such as 1-250") from exc
        if not 1 <= ranges[-1].min <= ranges[-1].max:
            raise ValueError(f"{part!r} is not a range of tables from 1 up")
    return tuple(ranges)


def _single_range(text: str) -> RouteTableRange:
    ranges = _ranges(text)
    if len(ranges) != 1 or ranges[0].max > 250:
        raise ValueError(f"{text!r} must be one range within 1-250")
    return RouteTableRange(min=ranges[0].min, max=ranges[0].max)


def _timeouts(text: str) -> BPFConntrackTimeouts:
    names = {name.replace("_", ""): name for name in BPFConntrackTimeouts.__struct_fields__}
    given = {}
    for key, value in _pairs(text).items():
        if key.lower() not in names:
            raise ValueError(f"{key!r} is not one of the timeouts")
        given[names[key.lower()]] = value
    return BPFConntrackTimeouts(**given)


def _overrides(text: str) -> tuple[HealthTimeoutOverride, ...]:
    return tuple(HealthTimeoutOverride(name=name, timeout=timeout) for name, timeout in _pairs(text).items())


def _port_list(text: str) -> tuple[int | str, ...]:
    return tuple(formats.canonical_port(part.strip()) for part in text.split(",") if part.strip())


_READERS: dict[str, Callable[[str], Any]] = {
    "failsafe_inbound_host_ports": _proto_ports,
    "failsafe_outbound_host_ports": _proto_ports,
    "kube_node_port_ranges": _port_list,
    "route_table_ranges": _ranges,
    "route_table_range": _single_range,
    "bpf_conntrack_timeouts": _timeouts,
    "bpf_log_filters": _pairs,
    "health_timeout_overrides": _overrides,
}
