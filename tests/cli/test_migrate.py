"""``calicoctl datastore migrate``: Calico's export and import, the lock, and what copy says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from calico_kernel.client.transfer import KINDS
from calico_kernel.model import codec, keys
from calico_kernel.model.keys import BlockAffinityQuery, BlockQuery, HandleQuery, IpamConfigQuery, ResourceQuery

Run = Callable[..., Any]
GOLDEN = Path(__file__).parents[1] / "model/data/etcd.jsonl"
IPAM = [BlockQuery(), BlockAffinityQuery(), HandleQuery(), IpamConfigQuery()]


class Site(NamedTuple):
    config: str
    store: Any


@pytest.fixture
def site(tmp_path: Path) -> Callable[[str], Site]:
    """A datastore of that name with its configuration."""
    from calico_datastore_sqlite.settings import SqliteSettings
    from calico_datastore_sqlite.store import SqliteDatastore

    def made(name: str) -> Site:
        config = tmp_path / f"{name}.yaml"
        config.write_text(f"node: n1\ndatastore: {{plugin: sqlite, path: {tmp_path}/{name}.db}}\nipam: blocks\n")
        return Site(str(config), SqliteDatastore(SqliteSettings(path=f"{tmp_path}/{name}.db")))

    return made


@pytest.fixture
def golden(site: Callable[[str], Site]) -> Site:
    """What Calico stored, its node called otherwise by Kubernetes, with a tunnel address."""
    made = site("golden")
    for line in GOLDEN.read_text().splitlines():
        one = json.loads(line)
        key, value = keys.parse(one["key"]), one["value"]
        if key is None:
            continue
        if one["key"].endswith("nodes/rack1-host1"):
            value["spec"]["orchRefs"] = [{"nodeName": "worker-1", "orchestrator": "k8s"}]
        if "10.65.37.192-26" in one["key"] and "attributes" in value:
            value["attributes"][0]["handle_id"] = "vxlan-tunnel-addr-rack1-host1"
            value["attributes"][0]["secondary"] = {"node": "rack1-host1", "type": "vxlanTunnelAddress"}
        made.store.create(key, codec.decode(key, json.dumps(value).encode()))
    return made


def exported(ctl: Run, site: Site) -> str:
    assert ctl("-c", site.config, "datastore", "migrate", "lock").out == "Datastore locked.\n"
    ran = ctl("-c", site.config, "datastore", "migrate", "export", "--allow-version-mismatch")
    assert ran.status == 0, ran.err
    text: str = ran.out
    return text


def test_export_of_an_unlocked_datastore_is_refused(ctl: Run) -> None:
    ctl("apply", "-f", "-", text="{apiVersion: projectcalico.org/v3, kind: Profile, metadata: {name: p}}")
    ran = ctl("datastore", "migrate", "export")
    assert ran.status == 1 and "datastore is not locked. Run the `calicoctl datastore migrate lock`" in ran.err


def test_export_has_calicos_sections_and_the_names_that_kubernetes_knows(ctl: Run, golden: Site) -> None:
    import yaml

    resources, information, ipam = exported(ctl, golden).split("===\n")
    lists = [one for one in yaml.safe_load_all(resources) if one]
    assert [one["kind"] for one in lists] == [f"{kind}List" for kind in KINDS]
    items = {one["kind"]: one["items"] for one in lists}
    assert {node["metadata"]["name"] for node in items["NodeList"]} == {"worker-1", "rack2-host1"}
    assert "node.worker-1" in {one["metadata"]["name"] for one in items["FelixConfigurationList"]}
    assert len(items["StagedNetworkPolicyList"]) == 1  # its namespace is not "default"
    assert not [one for found in items.values() for one in found if {"uid", "creationTimestamp"} & set(one["metadata"])]
    assert json.loads(information)["spec"]["datastoreReady"] is False
    records = json.loads(ipam)
    assert set(records) == {"block_affinities", "blocks", "handles"}
    assert "/calico/ipam/v2/host/worker-1/ipv4/block/10.65.37.192-26" in {
        one["Key"] for one in records["block_affinities"]
    }
    block = next(one["Value"] for one in records["blocks"] if "10.65.37.192" in one["Key"])
    assert block["affinity"] == "host:worker-1"
    assert block["attributes"][0]["handle_id"] == "vxlan-tunnel-addr-worker-1"
    assert block["attributes"][0]["secondary"]["node"] == "worker-1"


def test_import_of_an_export_holds_the_same_and_is_locked(
    ctl: Run, golden: Site, site: Callable[[str], Site], tmp_path: Path
) -> None:
    text = exported(ctl, golden)
    new = site("new")
    (tmp_path / "export.txt").write_text(text.replace("items: []", "items: null"))
    ran = ctl("-c", new.config, "datastore", "migrate", "import", "-f", str(tmp_path / "export.txt"))
    assert ran.status == 0, ran.err
    assert "Successfully applied 7 IPAM resource(s)" in ran.out
    for kind in KINDS:
        old, now = (
            [one.value for one in store.list([ResourceQuery(kind)]).records] for store in (golden.store, new.store)
        )
        assert len(old) == len(now), kind
    handles = [one.value for one in new.store.list([HandleQuery()]).records]
    assert handles == [one.value for one in golden.store.list([HandleQuery()]).records]
    assert len(new.store.list(IPAM).records) == len(golden.store.list(IPAM).records)
    information = json.loads(ctl("-c", new.config, "get", "clusterinfo", "default", "-o", "json").out)
    assert information["spec"]["datastoreReady"] is False
    assert information["spec"]["clusterGUID"] == json.loads(text.split("===\n")[1])["spec"]["clusterGUID"]
    again = ctl("-c", new.config, "datastore", "migrate", "import", "-f", "-", text=text)
    assert again.status == 1 and "datastore already has Calico resources" in again.err
    assert ctl("-c", new.config, "datastore", "migrate", "unlock").out == "Datastore unlocked.\n"


def test_import_that_met_an_error_is_locked_and_the_same_file_goes_on(
    ctl: Run, golden: Site, site: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    from calico_kernel.client import Client
    from calico_kernel.errors import DatastoreUnavailable

    text = exported(ctl, golden)
    new = site("new")
    apply = Client.apply

    def away(client: Client, resource: Any) -> Any:
        if resource.kind == "NetworkSet":
            raise DatastoreUnavailable(what="the datastore is away", todo="wait")
        return apply(client, resource)

    with monkeypatch.context() as patched:
        patched.setattr(Client, "apply", away)
        ran = ctl("-c", new.config, "datastore", "migrate", "import", "-f", "-", text=text)
    assert ran.status == 1 and "the datastore is away" in ran.err and "1 were not" in ran.err
    refused = ctl("-c", new.config, "datastore", "migrate", "unlock")
    assert refused.status == 1 and "only a part" in refused.err
    assert ctl("-c", new.config, "datastore", "migrate", "import", "-f", "-", text=text).status == 0
    assert ctl("-c", new.config, "datastore", "migrate", "unlock").status == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing", "has 1 sections"),
        ("---\n===\n{\n===\n{}\n", "its JSON cannot be read"),
        (
            '---\n===\n{"kind": "ClusterInformation"}\n===\n{"blocks": [{"Key": "/x", "Value": {}}]}\n',
            "no key of an IPAM",
        ),
        ('---\n===\n{"kind": "ClusterInformation"}\n===\n{"blocks": [7]}\n', "blocks[0]"),
        ("kind: Nonsense\n===\n{}\n===\n{}\n", "unknown resource type (Nonsense)"),
    ],
)
def test_import_of_a_file_that_is_no_export_touches_nothing(ctl: Run, tmp_path: Path, text: str, said: str) -> None:
    ran = ctl("datastore", "migrate", "import", "-f", "-", text=text)
    assert ran.status == 1 and said in ran.err
    assert not (tmp_path / "calico.db").exists()


def test_copy_says_what_it_did_and_what_to_do(ctl: Run, golden: Site, site: Callable[[str], Site]) -> None:
    new = site("new")
    argv = ("datastore", "migrate", "copy", "--from", golden.config, "--to", new.config, "--settle", "0")
    ran = ctl(*argv)
    assert ran.status == 0 and "read back and equal" in ran.out and f"{golden.config} stays locked" in ran.out
    assert ran.err == ""  # progress is for terminals
    assert json.loads(ctl(*argv, "-o", "json").out)["written"] == 0
    ctl("-c", new.config, "delete", "networkset", "partners", "-n", "shop", "--allow-version-mismatch")
    refused = ctl(*argv, "-o", "json")
    said = json.loads(refused.out)
    assert refused.status == 1 and said["verified"] is False and "not of this copy" in said["error"]
