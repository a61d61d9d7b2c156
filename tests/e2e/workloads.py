"""Kubernetes objects that the tests apply, and what pods' packets do."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from calico_kernel.host import netns
from tests.e2e import image

Object = dict[str, Any]
PORT, ADMIN_PORT = 8080, 9090
"""Every pod serves on both."""


def namespace(name: str, **labels: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def service_account(name: str, namespace: str, **labels: str) -> Object:
    meta = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}


def pod_spec(account: str = "default") -> Object:
    """A web server. It ignores SIGTERM, as the first process of a container does: no grace."""
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "dnsPolicy": "Default",
        "serviceAccountName": account,
        "terminationGracePeriodSeconds": 0,
        "containers": [
            {
                "name": "server",
                "image": image.NAME,
                "imagePullPolicy": "Never",
                "command": ["sh", "-c", f"httpd -p {ADMIN_PORT} -h /www; exec httpd -f -p {PORT} -h /www"],
                "ports": [
                    {"name": "http", "containerPort": PORT},
                    {"name": "admin", "containerPort": ADMIN_PORT},
                ],
            }
        ],
    }


def deployment(name: str, namespace: str, replicas: int, **spec: Any) -> Object:
    """Its pods spread over the nodes, labelled ``app: NAME``."""
    labels = {"app": name}
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": labels},
    }
    template = {"metadata": {"labels": labels}, "spec": {"topologySpreadConstraints": [spread], **pod_spec(**spec)}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


def pod(name: str, namespace: str, node: str, labels: Mapping[str, str] | None = None, **spec: Any) -> Object:
    """On a node of the test's choice."""
    meta = {"name": name, "namespace": namespace, "labels": dict(labels or {})}
    choice = {"nodeSelector": {"kubernetes.io/hostname": node}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {**choice, **pod_spec(**spec)}}


def fetches(namespace_path: str, address: str, port: int = PORT, timeout_s: float = 1.0) -> bool:
    """Does a client in that network namespace get the page from a pod's server?"""

    def fetch() -> bool:
        try:
            with socket.create_connection((address, port), timeout=timeout_s) as connection:
                connection.settimeout(timeout_s)
                connection.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
                answer = b""
                while part := connection.recv(4096):
                    answer += part
        except OSError:
            return False
        return answer.endswith(b"served\n")

    return netns.run_in(namespace_path, fetch)


def connects(namespace_path: str, address: str, port: int, timeout_s: float = 2.0) -> bool:
    def connect() -> bool:
        try:
            socket.create_connection((address, port), timeout=timeout_s).close()
        except OSError:
            return False
        return True

    return netns.run_in(namespace_path, connect)
