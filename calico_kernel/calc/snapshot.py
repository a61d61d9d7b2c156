"""Which of many label sets a selector matches: the posting lists of ``calc.postings`` over what does not change.

In:    label sets, once, in order.   Out: for each selector asked for, the places of those that it matches.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping

from pyroaring import BitMap

from calico_kernel.calc.labels import Contexts, LabelSets
from calico_kernel.calc.postings import Postings, labels_of
from calico_kernel.selector import Selector


class Snapshot:
    def __init__(self, labels: Iterable[Mapping[str, str]]) -> None:
        """Raises ValueError for a label value with a NUL."""
        sets = LabelSets()
        self._label_sets_of = array("I", map(sets.take, labels))
        self._postings = Postings(sets, Contexts())
        self._postings.all = BitMap(range(len(self._label_sets_of)))

    def index(self, selectors: Iterable[Selector]) -> None:
        """Prepare for these selectors with one scan, where ``matching`` alone would scan for each new label."""
        labels = {label for selector in selectors for label in labels_of(selector.root)}
        self._postings.require(labels, self._label_sets_of)

    def matching(self, selector: Selector) -> BitMap:
        """Places of the label sets that ``selector`` matches, ascending. The caller's own."""
        self.index((selector,))
        return self._postings.match(selector.root)
