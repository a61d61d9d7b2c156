"""IPAM records as they are stored (blocks, affinities, handles, configuration) and what is asked of an IPAM plugin."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address

from msgspec import Struct, field

from calico_kernel.model.meta import always, always_map

Address = IPv4Address | IPv6Address


class BlockAttributes(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Who holds the addresses that point here. ``released_at`` (RFC 3339) marks addresses that cool down."""

    handle_id: str | None = None
    secondary: dict[str, str] | None = None
    alternate_owner_attrs: dict[str, str] | None = field(default=None, name="alternateOwnerAttrs")
    released_at: str | None = field(default=None, name="releasedAt")


class AllocationBlock(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One block of addresses: the single authority on who holds each of them (Calico: ``AllocationBlock``).

    allocations:  one entry for each address: None, or an index into ``attributes``.
    unallocated:  free ordinals, first to be handed out first.
    """

    cidr: str
    affinity: str | None = always(None)
    affinity_claim_time: str | None = None
    allocations: tuple[int | None, ...] = always(())
    unallocated: tuple[int, ...] = always(())
    attributes: tuple[BlockAttributes, ...] = always(())
    sequence_number: int = always(0, name="sequenceNumber")
    sequence_number_for_allocation: dict[str, int] = always_map(name="sequenceNumberForAllocation")
    deleted: bool = always(False)


class StoredBlockAffinity(Struct, frozen=True, kw_only=True, gc=False):
    """Value under an affinity key. ``state``: pending, confirmed, pendingDeletion, or "" (reads as confirmed)."""

    state: str = ""
    deleted: bool = False


class IpamHandle(Struct, frozen=True, kw_only=True, gc=False):
    """How many addresses one handle holds in each block (key: block CIDR)."""

    block: dict[str, int] = field(default_factory=dict)
    deleted: bool = False


class IpamConfig(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The IPAM engine's own record (etcd: ``/calico/ipam/v2/config``). A missing field reads as False or 0;
    a missing record as ``IpamConfig.defaults()``."""

    strict_affinity: bool = False
    auto_allocate_blocks: bool = False
    max_blocks_per_host: int = field(default=0, name="maxBlocksPerHost")
    kube_virt_vm_address_persistence: str | None = field(default=None, name="kubeVirtVMAddressPersistence")
    ip_cooldown_seconds: int = field(default=0, name="ipCooldownSeconds")

    @classmethod
    def defaults(cls) -> IpamConfig:
        return cls(auto_allocate_blocks=True)


class IpamHost(Struct, frozen=True, kw_only=True, gc=False):
    """Marker that a node has used IPAM; empty."""


class AssignRequest(Struct, frozen=True, kw_only=True):
    """Addresses wanted, all or none.

    num_ipv4, num_ipv6:      how many of each family.
    pools_ipv4, pools_ipv6:  CIDRs or pool names, in order of preference; given ones are used whatever they select.
    addresses:               exact addresses instead of a number.
    namespace_labels:        raw labels of the workload's namespace, for pools with a namespace selector.
    intended_use:            "Workload", "Tunnel" or "LoadBalancer".
    """

    handle: str
    node: str
    num_ipv4: int = 0
    num_ipv6: int = 0
    pools_ipv4: tuple[str, ...] = ()
    pools_ipv6: tuple[str, ...] = ()
    addresses: tuple[Address, ...] = ()
    namespace: str = ""
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    intended_use: str = "Workload"
    max_blocks: int = 0


class AssignedAddress(Struct, frozen=True, kw_only=True):
    address: Address
    block: str
    pool: str
    sequence_number: int


class Assignment(Struct, frozen=True, kw_only=True):
    addresses: tuple[AssignedAddress, ...]

    def of_family(self, version: int) -> tuple[Address, ...]:
        return tuple(a.address for a in self.addresses if a.address.version == version)


class ReleaseRequest(Struct, frozen=True, kw_only=True):
    """One address to give back. ``handle`` and ``sequence_number``, when given, must still match, else the whole call
    is refused with RevisionConflict: a re-used address is never taken from its new owner."""

    address: Address
    handle: str | None = None
    sequence_number: int | None = None


class AddressInfo(Struct, frozen=True, kw_only=True):
    """What is known of one address; ``handle`` None means not assigned."""

    address: Address
    handle: str | None
    block: str | None
    block_node: str | None
    attributes: Mapping[str, str] = field(default_factory=dict)
    alternate_attributes: Mapping[str, str] = field(default_factory=dict)
    sequence_number: int | None = None
    released_at: str | None = None


class BlockUsage(Struct, frozen=True, kw_only=True):
    cidr: str
    pool: str | None
    node: str | None
    total: int
    in_use: int
    reserved: int


class PoolUsage(Struct, frozen=True, kw_only=True):
    name: str
    cidr: str
    total: int
    in_use: int
    reserved: int
    blocks: tuple[BlockUsage, ...] = ()


class IpamReport(Struct, frozen=True, kw_only=True):
    pools: tuple[PoolUsage, ...]
    orphan_blocks: tuple[BlockUsage, ...] = ()


class IpamProblem(Struct, frozen=True, kw_only=True):
    """One inconsistency found by ``Ipam.check``: what, where, and whether collecting it is safe."""

    kind: str
    subject: str
    detail: str
    handle: str | None = None
    address: Address | None = None
    collectable: bool = False
