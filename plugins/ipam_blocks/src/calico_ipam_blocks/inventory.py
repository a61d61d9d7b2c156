"""What assignment depends on besides blocks: pools, reservations, configuration, nodes' labels. Kept fresh by a watch.

In:    a listing, then changes, of four kinds of resource.
Out:   pools that qualify for a request, reserved addresses, the configuration in force.
Cost:  of one assignment: one look at the watch; nothing is listed again unless something was compacted away.
"""

from __future__ import annotations

import bisect
import contextlib
import threading
from collections.abc import Iterable, Mapping, Sequence

import attrs

from calico_ipam_blocks.blocks import Span, span_of
from calico_kernel.errors import IpamError, NotFound, RevisionTooOld
from calico_kernel.hookspecs import Datastore, Watch
from calico_kernel.model.endpoints import Node
from calico_kernel.model.ipam import Address, AssignRequest, IpamConfig
from calico_kernel.model.keys import IpamConfigKey, IpamConfigQuery, Key, Query, ResourceKey, ResourceQuery
from calico_kernel.model.network import IPAMConfiguration, IPPool, IPReservation
from calico_kernel.model.records import Malformed, Value
from calico_kernel.selector import SelectorError, parse

LISTED: Sequence[Query] = (
    ResourceQuery("IPPool"),
    ResourceQuery("IPReservation"),
    ResourceQuery("IPAMConfiguration"),
    IpamConfigQuery(),
)
WATCHED: Sequence[Query] = (*LISTED, ResourceQuery("Node"))
DEFAULT_BLOCK_LENGTH = {4: 26, 6: 122}
DEFAULT_USES = ("Workload", "Tunnel")
DEFAULT_MAX_BLOCKS = 20
"""Calico's guard against a node that claims without end, where nobody set a limit."""
NO_LABELS: Mapping[str, str] = {}


@attrs.frozen(slots=True, kw_only=True)
class Pool:
    """A pool with its defaults filled in. ``enabled``: may be assigned from."""

    name: str
    span: Span
    block_length: int
    enabled: bool
    automatic: bool
    uses: tuple[str, ...]
    node_selector: str
    namespace_selector: str

    def block_of(self, address: Address) -> Span:
        return self.span.block_of(address, self.block_length)

    def selects(self, node_labels: Mapping[str, str]) -> bool:
        return not self.node_selector or parse(self.node_selector).evaluate(node_labels)

    def selects_namespace(self, labels: Mapping[str, str]) -> bool:
        return not self.namespace_selector or parse(self.namespace_selector).evaluate(labels)


def pool_of(resource: IPPool) -> Pool | None:
    """None for a pool without a usable prefix: it counts as absent."""
    spec = resource.spec
    try:
        span = span_of(spec.cidr)
        for selector in (spec.node_selector, spec.namespace_selector):
            if selector:
                parse(selector)
    except (ValueError, SelectorError):
        return None
    conditions = resource.status.conditions if resource.status is not None else ()
    refused = any(condition.type == "Allocatable" and condition.status == "False" for condition in conditions)
    length = spec.block_size or DEFAULT_BLOCK_LENGTH[span.version]
    return Pool(
        name=resource.metadata.name,
        span=span,
        block_length=max(length, span.length),
        enabled=not spec.disabled and not refused and resource.metadata.deletion_timestamp is None,
        automatic=spec.assignment_mode in (None, "", "Automatic"),
        uses=spec.allowed_uses or DEFAULT_USES,
        node_selector=spec.node_selector,
        namespace_selector=spec.namespace_selector,
    )


