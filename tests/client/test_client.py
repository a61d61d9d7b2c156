"""The resource client over the in-memory datastore: metadata, guards, cascades, initialisation, conflicts."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import msgspec
import pytest

from calico_kernel.client import Client, ensure_initialized
from calico_kernel.client.lock import lock, unlock
from calico_kernel.errors import (
    AlreadyExists,
    DatastoreError,
    NotFound,
    NotPermitted,
    RevisionConflict,
    ValidationError,
)
from calico_kernel.hookspecs import Validator
from calico_kernel.model.documents import to_resource
from calico_kernel.model.ipam import AssignRequest
from calico_kernel.testing.memory_datastore import MemoryDatastore
from calico_kernel.testing.memory_ipam import MemoryIpam

V3 = "projectcalico.org/v3"


def made(kind: str, name: str, spec: dict[str, Any] | None = None, **metadata: Any) -> Any:
    return to_resource(
        {"apiVersion": V3, "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec or {}}, internal=True
    )


@pytest.fixture
def store() -> MemoryDatastore:
    return MemoryDatastore()


@pytest.fixture
def client(store: MemoryDatastore) -> Client:
    client = Client(store=store, pause=lambda _seconds: None)
    ensure_initialized(client)
    return client


# ── metadata and revisions ────────────────────────────────────────────────────────────────────────────────────────────


def test_created_resource_gets_uid_creation_time_and_revision(client: Client) -> None:
    stored = client.create(made("GlobalNetworkSet", "feed", {"nets": ["192.0.2.0/24"]}))
    meta = stored.metadata
    assert len(meta.uid) == 36 and meta.creation_timestamp.endswith("Z") and meta.resource_version
    assert client.get("GlobalNetworkSet", "feed") == stored


@pytest.mark.parametrize(
    ("resource", "field"),
    [
        (made("GlobalNetworkSet", ""), "metadata.name"),
        (made("GlobalNetworkSet", "a", resourceVersion="5"), "metadata.resourceVersion"),
        (made("NetworkSet", "a"), "metadata.namespace"),
        (made("GlobalNetworkSet", "a", namespace="b"), "metadata.namespace"),
        (made("GlobalNetworkPolicy", "a", {"selector": "a =="}), "spec.selector"),
        (made("IPAMConfiguration", "other"), "metadata.name"),
    ],
)
def test_create_refuses_and_names_the_field(client: Client, resource: Any, field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        client.create(resource)
    assert field in dict(caught.value.problems)


def test_update_needs_revision_uid_and_creation_time(client: Client) -> None:
    client.create(made("GlobalNetworkSet", "feed"))
    with pytest.raises(ValidationError) as caught:
        client.update(made("GlobalNetworkSet", "feed"))
    assert set(dict(caught.value.problems)) == {
        "metadata.resourceVersion",
        "metadata.creationTimestamp",
        "metadata.uid",
    }


def test_update_at_an_old_revision_conflicts_and_keeps_the_newer(client: Client) -> None:
    first = client.create(made("GlobalNetworkSet", "feed"))
    newer = client.update(msgspec.structs.replace(first, spec=type(first.spec)(nets=("192.0.2.0/24",))))
    with pytest.raises(RevisionConflict, match=r"update conflict: GlobalNetworkSet\(feed\)"):
        client.update(first)
    assert client.get("GlobalNetworkSet", "feed") == newer


def test_apply_creates_then_replaces_and_keeps_stored_metadata(client: Client) -> None:
    first = client.apply(made("GlobalNetworkSet", "feed", labels={"a": "1"}, uid="from-file"))
    assert first.metadata.uid != "from-file"
    second = client.apply(made("GlobalNetworkSet", "feed", {"nets": ["192.0.2.0/24"]}, labels={"b": "2"}))
    assert second.metadata.uid == first.metadata.uid
    assert second.metadata.creation_timestamp == first.metadata.creation_timestamp
    assert second.metadata.labels == {"b": "2"}
    assert second.spec.nets == ("192.0.2.0/24",)


def test_replace_with_an_outdated_revision_is_refused_without_retry(client: Client) -> None:
    client.apply(made("GlobalNetworkSet", "feed"))
    with pytest.raises(RevisionConflict, match="is out of date"):
        client.replace(made("GlobalNetworkSet", "feed", resourceVersion="1"))


def test_replace_of_what_does_not_exist_is_refused(client: Client) -> None:
    with pytest.raises(NotFound, match=r"resource does not exist: GlobalNetworkSet\(feed\)"):
        client.replace(made("GlobalNetworkSet", "feed"))


class _Meddling(MemoryDatastore):
    """Somebody else writes just before the first ``meddle`` updates."""

    meddle = 0

    def update(self, key: Any, value: Any, *, revision: str) -> Any:
        if self.meddle > 0:
            self.meddle -= 1
            self.put(key, self.get(key).value)  # type: ignore[arg-type]
        return super().update(key, value, revision=revision)


@pytest.mark.parametrize(("times", "succeeds"), [(1, True), (4, True), (5, False)])
def test_conflict_is_tried_again_a_few_times(times: int, succeeds: bool) -> None:
    store = _Meddling()
    client = Client(store=store, pause=lambda _seconds: None)
    ensure_initialized(client)
    client.apply(made("GlobalNetworkSet", "feed"))
    store.meddle = times
    if succeeds:
        assert client.apply(made("GlobalNetworkSet", "feed", labels={"a": "b"})).metadata.labels == {"a": "b"}
    else:
        with pytest.raises(RevisionConflict):
            client.apply(made("GlobalNetworkSet", "feed", labels={"a": "b"}))


def test_create_of_what_exists_is_refused(client: Client) -> None:
    client.create(made("GlobalNetworkSet", "feed"))
    with pytest.raises(AlreadyExists, match=r"resource already exists: GlobalNetworkSet\(feed\)"):
        client.create(made("GlobalNetworkSet", "feed"))


# ── stored values that do not decode ──────────────────────────────────────────────────────────────────────────────────

BROKEN = "/calico/resources/v3/projectcalico.org/globalnetworksets/broken"


def test_malformed_value_is_listed_with_its_reason_and_can_be_overwritten(
    client: Client, store: MemoryDatastore
) -> None:
    store.write_raw(BROKEN, b'{"kind":"GlobalNetworkSet","spec":{"nets":7}}')
    listed = client.list("GlobalNetworkSet")
    assert listed.items == [] and listed.malformed[0][0].name == "broken" and listed.malformed[0][1]
    with pytest.raises(DatastoreError, match="does not decode"):
        client.get("GlobalNetworkSet", "broken")
    assert client.apply(made("GlobalNetworkSet", "broken")).metadata.uid
    assert client.list("GlobalNetworkSet").malformed == []


def test_malformed_policy_is_said_to_deny(client: Client, store: MemoryDatastore) -> None:
    path = "/calico/resources/v3/projectcalico.org/globalnetworkpolicies/broken"
    store.write_raw(path, b'{"kind":"GlobalNetworkPolicy","spec":{"selector":"all()","ingress":7}}')
    [(key, reason)] = client.list("GlobalNetworkPolicy").malformed
    assert key.name == "broken" and reason.startswith("denies in the directions it governs: ")


def test_malformed_value_can_be_deleted(client: Client, store: MemoryDatastore) -> None:
    store.write_raw(BROKEN, b"no json")
    assert client.delete("GlobalNetworkSet", "broken") is None
    with pytest.raises(NotFound):
        client.get("GlobalNetworkSet", "broken")


# ── tiers, profiles, read-only kinds ──────────────────────────────────────────────────────────────────────────────────


def test_policy_of_a_missing_tier_is_refused(client: Client) -> None:
    with pytest.raises(NotFound, match=r"resource does not exist: Tier\(nosuch\)"):
        client.apply(made("GlobalNetworkPolicy", "nosuch.p", {"tier": "nosuch"}))


def test_tier_with_a_policy_cannot_be_deleted_and_then_can(client: Client) -> None:
    client.apply(made("Tier", "security", {"order": 100}))
    client.apply(made("NetworkPolicy", "security.p", {"tier": "security"}, namespace="shop"))
    with pytest.raises(NotPermitted, match=r"non-empty tier: it holds NetworkPolicy\(shop/security.p\)"):
        client.delete("Tier", "security")
    client.delete("NetworkPolicy", "security.p", "shop")
    client.delete("Tier", "security")


@pytest.mark.parametrize("name", ["default", "kube-admin", "kube-baseline"])
def test_built_in_tier_cannot_be_deleted(client: Client, name: str) -> None:
    with pytest.raises(NotPermitted, match=f"cannot delete the {name} tier"):
        client.delete("Tier", name)


def test_built_in_profile_is_there_and_cannot_be_touched(client: Client) -> None:
    name = "projectcalico-default-allow"
    profile = client.get("Profile", name)
    assert profile.spec.ingress[0].action == profile.spec.egress[0].action == "Allow"
    assert [one.metadata.name for one in client.list("Profile").items] == [name]
    with pytest.raises(AlreadyExists):
        client.create(made("Profile", name))
    with pytest.raises(NotPermitted):
        client.apply(made("Profile", name))
    with pytest.raises(NotPermitted):
        client.delete("Profile", name)


def test_documents_may_not_write_cluster_information(client: Client) -> None:
    for write in (client.apply, client.create_from, client.replace):
        with pytest.raises(NotPermitted, match="resource is readonly"):
            write(made("ClusterInformation", "default"))
    with pytest.raises(NotPermitted):
        client.delete("ClusterInformation", "default")


def test_policy_gets_its_defaults_and_its_tier_label(client: Client) -> None:
    stored = client.apply(made("NetworkPolicy", "p", {"egress": [{"action": "Allow"}]}, namespace="shop"))
    assert stored.spec.types == ("Egress",) and stored.spec.tier == "default"
    assert stored.metadata.labels == {"projectcalico.org/tier": "default"}


def test_plugins_validator_can_refuse_a_write(store: MemoryDatastore) -> None:
    checker = Validator(
        name="no-feeds", check=lambda r: [("metadata.name", "is taken")] if r.metadata.name == "feed" else []
    )
    client = Client(store=store, validators=[checker])
    with pytest.raises(ValidationError, match="is taken"):
        client.create(made("GlobalNetworkSet", "feed"))
    client.create(made("GlobalNetworkSet", "other"))


# ── pools ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pool_gets_its_defaults(client: Client) -> None:
    spec = client.apply(made("IPPool", "main", {"cidr": "10.65.0.0/16"})).spec
    assert (spec.block_size, spec.node_selector, spec.ipip_mode, spec.vxlan_mode) == (26, "all()", "Never", "Never")
    assert spec.allowed_uses == ("Workload", "Tunnel") and spec.assignment_mode == "Automatic"


def test_overlapping_pool_is_refused_naming_the_other(client: Client) -> None:
    client.apply(made("IPPool", "main", {"cidr": "10.65.0.0/16"}))
    with pytest.raises(ValidationError, match=r"overlaps with IPPool\(main\) 10.65.0.0/16"):
        client.apply(made("IPPool", "other", {"cidr": "10.65.8.0/24"}))
    client.apply(made("IPPool", "v6", {"cidr": "fd00::/48"}))


@pytest.mark.parametrize(
    ("changed", "field"),
    [({"cidr": "10.66.0.0/16"}, "spec.cidr"), ({"cidr": "10.65.0.0/16", "blockSize": 28}, "spec.blockSize")],
)
def test_prefix_and_block_size_of_a_pool_cannot_change(client: Client, changed: dict[str, Any], field: str) -> None:
    client.apply(made("IPPool", "main", {"cidr": "10.65.0.0/16"}))
    with pytest.raises(ValidationError) as caught:
        client.apply(made("IPPool", "main", changed))
    assert field in dict(caught.value.problems)


def test_load_balancer_pool_stays_one(client: Client) -> None:
    client.apply(made("IPPool", "lb", {"cidr": "10.65.0.0/16", "allowedUses": ["LoadBalancer"]}))
    with pytest.raises(ValidationError, match="cannot be changed from LoadBalancer"):
        client.apply(made("IPPool", "lb", {"cidr": "10.65.0.0/16", "allowedUses": ["Workload"]}))


def test_pool_over_blocks_of_another_size_is_refused(client: Client, store: MemoryDatastore) -> None:
    from calico_kernel.model.ipam import AllocationBlock
    from calico_kernel.model.keys import BlockKey

    store.create(BlockKey("10.65.0.0/28"), AllocationBlock(cidr="10.65.0.0/28"))
    with pytest.raises(ValidationError, match=r"conflicts with the allocated block 10\.65\.0\.0/28"):
        client.apply(made("IPPool", "main", {"cidr": "10.65.0.0/16"}))
    client.apply(made("IPPool", "main", {"cidr": "10.65.0.0/16", "blockSize": 28}))


@pytest.fixture
def ipam(store: MemoryDatastore) -> MemoryIpam:
    return MemoryIpam(store)


@pytest.fixture
def managed(store: MemoryDatastore, ipam: MemoryIpam) -> Client:
    client = Client(store=store, ipam=lambda: ipam, pause=lambda _seconds: None)
    ensure_initialized(client)
    return client


def test_pool_is_disabled_before_it_goes_and_addresses_in_use_stay(managed: Client, ipam: MemoryIpam) -> None:
    managed.apply(made("IPPool", "main", {"cidr": "10.65.0.0/16"}))
    managed.apply(made("Node", "n1"))
    address = ipam.assign(AssignRequest(handle="h", node="n1", num_ipv4=1)).addresses[0].address
    deleted = managed.delete("IPPool", "main")
    assert deleted is not None and deleted.spec.disabled is True  # type: ignore[attr-defined]
    assert ipam.inspect(address).handle == "h"
    with pytest.raises(NotFound):
        managed.get("IPPool", "main")


def test_pool_is_not_deleted_at_an_old_revision(managed: Client) -> None:
    managed.apply(made("IPPool", "main", {"cidr": "10.65.0.0/16"}))
    with pytest.raises(RevisionConflict):
        managed.delete("IPPool", "main", revision="1")
    assert managed.get("IPPool", "main").spec.disabled is False


# ── nodes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_node_takes_everything_of_its_own_with_it(managed: Client, ipam: MemoryIpam) -> None:
    client = managed
    client.apply(made("IPPool", "main", {"cidr": "10.65.0.0/16"}))
    for number, node in enumerate(("n1", "n2")):
        tunnel, workload = ip_address(f"10.65.{number}.1"), ip_address(f"10.65.{number}.9")
        client.apply(made("Node", node, {"ipv4VXLANTunnelAddr": str(tunnel)}))
        for handle, address in (("tunnel", tunnel), ("workload", workload)):
            ipam.assign(AssignRequest(handle=f"{handle}-{node}", node=node, addresses=(address,)))
        endpoint = made(
            "WorkloadEndpoint",
            "",
            {
                "orchestrator": "cni",
                "node": node,
                "containerID": "abc",
                "endpoint": "eth0",
                "interfaceName": "cali1",
                "ipNetworks": [f"{workload}/32"],
            },
            namespace="shop",
        )
        client.create(endpoint)
        client.apply(made("BGPPeer", f"peer-{node}", {"node": node, "peerIP": "192.0.2.1", "asNumber": 64512}))
        client.apply(made("FelixConfiguration", f"node.{node}"))
        client.apply(made("BGPConfiguration", f"node.{node}"))
        client.apply(made("HostEndpoint", f"{node}-eth0", {"node": node, "interfaceName": "eth0"}))
    client.delete("Node", "n1")
    held = {
        text: ipam.inspect(ip_address(text)).handle for text in ("10.65.0.1", "10.65.0.9", "10.65.1.1", "10.65.1.9")
    }
    assert held == {"10.65.0.1": None, "10.65.0.9": None, "10.65.1.1": "tunnel-n2", "10.65.1.9": "workload-n2"}
    left = {
        kind: [one.metadata.name for one in client.list(kind).items]
        for kind in ("Node", "WorkloadEndpoint", "BGPPeer", "FelixConfiguration", "BGPConfiguration", "HostEndpoint")
    }
    assert left == {
        "Node": ["n2"],
        "WorkloadEndpoint": ["n2-cni-abc-eth0"],
        "BGPPeer": ["peer-n2"],
        "FelixConfiguration": ["node.n2"],
        "BGPConfiguration": ["node.n2"],
        "HostEndpoint": ["n2-eth0"],
    }


# ── initialisation ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_initialisation_is_made_once_and_merges(store: MemoryDatastore) -> None:
    client = Client(store=store, pause=lambda _seconds: None)
    ensure_initialized(client, version="v1", cluster_type="bgp")
    first = client.get("ClusterInformation", "default")
    assert len(first.spec.cluster_guid) == 32 and first.spec.datastore_ready is True
    ensure_initialized(client)
    assert client.get("ClusterInformation", "default") == first
    ensure_initialized(client, version="v2", cluster_type="k8s,bgp")
    spec = client.get("ClusterInformation", "default").spec
    assert (spec.cluster_guid, spec.calico_version, spec.cluster_type) == (first.spec.cluster_guid, "v2", "bgp,k8s")
    tiers = {tier.metadata.name: (tier.spec.order, tier.spec.default_action) for tier in client.list("Tier").items}
    assert tiers == {
        "default": (1000000, "Deny"),
        "kube-admin": (1000, "Pass"),
        "kube-baseline": (10000000, "Pass"),
    }


def test_initialisation_leaves_a_lock_in_place(client: Client) -> None:
    lock(client)
    ensure_initialized(client)
    assert client.get("ClusterInformation", "default").spec.datastore_ready is False
    unlock(client)
    assert client.get("ClusterInformation", "default").spec.datastore_ready is True


def test_creating_a_node_initialises_the_datastore(store: MemoryDatastore) -> None:
    client = Client(store=store)
    client.create(made("Node", "n1"))
    assert len(client.list("Tier").items) == 3


def test_many_nodes_initialise_one_datastore_at_once(store: MemoryDatastore) -> None:
    from concurrent.futures import ThreadPoolExecutor

    clients = [Client(store=store) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda pair: ensure_initialized(pair[1], cluster_type=f"t{pair[0]}"), enumerate(clients)))
    spec = clients[0].get("ClusterInformation", "default").spec
    assert sorted(spec.cluster_type.split(",")) == [f"t{number}" for number in range(8)]
    assert len(clients[0].list("Tier").items) == 3
