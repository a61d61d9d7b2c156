"""Names that Calico gives: of workload endpoints, host interfaces, handles and profiles. Pure."""

from __future__ import annotations

import hashlib

import attrs

from calico_kernel.model.keys import ResourceKey
from calico_kernel.model.nodestate import WorkloadEndpointId

KUBERNETES = "k8s"
PLAIN = "cni"
DEFAULT_NAMESPACE = "default"
ALIAS = "calico-cni"


@attrs.frozen(kw_only=True)
class Attachment:
    """One interface of one container on one network: what every verb is about.

    pod:  "" when the runtime is not Kubernetes; ``namespace`` is then "default".
    """

    node: str
    network: str
    container: str
    interface: str
    namespace: str = DEFAULT_NAMESPACE
    pod: str = ""

    @property
    def orchestrator(self) -> str:
        return KUBERNETES if self.pod else PLAIN

    @property
    def endpoint_name(self) -> str:
        """Name of the workload endpoint: node, orchestrator, pod or container, interface; "-" doubled within each."""
        parts = (self.node, self.orchestrator, self.pod or self.container, self.interface)
        return "-".join(part.replace("-", "--") for part in parts)

    @property
    def key(self) -> ResourceKey:
        return ResourceKey("WorkloadEndpoint", self.namespace, self.endpoint_name)

    @property
    def id(self) -> WorkloadEndpointId:
        return WorkloadEndpointId(self.orchestrator, f"{self.namespace}/{self.pod or self.container}", self.interface)

    @property
    def handle(self) -> str:
        return f"{self.network}.{self.container}"

    @property
    def legacy_handle(self) -> str:
        """What releases before Calico 3 used."""
        return f"{self.namespace}.{self.pod}" if self.pod else self.container

    @property
    def alias(self) -> str:
        """Written on the host interface: whose it is."""
        return f"{ALIAS} {self.network} {self.container} {self.interface}"

    def host_interface(self, prefix: str) -> str:
        """Name of the host end. The first interface has Calico's name; a further one of the same workload, for which
        Calico has none, gets its own name into the hash."""
        if self.interface == "eth0":
            if not self.pod:
                return prefix + self.container[:11]
            seed = f"{self.namespace}.{self.pod}"
        else:
            seed = f"{self.namespace}.{self.pod or self.container}.{self.interface}"
        return prefix + hashlib.sha1(seed.encode(), usedforsecurity=False).hexdigest()[:11]


def namespace_profile(namespace: str) -> str:
    return f"kns.{namespace}"


def account_profile(namespace: str, account: str) -> str:
    return f"ksa.{namespace}.{account}"


def endpoint_prefix(node: str) -> str:
    """What the names of all workload endpoints of a node begin with; a longer node name may begin so too."""
    return node.replace("-", "--") + "-"
