"""``calicoctl cluster diags``: an archive of what the cluster's datastore says, and of what kubectl can tell.

In:    the datastore; with kubectl and a cluster that answers it, Kubernetes' objects, events, and logs of pods.
Out:   ``calico-diagnostics-TIME.tar.gz``, readable by its owner alone, and a list of what could not be had.

Calico's command needs kubectl and leaves everything else out; this one takes from the datastore what is there, so it
serves clusters without Kubernetes too. Secrets are not collected at all, and masked in what is.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from calico_kernel.cli.bundle import Bundle, stamped
from calico_kernel.cli.progress import Progress
from calico_kernel.errors import CalicoError

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session

MOST_AS_YAML = 2000
"""Of one kind; more is written as JSON, one resource a line, which takes a hundredth of the time."""
SINCE = re.compile(r"[0-9]+[smh]")
REQUEST_S = 30
OURS = ("calico", "tigera")
KUBERNETES = (
    "nodes", "pods", "services", "endpoints", "endpointslices", "namespaces", "events", "configmaps",
    "serviceaccounts", "daemonsets", "deployments", "statefulsets", "replicasets", "jobs", "cronjobs",
    "networkpolicies.networking.k8s.io", "clusternetworkpolicies.policy.networking.k8s.io",
    "adminnetworkpolicies.policy.networking.k8s.io", "baselineadminnetworkpolicies.policy.networking.k8s.io",
    "gatewayclasses", "gateways", "grpcroutes", "httproutes", "network-attachment-definitions.k8s.cni.cncf.io",
    "customresourcedefinitions", "validatingwebhookconfigurations", "mutatingwebhookconfigurations", "apiservices",
    "clusterroles", "clusterrolebindings", "storageclasses",
)  # fmt: skip
IN_NODE = (
    ("iptables-legacy-save.txt", "iptables-legacy-save -c"),
    ("iptables-nft-save.txt", "iptables-nft-save -c"),
    ("nft-ruleset.txt", "nft -n -a list ruleset"),
    ("ip-route.txt", "ip route show table all"),
    ("ip-route-v6.txt", "ip -6 route show table all"),
    ("ip-rule.txt", "ip rule"),
    ("ip-addr.txt", "ip addr"),
    ("ip-link.txt", "ip -d link"),
    ("ip-neigh.txt", "ip neigh"),
    ("ipset-list.txt", "ipset list"),
    ("conntrack-stats.txt", "conntrack -S"),
    ("tc-qdisc.txt", "tc qdisc show"),
    ("node-status.json", "calicoctl node status -o json"),
)
"""Run in the container calico-node of a pod, where each program shows the network of the pod's node."""

Step = Callable[[Bundle], object]


class Pod(NamedTuple):
    """``restarted``: containers that have logs of an earlier life. ``component``: what it is one of."""

    namespace: str
    name: str
    node: str
    component: str
    containers: Sequence[str]
    restarted: Sequence[str]


