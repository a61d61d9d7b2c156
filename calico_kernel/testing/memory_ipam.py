"""An address manager in memory, for tests: passes the same contract kit as the real ones.

Knows pools (from a datastore), not blocks: each pool counts as one block.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network, ip_network

import attrs

from calico_kernel.errors import AddressInUse, IpamError, NotFound, PoolExhausted, RevisionConflict
from calico_kernel.hookspecs import Datastore, Ipam
from calico_kernel.model.ipam import (
    Address,
    AddressInfo,
    AssignedAddress,
    Assignment,
    AssignRequest,
    BlockUsage,
    IpamConfig,
    IpamProblem,
    IpamReport,
    PoolUsage,
    ReleaseRequest,
)
from calico_kernel.model.keys import ResourceKey, ResourceQuery
from calico_kernel.model.network import IPPool, IPReservation
from calico_kernel.model.records import Malformed
from calico_kernel.selector import parse

Network = IPv4Network | IPv6Network


@attrs.frozen
class Held:
    """Who has an address."""

    handle: str
    node: str
    attributes: Mapping[str, str]
    sequence_number: int
    pool: str


class MemoryIpam(Ipam):
    def __init__(self, datastore: Datastore) -> None:
        self._datastore = datastore
        self._held: dict[Address, Held] = {}
        self._released_s: dict[Address, float] = {}
        self._numbers = itertools.count(1)
        self._config = IpamConfig.defaults()
        self._lock = threading.Lock()

    def assign(self, request: AssignRequest) -> Assignment:
        with self._lock:
            pools, reserved = self._pools(), self._reserved()
            chosen: dict[Address, IPPool] = {}
            for address in request.addresses:
                chosen[address] = self._exact(address, pools, request)
            if not request.addresses:
                for version, count in ((4, request.num_ipv4), (6, request.num_ipv6)):
                    if count:
                        chosen.update(self._some(request, version, count, pools, reserved))
            got = []
            for address, pool in chosen.items():
                held = Held(request.handle, request.node, request.attributes, next(self._numbers), pool.metadata.name)
                self._held[address] = held
                got.append(_assigned(address, held, pool.spec.cidr))
            return Assignment(addresses=tuple(got))

    def _some(
        self, request: AssignRequest, version: int, count: int, pools: Sequence[IPPool], reserved: Sequence[Network]
    ) -> dict[Address, IPPool]:
        usable = self._qualifying(request, version, pools)
        found: dict[Address, IPPool] = {}
        for pool in usable:
            for address in self._free(pool, reserved):
                if len(found) == count:
                    return found
                found[address] = pool
        if len(found) == count:
            return found
        free = {pool.metadata.name: sum(1 for _ in self._free(pool, ())) for pool in usable}
        said = ", ".join(
            f"{pool.metadata.name} ({pool.spec.cidr}, {free[pool.metadata.name]} of {_size(pool)} free)"
            for pool in usable
        )
        raise PoolExhausted(
            what=f"no free IPv{version} address for handle {request.handle} in {said}", todo="add a pool"
        )

    def _qualifying(self, request: AssignRequest, version: int, pools: Sequence[IPPool]) -> list[IPPool]:
        family = [pool for pool in pools if ip_network(pool.spec.cidr).version == version]
        enabled = [pool for pool in family if not pool.spec.disabled]
        named = request.pools_ipv4 if version == 4 else request.pools_ipv6
        why = "all are disabled" if family and not enabled else f"none selects node {request.node} and its namespace"
        if named:
            chosen = []
            for text in named:
                match = [pool for pool in enabled if text in (pool.metadata.name, pool.spec.cidr)]
                if not match:
                    raise IpamError(what=f"pool {text} does not exist or is not enabled", todo="name another")
                chosen.extend(match)
        else:
            labels = self._node_labels(request)
            chosen = [
                pool
                for pool in enabled
                if pool.spec.assignment_mode != "Manual"
                and _selects(pool.spec.node_selector, labels)
                and _selects(pool.spec.namespace_selector, request.namespace_labels)
            ]
        usable = [pool for pool in chosen if request.intended_use in _uses(pool)]
        if chosen and not usable:
            why = f"none allows the use {request.intended_use}"
        if not usable:
            raise IpamError(what=f"no IPv{version} pool qualifies for {request.handle}: {why}", todo="create one")
        return usable

    def _node_labels(self, request: AssignRequest) -> Mapping[str, str]:
        if request.intended_use == "LoadBalancer":
            return {}
        try:
            value = self._datastore.get(ResourceKey("Node", "", request.node)).value
        except NotFound:
            return {}
        return {} if isinstance(value, Malformed) else value.metadata.labels  # type: ignore[union-attr]

    def _exact(self, address: Address, pools: Sequence[IPPool], request: AssignRequest) -> IPPool:
        for pool in pools:
            if address in ip_network(pool.spec.cidr) and not pool.spec.disabled:
                break
        else:
            raise IpamError(what=f"address {address} is in no enabled pool", todo="create one around it")
        if request.intended_use not in _uses(pool):
            raise IpamError(what=f"pool {pool.metadata.name} does not allow {request.intended_use}", todo="ask another")
        if address in self._held or self._cools(address):
            by = self._held[address].handle if address in self._held else "nobody, but it cools down"
            raise AddressInUse(what=f"address {address} belongs to {by}", todo="choose another")
        return pool

    def _free(self, pool: IPPool, reserved: Sequence[Network]) -> Iterator[Address]:
        for address in ip_network(pool.spec.cidr):
            if address in self._held or self._cools(address):
                continue
            if not any(address in network for network in reserved):
                yield address

    def _cools(self, address: Address) -> bool:
        released_s = self._released_s.get(address)
        return released_s is not None and time.time() - released_s < self._config.ip_cooldown_seconds

    def release(self, requests: Sequence[ReleaseRequest]) -> Sequence[Address]:
        with self._lock:
            self._pools()
            for request in requests:
                held = self._held.get(request.address)
                if held is not None and (
                    request.handle not in (None, held.handle)
                    or request.sequence_number not in (None, held.sequence_number)
                ):
                    raise RevisionConflict(what=f"address {request.address} has a new owner", todo="read it again")
            return [request.address for request in requests if not self._free_one(request.address)]

    def _free_one(self, address: Address) -> bool:
        if self._held.pop(address, None) is None:
            return False
        self._released_s[address] = time.time()
        return True

    def release_by_handle(self, handle: str) -> Sequence[Address]:
        with self._lock:
            self._pools()
            return [
                address
                for address in [a for a, h in self._held.items() if h.handle == handle]
                if self._free_one(address)
            ]

    def addresses_by_handle(self, handle: str) -> Sequence[AssignedAddress]:
        with self._lock:
            cidrs = {pool.metadata.name: pool.spec.cidr for pool in self._pools()}
            return [
                _assigned(address, held, cidrs.get(held.pool, ""))
                for address, held in self._held.items()
                if held.handle == handle
            ]

    def inspect(self, address: Address) -> AddressInfo:
        with self._lock:
            pool = next((pool for pool in self._pools() if address in ip_network(pool.spec.cidr)), None)
            block = pool.spec.cidr if pool is not None else None
            held = self._held.get(address)
            if held is not None:
                return AddressInfo(
                    address=address,
                    handle=held.handle,
                    block=block,
                    block_node=None,
                    attributes=held.attributes,
                    sequence_number=held.sequence_number,
                )
            released_at = None
            if self._cools(address):
                released_at = datetime.fromtimestamp(self._released_s[address], UTC).isoformat()
            return AddressInfo(address=address, handle=None, block=block, block_node=None, released_at=released_at)

    def report(self) -> IpamReport:
        with self._lock:
            reserved = self._reserved()
            return IpamReport(pools=tuple(self._usage(pool, reserved) for pool in self._pools()))

    def _usage(self, pool: IPPool, reserved: Sequence[Network]) -> PoolUsage:
        network = ip_network(pool.spec.cidr)
        in_use = sum(address in network for address in self._held)
        kept = sum(min(r.num_addresses, network.num_addresses) for r in reserved if r.version == network.version
                   and r.overlaps(network))  # fmt: skip  # type: ignore[arg-type]
        block = BlockUsage(
            cidr=pool.spec.cidr, pool=pool.metadata.name, node=None, total=network.num_addresses, in_use=in_use,
            reserved=kept,
        )  # fmt: skip
        return PoolUsage(
            name=pool.metadata.name, cidr=pool.spec.cidr, total=network.num_addresses, in_use=in_use, reserved=kept,
            blocks=(block,) if in_use else (),
        )  # fmt: skip

    def check(self) -> Sequence[IpamProblem]:
        return []

    def collect(self, problems: Sequence[IpamProblem]) -> Sequence[IpamProblem]:
        return []

    def configuration(self) -> IpamConfig:
        return self._config

    def configure(self, config: IpamConfig) -> None:
        if not config.strict_affinity and not config.auto_allocate_blocks:
            raise IpamError(what="nothing could be assigned", todo="set autoAllocateBlocks or strictAffinity")
        self._config = config

    def release_pool(self, cidr: str) -> None:
        self._pools()

    def release_node(self, node: str) -> None:
        self._pools()

    def _pools(self) -> list[IPPool]:
        records = self._datastore.list([ResourceQuery("IPPool")]).records
        return [record.value for record in records if isinstance(record.value, IPPool)]

    def _reserved(self) -> list[Network]:
        records = self._datastore.list([ResourceQuery("IPReservation")]).records
        values = [record.value for record in records if isinstance(record.value, IPReservation)]
        return [ip_network(cidr) for value in values for cidr in value.spec.reserved_cidrs]


def _assigned(address: Address, held: Held, cidr: str) -> AssignedAddress:
    return AssignedAddress(address=address, block=cidr, pool=held.pool, sequence_number=held.sequence_number)


def _selects(selector: str, labels: Mapping[str, str]) -> bool:
    return not selector or parse(selector).evaluate(labels)


def _size(pool: IPPool) -> int:
    return ip_network(pool.spec.cidr).num_addresses


def _uses(pool: IPPool) -> Sequence[str]:
    return pool.spec.allowed_uses or ("Workload", "Tunnel")
