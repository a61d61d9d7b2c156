"""Hypothesis strategies for every resource kind, drawn from the same field descriptions that validation reads.

    resources("NetworkPolicy")   one kind; each field by itself is acceptable, and in canonical form
    resources()                  any kind, a vendor's included
    keys()                       keys of stored records, with names that nobody should choose, too

Fields of types that only msgspec knows keep their default. What the fields must be *together* is not promised: use
``generators`` for clusters that mean something.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import Struct

from calico_kernel.model import keys as k
from calico_kernel.model.durations import format_duration
from calico_kernel.model.formats import DSCP_NAMES, PROTOCOLS
from calico_kernel.model.kinds import KINDS
from calico_kernel.model.meta import ObjectMeta, Resource
from calico_kernel.model.schema import Plan, fields_of
from calico_kernel.model.types import Must

LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=3).map(".".join)
_WORD = st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,10}[A-Za-z0-9])?", fullmatch=True)
LABEL_KEY = st.one_of(_WORD, st.tuples(NAME, _WORD).map("/".join))
LABELS = st.dictionaries(LABEL_KEY, st.one_of(st.just(""), _WORD), max_size=4)
_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_categories=["Cs", "Cc"]), max_size=20)
ANNOTATIONS = st.dictionaries(LABEL_KEY, _TEXT, max_size=3)

_V4 = st.tuples(st.ip_addresses(v=4), st.integers(0, 32))
_V6 = st.tuples(st.ip_addresses(v=6), st.integers(0, 128))
_SELECTORS = ("", "all()", "a == 'b'", "has(x) && !has(y)", "role in {'a', 'b'} || c starts with \"<&>\"")
_PORT_NUMBER = st.integers(1, 65535)


def _network(pair: tuple[Any, int]) -> str:
    from ipaddress import ip_network

    return str(ip_network(f"{pair[0]}/{pair[1]}", strict=False))


NET_V4, NET_V6 = _V4.map(_network), _V6.map(_network)
NET = st.one_of(NET_V4, NET_V6)
CIDR = st.one_of(_V4, _V6).map(lambda pair: f"{pair[0]}/{pair[1]}")
DURATION = st.integers(0, 10**15).map(format_duration)
PORT = st.one_of(
    _PORT_NUMBER,
    st.tuples(_PORT_NUMBER, _PORT_NUMBER).filter(lambda p: p[0] < p[1]).map(lambda p: f"{p[0]}:{p[1]}"),
    st.from_regex(r"[a-z]([a-z0-9]{0,6}[a-z])?", fullmatch=True),
)
_IPV4, _IPV6 = st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)
_INTERFACE = st.from_regex(r"[a-z][a-z0-9]{0,10}", fullmatch=True)
_COMMUNITY = st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(lambda p: f"{p[0]}:{p[1]}")

FORMATS: dict[str, SearchStrategy[Any]] = {
    "name": NAME,
    "selector": st.sampled_from(_SELECTORS),
    "net": NET,
    "netv4": NET_V4,
    "netv6": NET_V6,
    "cidr": CIDR,
    "cidrv4": _V4.map(lambda pair: f"{pair[0]}/{pair[1]}"),
    "cidrv6": _V6.map(lambda pair: f"{pair[0]}/{pair[1]}"),
    "ip": st.one_of(_IPV4, _IPV6),
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "ip-port": st.one_of(
        _IPV4, _IPV6, st.tuples(_IPV4, _PORT_NUMBER).map(lambda p: f"{p[0]}:{p[1]}"), _IPV6.map(lambda a: f"[{a}]:179")
    ),
    "ip-version": st.sampled_from([4, 6]),
    "mac": st.binary(min_size=6, max_size=6).map(lambda b: b.hex(":")),
    "interface": _INTERFACE,
    "filter-interface": _INTERFACE.map(lambda name: f"{name[:9]}*"),
    "ignored-interface": _INTERFACE,
    "interface-filter": _INTERFACE.map(lambda name: f"{name[:9]}+"),
    "container-id": st.from_regex(r"[a-f0-9]{4,64}", fullmatch=True),
    "port-name": st.from_regex(r"[a-z]([a-z0-9]{0,6}[a-z])?", fullmatch=True),
    "protocol": st.one_of(st.sampled_from(PROTOCOLS), st.integers(1, 255)),
    "endpoint-protocol": st.sampled_from(["TCP", "UDP", "SCTP", 6, 17, 132]),
    "port": PORT,
    "asn": st.integers(0, 2**32 - 1),
    "dscp": st.one_of(st.integers(0, 63), st.sampled_from(sorted(DSCP_NAMES))),
    "duration": DURATION,
    "regexp": st.sampled_from(["", "^eth.*", "(en|wl)[0-9]+"]),
    "community": _COMMUNITY,
    "prometheus-host": st.one_of(LABEL, _IPV4),
    "wireguard-key": st.just("jlkVyQYooZYzI2wFfNhSZez5eWh44yfq1wKVjLvSXgY="),
    "key-value-list": st.sampled_from(["", "a=true", "a=true,b=false"]),
    "bpf-log-filters": st.dictionaries(_INTERFACE, st.just("tcp"), max_size=2),
    "labels": LABELS,
    "annotations": ANNOTATIONS,
}


def resources(kind: str | None = None) -> SearchStrategy[Any]:
    """Resources of ``kind``, or of any known one. Names and namespaces are set as the kind needs them."""
    if kind is None:
        return st.sampled_from(sorted(KINDS)).flatmap(_resources)
    return _resources(kind)


@cache
def _resources(kind: str) -> SearchStrategy[Any]:
    return _structs(KINDS[kind].type)


@st.composite
def metadata(draw: st.DrawFn, *, namespaced: bool) -> ObjectMeta:
    """What is stored of an object's metadata."""
    return ObjectMeta(
        name=draw(NAME),
        namespace=draw(LABEL) if namespaced else "",
        uid=str(draw(st.uuids())),
        creation_timestamp=draw(st.sampled_from([None, "2026-11-21T08:38:21Z"])),
        labels=draw(LABELS),
        annotations=draw(ANNOTATIONS),
    )


