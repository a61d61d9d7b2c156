"""``calicoctl datastore migrate-policy-names``: policies of the default tier lose the prefix that old keys have.

In:    policies as they are stored. Before Calico 3.32 the key of a policy named ``web`` ended in ``default.web``.
Out:   the same policies under their names. Each is written anew, then its old record goes: safe to repeat.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from calico_kernel.errors import AlreadyExists, NotFound

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session

KINDS = ("NetworkPolicy", "GlobalNetworkPolicy", "StagedNetworkPolicy", "StagedGlobalNetworkPolicy")
PREFIX = "default."
NAMED = "projectcalico.org/metadata"


def run(args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli.common import check_version
    from calico_kernel.model.keys import ResourceKey, ResourceQuery

    check_version(args, session)
    store = session.client.store
    migrated = 0
    for kind in KINDS:
        for key, raw in store.list_stored([ResourceQuery(kind)]):
            assert isinstance(key, ResourceKey)
            name = true_name(key.name, raw)
            if name != key.name:
                migrated += _rename(session, key, name)
    print(f"Policy name migration complete, migrated {migrated} policies.")
    return 0


def true_name(stored: str, raw: bytes) -> str:
    """What the policy is called whose key ends in ``stored``. One that does not decode keeps its name."""
    try:
        document: Any = json.loads(raw)
        metadata, tier = document.get("metadata") or {}, (document.get("spec") or {}).get("tier", "")
        named = json.loads((metadata.get("annotations") or {}).get(NAMED, "{}")).get("name", "")
    except (ValueError, AttributeError, TypeError):  # whatever somebody stored
        return stored
    if tier not in ("", "default") or not stored.startswith(PREFIX) or named == stored:
        return stored
    return stored.removeprefix(PREFIX) or stored


def _rename(session: Session, key: Any, name: str) -> bool:
    import msgspec

    from calico_kernel.model import unread
    from calico_kernel.model.keys import ResourceKey
    from calico_kernel.model.records import Malformed

    store = session.client.store
    record = store.get(key)
    value = record.value
    if isinstance(value, Malformed):
        print(f"{key.kind}({key.name}) is malformed and keeps its name: {value.reason}", file=sys.stderr)
        return False
    policy: Any = value
    metadata = msgspec.structs.replace(policy.metadata, name=name, resource_version="")
    try:
        store.create(
            ResourceKey(key.kind, key.namespace, name),
            unread.carried(policy, msgspec.structs.replace(policy, metadata=metadata)),
        )
    except AlreadyExists:  # a run before this one came so far
        pass
    try:
        store.delete(key, revision=record.revision)
    except NotFound:
        return False
    return True
