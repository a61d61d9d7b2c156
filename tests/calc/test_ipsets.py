"""IP sets and their members, by hand against what Felix's index gives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from calico_kernel.model.nodestate import IpSetKind
from calico_kernel.model.policy import EntityRule, Rule, ServiceAccountMatch, ServiceMatch
from calico_kernel.selector import parse
from calico_kernel.selector.ids import named_port_id, service_id


def allow(**source: Any) -> Rule:
    return Rule(action="Allow", source=EntityRule(**source))


def allow_to(protocol: str | None = None, **destination: Any) -> Rule:
    return Rule(action="Allow", protocol=protocol, destination=EntityRule(**destination))


def test_shared_address_stays_until_its_last_holder_goes(make: SimpleNamespace) -> None:
    first = make.workload("a", "10.0.0.1/32", node="n2", labels={"app": "x"})
    second = make.workload("b", "10.0.0.1/32", node="n3", labels={"app": "x"})
    n1 = make.node1(
        make.workload("w", "10.0.9.9/32"),
        make.global_policy("p", ingress=(allow(selector="app == 'x'"),)),
        first,
        second,
    )
    set_id = parse("app == 'x'").id
    assert n1.members(set_id) == {"10.0.0.1"}
    assert n1.update(make.gone(first)) is None
    delta = n1.update(make.gone(second))
    assert delta.ip_set_members[set_id].removed == {"10.0.0.1"}


def test_address_that_moves_between_endpoints_is_no_change(make: SimpleNamespace) -> None:
    n1 = make.node1(
        make.workload("w", "10.0.9.9/32"),
        make.global_policy("p", ingress=(allow(selector="app == 'x'"),)),
        make.workload("a", "10.0.0.1/32", node="n2", labels={"app": "x"}),
    )
    moved = make.workload("b", "10.0.0.1/32", node="n2", labels={"app": "x"})
    assert n1.update(moved, make.gone(make.workload("a"))) is None


def test_network_sets_give_prefixes_and_split_the_default_route(make: SimpleNamespace) -> None:
    n1 = make.node1(
        make.workload("w", "10.0.9.9/32"),
        make.global_policy("p", ingress=(allow(selector="role == 'net'"),)),
        make.network_set("a", "10.1.2.3/8", "192.0.2.1/32", "192.0.2.1", labels={"role": "net"}),
        make.network_set("b", "0.0.0.0/0", "::/0", labels={"role": "net"}),
    )
    assert n1.members(parse("role == 'net'").id) == {
        "10.0.0.0/8",
        "192.0.2.1",
        "0.0.0.0/1",
        "128.0.0.0/1",
        "::/1",
        "8000::/1",
    }


def test_namespaced_set_has_the_labels_of_its_namespace(make: SimpleNamespace) -> None:
    n1 = make.node1(
        make.workload("w", "10.0.9.9/32"),
        make.profile("kns.ns2", labels_to_apply={"pcns.team": "red"}),
        make.global_policy("p", ingress=(allow(namespace_selector="team == 'red'", selector="role == 'net'"),)),
        make.network_set("a", "10.0.0.0/8", namespace="ns2", labels={"role": "net"}),
        make.network_set("b", "11.0.0.0/8", namespace="ns3", labels={"role": "net"}),
    )
    (rule,) = n1.policies[("GlobalNetworkPolicy", "", "p")].inbound
    assert n1.members(rule.source.ip_sets[0]) == {"10.0.0.0/8"}


def test_profile_labels_change_members_and_own_labels_win(make: SimpleNamespace) -> None:
    selector = "color == 'red'"
    n1 = make.node1(
        make.workload("w", "10.0.9.9/32"),
        make.global_policy("p", ingress=(allow(selector=selector),)),
        make.workload("a", "10.0.0.1/32", node="n2", profiles=("kns.a",)),
        make.workload("b", "10.0.0.2/32", node="n2", profiles=("kns.a",), labels={"color": "blue"}),
    )
    set_id = parse(selector).id
    assert n1.members(set_id) == set()
    n1.update(make.profile("kns.a", labels_to_apply={"color": "red"}))
    assert n1.members(set_id) == {"10.0.0.1"}
    n1.update(make.workload("b", "10.0.0.2/32", node="n2", profiles=("kns.a",)))
    assert n1.members(set_id) == {"10.0.0.1", "10.0.0.2"}
    n1.update(make.gone(make.profile("kns.a")))
    assert n1.members(set_id) == set()


def test_workload_cannot_pretend_to_be_in_another_namespace(make: SimpleNamespace) -> None:
    labels = {"pcns.team": "red", "projectcalico.org/namespace": "ns2", "projectcalico.org/serviceaccount": "admin"}
    n1 = make.node1(
        make.workload("w", "10.0.9.9/32"),
        make.global_policy(
            "p",
            ingress=(
                allow(selector="pcns.team == 'red'"),
                allow(selector="projectcalico.org/namespace == 'ns2'"),
                allow(service_accounts=ServiceAccountMatch(names=("admin",))),
            ),
        ),
        make.workload("a", "10.0.0.1/32", node="n2", labels=labels, service_account_name="plain"),
    )
    assert len(n1.ip_sets) == 3
    assert all(not members for _kind, members in n1.ip_sets.values())


def test_named_port_gives_address_protocol_and_port(make: SimpleNamespace) -> None:
    http = (("http", "TCP", 8080), ("http", "UDP", 8081), ("other", "TCP", 1))
    n1 = make.node1(
        make.workload("w", "10.0.9.9/32"),
        make.global_policy("p", egress=(allow_to("TCP", selector="app == 'x'", ports=("http",)),)),
        make.workload("a", "10.0.0.1/32", "fd00::1/128", node="n2", labels={"app": "x"}, ports=http),
        make.workload("b", "10.0.0.2/32", node="n2", labels={"app": "y"}, ports=http),
        make.network_set("s", "10.0.0.3/32", labels={"app": "x"}),
    )
    set_id = named_port_id(parse("app == 'x'").id, "tcp", "http")
    assert n1.ip_sets == {set_id: (IpSetKind.IP_PORT, {"10.0.0.1,tcp:8080", "fd00::1,tcp:8080"})}
    (rule,) = n1.policies[("GlobalNetworkPolicy", "", "p")].outbound
    assert rule.destination.named_ports == (set_id,) and rule.destination.ip_sets == ()
    ports = (("http", "TCP", 9090),)
    delta = n1.update(make.workload("a", "10.0.0.1/32", node="n2", labels={"app": "x"}, ports=ports))
    assert delta.ip_set_members[set_id].added == {"10.0.0.1,tcp:9090"}
    assert delta.ip_set_members[set_id].removed == {"10.0.0.1,tcp:8080", "fd00::1,tcp:8080"}


def test_named_port_beside_numbers_keeps_the_selector(make: SimpleNamespace) -> None:
    n1 = make.node1(
        make.workload("w", "10.0.9.9/32"),
        make.global_policy("p", egress=(allow_to("TCP", selector="app == 'x'", ports=(80, "http")),)),
    )
    (rule,) = n1.policies[("GlobalNetworkPolicy", "", "p")].outbound
    assert rule.destination.ip_sets == (parse("app == 'x'").id,)
    assert len(rule.destination.named_ports) == 1


def test_service_members_come_from_its_slices(make: SimpleNamespace) -> None:
    service = ServiceMatch(name="web", namespace="ns1")
    n1 = make.node1(
        make.workload("w", "10.0.9.9/32"),
        make.global_policy("p", egress=(allow_to(services=service),), ingress=(allow(services=service),)),
        make.endpoint_slice("web-1", "web", ("10.0.0.1", "a.name"), ("TCP", 80), (None, 81), ("UDP", None)),
        make.endpoint_slice("web-2", "web", ("10.0.0.1", "10.0.0.2"), ("UDP", 53)),
        make.endpoint_slice("other", "other", ("10.0.0.3",), ("TCP", 80)),
    )
    with_ports, without = service_id("ns1", "web", with_ports=True), service_id("ns1", "web", with_ports=False)
    assert n1.members(with_ports) == {"10.0.0.1,tcp:80", "10.0.0.1,tcp:81", "10.0.0.1,udp:53", "10.0.0.2,udp:53"}
    assert n1.members(without) == {"10.0.0.1", "10.0.0.2"}
    n1.update(make.gone(make.endpoint_slice("web-2", "web", ())))
    assert n1.members(with_ports) == {"10.0.0.1,tcp:80", "10.0.0.1,tcp:81"}
    assert n1.members(without) == {"10.0.0.1"}


def test_set_lives_as_long_as_an_active_rule_names_it(make: SimpleNamespace) -> None:
    local = make.workload("w", "10.0.9.9/32", labels={"app": "w"})
    n1 = make.node1(
        make.global_policy("p", "app == 'w'", ingress=(allow(selector="role == 'x'"),)),
        make.global_policy("q", "app == 'w'", ingress=(allow(selector="role == 'x'"),)),
        make.workload("a", "10.0.0.1/32", node="n2", labels={"role": "x", "app": "w"}),
    )
    assert n1.ip_sets == {} and n1.policies == {}
    n1.update(local)
    assert len(n1.ip_sets) == 1 and len(n1.policies) == 2
    n1.update(make.gone(make.global_policy("p")))
    assert len(n1.ip_sets) == 1
    n1.update(make.gone(local))
    assert n1.ip_sets == {} and n1.policies == {}


def test_endpoint_without_address_is_absent(make: SimpleNamespace) -> None:
    n1 = make.node1(make.workload("w"), make.global_policy("p"))
    assert n1.workloads == {} and n1.policies == {}


def test_named_port_follows_an_endpoint_that_only_changes_its_address(make: SimpleNamespace) -> None:
    http = (("http", "TCP", 8080),)
    n1 = make.node1(
        make.workload("w", "10.0.9.9/32"),
        make.global_policy("p", egress=(allow_to("TCP", ports=("http",)),)),
        make.workload("a", "10.0.0.1/32", node="n2", ports=http),
    )
    set_id = named_port_id(parse("all()").id, "tcp", "http")
    n1.update(make.workload("a", "10.0.0.2/32", node="n2", ports=http))
    n1.update(make.workload("a", "10.0.0.3/32", node="n2", ports=http))
    assert n1.members(set_id) == {"10.0.0.3,tcp:8080"}
