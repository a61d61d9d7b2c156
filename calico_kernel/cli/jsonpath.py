"""JSONPath templates as ``kubectl -o jsonpath=...`` knows them: what ``calicoctl get`` offers to scripts.

In:    a template, and the plain value that ``-o json`` would print.
Out:   text. Pure.

    {.metadata.name}  {.items[*].metadata.name}  {.items[-1]}  {.items[0:4:2]}  {..cidr}  {.metadata['name','uid']}
    {.metadata.labels.projectcalico\\.org/tier}  {.items[?(@.spec.order > 10)].metadata.name}
    {range .items[*]}{.metadata.name}{"\\t"}{.spec.tier}{"\\n"}{end}

What is not there is empty. Several values stand with a space between; objects and lists are JSON. ``$`` is the whole
value, everywhere; a path without it begins at the current one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

Step = Callable[[Any, Any], Iterator[Any]]
"""(value, root) -> values"""

_NAME = re.compile(r"(?:\\.|[^\s.\[\]{}()=!<>,'\"\\])+")
_INDEX = re.compile(r"\s*(-?\d+)\s*$")
_SLICE = re.compile(r"\s*(-?\d*)\s*:\s*(-?\d*)\s*(?::\s*(-?\d*)\s*)?$")
_OPERATOR = re.compile(r"\s*(==|!=|<=|>=|<|>)\s*")
_TEXT = re.compile(r"""\s*("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')\s*""")
_WORD = re.compile(r"\s*(-?\d+(?:\.\d+)?|true|false|null)\s*$")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


class TemplateError(ValueError):
    """The template cannot be read; says where."""


class _Path(NamedTuple):
    from_root: bool
    steps: Sequence[Step]

    def values(self, current: Any, root: Any) -> list[Any]:
        found = [root if self.from_root else current]
        for step in self.steps:
            found = [below for value in found for below in step(value, root)]
        return found


class _Range(NamedTuple):
    path: _Path
    body: list[Any]


def compiled(template: str) -> Callable[[Any], str]:
    """Raises TemplateError."""
    parts = _parts(template)
    body, after = _body(parts, 0, nested=False)
    assert after == len(parts)

    def write(value: Any) -> str:
        return "".join(_written(body, value, value))

    return write


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _parts(template: str) -> list[tuple[str, bool]]:
    """(text, whether it stood in braces)"""
    found: list[tuple[str, bool]] = []
    at = 0
    while at < len(template):
        start = template.find("{", at)
        if start != at:
            found.append((template[at : start if start >= 0 else None], False))
        if start < 0:
            break
        end = _closing(template, start + 1, "}")
        found.append((template[start + 1 : end].strip(), True))
        at = end + 1
    return found


def _closing(text: str, at: int, mark: str) -> int:
    """Index of ``mark`` outside quotes, and outside brackets where ``mark`` closes one."""
    opening = {"]": "[", ")": "("}.get(mark, "")
    depth = 0
    start = at
    while at < len(text):
        quoted = _TEXT.match(text, at) if text[at] in "\"'" else None
        if quoted:
            at = quoted.end(1)
            continue
        if text[at] == "\\":
            at += 1
        elif text[at] == mark:
            if not depth:
                return at
            depth -= 1
        elif text[at] == opening:
            depth += 1
        at += 1
    raise TemplateError(f"{text[start - 1 :]!r} is not closed by {mark!r}")


def _body(parts: Sequence[tuple[str, bool]], at: int, *, nested: bool) -> tuple[list[Any], int]:
    found: list[Any] = []
    while at < len(parts):
        text, in_braces = parts[at]
        at += 1
        if not in_braces:
            found.append(text)
        elif text == "end":
            if not nested:
                raise TemplateError("{end} without {range}")
            return found, at
        elif text.startswith("range "):
            body, at = _body(parts, at, nested=True)
            found.append(_Range(_path(text[6:].strip()), body))
        else:
            literal = _literal(text)
            found.append(_path(text) if literal is None else str(literal[0]))
    if nested:
        raise TemplateError("{range} without {end}")
    return found, at


def _literal(text: str) -> tuple[Any] | None:
    quoted = _TEXT.fullmatch(text)
    if quoted:
        return (_unquoted(quoted.group(1)),)
    word = _WORD.match(text)
    if not word:
        return None
    said = word.group(1)
    return ({"true": True, "false": False, "null": None}[said] if said.isalpha() else float(said),)


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match.group(1), match.group(1)), text[1:-1])


