"""Routes, tunnel ends, hosts and pools, by hand against what Felix's resolvers give."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from calico_kernel.model.felix import FelixConfiguration, FelixConfigurationSpec
from calico_kernel.model.keys import ResourceKey
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.nodestate import (
    ActivePool,
    Encapsulation,
    EncapsulationNeeds,
    HostAddresses,
    Route,
    RouteKind,
    Vtep,
)

REMOTE, LOCAL = RouteKind.REMOTE_WORKLOAD, RouteKind.LOCAL_WORKLOAD


def test_remote_block_in_vxlan_pool_is_routed_to_its_node(make: SimpleNamespace) -> None:
    n1 = make.node1(
        make.node("n2", "172.16.0.2/24"),
        make.pool("p", "10.0.0.0/16", vxlan_mode="Always", nat_outgoing=True),
        make.block("10.0.1.0/26", "host:n2"),
    )
    assert n1.routes["10.0.1.0/26"] == Route(
        prefix="10.0.1.0/26",
        kind=REMOTE,
        node="n2",
        node_address="172.16.0.2",
        encapsulation=Encapsulation.VXLAN,
        nat_outgoing=True,
        block=True,
    )
    assert n1.routes["10.0.0.0/16"] == Route(
        prefix="10.0.0.0/16", kind=RouteKind.CIDR_INFO, encapsulation=Encapsulation.VXLAN, nat_outgoing=True
    )
    assert n1.routes["172.16.0.2/32"].kind == RouteKind.REMOTE_HOST


def test_local_block_and_local_workload_are_marked_local(make: SimpleNamespace) -> None:
    n1 = make.node1(make.block("10.0.1.0/26", "host:n1", {1: "n1"}), make.workload("w", "10.0.1.1/32"))
    assert n1.routes["10.0.1.0/26"].kind == LOCAL and n1.routes["10.0.1.0/26"].block
    assert n1.routes["10.0.1.1/32"].kind == LOCAL and not n1.routes["10.0.1.1/32"].borrowed
    n1.update(make.gone(make.workload("w")))
    assert "10.0.1.1/32" not in n1.routes


def test_address_borrowed_by_another_node_gets_its_own_route(make: SimpleNamespace) -> None:
    n1 = make.node1(
        make.node("n2", "172.16.0.2/24"),
        make.node("n3", "172.16.0.3/24"),
        make.block("10.0.1.0/26", "host:n2", {0: "n2", 5: "n3"}),
    )
    assert "10.0.1.0/32" not in n1.routes
    borrowed = n1.routes["10.0.1.5/32"]
    assert (borrowed.node, borrowed.node_address, borrowed.borrowed) == ("n3", "172.16.0.3", True)
    assert borrowed.kind == REMOTE and not borrowed.block
    n1.update(make.block("10.0.1.0/26", "host:n2", {0: "n2"}))
    assert "10.0.1.5/32" not in n1.routes


def test_address_that_this_node_borrowed_is_local_and_remote(make: SimpleNamespace) -> None:
    n1 = make.node1(make.block("10.0.1.0/26", "host:n2", {5: "n1"}), make.workload("w", "10.0.1.5/32"))
    route = n1.routes["10.0.1.5/32"]
    assert (route.node, route.borrowed, route.kind) == ("n1", True, LOCAL | REMOTE)


def test_block_that_comes_after_the_workload_inside_it_makes_it_borrowed(make: SimpleNamespace) -> None:
    n1 = make.node1(make.workload("w", "10.0.1.5/32"), make.workload("v6", "fd00::5/128"))
    assert not n1.routes["10.0.1.5/32"].borrowed
    n1.update(make.block("10.0.1.0/26", "host:n2"), make.block("fd00::/122", "host:n2"))
    assert n1.routes["10.0.1.5/32"].borrowed and n1.routes["fd00::5/128"].borrowed
    n1.update(make.gone(make.block("10.0.1.0/26", None)))
    assert not n1.routes["10.0.1.5/32"].borrowed


def test_block_without_affinity_routes_the_addresses_alone(make: SimpleNamespace) -> None:
    n1 = make.node1(make.block("10.0.1.0/26", None, {1: "n2"}))
    assert set(n1.routes) == {"10.0.1.1/32"}


def test_cross_subnet_pool_tells_which_nodes_share_the_subnet(make: SimpleNamespace) -> None:
    n1 = make.node1(
        make.node("n1", "172.16.0.1/24"),
        make.node("n2", "172.16.0.2/24"),
        make.node("n3", "172.16.9.3/24"),
        make.pool("p", "10.0.0.0/16", ipip_mode="CrossSubnet"),
        make.block("10.0.2.0/26", "host:n2"),
        make.block("10.0.3.0/26", "host:n3"),
    )
    near, far = n1.routes["10.0.2.0/26"], n1.routes["10.0.3.0/26"]
    assert (near.encapsulation, near.cross_subnet, near.same_subnet) == (Encapsulation.IPIP, True, True)
    assert (far.cross_subnet, far.same_subnet) == (True, False)
    n1.update(make.node("n1", "172.16.9.1/24"))
    assert not n1.routes["10.0.2.0/26"].same_subnet and n1.routes["10.0.3.0/26"].same_subnet
    n1.update(make.pool("p", "10.0.0.0/16", ipip_mode="Always"))
    assert not n1.routes["10.0.3.0/26"].cross_subnet and not n1.routes["10.0.3.0/26"].same_subnet
    n1.update(make.gone(make.pool("p", "")))
    assert n1.routes["10.0.3.0/26"].encapsulation is Encapsulation.NONE


def test_tunnel_end_inside_a_block_is_no_workload(make: SimpleNamespace) -> None:
    n1 = make.node1(
        make.node("n2", "172.16.0.2/24", ipv4_vxlan_tunnel_addr="10.0.1.0"),
        make.block("10.0.1.0/26", "host:n2", {0: "n2"}),
    )
    assert n1.routes["10.0.1.0/32"].kind == RouteKind.REMOTE_TUNNEL
    n1.update(make.block("10.0.1.0/32", "host:n2"))  # a pool of single addresses for tunnels
    assert n1.routes["10.0.1.0/32"].kind == RouteKind.REMOTE_TUNNEL | REMOTE


def test_host_address_inside_a_block_is_no_workload(make: SimpleNamespace) -> None:
    n1 = make.node1(make.node("n2", "10.0.1.7/24"), make.block("10.0.1.0/26", "host:n2"))
    assert n1.routes["10.0.1.7/32"].kind == RouteKind.REMOTE_HOST


def test_two_nodes_with_one_address_give_the_first_name(make: SimpleNamespace) -> None:
    n1 = make.node1(make.node("n3", "172.16.0.2/24"), make.node("n2", "172.16.0.2/24"))
    assert n1.routes["172.16.0.2/32"].node == "n2"
    n1.update(make.gone(make.node("n2")))
    assert n1.routes["172.16.0.2/32"].node == "n3"


def test_pool_for_load_balancers_only_is_no_encapsulation_and_no_pool(make: SimpleNamespace) -> None:
    n1 = make.node1(make.pool("p", "10.0.0.0/16", vxlan_mode="Always", allowed_uses=("LoadBalancer",)))
    assert n1.routes["10.0.0.0/16"].encapsulation is Encapsulation.NONE
    assert n1.pools == {}


def test_ipv6_block_is_routed_to_the_ipv6_address(make: SimpleNamespace) -> None:
    node = make.node("n2", "172.16.0.2/24", addresses=())
    n1 = make.node1(node, make.block("fd00:1::/122", "host:n2"), make.pool("p", "fd00:1::/64", vxlan_mode="Always"))
    route = n1.routes["fd00:1::/122"]
    assert (route.node, route.node_address, route.encapsulation) == ("n2", "", Encapsulation.VXLAN)


def test_workload_addresses_take_the_place_of_blocks_when_asked(make: SimpleNamespace) -> None:
    key = ResourceKey("FelixConfiguration", "", "default")
    from_workloads = FelixConfiguration(
        metadata=ObjectMeta(name="default"), spec=FelixConfigurationSpec(route_source="WorkloadIPs")
    )
    remote = make.workload("r", "10.0.1.1/32", node="n2")
    n1 = make.node1(make.block("10.0.1.0/26", "host:n2"), remote, make.workload("w", "10.0.0.1/32"))
    assert set(n1.routes) == {"10.0.1.0/26", "10.0.0.1/32"}
    n1.update((key, from_workloads))
    assert set(n1.routes) == {"10.0.1.1/32", "10.0.0.1/32"}
    assert (n1.routes["10.0.1.1/32"].kind, n1.routes["10.0.1.1/32"].node) == (REMOTE, "n2")
    n1.update(make.workload("s", "10.0.2.1/32", node="n3"), make.workload("r", "10.0.1.1/32", node="n3"))
    assert (n1.routes["10.0.1.1/32"].node, n1.routes["10.0.2.1/32"].node) == ("n3", "n3")
    n1.update(make.gone(remote))
    assert set(n1.routes) == {"10.0.2.1/32", "10.0.0.1/32"}
    n1.update((key, None))
    assert set(n1.routes) == {"10.0.1.0/26", "10.0.0.1/32"}


def test_pools_say_where_to_masquerade_and_which_encapsulation_is_needed(make: SimpleNamespace) -> None:
    n1 = make.node1(
        make.pool("a", "10.0.0.0/16", vxlan_mode="CrossSubnet", nat_outgoing=True),
        make.pool("b", "10.1.0.0/16", disabled=True),
        make.pool("c", "fd00::/48", vxlan_mode="Always"),
    )
    assert n1.pools["10.0.0.0/16"] == ActivePool(
        cidr="10.0.0.0/16", nat_outgoing=True, encapsulation=Encapsulation.VXLAN, cross_subnet=True
    )
    assert n1.pools["10.1.0.0/16"].disabled
    assert n1.state.needs == EncapsulationNeeds(vxlan_ipv4=True, vxlan_ipv6=True, none=True)
    n1.update(make.gone(make.pool("a", "")))
    assert n1.state.needs == EncapsulationNeeds(vxlan_ipv6=True, none=True)


def test_vtep_without_stored_mac_gets_the_one_made_of_its_name(make: SimpleNamespace) -> None:
    n1 = make.node1(make.node("n2", "172.16.0.2/24", ipv4_vxlan_tunnel_addr="10.0.1.0"))
    mac = n1.vteps["n2"].mac_ipv4
    assert mac.startswith("66:")
    assert n1.vteps["n2"] == Vtep(node="n2", address_ipv4="10.0.1.0", parent_ipv4="172.16.0.2", mac_ipv4=mac)
    stored = {"ipv4_vxlan_tunnel_addr": "10.0.1.0", "vxlan_tunnel_mac_addr": "66:00:00:00:00:01"}
    n1.update(make.node("n2", "172.16.0.2/24", **stored))
    assert n1.vteps["n2"].mac_ipv4 == "66:00:00:00:00:01"


@pytest.mark.parametrize("spec", [{}, {"ipv6_vxlan_tunnel_addr": "fd00::1"}])
def test_vtep_with_half_of_what_it_needs_is_withdrawn(make: SimpleNamespace, spec: dict[str, str]) -> None:
    n1 = make.node1(make.node("n2", "172.16.0.2/24", ipv4_vxlan_tunnel_addr="10.0.1.0"))
    delta = n1.update(make.node("n2", "172.16.0.2/24", **spec))
    assert list(delta.vteps.removes) == ["n2"]


def test_node_gives_its_addresses_and_subnet(make: SimpleNamespace) -> None:
    n1 = make.node1(make.node("n2", "172.16.0.2/24"))
    assert n1.hosts["n2"] == HostAddresses(node="n2", ipv4="172.16.0.2", subnet_ipv4="172.16.0.2/24")


def test_unusable_address_makes_the_node_absent_with_a_reason(make: SimpleNamespace) -> None:
    n1 = make.node1(make.node("n2", "172.16.0.2/24"))
    key, value = make.node("n2", "172.16.0.300/24")
    n1.update((key, value))
    assert n1.hosts == {} and n1.routes == {}
    assert "172.16.0.300" in n1.calculator.problems[key]
    n1.update(make.node("n2", "172.16.0.2/24"))
    assert n1.calculator.problems == {}