def configure(_name: str, parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    diags = actions.add_parser("diags", help="collect what helps to find a fault of the cluster, as a .tar.gz")
    diags.add_argument("--since", default="", metavar="TIME", help="only logs so new, e.g. 30m or 2h; else all")
    diags.add_argument("--max-logs", type=int, default=5, metavar="N", help="pods of each component (default: 5)")
    diags.add_argument("--max-parallelism", type=int, default=10, metavar="N", help="kubectls at a time (default: 10)")
    diags.add_argument("--focus-nodes", default="", metavar="NODES", help="nodes to begin with, comma-separated")
    diags.add_argument("--skip-temp-dir-cleanup", action="store_true", help="leave the temporary directory in place")
    diags.add_argument("--output-dir", default=".", metavar="DIR", help="where the archive goes, else here")


def run(_name: str, args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli.common import Refused
    from calico_kernel.cli.nodediags import say_left_out

    if args.since and not SINCE.fullmatch(args.since):
        raise Refused(f"invalid duration for since flag (try 10s, 5m, or 1h): {args.since}")
    if args.max_logs < 0:
        raise Refused("negative value for max-logs flag")
    if args.max_parallelism < 1:
        raise Refused("max-parallelism must be at least 1")
    if not os.path.isdir(args.output_dir):
        raise Refused(f"--output-dir: there is no directory {args.output_dir}")
    print("==== Begin collecting diagnostics. ====")
    with Bundle(stamped("calico-diagnostics"), keep=args.skip_temp_dir_cleanup) as bundle:
        if args.skip_temp_dir_cleanup:
            print(f"Temporary directory: {bundle.directory}")
        _all(bundle, _of_datastore(session), 1, "collected from the datastore")
        kubectl = Kubectl(bundle, args, session)
        if kubectl.answers():
            _all(bundle, kubectl.of_cluster(), args.max_parallelism, "collected from Kubernetes")
            _all(bundle, kubectl.of_pods(), args.max_parallelism, "collected from pods")
        print("\n==== Producing a diagnostics bundle. ====")
        archive = bundle.finish(Path(args.output_dir))
    say_left_out(bundle)
    print(f"Diagnostic bundle created at {archive}")
    print("Passwords, tokens and private keys are masked; look through it before you give it away.")
    return 0


def _all(bundle: Bundle, steps: Iterable[Step], parallel: int, what: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    steps = list(steps)
    with Progress(len(steps), what, least=2) as progress:
        if parallel == 1:
            for step in steps:
                step(bundle)
                progress.step()
            return
        with ThreadPoolExecutor(parallel) as pool:
            for _ in pool.map(lambda step: step(bundle), steps):
                progress.step()


# ── what the datastore says ───────────────────────────────────────────────────────────────────────────────────────────


def _of_datastore(session: Session) -> list[Step]:
    """Steps; one that says why when the datastore cannot be opened at all."""
    from calico_kernel.model.kinds import KINDS

    try:
        information = session.client.list("ClusterInformation").items
    except CalicoError as exc:
        reason = exc.what
        return [
            lambda bundle: _versions(bundle, session, []),
            lambda bundle: bundle.leave_out("the datastore", reason),
        ]
    steps: list[Step] = [lambda bundle: _versions(bundle, session, information)]
    for kind in [*KINDS]:
        steps.append(lambda bundle, kind=kind: _kind(bundle, session, kind))  # type: ignore[misc]
    steps += [lambda bundle: _agents(bundle, session)]
    if session.composition.has_ipam:
        steps += [lambda bundle: _ipam(bundle, session), lambda bundle: _ipam_records(bundle, session)]
    return steps


def _versions(bundle: Bundle, session: Session, information: Sequence[Any]) -> None:
    from calico_kernel import __version__
    from calico_kernel.cli.config import values

    said: dict[str, Any] = {"calicoctl": __version__, "collected": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    try:
        said["configuration"] = [{"key": key, "value": value, "origin": where} for key, value, where in values(session)]
    except CalicoError as exc:
        bundle.leave_out("the configuration", exc.what)
    for spec in (one.spec for one in information):
        said |= {"cluster": spec.calico_version, "clusterType": spec.cluster_type, "clusterGUID": spec.cluster_guid}
    bundle.text("cluster/versions.json", json.dumps(said, indent=2, default=str) + "\n")


def _kind(bundle: Bundle, session: Session, kind: str) -> None:
    from calico_kernel.cli.documents import plain
    from calico_kernel.cli.output import yaml_text
    from calico_kernel.client.common import name_of
    from calico_kernel.model.kinds import KINDS

    try:
        found = session.client.list(kind)
    except CalicoError as exc:
        bundle.leave_out(kind, exc.what)
        return
    for key, reason in found.malformed:
        bundle.leave_out(f"{kind} {name_of(key)}", f"malformed: {reason}")
    if not found.items:
        return
    plural = KINDS[kind].plural
    if len(found.items) <= MOST_AS_YAML:
        text = "---\n".join(yaml_text(plain(item)) for item in found.items)
        bundle.text(f"resources/{plural}.yaml", text)
    else:
        text = "".join(json.dumps(plain(item)) + "\n" for item in found.items)
        bundle.text(f"resources/{plural}.jsonl", text)


def _ipam(bundle: Bundle, session: Session) -> None:
    from calico_kernel.cli.ipam import _builtin

    try:
        ipam = session.composition.open_ipam()
        for name, ask in (("report", ipam.report), ("check", ipam.check), ("configuration", ipam.configuration)):
            said: Any = ask()
            value = [_builtin(one) for one in said] if name == "check" else _builtin(said)
            bundle.text(f"ipam/{name}.json", json.dumps(value, indent=2, default=str) + "\n")
    except CalicoError as exc:
        bundle.leave_out("ipam", exc.what)


def _ipam_records(bundle: Bundle, session: Session) -> None:
    from calico_kernel.model.keys import BlockAffinityQuery, BlockQuery, HandleQuery

    for name, query in (("blocks", BlockQuery()), ("affinities", BlockAffinityQuery()), ("handles", HandleQuery())):
        _records(bundle, session, f"ipam/{name}.jsonl", query)


def _agents(bundle: Bundle, session: Session) -> None:
    """What each node's agent last said of itself and of its endpoints."""
    from calico_kernel.model.keys import HostEndpointStatusQuery, StatusQuery

    if not session.client.store.keeps_status:
        bundle.leave_out("status of the agents", "this datastore does not keep it")
        return
    _records(bundle, session, "nodes/status.jsonl", StatusQuery(), HostEndpointStatusQuery())


def _records(bundle: Bundle, session: Session, path: str, *queries: Any) -> None:
    """Records as they are stored, one a line."""
    from calico_kernel.model import keys

    try:
        found = session.client.store.list_stored(queries)
    except CalicoError as exc:
        bundle.leave_out(path, exc.what)
        return
    lines = (json.dumps({"key": keys.path(key), "value": _parsed(raw)}) + "\n" for key, raw in found)
    text = "".join(lines)
    if text:
        bundle.text(path, text)


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode(errors="replace")


# ── what kubectl says ─────────────────────────────────────────────────────────────────────────────────────────────────


class Kubectl:
    def __init__(self, bundle: Bundle, args: argparse.Namespace, session: Session) -> None:
        self._bundle, self._args = bundle, args
        self._command = ["kubectl", f"--request-timeout={REQUEST_S}s", *self._where(session)]

    @staticmethod
    def _where(session: Session) -> list[str]:
        """The cluster that the datastore is, where the configuration says so; else what kubectl takes by itself."""
        where = [f"--context={session.context}"] if session.context else []
        try:
            chosen = session.config.chosen("datastore")
        except CalicoError:
            return where
        for choice in chosen:
            settings = choice.settings.plain()
            kubeconfig = settings.get("kubeconfig") if choice.word == "kdd" and isinstance(settings, dict) else None
            if kubeconfig:
                where.append(f"--kubeconfig={kubeconfig}")
            if choice.word == "kdd" and not session.context and isinstance(settings, dict) and settings.get("context"):
                where.append(f"--context={settings['context']}")
        return where

    def answers(self) -> bool:
        return self._bundle.command("kubernetes/version.yaml", [*self._command, "version", "-o", "yaml"]) is not None

    def of_cluster(self) -> list[Step]:
        groups = ("crd.projectcalico.org", "projectcalico.org", "policy.networking.k8s.io")
        found = [name for group in groups for name in self._names_of(group)]
        return [
            lambda bundle, one=resource, form=form, ending=ending, into=into: bundle.command(  # type: ignore[misc]
                f"{into}/{one}.{ending}", [*self._command, "get", one, "-A", "-o", form, "--ignore-not-found"]
            )
            for into, resources in (("kubernetes", KUBERNETES), ("crd", found))
            for resource in resources
            for form, ending in (("yaml", "yaml"), ("wide", "txt"))
            if self._is_served(resource)
        ]

    def _names_of(self, group: str) -> list[str]:
        return [name for name in self._served if name.endswith(f".{group}")]

    @cached_property
    def _served(self) -> Sequence[str]:
        """``pods``, ``ippools.crd.projectcalico.org`` ..."""
        done = self._bundle.output([*self._command, "api-resources", "-o", "name", "--verbs=list"])
        return done[1].split() if done is not None else []

    def _is_served(self, resource: str) -> bool:
        return resource in self._served or any(name.partition(".")[0] == resource for name in self._served)

    def of_pods(self) -> list[Step]:
        """Logs and descriptions of the newest word on each component, from the nodes in focus first."""
        done = self._bundle.output([*self._command, "get", "pods", "-A", "-o", "json"])
        try:
            pods = list(pods_of_calico(json.loads(done[1] if done is not None else "{}")))
        except ValueError:
            self._bundle.leave_out("logs of pods", "kubectl's list of pods is no JSON")
            return []
        focus = [node for node in self._args.focus_nodes.split(",") if node]
        steps: list[Step] = []
        for pod in chosen_pods(pods, focus, self._args.max_logs):
            steps += self._of_pod(pod)
        return steps

    def _of_pod(self, pod: Pod) -> list[Step]:
        place = f"nodes/{pod.node or 'unscheduled'}/{pod.namespace}/{pod.name}"
        since = f"--since={self._args.since or '0s'}"
        logs = ["logs", since, "-n", pod.namespace, pod.name]
        commands: list[tuple[str, Sequence[str]]] = [
            (f"{place}.log", [*logs, "--all-containers", "--prefix"]),
            (f"{place}.txt", ["describe", "pod", "-n", pod.namespace, pod.name]),
            *((f"{place}.{name}.previous.log", [*logs, "--previous", "-c", name]) for name in pod.restarted),
        ]
        if pod.name.startswith("calico-node-") and pod.containers:
            container = "calico-node" if "calico-node" in pod.containers else pod.containers[0]
            commands += [
                (
                    f"nodes/{pod.node}/{name}",
                    ["exec", "-n", pod.namespace, pod.name, "-c", container, "--", *words.split()],
                )
                for name, words in IN_NODE
            ]
        return [
            lambda bundle, path=path, words=words: bundle.command(path, [*self._command, *words])  # type: ignore[misc]
            for path, words in commands
        ]


def pods_of_calico(listed: Mapping[str, Any]) -> Iterable[Pod]:
    """Those in namespaces of Calico's, and those of its names elsewhere (as in kube-system)."""
    for item in listed.get("items", []):
        metadata, spec, status = (item.get(part) or {} for part in ("metadata", "spec", "status"))
        namespace, name = metadata.get("namespace", ""), metadata.get("name", "")
        if not any(word in namespace or name.startswith(word) for word in OURS):
            continue
        owners = [owner.get("name", "") for owner in metadata.get("ownerReferences") or []]
        states = [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]
        yield Pod(
            namespace=namespace,
            name=name,
            node=spec.get("nodeName", ""),
            component=f"{namespace}/{(owners or [name])[0]}",
            containers=[one.get("name", "") for one in spec.get("containers") or []],
            restarted=[
                one.get("name", "")
                for one in states
                if one.get("restartCount") or (one.get("lastState") or {}).get("terminated")
            ],
        )


def chosen_pods(pods: Iterable[Pod], focus: Sequence[str], most: int) -> list[Pod]:
    """At most ``most`` of each component: of the nodes in focus first, then by node and name."""
    by_component: dict[str, list[Pod]] = defaultdict(list)
    for pod in pods:
        by_component[pod.component].append(pod)

    def order(pod: Pod) -> tuple[int, str, str]:
        return (focus.index(pod.node) if pod.node in focus else len(focus), pod.node, pod.name)

    return [pod for _, found in sorted(by_component.items()) for pod in sorted(found, key=order)[:most]]
