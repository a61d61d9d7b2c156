"""A field that a newer version stored is kept when this one edits the resource."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from calico_kernel.client import Client, ensure_initialized
from calico_kernel.model import codec, unread
from calico_kernel.model.keys import ResourceKey, path
from calico_kernel.testing.memory_datastore import MemoryDatastore

KEY = ResourceKey("GlobalNetworkPolicy", "", "p")
RULES: list[Any] = [
    {"action": "Allow", "newMatch": 1, "source": {"nets": ["10.0.0.0/8"], "newPeer": "x"}, "destination": {}},
    {"action": "Deny", "source": {}, "destination": {}},
    {"action": "Log", "newMatch": 3, "source": {}, "destination": {}},
]


def stored(**spec: Any) -> dict[str, Any]:
    return {
        "kind": "GlobalNetworkPolicy",
        "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": "p", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z", "newMeta": True},
        "spec": {"order": 10, "selector": "all()", "types": ["Ingress"], "newSpec": {"deep": [1]}, **spec},
        "newTop": "kept",
    }


@pytest.fixture
def store() -> MemoryDatastore:
    made = MemoryDatastore()
    made.write_raw(path(KEY), json.dumps(stored(ingress=RULES)).encode())
    return made


def raw(store: MemoryDatastore) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(codec.encode(store.get(KEY).value))  # type: ignore[arg-type]
    return found


def edit(client: Client, **spec: Any) -> None:
    def edited(policy: Any) -> Any:
        return msgspec.structs.replace(policy, spec=msgspec.structs.replace(policy.spec, **spec))

    client.change("GlobalNetworkPolicy", "p", "", edited)


def test_edit_keeps_newer_fields_at_every_depth(store: MemoryDatastore) -> None:
    edit(Client(store=store), order=20.0)
    now = raw(store)
    assert now["spec"]["order"] == 20
    assert now["newTop"] == "kept" and now["metadata"]["newMeta"] is True and now["spec"]["newSpec"] == {"deep": [1]}
    assert [rule.get("newMatch") for rule in now["spec"]["ingress"]] == [1, None, 3]
    assert now["spec"]["ingress"][0]["source"]["newPeer"] == "x"
    edit(Client(store=store), order=30.0)
    assert raw(store)["spec"]["newSpec"] == {"deep": [1]}


def test_newer_field_goes_with_the_rule_that_is_removed(store: MemoryDatastore) -> None:
    client = Client(store=store)
    rules = client.get("GlobalNetworkPolicy", "p").spec.ingress
    edit(client, ingress=rules[1:])
    assert [rule.get("newMatch") for rule in raw(store)["spec"]["ingress"]] == [None, 3]


def test_apply_stores_what_the_document_says(store: MemoryDatastore) -> None:
    client = Client(store=store)
    ensure_initialized(client)
    policy = client.get("GlobalNetworkPolicy", "p")
    client.apply(
        msgspec.structs.replace(policy, metadata=msgspec.structs.replace(policy.metadata, resource_version=""))
    )
    assert "newSpec" not in raw(store)["spec"] and "newTop" not in raw(store)


def test_what_is_read_whole_reads_like_what_is_listed(store: MemoryDatastore) -> None:
    client = Client(store=store)
    one = client.get("GlobalNetworkPolicy", "p")
    (listed,) = client.list("GlobalNetworkPolicy").items
    assert unread.remembered(one) is not None and unread.remembered(listed) is None
    assert msgspec.to_builtins(one) == msgspec.to_builtins(listed)


def test_document_that_was_read_whole_remembers_nothing() -> None:
    plain = stored(ingress=[RULES[1]])
    del plain["newTop"], plain["metadata"]["newMeta"], plain["spec"]["newSpec"]
    assert unread.remembered(codec.decode(KEY, json.dumps(plain).encode(), whole=True)) is None
