"""Commands, sentences and exit codes of calicoctl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

V3 = "apiVersion: projectcalico.org/v3\n"
TIER = V3 + "kind: Tier\nmetadata: {name: security}\nspec: {order: 100}\n"
POLICY = V3 + "kind: NetworkPolicy\nmetadata: {name: p}\nspec: {selector: all()}\n"
BAD = V3 + "kind: NetworkPolicy\nmetadata: {name: bad}\nspec: {selector: 'a =='}\n"


def test_apply_counts_and_names_the_kind(ctl: Any) -> None:
    assert ctl("apply", "-f", "-", text=TIER) == (0, "Successfully applied 1 'Tier' resource(s)\n", "")
    assert ctl("apply", "-f", "-", text=TIER + "---\n" + POLICY).out == "Successfully applied 2 resource(s)\n"


def test_create_of_what_exists_fails_unless_skipped(ctl: Any) -> None:
    ctl("create", "-f", "-", text=TIER)
    again = ctl("create", "-f", "-", text=TIER)
    assert again.status == 1
    assert again.err.startswith(
        "failed to create 'Tier' resource: [resource already exists: Tier(security) with error:"
    )
    assert ctl("create", "--skip-exists", "-f", "-", text=TIER).status == 0


def test_replace_of_what_does_not_exist_fails(ctl: Any) -> None:
    ran = ctl("replace", "-f", "-", text=TIER)
    assert ran.status == 1
    assert ran.err == (
        "failed to replace 'Tier' resource: [resource does not exist: Tier(security) with error: not found]\n"
    )


def test_partial_success_says_how_far_it_came(ctl: Any) -> None:
    ran = ctl("apply", "-f", "-", text=POLICY + "---\n" + BAD)
    assert ran.status == 1
    assert ran.out == "Partial success: applied the first 1 out of 2 'NetworkPolicy' resources:\n"
    assert ran.err.startswith("hit error: [error with field spec.selector (")
    assert ctl("get", "np", "-o", "name").out == "networkpolicy/default/p\n"


def test_validate_needs_no_datastore(ctl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALICO_CONFIG", "/nowhere.yaml")
    assert ctl("validate", "-f", "-", text=POLICY).out == "Successfully validated 1 'NetworkPolicy' resource(s)\n"
    assert ctl("validate", "-f", "-", text=BAD).status == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no resources specified in file -"),
        ("{", "failed to execute command: document 1 of standard input: is not YAML"),
        ("kind: Tier\nkind: Node\n", "the key 'kind' is given twice"),
        (V3 + "kind: Wall\nmetadata: {name: a}", "unknown resource type (Wall) and/or version (projectcalico.org/v3)"),
        (V3 + "kind: BlockAffinity\nmetadata: {name: a}", "unknown resource type (BlockAffinity)"),
        (TIER + "  colour: red\n", "is not YAML"),
        (TIER.replace("order", "ordr"), "Tier(security): spec.ordr: unknown field; did you mean 'order'?"),
        ("[1, 2]", "is 1 where a resource belongs"),
    ],
)
def test_document_that_cannot_be_used_stops_everything(ctl: Any, text: str, said: str) -> None:
    ran = ctl("apply", "-f", "-", text=text)
    assert ran.status == 1 and said in ran.err and ran.out == ""


def test_missing_file_and_empty_directory(ctl: Any, tmp_path: Path) -> None:
    assert ctl("apply", "-f", f"{tmp_path}/none.yaml").err == (
        f"failed to execute command: open {tmp_path}/none.yaml: no such file or directory\n"
    )
    (tmp_path / "empty").mkdir()
    assert ctl("apply", "-f", f"{tmp_path}/empty").err == f"no resources specified in directory {tmp_path}/empty\n"
    assert ctl("apply", "-f", f"{tmp_path}/empty", "--skip-empty").out == "No resources specified\n"


def test_directory_is_read_one_level_deep_unless_told(ctl: Any, tmp_path: Path) -> None:
    below = tmp_path / "dir" / "below"
    below.mkdir(parents=True)
    (tmp_path / "dir" / "a.yaml").write_text(TIER)
    (tmp_path / "dir" / "notes.txt").write_text("not ours")
    (below / "b.json").write_text(
        json.dumps({"apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": {"name": "n"}})
    )
    assert ctl("apply", "-f", f"{tmp_path}/dir").out == "Successfully applied 1 'Tier' resource(s)\n"
    assert ctl("apply", "-R", "-f", f"{tmp_path}/dir").out == "Successfully applied 2 resource(s)\n"


# ── namespaces ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("get", "nodes", "-n", "x"), "Node is not namespaced"),
        (("get", "nodes", "-A"), "Node is not namespaced"),
        (("get", "np", "-A", "-n", "x"), "cannot use both --namespace and --all-namespaces flags at the same time"),
        (("get", "np", "a", "-A"), "cannot use --all-namespace flag for getting a single resource"),
        (("get", "nonsense"), "failed to get resources: resource type 'nonsense' is not supported"),
        (("get", "blockaffinities"), "resource type 'blockaffinities' is not supported"),
        (("get",), "no resources specified"),
        (("get", "nodes", ""), "resource name may not be empty"),
        (("get", "nodes", "-o", "pink"), "unrecognized output format 'pink'"),
        (("get", "nodes", "-o", "custom-columns="), "unrecognized output format 'custom-columns='"),
        (("get", "node", "n9"), "resource does not exist: Node(n9) with error: not found"),
        (("delete", "tier"), "no resources specified"),
        (("patch", "wall", "a", "-p", "{}"), "resource type 'wall' is not supported"),
        (("label", "node", "a", "novalue"), "invalid label novalue"),
    ],
)
def test_arguments_that_make_no_sense(ctl: Any, argv: tuple[str, ...], said: str) -> None:
    ran = ctl(*argv)
    assert ran.status == 1 and said in ran.err


def test_namespace_comes_from_the_document_then_the_flag_then_default(ctl: Any) -> None:
    own = POLICY.replace("{name: p}", "{name: p, namespace: own}")
    assert ctl("apply", "-f", "-", text=POLICY).status == 0
    assert ctl("apply", "-n", "flag", "-f", "-", text=POLICY).status == 0
    assert ctl("apply", "-f", "-", text=own).status == 0
    assert ctl("get", "np", "-A", "-o", "name").out.split() == [
        "networkpolicy/default/p",
        "networkpolicy/flag/p",
        "networkpolicy/own/p",
    ]
    clash = ctl("apply", "-n", "flag", "-f", "-", text=own)
    assert clash.status == 1 and "resource namespace does not match client namespace. own != flag" in clash.err
    wrong = ctl("apply", "-f", "-", text=TIER.replace("{name: security}", "{name: security, namespace: x}"))
    assert "namespace should not be specified for a non-namespaced resource. Tier is not" in wrong.err


# ── delete, patch, label ──────────────────────────────────────────────────────────────────────────────────────────────


def test_delete_says_what_went_and_what_did_not(ctl: Any) -> None:
    ctl("apply", "-f", "-", text=POLICY)
    ran = ctl("delete", "np", "p", "q")
    assert (ran.status, ran.out) == (1, "Successfully deleted 1 'NetworkPolicy' resource(s)\n")
    assert ran.err == (
        "Failed to delete 'NetworkPolicy' resource: resource does not exist: NetworkPolicy(default/q) "
        "with error: not found\n"
    )
    assert ctl("delete", "np", "q", "--skip-not-exists").status == 0
    assert ctl("delete", "np", "-n", "default", "q", "-s").status == 0


def test_patch_merges_maps_replaces_lists_and_removes_nulls(ctl: Any) -> None:
    ctl(
        "apply",
        "-f",
        "-",
        text=V3 + "kind: GlobalNetworkSet\nmetadata: {name: a, labels: {x: '1', w: '2'}}\n"
        "spec: {nets: [192.0.2.0/24, 198.51.100.0/24]}\n",
    )
    patch = '{"metadata": {"labels": {"x": null, "z": "3"}}, "spec": {"nets": ["203.0.113.0/24"]}}'
    assert ctl("patch", "gnetset", "a", "-p", patch) == (0, "Successfully patched 1 'GlobalNetworkSet' resource\n", "")
    stored = json.loads(ctl("get", "gnetset", "a", "-o", "json").out)
    assert stored["metadata"]["labels"] == {"w": "2", "z": "3"}
    assert stored["spec"]["nets"] == ["203.0.113.0/24"]
    for wrong in ('{"spec": {"nets": ["300.0.0.0/8"]}}', '{"spec": {"colour": 1}}', "[]", "{"):
        ran = ctl("patch", "gnetset", "a", "-p", wrong)
        assert ran.status == 1 and ran.err.startswith("hit error: "), wrong


def test_label_is_set_kept_overwritten_and_removed(ctl: Any) -> None:
    ctl("apply", "-f", "-", text=TIER)
    assert ctl("label", "tier", "security", "a=1").out == "Successfully set label a on tier security\n"
    refused = ctl("label", "tier", "security", "a=2")
    assert refused.status == 1 and "key a is already present. please use '--overwrite'" in refused.err
    assert ctl("label", "tier", "security", "a=1").out == "Successfully updated label a on tier security\n"
    assert ctl("label", "tier", "security", "a=2", "--overwrite").status == 0
    assert ctl("label", "tier", "security", "a", "--remove").out == "Successfully removed label a from tier security\n"
    assert "key a does not exist" in ctl("label", "tier", "security", "a", "--remove").err


# ── Kubernetes documents ──────────────────────────────────────────────────────────────────────────────────────────────

KUBERNETES = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: blue}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web}
"""


