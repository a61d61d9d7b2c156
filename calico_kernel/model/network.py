"""Address kinds: pools, reservations, IPAM configuration, block affinities, and network sets."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import field

from calico_kernel.model.meta import ConditionsStatus, Resource, Wire, always, always_map
from calico_kernel.model.types import WITH_LENGTH, Cidr, Must, Selector

EncapMode = Literal["", "Never", "Always", "CrossSubnet"]
AllowedUse = Annotated[str, Must(one_of=("Workload", "Tunnel", "LoadBalancer"))]


class IPPoolSpec(Wire):
    cidr: Annotated[str, Must(format="cidr", required=True, max_len=48), WITH_LENGTH] = always("")
    vxlan_mode: EncapMode = ""
    ipip_mode: EncapMode = ""
    nat_outgoing: bool = False
    disabled: bool = False
    disable_bgp_export: bool = field(default=False, name="disableBGPExport")
    block_size: Annotated[int, Must(ge=0, le=128)] = 0
    node_selector: Selector = ""
    namespace_selector: Selector = ""
    allowed_uses: Annotated[tuple[AllowedUse, ...], Must(max_items=10)] = ()
    assignment_mode: Annotated[str | None, Must(one_of=("Automatic", "Manual"))] = None


class IPPool(Resource, tag="IPPool"):
    spec: IPPoolSpec = field(default_factory=IPPoolSpec)
    status: ConditionsStatus | None = None
    plural: ClassVar[str] = "ippools"


class IPReservationSpec(Wire):
    reserved_cidrs: tuple[Annotated[Cidr, WITH_LENGTH], ...] = field(default=(), name="reservedCIDRs")


class IPReservation(Resource, tag="IPReservation"):
    spec: IPReservationSpec = field(default_factory=IPReservationSpec)
    plural: ClassVar[str] = "ipreservations"


class IPAMConfigurationSpec(Wire):
    strict_affinity: bool = always(False)
    max_blocks_per_host: Annotated[int, Must(ge=0, le=1000000)] = 0
    auto_allocate_blocks: bool = always(True)
    kube_virt_vm_address_persistence: Annotated[str | None, Must(one_of=("Enabled", "Disabled"))] = field(
        default=None, name="kubeVirtVMAddressPersistence"
    )
    ip_cooldown_seconds: Annotated[int, Must(ge=0, le=1200)] = 0


class IPAMConfiguration(Resource, tag="IPAMConfiguration"):
    spec: IPAMConfigurationSpec = field(default_factory=IPAMConfigurationSpec)
    plural: ClassVar[str] = "ipamconfigurations"


class BlockAffinitySpec(Wire):
    """``deleted`` is text ("true", "false") where it is stored; ``codec`` translates, memory holds a bool."""

    state: Annotated[str, Must(one_of=("confirmed", "pending", "pendingDeletion"))] = always("")
    node: str = always("")
    type: str = ""
    cidr: Annotated[str, Must(format="cidr", required=True), WITH_LENGTH] = always("")
    deleted: str | bool = always(False)


class BlockAffinity(Resource, tag="BlockAffinity"):
    spec: BlockAffinitySpec = field(default_factory=BlockAffinitySpec)
    plural: ClassVar[str] = "blockaffinities"


class IPAMBlockSpec(Wire):
    """A block as the Kubernetes datastore holds it; elsewhere ``ipam.AllocationBlock``."""

    cidr: str = always("")
    affinity: str | None = None
    affinity_claim_time: str | None = None
    allocations: tuple[int | None, ...] = always(())
    unallocated: tuple[int, ...] = always(())
    attributes: tuple[dict[str, str | dict[str, str] | None], ...] = always(())
    sequence_number: int = always(0)
    sequence_number_for_allocation: dict[str, int] = always_map()
    deleted: bool = always(False)
    strict_affinity: bool = always(False)


class IPAMBlock(Resource, tag="IPAMBlock"):
    spec: IPAMBlockSpec = field(default_factory=IPAMBlockSpec)
    plural: ClassVar[str] = "ipamblocks"


class IPAMHandleSpec(Wire):
    handle_id: str = always("", name="handleID")
    block: dict[str, int] = always_map()
    deleted: bool = always(False)


class IPAMHandle(Resource, tag="IPAMHandle"):
    spec: IPAMHandleSpec = field(default_factory=IPAMHandleSpec)
    plural: ClassVar[str] = "ipamhandles"


class NetworkSetSpec(Wire):
    nets: tuple[Cidr, ...] = ()


class NetworkSet(Resource, tag="NetworkSet"):
    spec: NetworkSetSpec = field(default_factory=NetworkSetSpec)
    namespaced: ClassVar[bool] = True
    plural: ClassVar[str] = "networksets"


class GlobalNetworkSet(Resource, tag="GlobalNetworkSet"):
    spec: NetworkSetSpec = field(default_factory=NetworkSetSpec)
    plural: ClassVar[str] = "globalnetworksets"
