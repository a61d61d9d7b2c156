"""Write docs/resources.md from the structs of the resource kinds.

python -m tools.resource_reference           write it
python -m tools.resource_reference --check   status 1 when it is not current
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from calico_kernel.model.durations import format_duration
from calico_kernel.model.felix import FelixConfigurationSpec
from calico_kernel.model.felix_parameters import PARAMETERS
from calico_kernel.model.kinds import KindInfo, public_kinds
from calico_kernel.model.policy import Rule
from calico_kernel.model.schema import Field, Plan, fields_of
from calico_kernel.model.types import Must

TARGET = Path(__file__).resolve().parent.parent / "docs" / "resources.md"

HEAD = """\
# Resources

<!-- Written by `python -m tools.resource_reference` from the structs of the kinds; a test keeps it current. -->

Documents have `apiVersion: projectcalico.org/v3`, a `kind`, `metadata` (`name`, for some `namespace`, `labels`,
`annotations`) and a `spec`; `calicoctl apply -f` takes YAML or JSON, several documents in a file, lists, and the
Kubernetes kinds NetworkPolicy, Namespace, ServiceAccount, Pod, Service and EndpointSlice. What is stored is byte for
byte what Calico stores.

A field that is not known, a value of the wrong type and a value out of bounds are refused, all at once, each with the
path of its field. In YAML 1.1, which Calico speaks, `on`, `off`, `yes`, `no`, `y` and `n` are booleans and `010` is
eight: where text belongs (a label's value) they become the text `true`, `false` and `8`. Quote them.

Names of types below: *net* is an address or a prefix without host bits, *cidr* may have host bits, *selector* is
Calico's selector language (at most 1024 characters), *duration* is written `1m30s`, *port* is a number, a range
`80:90` or a name, *asn* is a number or `1.10`.
"""


def reference() -> str:
    """The whole text."""
    rule = ["## Rule", "", "One entry of `ingress` or `egress` in policies and profiles.", ""]
    rule += ["| field | type |", "|---|---|"]
    rule += [f"| {name} | {kind} |" for name, kind, _ in _rows(Rule, "", ())]
    return "\n".join([HEAD, *(_kind(info) for info in public_kinds()), *rule, ""])


def _kind(info: KindInfo) -> str:
    scope = "in a namespace" if info.namespaced else "global"
    words = ", ".join(f"`{word}`" for word in info.words)
    lines = [f"## {info.kind}", "", f"{scope}; for calicoctl: {words}", ""]
    spec = fields_of(info.type).get("spec")
    assert spec is not None and spec.plan.struct is not None
    table = list(_rows(spec.plan.struct, "", ()))
    if spec.plan.struct is FelixConfigurationSpec:
        lines += ["| field of `spec` | type | default | environment |", "|---|---|---|---|"]
        lines += [f"| {name} | {kind} | {_felix(field)} |" for name, kind, field in table]
    else:
        lines += ["| field of `spec` | type |", "|---|---|"]
        lines += [f"| {name} | {kind} |" for name, kind, _ in table]
    return "\n".join([*lines, ""])


def _rows(struct: type[Struct], prefix: str, above: tuple[type[Struct], ...]) -> Iterator[tuple[str, str, Field]]:
    for field in fields_of(struct).values():
        plan = field.plan
        yield f"`{prefix}{field.name}`", _type(plan), field
        inner = plan.item if plan.shape in ("list", "map") and plan.item is not None else plan
        if inner.struct is not None and inner.struct not in (Rule, *above):
            mark = "[]" if plan.shape == "list" else ""
            yield from _rows(inner.struct, f"{prefix}{field.name}{mark}.", (*above, struct))


def _type(plan: Plan) -> str:
    if plan.struct is Rule:
        base = "[rule](#rule)"
    elif plan.shape == "struct":
        base = "object"
    elif plan.shape == "list":
        assert plan.item is not None
        base = f"list of {_type(plan.item)}"
    elif plan.shape == "map":
        base = next((must.format for must in plan.musts if must.format), "map of text")
    elif plan.words:
        base = _choice(plan.words)
    else:
        base = next((_named(must) for must in plan.musts if must.format or must.one_of), "") or _scalars(plan)
    return "; ".join([base, *dict.fromkeys(note for must in plan.musts for note in _notes(must))])


def _named(must: Must) -> str:
    return _choice(must.one_of) if must.one_of else must.format


def _choice(words: tuple[str, ...]) -> str:
    return ", ".join(f"`{word}`" for word in words if word)


def _scalars(plan: Plan) -> str:
    names = {bool: "true or false", int: "integer", float: "number", str: "text"}
    return next((names[kind] for kind in (float, bool, int, str) if kind in plan.scalars), "any")


def _notes(must: Must) -> Iterator[str]:
    if must.ge is not None or must.le is not None:
        yield f"{'' if must.ge is None else must.ge}..{'' if must.le is None else must.le}"
    if must.max_items:
        yield f"at most {must.max_items}"
    if must.max_len and must.format != "selector":
        yield f"at most {must.max_len} characters"
    if must.unique:
        yield "none twice"
    if must.required:
        yield "required"


def _felix(field: Field) -> str:
    parameter = PARAMETERS.get(field.attribute)
    if parameter is None:
        return " | "
    unit = " (ms)" if parameter.milliseconds else ""
    return f"{_default(field, parameter.default)} | `FELIX_{parameter.name}`{unit}"


def _default(field: Field, value: Any) -> str:
    if any(must.format == "duration" for must in field.plan.musts):
        return f"`{format_duration(round(value * 1e9))}`"
    if field.attribute.startswith("failsafe"):
        return " ".join(f"`{port.protocol}:{port.port}`" for port in value)
    if isinstance(value, Struct):
        return " ".join(f"`{f.name}: {getattr(value, f.attribute)}`" for f in fields_of(type(value)).values())
    if value is None or value in ("", ()):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    if field.attribute.endswith("mark_mask"):
        shown = f"{value:#x}"
    return f"`{shown}`".replace("|", "\\|")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--check", action="store_true", help="only compare, write nothing")
    if parser.parse_args(argv).check:
        return 0 if TARGET.exists() and TARGET.read_text() == reference() else 1
    TARGET.write_text(reference())
    return 0


if __name__ == "__main__":
    sys.exit(main())