def test_kubernetes_documents_become_what_calicos_controllers_make_of_them(ctl: Any) -> None:
    assert ctl("apply", "-n", "shop", "-f", "-", text=KUBERNETES).out == "Successfully applied 3 resource(s)\n"
    assert ctl("get", "np", "-A", "-o", "name").out == "networkpolicy/shop/knp.default.deny\n"
    policy = json.loads(ctl("get", "np", "knp.default.deny", "-n", "shop", "-o", "json").out)
    assert policy["spec"]["selector"] == "projectcalico.org/orchestrator == 'k8s' && app == 'web'"
    names = ctl("get", "profiles", "-o", "name").out.split()
    assert names == ["profile/kns.shop", "profile/ksa.shop.web", "profile/projectcalico-default-allow"]
    assert ctl("delete", "-n", "shop", "-f", "-", text=KUBERNETES).status == 0


def test_converted_policy_is_not_edited_as_a_calico_one(ctl: Any) -> None:
    ran = ctl("apply", "-f", "-", text=POLICY.replace("name: p", "name: knp.default.deny"))
    assert ran.status == 1
    assert "operation apply is not supported on NetworkPolicy(default/knp.default.deny)" in ran.err


# ── versions, locks, addresses ────────────────────────────────────────────────────────────────────────────────────────


