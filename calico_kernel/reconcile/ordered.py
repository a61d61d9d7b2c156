"""Several reconcilers that refer to each other: referents are written first and removed last.

In:   reconcilers in order, those that others refer to first (sets, then rules, then what leads to the rules).
Out:  what failed, by reconciler. Touches nothing itself.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence

import attrs

from calico_kernel.errors import CalicoError


class Reconciler(abc.ABC):
    """One kind of thing outside. ``name``: for messages. Both steps are safe to repeat and return failures by subject
    (an empty mapping: all done)."""

    name: str

    @abc.abstractmethod
    def write(self) -> Mapping[str, CalicoError]:
        """Create and change what is wanted. Referents are in place."""

    @abc.abstractmethod
    def prune(self) -> Mapping[str, CalicoError]:
        """Remove what is not wanted. What referred to it is gone, unless ``write`` of a referrer failed."""


@attrs.frozen
class Report:
    """failed: (reconciler, subject) -> error. kept: reconcilers that removed nothing, because what may still refer to
    their things could not be written."""

    failed: Mapping[tuple[str, str], CalicoError]
    kept: Sequence[str] = ()

    @property
    def converged(self) -> bool:
        return not self.failed and not self.kept


def apply_in_order(reconcilers: Sequence[Reconciler]) -> Report:
    """Write first to last, then prune last to first. A failure stops nothing but the removal of what its owner may
    still refer to. An unexpected CalicoError of a whole step counts as one failure, with subject ""."""
    failed: dict[tuple[str, str], CalicoError] = {}

    def attempt(reconciler: Reconciler, step: str) -> bool:
        try:
            found = reconciler.write() if step == "write" else reconciler.prune()
        except CalicoError as exc:
            found = {"": exc}
        failed.update({(reconciler.name, subject): error for subject, error in found.items()})
        return not found

    written = {reconciler.name: attempt(reconciler, "write") for reconciler in reconcilers}
    kept: list[str] = []
    referrers_fine = True
    for reconciler in reversed(reconcilers):
        if not referrers_fine:
            kept.append(reconciler.name)
        else:
            referrers_fine = attempt(reconciler, "prune")
        referrers_fine = referrers_fine and written[reconciler.name]
    return Report(failed, tuple(kept))
