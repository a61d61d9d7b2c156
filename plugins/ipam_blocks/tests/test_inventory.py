"""Pools, reservations and configuration: read once, kept fresh, and never guessed."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_ipam_blocks import plugin
from calico_ipam_blocks.blocks import span_of
from calico_ipam_blocks.inventory import Inventory, Reservations, pool_of
from calico_ipam_blocks.ipam import BlocksIpam
from calico_ipam_blocks.settings import BlocksSettings
from calico_kernel.errors import ConfigError
from calico_kernel.hookspecs import Services, Watch
from calico_kernel.model.keys import Query
from calico_kernel.model.meta import Condition, ConditionsStatus, ObjectMeta
from calico_kernel.model.network import IPPool, IPPoolSpec
from calico_kernel.model.records import Event
from calico_kernel.testing.ipam import add_node, add_pool, addresses, inside, want
from calico_kernel.testing.memory_datastore import MemoryDatastore


class BlindWatch(Watch):
    """A watch of a far-away datastore that has not heard of anything yet."""

    def next(self, timeout_s: float) -> Sequence[Event]:
        return []

    def close(self) -> None:
        pass


class LaggingDatastore(MemoryDatastore):
    def watch(self, queries: Sequence[Query], *, revision: str) -> Watch:
        return BlindWatch()


CIDRS = st.builds(
    lambda address, length: str(ip_network((address, length), strict=False)), st.integers(0, 255), st.integers(24, 32)
)


@given(st.lists(CIDRS, max_size=6), st.integers(0, 255), st.integers(24, 32))
def test_reservations_agree_with_looking_at_each_address(cidrs: list[str], at: int, length: int) -> None:
    reserved = {int(address) for cidr in cidrs for address in ip_network(cidr)}
    found = Reservations(cidrs)
    span = span_of(str(ip_network((at, length), strict=False)))
    here = [span.base + ordinal for ordinal in range(span.size)]
    assert [found.holds(4, address) for address in here] == [address in reserved for address in here]
    assert found.covers(span) == all(address in reserved for address in here)
    assert found.touches(span) == any(address in reserved for address in here)
    assert found.count(span) == sum(address in reserved for address in here)


def test_reservation_that_is_no_prefix_reserves_nothing() -> None:
    found = Reservations(["nonsense", "10.0.0.0/30"])
    assert found.holds(4, int(ip_address("10.0.0.3")))
    assert not found.holds(6, int(ip_address("10.0.0.3")))


@pytest.mark.parametrize("version", [4, 6])
def test_pool_without_particulars_has_calicos_defaults(version: int) -> None:
    cidr, length = ("10.0.0.0/16", 26) if version == 4 else ("fd00::/48", 122)
    pool = pool_of(IPPool(spec=IPPoolSpec(cidr=cidr)))
    assert pool is not None
    assert (pool.block_length, pool.enabled, pool.automatic) == (length, True, True)
    assert pool.uses == ("Workload", "Tunnel")
    assert pool.selects({})


def test_pool_smaller_than_a_block_is_one_block() -> None:
    pool = pool_of(IPPool(spec=IPPoolSpec(cidr="10.0.0.0/28", disabled=True)))
    assert pool is not None
    assert pool.block_length == 28


@pytest.mark.parametrize(
    "resource",
    [
        IPPool(spec=IPPoolSpec(cidr="10.0.0.0/16", disabled=True)),
        IPPool(metadata=ObjectMeta(deletion_timestamp="2026-01-01T00:00:00Z"), spec=IPPoolSpec(cidr="10.0.0.0/16")),
        IPPool(
            spec=IPPoolSpec(cidr="10.0.0.0/16"),
            status=ConditionsStatus(conditions=(Condition(type="Allocatable", status="False"),)),
        ),
    ],
)
def test_pool_that_is_disabled_going_or_refused_is_not_assigned_from(resource: IPPool) -> None:
    pool = pool_of(resource)
    assert pool is not None
    assert not pool.enabled


@pytest.mark.parametrize("spec", [IPPoolSpec(cidr="x"), IPPoolSpec(cidr="10.0.0.0/16", node_selector="== broken")])
def test_pool_that_cannot_be_understood_counts_as_absent(spec: IPPoolSpec) -> None:
    assert pool_of(IPPool(spec=spec)) is None


def test_malformed_pool_is_stepped_over() -> None:
    store = MemoryDatastore()
    add_node(store, "n1")
    add_pool(store, "good", "10.1.0.0/24")
    store.write_raw("/calico/resources/v3/projectcalico.org/ippools/bad", b'{"spec":{"cidr":7}}')
    assert inside(addresses(BlocksIpam(store).assign(want("h"))), "10.1.0.0/24")


def test_change_after_compaction_is_taken_in_by_listing_again() -> None:
    store = MemoryDatastore()
    inventory = Inventory(store)
    inventory.refresh()
    add_pool(store, "p", "10.1.0.0/24")
    add_pool(store, "q", "10.2.0.0/24")
    store.forget_history()
    inventory.refresh()
    assert [pool.name for pool in inventory.pools] == ["p", "q"]


def test_nothing_is_refused_for_not_having_heard_of_it_yet() -> None:
    store = LaggingDatastore()
    add_node(store, "n1", rack="a")
    ipam = BlocksIpam(store)
    add_pool(store, "p", "10.1.0.0/30", block_size=30, node_selector="rack == 'a'")
    assert len(addresses(ipam.assign(want("h1", count=4)))) == 4
    add_pool(store, "q", "10.2.0.0/24", node_selector="rack == 'b'")
    add_node(store, "n1", rack="b")
    assert inside(addresses(ipam.assign(want("h2"))), "10.2.0.0/24")


def test_plugin_needs_a_datastore_and_describes_its_settings() -> None:
    assert plugin.calico_plugin().settings is BlocksSettings
    services = Services(node="n1", log=logging.getLogger("test"))
    with pytest.raises(ConfigError, match="no datastore"):
        plugin.calico_ipam(BlocksSettings(), services)
    ipam = plugin.calico_ipam(BlocksSettings(), msgspec.structs.replace(services, datastore=MemoryDatastore()))
    assert list(ipam.check()) == []
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"block_size": 26}, BlocksSettings)


def test_plugin_module_loads_none_of_the_engine() -> None:
    code = (
        "import sys, calico_ipam_blocks.plugin; print([m for m in sys.modules if m.startswith('calico_ipam_blocks')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "calico_ipam_blocks.ipam" not in done.stdout
