"""One real API server for each test session (of each worker), with definitions for Calico's resources that let anything
pass: these tests are about the store, and store what no schema would accept."""

from __future__ import annotations

import contextlib
import subprocess
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from calico_datastore_kdd.collection import CRD_GROUP, Collection, Group
from calico_datastore_kdd.mapping import open_mapping
from calico_datastore_kdd.testing import KubernetesServer
from calico_kernel.model.kinds import PLURALS

NAMESPACES = ("one", "two", "onemore", "shop", "lab")
USERS = ("somebody",)
"""Whom the server knows besides the administrator, and who may do nothing until a test permits it."""
KINDS = {"ipamblocks": "IPAMBlock", "blockaffinities": "BlockAffinity", "ipamhandles": "IPAMHandle"}


class Authority:
    """Signs certificates of users."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.certificate, self._key = directory / "authority.crt", directory / "authority.key"
        if not self.certificate.exists():
            self._openssl(
                *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=authority", "-days", "2"),
                *("-keyout", str(self._key), "-out", str(self.certificate)),
            )

    def sign(self, user: str, group: str, *, expired: bool = False) -> tuple[Path, Path]:
        """(certificate, key) of a user."""
        at = self._directory / f"{user}{'-expired' if expired else ''}"
        key, request, certificate = (at.with_suffix(suffix) for suffix in (".key", ".csr", ".crt"))
        subject = f"/O={group}/CN={user}"
        self._openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-subj", subject, "-keyout", str(key), "-out", str(request))
        )
        # Without a database of its own openssl signs from now on only; for 0 days is over at once.
        self._openssl(
            *("x509", "-req", "-in", str(request), "-CA", str(self.certificate), "-CAkey", str(self._key)),
            *("-CAcreateserial", "-days", "0" if expired else "2", "-out", str(certificate)),
        )
        return certificate, key

    @staticmethod
    def _openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="session")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesServer]:
    directory = tmp_path_factory.mktemp("kubernetes")
    authority = Authority(directory)
    server = KubernetesServer(directory / "server", arguments=("--client-ca-file", str(authority.certificate)))
    for user in USERS:
        server.kubeconfig_for(user)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def authority(kubernetes: KubernetesServer) -> Authority:
    """Whose certificates the server takes."""
    return Authority(kubernetes.directory.parent)


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
    """A server that answers from etcd: it forgets what etcd is told to forget, and nothing at a restart."""
    arguments = ("--watch-cache=false", "--etcd-compaction-interval=0")
    server = KubernetesServer(tmp_path_factory.mktemp("uncached"), arguments=arguments)
    server.start()
    prepare(server)
    yield server
    server.kill()


@pytest.fixture
def empty_uncached(uncached: KubernetesServer) -> KubernetesServer:
    wipe_all(uncached)
    return uncached


def prepare(server: KubernetesServer) -> None:
    install(server, CRD_GROUP)
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


@pytest.fixture(name="install")
def _install() -> Callable[..., None]:
    """Install definitions on a server under a group, all or some (by plural)."""
    return install


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


def install(server: KubernetesServer, group: Group, plurals: set[str] | None = None) -> None:
    """Install the definitions, and wait until they are served."""
    server.define(definition(group, c) for c in collections(group) if plurals is None or c.plural in plurals)
