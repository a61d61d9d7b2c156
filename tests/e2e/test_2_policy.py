"""Policies of Kubernetes and of Calico, written through their own tools, decided by real packets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.ours import Network
from tests.e2e.people import API, DESK, GUEST, WEB, People, everything
from tests.e2e.workloads import ADMIN_PORT, PORT

Object = dict[str, Any]
Expected = Callable[[str, str, int], bool]


@pytest.fixture(scope="module")
def people(cluster: Cluster, network: Network) -> Iterator[People]:
    made = People.arrive(cluster)
    made.expect(everything)
    yield made
    for name in ("shop", "office"):
        cluster.delete(f"/api/v1/namespaces/{name}")
    cluster.wait("everybody to be gone", lambda: not cluster.pods("shop") and not cluster.pods("office"))


def of_kubernetes(name: str, namespace: str, **spec: Any) -> Object:
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec}


def of_calico(kind: str, name: str, namespace: str = "", **spec: Any) -> Object:
    meta = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": meta, "spec": {"order": 100, **spec}}


def of_the_cluster(name: str, tier: str, subject: Object, *ingress: Object) -> Object:
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"tier": tier, "priority": 10, "subject": subject, "ingress": list(ingress)},
    }


CLUSTER_NETWORK_POLICIES: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "clusternetworkpolicies.policy.networking.k8s.io",
        "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
    },
    "spec": {
        "group": "policy.networking.k8s.io",
        "scope": "Cluster",
        "names": {"kind": "ClusterNetworkPolicy", "plural": "clusternetworkpolicies"},
        "versions": [
            {
                "name": "v1alpha2",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
"""Kubernetes' own definition without its checks."""

KUBERNETES: dict[str, tuple[list[Object], Expected]] = {
    "nobody but pods of the same namespace with a label": (
        [
            of_kubernetes(
                "p",
                "shop",
                podSelector={"matchLabels": {"app": "api"}},
                ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}],
            )
        ],
        lambda here, there, port: there != API or here == WEB,
    ),
    "a namespace by its label, at a named port": (
        [
            of_kubernetes(
                "p",
                "shop",
                podSelector={},
                ingress=[
                    {
                        "from": [{"namespaceSelector": {"matchLabels": {"team": "staff"}}}],
                        "ports": [{"port": "admin", "protocol": "TCP"}],
                    }
                ],
            )
        ],
        lambda here, there, port: there in (DESK, GUEST) or (here in (DESK, GUEST) and port == ADMIN_PORT),
    ),
    "default deny in one direction": (
        [of_kubernetes("p", "office", podSelector={}, policyTypes=["Egress"])],
        lambda here, there, port: here in (WEB, API),
    ),
    "egress to a pod of another namespace, at a number": (
        [
            of_kubernetes(
                "p",
                "office",
                podSelector={"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["guest"]}]},
                policyTypes=["Egress"],
                egress=[
                    {
                        "to": [
                            {
                                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}},
                                "podSelector": {"matchLabels": {"app": "api"}},
                            }
                        ],
                        "ports": [{"port": PORT}],
                    }
                ],
            )
        ],
        lambda here, there, port: here != DESK or (there == API and port == PORT),
    ),
}

CALICO: dict[str, tuple[list[Object], Expected]] = {
    "service accounts by name": (
        [
            of_calico(
                "NetworkPolicy",
                "p",
                "shop",
                selector="app == 'api'",
                types=["Ingress"],
                ingress=[{"action": "Allow", "source": {"serviceAccounts": {"names": ["shopper"]}}}],
            )
        ],
        lambda here, there, port: there != API or here == WEB,
    ),
    "whom the policy is for by service account, port by name": (
        [
            of_calico(
                "GlobalNetworkPolicy",
                "p",
                serviceAccountSelector="projectcalico.org/name == 'clerk'",
                types=["Ingress"],
                ingress=[
                    {
                        "action": "Allow",
                        "protocol": "TCP",
                        "source": {"namespaceSelector": "team == 'sales'"},
                        "destination": {"ports": ["http"]},
                    }
                ],
            )
        ],
        lambda here, there, port: there != DESK or (here in (WEB, API) and port == PORT),
    ),
    "deny before allow, by order": (
        [
            of_calico(
                "GlobalNetworkPolicy",
                "early",
                namespaceSelector="team == 'staff'",
                types=["Egress"],
                egress=[{"action": "Deny", "destination": {"selector": "app == 'web'"}}],
            ),
            of_calico(
                "GlobalNetworkPolicy",
                "late",
                order=200,
                namespaceSelector="team == 'staff'",
                types=["Egress"],
                egress=[{"action": "Allow"}],
            ),
        ],
        lambda here, there, port: here in (WEB, API) or there != WEB,
    ),
    "a network set by its label": (
        [
            {
                "apiVersion": "projectcalico.org/v3",
                "kind": "GlobalNetworkSet",
                "metadata": {"name": "pods", "labels": {"kind": "all-pods"}},
                "spec": {"nets": ["10.65.0.0/16"]},
            },
            of_calico(
                "GlobalNetworkPolicy",
                "p",
                selector="app in {'guest'}",
                types=["Egress"],
                egress=[{"action": "Deny", "destination": {"selector": "kind == 'all-pods'"}}, {"action": "Allow"}],
            ),
        ],
        lambda here, there, port: here != GUEST,
    ),
}


