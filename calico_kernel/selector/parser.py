"""Text to syntax tree: a recursive-descent parser over one regular expression for each thing that may come next.

In:   selector text from resources.   Out: a ``Selector``.   Refuses, with the position, what the grammar does not know:

    selector = [ or ]                     empty means all()
    or       = and { "||" and }
    and      = term { "&&" term }
    term     = { "!" } ( "(" or ")" | "has(" label ")" | "all()" | "global()" | compare )
    compare  = label ( "==" | "!=" | "contains" | "starts with" | "ends with" ) string
             | label ( "in" | "not in" ) "{" [ string { "," string } [ "," ] ] "}"

As Calico reads it: only space and tab are blank (a newline is an error); strings have no escapes; ``has(``, ``all(``
and ``global(`` allow no blank before the parenthesis; an even number of ``!`` cancels; keywords may serve as labels.
"""

from __future__ import annotations

import functools
import re

from calico_kernel.errors import CalicoError
from calico_kernel.selector.ast import (
    All,
    And,
    Contains,
    EndsWith,
    Equals,
    Global,
    Has,
    In,
    Node,
    Not,
    NotEquals,
    NotIn,
    Or,
    StartsWith,
    nesting,
)
from calico_kernel.selector.selector import Selector

MAX_LENGTH = 65_536
"""Characters. A field of a resource holds 1,024; rewriting joins several fields and lists of service account names."""
MAX_DEPTH = 64
"""Groups inside groups, as written and as the canonical text shows them (which is why that text parses again). Keeps
every recursion over a tree far from Python's limit."""
MAX_LABEL_LENGTH = 512

_LABEL = r"[a-zA-Z0-9_./-]"
_TERM = re.compile(
    rf"""[ \t]*(?:
        (?P<open>\()
      | has\([ \t]*(?P<has>{_LABEL}+)[ \t]*\)
      | (?P<badhas>has\()
      | (?P<all>all\()
      | (?P<global>global\()
      | (?P<label>{_LABEL}+)
    )""",
    re.VERBOSE,
)
_OPERATOR = re.compile(
    rf"[ \t]*(?:(==|!=)|(contains|starts[ \t]*with|ends[ \t]*with|not[ \t]*in|in)(?!{_LABEL}))", re.VERBOSE
)
_NEGATIONS = re.compile(r"(?:[ \t]*!(?!=))*")
_STRING = re.compile(r"""[ \t]*(?:"([^"]*)"|'([^']*)')""")
_BLANK = re.compile(r"[ \t]*")

_COMPARISONS: dict[str, type[Equals | NotEquals | Contains | StartsWith | EndsWith]] = {
    "==": Equals,
    "!=": NotEquals,
    "contains": Contains,
    "startswith": StartsWith,
    "endswith": EndsWith,
}


class SelectorError(CalicoError):
    """Text that is not a selector. ``position`` counts characters from 0; ``reason`` says what was expected there."""

    def __init__(self, text: str, position: int, reason: str) -> None:
        self.text, self.position, self.reason = text, position, reason
        shown = text if len(text) <= 120 else f"{text[:117]}..."
        super().__init__(
            what=f"selector {shown!r} is not valid: {reason} at character {position + 1}",
            todo="correct the selector",
        )


@functools.lru_cache(maxsize=8192)
def parse(text: str) -> Selector:
    """The selector that ``text`` says. Cached: equal texts give the same object. Raises SelectorError."""
    return Selector.of(_Parser(text).selector())


