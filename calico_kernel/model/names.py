"""Names that Calico derives from other names: they must come out the same here, or programs miss each other."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from calico_kernel.model.endpoints import WorkloadEndpoint

_LONE_DASH = re.compile(r"--|-")


class EndpointIds(Struct, frozen=True, kw_only=True):
    """What a workload endpoint's name is made of. ``k8s`` uses ``pod``, ``cni`` uses ``container_id``, any other
    orchestrator but ``libnetwork`` uses ``workload``."""

    node: str
    orchestrator: str
    endpoint: str = ""
    pod: str = ""
    container_id: str = ""
    workload: str = ""

    def segments(self) -> tuple[tuple[str, str], ...]:
        """(field, value) of the four parts, in order."""
        third = {
            "k8s": ("pod", self.pod),
            "cni": ("containerID", self.container_id),
            "libnetwork": ("orchestrator", self.orchestrator),
        }.get(self.orchestrator, ("workload", self.workload))
        return (("node", self.node), ("orchestrator", self.orchestrator), third, ("endpoint", self.endpoint))


def workload_endpoint_name(ids: EndpointIds) -> str:
    """``<node>-<orchestrator>-<pod, container or workload>-<endpoint>``, each ``-`` inside a part doubled.
    Raises ValueError, naming the field, when a part is empty or begins or ends with a dash."""
    parts = []
    for name, value in ids.segments():
        if not value:
            raise ValueError(f"{name} must be given")
        parts.append(escaped(name, value))
    return "-".join(parts)


def workload_endpoint_prefix(ids: EndpointIds) -> str:
    """The part of the name up to the first unknown part, ending in ``-``. A name with this prefix may still belong to
    another endpoint (``pod-1`` for ``pod``): check what is found with ``workload_endpoint_matches``."""
    parts: list[str] = []
    for name, value in ids.segments():
        if not value:
            return "-".join(parts) + "-" if parts else ""
        parts.append(escaped(name, value))
    return "-".join(parts)


def workload_endpoint_matches(ids: EndpointIds, name: str) -> bool:
    """Whether ``name`` has every part that ``ids`` gives."""
    parts = split_dashed(name)
    wanted = ids.segments()
    return len(parts) == len(wanted) and all(
        not value or value == part for (_, value), part in zip(wanted, parts, strict=True)
    )


def parse_workload_endpoint_name(name: str) -> EndpointIds | None:
    """The parts of a workload endpoint's name; None when it has not exactly four, or one of them is empty."""
    parts = split_dashed(name)
    if len(parts) != 4 or not all(parts):
        return None
    node, orchestrator, third, endpoint = parts
    field = {"k8s": "pod", "cni": "container_id", "libnetwork": ""}.get(orchestrator, "workload")
    given = {field: third} if field else {}
    return EndpointIds(node=node, orchestrator=orchestrator, endpoint=endpoint, **given)


def split_dashed(name: str) -> list[str]:
    """Split at lone dashes; a doubled dash stands for one inside a part."""
    parts: list[str] = []
    start = 0
    for found in _LONE_DASH.finditer(name):
        if len(found[0]) == 1:
            parts.append(name[start : found.start()].replace("--", "-"))
            start = found.end()
    parts.append(name[start:].replace("--", "-"))
    return parts


def workload_id(namespace: str, ids: EndpointIds) -> str:
    """Felix's workload id: ``<namespace>/<third part of the name>``."""
    return f"{namespace}/{ids.segments()[2][1]}"


def pod_interface_name(namespace: str, pod: str, *, prefix: str = "cali") -> str:
    """Host side interface of a Kubernetes pod: prefix and 11 hex digits of SHA-1 of ``namespace.pod``."""
    return prefix + hashlib.sha1(f"{namespace}.{pod}".encode(), usedforsecurity=False).hexdigest()[:11]


def container_interface_name(container_id: str, *, prefix: str = "cali") -> str:
    """Host side interface of a container without Kubernetes: prefix and the first 11 characters of its id."""
    return prefix + container_id[: min(11, len(container_id))]


def length_limited_id(prefix: str, suffix: str, limit: int) -> str:
    """``prefix + suffix``, or ``hashed_id`` where that is too long. A suffix that fills the space exactly and begins
    with ``_`` is hashed too: it would look like a hashed one. Raises ValueError as ``hashed_id``."""
    suffix = suffix or "_"
    total = len(prefix) + len(suffix)
    if total < limit or (total == limit and not suffix.startswith("_")):
        return prefix + suffix
    return hashed_id(prefix, suffix, limit)


def hashed_id(prefix: str, suffix: str, limit: int) -> str:
    """``prefix_`` and as much of the suffix' SHA-256 as fits into ``limit`` characters, at most 43.
    Raises ValueError when not even one character of the hash fits."""
    room = limit - 1 - len(prefix)
    if room <= 0:
        raise ValueError(f"limit {limit} leaves no room after the prefix {prefix!r}")
    digest = base64.urlsafe_b64encode(hashlib.sha256(suffix.encode()).digest()).rstrip(b"=").decode()
    return f"{prefix}_{digest[:room]}"


def vtep_mac(node: str, *, version: int = 4) -> str:
    """MAC address of a node's VXLAN device where none is stored: 0x66 and five bytes of SHA-1 of the node's name."""
    text = node if version == 4 else f"{node}-v6"
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).digest()
    return ":".join(f"{byte:02x}" for byte in b"f" + digest[:5])


def cni_handle(network: str, container_id: str) -> str:
    """IPAM handle of a container's addresses."""
    return f"{network}.{container_id}"


def tunnel_handle(node: str, kind: str) -> str:
    """IPAM handle of a node's tunnel address. ``kind``: ipip, vxlan, vxlan-v6, wireguard or wireguard-v6."""
    prefix = {
        "ipip": "ipip-tunnel-addr-",
        "vxlan": "vxlan-tunnel-addr-",
        "vxlan-v6": "vxlan-v6-tunnel-addr-",
        "wireguard": "wireguard-tunnel-addr-",
        "wireguard-v6": "wireguard-v6-tunnel-addr-",
    }[kind]
    return prefix + node


def escaped(field: str, value: str) -> str:
    """A part of a workload endpoint's name. Raises ValueError, naming the field."""
    if value.startswith("-") or value.endswith("-"):
        raise ValueError(f"{field} {value!r} must not begin or end with '-'")
    return value.replace("-", "--")


def endpoint_ids(endpoint: WorkloadEndpoint) -> EndpointIds:
    """The parts that a workload endpoint's name must be made of."""
    spec = endpoint.spec
    return EndpointIds(
        node=spec.node,
        orchestrator=spec.orchestrator,
        endpoint=spec.endpoint,
        pod=spec.pod,
        container_id=spec.container_id,
        workload=spec.workload,
    )
