"""Take a pool out of service before it is deleted.

In:    the pool's name.
Out:   the pool disabled, and the nodes' claims on its blocks given up; addresses still in use stay with their owners.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from calico_kernel.client.common import name_of
from calico_kernel.errors import RevisionConflict
from calico_kernel.model.keys import ResourceKey

if TYPE_CHECKING:
    from calico_kernel.client.client import Client

IN_FLIGHT_S = 0.5
"""How long an assignment that read the pool before it was disabled may take to finish."""


def retire(client: Client, name: str, revision: str | None) -> str | None:
    """Disable the pool and release its affinities. Returns the revision to delete at (None: whatever is there)."""
    pool: Any = client.get("IPPool", name)
    if revision is not None and revision != pool.metadata.resource_version:
        raise RevisionConflict(
            what=f"update conflict: {name_of(ResourceKey('IPPool', '', name))}",
            kept="the pool",
            todo="read it again, then decide anew",
        )
    if not pool.spec.disabled:
        client.update(msgspec.structs.replace(pool, spec=msgspec.structs.replace(pool.spec, disabled=True)))
        revision = None
    if client.ipam is not None:
        client.pause(IN_FLIGHT_S)
        client.ipam().release_pool(pool.spec.cidr)
    return revision
