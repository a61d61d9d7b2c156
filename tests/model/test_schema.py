"""Every field of Calico's CRD schemas has its place, its type and its limits in the structs of the kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calico_kernel.model.kinds import KINDS
from calico_kernel.model.schema import Plan, fields_of

RECORDED: dict[str, dict[str, dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "data" / "crd-fields.json").read_text()
)
"""Of each field under ``spec``: type, choices and limits, as the schemas of the tree named in the data say."""

KINDS_THAT_DIFFER = {"BlockAffinity": {"deleted"}}
"""Text in the store, a boolean in the schema; see ``BlockAffinitySpec``."""


def plan_at(kind: str, path: str) -> Plan | None:
    """The plan of a field such as ``ingress[].source.nets``."""
    plan: Plan | None = fields_of(KINDS[kind].type)["spec"].plan
    for part in path.split("."):
        name, *brackets = part.split("[]")
        if plan is None or plan.struct is None or name not in (fields := fields_of(plan.struct)):
            return None
        plan = fields[name].plan
        for _ in brackets:
            plan = plan.item if plan is not None else None
    return plan


def type_of(plan: Plan) -> str:
    if plan.shape != "scalar":
        return {"struct": "object", "map": "object", "list": "array"}.get(plan.shape, plan.shape)
    if any(must.format == "asn" for must in plan.musts):
        return "integer"  # text is accepted in documents, a number is stored
    if plan.scalars == {int, str}:
        return "int-or-string"
    if float in plan.scalars:
        return "number"
    (scalar,) = plan.scalars
    return {bool: "boolean", int: "integer", str: "string"}[scalar]


def limits_of(plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = {"one_of": sorted(word for word in plan.words if word)} if plan.words else {}
    for must in plan.musts:
        given = {
            "minimum": must.ge,
            "maximum": must.le,
            "maxLength": must.max_len or None,
            "maxItems": must.max_items or None,
            "minItems": must.min_items or None,
            "one_of": sorted(must.one_of) or None,
            "any_case": must.any_case or None,
            "format": "cidr" if must.format == "with-length" else None,
        }
        found |= {name: value for name, value in given.items() if value is not None}
        if must.format == "ip-version":
            found["one_of"] = ["4", "6"]
    return found


@pytest.mark.parametrize("kind", sorted(kind for kind in RECORDED if kind not in ("IPAMBlock", "IPAMHandle")))
def test_field_of_calicos_schema_is_held_with_its_type_and_limits(kind: str) -> None:
    wrong: dict[str, Any] = {}
    for path, facts in RECORDED[kind].items():
        plan = plan_at(kind, path)
        if path in KINDS_THAT_DIFFER.get(kind, ()):
            continue
        if plan is None or (facts.get("type") not in (None, type_of(plan)) and plan.shape != "any"):
            wrong[path] = (facts, plan)
            continue
        ours = limits_of(plan)
        for name, value in facts.items():
            # a zero that Go leaves out never reaches the schema, so a minimum of 1 on it says nothing
            unset = name == "minimum" and value == 1 and ours.get(name) == 0
            if name != "type" and ours.get(name) != value and not unset:
                wrong[path] = (facts, ours)
    assert wrong == {}


def test_record_is_of_all_kinds_and_their_fields() -> None:
    assert len(RECORDED) >= 22
    assert sum(len(fields) for fields in RECORDED.values()) >= 600