def test_datastore_of_another_version_is_refused_unless_allowed(ctl: Any) -> None:
    from calico_kernel.cli.session import Session
    from calico_kernel.client import ensure_initialized

    session = Session(None)
    ensure_initialized(session.client, version="v9.9.9")
    session.close()
    ran = ctl("get", "nodes")
    assert ran.status == 1 and "version mismatch." in ran.err and "v9.9.9" in ran.err
    assert ctl("get", "nodes", "--allow-version-mismatch").status == 0
    assert ctl("--allow-version-mismatch", "get", "nodes").status == 0


def test_version_of_client_and_cluster(ctl: Any) -> None:
    from calico_kernel import __version__

    assert ctl("version", "--client").out == f"Client Version:   {__version__}\n"
    assert ctl("version").status == 1  # nothing there yet
    ctl("apply", "-f", "-", text=TIER)
    assert json.loads(ctl("version", "-o", "json").out)["clientVersion"] == __version__


def test_lock_and_unlock(ctl: Any) -> None:
    assert ctl("datastore", "migrate", "lock").out == "Datastore locked.\n"
    assert "false" in ctl("get", "clusterinfo").out
    assert ctl("datastore", "unlock").out == "Datastore unlocked.\n"


POOL = V3 + "kind: IPPool\nmetadata: {name: main}\nspec: {cidr: 10.65.0.0/24}\n"


