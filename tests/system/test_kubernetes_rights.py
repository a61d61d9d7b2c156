"""The agent on the Kubernetes datastore with the rights that ``install/`` gives it, and no others.

A real API server judges, and writes down what was asked: nothing that the agent and the CNI plugin do is refused, and
nothing is granted that they do not use.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml

from calico_datastore_kdd.testing import KubernetesServer, program
from calico_kernel.cli.calico import main as calico
from calico_kernel.cli.calicoctl import main as calicoctl_main
from calico_kernel.client import Client
from calico_kernel.client.setup import ensure_initialized
from calico_kernel.compose import compose
from calico_kernel.config import load
from calico_kernel.host import netns as namespaces
from calico_kernel.model.crds import GROUPS, NATIVE_GROUP, NOT_CUSTOM, custom_kinds, definition
from calico_kernel.model.ipam import AssignRequest
from calico_kernel.model.kinds import public_kinds
from calico_kernel.model.wellknown import CRD_GROUP

pytestmark = pytest.mark.node

KUBERNETES = Path(__file__).resolve().parents[2] / "install" / "kubernetes"
ACCOUNT = "system:serviceaccount:calico-system:calico-node"
NODE = "worker-1"
READY_S = 60.0
EFFECT_S = 30.0
PEOPLE = {"reader": "calicoctl-readonly", "operator": "calicoctl-admin"}
RESOURCES = Path(__file__).resolve().parents[1] / "model" / "data" / "resources.yaml"
Right = tuple[str, str, str]
"""API group, resource (with its subresource), verb."""


@attrs.define
class Cluster:
    """``program``: the CNI executable; ``config``: the agent's, with the token of its service account."""

    server: KubernetesServer
    directory: Path
    config: Path
    token: str
    group: str

    def used(self) -> tuple[set[Right], list[str]]:
        """What the agent's account asked for and got, and what it was refused."""
        granted: set[Right] = set()
        refused = []
        for line in (self.directory / "audit.log").read_text().splitlines():
            event = json.loads(line)
            about = event.get("objectRef")
            if event["user"]["username"] != ACCOUNT or about is None:
                continue
            resource = "/".join(filter(None, (about.get("resource", ""), about.get("subresource", ""))))
            if event.get("responseStatus", {}).get("code") == 403:
                refused.append(f"{event['verb']} {event['requestURI']}")
            granted.add((about.get("apiGroup", ""), resource, event["verb"]))
        return granted, refused

    def ask(self, method: str, path: str, body: object = None) -> int:
        """The answer's code to one request with the agent's token."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.server.url + path, data, method=method)
        request.add_header("Authorization", f"Bearer {self.token}")
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        request.add_header("Content-Type", kind)
        try:
            with urllib.request.urlopen(request, context=self.server_trust(), timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as exc:
            return exc.code

    def server_trust(self) -> Any:
        import ssl

        return ssl.create_default_context(cafile=str(self.server.ca_file))


def rights(group: str) -> set[Right]:
    """What the role grants where Calico's resources are in ``group``; they are never in two."""
    role = next(yaml.safe_load_all((KUBERNETES / "rbac" / "node.yaml").read_text()))
    other = next(one for one in GROUPS if one != group).partition("/")[0]
    named_otherwise = "ipamconfigurations" if group == CRD_GROUP else "ipamconfigs"
    return {
        (api_group, resource, verb)
        for rule in role["rules"]
        for api_group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if api_group != other and resource != named_otherwise
    }


