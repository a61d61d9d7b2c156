"""Prepare an empty datastore: who the cluster is, and the three tiers that are always there.

In:    a ``Client``.
Out:   ClusterInformation ``default`` and the tiers ``default``, ``kube-admin`` and ``kube-baseline``. Called by the
       agent at start, by ``calicoctl`` before it writes, and when a Node is created. Safe to repeat, and from many
       places at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from calico_kernel.errors import AlreadyExists, NotFound, RevisionConflict
from calico_kernel.model import unread, wellknown
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.policy import Tier, TierSpec

if TYPE_CHECKING:
    from calico_kernel.client.client import Client

TRIES = 10
TIERS = {name: TierSpec(order=order, default_action=action) for name, (order, action) in wellknown.TIERS.items()}
"""The tiers that every cluster has."""


def ensure_initialized(client: Client, *, version: str = "", cluster_type: str = "") -> None:
    """``version`` replaces the recorded one when given; ``cluster_type`` (comma-separated) is merged into it."""
    for left in reversed(range(TRIES)):
        try:
            _cluster_information(client, version, cluster_type)
            break
        except (AlreadyExists, RevisionConflict):
            if not left:
                raise
            client.pause(0.1)
    _tiers(client)


def _cluster_information(client: Client, version: str, cluster_type: str) -> None:
    from calico_kernel.model.cluster import ClusterInformation, ClusterInformationSpec

    try:
        stored: Any = client.get("ClusterInformation", "default")
    except NotFound:
        client.create(
            ClusterInformation(
                metadata=ObjectMeta(name="default"),
                spec=ClusterInformationSpec(
                    cluster_guid=_guid(), cluster_type=cluster_type, calico_version=version, datastore_ready=True
                ),
            )
        )
        return
    spec = stored.spec
    known = [word for word in spec.cluster_type.split(",") if word]
    added = [word for word in cluster_type.split(",") if word and word not in known]
    wanted = msgspec.structs.replace(
        spec,
        cluster_guid=spec.cluster_guid or _guid(),
        cluster_type=",".join([*known, *added]) if added else spec.cluster_type,
        calico_version=version or spec.calico_version,
        datastore_ready=True if spec.datastore_ready is None else spec.datastore_ready,
    )
    if wanted != spec:
        client.update(unread.carried(stored, msgspec.structs.replace(stored, spec=wanted)))


def _tiers(client: Client) -> None:
    present = {tier.metadata.name for tier in client.list("Tier").items}
    for name, spec in TIERS.items():
        if name not in present:
            try:
                client.create(Tier(metadata=ObjectMeta(name=name), spec=spec))
            except AlreadyExists:  # another node was first
                continue


def _guid() -> str:
    import uuid

    return uuid.uuid4().hex