@pytest.mark.parametrize("case", KUBERNETES)
def test_kubernetes_policy_lets_through_what_it_says_and_nothing_else(
    cluster: Cluster, people: People, case: str
) -> None:
    policies, expected = KUBERNETES[case]
    cluster.apply(*policies)
    people.expect(expected)
    for policy in policies:
        cluster.delete_object(policy)
    people.expect(everything)


@pytest.mark.parametrize("case", CALICO)
def test_calico_policy_lets_through_what_it_says_and_nothing_else(network: Network, people: People, case: str) -> None:
    resources, expected = CALICO[case]
    network.apply(*resources)
    people.expect(expected)
    network.remove(*resources)
    people.expect(everything)


def test_service_names_whom_a_policy_lets_through(cluster: Cluster, network: Network, people: People) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "api", "namespace": "shop"},
        "spec": {"selector": {"app": "api"}, "ports": [{"name": "http", "port": 80, "targetPort": PORT}]},
    }
    policy = of_calico(
        "NetworkPolicy",
        "p",
        "office",
        types=["Egress"],
        egress=[{"action": "Allow", "destination": {"services": {"name": "api", "namespace": "shop"}}}],
    )
    cluster.apply(service)
    network.apply(policy)
    people.expect(lambda here, there, port: here in (WEB, API) or (there == API and port == PORT))
    network.remove(policy)
    people.expect(everything)


def test_label_of_a_running_pod_changes_what_it_may(cluster: Cluster, network: Network, people: People) -> None:
    policy = of_calico(
        "GlobalNetworkPolicy",
        "p",
        selector="app == 'api'",
        types=["Ingress"],
        ingress=[{"action": "Allow", "source": {"selector": "badge == 'yes'"}}],
    )
    network.apply(policy)
    people.expect(lambda here, there, port: there != API)
    cluster.label("/api/v1/namespaces/office/pods/guest", badge="yes")
    people.expect(lambda here, there, port: there != API or here == GUEST)
    cluster.label("/api/v1/namespaces/office/pods/guest", badge=None)
    people.expect(lambda here, there, port: there != API)
    network.remove(policy)
    people.expect(everything)


def test_label_of_a_namespace_changes_what_its_pods_may(cluster: Cluster, network: Network, people: People) -> None:
    policy = of_kubernetes(
        "p", "shop", podSelector={}, ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"seen": "yes"}}}]}]
    )
    cluster.apply(policy)
    people.expect(lambda here, there, port: there in (DESK, GUEST))
    cluster.label("/api/v1/namespaces/office", seen="yes")
    people.expect(lambda here, there, port: there in (DESK, GUEST) or here in (DESK, GUEST))
    cluster.label("/api/v1/namespaces/office", seen=None)
    cluster.delete_object(policy)
    people.expect(everything)


def test_cluster_network_policies_come_before_and_after_those_of_namespaces(
    cluster: Cluster, network: Network, people: People
) -> None:
    """Their definition appears while the agents run, as when an administrator installs it later."""
    cluster.apply(CLUSTER_NETWORK_POLICIES)
    cluster.kubectl("wait", "--for", "condition=Established", f"crd/{CLUSTER_NETWORK_POLICIES['metadata']['name']}")
    no_guests = of_the_cluster(
        "no-guests",
        "Admin",
        {"namespaces": {"matchLabels": {"team": "sales"}}},
        {
            "action": "Deny",
            "from": [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "guest"}}}}],
        },
    )
    everybody = of_kubernetes("everybody", "shop", podSelector={}, ingress=[{}])
    no_admin = of_the_cluster(
        "no-admin",
        "Baseline",
        {"namespaces": {}},
        {
            "action": "Deny",
            "from": [{"namespaces": {}}],
            "protocols": [{"tcp": {"destinationPort": {"number": ADMIN_PORT}}}],
        },
    )
    cluster.apply(no_guests, everybody, no_admin)
    people.expect(lambda here, there, port: here != GUEST if there in (WEB, API) else port != ADMIN_PORT, within_s=60)
    for policy in (no_guests, everybody, no_admin):
        cluster.delete_object(policy)
    people.expect(everything)
