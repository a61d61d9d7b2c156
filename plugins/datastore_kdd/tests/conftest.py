"""One real API server for each test session (of each worker), with definitions for Calico's resources that let anything
pass: these tests are about the store, and store what no schema would accept."""

from __future__ import annotations

import contextlib
import time
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest

from calico_datastore_kdd.collection import CRD_GROUP, Collection, Group
from calico_datastore_kdd.mapping import open_mapping
from calico_datastore_kdd.testing import KubernetesServer
from calico_kernel.model.kinds import PLURALS

NAMESPACES = ("one", "two", "onemore", "shop", "lab")
KINDS = {"ipamblocks": "IPAMBlock", "blockaffinities": "BlockAffinity", "ipamhandles": "IPAMHandle"}


@pytest.fixture(scope="session")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesServer]:
    server = KubernetesServer(tmp_path_factory.mktemp("kubernetes"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def calico(kubernetes: KubernetesServer) -> KubernetesServer:
    """With Calico's resources under their first group."""
    prepare(kubernetes)
    return kubernetes


@pytest.fixture
def empty(calico: KubernetesServer) -> KubernetesServer:
    wipe_all(calico)
    return calico


@pytest.fixture(scope="session")
def uncached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesServer]:
    """A server that answers from etcd, and so forgets what etcd forgets and nothing at a restart."""
    server = KubernetesServer(tmp_path_factory.mktemp("uncached"), arguments=("--watch-cache=false",))
    server.start()
    prepare(server)
    yield server
    server.kill()


@pytest.fixture
def empty_uncached(uncached: KubernetesServer) -> KubernetesServer:
    wipe_all(uncached)
    return uncached


def prepare(server: KubernetesServer) -> None:
    define(server, CRD_GROUP)
    for name in NAMESPACES:
        server.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})


def wipe_all(server: KubernetesServer) -> None:
    for collection in collections(CRD_GROUP):
        with contextlib.suppress(urllib.error.HTTPError):
            wipe(server, collection)


def collections(group: Group) -> list[Collection]:
    """Those with definitions of their own."""
    found = {c.url(): c for c in open_mapping(group).every_collection() if c.path == f"/apis/{group}"}
    return list(found.values())


def wipe(server: KubernetesServer, collection: Collection) -> None:
    if not collection.namespaced:
        server.request("DELETE", collection.url())
        return
    for item in server.request("GET", collection.url())["items"]:
        meta = item["metadata"]
        server.request("DELETE", collection.url(meta["namespace"], meta["name"]))


def definition(group: Group, collection: Collection) -> dict[str, Any]:
    name, version = group.split("/")
    kind = KINDS.get(collection.plural) or ("IPAMConfig" if collection.plural == "ipamconfigs" else "")
    kind = kind or PLURALS[collection.plural].kind
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{collection.plural}.{name}"},
        "spec": {
            "group": name,
            "scope": "Namespaced" if collection.namespaced else "Cluster",
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": collection.plural, "singular": kind.lower()},
            "versions": [
                {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}},
            ],
        },
    }


def define(server: KubernetesServer, group: Group, plurals: set[str] | None = None) -> None:
    """Install the definitions, and wait until they are served."""
    wanted = [c for c in collections(group) if plurals is None or c.plural in plurals]
    for collection in wanted:
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        server.request("POST", path, definition(group, collection))
    deadline = time.monotonic() + 60
    for collection in wanted:
        while True:
            try:
                server.request("GET", collection.url())
            except urllib.error.HTTPError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                break
