"""The OpenAPI schema of a struct, as a CustomResourceDefinition wants it ("structural").

In:    the plans of ``schema`` (types, words, ``Must``) and the words and rules of ``crd_words`` and ``crd_rules``.
Out:   plain dicts for JSON. Pure.

What a schema refuses, our client and Calico's refuse too; it may let pass what only they can judge (a selector's
syntax, two fields far apart). Text may be empty unless the field is required, as everywhere. Fields that are not known
are pruned, as by Calico's definitions: ``kubectl`` then refuses a misspelt field, which in a policy would otherwise
widen it unseen. A newer version brings its definitions along, and an older client gives back what it does not know.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from calico_kernel.model import crd_rules, crd_words
from calico_kernel.model.formats import DSCP_NAMES, MAX_AS_NUMBER, PROTOCOLS
from calico_kernel.model.schema import Field, Plan, fields_of
from calico_kernel.model.types import Must

Schema = dict[str, Any]

_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_V4 = rf"({_OCTET}\.){{3}}{_OCTET}"
_V6 = r"[0-9a-fA-F]*:[0-9a-fA-F:.]*"
_V4_LENGTH = r"/0*(3[0-2]|[12]?[0-9])"
_V6_LENGTH = r"/0*(12[0-8]|1[01][0-9]|[1-9]?[0-9])"
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_NETV4, _NETV6 = f"{_V4}({_V4_LENGTH})?", f"{_V6}({_V6_LENGTH})?"
_NUMBER = r"(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))"

PATTERNS: Mapping[str, str] = {
    "name": rf"{_LABEL}(\.{_LABEL})*",
    "net": f"{_NETV4}|{_NETV6}",
    "netv4": _NETV4,
    "netv6": _NETV6,
    "cidr": f"{_NETV4}|{_NETV6}",
    "cidrv4": _NETV4,
    "cidrv6": _NETV6,
    "ip": f"{_V4}|{_V6}",
    "ipv4": _V4,
    "ipv6": _V6,
    "ip-port": rf"{_V4}(:[0-9]{{1,5}})?|{_V6}|\[({_V4}|{_V6})\]:[0-9]{{0,5}}",
    "mac": r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}|([0-9a-fA-F]{4}\.){2}[0-9a-fA-F]{4}",
    "interface": r"[*]|[a-zA-Z0-9_.-]{1,15}",
    "filter-interface": r"[a-zA-Z0-9_.*-]{1,15}",
    "ignored-interface": r"[a-zA-Z0-9_.*-]{1,15}",
    "interface-filter": r"[a-zA-Z0-9:._+-]{1,15}",
    "port-name": r"[a-z0-9]([a-z0-9-]*[a-z0-9])?",
    "protocol": "|".join((*PROTOCOLS, "[0-9]{1,3}")),
    "endpoint-protocol": "TCP|UDP|SCTP",
    "port": r"[0-9]{1,5}|[0-9]{1,5}:[0-9]{1,5}|[a-zA-Z0-9_.-]*[a-zA-Z_.-][a-zA-Z0-9_.-]*",
    "dscp": "|".join((*sorted(DSCP_NAMES), "[0-9]{1,2}")),
    "duration": rf"\+?0|\+?{_NUMBER}+",
    "community": "[0-9]{1,10}:[0-9]{1,10}(:[0-9]{1,10})?",
    "prometheus-host": r"[a-zA-Z0-9:._+-]{1,64}",
    "wireguard-key": "[A-Za-z0-9+/]{43}=",
}
"""By ``Must.format``, in the syntax of Go's regexp (RE2). A format that is missing here cannot be said as a pattern."""

_LENGTHS: Mapping[str, int] = {
    "name": 253,
    "port-name": 15,
    "port": 128,
    "protocol": 8,
    "dscp": 4,
    **dict.fromkeys(("net", "netv4", "netv6", "cidr", "cidrv4", "cidrv6", "ip", "ipv4", "ipv6"), 64),
}
"""Rules are priced by the longest text that they may meet."""
_NUMBERS: Mapping[str, tuple[int, int]] = {
    "protocol": (0, 255),
    "endpoint-protocol": (1, 255),
    "port": (0, 65535),
    "asn": (0, MAX_AS_NUMBER),
    "dscp": (0, 63),
}
_ANYTHING: Schema = {"x-kubernetes-preserve-unknown-fields": True}
_NOT_RE2 = re.compile(r"\(\?(=|!|<=|<!|P=|\()|\\[1-9]|[*+?}]\+")


def schema_of(struct: type[Struct], group: str, *, without: Iterable[str] = ()) -> Schema:
    """An object with the fields of ``struct``. ``group`` as in ``crds.GROUPS``; ``without``: fields left out."""
    return _object(struct, group, frozenset(without), ())


