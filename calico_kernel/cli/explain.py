"""``calicoctl explain SRC DST``: what happens to a packet, which tier, policy and rule decided, what would change it.

In:    the stored resources, or with ``-f`` those of manifests alone (no datastore is opened).
Out:   the trace of ``calico_kernel.policy.verdict`` as text or JSON. Status 0 for allowed and denied alike.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from calico_kernel.cli.output import visible
from calico_kernel.errors import CalicoError, NotFound

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session

KINDS = (
    "Tier",
    "NetworkPolicy",
    "GlobalNetworkPolicy",
    "Profile",
    "WorkloadEndpoint",
    "HostEndpoint",
    "NetworkSet",
    "GlobalNetworkSet",
    "Node",
    "FelixConfiguration",
    "KubernetesService",
    "KubernetesEndpointSlice",
)

IRRELEVANT: dict[str, frozenset[str]] = {
    "": frozenset({"ConfigMap", "LimitRange", "PersistentVolume", "PersistentVolumeClaim", "ResourceQuota", "Secret"}),
    "networking.k8s.io": frozenset({"Ingress", "IngressClass"}),
    **dict.fromkeys(
        ("apps", "autoscaling", "batch", "policy", "rbac.authorization.k8s.io", "storage.k8s.io"), frozenset()
    ),
}
"""By API group, the kinds that have no say; none means all of the group. Any other unknown kind may be a mistake."""


def configure(_name: str, parser: argparse.ArgumentParser) -> None:
    end = "namespace/pod, an address, or the name of a host endpoint or node"
    parser.add_argument("source", metavar="SRC", help=end)
    parser.add_argument("destination", metavar="DST", help=end)
    parser.add_argument("--port", default="80", help="destination port, or its name at DST; default 80")
    parser.add_argument(
        "--protocol", default="TCP", help="TCP, UDP, SCTP, ICMP, ICMPv6, UDPLite or a number; default TCP"
    )
    parser.add_argument("--ip-version", type=int, choices=[4, 6], default=0, help="where both ends have both")
    parser.add_argument("-f", "--filename", help="explain these manifests instead of what is stored; file or directory")
    parser.add_argument("-R", "--recursive", action="store_true", help="go into directories below")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")


def run(_name: str, args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli.common import Refused
    from calico_kernel.cli.output import json_text
    from calico_kernel.policy import explain
    from calico_kernel.policy.cluster import Cluster

    if args.filename:
        session.plugins_or_none()
    resources = list(_offline(args) if args.filename else _stored(session))
    cluster = Cluster.from_resources(resources)
    for subject, reason in cluster.rejected:
        print(visible(f"{subject} counts as absent: {reason}"), file=sys.stderr)
    protocol = int(args.protocol) if args.protocol.isdigit() else args.protocol
    try:
        packet = explain.packet_between(
            args.source, args.destination, cluster, protocol=protocol, port=args.port, version=args.ip_version
        )
    except NotFound as exc:
        raise Refused(f"{exc.what}; {exc.todo}") from exc
    except ValueError as exc:
        raise Refused(str(exc)) from exc
    explanation = explain.explain(packet, cluster)
    if args.output == "json":
        print(json_text(explain.data(explanation)))
    else:
        print(visible(explain.render(explanation)))
    return 0


def _stored(session: Session) -> Iterator[Any]:
    """Every resource that has a say. What does not decode is named; a policy among it still denies."""
    from calico_kernel.client.rules import after_read
    from calico_kernel.model.keys import ResourceKey, ResourceQuery
    from calico_kernel.model.records import Malformed

    store = session.composition.open_datastore()
    for record in store.list([ResourceQuery(kind) for kind in KINDS]).records:
        value: Any = record.value
        if not isinstance(value, Malformed):
            yield after_read(value)
            continue
        assert isinstance(record.key, ResourceKey)
        from calico_kernel.client.common import name_of

        kept = "denies in the directions it governs" if value.instead is not None else "counts as absent"
        print(visible(f"{name_of(record.key)} is malformed and {kept}: {value.reason}"), file=sys.stderr)
        if value.instead is not None:
            yield value.instead


def _offline(args: argparse.Namespace) -> Iterator[Any]:
    from calico_kernel.cli.common import Refused, placed
    from calico_kernel.cli.documents import metadata_name, resource_from
    from calico_kernel.cli.files import read
    from calico_kernel.client import rules
    from calico_kernel.client.setup import TIERS
    from calico_kernel.model.meta import ObjectMeta
    from calico_kernel.model.policy import Tier

    found: list[Any] = []
    wrong: list[str] = []
    for _, documents in read(args.filename, wrong, recursive=args.recursive):
        for document in documents:
            if irrelevant(document):
                subject = f"{document.get('kind')}({metadata_name(document)})"
                print(visible(f"{subject} is passed over: it has no say over packets"), file=sys.stderr)
                continue
            try:
                resource = rules.prepare(placed(resource_from(document).resource, ""))
                rules.validate(resource, (), [])
                found.append(resource)
            except CalicoError as exc:
                wrong.append(exc.what)
    if wrong:
        raise Refused("failed to execute command: " + "\n".join(wrong))
    present = {one.metadata.name for one in found if one.kind == "Tier"}
    yield from found
    yield from (Tier(metadata=ObjectMeta(name=name), spec=spec) for name, spec in TIERS.items() if name not in present)


def irrelevant(document: dict[str, Any]) -> bool:
    """A document of Kubernetes that stands beside policies in a directory of manifests and decides nothing."""
    group, _, version = str(document.get("apiVersion", "")).rpartition("/")
    kinds = IRRELEVANT.get(group)
    return kinds is not None and bool(version) and (not kinds or document.get("kind") in kinds)
