"""Names that Calico gives an attachment: its workload endpoint, host interface and handle. Pure."""

from __future__ import annotations

import hashlib

import attrs

from calico_kernel.model import names
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
    def ids(self) -> names.EndpointIds:
        return names.EndpointIds(
            node=self.node,
            orchestrator=self.orchestrator,
            endpoint=self.interface,
            pod=self.pod,
            container_id=self.container,
        )

    @property
    def endpoint_name(self) -> str:
        """Raises ValueError when a part cannot be part of a name (begins or ends with "-")."""
        return names.workload_endpoint_name(self.ids)

    @property
    def key(self) -> ResourceKey:
        return ResourceKey("WorkloadEndpoint", self.namespace, self.endpoint_name)

    @property
    def id(self) -> WorkloadEndpointId:
        return WorkloadEndpointId(self.orchestrator, names.workload_id(self.namespace, self.ids), self.interface)

    @property
    def handle(self) -> str:
        return names.cni_handle(self.network, self.container)

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
        if self.interface != "eth0":
            seed = f"{self.namespace}.{self.pod or self.container}.{self.interface}"
            return prefix + hashlib.sha1(seed.encode(), usedforsecurity=False).hexdigest()[:11]
        if self.pod:
            return names.pod_interface_name(self.namespace, self.pod, prefix=prefix)
        return names.container_interface_name(self.container, prefix=prefix)
