"""ADD and DEL: what they make, in namespaces of a real kernel, and that nothing of it stays."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from calico_cni.settings import CniSettings
from calico_kernel.errors import ValidationError
from calico_kernel.host import netns as namespaces
from calico_kernel.host import nlwire, sysctl
from calico_kernel.host.netlink import Netlink, add_veth
from calico_kernel.model.keys import ResourceKey
from calico_kernel.testing.ipam import add_pool

pytestmark = pytest.mark.node
ID = "0123456789abcdef0123456789abcdef"
POD = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1"


def test_add_gives_a_connected_interface_and_del_leaves_nothing(
    node: Any, workload: Callable[[], str], reaches: Callable[[str, str, str], bool]
) -> None:
    first, second = workload(), workload()
    one, two = node.add(ID, first), node.add(f"f{ID}", second)
    sysctl.write("net/ipv4/ip_forward", 1)
    assert one.said == {
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": "cali0123456789a"},
            {"name": "eth0", "mac": one.said["interfaces"][1]["mac"], "sandbox": namespaces.path_of(first)},
        ],
        "ips": [{"interface": 1, "address": "10.65.0.0/32"}],
        "routes": [{"dst": "10.65.0.0/32"}],
        "dns": {},
    }
    assert reaches(first, second, two.addresses[0])
    for container, namespace in ((ID, first), (f"f{ID}", second)):
        answer = node.run("DEL", container, namespace)
        assert (answer.status, answer.said) == (0, {})
    assert node.nothing_left()
    with Netlink(first) as inside:
        assert inside.link("eth0") is None


@pytest.mark.parametrize("families", [{4, 6}, {6}])
def test_workloads_reach_each_other_over_every_family_they_have(
    node: Any, workload: Callable[[], str], reaches: Callable[[str, str, str], bool], families: set[int]
) -> None:
    flags = {f"assign_ipv{version}": str(version in families).lower() for version in (4, 6)}
    conf = node.conf(ipam={"type": "calico-ipam", **flags})
    first, second = workload(), workload()
    node.add(ID, first, conf=conf)
    two = node.add(f"f{ID}", second, conf=conf)
    sysctl.write("net/ipv4/ip_forward", 1)
    sysctl.write("net/ipv6/conf/all/forwarding", 1)
    assert {6 if ":" in address else 4 for address in two.addresses} == families
    assert [address for address in two.addresses if reaches(first, second, address)] == two.addresses
    for container, namespace in ((ID, first), (f"f{ID}", second)):
        assert node.run("DEL", container, namespace, conf=conf).status == 0
    assert node.nothing_left()


def test_interface_has_calicos_addresses_routes_and_settings(node: Any, workload: Callable[[], str]) -> None:
    name = workload()
    (node.state_dir / "mtu").write_text("1450\n")
    answer = node.add(ID, name, conf=node.conf(ipam={"type": "calico-ipam", "assign_ipv6": "true"}))
    host_name = answer.said["interfaces"][0]["name"]
    with Netlink() as nl:
        host = nl.link(host_name)
        assert host is not None
        assert (host.mac, host.up, host.mtu_bytes) == ("ee:ee:ee:ee:ee:ee", True, 1450)
        assert [r.prefix for r in nl.routes(ifindex=host.index)] == ["10.65.0.0/32"]
        assert "fd00:65::/128" in [r.prefix for r in nl.routes(ifindex=host.index, version=6)]
        assert nl.addresses(host.index, version=4) == []
    for setting in ("ipv4/conf/{}/proxy_arp", "ipv4/conf/{}/route_localnet", "ipv4/conf/{}/forwarding"):
        assert sysctl.read("net/" + setting.format(host_name)) == "1"
    for setting in ("ipv6/conf/{}/proxy_ndp", "ipv6/conf/{}/forwarding"):
        assert sysctl.read("net/" + setting.format(host_name)) == "1"
    assert sysctl.read(f"net/ipv6/conf/{host_name}/accept_ra") == "0"
    with Netlink(name) as nl:
        inside = nl.link("eth0")
        assert inside is not None and inside.mac == answer.said["interfaces"][1]["mac"] and inside.mtu_bytes == 1450
        held = {(a.address, a.prefix_length) for a in nl.addresses(inside.index) if a.scope == 0}
        assert held == {("10.65.0.0", 32), ("fd00:65::", 128)}
        assert {(r.prefix, r.gateway, r.scope) for r in nl.routes()} == {
            ("169.254.1.1/32", "", nlwire.RT_SCOPE_LINK),
            ("0.0.0.0/0", "169.254.1.1", 0),
        }
        assert ("::/0", "fe80::ecee:eeff:feee:eeee") in {(r.prefix, r.gateway) for r in nl.routes(version=6)}


def test_kubernetes_pod_gets_calicos_names_labels_and_profiles(node: Any, workload: Callable[[], str]) -> None:
    conf = node.conf(
        args={
            "cni": {
                "labels": [{"key": "app", "value": "web"}],
                "serviceAccount": "shopper",
                "ports": [{"name": "http", "port": 80}, {"port": 9}],
                "annotations": {"cni.projectcalico.org/allowedSourcePrefixes": '["10.9.0.0/16"]'},
            }
        }
    )
    node.add(ID, workload(), conf=conf, args=POD)
    endpoint = node.endpoints()["node--1-k8s-web--1-eth0"]
    assert endpoint.metadata.namespace == "shop"
    assert endpoint.metadata.labels == {
        "app": "web",
        "projectcalico.org/namespace": "shop",
        "projectcalico.org/orchestrator": "k8s",
        "projectcalico.org/serviceaccount": "shopper",
    }
    spec = endpoint.spec
    assert (spec.pod, spec.container_id, spec.node, spec.endpoint) == ("web-1", ID, "node-1", "eth0")
    assert spec.profiles == ("kns.shop", "ksa.shop.shopper")
    assert spec.interface_name == "cali" + hashlib.sha1(b"shop.web-1").hexdigest()[:11]
    assert [(port.name, port.protocol, port.port) for port in spec.ports] == [("http", "TCP", 80)]
    assert spec.allow_spoofed_source_prefixes == ("10.9.0.0/16",)
    assert spec.ip_networks == ("10.65.0.0/32",)
    request = node.ipam.requests[0]
    assert request.handle == f"net1.{ID}"
    assert (request.attributes["pod"], request.attributes["namespace"]) == ("web-1", "shop")
    assert node.store.get(ResourceKey("Profile", "", "kns.shop")).value.spec.labels_to_apply == {
        "pcns.projectcalico.org/name": "shop",
        "pcns.kubernetes.io/metadata.name": "shop",
    }


def test_policy_type_k8s_leaves_profiles_to_the_mirror(node: Any, workload: Callable[[], str]) -> None:
    node.add(ID, workload(), conf=node.conf(policy={"type": "k8s"}), args=POD)
    assert node.endpoints()["node--1-k8s-web--1-eth0"].spec.profiles == ("kns.shop",)
    from calico_kernel.model.keys import ResourceQuery

    assert node.store.list([ResourceQuery("Profile")]).records == []


def test_plain_container_gets_the_networks_profile(node: Any, workload: Callable[[], str]) -> None:
    node.add(ID, workload())
    endpoint = node.endpoints()[f"node--1-cni-{ID}-eth0"]
    assert endpoint.spec.profiles == ("net1",)
    assert endpoint.metadata.namespace == "default"
    profile = node.store.get(ResourceKey("Profile", "", "net1")).value
    assert profile.spec.labels_to_apply == {"net1": ""}
    assert profile.spec.ingress[0].source.selector == "has(net1)"


def test_annotations_choose_addresses_pools_and_mac(node: Any, workload: Callable[[], str]) -> None:
    def conf(**annotations: str) -> dict[str, Any]:
        named = {f"cni.projectcalico.org/{key}": text for key, text in annotations.items()}
        return node.conf(args={"cni": {"annotations": named}})

    answer = node.add(ID, workload(), conf=conf(ipAddrs='["10.65.0.77"]', hwAddr="02:00:00:00:00:07"))
    assert answer.addresses == ["10.65.0.77"]
    assert answer.said["interfaces"][1]["mac"] == "02:00:00:00:00:07"
    add_pool(node.store, "blue", "10.66.0.0/24")
    node.add("c2", workload(), conf=conf(ipv4pools='["blue"]', ipFamilies='["IPv4","IPv6"]'))
    request = node.ipam.requests[-1]
    assert (request.pools_ipv4, request.num_ipv4, request.num_ipv6) == (("blue",), 1, 1)


def test_namespace_profile_gives_labels_and_pools(node: Any, workload: Callable[[], str]) -> None:
    from calico_kernel.model.meta import ObjectMeta
    from calico_kernel.model.policy import Profile, ProfileSpec

    meta = ObjectMeta(name="kns.shop", annotations={"cni.projectcalico.org/ipv4pools": '["green"]'})
    profile = Profile(metadata=meta, spec=ProfileSpec(labels_to_apply={"pcns.team": "red", "other": "x"}))
    node.store.create(ResourceKey("Profile", "", "kns.shop"), profile)
    add_pool(node.store, "green", "10.67.0.0/24")
    node.add(ID, workload(), args=POD)
    request = node.ipam.requests[-1]
    assert request.pools_ipv4 == ("green",)
    assert request.namespace_labels == {"team": "red"}
    assert request.namespace == "shop"


@pytest.mark.parametrize(
    ("where", "value"),
    [("args", "IP=10.65.0.50"), ("runtimeConfig", {"ips": ["10.65.0.50/16"]}), ("cni", {"ips": ["10.65.0.50"]})],
)
def test_address_asked_for_by_the_runtime_is_given(
    node: Any, workload: Callable[[], str], where: str, value: Any
) -> None:
    conf = {"runtimeConfig": {"runtimeConfig": value}, "cni": {"args": {"cni": value}}}.get(where, {})
    answer = node.add(ID, workload(), conf=node.conf(**conf), args=value if where == "args" else "")
    assert answer.addresses == ["10.65.0.50"]


def test_add_waits_for_policy_of_exactly_what_it_wrote(node: Any, workload: Callable[[], str]) -> None:
    node.add(ID, workload())
    (endpoint, revision, timeout_s), *others = node.waited
    assert others == []
    assert endpoint == ("cni", f"default/{ID}", "eth0")
    assert revision == node.store.get(ResourceKey("WorkloadEndpoint", "default", f"node--1-cni-{ID}-eth0")).revision
    assert 0 < timeout_s <= 10.0
    node.add("c2", workload(), conf=node.conf(policy_setup_timeout_seconds=0))
    assert len(node.waited) == 1


def test_policy_not_programmed_in_time_is_try_again_and_undone(node: Any, workload: Callable[[], str]) -> None:
    node.programmed = False
    name = workload()
    answer = node.run("ADD", ID, name)
    assert (answer.status, answer.said["code"]) == (1, 11)
    assert "policy" in answer.said["msg"]
    assert node.nothing_left()
    node.programmed = True
    node.add(ID, name)


@pytest.mark.parametrize("settings", [CniSettings(on_policy_timeout="warn")])
def test_policy_not_programmed_in_time_is_only_a_warning_when_so_set(node: Any, workload: Callable[[], str]) -> None:
    node.programmed = False
    node.add(ID, workload())
    assert len(node.endpoints()) == 1


def test_endpoint_changed_by_another_while_policy_is_awaited_is_awaited_anew(
    node: Any, workload: Callable[[], str]
) -> None:
    key = ResourceKey("WorkloadEndpoint", "default", f"node--1-cni-{ID}-eth0")

    def touch(endpoint: Any, revision: str, timeout_s: float) -> bool:
        record = node.store.get(key)
        if not node.waited:
            node.store.update(key, record.value, revision=record.revision)
        node.waited.append(revision)
        return len(node.waited) > 1 and revision == record.revision

    node.await_programmed = touch
    node.add(ID, workload())
    assert len(node.waited) == 2


def test_an_observer_that_refuses_leaves_nothing(node: Any, workload: Callable[[], str]) -> None:
    def refuse(endpoint: Any) -> Any:
        raise ValidationError("the endpoint", [("metadata.labels", "lacks an owner")])

    node.admit = refuse
    answer = node.run("ADD", ID, workload())
    assert (answer.status, answer.said["code"]) == (1, 100)
    assert "lacks an owner" in answer.said["msg"]
    assert node.nothing_left()


def test_same_add_twice_answers_the_same_and_changes_nothing(node: Any, workload: Callable[[], str]) -> None:
    name, conf = workload(), node.conf("1.1.0")
    first = node.add(ID, name, conf=conf)
    before = node.endpoints()
    second = node.add(ID, name, conf=conf)
    assert second.said == first.said
    assert node.endpoints() == before
    assert len(node.ipam.handles()) == 1


def test_add_again_after_the_interface_was_lost_mends_it_with_the_same_address(
    node: Any, workload: Callable[[], str]
) -> None:
    name = workload()
    first = node.add(ID, name)
    with Netlink(name) as nl:
        from calico_kernel.host.netlink import delete_link

        nl.run(delete_link(name="eth0"))
    second = node.add(ID, name)
    assert second.said == first.said
    assert node.run("CHECK", ID, name, conf=node.conf(prevResult=second.said)).status == 0


def test_new_sandbox_of_a_pod_takes_over_and_the_old_del_leaves_it(node: Any, workload: Callable[[], str]) -> None:
    old, new = workload(), workload()
    node.add("old", old, args=POD)
    answer = node.add("new", new, args=POD)
    assert node.run("DEL", "old", old, args=POD).status == 0
    endpoint = node.endpoints()["node--1-k8s-web--1-eth0"]
    assert endpoint.spec.container_id == "new"
    assert endpoint.spec.ip_networks == tuple(f"{address}/32" for address in answer.addresses)
    assert node.run("CHECK", "new", new, args=POD, conf=node.conf(prevResult=answer.said)).status == 0
    assert node.ipam.handles() == {"net1.new"}


def test_new_sandbox_of_a_pod_with_an_address_of_its_own_takes_it_over(node: Any, workload: Callable[[], str]) -> None:
    old, new, other = workload(), workload(), workload()
    conf = node.conf(args={"cni": {"annotations": {"cni.projectcalico.org/ipAddrs": '["10.65.0.40"]'}}})
    node.add("old", old, args=POD, conf=conf)
    stranger = node.run("ADD", "stranger", other, args=POD.replace("web-1", "web-2"), conf=conf)
    assert stranger.said["code"] == 101
    assert node.add("new", new, args=POD, conf=conf).addresses == ["10.65.0.40"]
    assert node.run("DEL", "old", old, args=POD, conf=conf).status == 0
    assert node.ipam.handles() == {"net1.new"}


def test_del_works_with_the_namespace_gone_twice_and_without_any_add(node: Any, workload: Callable[[], str]) -> None:
    name = workload()
    node.add(ID, name)
    namespaces.delete(name)
    for _ in range(2):
        assert node.run("DEL", ID, name).status == 0
    assert node.run("DEL", ID).status == 0
    assert node.run("DEL", "never-seen", name).status == 0
    assert node.nothing_left()


def test_del_never_touches_the_nodes_own_devices(node: Any) -> None:
    with Netlink() as nl:
        nl.run(add_veth("eth0", "uplink"))
    answer = node.run("DEL", ID, "/proc/self/ns/net")
    assert (answer.status, answer.said["code"]) == (1, 8)
    assert node.links() == {"eth0", "uplink"}


def test_del_with_a_file_that_outlived_its_namespace_works(
    node: Any, workload: Callable[[], str], tmp_path: Any
) -> None:
    node.add(ID, workload())
    (tmp_path / "gone").write_text("")
    assert node.run("DEL", ID, str(tmp_path / "gone")).status == 0
    assert node.nothing_left()


def test_del_without_namespace_removes_the_host_side(node: Any, workload: Callable[[], str]) -> None:
    node.add(ID, workload())
    assert node.run("DEL", ID).status == 0
    assert node.nothing_left()


def test_another_interface_name_gets_a_host_name_of_its_own(node: Any, workload: Callable[[], str]) -> None:
    first, second = workload(), workload()
    one, two = node.add(ID, first), node.add(ID, second, interface="net0", conf={**node.conf(), "name": "net2"})
    assert one.said["interfaces"][0] != two.said["interfaces"][0]
    assert node.run("DEL", ID, first).status == 0
    assert [endpoint.spec.endpoint for endpoint in node.endpoints().values()] == ["net0"]
    assert len(node.links()) == len(node.ipam.handles()) == 1
