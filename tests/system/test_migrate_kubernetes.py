"""A cluster is carried through all three datastores, and by Calico's export and import: what a Kubernetes cluster makes
itself is left to it, all else arrives, and what cannot is told."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import msgspec
import pytest

from calico_datastore_etcd.testing import EtcdServer
from calico_datastore_kdd.settings import KubernetesSettings
from calico_datastore_kdd.store import KubernetesDatastore
from calico_datastore_kdd.testing import KubernetesServer
from calico_ipam_blocks.ipam import BlocksIpam
from calico_kernel.client import Client, ensure_initialized, likeness
from calico_kernel.client.lock import is_locked, lock, unlock
from calico_kernel.client.migrate import everything
from calico_kernel.errors import NotFound, NotPermitted
from calico_kernel.hookspecs import Datastore
from calico_kernel.model import crds, keys, kubernetes
from calico_kernel.model.endpoints import Node, WorkloadEndpoint
from calico_kernel.model.ipam import IpamHandle, IpamHost
from calico_kernel.model.keys import BlockKey, HandleKey, IpamHostKey, ResourceKey, ResourceQuery
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.network import GlobalNetworkSet, NetworkSetSpec
from calico_kernel.model.policy import NetworkPolicy, NetworkPolicySpec, Profile
from calico_kernel.model.records import Malformed
from calico_kernel.testing.ipam import add_node, add_pool, addresses, want
from tests.system.migration import Place, command, copied, etcd_place, load_golden, sqlite_place

if TYPE_CHECKING:
    from calico_kernel.model.records import Value

SHOP = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "sales"}}}
ACCOUNT = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "web", "namespace": "shop"}}
POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "allow-web", "namespace": "shop"},
    "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"], "ingress": [{}]},
}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web-1", "namespace": "shop", "labels": {"app": "web"}},
    "spec": {
        "nodeName": "rack1-host1",
        "serviceAccountName": "web",
        "containers": [
            {
                "name": "c",
                "image": "none.invalid/none",
                "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
            }
        ],
    },
}
NODES = ("rack1-host1", "rack2-host1")
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
RESOURCES = "/calico/resources/v3/projectcalico.org/"
WAIT_S = 30.0
POD_KEY = ResourceKey("WorkloadEndpoint", "shop", "rack1--host1-k8s-web--1-eth0")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesServer]:
    """With Calico's definitions, and the objects that the golden cluster had."""
    server = KubernetesServer(tmp_path_factory.mktemp("kubernetes"))
    server.start()
    server.define(map(crds.definition, crds.custom_kinds()))
    server.request("POST", "/api/v1/namespaces", SHOP)
    for account in (ACCOUNT, {**ACCOUNT, "metadata": {"name": "default", "namespace": "shop"}}):
        server.request("POST", "/api/v1/namespaces/shop/serviceaccounts", account)
    for name in NODES:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"zone": "a"}}}
        server.request("POST", "/api/v1/nodes", node)
    server.request("POST", "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies", POLICY)
    server.request("POST", "/api/v1/namespaces/shop/pods", POD)
    yield server
    server.kill()


class Places(NamedTuple):
    first: Place
    etcd: Place
    kubernetes: Place
    last: Place


@pytest.fixture
def places(tmp_path: Path, etcd_server: EtcdServer, cluster: KubernetesServer) -> Iterator[Places]:
    with contextlib.ExitStack() as stack:
        kube = KubernetesDatastore(KubernetesSettings(kubeconfig=str(cluster.kubeconfig)))
        stack.callback(kube.close)
        for record in kube.list(everything()).records:
            with contextlib.suppress(NotFound, NotPermitted):
                kube.delete(record.key)
        yield Places(
            sqlite_place(stack, tmp_path, "first"),
            etcd_place(stack, tmp_path, etcd_server),
            Place(tmp_path, "kubernetes", f"{{plugin: kdd, kubeconfig: {cluster.kubeconfig}}}", kube),
            sqlite_place(stack, tmp_path, "last"),
        )


def load_mirrored(store: Datastore) -> None:
    """What Calico stored, and beside it what its controllers mirror, and a handle that is not all in lower case."""
    load_golden(store)
    for document in (SHOP, ACCOUNT, POLICY):
        made = kubernetes.convert(document).resource
        store.create(keys.key_of(made), made)
    store.create(HandleKey("Net.Upper-Case"), IpamHandle(block={"10.65.37.192/26": 1}))
    store.create(IpamHostKey(NODES[0]), IpamHost())


