"""``calicoctl crds``."""

from __future__ import annotations

import json
from typing import Any

import yaml


def test_yaml_holds_one_document_for_each_kind(ctl: Any) -> None:
    documents = list(yaml.safe_load_all(ctl("crds").out))
    assert len(documents) == 22
    assert {one["kind"] for one in documents} == {"CustomResourceDefinition"}
    assert {one["spec"]["group"] for one in documents} == {"crd.projectcalico.org"}


def test_json_is_one_list(ctl: Any) -> None:
    listed = json.loads(ctl("crds", "-o", "json", "--group", "projectcalico.org/v3").out)
    assert (listed["apiVersion"], listed["kind"], len(listed["items"])) == ("v1", "List", 22)


def test_kinds_are_chosen_by_any_of_their_names(ctl: Any) -> None:
    ran = ctl("crds", "--kind", "tier", "--kind", "ippools", "-o", "json")
    assert [one["spec"]["names"]["kind"] for one in json.loads(ran.out)["items"]] == ["IPPool", "Tier"]


def test_kind_without_a_definition_is_refused_with_the_reason(ctl: Any) -> None:
    ran = ctl("crds", "--kind", "node")
    assert ran.status == 1
    assert ran.err == "Node has no definition: Kubernetes keeps it as an object of its own\n"
    assert ctl("crds", "--kind", "wall").err == "'wall' is not a kind that is known here\n"
