"""CustomResourceDefinitions: every field of Calico's own, nothing refused that our client takes, names as Calico's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import field

from calico_kernel.model import crds, kinds
from calico_kernel.model.crd_schema import PATTERNS
from calico_kernel.model.crds import GROUPS, NATIVE_GROUP
from calico_kernel.model.formats import CHECKS
from calico_kernel.model.kinds import KINDS
from calico_kernel.model.meta import Resource, Wire
from calico_kernel.model.types import Must
from calico_kernel.model.wellknown import CRD_GROUP

RECORDED: dict[str, dict[str, dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "data" / "crd-fields.json").read_text()
)
"""Of each field under ``spec`` of Calico's definitions: type, choices and limits."""

for _kind in ("GlobalNetworkPolicy", "StagedGlobalNetworkPolicy", "StagedNetworkPolicy"):
    _rules = {path: facts for path, facts in RECORDED["NetworkPolicy"].items() if path[:2] in ("in", "eg")}
    RECORDED[_kind] = {**_rules, **RECORDED[_kind]}  # rules stand in the record once

LAST_APPLIED_BYTES = 262144
"""What ``kubectl apply`` may keep of an object in an annotation."""


def schema(kind: str, group: str = CRD_GROUP) -> dict[str, Any]:
    found: dict[str, Any] = crds.definition(KINDS[kind], group)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def fields_below(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, below in node.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        yield here, below
        yield from fields_below(below, here)
    if "items" in node:
        yield f"{path}[]", node["items"]
        yield from fields_below(node["items"], f"{path}[]")


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("kind", sorted(RECORDED))
def test_every_field_of_calicos_definition_is_in_ours_and_the_reverse(kind: str, group: str) -> None:
    ours = dict(fields_below(schema(kind, group)["properties"]["spec"]))
    assert set(ours) == set(RECORDED[kind])


@pytest.mark.parametrize("kind", sorted(RECORDED))
def test_no_limit_is_narrower_than_calicos(kind: str) -> None:
    ours = dict(fields_below(schema(kind)["properties"]["spec"]))
    for path, theirs in RECORDED[kind].items():
        mine = ours[path]
        if theirs["type"] == "int-or-string":
            assert mine["x-kubernetes-int-or-string"], path
        elif (kind, path) != ("BlockAffinity", "deleted"):
            assert mine["type"] == theirs["type"], path
        for limit in ("maximum", "maxLength", "maxItems"):
            if limit in theirs and limit in mine:
                assert mine[limit] >= theirs[limit], path
        for limit in ("minimum", "minLength", "minItems"):
            if limit in theirs and limit in mine:
                assert mine[limit] <= theirs[limit], path
        if "one_of" in theirs and "enum" in mine:
            assert set(map(str, mine["enum"])) >= set(theirs["one_of"]) - {""}, path


def test_all_kinds_that_calico_defines_are_defined() -> None:
    assert len(crds.custom_kinds()) == 22
    assert {info.kind for info in crds.custom_kinds()} == set(RECORDED)


def test_names_are_calicos_in_either_group() -> None:
    old, native = (crds.definition(KINDS["IPAMConfiguration"], group) for group in GROUPS)
    assert old["metadata"]["name"] == "ipamconfigs.crd.projectcalico.org"
    assert old["spec"]["names"]["kind"] == "IPAMConfig"
    assert native["metadata"]["name"] == "ipamconfigurations.projectcalico.org"
    assert native["spec"]["names"]["shortNames"] == ["ipamconfig", "ipamconfigs"]
    assert native["spec"]["versions"][0]["name"] == "v3"


def test_affinity_is_deleted_by_text_in_the_older_group_only() -> None:
    old, native = (schema("BlockAffinity", group)["properties"]["spec"]["properties"]["deleted"] for group in GROUPS)
    assert (old["type"], native["type"]) == ("string", "boolean")


@pytest.mark.parametrize("group", GROUPS)
def test_no_definition_is_too_large_for_kubectl_apply(group: str) -> None:
    sizes = [len(json.dumps(crds.definition(info, group))) for info in crds.custom_kinds()]
    assert max(sizes) < LAST_APPLIED_BYTES / 2


ADDRESS_LIKE = st.one_of(
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map(lambda a: a.exploded),
    st.builds(lambda a, n: f"{a}/{n}", st.ip_addresses(v=4), st.integers(0, 32)),
    st.builds(lambda a, n: f"{a}/{n}", st.ip_addresses(v=6), st.integers(0, 128)),
    st.builds(lambda a, p: f"{a}:{p}", st.ip_addresses(v=4), st.integers(0, 65535)),
    st.builds(lambda a, p: f"[{a}]:{p}", st.ip_addresses(v=6), st.integers(0, 65535)),
    st.just("::ffff:10.0.0.1"),
)
WORD_LIKE = st.text(st.sampled_from("azAZ09.-_*:/@ T"), min_size=1, max_size=20)
DURATION_LIKE = st.from_regex(r"\+?(([0-9]{1,3}(\.[0-9]{0,2})?|\.[0-9])(ns|us|µs|ms|s|m|h)){1,3}|0", fullmatch=True)
NAMED = st.sampled_from(["TCP", "UDPLite", "ICMPv6", "17", "EF", "AF41", "80:90", "http", "fe:dc:ba:98:76:54", "1:2"])


@given(st.one_of(ADDRESS_LIKE, WORD_LIKE, DURATION_LIKE, NAMED))
def test_whatever_a_format_takes_matches_its_pattern(text: str) -> None:
    for name, pattern in PATTERNS.items():
        if CHECKS[name](text) is None:
            assert re.fullmatch(pattern, text), (name, text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("net", "10.0.0.0/33"),
        ("cidr", "10.0.0/8"),
        ("ip", "300.1.1.1"),
        ("duration", "ten"),
        ("port", "70000:80000x"),
        ("protocol", "tcp"),
        ("name", "Bad_Name"),
    ],
)
def test_pattern_refuses_what_is_plainly_wrong(name: str, text: str) -> None:
    assert not re.fullmatch(PATTERNS[name], text)


class WallSpec(Wire):
    of: str
    height_m: Annotated[int, Must(ge=1, le=9)] = 1
    doors: tuple[str, ...] = ()


class Wall(Resource, tag="Wall"):
    """A wall between two rooms."""

    spec: WallSpec = field(default_factory=lambda: WallSpec(of="brick"))
    namespaced: ClassVar[bool] = True
    plural: ClassVar[str] = "walls"
    aliases: ClassVar[tuple[str, ...]] = ("wl",)


def test_kind_of_a_plugin_gets_a_definition() -> None:
    kinds.register(Wall)
    try:
        made = crds.definition(KINDS["Wall"], NATIVE_GROUP)
        assert KINDS["Wall"] in crds.custom_kinds()
    finally:
        kinds.unregister(Wall)
    assert made["metadata"]["name"] == "walls.projectcalico.org"
    assert made["spec"]["scope"] == "Namespaced"
    assert made["spec"]["names"]["shortNames"] == ["wl"]
    whole = made["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert whole["description"] == "A wall between two rooms."
    assert whole["properties"]["spec"]["required"] == ["of"]
    assert whole["properties"]["spec"]["properties"]["heightM"] == {"type": "integer", "minimum": 1, "maximum": 9}
