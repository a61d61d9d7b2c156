"""Thousands of documents that mean harm or mistake: each is taken or refused with a reason, and nothing else happens.

Every leaf and every branch of the recorded resources is replaced by something that does not belong there. What is taken
must read back as it was written: a value that can be stored but not read would be a time bomb.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from calico_kernel.cli.documents import resource_from
from calico_kernel.client import Client, ensure_initialized
from calico_kernel.errors import CalicoError
from calico_kernel.model import codec
from calico_kernel.model.documents import load
from calico_kernel.model.keys import key_of
from calico_kernel.testing.memory_datastore import MemoryDatastore

RESOURCES = load((Path(__file__).parent.parent / "model" / "data" / "resources.yaml").read_bytes())

HOSTILE: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**70,
    1.5,
    float("inf"),
    "",
    "x" * 5000,
    "\x00\x1b[31m",
    "../../etc/passwd",
    "10.0.0.0/99",
    "all() && !(((",
    [],
    [[]],
    [None],
    {},
    {"": ""},
    {"a": {"b": {"c": []}}},
)

KUBERNETES: list[dict[str, Any]] = [
    {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "shop", "labels": {"a": "b"}},
        "spec": {
            "podSelector": {"matchLabels": {"app": "web"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {
                    "from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
                    "ports": [{"protocol": "TCP", "port": 80, "endPort": 90}],
                }
            ],
            "egress": [{"to": [{"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}]}],
        },
    },
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "blue"}}},
    {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "web", "namespace": "shop"}},
]


def _places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*above, key)
            yield from _places(item, (*above, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield (*above, index)
            yield from _places(item, (*above, index))


def _damaged(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for place in _places(document):
        for harm in HOSTILE:
            made = copy.deepcopy(document)
            inside: Any = made
            for step in place[:-1]:
                inside = inside[step]
            inside[place[-1]] = harm
            yield f"{place} = {harm!r:.30}", made


@pytest.mark.parametrize(
    "document", [*RESOURCES, *KUBERNETES], ids=lambda document: f"{document['kind']}-{document['metadata'].get('name')}"
)
def test_damaged_document_is_taken_or_refused_with_a_reason(document: dict[str, Any]) -> None:
    client = Client(store=MemoryDatastore(), pause=lambda _seconds: None)
    ensure_initialized(client)
    tried = taken = 0
    wrong: list[str] = []
    for what, damaged in _damaged(document):
        tried += 1
        try:
            stored = client.apply(resource_from(damaged, "shop").resource)
        except CalicoError as exc:
            if not (exc.what and exc.todo):
                wrong.append(f"{what}: refused without a reason")
            continue
        except Exception as exc:  # noqa: BLE001  whatever it is, it is a fault that the test reports
            wrong.append(f"{what}: {type(exc).__name__}: {exc}")
            continue
        taken += 1
        key = key_of(stored)
        again = codec.decode(key, codec.encode(stored), revision=stored.metadata.resource_version)
        if again != stored:
            wrong.append(f"{what}: reads back as {again!r:.200}")
        if stored.kind == "IPPool":  # the next one would overlap it
            client.delete_unsafe(stored.kind, stored.metadata.name)
    assert not wrong, "\n".join(wrong)
    assert tried >= len(HOSTILE) and taken < tried
