"""Values survive the wire: what is packed for the kernel unpacks to the same value. Pure."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_kernel.host import nlvalues as v
from calico_kernel.host import nlwire as w

indexes = st.integers(1, 2**31 - 1)
four = st.binary(min_size=4, max_size=4).map(v.unpack_address)
six = st.binary(min_size=16, max_size=16).map(v.unpack_address)
few = settings(max_examples=50, deadline=None)
macs = st.binary(min_size=6, max_size=6).map(lambda data: data.hex(":"))


def networks(version: int) -> st.SearchStrategy[str]:
    addresses, bits = (four, 32) if version == 4 else (six, 128)
    return st.tuples(addresses, st.integers(0, bits)).map(lambda pair: f"{pair[0]}/{pair[1]}")


def routes(version: int) -> st.SearchStrategy[v.RouteEntry]:
    addresses = four if version == 4 else six
    return st.builds(
        v.RouteEntry,
        prefix=networks(version),
        ifindex=st.just(0) | indexes,
        gateway=st.just("") | addresses,
        table=st.integers(1, 2**32 - 1),
        protocol=st.integers(0, 255),
        scope=st.just(0) if version == 6 else st.sampled_from([0, 200, 253, 254]),
        metric=st.integers(0, 2**32 - 1),
        source=st.just("") | addresses,
        onlink=st.booleans(),
        mtu_bytes=st.integers(0, 65535),
        next_hops=st.just(()),
        kind=st.just(w.RTN_UNICAST),
    )


@few
@given(routes(4) | routes(6))
def test_a_route_unpacks_to_itself(route: v.RouteEntry) -> None:
    body = v.route_body(route)
    assert len(body) % 4 == 0
    assert v.decode_route(body) == route


@few
@given(st.lists(st.builds(v.NextHop, indexes, st.just("") | four, st.integers(1, 256), st.booleans()), min_size=1))
def test_next_hops_unpack_to_themselves(hops: list[v.NextHop]) -> None:
    route = v.RouteEntry("10.0.0.0/8", next_hops=tuple(hops))
    assert v.decode_route(v.route_body(route)) == route


@few
@given(st.builds(v.Neighbour, indexes, four | six, macs, st.sampled_from([2, 4, 0x80]), st.sampled_from([0, 8])))
def test_a_neighbour_unpacks_to_itself(entry: v.Neighbour) -> None:
    assert v.decode_neighbour(v.replace_neighbour(entry).body) == entry


@few
@given(indexes, macs, st.just("") | four | six, st.integers(0, 4094))
def test_a_forwarding_entry_unpacks_to_itself(ifindex: int, mac: str, destination: str, vlan: int) -> None:
    entry = v.FdbEntry(ifindex, mac, destination, vlan=vlan)
    assert v.decode_fdb(v.replace_fdb(entry).body) == entry


@few
@given(
    st.builds(
        v.Rule,
        priority=st.integers(1, 32765),
        table=st.integers(1, 2**32 - 1),
        mark=st.integers(1, 2**32 - 1),
        mask=st.integers(1, 2**32 - 1),
        input_interface=st.sampled_from(["", "eth0"]),
        output_interface=st.sampled_from(["", "cali0123456789a"]),
        invert=st.booleans(),
        protocol=st.integers(0, 255),
        version=st.just(4),
        source=st.just("") | networks(4).filter(lambda text: not text.endswith("/0")),
        destination=st.just(""),
        action=st.just(w.FR_ACT_TO_TBL),
    )
)
def test_a_rule_unpacks_to_itself(rule: v.Rule) -> None:
    assert v.decode_rule(v.add_rule(rule).body) == rule


@few
@given(four.flatmap(lambda a: st.just((a, 32))) | six.flatmap(lambda a: st.just((a, 128))), st.sampled_from([0, 2]))
def test_an_interface_address_unpacks_to_itself(given_: tuple[str, int], flags: int) -> None:
    entry = v.InterfaceAddress(7, *given_, flags=flags)
    assert v.decode_address(v.add_address(entry).body) == entry


@few
@given(st.binary(max_size=200))
def test_walking_attributes_of_any_bytes_ends(data: bytes) -> None:
    assert sum(4 + len(value) for _, value in w.walk(data, 0, len(data))) <= len(data) + 3


def test_what_is_no_mac_or_address_is_refused() -> None:
    for text in ("", "ee:ee", "ee:ee:ee:ee:ee:ee:ee", "zz:ee:ee:ee:ee:ee"):
        with pytest.raises(ValueError):
            w.mac_bytes(text)
    for text in ("", "10.0.0", "10.0.0.256", "fd00::g"):
        with pytest.raises(OSError):
            v.pack_address(text)
