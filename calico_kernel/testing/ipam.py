"""The contract of an address manager, as tests.

A plugin subclasses ``IpamContract`` and supplies ``ipam`` over the ``datastore`` given. The in-memory one runs it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from ipaddress import ip_address, ip_network

import pytest

from calico_kernel.errors import (
    AddressInUse,
    DatastoreUnavailable,
    IpamError,
    NotFound,
    PoolExhausted,
    RevisionConflict,
)
from calico_kernel.hookspecs import Datastore, Ipam
from calico_kernel.model.endpoints import Node
from calico_kernel.model.ipam import Address, Assignment, AssignRequest, IpamConfig, ReleaseRequest
from calico_kernel.model.keys import ResourceKey
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.network import IPPool, IPPoolSpec, IPReservation, IPReservationSpec
from calico_kernel.testing.memory_datastore import MemoryDatastore


def add_pool(datastore: Datastore, name: str, cidr: str, **spec: object) -> None:
    """Store a pool; a second call with the same name changes it."""
    value = IPPool(metadata=ObjectMeta(name=name), spec=IPPoolSpec(cidr=cidr, **spec))  # type: ignore[arg-type]
    datastore.put(ResourceKey("IPPool", "", name), value)


def add_node(datastore: Datastore, name: str, **labels: str) -> None:
    datastore.put(ResourceKey("Node", "", name), Node(metadata=ObjectMeta(name=name, labels=labels)))


def reserve(datastore: Datastore, *cidrs: str) -> None:
    value = IPReservation(metadata=ObjectMeta(name="r"), spec=IPReservationSpec(reserved_cidrs=cidrs))
    datastore.put(ResourceKey("IPReservation", "", "r"), value)


def want(handle: str, node: str = "n1", count: int = 1, **more: object) -> AssignRequest:
    """A request for ``count`` IPv4 addresses unless ``more`` says otherwise."""
    numbers = {} if more.keys() & {"num_ipv4", "num_ipv6", "addresses"} else {"num_ipv4": count}
    return AssignRequest(handle=handle, node=node, **numbers, **more)  # type: ignore[arg-type]


def addresses(assignment: Assignment) -> list[Address]:
    return [one.address for one in assignment.addresses]


def inside(found: Iterable[Address], cidr: str) -> bool:
    return all(address in ip_network(cidr) for address in found)


def give_back(assignment: Assignment) -> Sequence[ReleaseRequest]:
    return [ReleaseRequest(address=one.address, sequence_number=one.sequence_number) for one in assignment.addresses]


class IpamContract:
    @pytest.fixture
    def datastore(self) -> Datastore:
        store = MemoryDatastore()
        add_node(store, "n1", rack="a")
        add_node(store, "n2", rack="b")
        return store

    @pytest.fixture
    def ipam(self, datastore: Datastore) -> Ipam:
        raise NotImplementedError("return an address manager over the datastore")

    def outage(self, datastore: Datastore) -> AbstractContextManager[None]:
        """While it is entered, ``datastore`` cannot be reached. Supply it together with a datastore of your own."""
        assert isinstance(datastore, MemoryDatastore)
        return datastore.outage()

    # ── assigning ──

    def test_assigned_addresses_are_in_the_pool_distinct_and_found_by_handle(
        self, ipam: Ipam, datastore: Datastore
    ) -> None:
        add_pool(datastore, "p", "10.1.0.0/24")
        first = ipam.assign(want("h1", attributes={"pod": "web", "node": "n1"}))
        second = ipam.assign(want("h2", count=3))
        found = addresses(first) + addresses(second)
        assert len(set(found)) == 4
        assert inside(found, "10.1.0.0/24")
        assert list(ipam.addresses_by_handle("h2")) == list(second.addresses)
        assert {one.pool for one in second.addresses} == {"p"}
        info = ipam.inspect(addresses(first)[0])
        assert (info.handle, dict(info.attributes)) == ("h1", {"pod": "web", "node": "n1"})
        assert info.sequence_number == first.addresses[0].sequence_number
        assert list(ipam.check()) == []

    def test_no_pool_at_all_is_refused_with_the_reason(self, ipam: Ipam) -> None:
        with pytest.raises(IpamError, match="no IPv4 pool"):
            ipam.assign(want("h"))

    def test_pool_made_after_a_refusal_is_used(self, ipam: Ipam, datastore: Datastore) -> None:
        with pytest.raises(IpamError):
            ipam.assign(want("h"))
        add_pool(datastore, "p", "10.1.0.0/24")
        assert len(addresses(ipam.assign(want("h")))) == 1

    def test_pool_disabled_after_use_is_used_no_more(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "p", "10.1.0.0/24")
        ipam.assign(want("h1"))
        add_pool(datastore, "p", "10.1.0.0/24", disabled=True)
        with pytest.raises(IpamError, match="disabled"):
            ipam.assign(want("h2"))

    def test_exhausted_pool_is_refused_and_says_how_full_it_is(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "blue", "10.1.0.0/30", block_size=30)
        ipam.assign(want("h", count=3))
        with pytest.raises(PoolExhausted, match=r"blue \(10\.1\.0\.0/30, 1 of 4 free\)"):
            ipam.assign(want("greedy", count=2))
        assert list(ipam.addresses_by_handle("greedy")) == []
        assert len(addresses(ipam.assign(want("modest")))) == 1
        with pytest.raises(PoolExhausted):
            ipam.assign(want("late"))
        assert list(ipam.check()) == []

    def test_dual_stack_gives_one_of_each_or_nothing(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "four", "10.1.0.0/24")
        add_pool(datastore, "six", "fd00:1::/126", block_size=126)
        both = ipam.assign(want("h1", num_ipv4=1, num_ipv6=4))
        assert (len(both.of_family(4)), len(both.of_family(6))) == (1, 4)
        with pytest.raises(PoolExhausted):
            ipam.assign(want("h2", num_ipv4=1, num_ipv6=1))
        assert list(ipam.addresses_by_handle("h2")) == []
        assert sum(pool.in_use for pool in ipam.report().pools if pool.name == "four") == 1
        assert list(ipam.check()) == []

    def test_many_addresses_span_several_blocks(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "p", "10.1.0.0/24", block_size=29)
        assignment = ipam.assign(want("h", count=20))
        assert len(set(addresses(assignment))) == 20
        assert len(ipam.addresses_by_handle("h")) == 20
        assert len(ipam.release_by_handle("h")) == 20
        assert list(ipam.check()) == []

    def test_same_handle_may_hold_more_and_more(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "p", "10.1.0.0/24")
        ipam.assign(want("h"))
        ipam.assign(want("h", count=2))
        assert len(ipam.addresses_by_handle("h")) == 3

    @pytest.mark.parametrize("handle", ["a/b/c", "100%", "%2f", "ümläut", "two words", "x" * 250, "../../up", "a.b:c"])
    def test_handle_of_any_spelling_is_kept_apart_and_found(
        self, ipam: Ipam, datastore: Datastore, handle: str
    ) -> None:
        add_pool(datastore, "p", "10.1.0.0/24")
        ipam.assign(want("a"))
        got = ipam.assign(want(handle, count=2))
        assert list(ipam.addresses_by_handle(handle)) == list(got.addresses)
        assert ipam.inspect(addresses(got)[0]).handle == handle
        assert {*ipam.release_by_handle(handle)} == {*addresses(got)}
        assert len(ipam.addresses_by_handle("a")) == 1
        assert list(ipam.check()) == []

    # ── choosing a pool ──

    def test_node_selector_decides_which_pool_serves_a_node(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "a", "10.1.0.0/24", node_selector="rack == 'a'")
        add_pool(datastore, "b", "10.2.0.0/24", node_selector="rack == 'b'")
        assert inside(addresses(ipam.assign(want("h1", "n1"))), "10.1.0.0/24")
        assert inside(addresses(ipam.assign(want("h2", "n2"))), "10.2.0.0/24")
        add_node(datastore, "n1", rack="b")
        assert inside(addresses(ipam.assign(want("h3", "n1"))), "10.2.0.0/24")

    def test_namespace_selector_decides_by_the_namespace_labels(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "a", "10.1.0.0/24", namespace_selector="team == 'red'", allowed_uses=("Workload",))
        red = want("h1", namespace="ns", namespace_labels={"team": "red"})
        assert inside(addresses(ipam.assign(red)), "10.1.0.0/24")
        with pytest.raises(IpamError, match="none selects"):
            ipam.assign(want("h2"))

    def test_manual_pool_serves_only_those_who_name_it(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "m", "10.1.0.0/24", assignment_mode="Manual", node_selector="rack == 'none'")
        with pytest.raises(IpamError):
            ipam.assign(want("h"))
        assert inside(addresses(ipam.assign(want("h1", pools_ipv4=("m",)))), "10.1.0.0/24")
        assert inside(addresses(ipam.assign(want("h2", pools_ipv4=("10.1.0.0/24",)))), "10.1.0.0/24")

    def test_named_pools_are_used_in_the_order_named(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "a", "10.1.0.0/30", block_size=30)
        add_pool(datastore, "b", "10.2.0.0/30", block_size=30)
        got = addresses(ipam.assign(want("h", count=6, pools_ipv4=("b", "a"))))
        assert sum(address in ip_network("10.2.0.0/30") for address in got) == 4

    def test_named_pool_that_does_not_exist_is_refused(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "a", "10.1.0.0/24")
        with pytest.raises(IpamError, match="nowhere"):
            ipam.assign(want("h", pools_ipv4=("nowhere",)))
        with pytest.raises(IpamError, match=r"10\.9\.0\.0/24"):
            ipam.assign(want("h", pools_ipv4=("10.9.0.0/24",)))

    def test_pool_serves_only_its_allowed_uses(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "t", "10.1.0.0/24", allowed_uses=("Tunnel",))
        with pytest.raises(IpamError, match="allows the use Workload"):
            ipam.assign(want("h"))
        assert len(addresses(ipam.assign(want("t", intended_use="Tunnel")))) == 1
        add_pool(datastore, "lb", "10.2.0.0/24", allowed_uses=("LoadBalancer",))
        service = want("lb", "load-balancer", intended_use="LoadBalancer")
        assert inside(addresses(ipam.assign(service)), "10.2.0.0/24")

    def test_reserved_addresses_are_not_handed_out_but_may_be_asked_for(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "p", "10.1.0.0/29", block_size=29)
        reserve(datastore, "10.1.0.0/30", "10.1.0.7/32")
        assert {str(a) for a in addresses(ipam.assign(want("h", count=3)))} == {"10.1.0.4", "10.1.0.5", "10.1.0.6"}
        with pytest.raises(PoolExhausted):
            ipam.assign(want("h2"))
        exact = ipam.assign(want("h3", addresses=(ip_address("10.1.0.7"),)))
        assert [str(a) for a in addresses(exact)] == ["10.1.0.7"]
        assert ipam.report().pools[0].reserved == 5

    # ── exact addresses ──

    def test_exact_address_is_given_once(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "p", "10.1.0.0/24")
        address = ip_address("10.1.0.77")
        assert addresses(ipam.assign(want("h1", addresses=(address,)))) == [address]
        with pytest.raises(AddressInUse, match="h1"):
            ipam.assign(want("h2", addresses=(address,)))
        assert ipam.inspect(address).handle == "h1"
        others = addresses(ipam.assign(want("h3", count=200)))
        assert address not in others
        assert list(ipam.check()) == []

    def test_exact_addresses_are_all_given_or_none(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "p", "10.1.0.0/24")
        free, taken = ip_address("10.1.0.10"), ip_address("10.1.0.20")
        ipam.assign(want("h1", addresses=(taken,)))
        with pytest.raises(AddressInUse):
            ipam.assign(want("h2", addresses=(free, taken)))
        assert ipam.inspect(free).handle is None
        assert list(ipam.check()) == []

    def test_exact_address_outside_pools_or_of_another_use_is_refused(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "p", "10.1.0.0/24", allowed_uses=("Tunnel",))
        with pytest.raises(IpamError, match="no enabled pool"):
            ipam.assign(want("h", addresses=(ip_address("10.9.0.1"),)))
        with pytest.raises(IpamError, match="does not allow"):
            ipam.assign(want("h", addresses=(ip_address("10.1.0.1"),)))

    # ── releasing ──

    def test_release_frees_and_a_second_one_reports_not_assigned(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "p", "10.1.0.0/24")
        assignment = ipam.assign(want("h", count=2))
        assert list(ipam.release(give_back(assignment))) == []
        assert sorted(ipam.release(give_back(assignment))) == sorted(addresses(assignment))
        assert list(ipam.addresses_by_handle("h")) == []
        assert ipam.inspect(addresses(assignment)[0]).handle is None
        assert list(ipam.check()) == []

    def test_release_of_what_was_never_assigned_is_reported_not_raised(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "p", "10.1.0.0/24")
        strangers = [ip_address("10.1.0.9"), ip_address("192.0.2.1"), ip_address("fd00::1")]
        unassigned = ipam.release([ReleaseRequest(address=address) for address in strangers])
        assert {str(address) for address in unassigned} == {str(address) for address in strangers}

    def test_late_release_never_takes_an_address_from_its_new_owner(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "p", "10.1.0.0/30", block_size=30)
        old = ipam.assign(want("old", addresses=(ip_address("10.1.0.1"),)))
        ipam.release(give_back(old))
        ipam.assign(want("new", addresses=(ip_address("10.1.0.1"),)))
        with pytest.raises(RevisionConflict):
            ipam.release(give_back(old))
        with pytest.raises(RevisionConflict):
            ipam.release([ReleaseRequest(address=ip_address("10.1.0.1"), handle="old")])
        assert ipam.inspect(ip_address("10.1.0.1")).handle == "new"

    def test_release_with_one_wrong_guard_releases_nothing(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "p", "10.1.0.0/24", block_size=30)
        mine = ipam.assign(want("mine", count=6))
        theirs = ipam.assign(want("theirs"))
        wrong = ReleaseRequest(address=addresses(theirs)[0], handle="mine")
        with pytest.raises(RevisionConflict):
            ipam.release([*give_back(mine), wrong])
        assert len(ipam.addresses_by_handle("mine")) == 6

    def test_release_by_handle_frees_all_of_it_and_is_idempotent(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "four", "10.1.0.0/24")
        add_pool(datastore, "six", "fd00:1::/64")
        assignment = ipam.assign(want("h", num_ipv4=2, num_ipv6=1))
        ipam.assign(want("other"))
        assert {*ipam.release_by_handle("h")} == {*addresses(assignment)}
        assert list(ipam.release_by_handle("h")) == []
        assert list(ipam.release_by_handle("unknown")) == []
        assert len(ipam.addresses_by_handle("other")) == 1
        assert list(ipam.check()) == []

    def test_released_address_can_be_used_again(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "p", "10.1.0.0/30", block_size=30)
        for number in range(12):
            ipam.assign(want(f"h{number}", count=4))
            assert len(ipam.release_by_handle(f"h{number}")) == 4

    def test_forgotten_node_keeps_what_is_in_use_and_frees_the_rest(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "p", "10.1.0.0/26", block_size=27)
        kept = ipam.assign(want("kept", "n1"))
        ipam.assign(want("gone", "n2"))
        ipam.release_by_handle("gone")
        ipam.release_node("n1")
        ipam.release_node("n2")
        ipam.release_node("never-there")
        assert ipam.inspect(addresses(kept)[0]).handle == "kept"
        assert len(addresses(ipam.assign(want("all", "n1", count=63)))) == 63
        assert list(ipam.check()) == []

    # ── questions, configuration, faults ──

    def test_report_counts_pools_and_what_lies_in_none(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "four", "10.1.0.0/24")
        add_pool(datastore, "six", "fd00:1::/64")
        ipam.assign(want("h", num_ipv4=3, num_ipv6=2))
        pools = {pool.name: pool for pool in ipam.report().pools}
        assert (pools["four"].total, pools["four"].in_use) == (256, 3)
        assert (pools["six"].total, pools["six"].in_use) == (2**64, 2)
        assert sum(block.in_use for block in pools["four"].blocks) == 3

    def test_unknown_address_is_not_assigned(self, ipam: Ipam) -> None:
        info = ipam.inspect(ip_address("203.0.113.9"))
        assert (info.handle, info.block) == (None, None)

    def test_configuration_can_be_changed_and_nonsense_is_refused(self, ipam: Ipam) -> None:
        assert ipam.configuration() == IpamConfig.defaults()
        strict = IpamConfig(strict_affinity=True, auto_allocate_blocks=True, max_blocks_per_host=4)
        ipam.configure(strict)
        assert ipam.configuration() == strict
        with pytest.raises(IpamError):
            ipam.configure(IpamConfig(strict_affinity=False, auto_allocate_blocks=False))
        assert ipam.configuration() == strict

    def test_cooling_address_is_not_handed_out_again(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "p", "10.1.0.0/30", block_size=30)
        ipam.configure(IpamConfig(auto_allocate_blocks=True, ip_cooldown_seconds=600))
        assignment = ipam.assign(want("h", count=4))
        ipam.release(give_back(assignment))
        assert sorted(ipam.release(give_back(assignment))) == sorted(addresses(assignment))
        info = ipam.inspect(addresses(assignment)[0])
        assert info.handle is None
        assert info.released_at is not None
        with pytest.raises(PoolExhausted):
            ipam.assign(want("h2"))
        ipam.configure(IpamConfig(auto_allocate_blocks=True))
        assert len(addresses(ipam.assign(want("h2", count=4)))) == 4

    def test_unavailable_datastore_is_said_so_and_used_again_after(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "p", "10.1.0.0/24")
        ipam.assign(want("h1"))
        with self.outage(datastore), pytest.raises(DatastoreUnavailable):
            ipam.assign(want("h2"))
        with self.outage(datastore), pytest.raises(DatastoreUnavailable):
            ipam.release_by_handle("h1")
        assert len(addresses(ipam.assign(want("h2")))) == 1
        assert len(ipam.release_by_handle("h1")) == 1

    def test_threads_never_get_the_same_address(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "p", "10.1.0.0/24", block_size=28)

        def one(number: int) -> list[Address]:
            found = addresses(ipam.assign(want(f"h{number}", f"n{number % 2 + 1}", count=1 + number % 3)))
            if number % 4 == 0:
                ipam.release_by_handle(f"h{number}")
                return []
            return found

        with ThreadPoolExecutor(6) as pool:
            found = [address for got in pool.map(one, range(60)) for address in got]
        held = [one for number in range(60) for one in ipam.addresses_by_handle(f"h{number}")]
        assert len(set(found)) <= len(found)
        assert len({one.address for one in held}) == len(held) == len(found)
        assert {one.address for one in held} == set(found)
        assert list(ipam.check()) == []

    def test_deleted_pool_leaves_what_is_in_use_findable(self, ipam: Ipam, datastore: Datastore) -> None:
        add_pool(datastore, "p", "10.1.0.0/24")
        assignment = ipam.assign(want("h"))
        ipam.release_pool("10.1.0.0/24")
        datastore.delete(ResourceKey("IPPool", "", "p"))
        with pytest.raises(NotFound):
            datastore.get(ResourceKey("IPPool", "", "p"))
        assert ipam.inspect(addresses(assignment)[0]).handle == "h"
        assert [found.address for found in ipam.addresses_by_handle("h")] == addresses(assignment)
        assert {*ipam.release_by_handle("h")} == {*addresses(assignment)}
        assert list(ipam.check()) == []
