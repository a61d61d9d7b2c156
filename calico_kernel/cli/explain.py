"""``calicoctl explain SRC DST``: what happens to a packet, which tier, policy and rule decided, what would change it.

In:    the stored resources, or with ``-f`` those of manifests alone (no datastore is opened).
Out:   the trace of ``calico_kernel.policy.verdict`` as text or JSON. Status 0 for allowed and denied alike.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from calico_kernel.cli.output import visible
from calico_kernel.errors import NotFound

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
    from calico_kernel.cli.sources import offline, stored
    from calico_kernel.policy import explain
    from calico_kernel.policy.cluster import Cluster

    if args.filename:
        session.plugins_or_none()
    resources = list(
        offline(args.filename, recursive=args.recursive) if args.filename else stored(session.composition, KINDS)
    )
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
