"""Kubernetes Services and EndpointSlices as the policy engine sees them: what ``services`` matches in rules need.

They are mirrored into the datastore as internal kinds; people do not write them through calicoctl.
"""

from __future__ import annotations

from typing import ClassVar

from msgspec import field

from calico_kernel.model.meta import Resource, Wire, always

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
"""Label of an EndpointSlice that names its Service."""


class ServicePort(Wire):
    name: str = ""
    protocol: str = ""
    port: int = always(0)
    target_port: int | str | None = None
    node_port: int = 0


class ServiceSpec(Wire):
    ports: tuple[ServicePort, ...] = ()
    selector: dict[str, str] = field(default_factory=dict)
    cluster_ip: str = field(default="", name="clusterIP")
    cluster_ips: tuple[str, ...] = field(default=(), name="clusterIPs")
    type: str = ""
    external_ips: tuple[str, ...] = field(default=(), name="externalIPs")
    load_balancer_ip: str = field(default="", name="loadBalancerIP")
    external_traffic_policy: str = ""
    internal_traffic_policy: str = ""


class LoadBalancerIngress(Wire):
    ip: str = ""
    hostname: str = ""


class LoadBalancerStatus(Wire):
    ingress: tuple[LoadBalancerIngress, ...] = ()


class ServiceStatus(Wire):
    load_balancer: LoadBalancerStatus = field(default_factory=LoadBalancerStatus)


class KubernetesService(Resource, tag="KubernetesService"):
    api_version: str = always("v1")
    spec: ServiceSpec = field(default_factory=ServiceSpec)
    status: ServiceStatus = field(default_factory=ServiceStatus)
    namespaced: ClassVar[bool] = True
    plural: ClassVar[str] = "kubernetesservice"


class EndpointConditions(Wire):
    """None reads as ready."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ObjectReference(Wire):
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class SliceEndpoint(Wire):
    addresses: tuple[str, ...] = always(())
    conditions: EndpointConditions = field(default_factory=EndpointConditions)
    hostname: str | None = None
    target_ref: ObjectReference | None = None
    node_name: str | None = None
    zone: str | None = None


class SlicePort(Wire):
    """``protocol`` None reads as TCP; ``port`` None as every port."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class KubernetesEndpointSlice(Resource, tag="KubernetesEndpointSlice"):
    """Addresses (of one family, or names) behind a Service. The Service is named by ``SERVICE_NAME_LABEL``."""

    api_version: str = always("discovery.k8s.io/v1")
    address_type: str = always("")
    endpoints: tuple[SliceEndpoint, ...] = always(())
    ports: tuple[SlicePort, ...] = always(())
    namespaced: ClassVar[bool] = True
    plural: ClassVar[str] = "kubernetesendpointslices"

    @property
    def service(self) -> str:
        """Name of the Service, in the slice's own namespace; "" when the slice belongs to none."""
        return self.metadata.labels.get(SERVICE_NAME_LABEL, "")