def is_valid(text: str) -> bool:
    """Whether ``text`` is a selector."""
    try:
        parse(text)
    except SelectorError:
        return False
    return True


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth, self.deepest = text, 0, 0, 0

    def selector(self) -> Node:
        if len(self.text) > MAX_LENGTH:
            raise self.error(f"longer than {MAX_LENGTH} characters", MAX_LENGTH)
        if not self.text.isascii():
            self.refuse_surrogates()
        self.skip_blank()
        if self.at == len(self.text):
            return All()
        node = self.alternatives()
        self.skip_blank()
        if self.at < len(self.text):
            if self.text[self.at] in "&|":
                raise self.error(f"expected {self.text[self.at] * 2}")
            raise self.error("expected && or || or the end")
        if self.deepest >= MAX_DEPTH // 2 and nesting(node) > MAX_DEPTH:  # a level as written holds two groups at most
            raise self.error(f"more than {MAX_DEPTH} groups inside each other", 0)
        return node

    def alternatives(self) -> Node:
        terms = [self.conjunction()]
        while self.accept("||"):
            terms.append(self.conjunction())
        return terms[0] if len(terms) == 1 else Or(tuple(terms))

    def conjunction(self) -> Node:
        terms = [self.term()]
        while self.accept("&&"):
            terms.append(self.term())
        return terms[0] if len(terms) == 1 else And(tuple(terms))

    def term(self) -> Node:
        negations = _NEGATIONS.match(self.text, self.at)
        assert negations is not None  # it matches the empty text
        self.at = negations.end()
        node = self.positive_term()
        return Not(node) if negations.group().count("!") % 2 else node

    def positive_term(self) -> Node:
        found = _TERM.match(self.text, self.at)
        if found is None:
            self.skip_blank()
            raise self.error("expected a label, has(), all(), global() or (")
        start, self.at = found.start(found.lastgroup or 0), found.end()
        match found.lastgroup:
            case "label":
                return self.comparison(self.checked_label(found["label"], start), start)
            case "has":
                return Has(self.checked_label(found["has"], start))
            case "open":
                return self.parenthesised(start)
            case "all" | "global" as word:
                if not self.accept(")"):
                    raise self.error(f"expected ) after {word}(")
                return All() if word == "all" else Global()
            case _:
                raise self.error("expected a label and ) after has(")

    def parenthesised(self, start: int) -> Node:
        if self.depth == MAX_DEPTH:
            raise self.error(f"more than {MAX_DEPTH} groups inside each other", start)
        self.depth += 1
        self.deepest = max(self.depth, self.deepest)
        node = self.alternatives()
        self.depth -= 1
        if not self.accept(")"):
            raise self.error("expected )")
        return node

    def comparison(self, label: str, start: int) -> Node:
        found = _OPERATOR.match(self.text, self.at)
        if found is None:
            self.skip_blank()
            if self.at == len(self.text):
                raise self.error(f"expected an operator after label {label!r}", start)
            raise self.error(f"expected an operator after label {label!r}")
        self.at = found.end()
        operator = (found[1] or found[2]).replace(" ", "").replace("\t", "")
        if operator == "in":
            return In(label, self.set_literal())
        if operator == "notin":
            return NotIn(label, self.set_literal())
        value = self.string()
        if value is None:
            self.skip_blank()
            raise self.error(
                "unterminated string" if self.text[self.at : self.at + 1] in ("'", '"') else "expected a string"
            )
        return _COMPARISONS[operator](label, value)

    def set_literal(self) -> tuple[str, ...]:
        if not self.accept("{"):
            raise self.error("expected {")
        values: set[str] = set()
        while (value := self.string()) is not None:
            values.add(value)
            if not self.accept(","):
                break
        if not self.accept("}"):
            raise self.error("expected }")
        return tuple(sorted(values))

    def string(self) -> str | None:
        found = _STRING.match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found[1] if found[1] is not None else found[2]

    def accept(self, token: str) -> bool:
        self.skip_blank()
        if not self.text.startswith(token, self.at):
            return False
        self.at += len(token)
        return True

    def skip_blank(self) -> None:
        blank = _BLANK.match(self.text, self.at)
        assert blank is not None  # it matches the empty text
        self.at = blank.end()

    def checked_label(self, label: str, start: int) -> str:
        if len(label) > MAX_LABEL_LENGTH:
            raise self.error(f"label longer than {MAX_LABEL_LENGTH} characters", start)
        return label

    def refuse_surrogates(self) -> None:
        """A lone surrogate (from a careless decoder) has no UTF-8 form, so no id could be made of it."""
        try:
            self.text.encode()
        except UnicodeEncodeError as exc:
            raise self.error("not a Unicode character", exc.start) from None

    def error(self, reason: str, at: int | None = None) -> SelectorError:
        return SelectorError(self.text, self.at if at is None else at, reason)
