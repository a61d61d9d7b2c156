"""calicoq: which policies and rules relate to which endpoints; held to the reference evaluator."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from random import Random
from typing import Any

import pytest

from calico_kernel.calc.snapshot import Snapshot
from calico_kernel.cli.related import KINDS, Related
from calico_kernel.policy.cluster import Cluster
from calico_kernel.policy.verdict import hooks_of
from calico_kernel.selector import parse
from calico_kernel.testing import generators

V3 = "apiVersion: projectcalico.org/v3\n"


def endpoint(pod: str, app: str, address: str, node: str = "n1") -> str:
    return (
        V3 + f"kind: WorkloadEndpoint\nmetadata: {{namespace: shop, labels: {{app: {app}}}}}\n"
        f"spec: {{orchestrator: k8s, node: {node}, pod: {pod}, endpoint: eth0, interfaceName: cali{app}, "
        f"ipNetworks: [{address}/32], profiles: [kns.shop, missing]}}\n---\n"
    )


MANIFESTS = (
    endpoint("web-1", "web", "10.65.0.10")
    + endpoint("db-1", "db", "10.65.0.11", node="n2")
    + "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: blue}}\n---\n"
    + V3
    + "kind: HostEndpoint\nmetadata: {name: n1-eth0, labels: {role: edge}}\n"
    "spec: {node: n1, interfaceName: eth0, profiles: [allow-mgmt]}\n---\n"
    + V3
    + "kind: Profile\nmetadata: {name: allow-mgmt}\n"
    "spec: {ingress: [{action: Allow, source: {notSelector: has(role)}}]}\n---\n"
    + V3
    + "kind: GlobalNetworkSet\nmetadata: {name: feed, labels: {threat: 'yes'}}\nspec: {nets: [192.0.2.0/24]}\n---\n"
    + V3
    + "kind: Tier\nmetadata: {name: security}\nspec: {order: 100}\n---\n"
    + V3
    + "kind: GlobalNetworkPolicy\nmetadata: {name: security.block}\nspec: {tier: security, order: 10, "
    "selector: pcns.team == 'blue', ingress: [{action: Deny, source: {selector: threat == 'yes'}}]}\n---\n"
    + V3
    + "kind: GlobalNetworkPolicy\nmetadata: {name: early}\nspec: {selector: role == 'edge', doNotTrack: true, "
    "applyOnForward: true, ingress: [{action: Allow}]}\n---\n"
    + V3
    + "kind: GlobalNetworkPolicy\nmetadata: {name: hosts}\nspec: {selector: role == 'edge', order: 1, "
    "applyOnForward: true, ingress: [{action: Allow}]}\n---\n"
    + V3
    + "kind: StagedNetworkPolicy\nmetadata: {name: maybe, namespace: shop}\nspec: {selector: all()}\n---\n"
    + "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: db, namespace: shop}\n"
    "spec: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}\n"
)
DB = "(projectcalico.org/orchestrator == 'k8s' && app == 'db') && projectcalico.org/namespace == 'shop'"
FROM_WEB = "(projectcalico.org/namespace == 'shop') && (projectcalico.org/orchestrator == 'k8s' && app == 'web')"


@pytest.fixture(params=["stored", "offline"])
def query(ctl: Any, q: Any, request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """calicoq on the same resources, stored or only in a directory."""
    if request.param == "stored":
        assert ctl("apply", "-f", "-", text=MANIFESTS).status == 0
        return q
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "all.yaml").write_text(MANIFESTS)
    return lambda *argv: q(*argv, "-f", f"{tmp_path}/manifests")


def test_endpoint_shows_policies_in_order_profiles_and_the_rules_that_name_it(query: Any) -> None:
    ran = query("endpoint", "shop")
    assert (ran.status, ran.err) == (0, "")
    assert (
        ran.out
        == f"""\
Policies and profiles for endpoints matching "shop":

Workload endpoint n1/k8s/shop.web-1/eth0
  Policies:
    Tier "security" Policy "security.block" (order 10; selector "pcns.team == 'blue'")
  Profiles:
    Profile "kns.shop"
    Profile "missing" [does not exist: denies]
  Rule matches:
    Policy "shop/knp.default.db" inbound rule 1 source match; selector "{FROM_WEB}"

Workload endpoint n2/k8s/shop.db-1/eth0
  Policies:
    Tier "security" Policy "security.block" (order 10; selector "pcns.team == 'blue'")
    Policy "shop/knp.default.db" (order 1000; selector "{DB}")
  Profiles:
    Profile "kns.shop"
    Profile "missing" [does not exist: denies]
