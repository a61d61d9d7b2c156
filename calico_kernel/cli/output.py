"""How the tools write: aligned columns, boxed tables, YAML and JSON.

In:    rows of text, or plain values made from resources.
Out:   text in the shapes that operators of Calico know.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

GAP = 3
NARROWEST = 5


def visible(text: str) -> str:
    """``text`` with everything that a terminal would act on instead of showing it written out (``\\x1b``), except ends
    of lines: whoever may write a resource must not move the cursor of whoever reads it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def columns(rows: Iterable[Sequence[str]]) -> str:
    """Cells padded to the widest of their column and three spaces; every row ends in a padded cell."""
    table = [_cells(row) for row in rows]
    if not table:
        return ""
    widths = [max(NARROWEST, *(len(row[i]) + GAP for row in table)) for i in range(len(table[0]))]
    return "".join("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + "\n" for row in table)


def box(heading: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """A table in lines of ``+``, ``-`` and ``|``; columns whose index is in ``right`` end flush."""
    rows = [_cells(row) for row in rows]
    widths = [max(len(row[i]) for row in (heading, *rows)) for i in range(len(heading))]
    line = "+" + "+".join("-" * (width + 2) for width in widths) + "+\n"

    def written(row: Sequence[str], flush: frozenset[int]) -> str:
        cells = (
            cell.rjust(width) if index in flush else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "| " + " | ".join(cells) + " |\n"

    body = "".join(written(row, right) for row in rows)
    return line + written(heading, frozenset()) + line + body + (line if rows else "")


def _cells(row: Sequence[str]) -> list[str]:
    return [visible(cell).replace("\n", "\\n") for cell in row]


def number(value: float) -> str:
    """Five significant digits, as ``%.5g`` writes them."""
    return f"{value:.5g}"


def share(part: int, whole: int) -> str:
    """``12 (5%)``."""
    return f"{number(part)} ({100 * part / whole if whole else 0:.0f}%)"


def json_text(value: Any) -> str:
    """Two spaces of indentation, keys in the order given."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


# ── YAML ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

_AMBIGUOUS = re.compile(r"^(?:y|Y|n|N|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?)$")
"""Text that other YAML readers take for a boolean or a base-60 number."""


def yaml_text(value: Any) -> str:
    """Block style, keys sorted; text that a reader would take for something else stands in double quotes."""
    import yaml

    base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

    class Dumper(base):  # type: ignore[misc]
        def ignore_aliases(self, _data: Any) -> bool:
            return True

    resolver: Any = yaml.resolver.Resolver
    resolver = resolver()

    def represent_text(dumper: Any, text: str) -> Any:
        style = None
        if "\n" in text:
            style = "|"
        elif resolver.resolve(yaml.ScalarNode, text, (True, False)) != "tag:yaml.org,2002:str" or _AMBIGUOUS.match(
            text
        ):
            style = '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    def represent_float(dumper: Any, number_: float) -> Any:
        if number_ == int(number_) and abs(number_) < 1e21:
            return dumper.represent_scalar("tag:yaml.org,2002:int", str(int(number_)))
        return dumper.represent_scalar("tag:yaml.org,2002:float", repr(number_))

    Dumper.add_representer(str, represent_text)
    Dumper.add_representer(float, represent_float)
    written: str = yaml.dump(
        value, Dumper=Dumper, default_flow_style=False, sort_keys=True, allow_unicode=True, width=80
    )
    return written
