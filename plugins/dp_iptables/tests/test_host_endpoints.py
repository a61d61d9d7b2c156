"""Policy of the node's own interfaces: to and from the host, forwarded, before NAT, untracked; failsafe ports."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from calico_kernel.host import netlink
from calico_kernel.host import netns as namespaces
from calico_kernel.model import nodestate as ns

pytestmark = pytest.mark.node

FAILSAFE = {"failsafe_inbound_host_ports": ("udp:68",), "failsafe_outbound_host_ports": ("udp:67",)}


def one_policy(name: str, inbound: Any = (), outbound: Any = (), **flags: bool) -> ns.ActivePolicy:
    return ns.ActivePolicy(
        id=ns.PolicyId("GlobalNetworkPolicy", "", name), tier="default", inbound=inbound, outbound=outbound, **flags
    )


def listed(*ingress: ns.ActivePolicy, egress: tuple[ns.ActivePolicy, ...] = (), default: Any = "Deny") -> ns.PolicyList:
    return ns.PolicyList(
        tiers=(
            ns.TierPolicies(
                name="default",
                default_action=default,
                ingress=tuple(policy.id for policy in ingress),
                egress=tuple(policy.id for policy in egress),
            ),
        )
    )


def udp(port: int, action: Any = "allow") -> ns.ParsedRule:
    return ns.ParsedRule(action=action, protocol=17, destination=ns.Match(ports=(ns.PortRange(port, port),)))


def arrives(sender: str | None, address: str, port: int, receiver: str | None) -> bool:
    """A datagram between two namespaces; None is the node itself."""

    def bind() -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((address, port))
        sock.settimeout(0.25)
        return sock

    def send() -> None:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                sock.sendto(b"x", (address, port))
            except PermissionError:
                return

    server = namespaces.run_in(receiver, bind) if receiver else bind()
    try:
        if sender:
            namespaces.run_in(sender, send)
        else:
            send()
        return server.recv(10) == b"x"
    except TimeoutError:
        return False
    finally:
        server.close()


@pytest.mark.parametrize("by_name", [True, False])
def test_node_accepts_and_sends_only_what_its_endpoint_allows(
    outside: Any, make_dataplane: Callable[..., Any], kit: Any, by_name: bool
) -> None:
    rules = one_policy("host", (udp(5000),), (udp(6000),))
    endpoint = ns.LocalHostEndpoint(
        name="uplink",
        interface="up0" if by_name else "",
        expected_addresses=(outside.node_ipv4, outside.node_ipv6),
        normal=listed(rules, egress=(rules,)),
    )
    driver = make_dataplane()
    delta = kit.full(policies={rules.id: rules}, host_endpoints={"uplink": endpoint})
    kit.applied(driver, attrs.evolve(delta, config=ns.ResolvedConfig(values=FAILSAFE)))
    for node, other in ((outside.node_ipv4, outside.ipv4), (outside.node_ipv6, outside.ipv6)):
        assert arrives(outside.namespace, node, 5000, None)
        assert not arrives(outside.namespace, node, 5001, None)
        assert arrives(outside.namespace, node, 68, None)
        assert arrives(None, other, 6000, outside.namespace)
        assert arrives(None, other, 67, outside.namespace)
        assert not arrives(None, other, 6001, outside.namespace)


def test_wildcard_endpoint_guards_every_other_interface_but_not_workloads(
    outside: Any, world: Any, make_dataplane: Callable[..., Any], kit: Any
) -> None:
    rules = one_policy("host", (udp(5000),))
    endpoint = ns.LocalHostEndpoint(name="all", interface="*", normal=listed(rules))
    pod = world.pods[0]
    driver = make_dataplane()
    kit.applied(
        driver,
        kit.full(
            policies={rules.id: rules},
            host_endpoints={"all": endpoint},
            workloads={pod.id: pod.endpoint(kit.policy_list(profiles=("allow",)))},
        ),
    )
    assert arrives(outside.namespace, outside.node_ipv4, 5000, None)
    assert not arrives(outside.namespace, outside.node_ipv4, 5001, None)
    assert arrives(None, pod.ipv4, 5001, pod.namespace)
    assert arrives(outside.namespace, pod.ipv4, 5001, pod.namespace)


def test_forwarded_traffic_needs_the_endpoints_forward_policy_and_the_workloads(
    outside: Any, world: Any, make_dataplane: Callable[..., Any], kit: Any
) -> None:
    host = one_policy("host", (udp(5000), udp(5001)), apply_on_forward=True)
    pod_rules = one_policy("pod", (udp(5000), udp(5002)))
    pod = world.pods[0]
    endpoint = ns.LocalHostEndpoint(name="uplink", interface="up0", normal=listed(host), forward=listed(host))
    driver = make_dataplane()
    kit.applied(
        driver,
        kit.full(
            policies={policy.id: policy for policy in (host, pod_rules)},
            host_endpoints={"uplink": endpoint},
            workloads={pod.id: pod.endpoint(kit.policy_list(pod_rules.id, profiles=("allow",)))},
        ),
    )
    for address in (pod.ipv4, pod.ipv6):
        assert arrives(outside.namespace, address, 5000, pod.namespace)
        assert not arrives(outside.namespace, address, 5001, pod.namespace)
        assert not arrives(outside.namespace, address, 5002, pod.namespace)


@pytest.mark.parametrize("kind", ["untracked", "pre_dnat"])
def test_early_policy_denies_what_later_policy_would_allow_and_the_other_way(
    outside: Any, world: Any, make_dataplane: Callable[..., Any], kit: Any, kind: str
) -> None:
    early = one_policy(
        "early", (udp(5001, "deny"), udp(5002)), untracked=kind == "untracked", pre_dnat=kind == "pre_dnat"
    )
    later = one_policy("later", (udp(5000), udp(5001)))
    endpoint = ns.LocalHostEndpoint(
        name="uplink", interface="up0", normal=listed(later), **{kind: listed(early, default="Pass")}
    )
    driver = make_dataplane()
    kit.applied(driver, kit.full(policies={p.id: p for p in (early, later)}, host_endpoints={"uplink": endpoint}))
    assert arrives(outside.namespace, outside.node_ipv4, 5000, None)
    assert not arrives(outside.namespace, outside.node_ipv4, 5001, None)
    assert arrives(outside.namespace, outside.node_ipv4, 5002, None)
    assert not arrives(outside.namespace, outside.node_ipv4, 5003, None)
    assert arrives(outside.namespace, outside.node_ipv4, 68, None)


@pytest.mark.parametrize(("action", "reached"), [("Drop", False), ("Accept", True), ("Return", True)])
def test_workload_reaches_its_node_by_its_policy_and_the_configured_action(
    world: Any, make_dataplane: Callable[..., Any], kit: Any, action: str, reached: bool, outside: Any
) -> None:
    first, second, _ = world.pods
    closed = one_policy("closed", (), (udp(5000),))
    driver = make_dataplane()
    delta = kit.full(
        policies={closed.id: closed},
        workloads={
            first.id: first.endpoint(listed(egress=(closed,))),
            second.id: second.endpoint(kit.policy_list(profiles=("allow",))),
        },
    )
    config = ns.ResolvedConfig(values={"default_endpoint_to_host_action": action})
    kit.applied(driver, attrs.evolve(delta, config=config))
    assert arrives(first.namespace, outside.node_ipv4, 5000, None) == reached
    assert not arrives(first.namespace, outside.node_ipv4, 5001, None)
    assert arrives(second.namespace, outside.node_ipv6, 5001, None) == reached


@pytest.mark.parametrize("by_name", [True, False])
def test_of_several_endpoints_of_one_interface_the_first_by_name_governs(
    outside: Any, make_dataplane: Callable[..., Any], kit: Any, by_name: bool
) -> None:
    """The later one's untracked policy does not count either, though the first has none."""
    first, second = one_policy("first", (udp(5000),)), one_policy("second", (udp(5001),))
    early = one_policy("early", (udp(5002),), untracked=True)
    interface, addresses = ("up0", ()) if by_name else ("", (outside.node_ipv4,))
    a = ns.LocalHostEndpoint(name="a", interface=interface, expected_addresses=addresses, normal=listed(first))
    b = attrs.evolve(a, name="b", normal=listed(second), untracked=listed(early, default="Pass"))
    endpoints = {"b": b, "a": a}
    driver = make_dataplane()
    kit.applied(driver, kit.full(policies={p.id: p for p in (first, second, early)}, host_endpoints=endpoints))
    assert arrives(outside.namespace, outside.node_ipv4, 5000, None)
    assert not arrives(outside.namespace, outside.node_ipv4, 5001, None)
    assert not arrives(outside.namespace, outside.node_ipv4, 5002, None)


