"""``calicoq`` on a large cluster: ``python -m bench query --endpoints 50000 --policies 1100``.

CPU seconds of whole processes, median of the rounds, on the embedded store. The limit in the same run: a process that
only lists the same records, decoded.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import _common as common
from calico_kernel.compose import compose
from calico_kernel.config import load
from calico_kernel.model import keys
from calico_kernel.model.endpoints import WorkloadEndpoint, WorkloadEndpointSpec
from calico_kernel.model.meta import ObjectMeta, Resource
from calico_kernel.model.names import EndpointIds, workload_endpoint_name
from calico_kernel.model.policy import EntityRule, NetworkPolicy, NetworkPolicySpec, Profile, ProfileSpec, Rule

NAMESPACES = 200
APPS = 1000
PODS_OF_A_NODE = 50
LIST = (
    "from calico_kernel.cli.related import KINDS; from calico_kernel.cli.session import Session;"
    "from calico_kernel.model.keys import ResourceQuery;"
    "session = Session(None); store = session.composition.open_datastore();"
    "print(len(store.list([ResourceQuery(kind) for kind in KINDS]).records)); session.close()"
)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench query", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--endpoints", type=int, default=50_000)
    parser.add_argument("--policies", type=int, default=1100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    questions = {
        "endpoint": ("endpoint", "ns-1.pod-1/"),
        "host": ("host", "node-0000"),
        "eval": ("eval", "app == 'app-1'"),
        "policy": ("policy", "ns-1/p1"),
    }
    with tempfile.TemporaryDirectory(prefix="calico-bench-") as directory:
        config = Path(directory) / "calico.yaml"
        config.write_text(f"datastore: {{plugin: sqlite, path: {directory}/calico.db}}\n")
        os.environ["CALICO_CONFIG"] = str(config)
        composition = compose(load(str(config)))
        store = composition.open_datastore()
        for one in _resources(options.endpoints, options.policies):
            store.put(keys.key_of(one), one)
        composition.close()
        result: dict[str, object] = {"endpoints": options.endpoints, "policies": options.policies}
        result["list_cpu_seconds"] = listing = _cpu_seconds([sys.executable, "-c", LIST], options.rounds)
        for name, question in questions.items():
            command = [sys.executable, "-m", "calico_kernel.cli.calicoq", *question]
            result[f"{name}_cpu_seconds"] = took = _cpu_seconds(command, options.rounds)
            result[f"{name}_over_list"] = round(took / listing, 2)
    common.report(result, as_json=options.json)
    return 0


def _cpu_seconds(command: Sequence[str], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if not done.stdout:
            raise RuntimeError(f"no answer from {' '.join(command)}")
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return round(statistics.median(taken), 3)


def _resources(endpoints: int, policies: int) -> Iterator[Resource]:
    for number in range(endpoints):
        node, namespace, pod = f"node-{number // PODS_OF_A_NODE:04d}", f"ns-{number % NAMESPACES}", f"pod-{number}"
        labels = {"app": f"app-{number % APPS}", "tier": f"t{number % 7}", "pod-template-hash": f"h{number % 5000}"}
        yield WorkloadEndpoint(
            metadata=ObjectMeta(
                name=workload_endpoint_name(EndpointIds(node=node, orchestrator="k8s", pod=pod, endpoint="eth0")),
                namespace=namespace,
                labels=labels,
            ),
            spec=WorkloadEndpointSpec(
                orchestrator="k8s",
                node=node,
                pod=pod,
                endpoint="eth0",
                interface_name=f"cali{number}",
                ip_networks=(f"10.{number >> 16}.{(number >> 8) & 255}.{number & 255}/32",),
                profiles=(f"kns.{namespace}", f"ksa.{namespace}.default"),
            ),
        )
    for number in range(NAMESPACES):
        given = {"pcns.team": f"team-{number % 10}", "pcns.projectcalico.org/name": f"ns-{number}"}
        yield Profile(metadata=ObjectMeta(name=f"kns.ns-{number}"), spec=ProfileSpec(labels_to_apply=given))
    for number in range(policies):
        sources = (
            EntityRule(selector=f"app == 'app-{number * 7 % APPS}'"),
            EntityRule(namespace_selector=f"team == 'team-{number % 10}'"),
        )
        yield NetworkPolicy(
            metadata=ObjectMeta(name=f"p{number}", namespace=f"ns-{number % NAMESPACES}"),
            spec=NetworkPolicySpec(
                tier="default",
                order=number,
                selector=f"app == 'app-{number % APPS}'",
                types=("Ingress", "Egress"),
                ingress=tuple(Rule(action="Allow", source=source) for source in sources),
                egress=(Rule(action="Allow", destination=EntityRule(selector=f"tier == 't{number % 7}' && !has(x)")),),
            ),
        )