def test_ipam_show_release_and_check(ctl: Any) -> None:
    from calico_kernel.cli.session import Session
    from calico_kernel.model.ipam import AssignRequest

    ctl("apply", "-f", "-", text=POOL + "---\n" + V3 + "kind: Node\nmetadata: {name: n1}\n")
    session = Session(None)
    given = session.composition.open_ipam().assign(
        AssignRequest(handle="h1", node="n1", num_ipv4=1, attributes={"node": "n1", "pod": "web"})
    )
    session.close()
    address = str(given.addresses[0].address)
    assert ctl("ipam", "show").out == (
        "+----------+--------------+-----------+------------+--------------+------------+\n"
        "| GROUPING | CIDR         | IPS TOTAL | IPS IN USE | IPS RESERVED | IPS FREE   |\n"
        "+----------+--------------+-----------+------------+--------------+------------+\n"
        "| IP Pool  | 10.65.0.0/24 |       256 |     1 (0%) |       0 (0%) | 255 (100%) |\n"
        "+----------+--------------+-----------+------------+--------------+------------+\n"
    )
    assert "| Block    | 10.65.0." in ctl("ipam", "show", "--show-blocks").out
    assert ctl("ipam", "show", "--ip", address).out == (
        f"IP {address} is in use\nHandle ID: h1\nActive Owner Attributes:\n  node: n1\n  pod: web\n"
    )
    assert json.loads(ctl("ipam", "show", "-o", "json").out)["pools"][0]["in_use"] == 1
    assert ctl("ipam", "check").out.endswith("Check complete; found 1 problems.\n")  # no endpoint has it
    assert address in ctl("ipam", "check", "--show-all-ips").out
    assert ctl("ipam", "show", "--show-borrowed").out.count("\n") == 3
    assert ctl("ipam", "release", "--ip", address).out == f"Successfully released IP address {address}\n"
    assert ctl("ipam", "release", "--ip", address).err == f"IP address {address} is not assigned\n"
    assert ctl("ipam", "show", "--ip", "10.9.9.9").out == "10.9.9.9 is not assigned\n"
    assert ctl("ipam", "show", "--ip", "nonsense").err == "invalid IP address nonsense\n"


def test_ipam_check_as_json_and_its_report_name_the_address_that_no_endpoint_has(ctl: Any, tmp_path: Path) -> None:
    from calico_kernel.cli.session import Session
    from calico_kernel.model.ipam import AssignRequest

    ctl("apply", "-f", "-", text=POOL + "---\n" + V3 + "kind: Node\nmetadata: {name: n1}\n")
    session = Session(None)
    owner = {"pod": "web", "namespace": "shop", "timestamp": "2020-01-01 00:00:00 +0000 UTC"}
    given = session.composition.open_ipam().assign(AssignRequest(handle="h1", node="n1", num_ipv4=1, attributes=owner))
    session.close()
    (problem,) = json.loads(ctl("ipam", "check", "-o", "json").out)["problems"]
    assert problem["address"] == problem["subject"] == str(given.addresses[0].address)
    report = str(tmp_path / "report.json")
    assert "found 1 problems" in ctl("ipam", "check", "--report", report).out
    collected = ctl("ipam", "release", "--from-report", report, "--force", "-o", "json").out
    assert json.loads(collected)["released"] == [problem["address"]]
    assert json.loads(ctl("ipam", "check", "-o", "json").out)["problems"] == []


def test_ipam_configure_and_show_configuration(ctl: Any) -> None:
    assert ctl("ipam", "configure").err == "at least one setting must be given\n"
    assert ctl("ipam", "configure", "--strictaffinity", "perhaps").status == 1
    ran = ctl("ipam", "configure", "--strictaffinity", "true", "--max-blocks-per-host", "4")
    assert ran.out == "Successfully set StrictAffinity to: true\nSuccessfully set MaxBlocksPerHost to: 4\n"
    shown = ctl("ipam", "show", "--show-configuration").out
    assert (
        "| StrictAffinity               | true      |" in shown
        and "| MaxBlocksPerHost             | 4         |" in shown
    )


