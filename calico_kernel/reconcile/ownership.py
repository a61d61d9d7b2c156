"""How a restarted process knows what outside is its own: by marks, never by memory. Pure.

A mark is chosen so that what bears it is certainly ours and what does not is certainly not: then what is ours can be
removed without a list, and what is not is never touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs


@attrs.frozen
class NameMark:
    """Things whose names start so: chains ("cali-"), devices ("cali"), sets ("cali40")."""

    prefixes: tuple[str, ...]

    def owns(self, name: str) -> bool:
        return name.startswith(self.prefixes)

    def ours(self, names: Iterable[str]) -> Iterator[str]:
        return (name for name in names if name.startswith(self.prefixes))
