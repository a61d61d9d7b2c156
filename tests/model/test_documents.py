from __future__ import annotations

import datetime
import enum
import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, Struct, field

from calico_kernel.errors import ValidationError
from calico_kernel.model import codec, documents, keys, kinds, validate
from calico_kernel.model.bgp import BGPPeer
from calico_kernel.model.endpoints import Node
from calico_kernel.model.meta import Resource, always
from calico_kernel.model.policy import GlobalNetworkPolicy, NetworkPolicy, Rule

HEAD = "apiVersion: projectcalico.org/v3\nkind: {}\nmetadata:\n  name: x\n"


def problems(text: str) -> list[tuple[str, str]]:
    with pytest.raises(ValidationError) as caught:
        documents.read_resources(text)
    return caught.value.problems


def test_documents_lists_and_arrays_are_taken_apart_in_order() -> None:
    text = """
apiVersion: projectcalico.org/v3
kind: TierList
items:
- metadata: {name: a}
- metadata: {name: b}
---
# nothing here
--- rest of the line is dropped
- {apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: c}}
---
{"kind": "List", "items": [{"apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": {"name": "d"}}]}
"""
    found = [(r.kind, r.metadata.name) for r in documents.read_resources(text)]
    assert found == [("Tier", "a"), ("Tier", "b"), ("Node", "c"), ("Node", "d")]


def test_line_ends_of_windows_and_a_byte_order_mark_are_no_obstacle() -> None:
    text = "\ufeffkind: A\r\n---\r\nkind: B\r\n--- # note\r\nkind: C\r\n"
    assert [d["kind"] for d in documents.load(text)] == ["A", "B", "C"]
    assert [d["kind"] for d in documents.load(text.encode())] == ["A", "B", "C"]


def test_empty_text_holds_no_document() -> None:
    assert documents.load("") == [] == documents.load("---\n---\n# only a comment\n")


def test_plain_scalars_are_read_as_go_reads_them() -> None:
    text = "a: [010, 0x10, 1_000, 1e3, .5, 22:30, 8000:8100, 2001-01-01, on, Off, y, ~, 09, '1', 1.5.2]"
    assert documents.load(text)[0]["a"] == [
        *(8, 16, 1000, 1000.0, 0.5, "22:30", "8000:8100", "2001-01-01", True, False, True, None, 9.0, "1", "1.5.2")
    ]


def test_numbers_and_booleans_become_text_where_text_belongs() -> None:
    text = HEAD.format("Node") + "  labels: {version: 1, ratio: 0.5, big: 1e3, on: yes, none: }\n"
    node = documents.read_resources(text)[0]
    assert node.metadata.labels == {"version": "1", "ratio": "0.5", "big": "1000", "true": "true"}


def test_values_are_brought_to_the_form_that_calico_stores() -> None:
    rule = '{action: Allow, protocol: "17", source: {}, destination: {ports: ["80", "90:90", "1:2", http]}}'
    policy = documents.read_resources(HEAD.format("GlobalNetworkPolicy") + f"spec: {{order: 5.0, ingress: [{rule}]}}")[
        0
    ]
    assert isinstance(policy, GlobalNetworkPolicy)
    (made,) = policy.spec.ingress
    assert (made.protocol, made.destination.ports, policy.spec.order) == (17, (80, 90, "1:2", "http"), 5)
    assert made.source is Rule(action="Allow").source
    peer = documents.read_resources(HEAD.format("BGPPeer") + 'spec: {asNumber: "1.10", maxRestartTime: 90s}')[0]
    assert isinstance(peer, BGPPeer)
    assert (peer.spec.as_number, peer.spec.max_restart_time) == (65546, "1m30s")


