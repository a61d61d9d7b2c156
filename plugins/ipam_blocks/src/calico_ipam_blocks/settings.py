"""Settings of block IPAM, as they stand under ``ipam:`` in the config file."""

from __future__ import annotations

import msgspec


class BlocksSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the cluster shares (strict affinity, block cap, cooldown) is in the datastore: ``calicoctl ipam configure``.

    reclaim_age_s:  when no block is free, an empty one of another node is taken over if it was claimed at least so
                    long ago; a younger one is probably about to be used.
    settle_s:       what `check` found must look the same so long later before `collect` mends it; an assignment under
                    way looks like an inconsistency for a moment.
    leak_grace_s:   an address whose workload endpoint does not exist may be collected when it was assigned at least so
                    long ago; before, its workload may still be starting.
    """

    reclaim_age_s: float = 60.0
    settle_s: float = 2.0
    leak_grace_s: float = 900.0
