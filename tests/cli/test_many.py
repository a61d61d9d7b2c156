"""Many resources at once: what is said when one is wrong, all or nothing, and what would change."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from calico_kernel.cli.atomic import all_or_nothing
from calico_kernel.cli.documents import Read
from calico_kernel.client import Client
from calico_kernel.errors import DatastoreUnavailable, NotFound
from calico_kernel.model.keys import Key
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.network import GlobalNetworkSet, NetworkSetSpec
from calico_kernel.model.records import Record, Value
from calico_kernel.testing.memory_datastore import MemoryDatastore

V3 = "apiVersion: projectcalico.org/v3\n"
TIER = V3 + "kind: Tier\nmetadata: {name: security}\nspec: {order: 100}\n"
IN_TIER = V3 + "kind: GlobalNetworkPolicy\nmetadata: {name: security.p}\nspec: {tier: security, selector: all()}\n"
HUNDRED = "---\n".join(
    V3 + f"kind: GlobalNetworkSet\nmetadata: {{name: s{n}}}\nspec: {{nets: ['{'10.0.0.0/8' if n != 57 else 'ten'}']}}\n"
    for n in range(100)
)


def test_one_wrong_of_a_hundred_is_named_and_the_others_are_applied(ctl: Any) -> None:
    ran = ctl("apply", "-f", "-", text=HUNDRED)
    assert ran.status == 1
    assert "not applied, 1 of 100:\n  GlobalNetworkSet(s57): error with field spec.nets" in ran.err
    assert ran.err.endswith("the other 99 were applied\n")
    assert len(ctl("get", "gnetsets", "-o", "name").out.split()) == 99
    said = json.loads(ctl("apply", "-f", "-", "-o", "json", text=HUNDRED).out)
    assert said["handled"] == len(said["done"]) == 99
    assert [one["resource"] for one in said["failed"]] == ["GlobalNetworkSet(s57)"]


def test_atomic_with_one_wrong_writes_nothing(ctl: Any) -> None:
    ran = ctl("apply", "--atomic", "-f", "-", text=HUNDRED)
    assert ran.status == 1 and ran.out == ""
    assert "GlobalNetworkSet(s57)" in ran.err and "nothing was written" in ran.err
    assert ctl("get", "gnetsets", "-o", "name").out == ""


def test_atomic_checks_each_document_upon_the_ones_before(ctl: Any) -> None:
    assert ctl("apply", "--atomic", "-f", "-", text=IN_TIER + "---\n" + TIER).status == 1
    assert (
        ctl("apply", "--atomic", "-f", "-", text=TIER + "---\n" + IN_TIER).out == "Successfully applied 2 resource(s)\n"
    )
    assert ctl("create", "--atomic", "--skip-exists", "-f", "-", text=TIER).status == 0


class Failing(MemoryDatastore):
    """Fails at every write of one record."""

    def create(self, key: Key, value: Value) -> Record:
        if getattr(key, "name", "") == "bad":
            raise DatastoreUnavailable(what="away", todo="wait")
        return super().create(key, value)


def network_set(name: str, net: str) -> GlobalNetworkSet:
    return GlobalNetworkSet(metadata=ObjectMeta(name=name), spec=NetworkSetSpec(nets=(net,)))


def test_atomic_undoes_what_was_written_when_the_store_fails() -> None:
    client = Client(store=Failing())
    client.apply(network_set("old", "10.0.0.0/8"))
    wanted = [Read(network_set(name, "11.0.0.0/8")) for name in ("new", "old", "bad")]
    outcome = all_or_nothing(wanted, client, lambda one, client: client.apply(one.resource))
    assert [name for name, _ in outcome.failed] == ["GlobalNetworkSet(bad)"]
    assert outcome.kept == "what had been written was undone"
    assert client.get("GlobalNetworkSet", "old").spec.nets == ("10.0.0.0/8",)
    with pytest.raises(NotFound):
        client.get("GlobalNetworkSet", "new")


def test_atomic_leaves_and_names_what_somebody_else_changed_since() -> None:
    client = Client(store=Failing())

    def write(one: Read, through: Client) -> Any:
        if one.resource.metadata.name == "bad" and through is client:
            client.apply(network_set("new", "12.0.0.0/8"))
        return through.apply(one.resource)

    outcome = all_or_nothing([Read(network_set(name, "11.0.0.0/8")) for name in ("new", "bad")], client, write)
    assert "could not be undone: GlobalNetworkSet(new): " in outcome.kept
    assert client.get("GlobalNetworkSet", "new").spec.nets == ("12.0.0.0/8",)


def test_diff_shows_what_apply_would_change_and_writes_nothing(ctl: Any) -> None:
    both = TIER + "---\n" + IN_TIER
    first = ctl("diff", "-f", "-", text=both)
    assert first.status == 1 and first.err == ""
    assert "--- /dev/null\n+++ Tier(security) applied\n" in first.out and "+  tier: security\n" in first.out
    assert "security" not in ctl("get", "tiers", "-o", "name").out
    ctl("apply", "-f", "-", text=both)
    assert ctl("diff", "-f", "-", text=both) == (0, "", "")
    changed = ctl("diff", "-f", "-", text=TIER.replace("100", "200"))
    assert changed.status == 1
    assert "-  order: 100\n+  order: 200\n" in changed.out


def test_diff_that_cannot_be_told_ends_with_two(ctl: Any) -> None:
    wrong = ctl("diff", "-f", "-", text=TIER + "---\n" + IN_TIER.replace("all()", "a =="))
    assert wrong.status == 2 and "GlobalNetworkPolicy(security.p): error with field" in wrong.err
    assert "+++ Tier(security)" in wrong.out
    assert ctl("diff", "-f", "/nowhere").status == 2


def test_label_keeps_a_newer_field_and_diff_shows_that_apply_takes_it(ctl: Any, tmp_path: Path) -> None:
    ctl("apply", "-f", "-", text=TIER)
    with contextlib.closing(sqlite3.connect(tmp_path / "calico.db")) as database, database:
        database.execute("""UPDATE versions SET value = replace(value, '"order":100', '"order":100,"newer":7')""")
    assert ctl("label", "tier", "security", "a=b").status == 0
    assert ctl("patch", "tier", "security", "-p", "spec: {order: 200}").status == 0
    shown = ctl("diff", "-f", "-", text=TIER.replace("{name: security}", "{name: security, labels: {a: b}}"))
    assert "-  newer: 7\n-  order: 200\n+  order: 100\n" in shown.out