def test_endpoint_of_several_addresses_governs_each_interface_that_has_one(
    outside: Any, world: Any, make_dataplane: Callable[..., Any], kit: Any
) -> None:
    with netlink.Netlink() as nl:
        nl.run(netlink.add_veth("up9", "up9-far", up=True))
        link = nl.link("up9")
        assert link is not None
        nl.run(netlink.add_address(netlink.InterfaceAddress(link.index, "172.30.9.1", 24)))
    policy = one_policy("host", (udp(5000),))
    endpoint = ns.LocalHostEndpoint(
        name="both", interface="", expected_addresses=(outside.node_ipv4, "172.30.9.1"), normal=listed(policy)
    )
    driver = make_dataplane()
    kit.applied(driver, kit.full(policies={policy.id: policy}, host_endpoints={"both": endpoint}))
    assert not arrives(outside.namespace, outside.node_ipv4, 5001, None)
    dispatch = [rule for rule in kit.rules(driver.kernel.backend) if rule.startswith("-A cali-from-host-endpoint ")]
    assert {interface for interface in ("up0", "up9") for rule in dispatch if f"-i {interface} " in rule} == {
        "up0",
        "up9",
    }


def test_untracked_policy_of_a_wildcard_endpoint_is_ignored_and_the_other_hooks_hold(
    outside: Any, world: Any, make_dataplane: Callable[..., Any], kit: Any
) -> None:
    """As Felix: untracked rules for every interface would have to judge each tracked flow's replies too."""
    untracked = one_policy("untracked", (udp(5000, "deny"), udp(5001)), (udp(6000, "deny"),), untracked=True)
    early = one_policy("early", (udp(5002, "deny"), udp(5003)), pre_dnat=True)
    normal = one_policy("normal", (udp(5000), udp(5002)), (udp(6000),))
    forward = one_policy("forward", (udp(5004),), apply_on_forward=True)
    pod = world.pods[0]
    endpoint = ns.LocalHostEndpoint(
        name="all",
        interface="*",
        normal=listed(normal, egress=(normal,)),
        forward=listed(forward),
        pre_dnat=listed(early, default="Pass"),
        untracked=listed(untracked, egress=(untracked,), default="Pass"),
    )
    driver = make_dataplane()
    delta = kit.full(
        policies={policy.id: policy for policy in (untracked, early, normal, forward)},
        host_endpoints={"all": endpoint},
        workloads={pod.id: pod.endpoint(kit.policy_list(profiles=("allow",)))},
    )
    kit.applied(driver, attrs.evolve(delta, config=ns.ResolvedConfig(values=FAILSAFE)))
    node = outside.node_ipv4
    assert arrives(outside.namespace, node, 5000, None)
    assert not arrives(outside.namespace, node, 5001, None)
    assert not arrives(outside.namespace, node, 5002, None)
    assert arrives(outside.namespace, node, 5003, None)
    assert arrives(None, outside.ipv4, 6000, outside.namespace)
    assert not arrives(None, outside.ipv4, 6001, outside.namespace)
    assert arrives(outside.namespace, pod.ipv4, 5004, pod.namespace)
    assert not arrives(outside.namespace, pod.ipv4, 5005, pod.namespace)
    assert not [rule for rule in kit.rules(driver.kernel.backend) if "NOTRACK" in rule or "--notrack" in rule]
