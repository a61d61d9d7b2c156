"""Manage resources in any datastore, with the defaults, checks and guards that Calico's own client has.

In:    resources as people write them, and a ``Datastore`` from ``calico_kernel.compose``.
Out:   stored resources; to ``calicoctl``, the agent (initialisation) and controllers.
Owns:  nothing between calls: what is stored decides.
"""

from __future__ import annotations

from calico_kernel.client.client import Client, ResourceList
from calico_kernel.client.setup import ensure_initialized

__all__ = ["Client", "ResourceList", "ensure_initialized"]
