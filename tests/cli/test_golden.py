"""The same stored objects give the same text as Calico's own calicoctl (recorded in tests/data/calico-cli)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from calico_kernel.compose import compose
from calico_kernel.config import load
from calico_kernel.model import codec, keys

DATA = Path(__file__).parent.parent / "data" / "calico-cli"
RECORDED = Path(__file__).parent.parent / "model" / "data" / "etcd.jsonl"
RESOURCES = Path(__file__).parent.parent / "model" / "data" / "resources.yaml"
NAMESPACED = {
    "networkpolicy",
    "networkset",
    "stagednetworkpolicy",
    "stagedkubernetesnetworkpolicy",
    "workloadendpoint",
}
FILES = sorted(path for path in DATA.glob("*.txt") if path.stat().st_size)
PLAINER = {("tier", "ps"), ("tier", "wide")}
"""Calico writes a tier's order as 1e+06; we write 1000000."""


def test_recordings_are_there() -> None:
    assert len(FILES) >= 55 and RECORDED.exists()


@pytest.fixture
def stored(config: Path) -> None:
    """The records that Calico left in etcd, in our datastore."""
    composition = compose(load(str(config)))
    store = composition.open_datastore()
    for line in RECORDED.read_text().splitlines():
        entry = json.loads(line)
        key = keys.parse(entry["key"])
        assert key is not None
        value: Any = codec.decode(key, json.dumps(entry["value"]).encode())
        store.put(key, value)
    composition.close()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.removesuffix(".txt"))
def test_get_writes_what_calico_writes(ctl: Any, stored: None, path: Path) -> None:
    kind, output, _ = path.name.split(".")
    ran = ctl("get", kind, "-o", output, *(["-A"] if kind in NAMESPACED else []))
    expected = path.read_text()
    if (kind, output) in PLAINER:
        expected = re.sub(r" +(?=\n)", "", expected.replace("1e+06", "1000000").replace("1e+07", "10000000"))
        assert re.sub(r" +(?=\n)", "", ran.out) == expected
        return
    assert _without_revisions(ran.out) == _without_revisions(expected)
    assert (ran.status, ran.err) == (0, "")


def _without_revisions(text: str) -> str:
    return re.sub(r'(resourceVersion:) "\d+"', r"\1 X", text)


def test_apply_of_the_same_resources_reads_back_the_same(ctl: Any) -> None:
    """Not from Calico's records but from the documents that Calico was given."""
    assert ctl("apply", "-f", str(RESOURCES)) == (0, "Successfully applied 27 resource(s)\n", "")
    for kind in ("globalnetworkpolicy", "ippool", "felixconfiguration", "bgppeer", "tier", "hostendpoint", "node"):
        expected = (DATA / f"{kind}.yaml.txt").read_text()
        assert _without_identity(ctl("get", kind, "-o", "yaml").out) == _without_identity(expected)


def _without_identity(text: str) -> str:
    return re.sub(r"(uid|creationTimestamp|resourceVersion): \S+", r"\1: X", text)


@pytest.mark.parametrize(
    ("argv", "out"),
    [
        (("get", "ippool", "-o", "custom-columns=CIDR,NAME"), "CIDR           NAME      \n10.66.0.0/24   blue-ns   \n"),
        (("get", "np", "-n", "shop", "-o", "name"), "networkpolicy/shop/web-to-api\n"),
        (("get", "tiers", "security", "-o", "name"), "tier/security\n"),
    ],
)
def test_other_formats(ctl: Any, stored: None, argv: tuple[str, ...], out: str) -> None:
    assert ctl(*argv).out.startswith(out)


def test_json_of_one_is_the_object_and_of_many_a_list(ctl: Any, stored: None) -> None:
    one = json.loads(ctl("get", "tier", "security", "-o", "json").out)
    assert (one["kind"], one["metadata"]["name"], one["spec"]["order"]) == ("Tier", "security", 100)
    two = json.loads(ctl("get", "tier", "security", "default", "-o", "json").out)
    assert [tier["metadata"]["name"] for tier in two] == ["security", "default"]
    listed = json.loads(ctl("get", "tier", "-o", "json").out)
    assert listed["kind"] == "TierList" and len(listed["items"]) == 4


def test_export_leaves_out_what_belongs_to_the_cluster(ctl: Any, stored: None) -> None:
    exported = json.loads(ctl("get", "np", "web-to-api", "-n", "shop", "-o", "json", "--export").out)
    assert set(exported["metadata"]) == {"name", "labels"}


def test_what_crashes_calicos_tool_is_shown(ctl: Any, stored: None) -> None:
    """``get bgpfilter`` and the wide table of staged Kubernetes policies end Calico's calicoctl with a panic."""
    assert ctl("get", "bgpfilter").out == (
        "NAME        NUMEXPORTV4   NUMIMPORTV4   NUMEXPORTV6   NUMIMPORTV6   \n"
        "only-pods   2             2             1             0             \n\n"
    )
    wide = ctl("get", "sknp", "-n", "shop", "-o", "wide").out
    assert wide.splitlines()[1].rstrip() == (
        "shop        k8s-maybe   projectcalico.org/orchestrator == 'k8s' && app == 'web'"
    )


def test_free_addresses_of_an_ipv6_pool_are_a_number(ctl: Any, stored: None) -> None:
    shown = ctl("ipam", "show").out
    assert "1.2089e+24 (100%)" in shown and "-9" not in shown