class Reservations:
    """Addresses kept back from automatic assignment."""

    def __init__(self, cidrs: Iterable[str] = ()) -> None:
        intervals: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for cidr in cidrs:
            with contextlib.suppress(ValueError):  # an entry that is no prefix reserves nothing
                span = span_of(cidr)
                intervals[span.version].append((span.base, span.last))
        self._starts: dict[int, list[int]] = {}
        self._ends: dict[int, list[int]] = {}
        for version, found in intervals.items():
            merged: list[tuple[int, int]] = []
            for start, end in sorted(found):
                if merged and start <= merged[-1][1] + 1:
                    merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
                else:
                    merged.append((start, end))
            self._starts[version] = [start for start, _ in merged]
            self._ends[version] = [end for _, end in merged]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reservations) and (self._starts, self._ends) == (other._starts, other._ends)

    __hash__ = None  # type: ignore[assignment]

    def holds(self, version: int, address: int) -> bool:
        at = bisect.bisect_right(self._starts[version], address) - 1
        return at >= 0 and address <= self._ends[version][at]

    def covers(self, span: Span) -> bool:
        at = bisect.bisect_right(self._starts[span.version], span.base) - 1
        return at >= 0 and span.last <= self._ends[span.version][at]

    def count(self, span: Span) -> int:
        """How many addresses of ``span`` are reserved."""
        pairs = zip(self._starts[span.version], self._ends[span.version], strict=True)
        return sum(max(0, min(end, span.last) - max(start, span.base) + 1) for start, end in pairs)

    def touches(self, span: Span) -> bool:
        at = bisect.bisect_right(self._starts[span.version], span.last) - 1
        return at >= 0 and self._ends[span.version][at] >= span.base