def test_golden_cluster_goes_round_all_three_datastores(places: Places) -> None:
    first, etcd, kube, last = places
    load_mirrored(first.store)
    before = first.contents()
    copied(first, etcd)
    assert etcd.contents() == before
    report = copied(etcd, kube)
    assert report["verified"] and report["underived"] == {}
    homeless = {
        *(f"{RESOURCES}profiles/{name}" for name in ("allow-mgmt", "bench")),
        *(f"{RESOURCES}workloadendpoints/default/rack1--host1-cni-gold00000000000{n}-eth0" for n in (0, 2, 3)),
    }
    assert set(report["homeless"]) == homeless
    assert report["adjusted"] == {
        f"{RESOURCES}nodes/rack1-host1": ["spec.addresses"],
        keys.path(POD_KEY): ["spec.interfaceName", "spec.mac"],
    }
    copied(kube, last)
    after = last.contents()
    assert set(before) - set(after) == homeless | {keys.path(IpamHostKey(NODES[0]))}
    for path, raw in before.items():
        key = keys.parse(path)
        if path in after and key is not None and not kube.store.derived_from(key):
            assert likeness.equal(key, raw, after[path]), path
    for path in set(before) & set(after):
        assert likeness.lost(before[path], after[path]) == report["adjusted"].get(path, []), path
    assert [is_locked(place.store) for place in places] == [True, True, True, False]


def test_what_the_cluster_makes_itself_becomes_records_of_their_own(places: Places) -> None:
    first, etcd, kube, _ = places
    load_mirrored(first.store)
    copied(first, kube)
    unlock(Client(store=kube.store))
    copied(kube, etcd)
    pod = etcd.store.get(POD_KEY).value
    assert isinstance(pod, WorkloadEndpoint)
    assert pod.spec.ip_networks == ("10.65.0.20/32",) and pod.spec.profiles == ("kns.shop", "ksa.shop.web")
    policy = etcd.store.get(ResourceKey("NetworkPolicy", "shop", "knp.default.allow-web")).value
    assert isinstance(policy, NetworkPolicy) and policy.spec.order == 1000
    namespace = etcd.store.get(ResourceKey("Profile", "", "kns.shop")).value
    assert isinstance(namespace, Profile) and namespace.spec.labels_to_apply["pcns.team"] == "sales"
    node = etcd.store.get(ResourceKey("Node", "", NODES[0])).value
    assert isinstance(node, Node) and node.spec.bgp is not None and node.spec.bgp.as_number == 64601
    assert node.metadata.annotations == {} and node.metadata.labels["zone"] == "a"
    assert not etcd.store.derived_from(POD_KEY)


def test_finished_copy_into_a_cluster_repeated_changes_nothing(places: Places) -> None:
    first, _, kube, _ = places
    load_mirrored(first.store)
    copied(first, kube)
    there = kube.contents()
    report = copied(first, kube)
    assert (report["written"], report["deleted"]) == (0, 0)
    assert kube.contents() == there
    assert is_locked(first.store) and not is_locked(kube.store)


