"""The definitions that ``calicoctl crds`` writes, on a real API server: accepted, served, and neither too strict for
what Calico and we store, nor blind to what is plainly wrong."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from calico_datastore_kdd.testing import KubernetesServer, program
from calico_kernel import selector
from calico_kernel.model import crds, validate
from calico_kernel.model.codec import encode
from calico_kernel.model.crds import GROUPS, NATIVE_GROUP
from calico_kernel.model.defaults import with_defaults
from calico_kernel.model.documents import read_resources
from calico_kernel.model.kinds import KINDS
from calico_kernel.model.meta import Resource
from calico_kernel.model.wellknown import CRD_GROUP
from calico_kernel.testing import generators, strategies

DATA = Path(__file__).parent / "data"
MODEL_DATA = Path(__file__).parents[3] / "tests" / "model" / "data"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
STORED_BY_CALICO = [json.loads(line) for line in (DATA / "calico-kdd.jsonl").read_text().splitlines()]
CUSTOM = [one for one in STORED_BY_CALICO if one["apiVersion"] == CRD_GROUP]
WRONG = [
    one
    for one in json.loads((MODEL_DATA / "refused.json").read_text())
    if one["resource"]["apiVersion"] == NATIVE_GROUP
    and one["resource"]["kind"] in KINDS
    and one["resource"]["kind"] not in crds.NOT_CUSTOM
    and one["name"] != "pool-change-cidr"  # has a test of its own
]

BEYOND_A_SCHEMA = {
    "selector-syntax": "a selector's grammar",
    "selector-unknown-op": "a selector's grammar",
    "port-range-backwards": "a range's ends are text",
    "tier-missing": "another object",
    "pool-overlap": "another object",
}
"""What Calico refuses and a definition cannot."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesServer]:
    """A server of its own: other tests find out which groups theirs serves."""
    server = KubernetesServer(tmp_path_factory.mktemp("definitions"))
    server.start()
    server.define(crds.definition(info, group) for group in GROUPS for info in crds.custom_kinds())
    for namespace in ("shop", "staging"):
        server.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    yield server
    server.kill()


def path_of(kind: str, namespace: str, group: str) -> str:
    """``kind`` as the model calls it."""
    where = f"/namespaces/{namespace or 'default'}" if KINDS[kind].namespaced else ""
    return f"/apis/{group}{where}/{crds.names_in(KINDS[kind], group)[1]}"


def as_custom(resource: Resource, group: str) -> dict[str, Any]:
    """A resource as the server gets it (Calico's annotation of the older group aside)."""
    body: dict[str, Any] = json.loads(encode(resource))
    body["apiVersion"] = group
    body["kind"] = crds.names_in(KINDS[resource.kind], group)[0]
    return body


def resources() -> list[Resource]:
    read = read_resources((MODEL_DATA / "resources.yaml").read_text())
    return [with_defaults(one) for one in read if one.kind not in crds.NOT_CUSTOM]


def missing(sent: Any, stored: Any, path: str = "") -> list[str]:
    """Paths of what was sent and did not come back the same."""
    if isinstance(sent, dict) and isinstance(stored, dict):
        return [
            lost
            for key, value in sent.items()
            for lost in (missing(value, stored[key], f"{path}.{key}") if key in stored else [f"{path}.{key}"])
        ]
    if isinstance(sent, list) and isinstance(stored, list) and len(sent) == len(stored):
        pairs = zip(sent, stored, strict=True)
        return [lost for at, (mine, its) in enumerate(pairs) for lost in missing(mine, its, f"{path}[{at}]")]
    return [] if sent == stored else [f"{path}: {sent!r} became {stored!r}"]


@pytest.mark.parametrize("group", GROUPS)
def test_every_definition_is_served_by_its_names(cluster: KubernetesServer, group: str) -> None:
    served = {one["name"]: one for one in cluster.request("GET", f"/apis/{group}")["resources"]}
    for info in crds.custom_kinds():
        kind, plural = crds.names_in(info, group)
        assert served[plural]["kind"] == kind
        assert served[plural]["namespaced"] == info.namespaced
    assert {name for name in served if name.endswith("/status")} == {
        "caliconodestatuses/status",
        "ippools/status",
        "kubecontrollersconfigurations/status",
        "tiers/status",
    }


