"""The sample's own tests, on the in-memory datastore that the kernel ships for plugin authors."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from calico_kernel.client import Client
from calico_kernel.errors import ValidationError
from calico_kernel.hookspecs import Services
from calico_kernel.model import kinds
from calico_kernel.model.endpoints import WorkloadEndpoint, WorkloadEndpointSpec
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.nodestate import WorkloadEndpointId
from calico_kernel.testing.memory_datastore import MemoryDatastore
from calico_sample.kinds import OWNER_LABEL, OWNER_VALIDATOR, Owner, OwnerSpec
from calico_sample.owners import Owners
from calico_sample.plugin import SampleSettings


@pytest.fixture
def store() -> Iterator[MemoryDatastore]:
    kinds.register(Owner)
    yield MemoryDatastore()
    kinds.unregister(Owner)


def started(store: MemoryDatastore, **settings: Any) -> Owners:
    services = Services(node="n1", log=logging.getLogger("test"), datastore=store)
    return Owners(SampleSettings(**settings), services)


def endpoint(pod: str, **labels: str) -> WorkloadEndpoint:
    spec = WorkloadEndpointSpec(orchestrator="k8s", node="n1", pod=pod, endpoint="eth0")
    return WorkloadEndpoint(metadata=ObjectMeta(name=pod, namespace="shop", labels=labels), spec=spec)


def test_endpoint_gets_the_default_owner_and_keeps_its_own(store: MemoryDatastore) -> None:
    owners = started(store, default_owner="ops")
    assert owners.creating(endpoint("a")).metadata.labels == {OWNER_LABEL: "ops"}
    assert owners.creating(endpoint("b", **{OWNER_LABEL: "web"})).metadata.labels == {OWNER_LABEL: "web"}
    assert {metric.labels["owner"]: metric.value for metric in owners.metrics()} == {"ops": 1, "web": 1}


def test_owner_with_a_limit_is_refused_more_and_may_again_after_one_went(store: MemoryDatastore) -> None:
    Client(store=store).create(Owner(metadata=ObjectMeta(name="ops"), spec=OwnerSpec(email="o@x.org", max_endpoints=1)))
    owners = started(store, default_owner="ops")
    owners.creating(endpoint("a"))
    with pytest.raises(ValidationError, match="owner ops has 1 endpoints here already"):
        owners.creating(endpoint("b"))
    owners.removed(WorkloadEndpointId("k8s", "shop/a", "eth0"))
    owners.creating(endpoint("b"))


def test_node_is_not_ready_while_too_many_have_no_owner(store: MemoryDatastore) -> None:
    owners = started(store, max_unowned=1)
    owners.creating(endpoint("a"))
    check = owners.health_check().check
    assert check().ok
    owners.creating(endpoint("b"))
    assert not check().ok and "2 endpoints have no owner" in check().reason


@pytest.mark.parametrize(
    ("spec", "field"),
    [(OwnerSpec(email="nobody"), "spec.email"), (OwnerSpec(email="a@b.c", max_endpoints=-1), "spec.maxEndpoints")],
)
def test_wrong_owner_is_refused_naming_the_field(spec: OwnerSpec, field: str) -> None:
    assert [path for path, _ in OWNER_VALIDATOR.check(Owner(spec=spec))] == [field]


def test_other_kinds_are_none_of_its_business() -> None:
    assert list(OWNER_VALIDATOR.check(endpoint("a"))) == []
