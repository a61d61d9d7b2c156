"""Address kinds: pools, reservations, IPAM configuration, block affinities, and network sets."""

from __future__ import annotations

from typing import ClassVar, Literal

from msgspec import field

from calico_kernel.model.meta import Resource, Wire
from calico_kernel.model.policy import ConditionsStatus

EncapMode = Literal["", "Never", "Always", "CrossSubnet"]


class IPPoolSpec(Wire):
    cidr: str = ""
    vxlan_mode: EncapMode = ""
    ipip_mode: EncapMode = ""
    nat_outgoing: bool = False
    disabled: bool = False
    disable_bgp_export: bool = field(default=False, name="disableBGPExport")
    block_size: int = 0
    node_selector: str = ""
    namespace_selector: str = ""
    allowed_uses: tuple[str, ...] = ()
    assignment_mode: str | None = None


class IPPool(Resource, tag="IPPool"):
    spec: IPPoolSpec = field(default_factory=IPPoolSpec)
    status: ConditionsStatus | None = None
    plural: ClassVar[str] = "ippools"


class IPReservationSpec(Wire):
    reserved_cidrs: tuple[str, ...] = field(default=(), name="reservedCIDRs")


class IPReservation(Resource, tag="IPReservation"):
    spec: IPReservationSpec = field(default_factory=IPReservationSpec)
    plural: ClassVar[str] = "ipreservations"


class IPAMConfigurationSpec(Wire):
    strict_affinity: bool = False
    auto_allocate_blocks: bool = True
    max_blocks_per_host: int = 0
    kube_virt_vm_address_persistence: str | None = field(default=None, name="kubeVirtVMAddressPersistence")
    ip_cooldown_seconds: int = 0


class IPAMConfiguration(Resource, tag="IPAMConfiguration"):
    spec: IPAMConfigurationSpec = field(default_factory=IPAMConfigurationSpec)
    plural: ClassVar[str] = "ipamconfigurations"


class BlockAffinitySpec(Wire):
    state: str = ""
    node: str = ""
    type: str = ""
    cidr: str = ""
    deleted: str | bool = False


class BlockAffinity(Resource, tag="BlockAffinity"):
    spec: BlockAffinitySpec = field(default_factory=BlockAffinitySpec)
    plural: ClassVar[str] = "blockaffinities"


class NetworkSetSpec(Wire):
    nets: tuple[str, ...] = ()


class NetworkSet(Resource, tag="NetworkSet"):
    spec: NetworkSetSpec = field(default_factory=NetworkSetSpec)
    namespaced: ClassVar[bool] = True
    plural: ClassVar[str] = "networksets"


class GlobalNetworkSet(Resource, tag="GlobalNetworkSet"):
    spec: NetworkSetSpec = field(default_factory=NetworkSetSpec)
    plural: ClassVar[str] = "globalnetworksets"
