"""How a restarted process knows what outside is its own: by marks, never by memory. Pure.

A mark is chosen so that what bears it is certainly ours and what does not is certainly not: then what is ours can be
removed without a list, and what is not is never touched.
"""

from __future__ import annotations

import base64
import hashlib
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


@attrs.frozen
class NumberMark:
    """Things that carry a number of ours: routes by protocol (80 is Calico's), rules by priority."""

    numbers: frozenset[int]

    def owns(self, number: int) -> bool:
        return number in self.numbers


@attrs.frozen
class ContentMark:
    """Things that carry a short digest of their content in a comment, so that "ours" and "still right" are one look.

    prefix: before the digest, e.g. "cali:".   length: characters of the digest, at most 43.
    """

    prefix: str
    length: int = 16

    def mark(self, *content: str) -> str:
        """Order and boundaries of the parts count."""
        digest = hashlib.sha256()
        for part in content:
            encoded = part.encode()
            digest.update(len(encoded).to_bytes(4, "big") + encoded)
        return self.prefix + base64.urlsafe_b64encode(digest.digest()).decode()[: self.length]

    def find(self, text: str) -> str:
        """The first mark in a comment or line, or ""."""
        start = text.find(self.prefix)
        if start < 0:
            return ""
        end = start + len(self.prefix) + self.length
        found = text[start:end]
        body = found[len(self.prefix) :]
        is_digest = len(body) == self.length and all(c.isascii() and (c.isalnum() or c in "-_") for c in body)
        return found if is_digest else ""