@pytest.mark.parametrize("stored", CUSTOM, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_what_calico_stored_is_taken_and_comes_back_as_it_is(cluster: KubernetesServer, stored: dict[str, Any]) -> None:
    meta = stored["metadata"]
    kind = {"IPAMConfig": "IPAMConfiguration"}.get(stored["kind"], stored["kind"])
    kept = ("name", "namespace", "labels", "annotations")
    sent = {**stored, "metadata": {name: meta[name] for name in kept if name in meta}}
    path = path_of(kind, meta.get("namespace", ""), CRD_GROUP)
    made = cluster.request("POST", f"{path}?fieldValidation=Strict", sent)
    try:
        if "status" in stored:
            sent["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"]
            made = cluster.request("PUT", f"{path}/{meta['name']}/status", sent)
        assert made["spec"] == stored["spec"]
        assert made.get("status") == stored.get("status")
    finally:
        cluster.request("DELETE", f"{path}/{meta['name']}")


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("resource", resources(), ids=lambda one: f"{one.kind}-{one.metadata.name}")
def test_what_we_store_is_taken_and_comes_back_whole(cluster: KubernetesServer, resource: Resource, group: str) -> None:
    sent = as_custom(resource, group)
    sent["metadata"].pop("uid", None)
    path = path_of(resource.kind, resource.metadata.namespace, group)
    made = cluster.request("POST", f"{path}?fieldValidation=Strict&dryRun=All", sent)
    assert missing(sent.get("spec", {}), made["spec"]) == []


def assert_taken_whole(cluster: KubernetesServer, resource: Resource) -> None:
    namespace = "default" if KINDS[resource.kind].namespaced else ""
    name = resource.metadata.name
    for group in GROUPS:
        sent = as_custom(resource, group)
        sent["metadata"] = {"name": name, **({"namespace": namespace} if namespace else {})}
        if resource.kind == "BlockAffinity":
            sent["spec"]["deleted"] = "false" if group == CRD_GROUP else False
        path = path_of(resource.kind, namespace, group)
        made = cluster.request("POST", f"{path}?fieldValidation=Strict&dryRun=All", sent)
        assert missing(sent.get("spec", {}), made.get("spec", {})) == []


@pytest.mark.parametrize("kind", [info.kind for info in crds.custom_kinds()])
@settings(
    max_examples=8,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much, HealthCheck.too_slow],
)
@given(data=st.data())
def test_whatever_our_client_takes_the_server_takes(cluster: KubernetesServer, kind: str, data: st.DataObject) -> None:
    resource = with_defaults(data.draw(strategies.resources(kind)))
    if kind == "IPAMBlock":  # a time, which only the allocator writes
        resource = replace(resource, spec=replace(resource.spec, affinity_claim_time=None))
    if not validate.problems(resource, selector_check=selector.parse):
        assert_taken_whole(cluster, resource)


def test_policies_of_every_shape_are_taken_whole(cluster: KubernetesServer) -> None:
    for policy in generators.policies(random.Random(1), 40):
        assert_taken_whole(cluster, with_defaults(policy))


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("wrong", WRONG, ids=lambda one: one["name"])
def test_server_refuses_what_a_schema_can_judge(cluster: KubernetesServer, wrong: dict[str, Any], group: str) -> None:
    resource = wrong["resource"]
    sent = {**resource, "apiVersion": group, "kind": crds.names_in(KINDS[resource["kind"]], group)[0]}
    path = path_of(resource["kind"], resource["metadata"].get("namespace", ""), group)
    try:
        cluster.request("POST", f"{path}?dryRun=All&fieldValidation=Strict", sent)
        answer = 201
    except urllib.error.HTTPError as exc:
        answer = exc.code
    if wrong["refused"] and wrong["name"] not in BEYOND_A_SCHEMA:
        assert answer in (400, 422)
    else:
        assert answer == 201