def test_cluster_that_holds_other_resources_is_refused_and_its_own_objects_do_not_count(places: Places) -> None:
    first, _, kube, _ = places
    load_mirrored(first.store)
    add_pool(kube.store, "theirs", "10.9.0.0/16")
    before = cluster_objects(kube)
    ran = subprocess.run(command(first, kube), capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and "not of this copy (IPPool 1)" in json.loads(ran.stdout)["error"]
    assert not is_locked(first.store) and not is_locked(kube.store)
    assert copied(first, kube, "--overwrite")["deleted"] == 1
    assert cluster_objects(kube) == before


def cluster_objects(kube: Place) -> set[str]:
    found = [key for key, _ in kube.store.list_stored(everything())]
    return {keys.path(key) for key in found if isinstance(key, ResourceKey) and kube.store.derived_from(key)}


def test_policy_whose_namespace_is_missing_ends_the_copy_locked_until_it_is_there(
    places: Places, cluster: KubernetesServer
) -> None:
    first, _, kube, _ = places
    ensure_initialized(Client(store=first.store))
    for name in ("absent", "later"):
        policy = NetworkPolicy(metadata=ObjectMeta(name="closed", namespace=name), spec=NetworkPolicySpec())
        Client(store=first.store).create(policy)
    add_node(first.store, "unknown")
    ran = subprocess.run(command(first, kube), capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    said = json.loads(ran.stdout)
    assert "2 policies or network sets cannot be brought" in said["error"] and "absent" in said["error"]
    assert "--partial" in said["todo"]
    assert is_locked(first.store) and is_locked(kube.store)
    cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": "later"}})
    report = copied(first, kube, "--partial")
    assert report["resumed"] and report["verified"]
    assert set(report["underived"]) == {
        f"{RESOURCES}nodes/unknown",
        f"{RESOURCES}networkpolicies/absent/closed",
    }
    assert report["underived"][f"{RESOURCES}nodes/unknown"] == "Node unknown"
    assert kube.store.get(ResourceKey("NetworkPolicy", "later", "closed"))


def test_person_is_told_what_the_cluster_does_not_hold_and_what_it_says_otherwise(places: Places) -> None:
    first, _, kube, _ = places
    load_mirrored(first.store)
    add_node(first.store, "unknown")
    client = Client(store=first.store)
    node = client.get("Node", NODES[1])
    client.update(msgspec.structs.replace(node, metadata=msgspec.structs.replace(node.metadata, labels={"zone": "b"})))
    ran = subprocess.run(command(first, kube, "-o", "text"), capture_output=True, text=True, check=False)
    said = ran.stdout.splitlines()
    assert ran.returncode == 0, ran.stderr
    assert f"  {RESOURCES}nodes/unknown: Node unknown" in said
    assert f"  {RESOURCES}nodes/{NODES[1]}: metadata.labels.zone" in said
    (profile,) = [line for line in said if "profiles/bench" in line]
    assert "Kubernetes has no place for it" in profile


def test_field_that_the_definitions_do_not_keep_is_told(places: Places) -> None:
    first, _, kube, _ = places
    ensure_initialized(Client(store=first.store))
    raw = b'{"kind":"GlobalNetworkSet","metadata":{"name":"new"},"spec":{"nets":["10.0.0.0/8"],"colour":"blue"}}'
    first.store.put(ResourceKey("GlobalNetworkSet", "", "new"), cast("Value", Malformed("newer", raw)))
    report = copied(first, kube)
    assert report["adjusted"] == {f"{RESOURCES}globalnetworksets/new": ["spec.colour"]}


def test_copy_into_a_cluster_killed_half_way_goes_on_where_it_was(places: Places) -> None:
    first, _, kube, _ = places
    ensure_initialized(Client(store=first.store))
    for number in range(400):
        value = GlobalNetworkSet(
            metadata=ObjectMeta(name=f"s{number:03}"), spec=NetworkSetSpec(nets=(f"10.{number % 256}.0.0/16",))
        )
        first.store.create(keys.key_of(value), value)
    process = subprocess.Popen(command(first, kube), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + WAIT_S
    while len(kube.store.list([ResourceQuery("GlobalNetworkSet")]).records) < 50 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -9
    there = len(kube.store.list([ResourceQuery("GlobalNetworkSet")]).records)
    assert 50 <= there < 400
    assert is_locked(first.store) and is_locked(kube.store)
    report = copied(first, kube)
    assert report["resumed"] and report["alreadyThere"] >= there
    assert report["written"] == report["records"] - 1 - report["alreadyThere"]
    assert len(kube.store.list([ResourceQuery("GlobalNetworkSet")]).records) == 400


def test_addresses_go_on_in_the_cluster_and_none_is_given_twice(places: Places) -> None:
    first, _, kube, last = places
    ensure_initialized(Client(store=first.store))
    add_pool(first.store, "main", "10.8.0.0/24")
    for node in NODES:
        add_node(first.store, node)
    ipam = BlocksIpam(first.store)
    held = {f"W.{number}": addresses(ipam.assign(want(f"W.{number}", NODES[number % 2]))) for number in range(20)}
    copied(first, kube)
    ipam = BlocksIpam(kube.store)
    assert not ipam.check()
    for number in range(20, 60):
        held[f"W.{number}"] = addresses(ipam.assign(want(f"W.{number}", NODES[number % 2])))
    copied(kube, last)
    ipam = BlocksIpam(last.store)
    for handle, mine in held.items():
        assert [one.address for one in ipam.addresses_by_handle(handle)] == list(mine)
    given = [address for mine in held.values() for address in mine]
    assert len(given) == len(set(given)) == 60
    assert not ipam.check()


def test_calicos_export_and_import_go_into_a_cluster_and_out_of_it(places: Places, tmp_path: Path) -> None:
    first, etcd, kube, last = places
    load_mirrored(first.store)
    copied(first, etcd)
    into = migrate(kube, "import", "-f", str(exported(etcd, tmp_path / "etcd.txt")))
    assert "Successfully applied 8 IPAM resource(s)" in into and is_locked(kube.store)
    assert kube.store.get(BlockKey("10.65.37.192/26")).value == etcd.store.get(BlockKey("10.65.37.192/26")).value
    assert kube.store.get(HandleKey("Net.Upper-Case"))
    migrate(last, "import", "-f", str(exported(kube, tmp_path / "kubernetes.txt")))
    names = {path for path in last.contents() if "knp.default." in path or "/kcnp." in path}
    assert names == set()
    for kind in ("GlobalNetworkPolicy", "NetworkPolicy", "IPPool", "FelixConfiguration", "Tier"):
        ours, theirs = (Client(store=place.store).list(kind).items for place in (last, etcd))
        wanted = {one.metadata.name: one.spec for one in theirs if not one.metadata.name.startswith("knp.default.")}
        assert {one.metadata.name: one.spec for one in ours} == wanted


def exported(place: Place, path: Path) -> Path:
    lock(Client(store=place.store))
    path.write_text(migrate(place, "export"))
    return path


def migrate(place: Place, *arguments: str) -> str:
    program = [sys.executable, "-m", "calico_kernel.cli.calicoctl", "-c", str(place.config), "datastore", "migrate"]
    ran = subprocess.run([*program, *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    return ran.stdout
