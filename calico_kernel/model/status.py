"""What agents report of themselves and of their endpoints, as it is stored (Calico: Felix' status keys)."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Status = Literal["up", "down", "error"]
"""``up``: its policy is enforced and its interface is there. ``down``: the interface is not. ``error``: it could not be
programmed, which is retried."""


class NodeStatus(Struct, frozen=True, kw_only=True, gc=False):
    """time: RFC 3339, UTC. uptime: of the agent, in seconds. first_update: the first since the agent started."""

    time: str
    uptime: float
    first_update: bool


class EndpointStatus(Struct, frozen=True, kw_only=True, gc=False):
    """``status``: one of ``Status``; what another writer stored may be anything."""

    status: str
