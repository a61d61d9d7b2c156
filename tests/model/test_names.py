from __future__ import annotations

import pytest

from calico_kernel.model import durations, names
from calico_kernel.model.names import EndpointIds

WEPS = [
    (EndpointIds(node="kubenode-1", orchestrator="k8s", pod="web-0", endpoint="eth0"), "kubenode--1-k8s-web--0-eth0"),
    (EndpointIds(node="n", orchestrator="cni", container_id="abc", endpoint="eth0"), "n-cni-abc-eth0"),
    (EndpointIds(node="n", orchestrator="libnetwork", endpoint="e"), "n-libnetwork-libnetwork-e"),
    (EndpointIds(node="n", orchestrator="openstack", workload="w-1", endpoint="e"), "n-openstack-w--1-e"),
]


@pytest.mark.parametrize(("ids", "name"), WEPS)
def test_workload_endpoint_name_is_built_and_taken_apart(ids: EndpointIds, name: str) -> None:
    assert names.workload_endpoint_name(ids) == name
    assert names.parse_workload_endpoint_name(name) == ids
    assert names.workload_endpoint_matches(ids, name)


@pytest.mark.parametrize("bad", [{"pod": ""}, {"pod": "-a"}, {"node": "a-"}])
def test_part_that_would_make_the_name_ambiguous_is_refused(bad: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="must"):
        names.workload_endpoint_name(
            EndpointIds(**{"node": "n", "orchestrator": "k8s", "pod": "p", "endpoint": "e", **bad})
        )


def test_prefix_also_fits_longer_names_and_matching_tells_them_apart() -> None:
    ids = EndpointIds(node="n", orchestrator="k8s", pod="pod")
    prefix = names.workload_endpoint_prefix(ids)
    assert prefix == "n-k8s-pod-"
    other = "n-k8s-pod--1-eth0"
    assert other.startswith(prefix) and not names.workload_endpoint_matches(ids, other)
    assert names.workload_endpoint_matches(ids, "n-k8s-pod-eth0")
    assert names.workload_endpoint_prefix(EndpointIds(node="", orchestrator="k8s")) == ""


@pytest.mark.parametrize("name", ["", "a", "a-b-c", "a-b-c-d-e", "a--b", "-a-b-c"])
def test_name_without_four_parts_is_no_endpoint(name: str) -> None:
    assert names.parse_workload_endpoint_name(name) is None


def test_workload_id_joins_namespace_and_third_part() -> None:
    assert names.workload_id("ns", WEPS[0][0]) == "ns/web-0"


def test_derived_names_equal_calicos() -> None:
    assert names.pod_interface_name("default", "nginx") == "calic440f455693"
    assert names.container_interface_name("gold000000000000") == "caligold0000000"
    assert names.tunnel_handle("n1", "vxlan") == "vxlan-tunnel-addr-n1"
    assert names.vtep_mac("n1").startswith("66:") and names.vtep_mac("n1") != names.vtep_mac("n1", version=6)


@pytest.mark.parametrize(
    ("prefix", "suffix", "limit", "same"),
    [("cali-pi-", "short", 28, True), ("p", "abc", 4, True), ("p", "_bc", 4, False), ("p", "abcd", 4, False)],
)
def test_id_is_shortened_only_when_it_must(prefix: str, suffix: str, limit: int, same: bool) -> None:
    made = names.length_limited_id(prefix, suffix, limit)
    assert (made == prefix + suffix) == same
    assert len(made) <= limit and (same or made.startswith(f"{prefix}_"))


def test_empty_suffix_becomes_an_underscore() -> None:
    assert names.length_limited_id("p", "", 10) == "p_"
    with pytest.raises(ValueError, match="no room"):
        names.length_limited_id("prefix", "suffix", 7)


@pytest.mark.parametrize(
    ("text", "canonical", "in_seconds"),
    [
        ("60s", "1m0s", 60),
        ("90s", "1m30s", 90),
        ("0", "0s", 0),
        ("1h", "1h0m0s", 3600),
        ("24h", "24h0m0s", 86400),
        ("1.5s", "1.5s", 1.5),
        ("250ms", "250ms", 0.25),
        ("1h30m5.25s", "1h30m5.25s", 5405.25),
        ("-5m", "-5m0s", -300),
        ("1500us", "1.5ms", 0.0015),
        ("7ns", "7ns", 7e-9),
        (".5m", "30s", 30),
    ],
)
def test_duration_is_printed_as_go_prints_it(text: str, canonical: str, in_seconds: float) -> None:
    assert durations.format_duration(durations.parse_duration(text)) == canonical
    assert durations.seconds(text) == pytest.approx(in_seconds)
    assert durations.parse_duration(canonical) == durations.parse_duration(text)


@pytest.mark.parametrize("text", ["", "ten", "5", "1d", "1s ", "1m-5s", "99999999999h", "-", "s"])
def test_text_that_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        durations.parse_duration(text)
