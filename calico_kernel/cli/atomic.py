"""``--atomic``: all resources of a file, or none.

In:    resources, and how one is written by a ``Client``.
Out:   the outcome. First all is tried over the datastore in memory, each seeing the ones before; only when nothing was
       refused is it written. What fails even then (somebody else wrote in between, the store went away) undoes what was
       written, newest first, each only while it is still ours.

No transaction: others see the writes one after the other, and a process that is killed leaves what it had written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from calico_kernel.cli.session import described
from calico_kernel.cli.write import Outcome, called
from calico_kernel.client.common import key_of, name_of
from calico_kernel.errors import CalicoError, NotFound

if TYPE_CHECKING:
    from calico_kernel.cli.documents import Read
    from calico_kernel.client import Client
    from calico_kernel.hookspecs import Datastore
    from calico_kernel.model.records import Record


class Written(NamedTuple):
    stored: Any
    before: Record | None


def all_or_nothing(wanted: Sequence[Read], client: Client, write: Callable[[Read, Client], Any]) -> Outcome:
    """``write`` returns what is stored then, None when it left things as they are."""
    import msgspec

    from calico_kernel.client.overlay import Overlay

    trial = msgspec.structs.replace(client, store=Overlay(client.store))
    tried = [_attempt(one, trial, write) for one in wanted]
    failed = [
        (called(one), described(done, one.resource)) for one, done in zip(wanted, tried, strict=True) if _is_error(done)
    ]
    if failed:
        done = [called(one) for one, done in zip(wanted, tried, strict=True) if not _is_error(done)]
        return Outcome(done, failed, "nothing was written: all is checked before the first write")
    written: list[Written] = []
    for one, expected in zip(wanted, tried, strict=True):
        before = _stored(client.store, expected)
        stored = _attempt(one, client, write)
        if _is_error(stored):
            return Outcome(
                [called(one) for one in wanted[: len(written)]],
                [(called(one), described(stored, one.resource))],
                _undo(client.store, written),
            )
        if stored is not None:
            written.append(Written(stored, before))
    return Outcome([called(one) for one in wanted], [])


def _attempt(one: Read, client: Client, write: Callable[[Read, Client], Any]) -> Any:
    """What is stored then, or the CalicoError that speaks against it."""
    try:
        return write(one, client)
    except CalicoError as exc:
        return exc


def _is_error(done: Any) -> bool:
    return isinstance(done, CalicoError)


def _stored(store: Datastore, resource: Any) -> Record | None:
    if resource is None:
        return None
    try:
        return store.get(key_of(resource))
    except NotFound:
        return None


def _undo(store: Datastore, written: Sequence[Written]) -> str:
    left = []
    for stored, before in reversed(written):
        key, revision = key_of(stored), stored.metadata.resource_version
        try:
            if before is None:
                store.delete(key, revision=revision)
            elif before.revision != revision:
                value: Any = before.value  # what did not decode is written back as it was found
                store.update(key, value, revision=revision)
        except CalicoError as exc:
            left.append(f"{name_of(key)}: {described(exc)}")
    if left:
        return "of what had been written, this could not be undone: " + "; ".join(left)
    return "what had been written was undone"
