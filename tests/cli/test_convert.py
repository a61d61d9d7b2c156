"""calicoctl convert: from Calico's first API and from Kubernetes, ready to be applied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

DATA = Path(__file__).parents[2] / "plugins" / "datastore_kdd" / "tests" / "data"
OLD = """
apiVersion: v1
kind: policy
metadata: {name: a.b}
spec: {selector: role == 'db', ingress: [{action: allow, protocol: tcp, destination: {ports: [6379]}}]}
---
apiVersion: v1
kind: ipPool
metadata: {cidr: 10.1.0.0/16}
spec: {nat-outgoing: true}
"""
KUBERNETES = """
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: shop}
spec: {podSelector: {}}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop}
spec: {nodeName: n1}
status: {podIP: 10.1.0.7, phase: Running}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
---
apiVersion: v1
kind: Service
metadata: {name: web}
"""


def test_what_is_made_of_v1_can_be_applied(ctl: Any) -> None:
    ran = ctl("convert", "-f", "-", text=OLD)
    assert ran.status == 0
    assert "policy(a.b): metadata.name 'a.b' becomes 'a-b-" in ran.err
    assert ctl("apply", "-f", "-", text=ran.out).out == "Successfully applied 2 resource(s)\n"
    again = ctl("convert", "-f", "-", text=ran.out)  # v3 passes as it is
    assert again.out == ran.out and again.err == ""


def test_one_document_is_an_object_and_json_is_offered(ctl: Any) -> None:
    one = json.loads(ctl("convert", "-f", "-", "-o", "json", text=OLD.partition("---")[2]).out)
    assert (one["kind"], one["metadata"]["name"], one["spec"]["cidr"]) == ("IPPool", "10-1-0-0-16", "10.1.0.0/16")


def test_kubernetes_documents_are_converted_and_the_rest_named(ctl: Any) -> None:
    ran = ctl("convert", "-f", "-", "-o", "json", text=KUBERNETES)
    assert ran.status == 0
    made = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in json.loads(ran.out)]
    assert made == [
        ("Profile", None, "kns.shop"),
        ("NetworkPolicy", "shop", "deny"),
        ("WorkloadEndpoint", "shop", "n1-k8s-web--1-eth0"),
    ]
    assert ctl("apply", "-f", "-", text=ran.out).status == 0
    assert "Deployment(web) is passed over" in ran.err and "Service(web) is passed over" in ran.err


def test_wrong_field_in_a_directory_is_named_with_its_file_and_nothing_written(ctl: Any, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(OLD)
    (tmp_path / "b.yaml").write_text(OLD.replace("allow", "perhaps").replace("10.1.0.0/16", "10.1.0.0/99"))
    ran = ctl("convert", "-f", str(tmp_path))
    assert ran.status == 1 and ran.out == ""
    assert f"{tmp_path}/b.yaml: policy(a.b): spec.ingress[0].action: must be one of allow, deny, log, pass" in ran.err
    assert "ipPool(10.1.0.0/99): metadata.cidr" in ran.err


def test_result_is_validated_unless_told_otherwise(ctl: Any) -> None:
    text = OLD.replace("protocol: tcp, ", "")
    refused = ctl("convert", "-f", "-", text=text)
    assert refused.status == 1 and refused.out == ""
    assert "policy(a.b) became GlobalNetworkPolicy(a-b-" in refused.err
    assert "spec.ingress[0].destination.ports: " in refused.err and "--ignore-validation" in refused.err
    assert ctl("convert", "-f", "-", "--ignore-validation", text=text).status == 0


def test_two_documents_that_would_be_one_resource_are_refused(ctl: Any) -> None:
    two = "---\n".join(f"apiVersion: v1\nkind: node\nmetadata: {{name: {name}}}\n" for name in ("Host_1", "host-1"))
    ran = ctl("convert", "-f", "-", text=two)
    assert ran.status == 1 and "node(Host_1) and node(host-1) would both be Node(host-1)" in ran.err


def test_kind_that_both_have_can_be_said_to_be_calicos(ctl: Any) -> None:
    text = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {bgp: {ipv4Address: 192.0.2.1/24}}\n"
    assert "unknown resource type (Node)" in ctl("convert", "-f", "-", text=text).err
    assert ctl("convert", "-f", "-", "--from", "calico", text=text).out.startswith("apiVersion: projectcalico.org/v3")


def test_custom_resources_become_what_calicoctl_showed_of_them(ctl: Any, tmp_path: Path) -> None:
    """Every object that Calico stored in an API server, as ``kubectl get -o json`` writes it."""
    stored = [json.loads(line) for line in (DATA / "calico-kdd.jsonl").read_text().splitlines()]
    objects = [one for one in stored if one["apiVersion"] == "crd.projectcalico.org/v1"]
    (tmp_path / "custom.json").write_text(json.dumps(objects))
    ran = ctl("convert", "-f", f"{tmp_path}/custom.json", "-o", "json")
    assert ran.status == 0, ran.err
    assert ran.err.count("is passed over") == 5  # blocks, a handle, affinities
    made = {(one["kind"], one["metadata"]["name"]): one for one in json.loads(ran.out)}
    assert len(made) == len(objects) - 5 >= 25
    shown = yaml.safe_load((DATA / "calico-networkpolicy.yaml").read_text())["items"]
    expected = next(one for one in shown if one["metadata"]["name"] == "web-to-api")
    assert made["NetworkPolicy", "web-to-api"]["spec"] == expected["spec"]
    assert made["NetworkPolicy", "web-to-api"]["metadata"] == {
        name: value for name, value in expected["metadata"].items() if name in ("name", "namespace", "labels")
    }
    assert made["HostEndpoint", "rack1-host1-eth0"]["metadata"]["labels"] == {"role": "edge"}
    assert made["IPAMConfiguration", "default"]["spec"]["maxBlocksPerHost"] == 20
    writable = [one for one in json.loads(ran.out) if one["kind"] != "ClusterInformation"]
    assert ctl("apply", "-f", "-", text=json.dumps(writable)).status == 0


def test_custom_resource_of_an_old_release_loses_the_prefix_that_its_object_had(ctl: Any) -> None:
    text = "apiVersion: crd.projectcalico.org/v1\nkind: GlobalNetworkPolicy\nmetadata: %s\nspec: {selector: all()}\n"
    old = text % "{name: default.web, uid: x, annotations: {a: b}}"
    assert json.loads(ctl("convert", "-f", "-", "-o", "json", text=old).out)["metadata"] == {
        "name": "web",
        "annotations": {"a": "b"},
    }
    broken = text % "{name: a, annotations: {projectcalico.org/metadata: '{'}}"
    assert "metadata.annotations.projectcalico.org/metadata: is not JSON" in ctl("convert", "-f", "-", text=broken).err


@pytest.mark.parametrize("command", ["apply", "validate"])
def test_other_commands_say_how_to_convert(ctl: Any, command: str) -> None:
    ran = ctl(command, "-f", "-", text=OLD)
    assert ran.status == 1 and "policy(a.b) is of Calico's first API" in ran.err and "calicoctl convert" in ran.err


def test_empty_input_is_refused_and_no_datastore_is_needed(ctl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no resources specified" in ctl("convert", "-f", "-").err
    monkeypatch.setenv("CALICO_CONFIG", "/nowhere.yaml")
    assert ctl("convert", "-f", "-", text=OLD).status == 0
