"""Distinct policy selectors: which policies have each, and which local endpoints it matches.

Most policies of a cluster never meet an endpoint of this node, so an entry is small, and a selector of the commonest
form (one label, one value) is indexed without being parsed.

In:   selector texts of policies.   Out: for the labels of an endpoint, the selections that match them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Hashable, Iterator, Mapping

from calico_kernel.calc.candidates import Candidates
from calico_kernel.model.nodestate import PolicyId
from calico_kernel.selector import Selector, parse

_ONE_LABEL = re.compile(r"""[ \t]*([a-zA-Z0-9_./-]{1,512})[ \t]*==[ \t]*(?:"([^"]*)"|'([^']*)')[ \t]*""").fullmatch


class Selection:
    """One distinct selector. ``label`` and ``text`` are the label and the value that it asks for; for a selector of any
    other form ``label`` is "" and ``text`` the whole."""

    __slots__ = ("_selector", "endpoints", "label", "policies", "text")

    def __init__(self, label: str, text: str) -> None:
        self.label = label
        self.text = text
        self.policies: dict[PolicyId, None] | PolicyId | None = None
        self.endpoints: set[Hashable] | None = None
        """Local endpoints that it matches; never empty."""
        self._selector: Selector | None = None

    def matches(self, labels: Mapping[str, str]) -> bool:
        if self.label:
            return labels.get(self.label) == self.text
        if self._selector is None:
            self._selector = parse(self.text)
        return self._selector.matches(labels)

    def add(self, policy: PolicyId) -> None:
        if self.policies is None:
            self.policies = policy
        elif isinstance(self.policies, dict):
            self.policies[policy] = None
        else:
            self.policies = {self.policies: None, policy: None}

    def discard(self, policy: PolicyId) -> None:
        if isinstance(self.policies, dict):
            self.policies.pop(policy, None)
            self.policies = self.policies or None
        elif self.policies == policy:
            self.policies = None

    def __iter__(self) -> Iterator[PolicyId]:
        """Policies that have this selector."""
        if isinstance(self.policies, dict):
            yield from self.policies
        elif self.policies is not None:
            yield self.policies


class Selections:
    def __init__(self) -> None:
        self._equal: dict[str, dict[str, Selection]] = {}
        """label -> value -> selection, for those that ask for one label."""
        self._others: dict[str, Selection] = {}
        self._candidates: Candidates[Selection] = Candidates()

    def get(self, text: str) -> Selection | None:
        found = _ONE_LABEL(text)
        if found is None:
            return self._others.get(text)
        return self._equal.get(found[1], {}).get(_value(found))

    def take(self, text: str) -> tuple[Selection, bool]:
        """The selection of this text, and whether it is new. Raises SelectorError."""
        found = _ONE_LABEL(text)
        if found is not None:
            value = _value(found)
            by_value = self._equal.setdefault(sys.intern(found[1]), {})
            selection = by_value.get(value)
            if selection is None:
                selection = by_value[value] = Selection(sys.intern(found[1]), value)
                return selection, True
            return selection, False
        selection = self._others.get(text)
        if selection is None:
            restrictions = parse(text).restrictions()
            selection = self._others[text] = Selection("", text)
            self._candidates.add(selection, restrictions)
            return selection, True
        return selection, False

    def remove(self, selection: Selection) -> None:
        if selection.label:
            by_value = self._equal[selection.label]
            del by_value[selection.text]
            if not by_value:
                del self._equal[selection.label]
        else:
            del self._others[selection.text]
            self._candidates.remove(selection, parse(selection.text).restrictions())

    def matching(self, labels: Mapping[str, str]) -> Iterator[Selection]:
        """Selections that match an endpoint with these labels."""
        for label, value in labels.items():
            by_value = self._equal.get(label)
            if by_value is not None:
                selection = by_value.get(value)
                if selection is not None:
                    yield selection
        for selection in self._candidates.find(labels):
            if selection.matches(labels):
                yield selection


def _value(found: re.Match[str]) -> str:
    return found[2] if found[2] is not None else found[3]
