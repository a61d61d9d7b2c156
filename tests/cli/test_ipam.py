"""calicoctl ipam check, release --from-report, split and migrate: what leaks, and how it is given back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from calico_kernel import __version__
from calico_kernel.cli import ipamcheck
from calico_kernel.cli.session import Session
from calico_kernel.model import keys
from calico_kernel.model.ipam import AssignRequest, IpamHandle, ReleaseRequest
from calico_kernel.model.keys import HandleKey, ResourceKey

V3 = "apiVersion: projectcalico.org/v3\n"
CLUSTER = (
    V3 + "kind: IPPool\nmetadata: {name: main}\nspec: {cidr: 10.65.0.0/24}\n---\n"
    + V3 + "kind: Node\nmetadata: {name: n1}\nspec: {bgp: {ipv4Address: 192.0.2.1/24}}\n---\n"
    + V3 + "kind: Node\nmetadata: {name: n2}\nspec: {bgp: {ipv4Address: 192.0.2.2/24}}\n"
)  # fmt: skip


@pytest.fixture
def session(ctl: Any) -> Iterator[Session]:
    assert ctl("apply", "-f", "-", text=CLUSTER).status == 0
    made = Session(None)
    yield made
    made.close()


def assign(session: Session, handle: str, node: str = "n1", number: int = 1, **attributes: str) -> list[str]:
    given = session.composition.open_ipam().assign(
        AssignRequest(handle=handle, node=node, num_ipv4=number, attributes={"node": node, **attributes})
    )
    return [str(one.address) for one in given.addresses]


def workload(name: str, address: str, node: str = "n1") -> str:
    return (
        V3 + f"kind: WorkloadEndpoint\nmetadata: {{name: {node}-k8s-{name}-eth0, namespace: shop}}\n"
        f"spec: {{node: {node}, orchestrator: k8s, pod: {name}, endpoint: eth0, interfaceName: cali{name}, "
        f"containerID: {'a' * 8}, ipNetworks: [{address}/32]}}\n"
    )


def report(ctl: Any, path: Path) -> Any:
    assert ctl("ipam", "check", "-o", str(path)).status == 0
    return json.loads(path.read_text())


# ── check ──


def test_address_of_a_workload_a_tunnel_or_windows_is_in_use_and_others_leak(ctl: Any, session: Session) -> None:
    web, lost, tunnel, windows = (
        assign(session, handle)[0] for handle in ("web", "lost", "vxlan", ipamcheck.WINDOWS_HANDLE)
    )
    session.client.store.delete(HandleKey(ipamcheck.WINDOWS_HANDLE))  # Calico keeps no record of it
    ctl("apply", "-f", "-", text=workload("web", web))
    ctl("patch", "node", "n1", "-p", f"{{spec: {{ipv4VXLANTunnelAddr: {tunnel}}}}}")
    ran = ctl("ipam", "check", "--show-problem-ips")
    assert f"  {lost} leaked; attrs Main:lost Extra:node=n1\n" in ran.out and ran.status == 0
    assert all(f"{address} leaked" not in ran.out for address in (web, tunnel, windows))
    assert ran.out.endswith("Check complete; found 1 problems.\n")
    shown = ctl("ipam", "check", "--show-all-ips").out
    assert f"  {web} belongs to Workload(shop/n1-k8s-web-eth0)\n" in shown and f"{tunnel} belongs to Node(n1)" in shown


def test_address_of_a_service_counts_as_in_use_where_services_are_not_known(ctl: Any, session: Session) -> None:
    assign(session, "lb-abc", service="web")
    assert ctl("ipam", "check").out.endswith("found 0 problems.\n")


def test_address_in_use_that_nobody_assigned_is_a_problem_inside_a_pool_and_outside(ctl: Any, session: Session) -> None:
    ctl("apply", "-f", "-", text=workload("in", "10.65.0.9") + "---\n" + workload("out", "10.99.0.9"))
    out = ctl("ipam", "check", "--show-problem-ips").out
    assert "10.65.0.9 in use by Workload(shop/n1-k8s-in-eth0) and in active IPAM pool but has no IPAM allocation" in out
    assert "10.99.0.9 in use by Workload(shop/n1-k8s-out-eth0) is not in any active IP pool" in out
    assert out.endswith("found 2 problems.\n")


def test_one_address_of_two_workloads_is_a_problem(ctl: Any, session: Session) -> None:
    (address,) = assign(session, "web")
    ctl("apply", "-f", "-", text=workload("a", address) + "---\n" + workload("b", address))
    out = ctl("ipam", "check", "--show-problem-ips").out
    assert f"{address} has multiple owners: " in out and out.endswith("found 1 problems.\n")


def test_handle_without_addresses_is_counted_once(ctl: Any, session: Session) -> None:
    session.client.store.create(HandleKey("gone"), IpamHandle(block={"10.65.0.0/26": 1}))
    out = ctl("ipam", "check", "--show-problem-ips").out
    assert "gone doesn't have any active IPs" in out and out.endswith("found 1 problems.\n")


def test_report_has_the_fields_of_calicos(ctl: Any, session: Session, tmp_path: Path) -> None:
    (mine,) = assign(session, "web", pod="web", namespace="shop", timestamp="t")
    ctl("apply", "-f", "-", text=workload("web", mine))
    said = report(ctl, tmp_path / "r.json")
    assert said["version"] == __version__ and said["clusterGUID"] and said["datastoreLocked"] is False
    assert said["clusterInformationRevision"] and "clusterType" in said and said["leakedHandles"] == []
    assert said["allocations"][mine] == [
        {
            "ip": mine,
            "handle": "web",
            "sequenceNumber": said["allocations"][mine][0]["sequenceNumber"],
            "pod": "web",
            "namespace": "shop",
            "node": "n1",
            "creationTimestamp": "t",
            "inUse": True,
            "owners": ["Workload(shop/n1-k8s-web-eth0)"],
        }
    ]
    assert json.loads(ctl("ipam", "check", "-o", "json").out)["allocations"] == said["allocations"]


# ── release ──


def test_what_all_reports_call_lost_is_released_and_nothing_else(ctl: Any, session: Session, tmp_path: Path) -> None:
    web, lost, late = assign(session, "web")[0], assign(session, "lost")[0], ""
    ctl("apply", "-f", "-", text=workload("web", web))
    ctl("datastore", "lock")
    report(ctl, tmp_path / "1.json")
    (late,) = assign(session, "late")
    report(ctl, tmp_path / "2.json")
    files = ["--from-report", str(tmp_path / "1.json"), "--from-report", str(tmp_path / "2.json")]
    ran = ctl("ipam", "release", *files)
    assert ran.status == 0 and "Released 1 IPs successfully\n" in ran.out
    for address, assigned in ((web, True), (lost, False), (late, True)):
        assert ("is in use" in ctl("ipam", "show", "--ip", address).out) is assigned
    assert "agree on no leaked IP" in ctl("ipam", "release", *files).out


def test_address_that_has_another_holder_by_now_is_left_alone(ctl: Any, session: Session, tmp_path: Path) -> None:
    lost, other = assign(session, "lost")[0], assign(session, "other")[0]
    report(ctl, tmp_path / "r.json")
    ipam = session.composition.open_ipam()
    import ipaddress

    address = ipaddress.ip_address(lost)
    ipam.release([ReleaseRequest(address=address)])
    ipam.assign(AssignRequest(handle="new", node="n1", addresses=(address,)))
    ran = ctl("ipam", "release", "--force", "--from-report", str(tmp_path / "r.json"), "-o", "json")
    assert json.loads(ran.out)["released"] == [other] and json.loads(ran.out)["changed"] == [lost]
    assert "Handle ID: new" in ctl("ipam", "show", "--ip", lost).out


def test_report_of_calicos_own_tool_is_followed(ctl: Any, session: Session, tmp_path: Path) -> None:
    (lost,) = assign(session, "lost")
    session.client.store.create(HandleKey("gone"), IpamHandle(block={}))
    mine = report(ctl, tmp_path / "r.json")
    entry = {"ip": lost, "handle": "lost", "sequenceNumber": mine["allocations"][lost][0]["sequenceNumber"]}
    theirs = {
        "version": "v3.33.0",
        "clusterGUID": mine["clusterGUID"],
        "datastoreLocked": True,
        "clusterInformationRevision": mine["clusterInformationRevision"],
        "clusterType": "k8s",
        "allocations": {lost: [{**entry, "inUse": False, "owners": None}]},
        "leakedHandles": mine["leakedHandles"],
    }
    (tmp_path / "r.json").write_text(json.dumps(theirs))
    ran = ctl("ipam", "release", "--from-report", str(tmp_path / "r.json"))
    assert ran.status == 1 and "was produced by version v3.33.0" in ran.err
    ran = ctl("ipam", "release", "--force", "--from-report", str(tmp_path / "r.json"))
    assert ran.status == 0 and "Released 1 IPs successfully\nMended 1 of 1 other" in ran.out and "WARNING" in ran.err
    assert ctl("ipam", "check").out.endswith("found 0 problems.\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"clusterGUID": "other"}, "it is of another cluster"),
        ({"clusterInformationRevision": "0"}, "are all stale"),
    ],
)
def test_report_of_another_cluster_or_time_is_refused_even_by_force(
    ctl: Any, session: Session, tmp_path: Path, change: dict[str, str], said: str
) -> None:
    found = report(ctl, tmp_path / "r.json")
    (tmp_path / "r.json").write_text(json.dumps(found | change))
    ran = ctl("ipam", "release", "--force", "--from-report", str(tmp_path / "r.json"))
    assert ran.status == 1 and said in ran.err


def test_without_a_lock_nothing_is_released(ctl: Any, session: Session, tmp_path: Path) -> None:
    (lost,) = assign(session, "lost")
    report(ctl, tmp_path / "r.json")
    ran = ctl("ipam", "release", "--from-report", str(tmp_path / "r.json"))
    assert ran.status == 1 and "must be locked" in ran.err and "is in use" in ctl("ipam", "show", "--ip", lost).out


# ── split ──


def test_split_goes_on_where_it_broke_off_and_keeps_fields_of_newer_versions(ctl: Any, session: Session) -> None:
    store = session.client.store
    key = ResourceKey("IPPool", "", "main")
    ((_, raw),) = [one for one in store.list_stored([keys.ResourceQuery("IPPool")]) if one[0] == key]
    document = json.loads(raw)
    document["spec"]["newerField"] = {"a": 1}
    with session.composition.open_datastore()._database.write(flush=False) as connection:  # type: ignore[attr-defined]
        connection.execute(
            "UPDATE versions SET value=? WHERE revision=(SELECT revision FROM current WHERE path=?)",
            (msgspec.json.encode(document), keys.path(key)),
        )
    ctl("datastore", "lock")
    create = type(session.client).create_unsafe
    made: list[Any] = []

    def dies(self: Any, resource: Any) -> Any:
        if made:
            raise KeyboardInterrupt
        made.append(resource)
        return create(self, resource)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(session.client), "create_unsafe", dies)
        assert ctl("ipam", "split", "2", "--name", "main").status == 130
    ran = ctl("ipam", "split", "2", "--name", "main")
    assert ran.status == 0 and "Created split-main-1 with CIDR 10.65.0.128/25.\n" in ran.out
    for _, stored in store.list_stored([keys.ResourceQuery("IPPool")]):
        spec = json.loads(stored)["spec"]
        assert spec["newerField"] == {"a": 1} and not spec.get("disabled")


# ── migrate ──


@pytest.fixture
def host_local(tmp_path: Path) -> Path:
    made = tmp_path / "k8s-pod-network"
    made.mkdir()
    (made / "last_reserved_ip.0").write_text("10.65.0.9")
    for address, container in (("10.65.0.7", "c0ffee"), ("10.65.0.8", "gone"), ("10.65.0.9", "beef")):
        (made / address).write_text(f"{container}\r\neth0")
    return made


def test_addresses_of_host_local_are_taken_over_under_the_handle_of_their_container(
    ctl: Any, session: Session, host_local: Path
) -> None:
    ctl("apply", "-f", "-", text=workload("a", "10.65.0.7") + "---\n" + workload("b", "10.65.0.9"))
    ctl("patch", "node", "n1", "-p", "{spec: {bgp: {ipv4IPIPTunnelAddr: 10.65.0.1}}}")
    dry = ctl("ipam", "migrate", "--directory", str(host_local), "--dry-run")
    assert "Would take over 3 of 4 addresses of node n1.\n" in dry.out and (host_local / "10.65.0.8").exists()
    ran = ctl("ipam", "migrate", "--directory", str(host_local), "-o", "json")
    assert ran.status == 0 and not host_local.exists()
    assert {one["address"]: one["result"] for one in json.loads(ran.out)["addresses"]} == {
        "10.65.0.7": "moved",
        "10.65.0.8": "stale",
        "10.65.0.9": "moved",
        "10.65.0.1": "moved",
    }
    shown = ctl("ipam", "show", "--ip", "10.65.0.7").out
    assert "Handle ID: k8s-pod-network.c0ffee\n" in shown and "  pod: a\n" in shown and "  namespace: shop\n" in shown
    assert "Handle ID: ipip-tunnel-addr-n1" in ctl("ipam", "show", "--ip", "10.65.0.1").out
    assert ctl("ipam", "check").out.endswith("found 0 problems.\n")
    assert (
        ctl("apply", "-f", "-", text=CLUSTER).status == 0
        and "is not there" in ctl("ipam", "migrate", "--directory", str(host_local)).out
    )  # unlocked again, and a second run has nothing to do


def test_address_that_another_holds_stays_with_host_local_and_fails(
    ctl: Any, session: Session, host_local: Path
) -> None:
    ctl("apply", "-f", "-", text=workload("a", "10.65.0.7"))
    import ipaddress

    request = AssignRequest(handle="other", node="n2", addresses=(ipaddress.ip_address("10.65.0.7"),))
    session.composition.open_ipam().assign(request)
    ran = ctl("ipam", "migrate", "--directory", str(host_local))
    assert ran.status == 1 and "10.65.0.7: refused: other has it already\n" in ran.out
    assert sorted(path.name for path in host_local.iterdir()) == ["10.65.0.7", "last_reserved_ip.0", "lock"]
    session.composition.open_ipam().release_by_handle("other")
    assert ctl("ipam", "migrate", "--directory", str(host_local)).status == 0
