"""Settings of the plugin. Behaviour comes from FelixConfiguration; these say how this host is served."""

from __future__ import annotations

from typing import Literal

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """backend:       "legacy" or "nft" whatever FelixConfiguration's ``iptablesBackend`` says; "" to follow it.
    programs:      other paths for programs, by name (``iptables-nft-restore``, ``ipset``, ``conntrack``...).
    timeout_s:     longest that one of these programs may take before it is ended and tried again.
    lock_wait_s:   longest wait for another program's iptables lock (legacy back end).
    drift_poll_s:  how often to look whether somebody else changed our rules or sets; 0 for never.
    drop_override: instead of dropping: "Accept", "LogAndDrop" or "LogAndAccept" (for debugging).
    """

    backend: Literal["", "legacy", "nft"] = ""
    programs: dict[str, str] = msgspec.field(default_factory=dict)
    timeout_s: float = 30.0
    lock_wait_s: int = 10
    drift_poll_s: float = 0.25
    drop_override: Literal["Drop", "Accept", "LogAndDrop", "LogAndAccept"] = "Drop"
