"""What a selector demands of single labels, so that an index can find its candidates without evaluating it everywhere.

In:   a syntax tree.   Out: label name -> LabelRestriction, a lower bound: whatever matches the selector meets every
restriction, but what meets them all need not match. The rules are Calico's (``LabelRestrictions`` of its parser).
"""

from __future__ import annotations

import attrs

from calico_kernel.selector.ast import And, Contains, EndsWith, Equals, Has, In, Node, Not, Or, StartsWith


@attrs.frozen(slots=True)
class LabelRestriction:
    """What one label must be like for the selector to match.

    present:  the label must exist.   absent: it must not.
    values:   it must have one of these (in the order of the text); None means any value; () means nothing will do.
    """

    present: bool = False
    absent: bool = False
    values: tuple[str, ...] | None = None

    @property
    def satisfiable(self) -> bool:
        """False when no label at all can meet it, so the selector matches nothing."""
        return not (self.present and self.absent) and self.values != ()


_NONE = LabelRestriction()


def label_restrictions(node: Node) -> dict[str, LabelRestriction]:
    """Restrictions by label name; {} when nothing is known."""
    match node:
        case Equals(label, value):
            return {label: LabelRestriction(present=True, values=(value,))}
        case In(label, values):
            return {label: LabelRestriction(present=True, values=values)}
        case Has(label) | Contains(label, _) | StartsWith(label, _) | EndsWith(label, _):
            return {label: LabelRestriction(present=True)}
        case Not(Has(label)):
            return {label: LabelRestriction(absent=True)}
        case And(operands):
            return _all_of([label_restrictions(operand) for operand in operands])
        case Or(operands):
            return _one_of([label_restrictions(operand) for operand in operands])
        case _:  # a negated comparison says nothing of the label: it may be absent or have any other value
            return {}


def _all_of(parts: list[dict[str, LabelRestriction]]) -> dict[str, LabelRestriction]:
    """Every part's demands together."""
    joined: dict[str, LabelRestriction] = {}
    for part in parts:
        for label, new in part.items():
            old = joined.get(label, _NONE)
            if old.values is None or new.values is None:
                values = old.values if new.values is None else new.values
            else:
                values = tuple(value for value in old.values if value in set(new.values))
            joined[label] = LabelRestriction(old.present or new.present, old.absent or new.absent, values)
    return joined


def _one_of(parts: list[dict[str, LabelRestriction]]) -> dict[str, LabelRestriction]:
    """Only what every part demands; values are added together, since either part's will do."""
    common = parts[0]
    for part in parts[1:]:
        merged: dict[str, LabelRestriction] = {}
        for label, old in common.items():
            new = part.get(label, _NONE)
            present, absent = old.present and new.present, old.absent and new.absent
            values = None
            if present and old.values is not None and new.values is not None:
                values = tuple(dict.fromkeys(old.values + new.values))
            if present or absent:
                merged[label] = LabelRestriction(present, absent, values)
        common = merged
    return common
