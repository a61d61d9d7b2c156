"""Settings of the SQLite datastore, as they stand under ``datastore:`` in the config file."""

from __future__ import annotations

from typing import Literal

import msgspec


class SqliteSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One database file, shared by every process of this machine that names it.

    path:              the database; ``-wal`` and ``-shm`` stand beside it, all mode 0600. A local filesystem, not NFS.
    busy_timeout_s:    how long a write waits for another process's write before it gives up (nothing is written then).
    durability:        ``full``: a write that returned survives power loss (one flush to disk for each, IPAM's handles
                       and affinities with the next block).
                       ``normal``: it survives the death of any process, but power loss may take the last writes; what
                       is left is always consistent. ``kill -9`` loses nothing in either.
    retain_revisions:  watches and lists may start from at most so many changes ago.
    retain_s:          and from at most so long ago. What is older is compacted ("revision too old": list again).
    """

    path: str = "/var/lib/calico/calico.db"
    busy_timeout_s: float = 5.0
    durability: Literal["full", "normal"] = "full"
    retain_revisions: int = 100_000
    retain_s: float = 600.0
