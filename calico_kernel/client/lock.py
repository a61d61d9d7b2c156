"""Lock a datastore: while ``datastoreReady`` is false, CNI refuses with "try again later" and agents wait.

In:    a ``Client`` or a ``Datastore``.
Out:   ClusterInformation ``default``: its ready flag, and an annotation that says which migration is under way. The
       annotation is what makes a migration that was killed known to the next run, and to whoever would unlock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from calico_kernel.client.setup import ensure_initialized
from calico_kernel.errors import NotFound, NotPermitted
from calico_kernel.model import unread
from calico_kernel.model.keys import ResourceKey

if TYPE_CHECKING:
    from calico_kernel.client.client import Client
    from calico_kernel.hookspecs import Datastore

INFORMATION = ResourceKey("ClusterInformation", "", "default")
ANNOTATION = "calico-kernel/migration"


class Marker(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What a migration has written on a datastore that it works on.

    id:      of the migration; both datastores of a copy carry the same, an import carries the digest of its file.
    role:    "source", "target" or "import".
    begun:   RFC 3339.
    phase:   "checking" (nothing is locked yet), "copying", or on the source "verified" (the target is complete).
    ready:   whether the datastore was unlocked before; on the target, whether it is to be unlocked at the end.
    """

    id: str
    role: str
    begun: str
    phase: str = "copying"
    ready: bool = True


def marker_of(information: Any) -> Marker | None:
    """None where no migration is under way, and for an annotation that is none of ours."""
    text = information.metadata.annotations.get(ANNOTATION, "")
    try:
        return msgspec.json.decode(text, type=Marker) if text else None
    except msgspec.DecodeError:
        return None


def marked(information: Any, marker: Marker | None, *, ready: bool) -> Any:
    """ClusterInformation with that marker and that ready flag. Pure."""
    annotations = {key: text for key, text in information.metadata.annotations.items() if key != ANNOTATION}
    if marker is not None:
        annotations[ANNOTATION] = msgspec.json.encode(marker).decode()
    edited = msgspec.structs.replace(
        information,
        metadata=msgspec.structs.replace(information.metadata, annotations=annotations),
        spec=msgspec.structs.replace(information.spec, datastore_ready=ready),
    )
    return unread.carried(information, edited)


def is_locked(store: Datastore) -> bool:
    """Whether ``datastoreReady`` is false. A datastore that was never initialised is not locked."""
    from calico_kernel.model.cluster import ClusterInformation

    try:
        found = store.get(INFORMATION).value
    except NotFound:
        return False
    return isinstance(found, ClusterInformation) and found.spec.datastore_ready is False


def lock(client: Client) -> None:
    """Nobody assigns addresses, nothing changes on nodes. Safe to repeat."""
    _set(client, ready=False, force=False)


def unlock(client: Client, *, force: bool = False) -> None:
    """Work goes on, and a migration that was under way is given up. Raises NotPermitted for a datastore into which
    something is still being copied: nodes would enforce a part of the policy. ``force``: even so."""
    _set(client, ready=True, force=force)


def _set(client: Client, *, ready: bool, force: bool) -> None:
    ensure_initialized(client)

    def edit(stored: Any) -> Any:
        marker = marker_of(stored)
        if not ready:
            return marked(stored, marker, ready=False)
        if marker is not None and marker.role != "source" and not force:
            raise NotPermitted(
                what=f"the datastore holds only a part of what the migration begun at {marker.begun} brings",
                kept="the lock",
                todo="run that migration again, it goes on where it was; or unlock with --force",
            )
        return marked(stored, None, ready=True)

    client.change(INFORMATION.kind, INFORMATION.name, "", edit)
