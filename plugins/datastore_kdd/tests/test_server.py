"""The server that the other tests use."""

from __future__ import annotations

from calico_datastore_kdd.testing import KubernetesServer


def test_restarted_server_keeps_what_it_had(kubernetes: KubernetesServer) -> None:
    kubernetes.request("POST", "/api/v1/namespaces", {"metadata": {"name": "kept"}})
    kubernetes.kill()
    kubernetes.start()
    assert kubernetes.request("GET", "/api/v1/namespaces/kept")["metadata"]["name"] == "kept"