def test_every_problem_of_a_document_is_reported_with_its_path() -> None:
    text = HEAD.format("NetworkPolicy") + (
        "  namespce: a\nspec:\n  selectr: all()\n  order: first\n  ingress:\n  - action: Reject\n"
        "    protocol: 300\n    source: {nets: 10.0.0.0/8}\n  - Allow\n  types: {}\n"
    )
    assert dict(problems(text)) == {
        "metadata.namespce": "unknown field; did you mean 'namespace'?",
        "spec.selectr": "unknown field; did you mean 'selector'?",
        "spec.order": "must be a number, is 'first'",
        "spec.ingress[0].action": "must be one of Allow, Deny, Log, Pass, is 'Reject'",
        "spec.ingress[0].protocol": "protocol number 300 is not from 1 to 255",
        "spec.ingress[0].source.nets": "must be a list, is '10.0.0.0/8'",
        "spec.ingress[1]": "must be an object, is 'Allow'",
        "spec.types": "must be a list, is an object",
    }


def test_missing_required_field_is_reported_with_its_place() -> None:
    text = HEAD.format("GlobalNetworkPolicy") + "spec: {ingress: [{protocol: TCP}]}"
    ((path, reason),) = problems(text)
    assert path == "spec.ingress[0]" and "action" in reason


def test_field_names_are_found_in_any_case_and_nulls_count_as_absent() -> None:
    text = HEAD.format("NetworkPolicy") + "  namespace: n\nspec: {Selector: all(), ingress: , preDnat: }"
    text = text.replace("preDnat: ", "order: ")
    policy = documents.read_resources(text)[0]
    assert isinstance(policy, NetworkPolicy)
    assert policy.spec.selector == "all()" and policy.spec.ingress == ()


def test_what_kubernetes_adds_to_metadata_is_ignored() -> None:
    text = HEAD.format("Tier") + "  managedFields: [{manager: x}]\n  selfLink: /a\n  creationTimestamp: null\n"
    assert documents.read_resources(text)[0].metadata.name == "x"


@pytest.mark.parametrize(
    "head",
    [
        "apiVersion: projectcalico.org/v9\nkind: Tier",
        "apiVersion: projectcalico.org/v3\nkind: Nonsense",
        "apiVersion: projectcalico.org/v3\nkind: [Tier]",
        "apiVersion: projectcalico.org/v3\nkind: BlockAffinity",
        "apiVersion: v1\nkind: KubernetesService",
        "a: 1",
    ],
)
def test_unknown_kind_version_or_machine_kept_kind_is_refused(head: str) -> None:
    ((path, reason),) = problems(head + "\nmetadata: {name: x}\n")
    assert path == "kind" and reason.startswith("unknown resource type")


@pytest.mark.parametrize(
    "head",
    [
        "apiVersion: projectcalico.org/v3\nkind: networkpolicy",
        "apiVersion: crd.projectcalico.org/v1\nkind: NetworkPolicy",
        "kind: NetworkPolicy",
    ],
)
def test_a_kind_that_is_nearly_right_is_answered_with_what_to_write(head: str) -> None:
    ((_, reason),) = problems(head + "\nmetadata: {name: x}\n")
    assert reason.endswith("; write kind: NetworkPolicy and apiVersion: projectcalico.org/v3")


NESTED_ALIASES = "\n".join(
    ["a: &a [1,1,1,1,1,1,1,1,1,1]"]
    + [f"{n}: &{n} [" + ",".join([f"*{p}"] * 10) + "]" for p, n in zip("abcdefg", "bcdefgh", strict=True)]
)


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\na: 2",
        "a: &x [*x]",
        "a: [",
        "a: !!python/object/apply:os.system [x]",
        NESTED_ALIASES,
        "just text",
        "- 1",
        "? [a]\n: b",
        "[" * 3000,
        "a: " + "[" * 100 + "]" * 100,
        "a: 'unfinished",
        "\x00",
    ],
)
def test_text_that_is_no_good_yaml_is_refused_with_a_reason(text: str) -> None:
    assert all(reason for _, reason in problems(text))


def test_document_beyond_the_size_limit_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 100)
    assert "more than 100 bytes" in problems("a: " + "x" * 200)[0][1]


def test_bytes_that_are_no_utf8_are_refused() -> None:
    with pytest.raises(ValidationError, match="not UTF-8"):
        documents.load(b"\xff\xfe")


