"""calicoctl validate: what would be refused, all at once; and what is accepted, but hardly means what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

V3 = "apiVersion: projectcalico.org/v3\n"
POLICY = V3 + "kind: GlobalNetworkPolicy\nmetadata: {name: p}\nspec: {selector: has(a), order: 1}\n"


def of(kind: str, spec: str, name: str = "x") -> str:
    return V3 + f"kind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"


def warnings(ctl: Any, text: str) -> list[tuple[str, str]]:
    ran = ctl("validate", "-f", "-", "-o", "json", text=text)
    assert ran.status == 0, ran.out
    return [(one["field"], one["warning"]) for one in json.loads(ran.out)["warnings"]]


def test_everything_wrong_in_a_directory_is_told_at_once_whatever_is_wrong_with_it(ctl: Any, tmp_path: Path) -> None:
    (tmp_path / "d" / "below").mkdir(parents=True)
    (tmp_path / "d" / "a.yaml").write_text(POLICY)
    (tmp_path / "d" / "b.yaml").write_text(
        POLICY.replace("order", "ordr").replace("{name: p}", "{name: one}")
        + "---\n"
        + POLICY.replace("has(a)", "has(").replace("{name: p}", "{name: two}")
    )
    (tmp_path / "d" / "c.yaml").write_text("a: [")
    (tmp_path / "d" / "below" / "d.yaml").write_text(of("IPPool", "cidr: 10.0.0.0/99"))
    ran = ctl("validate", "-f", f"{tmp_path}/d", "-R")
    assert ran.status == 1
    for said in (
        "not validated, 4 of 5:",
        "  GlobalNetworkPolicy(one): spec.ordr: unknown field; did you mean 'order'?",
        "  GlobalNetworkPolicy(two): error with field spec.selector",
        f"  document 1 of {tmp_path}/d/c.yaml: is not YAML",
        "  IPPool(x): error with field spec.cidr",
        "the other 1 were validated",
    ):
        assert said in ran.err, said
    told = json.loads(ctl("validate", "-f", f"{tmp_path}/d", "-R", "-o", "json").out)
    assert (told["handled"], told["total"], told["done"]) == (1, 5, ["GlobalNetworkPolicy(p)"])
    assert len(told["failed"]) == 4 and told["warnings"] == []


def test_needs_no_datastore_and_knows_reserved_names(ctl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALICO_CONFIG", "/nowhere.yaml")
    assert ctl("validate", "-f", "-", text=POLICY).out == "Successfully validated 1 'GlobalNetworkPolicy' resource(s)\n"
    reserved = of("NetworkPolicy", "", "knp.default.deny")
    assert "kubernetes network policies must be managed as such" in ctl("validate", "-f", "-", text=reserved).err


def test_nothing_to_validate_is_said_unless_told_not_to_mind(ctl: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("\n")
    assert ctl("validate", "-f", f"{tmp_path}/empty.yaml").status == 1
    assert ctl("validate", "-f", f"{tmp_path}/empty.yaml", "--skip-empty").status == 0
    missing = ctl("validate", "-f", f"{tmp_path}/none.yaml")
    assert missing.status == 1 and "no such file" in missing.err


def test_warning_does_not_fail_but_where_asked(ctl: Any) -> None:
    text = of("IPPool", "cidr: 127.0.0.0/24")
    ran = ctl("validate", "-f", "-", text=text)
    assert (ran.status, ran.out) == (0, "Successfully validated 1 'IPPool' resource(s)\n")
    assert ran.err == (
        "warning: IPPool(x): spec.cidr 127.0.0.0/24 is the host's own loopback: no packet for it leaves a host\n"
    )
    assert ctl("validate", "-f", "-", "--strict", text=text).status == 1
    assert ctl("validate", "-f", "-", "--strict", text=POLICY).status == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (of("Profile", "ingress: [{action: Pass}]"), [("spec.ingress[0].action", "Pass has no later tier")]),
        (
            of("GlobalNetworkPolicy", "tier: security, selector: has(a)", "block"),
            [("metadata.name", "does not begin with its tier, 'security.'")],
        ),
        (of("GlobalNetworkPolicy", "tier: security, selector: has(a)", "security.block"), []),
        (of("GlobalNetworkPolicy", "selector: a == 'b' && a == 'c'"), [("spec.selector", "can match nothing")]),
        (
            of("GlobalNetworkPolicy", "types: [Ingress], egress: [{action: Allow}]"),
            [("spec.egress", "has no effect: spec.types does not name Egress")],
        ),
        (
            of("GlobalNetworkPolicy", "ingress: [{action: Log}, {action: Deny}, {action: Allow, protocol: TCP}]"),
            [("spec.ingress[2]", "is never reached: spec.ingress[1] decides on every packet")],
        ),
        (of("GlobalNetworkPolicy", "ingress: [{action: Allow, protocol: TCP}, {action: Deny}]"), []),
        (
            of(
                "GlobalNetworkPolicy",
                "egress: [{action: Allow, destination: {nets: [10.1.0.0/16, 10.0.0.0/8], notNets: [10.1.0.0/16], "
                "selector: has(a) && !has(a), notSelector: all()}}]",
            ),
            [
                ("spec.egress[0].destination.selector", "can match nothing"),
                ("spec.egress[0].destination.nets[0]", "10.1.0.0/16 is excluded again by notNets"),
                ("spec.egress[0].destination.notSelector", "excludes every endpoint"),
            ],
        ),
        (of("IPPool", "cidr: 10.0.0.0/24, blockSize: 32"), [("spec.blockSize", "holds one address")]),
        (
            of("IPPool", "cidr: 10.0.0.0/24, nodeSelector: a == 'b' && a == 'c'"),
            [("spec.nodeSelector", "can match no node")],
        ),
        (of("FelixConfiguration", "", "n1"), [("metadata.name", "is neither 'default' nor 'node.<name of a node>'")]),
        (of("FelixConfiguration", "", "node.n1"), []),
        (of("NetworkSet", "nets: [10.0.0.0/8]"), [("metadata.namespace", "is not given: 'default' is taken")]),
        (
            "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: a}\n"
            "spec: {tier: Admin, priority: 1, subject: {namespaces: {}}}\n",
            [],
        ),
        (POLICY + "---\n" + POLICY, [("metadata.name", "is that of another document in -")]),
    ],
)
def test_what_hardly_means_what_it_says_is_warned_of(ctl: Any, text: str, expected: list[tuple[str, str]]) -> None:
    found = warnings(ctl, text)
    assert [field for field, _ in found] == [field for field, _ in expected]
    assert all(said.startswith(begin) for (_, said), (_, begin) in zip(found, expected, strict=True)), found


def test_recorded_resources_raise_no_warning_but_for_what_is_odd_in_them(ctl: Any) -> None:
    resources = Path(__file__).parent.parent / "model" / "data" / "resources.yaml"
    said = json.loads(ctl("validate", "-f", str(resources), "-o", "json").out)
    assert said["failed"] == [] and len(said["done"]) >= 27
    assert said["warnings"] == []


def test_only_file_is_named_when_it_cannot_be_read(ctl: Any, tmp_path: Path) -> None:
    junk = tmp_path / "junk.yaml"
    junk.write_bytes(b"\xff\xfe")
    ran = ctl("validate", "-f", str(junk))
    assert ran.status == 1
    assert str(junk) in ran.err