def keys() -> SearchStrategy[k.Key]:
    """Any key. Names may hold slashes, percent signs and letters of any script."""
    name = st.one_of(NAME, st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12))
    return st.one_of(
        st.builds(_resource_key, st.sampled_from(sorted(KINDS)), name, name),
        st.builds(k.BlockKey, NET),
        st.builds(k.BlockAffinityKey, st.sampled_from(["host", "virtual"]), name, NET),
        st.builds(k.HandleKey, name),
        st.just(k.IpamConfigKey()),
        st.builds(k.IpamHostKey, name),
        st.builds(k.NodeStatusKey, name, name),
        st.builds(k.LastNodeStatusKey, name, name),
        st.builds(k.WorkloadStatusKey, name, name, name, name, name),
        st.builds(k.HostEndpointStatusKey, name, name),
    )


def _resource_key(kind: str, namespace: str, name: str) -> k.ResourceKey:
    return k.ResourceKey(kind, namespace if KINDS[kind].namespaced else "", name)


@cache
def _structs(struct: type[Struct]) -> SearchStrategy[Any]:
    """Instances of a struct; each optional field is often left at its default."""
    required = set(struct.__struct_fields__[: len(struct.__struct_fields__) - len(struct.__struct_defaults__)])

    needed = required | {
        f.attribute for f in fields_of(struct).values() if any(m.ge and m.ge > 0 for m in f.plan.musts)
    }

    @st.composite
    def build(draw: st.DrawFn) -> Any:
        given: dict[str, Any] = {}
        for field in fields_of(struct).values():
            if field.plan.struct is ObjectMeta and issubclass(struct, Resource):
                given[field.attribute] = draw(metadata(namespaced=struct.namespaced))
            elif field.attribute == "api_version" or field.plan.shape == "any":
                continue
            elif field.attribute in needed or field.attribute == "spec" or draw(st.integers(0, 3)) == 0:
                given[field.attribute] = draw(_values(field.plan))
        return struct(**given)

    return build()


def _values(plan: Plan) -> SearchStrategy[Any]:
    musts = plan.musts
    by_format = next((FORMATS[must.format] for must in musts if must.format in FORMATS), None)
    if plan.shape == "struct":
        assert plan.struct is not None
        return _structs(plan.struct)
    if plan.shape == "list":
        assert plan.item is not None
        unique = any(must.unique for must in musts)
        most = min(3, *(must.max_items for must in musts if must.max_items), 3)
        least = max((must.min_items for must in musts), default=0)
        return st.lists(_values(plan.item), min_size=least, max_size=most, unique=unique).map(tuple)
    if by_format is not None:
        return by_format
    if plan.shape == "map":
        assert plan.item is not None
        return st.dictionaries(LABEL, _values(plan.item), max_size=2)
    return _scalars(plan, musts)


def _scalars(plan: Plan, musts: tuple[Must, ...]) -> SearchStrategy[Any]:
    words = plan.words or next((must.one_of for must in musts if must.one_of), ())
    if words:
        return st.sampled_from(words)
    pattern = next((must.pattern for must in musts if must.pattern), "")
    if pattern:
        return st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True).filter(lambda text: len(text) < 60)
    options: list[SearchStrategy[Any]] = []
    if bool in plan.scalars:
        options.append(st.booleans())
    if int in plan.scalars:
        low = next((must.ge for must in musts if must.ge is not None), 0)
        high = next((must.le for must in musts if must.le is not None), 2**31 - 1)
        options.append(st.integers(low, high))
    if float in plan.scalars:
        options.append(st.floats(-1e9, 1e9, allow_nan=False).map(lambda x: round(x, 3)))
    if str in plan.scalars and not options:
        options.append(_TEXT)
    return st.one_of(options)
