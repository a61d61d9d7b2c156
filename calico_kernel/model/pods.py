"""Pods as workload endpoints: addresses, labels, named ports, and what their annotations ask for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from calico_kernel.errors import ValidationError
from calico_kernel.model import formats
from calico_kernel.model.documents import describe
from calico_kernel.model.endpoints import (
    IPNAT,
    QoSControls,
    WorkloadEndpoint,
    WorkloadEndpointPort,
    WorkloadEndpointSpec,
)
from calico_kernel.model.kubernetes import (
    Converted,
    Problems,
    namespace_profile_name,
    read_lenient,
    service_account_profile_name,
)
from calico_kernel.model.meta import ObjectMeta, Wire
from calico_kernel.model.names import EndpointIds, escaped, pod_interface_name, workload_endpoint_prefix
from calico_kernel.model.wellknown import NAMESPACE_LABEL, ORCHESTRATOR_LABEL, SERVICE_ACCOUNT_LABEL

POD_IP = "cni.projectcalico.org/podIP"
POD_IPS = "cni.projectcalico.org/podIPs"
AWS_POD_IPS = "vpc.amazonaws.com/pod-ips"
CONTAINER_ID = "cni.projectcalico.org/containerID"
FLOATING_IPS = "cni.projectcalico.org/floatingIPs"
ALLOWED_SOURCES = "cni.projectcalico.org/allowedSourcePrefixes"
NETWORK_STATUS = "k8s.v1.cni.cncf.io/network-status"
ADDRESSING = tuple(
    f"cni.projectcalico.org/{name}"
    for name in ("ipv4pools", "ipv6pools", "ipFamilies", "ipAddrs", "ipAddrsNoIpam", "hwAddr")
)
"""By these, and by FLOATING_IPS and ALLOWED_SOURCES, a pod asks something of the CNI plugin."""
NETWORK = "cni.projectcalico.org/network"
"""The CNI network that a workload was attached to, as the CNI plugin notes it."""
_QOS = "qos.projectcalico.org/"
_PLAIN_IPV4 = re.compile(r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)", re.ASCII)
_SHARED_LIMIT = 20_000

_KEPT = frozenset({NETWORK_STATUS, FLOATING_IPS, ALLOWED_SOURCES, NETWORK, *ADDRESSING})

_SUFFIXES: dict[str, tuple[int, int]] = {
    **{s: (1, 1000**i) for i, s in enumerate(("", "m", "u", "n"))},
    **{s: (1000**i, 1) for i, s in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{s: (1024**i, 1) for i, s in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
}
"""Factor and divisor of each suffix of a quantity."""
_QUANTITY = re.compile(r"([+-]?(?:\d{1,30}\.?\d{0,30}|\.\d{1,30}))(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d{1,3}))?")

_LIMITS = {
    "Bandwidth": (1000, 10**15),
    "Burst": (1000, (2**32 - 1) * 8),
    "Peakrate": (1010, 1010 * 10**12),
    "Minburst": (1000, 10**8),
    "PacketRate": (1, 10_000),
    "PacketBurst": (1, 10_000),
    "MaxConnections": (1, 2**32 - 1),
}
_DEFAULT_BURST = 4 * 1024**3
_DEFAULT_PACKET_BURST = 5
_ATTRIBUTES = {
    "Bandwidth": "bandwidth",
    "Burst": "burst",
    "Peakrate": "peakrate",
    "Minburst": "minburst",
    "PacketRate": "packet_rate",
    "PacketBurst": "packet_burst",
    "MaxConnections": "max_connections",
}
_QOS_NAMES = frozenset(
    [f"{_QOS}{direction}{what}" for direction in ("ingress", "egress") for what in _LIMITS]
    + [f"kubernetes.io/{direction}-bandwidth" for direction in ("ingress", "egress")]
    + [f"{_QOS}dscp"]
)
T = TypeVar("T")


class ContainerPort(Wire):
    name: str = ""
    container_port: int = 0
    host_port: int = 0
    host_ip: str = msgspec.field(default="", name="hostIP")
    protocol: str = ""


class Container(Wire):
    ports: tuple[ContainerPort, ...] = ()


class PodSpec(Wire):
    node_name: str = ""
    service_account_name: str = ""
    host_network: bool = False
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()


class PodIP(Wire):
    ip: str = ""


class PodStatus(Wire):
    phase: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    pod_ips: tuple[PodIP, ...] = msgspec.field(default=(), name="podIPs")


class PodMeta(Wire):
    """Labels and annotations, but not who owns the pod or manages its fields: what is not read is not built."""

    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)


class Pod(Wire):
    """The part of a pod that Calico looks at."""

    metadata: PodMeta = msgspec.field(default_factory=PodMeta)
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)


def workload_endpoint(document: Mapping[str, Any], *, interface_prefix: str = "cali") -> Converted:
    """The endpoint of a pod that is scheduled and has a network of its own. A finished pod has no addresses any more.
    Raises ValidationError for a pod without an endpoint or with an unreadable address."""
    pod = read_lenient(document, Pod)
    if not has_endpoint(pod):
        why = "uses its node's network" if pod.spec.host_network else "is not scheduled to a node"
        raise ValidationError(describe(document), [("spec", f"the pod {why}, so it has no endpoint")])
    problems: Problems = []
    try:
        endpoint = EndpointMaker(interface_prefix).endpoint(pod, problems)
    except ValueError as exc:
        raise ValidationError(describe(document), [("", str(exc))]) from exc
    return Converted(endpoint, problems)


def has_endpoint(pod: Pod) -> bool:
    """Once it has one, it keeps it: a pod never leaves its node, nor changes its kind of network."""
    return bool(pod.spec.node_name) and not pod.spec.host_network


class EndpointMaker:
    """Makes the endpoints of many pods. What is equal among them (the labels of a Deployment's pods, profiles, ports)
    is kept once, so that a cluster of pods takes little more than what is different about each."""

    def __init__(self, interface_prefix: str = "cali") -> None:
        self._prefix = interface_prefix
        self._shared: dict[Any, Any] = {}

    def endpoint(self, pod: Pod, problems: Problems) -> WorkloadEndpoint:
        """``problems`` gets what was left out. Raises ValueError for an address or name that cannot be read."""
        meta, spec = pod.metadata, pod.spec
        if not meta.name:
            raise ValueError("pod must be given")
        annotations = meta.annotations
        namespace, account = meta.namespace or "default", spec.service_account_name
        networks = () if is_finished(pod) else tuple(map(_network, _addresses(pod)))
        if len(self._shared) > _SHARED_LIMIT:
            self._shared.clear()
        node, before = self._node(spec.node_name)
        namespace, profiles = self._profiles(namespace, account)
        return WorkloadEndpoint(
            metadata=ObjectMeta(
                name=f"{before}{escaped('pod', meta.name)}-eth0",
                namespace=namespace,
                generate_name=meta.generate_name,
                uid=meta.uid,
                creation_timestamp=meta.creation_timestamp,
                labels=self._labels(namespace, meta.labels, account),
                annotations=endpoint_annotations(annotations),
            ),
            spec=WorkloadEndpointSpec(
                orchestrator="k8s",
                node=node,
                container_id=annotations.get(CONTAINER_ID, ""),
                pod=meta.name,
                endpoint="eth0",
                service_account_name=account,
                ip_networks=networks,
                ip_nats=tuple(_floating(networks, _json_list(annotations, FLOATING_IPS))),
                profiles=profiles,
                interface_name=pod_interface_name(namespace, meta.name, prefix=self._prefix),
                ports=self._once(tuple(named_ports((*spec.containers, *spec.init_containers)))),
                allow_spoofed_source_prefixes=tuple(
                    str(formats.loose_network(text)) for text in _json_list(annotations, ALLOWED_SOURCES)
                ),
                qos_controls=None
                if annotations.keys().isdisjoint(_QOS_NAMES)
                else self._once(qos_controls(annotations, problems)),
            ),
        )

    def _once(self, value: T) -> T:
        kept: T = self._shared.setdefault(value, value)
        return kept

    def _node(self, name: str) -> tuple[str, str]:
        """The node's name, and how the names of its pods' endpoints begin."""
        found: tuple[str, str] | None = self._shared.get(("node", name))
        if found is None:
            ids = EndpointIds(node=name, orchestrator="k8s")
            found = self._shared["node", name] = (name, workload_endpoint_prefix(ids))
        return found

    def _profiles(self, namespace: str, account: str) -> tuple[str, tuple[str, ...]]:
        """The namespace, and the profiles of its pods with that service account."""
        found: tuple[str, tuple[str, ...]] | None = self._shared.get(("profiles", namespace, account))
        if found is None:
            profiles = endpoint_profiles(namespace, account)
            found = self._shared["profiles", namespace, account] = (namespace, profiles)
        return found

    def _labels(self, namespace: str, labels: dict[str, str], account: str) -> dict[str, str]:
        among = ("labels", namespace, account, *labels.items())  # a pod may have none
        found: dict[str, str] | None = self._shared.get(among)
        if found is None:
            found = self._shared[among] = endpoint_labels(namespace, labels, account)
        return found


def _network(text: str) -> str:
    return f"{text}/32" if _PLAIN_IPV4.fullmatch(text) else str(formats.loose_network(text))


def endpoint_annotations(annotations: Mapping[str, str]) -> dict[str, str]:
    """Those of a pod that its endpoint keeps."""
    if _KEPT.isdisjoint(annotations):
        return {}
    return {key: annotations[key] for key in sorted(_KEPT) if key in annotations}


def endpoint_labels(namespace: str, labels: Mapping[str, str], service_account: str) -> dict[str, str]:
    """A pod's labels and those that Calico adds. A service account of 63 characters or more gets none here."""
    added = {NAMESPACE_LABEL: namespace, ORCHESTRATOR_LABEL: "k8s"}
    if service_account and len(service_account) < 63:
        added[SERVICE_ACCOUNT_LABEL] = service_account
    return {**labels, **added}


def endpoint_profiles(namespace: str, service_account: str) -> tuple[str, ...]:
    profiles = (namespace_profile_name(namespace),)
    return (*profiles, service_account_profile_name(namespace, service_account)) if service_account else profiles


def is_finished(pod: Pod) -> bool:
    """Its addresses are free again: it ended, or it is being deleted and the CNI plugin has removed its network."""
    annotations = pod.metadata.annotations
    gone = annotations.get(POD_IP) == "" or annotations.get(AWS_POD_IPS) == ""
    return pod.status.phase in ("Failed", "Succeeded", "Completed") or (
        pod.metadata.deletion_timestamp is not None and gone
    )


def named_ports(containers: Iterable[Container]) -> Iterable[WorkloadEndpointPort]:
    """Ports with a name or a host port, of the protocols that have ports."""
    for container in containers:
        for port in container.ports:
            protocol = port.protocol or "TCP"
            if port.container_port and (port.name or port.host_port) and protocol in ("TCP", "UDP", "SCTP"):
                yield WorkloadEndpointPort(
                    name=port.name,
                    protocol=protocol,
                    port=port.container_port,
                    host_port=port.host_port,
                    host_ip=port.host_ip,
                )


def _addresses(pod: Pod) -> list[str]:
    annotations = pod.metadata.annotations
    for found in (
        [entry.ip for entry in pod.status.pod_ips],
        [pod.status.pod_ip],
        annotations.get(POD_IPS, "").split(","),
        [annotations.get(POD_IP, "")],
        annotations.get(AWS_POD_IPS, "").split(","),
    ):
        if found and found[0]:
            return found
    return []


def _json_list(annotations: Mapping[str, str], name: str) -> list[str]:
    text = annotations.get(name, "")
    if not text:
        return []
    try:
        return msgspec.json.decode(text, type=list[str])
    except msgspec.DecodeError as exc:
        raise ValueError(f"annotation {name} is not a JSON list of text: {text!r}") from exc


def _floating(networks: tuple[str, ...], outside: list[str]) -> Iterable[IPNAT]:
    inside = {":" in network: network.partition("/")[0] for network in networks}
    for address in outside:
        internal = inside.get(":" in address)
        if internal:
            yield IPNAT(internal_ip=internal, external_ip=address)


# ── quality of service ────────────────────────────────────────────────────────────────────────────────────────────────


def qos_controls(annotations: Mapping[str, str], problems: Problems) -> QoSControls | None:
    """Limits that annotations ask for; None without any. What is out of range is brought into it, what cannot be read
    or stands without what it needs is dropped; both are reported in ``problems``."""
    values: dict[str, int] = {}
    for direction in ("ingress", "egress"):
        for what in _LIMITS:
            name = f"{_QOS}{direction}{what}"
            if what == "Bandwidth" and name not in annotations:
                name = f"kubernetes.io/{direction}-bandwidth"
            if name in annotations:
                values[f"{direction}_{_ATTRIBUTES[what]}"] = _limited(annotations[name], what, name, problems)
        _consistent(values, direction, problems)
    dscp: int | str | None = None
    if f"{_QOS}dscp" in annotations:
        try:
            dscp = formats.canonical_dscp(annotations[f"{_QOS}dscp"])
        except ValueError as exc:
            problems.append((f"metadata.annotations.{_QOS}dscp", str(exc)))
    controls = QoSControls(**{k: v for k, v in values.items() if v}, dscp=dscp)
    return controls if controls != QoSControls() else None


def _limited(text: str, what: str, name: str, problems: Problems) -> int:
    low, high = _LIMITS[what]
    try:
        value = quantity(text)
    except ValueError as exc:
        problems.append((f"metadata.annotations.{name}", str(exc)))
        return 0
    if not low <= value <= high:
        problems.append((f"metadata.annotations.{name}", f"{text} is not from {low} to {high}; the nearest is used"))
    return max(low, min(high, value))


def _consistent(values: dict[str, int], direction: str, problems: Problems) -> None:
    def need(part: str, fine: bool, reason: str) -> None:
        if values.get(f"{direction}_{part}") and not fine:
            problems.append((f"metadata.annotations.{_QOS}{direction}", reason))
            values[f"{direction}_{part}"] = 0

    def given(part: str) -> int:
        return values.get(f"{direction}_{part}", 0)

    bandwidth = given("bandwidth")
    need("burst", bandwidth > 0, f"{direction} burst needs a bandwidth")
    need("peakrate", 0 < bandwidth < given("peakrate"), f"{direction} peakrate must be greater than the bandwidth")
    need("minburst", given("peakrate") > 0, f"{direction} minburst needs a peakrate")
    need("packet_burst", given("packet_rate") > 0, f"{direction} packet burst needs a packet rate")
    if bandwidth and not given("burst"):
        values[f"{direction}_burst"] = _DEFAULT_BURST
    if given("packet_rate") and not given("packet_burst"):
        values[f"{direction}_packet_burst"] = _DEFAULT_PACKET_BURST


def quantity(text: str) -> int:
    """A Kubernetes quantity (``10M``, ``1.5Gi``, ``2e3``) as a whole number, rounded up. Raises ValueError."""
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a quantity such as 10M or 1.5Gi")
    factor, divisor = _SUFFIXES[found[2] or ""]
    if found[3]:
        power = int(found[3])
        factor, divisor = _power_of_ten(max(power, 0)), _power_of_ten(max(-power, 0))
    whole, _, decimals = found[1].partition(".")
    return -(-int(whole + decimals) * factor // (divisor * _power_of_ten(len(decimals))))


def _power_of_ten(exponent: int) -> int:
    return int("1" + "0" * exponent)