def _path(text: str) -> _Path:
    at = 1 if text[:1] in {"$", "@"} else 0
    steps: list[Step] = []
    if not text or (not at and text[0] not in ".["):
        raise TemplateError(f"{text!r} is no path: begin it with '.', '[', '@' or '$'")
    while at < len(text):
        if text[at] == "[":
            end = _closing(text, at + 1, "]")
            steps.append(_bracket(text[at + 1 : end].strip()))
            at = end + 1
            continue
        deep = text.startswith("..", at)
        at += 2 if deep else 1
        if deep:
            steps.append(_descendants)
        if text[at - 1] != ".":
            raise TemplateError(f"{text[at - 1 :]!r} in {text!r} is not understood")
        if at == len(text) and not deep:  # {.} is the value itself
            break
        if text.startswith("[", at):
            continue
        name = _NAME.match(text, at)
        if name is None:
            raise TemplateError(f"a name belongs behind {text[:at]!r}")
        steps.append(_each if name.group() == "*" else _keys([re.sub(r"\\(.)", r"\1", name.group())]))
        at = name.end()
    return _Path(text[0] == "$", steps)


def _bracket(text: str) -> Step:
    if text == "*":
        return _each
    if text.startswith("?("):
        return _filter(text[2 : _closing(text, 2, ")")].strip())
    keys: list[str] = []
    cuts: list[slice | int] = []
    at = 0
    while at <= len(text):
        quoted = _TEXT.match(text, at)
        end = quoted.end() if quoted else (text.find(",", at) if "," in text[at:] else len(text))
        piece = text[at:end]
        one, many = _INDEX.match(piece), _SLICE.match(piece)
        if quoted:
            keys.append(_unquoted(quoted.group(1)))
        elif one:
            cuts.append(int(one.group(1)))
        elif many:
            cuts.append(slice(*(int(number) if number else None for number in many.groups())))
        else:
            raise TemplateError(f"[{text}] is not understood: give an index, a slice, 'names', * or ?(...)")
        at = end + 1
    if keys and cuts:
        raise TemplateError(f"[{text}] mixes names and indexes")
    return _keys(keys) if keys else _cuts(cuts)


def _filter(text: str) -> Step:
    operator = next((found for found in _OPERATOR.finditer(text) if not _inside_quotes(text, found.start())), None)
    if operator is None:
        path = _path(text)
        return lambda value, root: (one for one in _items(value) if path.values(one, root))
    left, right = _side(text[: operator.start()].strip()), _side(text[operator.end() :].strip())
    compare = _COMPARE[operator.group(1)]

    def kept(value: Any, root: Any) -> Iterator[Any]:
        for one in _items(value):
            if any(compare(a, b) for a in left(one, root) for b in right(one, root)):
                yield one

    return kept


def _inside_quotes(text: str, at: int) -> bool:
    return any(found.start(1) < at < found.end(1) for found in _TEXT.finditer(text))


def _side(text: str) -> Callable[[Any, Any], list[Any]]:
    literal = _literal(text)
    if literal is not None:
        return lambda _value, _root: [literal[0]]
    return _path(text).values


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compared(a: Any, b: Any) -> bool:
        try:
            return compare(a, b)
        except TypeError:
            return False

    return compared


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    "<": _ordered(lambda a, b: a < b),
    "<=": _ordered(lambda a, b: a <= b),
    ">": _ordered(lambda a, b: a > b),
    ">=": _ordered(lambda a, b: a >= b),
}

# ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _each(value: Any, _root: Any) -> Iterator[Any]:
    return _items(value)


def _descendants(value: Any, root: Any) -> Iterator[Any]:
    yield value
    for below in _items(value):
        yield from _descendants(below, root)


def _keys(names: Sequence[str]) -> Step:
    def step(value: Any, _root: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            yield from (value[name] for name in names if name in value)

    return step


def _cuts(cuts: Sequence[slice | int]) -> Step:
    def step(value: Any, _root: Any) -> Iterator[Any]:
        if not isinstance(value, list):
            return
        for cut in cuts:
            if isinstance(cut, slice):
                yield from value[cut]
            elif -len(value) <= cut < len(value):
                yield value[cut]

    return step


# ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _written(body: Sequence[Any], current: Any, root: Any) -> Iterator[str]:
    for part in body:
        if isinstance(part, _Range):
            for value in part.path.values(current, root):
                yield from _written(part.body, value, root)
        elif isinstance(part, _Path):
            yield " ".join(_text(value) for value in part.values(current, root))
        else:
            yield part


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    import msgspec

    return msgspec.json.encode(value).decode()
