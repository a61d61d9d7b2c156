"""calicoctl datastore migrate-policy-names, and version --poll."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from calico_kernel.cli.policynames import true_name
from calico_kernel.cli.session import Session
from calico_kernel.model import keys
from calico_kernel.model.keys import ResourceKey, ResourceQuery

NAMED = "projectcalico.org/metadata"


def document(name: str, tier: str = "default", named: str | None = None, **spec: Any) -> bytes:
    metadata: dict[str, Any] = {"name": name, "uid": "u", "creationTimestamp": "2020-01-01T00:00:00Z"}
    if named is not None:
        metadata["annotations"] = {NAMED: json.dumps({"name": named})}
    body = {"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": metadata}
    return json.dumps({**body, "spec": {"tier": tier, "selector": "all()", **spec}}).encode()


@pytest.mark.parametrize(
    ("stored", "raw", "expected"),
    [
        ("default.web", document("default.web"), "web"),
        ("default.web", document("web", named="web"), "web"),
        ("default.web", document("default.web", tier=""), "web"),
        ("default.web", document("default.web", named="default.web"), "default.web"),
        ("web", document("web"), "web"),
        ("security.web", document("security.web", tier="security"), "security.web"),
        ("default.web", document("default.web", tier="security"), "default.web"),
        ("default.web", b"{", "default.web"),
        ("default.web", b"[]", "default.web"),
        ("default.web", b'{"metadata":{"annotations":{"projectcalico.org/metadata":5}}}', "default.web"),
        ("default.web", b'{"spec":{"tier":["default"]}}', "default.web"),
        ("default.", document("default."), "default."),
    ],
)
def test_only_policies_of_the_default_tier_lose_the_prefix(stored: str, raw: bytes, expected: str) -> None:
    assert true_name(stored, raw) == expected


def test_policies_are_renamed_once_and_keep_what_newer_versions_stored(ctl: Any, config: Path) -> None:
    tier = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: default.web}\n"
    assert ctl("apply", "-f", "-", text=tier).status == 0
    path = keys.path(ResourceKey("GlobalNetworkPolicy", "", "default.web"))
    with sqlite3.connect(config.parent / "calico.db") as connection:
        connection.execute(
            "UPDATE versions SET value=? WHERE revision=(SELECT revision FROM current WHERE path=?)",
            (document("web", named="web", newerField=1), path),
        )
    assert ctl("datastore", "migrate-policy-names").out == "Policy name migration complete, migrated 1 policies.\n"
    assert ctl("datastore", "migrate-policy-names").out == "Policy name migration complete, migrated 0 policies.\n"
    session = Session(None)
    ((key, raw),) = session.composition.open_datastore().list_stored([ResourceQuery("GlobalNetworkPolicy")])
    session.close()
    stored = json.loads(raw)
    assert isinstance(key, ResourceKey) and (key.name, stored["metadata"]["name"]) == ("web", "web")
    assert stored["metadata"]["uid"] == "u" and stored["spec"]["newerField"] == 1
    assert json.loads(stored["metadata"]["annotations"][NAMED]) == {"name": "web"}


def test_poll_says_what_has_changed_and_no_more(ctl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        ctl("apply", "-f", "-", text="apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: t}\n").status == 0
    )
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", pause)
    ran = ctl("version", "--poll", "1m30s")
    assert ran.status == 130 and pauses == [90.0] * 3
    assert ran.out.count("Client Version:") == 1 and ran.out.count("Cluster Version:") == 1
    ran = ctl("version", "--poll", "soon")
    assert ran.status == 1 and "invalid poll duration specified: soon" in ran.err
