"""What the reference evaluator says of probes between places of the lab. Pure.

In:    resources (as stored, or as a manifest holds them) and probes.   Out: verdicts, to calico_kernel.lab.resident.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from calico_kernel.lab.prober import Probe
from calico_kernel.model.meta import Resource
from calico_kernel.policy.verdict import Cluster, Packet, Verdict, verdict

POLICY_KINDS = ("NetworkPolicy", "GlobalNetworkPolicy", "Tier", "NetworkSet", "GlobalNetworkSet")
KINDS = (
    *POLICY_KINDS,
    *("Profile", "WorkloadEndpoint", "HostEndpoint", "Node", "FelixConfiguration"),
    *("KubernetesService", "KubernetesEndpointSlice"),
)

_SOURCE_PORT = 40000


def packet(probe: Probe, addresses: Mapping[str, Mapping[int, str]]) -> Packet | None:
    """None where an end has no address of that version: nothing can be sent."""
    source = addresses.get(probe.source, {}).get(probe.version)
    target = addresses.get(probe.target, {}).get(probe.version)
    if source is None or target is None:
        return None
    if probe.protocol == "icmp":
        return Packet.echo(source, target)
    return Packet(source, target, probe.protocol, source_port=_SOURCE_PORT, destination_port=probe.port)


def judge(
    probes: Sequence[Probe], addresses: Mapping[str, Mapping[int, str]], resources: Iterable[Resource]
) -> list[Verdict | None]:
    cluster = Cluster.from_resources(resources)
    packets = [packet(probe, addresses) for probe in probes]
    return [verdict(each, cluster) if each is not None else None for each in packets]


def merged(stored: Iterable[Resource], manifest: Iterable[Resource]) -> list[Resource]:
    """What the datastore will hold once ``manifest`` is applied to it."""
    by_name = {_identity(each): each for each in stored}
    by_name.update({_identity(each): each for each in manifest})
    return list(by_name.values())


def read(manifest: str) -> list[Resource]:
    """The resources of a manifest, as calicoctl reads them. Raises CalicoError."""
    from calico_kernel.cli.documents import resource_from
    from calico_kernel.cli.files import documents

    return [resource_from(document).resource for document in documents(manifest, "scenario")]


def _identity(resource: Any) -> tuple[str, str, str]:
    return resource.kind, resource.metadata.namespace, resource.metadata.name
