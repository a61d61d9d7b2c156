"""The prober and the node of namespaces: every protocol arrives where nothing filters, none where something does."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from calico_kernel.host import netns
from calico_kernel.policy.matching import Packet
from calico_kernel.testing import generators as g
from calico_kernel.testing import wire
from calico_kernel.testing.node_world import NodeWorld
from calico_kernel.testing.probes import Prober

pytestmark = pytest.mark.node


@pytest.fixture
def world(netns_name: str) -> Iterator[NodeWorld]:
    made = NodeWorld(netns_name)
    yield made
    made.close()


@pytest.fixture
def prober(world: NodeWorld) -> Iterator[Prober]:
    with world.prober() as made:
        yield made


def matrix(world: NodeWorld) -> list[Packet]:
    packets = []
    ends = world.ends(node=True)
    for source, here in ends.items():
        for destination, there in ends.items():
            if here != there and (":" in source) == (":" in destination):
                packets += [Packet(source, destination, protocol, 0, 80) for protocol in ("TCP", "UDP", "SCTP", 136)]
                packets.append(Packet.echo(source, destination))
    return packets


def test_everything_arrives_on_a_node_that_filters_nothing(world: NodeWorld, prober: Prober) -> None:
    packets = matrix(world)
    arrived = prober.measure([world.probe(packet) for packet in packets])
    assert [str(packet) for packet, through in zip(packets, arrived, strict=True) if not through] == []
    assert len(packets) == 440


@pytest.mark.parametrize("program", ["iptables", "ip6tables"])
def test_what_the_node_drops_does_not_arrive(world: NodeWorld, prober: Prober, program: str) -> None:
    version = 4 if program == "iptables" else 6
    a, b = g.workload_address(1, version), g.workload_address(2, version)
    rules = ("-p udp --dport 53", "-p sctp", "-p 136", "-p tcp --dport 81", "-p icmp" if version == 4 else "-p icmpv6")

    def drop() -> None:
        for rule in rules:
            subprocess.run([program, "-A", "FORWARD", *rule.split(), "-j", "DROP"], check=True)

    netns.run_in(world.namespace, drop)
    packets = [Packet(a, b, protocol, 0, port) for protocol in (6, 17, 132, 136) for port in (53, 80, 81)]
    packets.append(Packet.echo(a, b))
    expected = [(p.protocol, p.destination_port) in ((6, 53), (6, 80), (17, 80), (17, 81)) for p in packets]
    probes = [world.probe(packet) for packet in packets]
    assert prober.measure(probes) == expected
    assert prober.measure(probes, expected) == expected


def test_tcp_whose_way_back_is_closed_did_not_get_through(world: NodeWorld, prober: Prober) -> None:
    a, b = g.workload_address(1, 4), g.workload_address(2, 4)
    back = ["iptables", "-A", "FORWARD", "-s", b, "-j", "DROP"]
    netns.run_in(world.namespace, lambda: subprocess.run(back, check=True))
    probes = [world.probe(Packet(a, b, "TCP", 0, 80)), world.probe(Packet(a, b, "UDP", 0, 80))]
    assert prober.measure(probes) == [False, True]


def test_packet_without_a_route_does_not_arrive(world: NodeWorld, prober: Prober) -> None:
    probe = world.probe(Packet(g.OUTSIDE[4][0], "192.0.2.1", "UDP", 0, 80))
    assert prober.measure([probe]) == [False]


@pytest.mark.parametrize("ends", [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")])
@pytest.mark.parametrize("protocol", [6, 17, 132, 136, 47])
def test_probe_bytes_carry_their_number_and_strays_do_not(ends: tuple[str, str], protocol: int) -> None:
    packet = Packet(*ends, protocol, 1000, 80)
    data = wire.encode(packet, 12345)
    assert wire.decode(protocol, packet.version, data) == 12345
    assert wire.decode_answer(protocol, packet.version, data) is None
    assert wire.decode(protocol, packet.version, b"") is None
    assert wire.decode(protocol, packet.version, b"\0" * 30) is None
