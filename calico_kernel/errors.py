"""Every deliberate error of the kernel and of its plugins.

One base, one branch for each family, one leaf for each decision that a caller can make. A message says what failed,
what was kept, and what to do.
"""

from __future__ import annotations

from typing import ClassVar


class CalicoError(Exception):
    """Base of every deliberate error. ``retryable`` answers "is the same call worth repeating?"."""

    retryable: ClassVar[bool] = False

    def __init__(self, *, what: str, kept: str = "everything is as it was", todo: str) -> None:
        super().__init__(f"{what}. Kept: {kept}. To do: {todo}.")
        self.what, self.kept, self.todo = what, kept, todo


class ConfigError(CalicoError):
    """The configuration cannot be used; nothing was touched."""


class PluginError(CalicoError):
    """A plugin is missing, doubled, written for another hook API, or broke its contract."""


class UnsupportedError(CalicoError):
    """The host lacks what a capability needs (a kernel module, a program, a set type)."""


class ValidationError(CalicoError):
    """A resource is not acceptable. ``problems`` lists (field path, reason); nothing was stored."""

    def __init__(self, subject: str, problems: list[tuple[str, str]]) -> None:
        self.subject, self.problems = subject, problems
        said = "; ".join(f"{path}: {reason}" if path else reason for path, reason in problems)
        super().__init__(what=f"{subject} is not valid: {said}", todo="correct the fields named and apply it again")


class DatastoreError(CalicoError):
    """The datastore could not do it."""


class DatastoreUnavailable(DatastoreError):
    """The datastore cannot be reached or answers nothing useful just now."""

    retryable = True


class NotFound(DatastoreError):
    """The key does not exist."""


class AlreadyExists(DatastoreError):
    """The key exists, so create refused."""


class RevisionConflict(DatastoreError):
    """The stored revision is not the one given: read again first, then decide anew."""


class RevisionTooOld(DatastoreError):
    """The revision asked for was compacted away: list again and watch from there. ``other_history``: the datastore is
    not the one of before (restored from a backup, another cluster), so equal revisions need not be equal values."""

    def __init__(
        self, *, what: str, kept: str = "everything is as it was", todo: str, other_history: bool = False
    ) -> None:
        super().__init__(what=what, kept=kept, todo=todo)
        self.other_history = other_history


class NotPermitted(DatastoreError):
    """The operation is refused for this object (read-only kind, built-in tier, pool in use...)."""


class IpamError(CalicoError):
    """No address could be handed out or given back."""


class PoolExhausted(IpamError):
    """Every pool that qualifies is full, or the node may claim no more blocks."""


class AddressInUse(IpamError):
    """The address asked for is taken."""


class DataplaneError(CalicoError):
    """A write to the host failed; the desired state is kept and the next apply tries again."""

    retryable = True


class RoutingError(CalicoError):
    """The routing daemon refused or is away."""

    retryable = True