@pytest.mark.parametrize(
    ("metadata", "path"),
    [
        ({"labels": {"a": "\ud800"}}, "metadata.labels.a"),
        ({"labels": {"\udfff": "a"}}, "metadata.labels"),
        ({"generation": 2**63}, "metadata.generation"),
        ({"generation": 10**400}, "metadata.generation"),
    ],
)
def test_value_that_no_store_can_hold_is_refused(metadata: dict[str, Any], path: str) -> None:
    with pytest.raises(ValidationError) as caught:
        documents.to_resource({"apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": metadata})
    assert [p for p, _ in caught.value.problems] == [path]


class Shape(enum.Enum):
    ROUND = "round"


class Part(Struct, frozen=True):
    size: Annotated[int, Meta(ge=1)]


class GadgetSpec(Struct, frozen=True, kw_only=True, rename="camel"):
    """Types that no built-in kind uses, and a plain Struct without the base of the built-in ones."""

    parts: list[Part] = []
    shape: Shape | None = None
    made_at: datetime.datetime | None = None
    extra: Any = None
    either: Literal["a", "b"] | int = "a"


class Gadget(Resource, tag="Gadget"):
    api_version: str = always("acme.example/v1")
    spec: GadgetSpec = field(default_factory=GadgetSpec)
    plural = "gadgets"


@pytest.fixture
def gadgets() -> Iterator[None]:
    kinds.register(Gadget)
    yield
    kinds.unregister(Gadget)


@pytest.mark.usefixtures("gadgets")
def test_vendor_kind_may_use_any_type_and_its_own_version() -> None:
    text = """
apiVersion: acme.example/v1
kind: Gadget
metadata: {name: g}
spec: {parts: [{size: 2}], shape: round, madeAt: 2026-01-01T00:00:00Z, extra: {a: [1, null]}, either: 3}
"""
    (gadget,) = documents.read_resources(text)
    assert isinstance(gadget, Gadget)
    assert gadget.spec.parts == [Part(2)] and gadget.spec.shape is Shape.ROUND and gadget.spec.either == 3
    assert gadget.spec.extra == {"a": [1, None]}
    assert validate.problems(gadget) == []
    assert codec.decode(keys.key_of(gadget), codec.encode(gadget)) == gadget


@pytest.mark.usefixtures("gadgets")
def test_vendor_kind_is_refused_at_the_field_like_a_built_in_one() -> None:
    head = "apiVersion: acme.example/v1\nkind: Gadget\nmetadata: {name: g}\n"
    assert problems(head + "spec: {part: []}") == [("spec.part", "unknown field; did you mean 'parts'?")]
    assert problems(head + "spec: {parts: [{size: 0}]}") == [("spec.parts[0].size", "Expected `int` >= 1")]
    assert problems(head.replace("acme.example/v1", "projectcalico.org/v3"))[0][0] == "kind"


def test_json_input_and_document_output_are_inverse() -> None:
    text = json.dumps(
        {
            "kind": "Node",
            "apiVersion": "projectcalico.org/v3",
            "metadata": {"name": "n"},
            "spec": {"bgp": {"ipv4Address": "10.0.0.1/24"}},
            "status": {},
        }
    )
    (node,) = documents.read_resources(text)
    assert isinstance(node, Node)
    assert documents.to_builtins(node) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 100_000,
        '{"a":' * 100_000,
        "[" * 200 + "]" * 200,
        "- " * 50_000,
        "? " * 50_000,
        "".join(" " * level + "a:\n" + " " * level + "- b:\n" for level in range(40)),
        "".join(" " * level + "a:\n" for level in range(3_000)),
    ],
)
def test_a_text_nested_without_end_is_refused_and_nobody_dies(text: str) -> None:
    assert problems(text)[0][1].startswith(("is nested more than 64 deep", "is not YAML"))


def test_a_document_as_deep_as_any_real_one_is_read() -> None:
    text = "".join("  " * level + f"k{level}:\n" for level in range(60))
    assert documents.load(text)
