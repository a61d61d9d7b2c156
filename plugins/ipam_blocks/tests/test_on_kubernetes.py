"""The same contract over a real API server, with the definitions that we ship: blocks, affinities and handles are
custom resources there, and a node's own affinities are found by labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from calico_ipam_blocks.ipam import BlocksIpam
from calico_kernel.hookspecs import Datastore, Ipam
from calico_kernel.model.crds import custom_kinds, definition
from calico_kernel.testing.ipam import IpamContract, add_node

kdd = pytest.importorskip("calico_datastore_kdd.store", reason="calico-datastore-kdd is not installed")
KINDS = ("blockaffinities", "ipamblocks", "ipamconfigs", "ipamhandles", "ippools", "ipreservations")
RESOURCES = "/apis/crd.projectcalico.org/v1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from calico_datastore_kdd.testing import KubernetesServer

    made = KubernetesServer(tmp_path_factory.mktemp("kubernetes"))
    made.start()
    try:
        made.define(map(definition, custom_kinds()))
        for name in ("n1", "n2"):
            made.request("POST", "/api/v1/nodes", {"metadata": {"name": name}})
        yield made
    finally:
        made.kill()


class Anew(BlocksIpam):
    """Looks at pools anew each time: the API server's watch tells of a change some time later, and these tests do not
    wait between changing a pool and asking for its addresses."""

    def __init__(self, datastore: Datastore) -> None:
        super().__init__(datastore)
        refresh = self._inventory.refresh
        self._inventory.refresh = lambda *, anew=True: refresh(anew=True)  # type: ignore[method-assign]


class TestBlocksIpamOnKubernetes(IpamContract):
    @pytest.fixture
    def datastore(self, server: Any) -> Iterator[Datastore]:
        from calico_datastore_kdd.settings import KubernetesSettings

        self.server = server
        for plural in KINDS:
            server.request("DELETE", f"{RESOURCES}/{plural}")
        store: Datastore = kdd.KubernetesDatastore(
            KubernetesSettings(kubeconfig=str(server.kubeconfig), qps=0, request_timeout_s=3)
        )
        add_node(store, "n1", rack="a")
        add_node(store, "n2", rack="b")
        yield store
        store.close()

    @contextmanager
    def outage(self, datastore: Datastore) -> Iterator[None]:
        """The API server is gone."""
        self.server.kill_server()
        try:
            yield
        finally:
            self.server.start_server()
            self.server.wait_ready()

    @pytest.fixture
    def ipam(self, datastore: Datastore) -> Ipam:
        return Anew(datastore)

    def test_what_is_stored_is_found_by_calico(self, ipam: Ipam, datastore: Datastore) -> None:
        from calico_kernel.testing.ipam import add_pool, want

        add_pool(datastore, "p", "10.0.0.0/24")
        ipam.assign(want("Net.C1"))
        (affinity,) = self.server.request("GET", f"{RESOURCES}/blockaffinities")["items"]
        assert affinity["metadata"]["labels"]["projectcalico.org/affinity-type"] == "host"
        assert affinity["spec"] == {
            "cidr": affinity["spec"]["cidr"],
            "deleted": "false",
            "node": "n1",
            "state": "confirmed",
            "type": "host",
        }
        (handle,) = self.server.request("GET", f"{RESOURCES}/ipamhandles")["items"]
        assert handle["metadata"]["name"] == "net.c1" and handle["spec"]["handleID"] == "Net.C1"
        (block,) = self.server.request("GET", f"{RESOURCES}/ipamblocks")["items"]
        assert json.loads(block["metadata"]["annotations"]["projectcalico.org/metadata"]) == {}
        assert block["spec"]["affinity"] == "host:n1" and block["spec"]["attributes"][0]["handle_id"] == "Net.C1"
