"""The same record in two datastores: what counts as equal, and what is told as lost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from calico_kernel.client import likeness
from calico_kernel.model import codec
from calico_kernel.model.endpoints import Node
from calico_kernel.model.ipam import IpamHandle
from calico_kernel.model.keys import HandleKey, Key, ResourceKey
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.wellknown import KUBERNETES_LABELS_ANNOTATION
from calico_kernel.testing.memory_datastore import MemoryDatastore

NODE, SET = ResourceKey("Node", "", "n1"), ResourceKey("GlobalNetworkSet", "", "s")


def raw(**changes: Any) -> bytes:
    document = {"kind": "GlobalNetworkSet", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "s"}}
    return json.dumps({**document, "spec": {"nets": ["10.0.0.0/8"]}, **changes}).encode()


class Cluster(MemoryDatastore):
    def derived_from(self, key: Key) -> str:
        return f"Node {key.name}" if isinstance(key, ResourceKey) and key.kind == "Node" else ""


def test_store_whose_nodes_are_objects_is_made_of_objects() -> None:
    assert likeness.made_of_objects(Cluster())
    assert not likeness.made_of_objects(MemoryDatastore())


def test_uid_and_time_of_the_object_make_no_difference_and_all_else_does() -> None:
    other = raw(metadata={"name": "s", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 3})
    assert likeness.equal(SET, raw(), other)
    assert not likeness.equal(SET, raw(), raw(spec={"nets": ["10.0.0.0/9"]}))
    assert not likeness.equal(SET, raw(), raw(metadata={"name": "s", "labels": {"a": "b"}}))
    handle = codec.encode(IpamHandle(block={"10.0.0.0/26": 1}))
    assert not likeness.equal(HandleKey("h"), handle, codec.encode(IpamHandle(block={"10.0.0.0/26": 2})))
    assert not likeness.equal(SET, b"{", b"[")


@pytest.mark.parametrize(
    ("wanted", "held", "lost"),
    [
        ({"a": 1}, {"a": 1, "filled": "in"}, []),
        ({"a": 1}, {"a": 2}, ["a"]),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [2, 1]}}, ["a.b"]),
        ({"rules": [{"x": 1}]}, {"rules": [{"x": 1, "y": 0}]}, []),
        ({"rules": []}, {"rules": [{"x": 1}]}, ["rules"]),
        ({"on": False}, {"on": True}, ["on"]),
        ({"on": False, "text": "", "none": None}, {}, []),
        ({"metadata": {"uid": "1", "labels": {"a": "b"}}}, {"metadata": {"uid": "2"}}, ["metadata.labels"]),
    ],
)
def test_field_that_is_otherwise_or_not_there_is_lost_and_what_was_filled_in_is_not(
    wanted: Any, held: Any, lost: list[str]
) -> None:
    assert likeness.lost(json.dumps(wanted).encode(), json.dumps(held).encode()) == lost


def test_note_whose_labels_are_kubernetes_stays_with_the_cluster() -> None:
    note = {KUBERNETES_LABELS_ANNOTATION: '{"zone":"a"}'}
    there = Node(metadata=ObjectMeta(name="n1", labels={"zone": "a"}, annotations=note))
    left = codec.decode(NODE, likeness.leaving(NODE, codec.encode(there)))
    assert isinstance(left, Node)
    assert (left.metadata.annotations, left.metadata.labels) == ({}, {"zone": "a"})
    assert likeness.entering(left, there).metadata.annotations == note
    assert likeness.entering(left, left) == left
