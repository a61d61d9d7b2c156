from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from calico_kernel.errors import ConfigError
from calico_kernel.lab import seeds, topology
from calico_kernel.lab.cli import chosen_topology


def test_demo_spreads_every_namespace_over_both_racks_and_shares_nodes() -> None:
    demo = topology.demo()
    racks = {host.name: host.rack for host in demo.nodes}
    for namespace in demo.namespaces:
        members = [each for each in demo.workloads if each.namespace == namespace.name]
        assert len(members) == 3
        assert {racks[each.node] for each in members} == {"rack1", "rack2"}
    assert all(sum(each.node == host.name for each in demo.workloads) == 3 for host in demo.nodes)


def test_topology_survives_the_way_to_another_process() -> None:
    demo = topology.demo()
    assert topology.decode(topology.encode(demo)) == demo


@pytest.mark.parametrize(("nodes", "racks"), [(1, 1), (5, 2), (7, 3), (4, 4)])
def test_generated_topology_has_as_many_nodes_as_asked_in_no_more_racks(nodes: int, racks: int) -> None:
    made = topology.generated(nodes, racks)
    assert len(made.nodes) == nodes
    assert len(made.racks) <= racks
    assert len({host.ipv4 for host in made.nodes}) == nodes
    assert {each.node for each in made.workloads} <= {host.name for host in made.nodes}


def test_more_racks_than_nodes_is_refused() -> None:
    with pytest.raises(ConfigError, match="2 nodes cannot fill 3 racks"):
        topology.generated(2, 3)


@pytest.mark.parametrize(("nodes", "racks"), [(0, None), (None, 0), (-1, None), (0, 0)])
def test_a_lab_of_nothing_is_refused_and_not_taken_for_the_demo(nodes: int | None, racks: int | None) -> None:
    with pytest.raises(ConfigError, match="cannot fill"):
        chosen_topology(argparse.Namespace(topology=None, nodes=nodes, racks=racks))


def test_a_topology_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not text"):
        chosen_topology(argparse.Namespace(topology=tmp_path / "t.yaml", nodes=None, racks=None))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("racks: {}", "no node at all"),
        ("racks: {r: [a, a]}", "same name"),
        ("racks: {r: [Node]}", "not a name"),
        ("racks: {r: [core]}", "same name"),
        ("racks: {r: [a]}\nmtuBytes: 600", "1280-9000"),
        ("racks: {r: [a]}\npools: {p: {cidr: 10.0.0.1/8}}", "pools.p.cidr"),
        ("racks: {r: [a]}\nnamespaces: {n: {workloads: {w: {node: b}}}}", "no node b"),
        ("racks: {r: [a]}\nnamespaces: {n: {workloads: {w: {serviceAccount: x}}}}", "not among serviceAccounts"),
        ("racks: {r: [a]}\nextra: 1", "extra"),
        ("racks: {r: [a]}\ndatastore: consul", "consul"),
        ("racks: {r: [etcd]}\ndatastore: etcd", "a host is named etcd"),
        ("racks: {r: [kubernetes]}\ndatastore: kubernetes", "a host is named kubernetes"),
        ("racks: [", "not a lab topology"),
    ],
)
def test_impossible_topology_is_refused_with_its_reason(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        topology.load(text)


@pytest.mark.parametrize("datastore", ["etcd", "kubernetes"])
def test_server_of_the_datastore_is_a_host_outside_of_its_own_address(datastore: topology.Datastore) -> None:
    assert topology.demo().server is None
    made = topology.with_datastore(topology.demo(), datastore)
    assert made.server is not None
    assert made.server.ipv4 not in {host.ipv4 for host in (*made.nodes, *made.outside)}
    assert datastore in made.place_names()
    assert topology.load(f"racks: {{r: [a]}}\ndatastore: {datastore}").server == made.server


def test_seeds_are_a_pool_each_and_a_profile_for_each_namespace_and_account() -> None:
    made = seeds.documents(topology.demo())
    names = [(each["kind"], each["metadata"]["name"]) for each in made]
    assert len(names) == len(set(names)) == 2 + 3 + 3 * 2
    shop = next(each for each in made if each["metadata"]["name"] == "kns.shop")
    assert shop["spec"]["labelsToApply"]["pcns.team"] == "sales"
    assert shop["spec"]["labelsToApply"]["pcns.projectcalico.org/name"] == "shop"


def test_cluster_has_its_own_namespaces_and_accounts_so_that_only_pools_are_seeded() -> None:
    made = seeds.documents(topology.with_datastore(topology.demo(), "kubernetes"))
    assert {each["kind"] for each in made} == {"IPPool"}