def _object(struct: type[Struct], group: str, without: frozenset[str], above: tuple[type[Struct], ...]) -> Schema:
    if struct in above:  # a schema cannot refer to itself
        return {"type": "object", **_ANYTHING}
    plans = fields_of(struct)
    wire = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    found: Schema = {"type": "object"}
    said = crd_words.of_struct(struct)
    if said:
        found["description"] = said
    known = {name: field for name, field in plans.items() if name not in without}
    if known:
        found["properties"] = {
            name: _property(struct, field, wire[name], group, (*above, struct)) for name, field in known.items()
        }
    required = [
        name
        for name, field in known.items()
        if wire[name].required
        or any(must.required for must in field.plan.musts)
        or name in crd_rules.REQUIRED.get(struct.__name__, ())
    ]
    found.update(crd_rules.OBJECTS.get(struct.__name__, {}))
    if required:
        found["required"] = required
    rules = crd_rules.of_struct(struct.__name__)
    if rules:
        found["x-kubernetes-validations"] = rules
    return found


def _property(
    struct: type[Struct], field: Field, wire: msgspec.structs.FieldInfo, group: str, above: tuple[type[Struct], ...]
) -> Schema:
    name = struct.__name__
    plan = crd_rules.stand_in(name, field.name) or field.plan
    found = _value(plan, group, above)
    if wire.default_factory is not msgspec.NODEFAULT and not any(must.required for must in field.plan.musts):
        written = wire.default_factory()  # even when there is nothing to say
        if written is None:
            found["nullable"] = True
        elif written == "" and "enum" in found:
            found["enum"].append("")
    found.update(crd_rules.OVERRIDES.get((name, field.name), {}))
    found.update(crd_rules.GROUP_OVERRIDES.get((group, name, field.name), {}))
    found = {key: value for key, value in found.items() if value is not None}
    said = crd_words.of_field(struct, field)
    return {"description": said, **found} if said else found


def _value(plan: Plan | type[Struct], group: str, above: tuple[type[Struct], ...]) -> Schema:
    if not isinstance(plan, Plan):
        return _object(plan, group, frozenset(), above)
    if plan.shape == "struct":
        assert plan.struct is not None
        return _object(plan.struct, group, frozenset(), above)
    if plan.shape == "any":
        return dict(_ANYTHING)
    if plan.shape == "map":
        assert plan.item is not None
        return {"type": "object", "additionalProperties": _value(plan.item, group, above)}
    if plan.shape == "list":
        return _list(plan, group, above)
    return _scalar(plan)


def _list(plan: Plan, group: str, above: tuple[type[Struct], ...]) -> Schema:
    assert plan.item is not None
    item = _value(plan.item, group, above)
    found: Schema = {"type": "array", "items": item, "x-kubernetes-list-type": "atomic"}
    for must in plan.musts:
        if must.max_items:
            found["maxItems"] = must.max_items
        if must.min_items:
            found["minItems"] = must.min_items
        if must.unique and item.get("type") == "string":
            found["x-kubernetes-list-type"] = "set"
    return found


def _scalar(plan: Plan) -> Schema:
    found = _type(plan)
    if plan.words:
        found["enum"] = [word for word in plan.words if word]
    formats = {must.format for must in plan.musts}
    if "cidr" in formats and "with-length" in formats:
        formats -= {"cidr", "with-length"}
        found["format"] = "cidr"
    for must in plan.musts:
        _must(must, formats, found)
    return found


def _type(plan: Plan) -> Schema:
    scalars = plan.scalars
    if any(must.format == "asn" for must in plan.musts):
        return {"type": "integer", "format": "int64"}
    if int in scalars and str in scalars:
        return {"x-kubernetes-int-or-string": True}
    if float in scalars:
        return {"type": "number"}
    names: dict[type, str] = {bool: "boolean", int: "integer", str: "string"}
    return {"type": next(name for kind, name in names.items() if kind in scalars)}


def _must(must: Must, formats: Iterable[str], found: Schema) -> None:
    is_text = found.get("type") == "string"
    takes_text = is_text or "x-kubernetes-int-or-string" in found
    if must.one_of and is_text:
        if must.any_case:
            found["pattern"] = f"^(?i)({'|'.join(must.one_of)}){'' if must.required else '?'}$"
        else:
            found["enum"] = list(must.one_of)
    if must.format == "ip-version":
        found["enum"] = [4, 6]
    if must.format in formats and must.format in PATTERNS and takes_text:
        found["pattern"] = _whole(PATTERNS[must.format], must.required)
        if must.format in _LENGTHS:
            found["maxLength"] = _LENGTHS[must.format]
    if must.pattern and is_text:
        pattern = _re2(must.pattern)
        if pattern:
            found["pattern"] = _whole(pattern, must.required)
    if must.format in _NUMBERS and not is_text:
        found["minimum"], found["maximum"] = _NUMBERS[must.format]
    if must.ge is not None:
        found["minimum"] = must.ge
    if must.le is not None:
        found["maximum"] = must.le
    if must.max_len:
        found["maxLength"] = must.max_len
    if must.required and is_text and "enum" not in found:
        found["minLength"] = 1


def _whole(pattern: str, required: bool) -> str:
    return f"^({pattern}){'' if required else '?'}$"


def _re2(pattern: str) -> str:
    """``pattern`` for Go, whose matcher never backtracks and so has no possessive form; "" for what it cannot say."""
    plain = pattern.strip("^$").replace("(?>", "(").replace(")++", ")+")
    return "" if _NOT_RE2.search(plain) else plain