"""
    )


def test_host_shows_its_endpoints_and_early_policies_first(query: Any) -> None:
    assert (
        query("host", "n1", "-s").out
        == """\
Policies and profiles for each endpoint on host "n1":

Workload endpoint k8s/shop.web-1/eth0
  Policies:
    Tier "security" Policy "security.block" (order 10)
  Profiles:
    Profile "kns.shop"
    Profile "missing" [does not exist: denies]
  Rule matches:
    Policy "shop/knp.default.db" inbound rule 1 source match

Host endpoint n1-eth0
  Policies:
    Policy "early" (order default) [untracked]
    Policy "hosts" (order 1) [forward]
  Profiles:
    Profile "allow-mgmt"
  Rule matches:
    Profile "allow-mgmt" inbound rule 1 source exclusion
"""
    )


def test_policy_shows_whom_it_governs_and_whom_its_rules_name(query: Any) -> None:
    assert (
        query("policy", "shop/knp.default.db").out
        == f"""\
Policy "shop/knp.default.db" applies to these endpoints:
  Workload endpoint n2/k8s/shop.db-1/eth0; selector "{DB}"

Endpoints matching Policy "shop/knp.default.db" rules:
  Workload endpoint n1/k8s/shop.web-1/eth0
    inbound rule 1 source match; selector "{FROM_WEB}"
"""
    )
    assert (
        query("policy", "security.block", "--hide-selectors").out
        == """\
Tier "security" Policy "security.block" applies to these endpoints:
  Workload endpoint n1/k8s/shop.web-1/eth0
  Workload endpoint n2/k8s/shop.db-1/eth0

Endpoints matching Tier "security" Policy "security.block" rules:
  Global network set feed
    inbound rule 1 source match