def objects(group: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A small cluster: two nodes, a namespace, pods that are scheduled here, a policy."""
    for number in (1, 2):
        yield "/api/v1/nodes", {"metadata": {"name": f"worker-{number}"}}
    yield "/api/v1/namespaces", {"metadata": {"name": "shop", "labels": {"team": "a"}}}
    yield "/api/v1/namespaces/shop/serviceaccounts", {"metadata": {"name": "default"}}
    for name, node in (("web-1", NODE), ("web-2", NODE), ("far", "worker-2")):
        yield (
            "/api/v1/namespaces/shop/pods",
            {
                "metadata": {"name": name, "labels": {"app": "web"}},
                "spec": {
                    "nodeName": node,
                    "automountServiceAccountToken": False,
                    "containers": [{"name": "web", "image": "web"}],
                },
            },
        )
    yield (
        "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies",
        {"metadata": {"name": "web"}, "spec": {"podSelector": {}, "ingress": [{}]}},
    )
    for name, cidr in (("pods", "10.65.0.0/16"), ("tunnels", "10.66.0.0/24")):
        yield (
            f"/apis/{group}/ippools",
            {
                "apiVersion": group,
                "kind": "IPPool",
                "metadata": {"name": name},
                "spec": {
                    "cidr": cidr,
                    "vxlanMode": "Always" if name == "tunnels" else "Never",
                    "allowedUses": ["Tunnel" if name == "tunnels" else "Workload"],
                },
            },
        )


@contextlib.contextmanager
def running(directory: Path, group: str) -> Iterator[Cluster]:
    """A cluster with what ``install/`` has for it, in the network namespace of the caller."""
    overlay = KUBERNETES / "overlays" / ("kdd" if group == CRD_GROUP else "kdd-native")
    policy = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata", "users": [ACCOUNT]}, {"level": "None"}],
    }
    (directory / "audit.yaml").write_text(json.dumps(policy))
    server = KubernetesServer(
        directory / "kubernetes",
        arguments=(
            *("--allow-privileged=true", "--audit-policy-file", str(directory / "audit.yaml")),
            *("--audit-log-path", str(directory / "audit.log")),
        ),
    )
    for user in PEOPLE:
        server.kubeconfig_for(user)
    server.start()
    try:
        kubectl = [program("kubectl"), "--kubeconfig", str(server.kubeconfig)]
        if group == NATIVE_GROUP:
            server.define(definition(info, group) for info in custom_kinds())
        subprocess.run([*kubectl, "apply", "--server-side", "-k", str(overlay)], check=True, capture_output=True)
        subprocess.run(
            [*kubectl, "wait", "--for", "condition=Established", "crd", "--all"], check=True, capture_output=True
        )
        for path, body in objects(group):
            server.request("POST", path, body)
        token = _token_of_a_pod(server)
        (directory / "token").write_text(token)
        config = directory / "calico.yaml"
        composed = yaml.safe_load((overlay / "calico.yaml").read_text())
        composed["node"] = NODE
        composed["datastore"] |= {
            "api_endpoint": server.url,
            "ca_cert_file": str(server.ca_file),
            "token_file": str(directory / "token"),
        }
        composed["agent"] = {"run_dir": str(directory / "run"), "state_dir": str(directory / "state")}
        config.write_text(yaml.safe_dump(composed))
        yield Cluster(server, directory, config, token, group)
    finally:
        server.kill()


@pytest.fixture(params=GROUPS)
def cluster(netns: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """For an agent, which wants a network of its own."""
    with running(tmp_path, request.param) as made:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """For those who only ask."""
    with running(tmp_path_factory.mktemp("rights"), CRD_GROUP) as made:
        yield made


def _token_of_a_pod(server: KubernetesServer) -> str:
    """As the kubelet mounts it into the DaemonSet's pod on our node."""
    path = "/api/v1/namespaces/calico-system"
    pod = {
        "metadata": {"name": "calico-node-1"},
        "spec": {
            "nodeName": NODE,
            "serviceAccountName": "calico-node",
            "containers": [{"name": "calico-node", "image": "calico-kernel"}],
        },
    }
    made = server.request("POST", f"{path}/pods", pod)["metadata"]
    bound = {"kind": "Pod", "apiVersion": "v1", "name": made["name"], "uid": made["uid"]}
    wanted = {"spec": {"boundObjectRef": bound}}
    answer = server.request("POST", f"{path}/serviceaccounts/calico-node/token", wanted)
    token: str = answer["status"]["token"]
    return token


def _await_ready(agent: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    reason = ""
    while time.monotonic() < deadline:
        assert agent.poll() is None, log.read_text()
        try:
            urllib.request.urlopen("http://127.0.0.1:9099/readiness", timeout=5).close()
        except urllib.error.HTTPError as exc:
            reason = exc.read().decode()
        except OSError as exc:
            reason = str(exc)
        else:
            return
        time.sleep(0.1)
    raise AssertionError(f"{reason}\n{log.read_text()}")


def _cni(cluster: Cluster, verb: str, pod: str, namespace: str) -> dict[str, Any]:
    listed = json.loads((KUBERNETES / "overlays" / "kdd" / "10-calico.conflist").read_text())
    conf = {**listed["plugins"][0], "name": listed["name"], "cniVersion": "1.1.0"}
    conf["agent_socket"] = str(cluster.directory / "run" / "agent.sock")
    if verb == "GC":
        conf["cni.dev/valid-attachments"] = []
    environment = {"CNI_COMMAND": verb, "CNI_PATH": "/usr/lib/cni"}
    if verb not in ("GC", "STATUS"):
        environment |= {
            "CNI_CONTAINERID": f"container-{pod}",
            "CNI_NETNS": namespaces.path_of(namespace),
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": f"K8S_POD_NAMESPACE=shop;K8S_POD_NAME={pod}",
        }
    done = subprocess.run(
        [str(cluster.directory / "bin" / "calico")],
        input=json.dumps(conf).encode(),
        env=environment,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout.decode() + (cluster.directory / "agent.log").read_text()[-4000:]
    answer: dict[str, Any] = json.loads(done.stdout or b"{}")
    return answer


def test_agent_does_its_work_with_its_role_alone_and_uses_all_of_it(cluster: Cluster, netns: str) -> None:
    install = ["cni", "install", "--no-config", "--bin-dir", f"{cluster.directory}/bin"]
    assert calico(["-c", str(cluster.config), *install]) == 0
    log = cluster.directory / "agent.log"
    workload = f"{netns}w"
    namespaces.create(workload)
    with log.open("wb") as said:
        agent = subprocess.Popen(
            [sys.executable, "-m", "calico_kernel.cli.calico", "node", "--config", str(cluster.config)],
            stdout=said,
            stderr=said,
        )
    try:
        _await_ready(agent, log)
        _cni(cluster, "STATUS", "web-1", workload)
        given = _cni(cluster, "ADD", "web-1", workload)
        pod = cluster.server.request("GET", "/api/v1/namespaces/shop/pods/web-1")
        assert pod["metadata"]["annotations"]["cni.projectcalico.org/podIP"] == given["ips"][0]["address"]
        _cni(cluster, "DEL", "web-1", workload)
        _cni(cluster, "ADD", "web-2", workload)
        _cni(cluster, "GC", "web-2", workload)
        node = cluster.server.request("GET", f"/api/v1/nodes/{NODE}")
        assert node["metadata"]["annotations"]["projectcalico.org/IPv4VXLANTunnelAddr"].startswith("10.66.0.")
    finally:
        agent.send_signal(signal.SIGTERM)
        agent.wait(20)
        namespaces.delete(workload)
    _rarely(cluster)
    used, refused = cluster.used()
    assert refused == []
    assert "\n".join(" ".join(right) for right in sorted(rights(cluster.group) - used)) == ""


def _rarely(cluster: Cluster) -> None:
    """What an agent does only now and then: completing what somebody else began to set up, several addresses for one
    owner, and a whole block given back."""
    unnamed = {"spec": {"clusterGUID": ""}}
    path = f"/apis/{cluster.group}/clusterinformations/default"
    cluster.server.request("PATCH", path, unnamed, content_type="application/merge-patch+json")
    composition = compose(load(str(cluster.config), os.environ))
    try:
        ensure_initialized(Client(store=composition.open_datastore()))
        ipam = composition.open_ipam()
        for _ in range(2):
            ipam.assign(AssignRequest(handle="both", node=NODE, num_ipv4=1))
        ipam.release_by_handle("both")
        ipam.release_pool("10.65.0.0/16")
    finally:
        composition.close()


def test_agent_is_refused_what_is_not_its_business(shared: Cluster) -> None:
    policy = {"apiVersion": shared.group, "kind": "GlobalNetworkPolicy", "metadata": {"name": "open"}, "spec": {}}
    crd = f"/apis/{shared.group}"
    tried = {
        "write a policy": shared.ask("POST", f"{crd}/globalnetworkpolicies", policy),
        "change a pool": shared.ask("PATCH", f"{crd}/ippools/pods", {"spec": {"disabled": True}}),
        "delete a tier": shared.ask("DELETE", f"{crd}/tiers/default"),
        "change its own configuration": shared.ask("PATCH", f"{crd}/felixconfigurations/default", {"spec": {}}),
        "read secrets": shared.ask("GET", "/api/v1/secrets"),
        "read its neighbours' configuration": shared.ask("GET", "/api/v1/namespaces/calico-system/configmaps"),
        "make a pod": shared.ask("POST", "/api/v1/namespaces/shop/pods", {"metadata": {"name": "x"}}),
        "delete a pod": shared.ask("DELETE", "/api/v1/namespaces/shop/pods/web-1"),
        "change a pod": shared.ask("PATCH", "/api/v1/namespaces/shop/pods/web-1", {"metadata": {"labels": {}}}),
        "taint a node": shared.ask("PATCH", f"/api/v1/nodes/{NODE}", {"spec": {"taints": []}}),
        "change definitions": shared.ask("DELETE", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/x"),
        "give itself rights": shared.ask("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles"),
    }
    assert set(tried.values()) == {403}, tried
    assert shared.ask("GET", f"{crd}/ippools") == 200


def test_agent_writes_annotations_of_its_own_node_and_its_pods_only(shared: Cluster) -> None:
    pods = "/api/v1/namespaces/shop/pods"
    annotated = {"metadata": {"annotations": {"cni.projectcalico.org/podIP": "10.65.0.9/32"}}}
    deadline = time.monotonic() + EFFECT_S  # the server takes note of new policies a little later
    while shared.ask("PATCH", f"{pods}/far/status?dryRun=All", annotated) != 422 and time.monotonic() < deadline:
        time.sleep(0.2)
    tried = {
        "a pod of another node": shared.ask("PATCH", f"{pods}/far/status", annotated),
        "another node": shared.ask("PATCH", "/api/v1/nodes/worker-2/status", annotated),
        "a pod's labels": shared.ask("PATCH", f"{pods}/web-1/status", {"metadata": {"labels": {"app": "db"}}}),
        "a pod's status": shared.ask("PATCH", f"{pods}/web-1/status", {"status": {"podIP": "10.65.0.9"}}),
        "a node's labels": shared.ask("PATCH", f"/api/v1/nodes/{NODE}/status", {"metadata": {"labels": {"a": "b"}}}),
    }
    assert set(tried.values()) == {422}, tried
    assert shared.ask("PATCH", f"{pods}/web-1/status", annotated) == 200
    assert shared.ask("PATCH", f"/api/v1/nodes/{NODE}/status", annotated) == 200


def test_people_read_with_one_role_and_administer_with_the_other(
    shared: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def calicoctl(user: str, *arguments: str) -> tuple[int, str]:
        config = shared.directory / f"{user}.yaml"
        kubeconfig = str(shared.server.directory / f"{user}.kubeconfig")
        config.write_text(yaml.safe_dump({"datastore": {"plugin": "kdd", "kubeconfig": kubeconfig}, "ipam": "blocks"}))
        monkeypatch.setenv("CALICO_CONFIG", str(config))
        status = calicoctl_main(arguments)
        return status, capsys.readouterr().err

    for user, role in PEOPLE.items():
        binding = {
            "metadata": {"name": user},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        }
        shared.server.request("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
    left_out = {*NOT_CUSTOM, "IPAMConfiguration"}
    documents = [one for one in yaml.safe_load_all(RESOURCES.read_text()) if one["kind"] not in left_out]
    for namespace in {one["metadata"].get("namespace", "default") for one in documents} - {"default", "shop"}:
        shared.server.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    file = shared.directory / "resources.yaml"
    file.write_text(yaml.safe_dump_all(documents))

    status, said = calicoctl("reader", "apply", "-f", str(file))
    assert status == 1
    assert "forbidden" in said
    for pool in ("pods", "tunnels"):
        assert calicoctl("operator", "delete", "ippool", pool) == (0, "")
    for verb in ("apply", "replace"):
        assert calicoctl("operator", verb, "-f", str(file)) == (0, "")
    assert calicoctl("operator", "patch", "node", NODE, "-p", '{"spec": {"bgp": {"asNumber": 64513}}}') == (0, "")
    for info in public_kinds():
        assert calicoctl("reader", "get", info.kind, "-o", "yaml", *(["-A"] if info.namespaced else [])) == (0, "")
    for asked in ("show", "check"):
        assert calicoctl("reader", "ipam", asked) == (0, "")
    assert "forbidden" not in calicoctl("operator", "delete", "-f", str(file))[1]
