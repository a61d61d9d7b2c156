"""Whether a resource may be stored: Calico's rules, all problems at once, each with the path of its field.

Two layers: what single fields must be (read from the annotations of the structs) and what they must be together
(``rules``, one function for each kind). What depends on other stored resources (a tier that exists, pools that do not
overlap) is the client's.

Where Calico accepts something doubtful, so do we, because a cluster may hold it: a pool inside 127.0.0.0/8, a profile
with a Pass rule, a policy named without its tier. Stricter than Calico on purpose: ``BGPFilter`` rules take real
communities and prefix lengths with min <= max; port 0 is refused in every list of ports.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from calico_kernel.errors import ValidationError
from calico_kernel.model.formats import CHECKS
from calico_kernel.model.meta import Resource
from calico_kernel.model.schema import Plan, fields_of
from calico_kernel.model.types import Must

SelectorCheck = Callable[[str], object]
"""Raises (or returns text) for a selector that does not parse. Injected: the model knows no selector language."""

Problem = tuple[str, str]


def problems(resource: Resource, *, selector_check: SelectorCheck | None = None) -> list[Problem]:
    """Everything wrong with ``resource``, after defaults were filled in; [] when it may be stored."""
    from calico_kernel.model.rules import kind_problems, name_problems

    found = name_problems(resource)
    struct_problems(resource, "", found, selector_check)
    found += kind_problems(resource)
    return list(dict.fromkeys(found))


def check(resource: Resource, *, selector_check: SelectorCheck | None = None) -> None:
    """Raises ValidationError with all problems."""
    found = problems(resource, selector_check=selector_check)
    if found:
        meta = resource.metadata
        place = f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name
        raise ValidationError(f"{resource.kind}({place})", found)


def struct_problems(value: Struct, path: str, found: list[Problem], selector_check: SelectorCheck | None) -> None:
    """Add to ``found`` what is wrong with single fields of ``value``."""
    for field in fields_of(type(value)).values():
        here = f"{path}.{field.name}" if path else field.name
        value_problems(getattr(value, field.attribute), field.plan, here, found, selector_check)


def value_problems(
    value: Any, plan: Plan, path: str, found: list[Problem], selector_check: SelectorCheck | None = None
) -> None:
    """Add to ``found`` what is wrong with one field's value."""
    if value is None or value in ("", (), {}):
        if any(must.required for must in plan.musts):
            found.append((path, "must be given"))
        return
    for must in plan.musts:
        _must(value, must, path, found, selector_check)
    if isinstance(value, Struct):
        struct_problems(value, path, found, selector_check)
    elif isinstance(value, tuple) and plan.item is not None:
        for index, item in enumerate(value):
            value_problems(item, plan.item, f"{path}[{index}]", found, selector_check)


def _must(value: Any, must: Must, path: str, found: list[Problem], selector_check: SelectorCheck | None) -> None:
    if must.format == "selector":
        _selector(value, path, found, selector_check)
    elif must.format:
        reason = CHECKS[must.format](value)
        if reason:
            found.append((path, reason))
    if must.one_of and not _among(value, must):
        found.append((path, f"must be one of {', '.join(must.one_of)}, is {value!r}"))
    if must.pattern and not re.fullmatch(must.pattern.strip("^$"), value):
        found.append((path, f"{value!r} does not match {must.pattern}"))
    if must.ge is not None and value < must.ge:
        found.append((path, f"must be at least {must.ge}, is {value}"))
    if must.le is not None and value > must.le:
        found.append((path, f"must be at most {must.le}, is {value}"))
    if must.max_len and len(value) > must.max_len:
        found.append((path, f"must be at most {must.max_len} characters, has {len(value)}"))
    if isinstance(value, Sequence | Mapping) and not isinstance(value, str):
        _counts(value, must, path, found)


def _counts(value: Any, must: Must, path: str, found: list[Problem]) -> None:
    if must.max_items and len(value) > must.max_items:
        found.append((path, f"must have at most {must.max_items} entries, has {len(value)}"))
    if must.min_items and len(value) < must.min_items:
        found.append((path, f"must have at least {must.min_items} entries, has {len(value)}"))
    if must.unique:
        seen = set()
        for item in value:
            if item in seen:
                found.append((path, f"{item!r} is specified more than once"))
            seen.add(item)


def _among(value: Any, must: Must) -> bool:
    if must.any_case and isinstance(value, str):
        return value.lower() in (word.lower() for word in must.one_of)
    return value in must.one_of


def _selector(value: str, path: str, found: list[Problem], selector_check: SelectorCheck | None) -> None:
    if selector_check is None:
        return
    try:
        said = selector_check(value)
    except Exception as exc:  # noqa: BLE001 (whatever the parser raises says why)
        said = getattr(exc, "what", None) or str(exc) or "is not a selector"
    if isinstance(said, str) and said:
        found.append((path, said))