def test_split_needs_a_lock_and_keeps_the_addresses(ctl: Any) -> None:
    from calico_kernel.cli.session import Session
    from calico_kernel.model.ipam import AssignRequest

    ctl("apply", "-f", "-", text=POOL + "---\n" + V3 + "kind: Node\nmetadata: {name: n1}\n")
    session = Session(None)
    session.composition.open_ipam().assign(AssignRequest(handle="h1", node="n1", num_ipv4=1))
    session.close()
    assert "datastore must be locked" in ctl("ipam", "split", "2", "--name", "main").err
    ctl("datastore", "lock")
    assert "must be a power of two" in ctl("ipam", "split", "3", "--name", "main").err
    assert "would be smaller than its blocks" in ctl("ipam", "split", "8", "--name", "main").err
    assert "there is no pool" in ctl("ipam", "split", "2", "--cidr", "10.1.0.0/16").err
    assert ctl("ipam", "split", "2", "--cidr", "10.65.0.0/24").status == 0
    pools = json.loads(ctl("get", "ippool", "-o", "json").out)["items"]
    assert [(pool["metadata"]["name"], pool["spec"]["cidr"]) for pool in pools] == [
        ("split-main-0", "10.65.0.0/25"),
        ("split-main-1", "10.65.0.128/25"),
    ]
    usage = json.loads(ctl("ipam", "show", "-o", "json").out)["pools"]
    assert sum(pool["in_use"] for pool in usage) == 1


def test_deleted_pool_leaves_no_claims_of_nodes_behind(ctl: Any) -> None:
    from calico_kernel.cli.session import Session
    from calico_kernel.model.ipam import AssignRequest
    from calico_kernel.model.keys import BlockAffinityQuery

    ctl("apply", "-f", "-", text=POOL + "---\n" + V3 + "kind: Node\nmetadata: {name: n1}\n")
    session = Session(None)
    session.composition.open_ipam().assign(AssignRequest(handle="h1", node="n1", num_ipv4=1))
    store = session.composition.open_datastore()
    assert len(store.list([BlockAffinityQuery()]).records) == 1
    assert ctl("delete", "ippool", "main").out == "Successfully deleted 1 'IPPool' resource(s)\n"
    assert store.list([BlockAffinityQuery()]).records == []
    session.close()
    assert "attrs Main:h1 Extra:\n" in ctl("ipam", "check", "--show-all-ips").out