"""
    )
    assert query("policy", "early", "-r", "-s").out == (
        'Policy "early" applies to these endpoints:\n  Host endpoint n1/n1-eth0\n'
    )
    assert query("policy", "staged:shop/maybe", "-r", "-s").out.count("Workload endpoint") == 2


def test_eval_shows_endpoints_and_network_sets(query: Any) -> None:
    assert query("eval", "app == 'web' || has(role) || has(threat)").out == (
        "Endpoints matching selector app == 'web' || has(role) || has(threat):\n"
        "  Workload endpoint n1/k8s/shop.web-1/eth0\n"
        "  Host endpoint n1/n1-eth0\n"
        "  Global network set feed\n"
    )
    assert query("eval", "pcns.team == 'red'").out == "Endpoints matching selector pcns.team == 'red':\n"


def test_json_and_yaml_say_the_same_and_more(query: Any) -> None:
    said = json.loads(query("endpoint", "n1-eth0", "-o", "json").out)
    (one,) = said["endpoints"]
    assert (one["kind"], one["node"], one["id"]) == ("HostEndpoint", "n1", "n1/n1-eth0")
    assert [(policy["name"], policy["hooks"], policy["types"]) for policy in one["policies"]] == [
        ("early", ["untracked"], ["Ingress"]),
        ("hosts", ["forward", "normal"], ["Ingress"]),
    ]
    assert one["ruleMatches"][0]["excludes"] is True
    assert query("policy", "shop/knp.default.db", "-o", "yaml").out.startswith(
        "appliesTo:\n- id: n2/k8s/shop.db-1/eth0\n"
    )


def test_staged_policies_are_shown_when_asked_for(query: Any) -> None:
    assert "maybe" not in query("endpoint", "web-1").out
    assert 'Policy "staged:shop/maybe" (order default) [staged]' in query("endpoint", "web-1", "--staged", "-s").out


@pytest.mark.parametrize("substring", ["n1/k8s", "shop.web", "shop/web-1", "n1-k8s-web--1", "/n1-eth0"])
def test_substring_is_looked_for_in_every_form_of_the_name(query: Any, substring: str) -> None:
    assert query("endpoint", substring, "-r").out.count(" endpoint n1/") >= 1


def test_question_without_an_answer_says_why(query: Any) -> None:
    assert query("policy", "db").err == "there is no policy 'db'\n"
    assert query("policy", "shop/db").out == query("policy", "shop/knp.default.db").out
    ran = query("policy", "knp.default.db")
    assert ran.status == 1 and ran.err == "there is no policy 'knp.default.db'; there is shop/knp.default.db\n"
    assert "did you mean 'security.block'" in query("policy", "security.blok").err
    assert "no endpoint is on a node 'n11'; did you mean 'n1'" in query("host", "n11").err
    ran = query("eval", "app ==")
    assert ran.status == 1 and ran.err.startswith("'app ==' is not a selector: ")


def test_policy_is_found_by_tier_and_name_where_the_name_lacks_its_tier(ctl: Any, q: Any) -> None:
    text = MANIFESTS.replace("security.block", "block")
    assert ctl("apply", "-f", "-", text=text).status == 0
    assert q("policy", "security.block", "-r").out.startswith('Tier "security" Policy "block" applies')


def test_malformed_records_are_named_and_the_rest_is_answered(ctl: Any, q: Any, tmp_path: Path) -> None:
    assert ctl("apply", "-f", "-", text=MANIFESTS).status == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "calico.db")) as database, database:
        for old, new in (
            ('"interfaceName":"calidb"', '"interfaceName":7'),
            ('"selector":"threat == \'yes\'"', '"selector":"threat =="'),
            (
                '"selector":"role == \'edge\'","types":["Ingress"],"applyOnForward"',
                '"selector":"role ==","applyOnForward"',
            ),
            ('"role":"edge"', '"role":"\\u0000"'),
        ):
            database.execute("UPDATE versions SET value = replace(value, ?, ?)", (old, new))
    ran = q("endpoint", "")
    assert ran.status == 0
    assert "WorkloadEndpoint(shop/n2-k8s-db--1-eth0) is malformed and counts as absent" in ran.err
    assert "HostEndpoint(n1/n1-eth0) counts as absent: a label value holds a NUL character" in ran.err
    assert "web-1" in ran.out and "db-1" not in ran.out
    assert 'Policy "security.block" (order 10; selector "pcns.team == \'blue\'") [denies: spec.ingress[0]' in ran.out


# ── the same as the reference evaluator ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(25))
def test_what_governs_and_what_is_named_is_what_the_evaluator_says(seed: int) -> None:
    rng = Random(seed)
    resources = generators.cluster(rng, workloads=8, policy_count=12)
    resources += [
        generators.host_endpoint(rng, interface=rng.choice(("eth0", "*"))),
        *(generators.host_policy(rng, number) for number in range(6)),
    ]
    related = Related([one for one in resources if one.kind in KINDS], lambda _: True)
    cluster = Cluster.from_resources(resources)
    known = {
        (e.kind, e.namespace, e.name): e for e in (*cluster.workloads, *cluster.host_endpoints, *cluster.network_sets)
    }
    ordered = [policy for tier in cluster.tiers for policy in tier.policies]
    selectors = [
        selector
        for rules in [
            *((policy.inbound, policy.outbound) for policy in ordered),
            *((profile.inbound, profile.outbound) for profile in cluster.profiles.values()),
        ]
        for rule in (*rules[0], *rules[1])
        for side in (rule.source, rule.destination)
        for selector in (side.selector, side.not_selector)
        if selector is not None
    ]
    seen = 0
    for subject, governing, named in zip(related.subjects, related.governing(), related.references(), strict=True):
        endpoint = known.get((subject.kind, subject.namespace, subject.name))
        if endpoint is None:
            continue  # without an address it does not exist for the evaluator
        seen += 1
        assert subject.labels == endpoint.labels
        hooks = {
            policy.id: hooks_of(policy, of_host=endpoint.kind == "HostEndpoint", interface=endpoint.interface)
            for policy in ordered
            if subject.node and policy.selector.matches(endpoint.labels)
        }
        found = [(one.policy.effective.id, one.hooks) for one in governing]
        for hook in ("untracked", "pre-DNAT", "forward", "normal"):
            assert [one for one, at in found if hook in at] == [one for one, at in hooks.items() if hook in at]
        assert [one.selector for one in named] == [one for one in selectors if one.matches(endpoint.labels)]
    assert seen >= 5


def test_snapshot_matches_what_the_selector_matches() -> None:
    rng = Random(7)
    labels = [{k: rng.choice(v) for k, v in generators.LABELS.items() if rng.random() < 0.6} for _ in range(300)]
    snapshot = Snapshot(labels)
    for _ in range(200):
        selector = parse(generators.selector(rng))
        assert list(snapshot.matching(selector)) == [n for n, own in enumerate(labels) if selector.matches(own)]
