"""Documents that people write: YAML or JSON in, resources out, and nothing that is not understood passes silently.

    text --split, read--> documents (plain values) --to_resource--> resources

Text is read as Calico reads it (sigs.k8s.io/yaml: YAML 1.1, and a number or boolean where text belongs becomes text).
Everything wrong with one document is reported at once, each with the path of its field. Values are brought to the form
that Calico stores (durations, protocols, ports, AS numbers). Defaults and validation come later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import json as mjson

from calico_kernel.errors import ValidationError
from calico_kernel.model.codec import without_nulls
from calico_kernel.model.formats import CANONICAL
from calico_kernel.model.kinds import KINDS
from calico_kernel.model.meta import API_VERSION, Resource
from calico_kernel.model.schema import Field, Plan, fields_of

MAX_DOCUMENT_BYTES = 10 * 1024 * 1024
MAX_VALUES = 1_000_000
"""Values in one document after aliases are expanded: a small text with nested aliases can stand for billions."""
MAX_DEPTH = 64

_MAYBE_DEEP = re.compile(r"^[ \t?:-]{20}", re.MULTILINE)
"""A collection in block style begins behind nothing but these, and at most two begin in one column."""
_SEPARATOR = re.compile(r"^---.*$", re.MULTILINE)
_IGNORED_METADATA = frozenset({"selfLink", "managedFields"})
"""Kubernetes writes these; Calico keeps neither."""

Problems = list[tuple[str, str]]
S = TypeVar("S", bound=msgspec.Struct)

_SCALARS = (
    ("bool", r"^(?:[yY]|yes|Yes|YES|[nN]|no|No|NO|[tT]rue|TRUE|[fF]alse|FALSE|on|On|ON|off|Off|OFF)$", "yYnNtTfFoO"),
    ("int", r"^[-+]?(?:0b[01_]+|0o?[0-7_]*|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+0123456789."),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+."),
    ("merge", r"^(?:<<)$", "<"),
)
"""Plain scalars that are not text: tag, pattern, and the characters it can begin with."""


def load(text: str | bytes, *, source: str = "") -> list[dict[str, Any]]:
    """Every object in ``text``: documents between ``---`` lines, ``*List`` objects and arrays taken apart, in order.

    source: named in errors (a file).   Raises ValidationError for what is no YAML, too large, or not an object.
    """
    found: list[dict[str, Any]] = []
    for number, part in enumerate(_split(text, source), 1):
        where = f"document {number}" + (f" of {source}" if source else "")
        for value in _flatten(_read(part, where)):
            if not isinstance(value, dict):
                raise ValidationError(where, [("", f"is {_what(value)} where a resource belongs")])
            found.append(value)
    return found


def read_resources(text: str | bytes, *, source: str = "") -> list[Resource]:
    """``load`` and ``to_resource`` together. Raises ValidationError at the first document with problems."""
    return [to_resource(document) for document in load(text, source=source)]


def to_resource(document: Mapping[str, Any], *, internal: bool = False) -> Resource:
    """The resource that ``document`` describes. ``internal``: also kinds that people do not write.
    Raises ValidationError with every problem: an unknown kind, an unknown field, a value of the wrong type."""
    kind, version = document.get("kind"), document.get("apiVersion")
    info = KINDS.get(kind) if isinstance(kind, str) else None
    if info is None or (info.internal and not internal) or version != _api_version(info.type):
        said = f"unknown resource type ({kind}) and/or version ({version})"
        raise ValidationError(describe(document), [("kind", said + _meant(kind, version))])
    return read_struct(document, info.type)


def _meant(kind: object, version: object) -> str:
    known = {name.lower(): info for name, info in KINDS.items() if not info.internal}
    near = known.get(kind.lower()) if isinstance(kind, str) else None
    if near is None:
        from difflib import get_close_matches

        close = get_close_matches(kind.lower(), known, 1) if isinstance(kind, str) else []
        return f"; did you mean {known[close[0]].kind}?" if close else ""
    if near.kind == kind and not str(version or "projectcalico.org").partition("/")[0].endswith("projectcalico.org"):
        return ""  # another group's kind of the same name
    return f"; write kind: {near.kind} and apiVersion: {_api_version(near.type)}"


def read_struct(document: Mapping[str, Any], struct: type[S]) -> S:
    """A value of any struct type, read as strictly. Raises ValidationError with every problem."""
    problems: Problems = []
    cleaned = _struct(document, struct, "", problems)
    if problems:
        raise ValidationError(describe(document), problems)
    try:
        return msgspec.convert(cleaned, struct)
    except msgspec.ValidationError as exc:
        raise ValidationError(describe(document), [_located(exc)]) from exc


def to_builtins(resource: Resource) -> dict[str, Any]:
    """The document of a resource: plain values, kind and apiVersion first, what is unset left out."""
    document: dict[str, Any] = mjson.decode(mjson.encode(resource))
    return document


def describe(document: Mapping[str, Any]) -> str:
    """``NetworkPolicy(shop/web)``, as far as the document says."""
    meta = document.get("metadata")
    name, namespace = (meta.get("name"), meta.get("namespace")) if isinstance(meta, Mapping) else (None, None)
    return f"{document.get('kind') or 'document'}({f'{namespace}/' if namespace else ''}{name or ''})"


# ── text to plain values ──────────────────────────────────────────────────────────────────────────────────────────────


def _split(text: str | bytes, source: str) -> Iterator[str]:
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as exc:
            raise ValidationError(source or "input", [("", f"is not UTF-8 text: byte {exc.start}")]) from exc
    for part in _SEPARATOR.split(text.removeprefix("\ufeff")):
        if len(part.encode(errors="surrogatepass")) > MAX_DOCUMENT_BYTES:
            raise ValidationError(source or "input", [("", f"has a document of more than {MAX_DOCUMENT_BYTES} bytes")])
        if part.strip():
            yield part


def _read(text: str, where: str) -> Any:
    if text.lstrip()[:1] in ("{", "["):
        try:
            return _bounded(mjson.decode(text), where)
        except (msgspec.DecodeError, RecursionError):
            pass  # flow-style YAML also begins so
    import yaml

    try:
        _shallow(text, where)
        return _bounded(yaml.load(text, _loader()), where)
    except (yaml.YAMLError, RecursionError, ValueError) as exc:
        raise ValidationError(where, [("", f"is not YAML: {_one_line(exc)}")]) from exc


def _flatten(value: Any) -> Iterator[Any]:
    if value is None:
        return
    if isinstance(value, list):
        for item in value:
            yield from _flatten(item)
        return
    kind = value.get("kind") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind.endswith("List") and isinstance(value.get("items", 0), list | None):
        implied = {} if kind == "List" else {"kind": kind.removesuffix("List"), "apiVersion": value.get("apiVersion")}
        for item in value["items"] or ():  # Go writes a list without items as null
            yield {**implied, **item} if isinstance(item, dict) else item
        return
    yield value


def _shallow(text: str, where: str) -> None:
    """The YAML library calls itself for each level and dies, the process with it, in a text of a hundred thousand
    brackets; so its levels are counted first, which costs half as much again, where there can be many."""
    import yaml

    if text.count("[") + text.count("{") <= MAX_DEPTH // 4 and not _MAYBE_DEEP.search(text):
        return
    depth = 0
    for event in yaml.parse(text, _loader()):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ValidationError(where, [("", f"is nested more than {MAX_DEPTH} deep")])
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _bounded(value: Any, where: str) -> Any:
    """``value``, after making sure that walking through it ends soon."""
    left = MAX_VALUES
    layer: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in layer:
            if isinstance(item, dict | list):
                left -= len(item)
                if left < 0:
                    raise ValidationError(where, [("", f"stands for more than {MAX_VALUES} values")])
                below.extend(item.values() if isinstance(item, dict) else item)
        if not below:
            return value
        layer = below
    raise ValidationError(where, [("", f"is nested more than {MAX_DEPTH} deep")])


@cache
def _loader() -> Any:
    """A YAML loader that resolves plain scalars as Go's does: no dates, no base-60 numbers (``22:30`` is text),
    ``yes/no/on/off/y/n`` are booleans, octal and underscored numbers are numbers; a key given twice is refused."""
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):
        pass

    Loader.yaml_implicit_resolvers = {}
    for tag, pattern, first in _SCALARS:
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), [*first])
    Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])

    def construct_int(loader: Any, node: Any) -> int:
        text = loader.construct_scalar(node).replace("_", "")
        digits = text.lstrip("+-")
        base = 8 if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit() else 0
        return int(text, base)

    def construct_float(loader: Any, node: Any) -> float:
        text = loader.construct_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan")
        return float(text)

    def construct_bool(loader: Any, node: Any) -> bool:
        return loader.construct_scalar(node).lower() in ("y", "yes", "true", "on")

    def construct_mapping(loader: Any, node: Any) -> Iterator[dict[str, Any]]:
        made: dict[str, Any] = {}
        yield made
        given = [key.value for key, _ in node.value if isinstance(key.value, str) and key.value != "<<"]
        if len(given) != len(set(given)):
            twice = next(key for key in given if given.count(key) > 1)
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} is given twice", node.start_mark)
        loader.flatten_mapping(node)
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool):
                raise yaml.constructor.ConstructorError(None, None, f"a key is {_what(key)}", key_node.start_mark)
            made[_text(key)] = loader.construct_object(value_node, deep=True)

    Loader.add_constructor("tag:yaml.org,2002:int", construct_int)
    Loader.add_constructor("tag:yaml.org,2002:float", construct_float)
    Loader.add_constructor("tag:yaml.org,2002:bool", construct_bool)
    Loader.add_constructor("tag:yaml.org,2002:map", construct_mapping)
    return Loader


# ── plain values to what a kind may hold ──────────────────────────────────────────────────────────────────────────────


def _struct(value: Mapping[str, Any], struct: type[msgspec.Struct], path: str, problems: Problems) -> dict[str, Any]:
    fields = fields_of(struct)
    tag = struct.__struct_config__.tag_field
    cleaned: dict[str, Any] = {}
    for name, item in value.items():
        if name == tag:
            cleaned[name] = item
            continue
        field = fields.get(name) or _other_case(fields, name)
        here = f"{path}.{name}" if path else name
        if field is None:
            if not (path == "metadata" and name in _IGNORED_METADATA):
                problems.append((here, "unknown field" + _hint(name, fields)))
        elif item is not None:
            before = len(problems)
            made = _value(item, field.plan, here, problems)
            if len(problems) == before and not (made == {} and any(must.omit_empty for must in field.plan.musts)):
                cleaned[field.name] = made
    return cleaned


def _value(value: Any, plan: Plan, path: str, problems: Problems) -> Any:
    if plan.shape == "any":
        return without_nulls(value)
    if plan.shape == "struct":
        assert plan.struct is not None
        if isinstance(value, Mapping):
            return _struct(value, plan.struct, path, problems)
        problems.append((path, f"must be an object, is {_what(value)}"))
    elif plan.shape == "list":
        assert plan.item is not None
        if isinstance(value, list):
            return [_value(item, plan.item, f"{path}[{i}]", problems) for i, item in enumerate(value)]
        problems.append((path, f"must be a list, is {_what(value)}"))
    elif plan.shape == "map":
        assert plan.item is not None
        if isinstance(value, Mapping):
            problems.extend((path, f"{key!r} is not Unicode text") for key in value if not _encodable(key))
            return {k: _value(v, plan.item, f"{path}.{k}", problems) for k, v in value.items() if v is not None}
        problems.append((path, f"must be an object, is {_what(value)}"))
    else:
        return _scalar(value, plan, path, problems)
    return None


def _scalar(value: Any, plan: Plan, path: str, problems: Problems) -> Any:
    accepted = plan.scalars
    if accepted == {str} and isinstance(value, bool | int | float):
        value = _text(value)
    if isinstance(value, float) and int in accepted and value.is_integer():
        value = int(value)
    if isinstance(value, str) and not _encodable(value):
        problems.append((path, f"{value!r} is not Unicode text"))
        return None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        problems.append(
            (path, f"{value:.3g} is too large a number" if abs(value) < 10**300 else "is too large a number")
        )
        return None
    wrong = type(value) not in accepted and not (float in accepted and type(value) is int)
    if wrong:
        problems.append((path, f"must be {_wanted(accepted)}, is {_what(value)}"))
        return None
    if plan.words and value not in plan.words:
        problems.append((path, f"must be one of {', '.join(w for w in plan.words if w)}, is {value!r}"))
        return None
    for must in plan.musts:
        canonical = CANONICAL.get(must.format)
        if canonical is not None and value != "":
            try:
                value = canonical(value)
            except ValueError as exc:
                problems.append((path, str(exc)))
    return value


def _other_case(fields: Mapping[str, Field], name: str) -> Field | None:
    """Go's JSON finds a field whatever the case of its letters."""
    folded = name.lower()
    return next((field for field in fields.values() if field.name.lower() == folded), None)


def _hint(name: str, fields: Mapping[str, Field]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, fields, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _text(value: Any) -> str:
    """A scalar as sigs.k8s.io/yaml writes it where text belongs."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return str(value)


def _encodable(text: str) -> bool:
    """False for half a surrogate pair, which YAML escapes can smuggle in and no JSON can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_TYPE_WORDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}


def _wanted(types: frozenset[type]) -> str:
    shown = types - {int} if float in types else types
    return " or ".join(_TYPE_WORDS[kind] for kind in (bool, int, float, str) if kind in shown)


def _what(value: Any) -> str:
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list) else "nothing" if value is None else repr(value)


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())


def _located(exc: msgspec.ValidationError) -> tuple[str, str]:
    """msgspec's ``reason - at `$.a.b```, or an object without a required field, as a path and a reason."""
    reason, _, place = str(exc).partition(" - at `$")
    return place.rstrip("`").lstrip("."), reason


@cache
def _api_version(kind_class: type[Resource]) -> str:
    for field in msgspec.structs.fields(kind_class):
        if field.name == "api_version" and field.default_factory is not msgspec.NODEFAULT:
            return str(field.default_factory())
    return API_VERSION