class Inventory:
    """Thread-safe. ``refresh`` before use; every other method answers from memory, except a node's first look-up."""

    def __init__(self, datastore: Datastore) -> None:
        self._datastore = datastore
        self._lock = threading.RLock()
        self._watch: Watch | None = None
        self._values: dict[Key, Value] = {}
        self._node_labels: dict[str, Mapping[str, str] | None] = {}
        self.pools: tuple[Pool, ...] = ()
        self.reservations = Reservations()
        self.config = IpamConfig.defaults()

    def refresh(self, *, anew: bool = False) -> None:
        """Take in what changed; ``anew`` lists again. Raises DatastoreUnavailable."""
        with self._lock:
            if anew:
                self.close()
            if self._watch is None:
                self._list()
                return
            changed = False
            while True:
                try:
                    events = self._watch.next(0)
                except RevisionTooOld:
                    self.close()
                    self._list()
                    return
                if not events:
                    break
                for event in events:
                    if isinstance(event.key, ResourceKey) and event.key.kind == "Node":
                        self._node_labels.pop(event.key.name, None)
                        continue
                    changed = True
                    value = event.record.value if event.record is not None else None
                    if value is None or isinstance(value, Malformed):
                        self._values.pop(event.key, None)
                    else:
                        self._values[event.key] = value
            if changed:
                self._derive()

    def close(self) -> None:
        with self._lock:
            watch, self._watch = self._watch, None
            if watch is not None:
                watch.close()

    def node_labels(self, node: str) -> Mapping[str, str] | None:
        """None when there is no such node."""
        with self._lock:
            if node not in self._node_labels:
                try:
                    value = self._datastore.get(ResourceKey("Node", "", node)).value
                    self._node_labels[node] = value.metadata.labels if isinstance(value, Node) else None
                except NotFound:
                    self._node_labels[node] = None
            return self._node_labels[node]

    def seen_by(self, node: str) -> tuple[object, ...]:
        """All that decides what ``node`` may be given; compare for equality."""
        return self.pools, self.config, self.reservations, self.node_labels(node)

    def pool_around(self, address: Address) -> Pool | None:
        return next((pool for pool in self.pools if pool.span.holds(address)), None)

    def pool_over(self, span: Span) -> Pool | None:
        return next((pool for pool in self.pools if pool.span.covers(span)), None)

    def max_blocks(self, requested: int) -> int:
        limits = [limit for limit in (requested, self.config.max_blocks_per_host) if limit > 0]
        return min(limits, default=DEFAULT_MAX_BLOCKS)

    def qualifying(self, request: AssignRequest, version: int) -> tuple[Pool, ...]:
        """Pools that ``request`` may take addresses of ``version`` from, in the order in which to try them.
        Raises IpamError, saying why, when there is none."""
        named = request.pools_ipv4 if version == 4 else request.pools_ipv6
        enabled = [pool for pool in self.pools if pool.enabled and pool.span.version == version]
        if named:
            chosen = [self._named(text, enabled, version) for text in named]
        else:
            # A load balancer's addresses belong to no node; a node that nobody registered has no labels.
            on_node = request.intended_use != "LoadBalancer"
            labels = (self.node_labels(request.node) if on_node else None) or NO_LABELS
            chosen = [
                pool
                for pool in enabled
                if pool.automatic and pool.selects(labels) and pool.selects_namespace(request.namespace_labels)
            ]
        usable = tuple(dict.fromkeys(pool for pool in chosen if request.intended_use in pool.uses))
        if not usable:
            why = self._why(request, version, chosen)
            raise IpamError(
                what=f"no IPv{version} pool qualifies for handle {request.handle}: {why}",
                kept="no address was assigned",
                todo="create a pool that selects the node and the namespace and allows the use, or enable one",
            )
        return usable

    def _named(self, text: str, enabled: Sequence[Pool], version: int) -> Pool:
        wanted: Span | None = None
        with contextlib.suppress(ValueError):
            wanted = span_of(text)
        for pool in enabled:
            if pool.span == wanted or (wanted is None and pool.name == text):
                return pool
        raise IpamError(
            what=f"the IPv{version} pool {text} that was asked for does not exist or is not enabled",
            kept="no address was assigned",
            todo=f"create or enable it, or name one of: {', '.join(pool.name for pool in enabled) or '(none)'}",
        )

    def _why(self, request: AssignRequest, version: int, chosen: Sequence[Pool]) -> str:
        of_family = [pool for pool in self.pools if pool.span.version == version]
        if not of_family:
            return "there is none"
        if chosen:
            return f"none of {', '.join(pool.name for pool in chosen)} allows the use {request.intended_use}"
        if not any(pool.enabled for pool in of_family):
            return "all are disabled"
        return f"none selects node {request.node} and namespace {request.namespace or '(none)'}"

    def _list(self) -> None:
        listing = self._datastore.list(LISTED)
        self._values = {
            record.key: record.value for record in listing.records if not isinstance(record.value, Malformed)
        }
        self._node_labels = {}
        self._watch = self._datastore.watch(WATCHED, revision=listing.revision)
        self._derive()

    def _derive(self) -> None:
        pools = [pool for value in self._values.values() if isinstance(value, IPPool) and (pool := pool_of(value))]
        self.pools = tuple(sorted(pools, key=lambda pool: pool.name))
        self.reservations = Reservations(
            cidr
            for value in self._values.values()
            if isinstance(value, IPReservation)
            for cidr in value.spec.reserved_cidrs
        )
        self.config = self._config()

    def _config(self) -> IpamConfig:
        """The engine's record; where there is none, the IPAMConfiguration resource; else the defaults.

        Calico with etcd reads the record alone, so that a resource applied by calicoctl does nothing there.
        """
        record = self._values.get(IpamConfigKey())
        if isinstance(record, IpamConfig):
            return record
        resource = self._values.get(ResourceKey("IPAMConfiguration", "", "default"))
        if not isinstance(resource, IPAMConfiguration):
            return IpamConfig.defaults()
        spec = resource.spec
        return IpamConfig(
            strict_affinity=spec.strict_affinity,
            auto_allocate_blocks=spec.auto_allocate_blocks,
            max_blocks_per_host=spec.max_blocks_per_host,
            kube_virt_vm_address_persistence=spec.kube_virt_vm_address_persistence,
            ip_cooldown_seconds=spec.ip_cooldown_seconds,
        )