def test_most_wrong_resources_are_judged() -> None:
    assert len(WRONG) >= 42
    assert sum(one["refused"] for one in WRONG) - len(BEYOND_A_SCHEMA) >= 34


@pytest.mark.parametrize("group", GROUPS)
def test_pool_cannot_be_given_other_addresses_or_blocks(cluster: KubernetesServer, group: str) -> None:
    path = path_of("IPPool", "", group)
    pool = {
        "apiVersion": group,
        "kind": "IPPool",
        "metadata": {"name": "fixed"},
        "spec": {"cidr": "10.1.0.0/16", "blockSize": 26},
    }
    cluster.request("POST", path, pool)
    try:
        for change in ({"cidr": "10.2.0.0/16"}, {"blockSize": 28}):
            with pytest.raises(urllib.error.HTTPError) as caught:
                cluster.request("PATCH", f"{path}/fixed", {"spec": change}, content_type="application/merge-patch+json")
            assert "cannot be changed" in caught.value.read().decode()
    finally:
        cluster.request("DELETE", f"{path}/fixed")


def test_misspelt_field_is_refused_and_without_strictness_taken_away(cluster: KubernetesServer) -> None:
    path = path_of("GlobalNetworkPolicy", "", NATIVE_GROUP)
    policy = {
        "apiVersion": NATIVE_GROUP,
        "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "typo"},
        "spec": {"selectr": "all()"},
    }
    with pytest.raises(urllib.error.HTTPError):
        cluster.request("POST", f"{path}?dryRun=All&fieldValidation=Strict", policy)
    made = cluster.request("POST", f"{path}?dryRun=All&fieldValidation=Ignore", policy)
    assert made["spec"] == {"tier": "default"}


# ── what people see ───────────────────────────────────────────────────────────────────────────────────────────────────


def kubectl(server: KubernetesServer, *arguments: str, text: str = "") -> str:
    command = [program("kubectl"), "--kubeconfig", str(server.kubeconfig), *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kubectl_takes_the_output_of_calicoctl_and_finds_nothing_to_change(cluster: KubernetesServer) -> None:
    command = [sys.executable, "-m", "calico_kernel.cli.calicoctl", "crds"]
    for more, verb in (
        (["-o", "yaml"], ["apply", "--server-side", "--force-conflicts"]),
        (["-o", "json"], ["replace"]),
        (["-o", "yaml", "--group", NATIVE_GROUP], ["apply", "--server-side", "--force-conflicts"]),
    ):
        said = subprocess.run([*command, *more], capture_output=True, text=True, check=True).stdout
        assert kubectl(cluster, *verb, "-f", "-", text=said).count("customresourcedefinition") == 22


def test_tables_of_kubectl_say_what_matters(cluster: KubernetesServer) -> None:
    pool = {
        "apiVersion": CRD_GROUP,
        "kind": "IPPool",
        "metadata": {"name": "blue"},
        "spec": {"cidr": "10.9.0.0/16", "vxlanMode": "Always", "natOutgoing": True},
    }
    text = yaml.safe_dump(pool)
    kubectl(cluster, "apply", "-f", "-", text=text)
    try:
        heading, row = kubectl(cluster, "get", "ippools.crd.projectcalico.org").splitlines()
        assert heading.split() == ["NAME", "CIDR", "VXLAN", "IPIP", "NAT", "DISABLED", "ALLOCATABLE", "AGE"]
        assert row.split()[:4] == ["blue", "10.9.0.0/16", "Always", "true"]
    finally:
        kubectl(cluster, "delete", "-f", "-", text=text)


def test_kubectl_explains_fields(cluster: KubernetesServer) -> None:
    said = kubectl(cluster, "explain", "felixconfigurations.spec.iptablesRefreshInterval", f"--api-version={CRD_GROUP}")
    assert "Default: " in said
    assert "FELIX_" in said
    said = kubectl(cluster, "explain", "networkpolicies.spec.ingress.source", f"--api-version={NATIVE_GROUP}")
    assert "One side of a rule." in said
