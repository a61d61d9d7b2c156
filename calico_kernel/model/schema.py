"""What each field of a kind may hold, read once from the struct's annotations.

``documents`` and ``validate`` walk these plans side by side with a value; nothing here is used to decode stored values.
"""

from __future__ import annotations

import types
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from msgspec import Struct
from msgspec.structs import replace

from calico_kernel.model.types import Must


class Plan(Struct, frozen=True, kw_only=True):
    """One value. ``scalars``: the Python types it may have. ``words``: the only texts allowed (a Literal).
    ``item``: of a list or map. ``struct``: its fields are ``fields_of(struct)``. "any": a type that plugins may use and
    that is left to msgspec (dates, enumerations, unions of objects...)."""

    scalars: frozenset[type] = frozenset()
    words: tuple[str, ...] = ()
    shape: Literal["scalar", "list", "map", "struct", "any"] = "scalar"
    item: Plan | None = None
    struct: type[Struct] | None = None
    musts: tuple[Must, ...] = ()


class Field(Struct, frozen=True):
    """``name`` as written in documents, ``attribute`` in Python."""

    name: str
    attribute: str
    plan: Plan


@cache
def fields_of(struct: type[Struct]) -> dict[str, Field]:
    """The fields of a struct by their written names."""
    hints = get_type_hints(struct, include_extras=True)
    return {
        name: Field(name, attribute, _plan(hints[attribute]))
        for attribute, name in zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True)
    }


def _plan(hint: Any) -> Plan:
    origin = get_origin(hint)
    if origin is Annotated:
        inner, *extras = get_args(hint)
        musts = tuple(extra for extra in extras if isinstance(extra, Must))
        plan = _plan(inner)
        return replace(plan, musts=(*plan.musts, *musts))
    if origin in (Union, types.UnionType):
        return _merged([_plan(part) for part in get_args(hint) if part is not type(None)])
    if origin is Literal:
        return Plan(scalars=frozenset({str}), words=get_args(hint))
    if origin in (list, set, frozenset) or (origin is tuple and get_args(hint)[1:] == (...,)):
        return Plan(shape="list", item=_plan(get_args(hint)[0]))
    if origin is dict and get_args(hint)[0] is str:
        return Plan(shape="map", item=_plan(get_args(hint)[1]))
    if isinstance(hint, type) and issubclass(hint, Struct):
        return Plan(shape="struct", struct=hint)
    return Plan(scalars=frozenset({hint})) if hint in (str, int, float, bool) else Plan(shape="any")


def _merged(plans: list[Plan]) -> Plan:
    if len(plans) == 1:
        return plans[0]
    if any(plan.shape != "scalar" or plan.words for plan in plans):
        return Plan(shape="any")
    return Plan(
        scalars=frozenset().union(*(plan.scalars for plan in plans)), musts=tuple(m for p in plans for m in p.musts)
    )
