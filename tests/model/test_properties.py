"""Laws: nothing is lost between memory, store and document, and nothing that anybody writes breaks a reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calico_kernel.errors import ValidationError
from calico_kernel.model import codec, documents, durations, kubernetes, names, validate
from calico_kernel.model import keys as k
from calico_kernel.model.defaults import with_defaults
from calico_kernel.model.endpoints import WorkloadEndpoint
from calico_kernel.model.kinds import KINDS
from calico_kernel.model.meta import Resource
from calico_kernel.model.names import EndpointIds
from calico_kernel.model.records import Malformed
from calico_kernel.testing.strategies import keys, resources

quick = settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
fuzz = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])

T = TypeVar("T")

JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)


def made_or_refused(make: Callable[[Any], T], given: Any) -> T | None:
    """What ``make`` makes; None when it refuses with problems. Any other exception fails the test."""
    refused: list[ValidationError] = []
    try:
        return make(given)
    except ValidationError as exc:
        refused.append(exc)
    assert refused[0].problems
    return None


@pytest.mark.parametrize("kind", sorted(KINDS))
@quick
@given(data=st.data())
def test_what_is_stored_is_read_back_the_same(kind: str, data: st.DataObject) -> None:
    resource: Resource = data.draw(resources(kind))
    raw = codec.encode(resource)
    value = codec.decode(k.key_of(resource), raw)
    assert value == resource
    assert codec.encode(value) == raw


@pytest.mark.parametrize("kind", sorted(KINDS))
@quick
@given(data=st.data())
def test_document_of_a_resource_describes_that_resource(kind: str, data: st.DataObject) -> None:
    resource: Resource = data.draw(resources(kind))
    document = documents.to_builtins(resource)
    assert documents.to_resource(document, internal=True) == resource
    as_yaml = "# read as YAML, not as JSON\n" + json.dumps(document, ensure_ascii=True)
    assert documents.load(as_yaml) == [document]


@pytest.mark.parametrize("kind", sorted(KINDS))
@quick
@given(data=st.data())
def test_defaults_come_to_rest_and_validation_always_answers(kind: str, data: st.DataObject) -> None:
    resource: Resource = data.draw(resources(kind))
    filled = with_defaults(resource)
    assert with_defaults(filled) == filled
    assert all(isinstance(path, str) and reason for path, reason in validate.problems(filled))


@pytest.mark.parametrize("kind", sorted(KINDS))
@quick
@given(data=st.data())
def test_fields_drawn_as_acceptable_pass_the_field_checks(kind: str, data: st.DataObject) -> None:
    """The strategies and the checks read the same descriptions: a field alone is never refused."""
    resource: Resource = data.draw(resources(kind))
    found: list[tuple[str, str]] = []
    validate.struct_problems(resource, "", found, None)
    assert [problem for problem in found if problem[1] != "must be given"] == []


@given(key=keys())
@settings(max_examples=300, deadline=None)
def test_every_key_comes_back_from_its_path(key: k.Key) -> None:
    assert k.parse(k.path(key)) == key


@given(text=st.text(max_size=60))
@fuzz
def test_any_path_is_a_key_or_nothing(text: str) -> None:
    for path in (text, f"/calico/ipam/v2/{text}", f"/calico/resources/v3/projectcalico.org/{text}"):
        key = k.parse(path)
        assert key is None or k.parse(k.path(key)) == key


@given(kind=st.sampled_from(sorted(KINDS)), value=JSON)
@fuzz
def test_any_stored_bytes_decode_to_a_value_or_to_malformed(kind: str, value: Any) -> None:
    key = k.ResourceKey(kind, "ns" if KINDS[kind].namespaced else "", "x")
    for document in (value, {"kind": kind, "metadata": value}, {"kind": kind, "spec": value}):
        decoded = codec.decode(key, json.dumps(document).encode())
        assert isinstance(decoded, Resource | Malformed)
    assert isinstance(codec.decode(key, repr(value).encode()[:40]), Resource | Malformed)


@given(kind=st.sampled_from(sorted(KINDS)), value=JSON)
@fuzz
def test_any_document_is_a_resource_or_a_validation_error(kind: str, value: Any) -> None:
    for body in ({"metadata": value}, {"spec": value}, {"metadata": {"name": "x"}, "spec": {"ingress": [value]}}):
        document = {"apiVersion": "projectcalico.org/v3", "kind": kind, **body}
        resource = made_or_refused(documents.to_resource, document)
        if resource is not None:
            filled = with_defaults(resource)
            validate.problems(filled)
            codec.encode(filled)


@given(
    kind=st.sampled_from(["NetworkPolicy", "Namespace", "ServiceAccount", "Pod", "Service", "EndpointSlice"]),
    value=JSON,
)
@fuzz
def test_any_kubernetes_object_is_converted_or_refused(kind: str, value: Any) -> None:
    versions = {"NetworkPolicy": "networking.k8s.io/v1", "EndpointSlice": "discovery.k8s.io/v1"}
    head = {"apiVersion": versions.get(kind, "v1"), "kind": kind}
    for body in (
        {"metadata": value},
        {"metadata": {"name": "x"}, "spec": value},
        {"metadata": {"name": "x"}, "spec": {"podSelector": {}, "ingress": [{"from": [value], "ports": [value]}]}},
        {"metadata": {"name": "x", "annotations": value}, "spec": {"nodeName": "n"}, "status": {"podIP": value}},
    ):
        made = made_or_refused(kubernetes.convert, {**head, **body})
        if made is not None:
            codec.encode(made.resource)


@given(text=st.text(max_size=80))
@fuzz
def test_any_text_is_documents_or_a_validation_error(text: str) -> None:
    found = made_or_refused(documents.load, text)
    assert found is None or all(isinstance(document, dict) for document in found)


@given(nanoseconds=st.integers(-(2**62), 2**62))
@fuzz
def test_duration_comes_back_from_its_text(nanoseconds: int) -> None:
    assert durations.parse_duration(durations.format_duration(nanoseconds)) == nanoseconds


SEGMENT = st.from_regex(r"[a-z0-9.]([-a-z0-9.]{0,6}[a-z0-9.])?", fullmatch=True)


@given(node=SEGMENT, third=SEGMENT, endpoint=SEGMENT, orchestrator=st.sampled_from(["k8s", "cni", "other"]))
@fuzz
def test_endpoint_name_comes_apart_into_what_it_was_made_of(
    node: str, third: str, endpoint: str, orchestrator: str
) -> None:
    part = {"k8s": "pod", "cni": "container_id"}.get(orchestrator, "workload")
    ids = msgspec.structs.replace(EndpointIds(node=node, orchestrator=orchestrator, endpoint=endpoint), **{part: third})
    assert names.parse_workload_endpoint_name(names.workload_endpoint_name(ids)) == ids


@given(revision=st.text(max_size=5))
@fuzz
def test_revision_never_reaches_the_store(revision: str) -> None:
    key = k.ResourceKey("WorkloadEndpoint", "ns", "w")
    value = codec.decode(key, b'{"kind":"WorkloadEndpoint"}', revision=revision)
    assert isinstance(value, WorkloadEndpoint) and value.metadata.resource_version == revision
    assert b"resourceVersion" not in codec.encode(value)