def test_node_status_without_an_agent(ctl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALICO_AGENT_HEALTH_PORT", "1")
    ran = ctl("node", "status")
    assert ran.status == 1 and ran.err.startswith("Calico process is not running: no agent answers at 127.0.0.1:1")
    assert json.loads(ctl("node", "status", "-o", "json").out)["running"] is False


# ── malformed, and the rest ───────────────────────────────────────────────────────────────────────────────────────────


def test_malformed_record_is_named_with_its_reason_beside_the_others(ctl: Any, tmp_path: Path) -> None:
    import sqlite3

    ctl("apply", "-f", "-", text=TIER)
    ctl("apply", "-f", "-", text=V3 + "kind: GlobalNetworkSet\nmetadata: {name: bad}\n")
    _damage(tmp_path / "calico.db", sqlite3)
    ran = ctl("get", "globalnetworksets")
    assert ran.status == 0
    assert ran.err.startswith("GlobalNetworkSet(bad) is malformed and counts as absent: ")
    assert "does not decode" in ctl("get", "globalnetworkset", "bad").err
    assert ctl("apply", "-f", "-", text=V3 + "kind: GlobalNetworkSet\nmetadata: {name: bad}\n").status == 0
    assert ctl("get", "globalnetworksets").err == ""


def _damage(path: Path, sqlite3: Any) -> None:
    database = sqlite3.connect(path)
    for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
        for _, column, *_ in database.execute(f"pragma table_info({table})").fetchall():
            database.execute(
                f'update {table} set {column} = replace({column}, \'"name":"bad"\', \'"name":[7]\') '
                f"where cast({column} as text) like '%GlobalNetworkSet%'"
            )
    database.commit()
    database.close()


def test_help_of_every_command(ctl: Any) -> None:
    from calico_kernel.cli.calicoctl import COMMANDS

    listed = ctl("--help").out
    for name in COMMANDS:
        assert f"    {name} " in listed
        ran = ctl(name, "--help")
        assert ran.status == 0 and "--config" in ran.out, name
    for argv in (("ipam", "show", "--help"), ("datastore", "lock", "--help"), ("node", "status", "--help")):
        assert ctl(*argv).status == 0


def test_unknown_command_suggests_the_nearest(ctl: Any) -> None:
    assert ctl("gett").err.startswith("unknown command 'gett'; did you mean 'get'? (see calicoctl --help;")
    assert ctl("gett").status == 2 and ctl().status == 2
    assert "a plugin's command needs its plugin in the configuration" in ctl("xyzzy").err


def test_configuration_mistake_is_said_once_and_nothing_is_made(ctl: Any, config: Path, tmp_path: Path) -> None:
    config.write_text(config.read_text() + "datastor: x\n")
    ran = ctl("get", "nodes")
    assert ran.status == 1 and "unknown key 'datastor'; did you mean 'datastore'?" in ran.err
    assert not (tmp_path / "calico.db").exists()


def test_log_level_may_stand_before_or_after_the_command(ctl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    seen: list[int] = []
    monkeypatch.setattr(logging, "basicConfig", lambda **settings: seen.append(settings["level"]))
    assert ctl("get", "nodes").status == 0
    assert ctl("-l", "info", "get", "nodes").status == 0
    assert ctl("get", "nodes", "--log-level", "debug").status == 0
    assert seen == [logging.INFO, logging.DEBUG]
    assert ctl("get", "nodes", "-l", "loud").status == 2


@pytest.mark.parametrize("form", [("-c", "PATH"), ("-cPATH",), ("--config", "PATH"), ("--config=PATH",)])
@pytest.mark.parametrize("after", [True, False])
def test_config_is_found_in_every_form(
    ctl: Any, config: Path, monkeypatch: pytest.MonkeyPatch, form: tuple[str, ...], after: bool
) -> None:
    monkeypatch.setenv("CALICO_CONFIG", "/nowhere.yaml")
    given = [part.replace("PATH", str(config)) for part in form]
    argv = ["get", "tiers", *given] if after else [*given, "get", "tiers"]
    assert ctl(*argv).status == 0


def test_every_document_that_cannot_be_read_is_named_and_nothing_is_written(ctl: Any, tmp_path: Path) -> None:
    head = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: %s}\nspec: {%s}\n"
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.yaml").write_text(head % ("good", "selector: all()"))
    (tmp_path / "d" / "b.yaml").write_text(head % ("one", "ordr: 1") + "---\n" + head % ("two", "order: x"))
    (tmp_path / "d" / "c.yaml").write_text("a: [")
    ran = ctl("apply", "-f", f"{tmp_path}/d")
    assert ran.status == 1
    assert [line.split(": ")[0] for line in ran.err.removeprefix("failed to execute command: ").splitlines()] == [
        "GlobalNetworkPolicy(one)",
        "GlobalNetworkPolicy(two)",
        f"document 1 of {tmp_path}/d/c.yaml",
        "nothing was applied, nor any of the 1 other resource(s)",
    ]
    told = json.loads(ctl("apply", "-f", f"{tmp_path}/d", "-o", "json").out)
    assert [one["resource"] for one in told["failed"]][:2] == ["GlobalNetworkPolicy(one)", "GlobalNetworkPolicy(two)"]
    assert told["handled"] == 0 and told["kept"].startswith("nothing was applied")
    assert "good" not in ctl("get", "gnp").out


def test_what_a_terminal_would_obey_is_written_out(ctl: Any) -> None:
    policy = (
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: p}\n"
        """spec: {selector: "a == '\\e[2J\\n'"}\n"""
    )
    assert ctl("apply", "-f", "-", text=policy).status == 0
    shown = ctl("get", "gnp", "-o", "wide").out
    assert "\x1b" not in shown and r"a == '\x1b[2J\n'" in shown
    wrong = ctl("apply", "-f", "-", text=policy.replace("kind: G", 'kind: "\\e[2J" #'))
    assert wrong.status == 1 and "\x1b" not in wrong.err


@pytest.mark.parametrize(
    ("text", "said"), [(None, "cannot be read"), ("{}", "is not one that"), ("x", "is not one that")]
)
def test_a_report_that_is_none_is_refused(ctl: Any, tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    ran = ctl("ipam", "release", "--force", "--from-report", f"{tmp_path}/report.json")
    assert ran.status == 1 and said in ran.err
