"""The whole contract between the kernel and its plugins, on one page.

A plugin is a module named by an entry point: group ``calico.<family>``, name = the word in the config file. It
implements ``calico_plugin`` and at least one other hook below with ``hookimpl``. Capability hooks are factories for the
abstract classes at the end of the page; extension hooks may have any number of answers. The module must import nothing
heavy: ``calicoctl`` loads it too.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pluggy
from msgspec import Struct, field

if TYPE_CHECKING:
    import argparse
    import logging

    from calico_kernel.model.ipam import (
        Address,
        AddressInfo,
        AssignedAddress,
        Assignment,
        AssignRequest,
        IpamConfig,
        IpamProblem,
        IpamReport,
        ReleaseRequest,
    )
    from calico_kernel.model.keys import Key, Query
    from calico_kernel.model.meta import Resource
    from calico_kernel.model.nodestate import Delta, LocalWorkload, WorkloadEndpointId
    from calico_kernel.model.records import Event, Listing, Record, Value

HOOK_API = (1, 1)
"""Major: incompatible change. Minor: something was added. A plugin for (1, 0) works with every (1, n >= 0)."""

hookspec = pluggy.HookspecMarker("calico")
hookimpl = pluggy.HookimplMarker("calico")


# ── what a plugin says of itself, and what the kernel lends it ────────────────────────────────────────────────────────


class HostNeed(Struct, frozen=True, kw_only=True):
    """Something that a plugin uses of the host, for ``calicoctl node checksystem``.

    kind:     "kernel" (``name`` is the oldest version), "module", "program" or "sysctl" (``name`` as ``a.b=1``).
    others:   names that do as well. options: of the kernel's configuration; any of them stands for the module.
    effect:   what is lost without it. required: the plugin cannot serve without it.
    """

    kind: str
    name: str
    others: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    effect: str = ""
    required: bool = False


class PluginInfo(Struct, frozen=True, kw_only=True):
    """hook_api: the version it was written for. settings: a ``msgspec.Struct`` (frozen, kw_only,
    forbid_unknown_fields) whose fields, defaults and docstring are the plugin's settings; None for a plugin
    without any. host_needs (since 1.1): told to people, enforced by nothing."""

    summary: str
    hook_api: tuple[int, int]
    settings: type[Any] | None = None
    distribution: str = ""
    host_needs: tuple[HostNeed, ...] = ()


class Services(Struct, frozen=True, kw_only=True):
    """What a factory may use. The kernel fills in what exists by then: a datastore factory gets no datastore."""

    node: str
    log: logging.Logger
    run_dir: str = "/var/run/calico"
    state_dir: str = "/var/lib/calico"
    datastore: Datastore | None = None
    ipam: Ipam | None = None
    request_apply: Callable[[], None] = lambda: None
    """Ask the agent for an apply of this plugin soon: drift was seen, a device appeared. Any thread; coalesces."""
    admit_endpoint: Callable[[Resource], Resource] = lambda endpoint: endpoint
    """Show a workload endpoint to every endpoint observer before it is first written. Returns it, perhaps changed;
    raises CalicoError when one refuses."""
    await_programmed: Callable[[WorkloadEndpointId, str, float], bool] = lambda _endpoint, _revision, _timeout_s: False
    """Wait until the dataplane enforces a local workload endpoint as stored at ``revision`` (of its record); False when
    the timeout in seconds passed."""


@hookspec
def calico_plugin() -> PluginInfo:
    """Describe the plugin. Required of every plugin; pure; called once, right after import."""


# ── the five capabilities ─────────────────────────────────────────────────────────────────────────────────────────────
# Called once for each configured plugin with its settings object, before the feed opens; may read the host, must not
# change it. Returns the driver. Raises ConfigError (naming the key) or UnsupportedError (naming what the host lacks);
# anything else is a plugin bug and is reported as one. Not ``firstresult``: a second answer for an exclusive capability
# is a start-up error that names both.


@hookspec
def calico_datastore(settings: Any, services: Services) -> Datastore | None:
    """Open the datastore. Exclusive: exactly one."""


@hookspec
def calico_ipam(settings: Any, services: Services) -> Ipam | None:
    """Build the address manager over ``services.datastore``. Exclusive: at most one."""


@hookspec
def calico_dataplane(settings: Any, services: Services) -> Dataplane | None:
    """Build the driver that enforces policy on this node. Exclusive: at most one."""


@hookspec
def calico_encapsulation(settings: Any, services: Services) -> EncapsulationDriver | None:
    """Build a tunnel driver. Any number, but two for one mode are refused."""


@hookspec
def calico_routing(settings: Any, services: Services) -> RoutingDriver | None:
    """Build a driver that advertises and learns routes. Any number."""


# ── extensions ────────────────────────────────────────────────────────────────────────────────────────────────────────


@hookspec
def calico_resource_kinds() -> Sequence[type[Resource]]:
    """More resource kinds (subclasses of ``Resource`` with ``tag``, ``plural``, ``namespaced``); stored, listed and
    validated like the built-in ones. Pure. A kind or plural that exists already is refused at start."""


@hookspec
def calico_validators() -> Sequence[Validator]:
    """More checks on resources of any kind, run after the kernel's own before every write."""


@hookspec
def calico_cli_commands() -> Sequence[CliCommand]:
    """More commands of ``calico`` or ``calicoctl``. A name that is taken is refused at start."""


@hookspec
def calico_endpoint_lifecycle(settings: Any, services: Services) -> EndpointObserver | None:
    """Be told of local workload endpoints: created (may refuse), programmed, removed."""


@hookspec
def calico_local_service(settings: Any, services: Services) -> LocalService | None:
    """Answer requests on the agent's unix socket under one service name (``cni`` is one)."""


@hookspec
def calico_controller(settings: Any, services: Services) -> Controller | None:
    """A loop of its own beside the agent's, started after in-sync and stopped with the agent."""


@hookspec
def calico_metrics(services: Services) -> Iterable[Metric]:
    """Current values, asked at each scrape; must answer within 100 ms from memory."""


@hookspec
def calico_health_checks(services: Services) -> Sequence[HealthCheck]:
    """More conditions for readiness and liveness."""


class Validator(Struct, frozen=True, kw_only=True):
    """``check(resource)`` yields (field path, reason) for what is wrong; nothing when all is well. Pure."""

    name: str
    check: Callable[[Resource], Iterable[tuple[str, str]]]


class CliCommand(Struct, frozen=True, kw_only=True):
    """``program``: "calico", "calicoctl" or "calicoq". ``configure`` adds arguments; ``run`` returns the exit status.
    Its arguments also have ``client``: a function that opens the datastore on its first call and returns the resource
    client (``calico_kernel.client.Client``), which is closed after ``run``. ``examples``: what may stand behind the
    command, for its help; those of a sub-command begin with its name."""

    program: str
    name: str
    help: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    examples: Sequence[str] = ()


class Metric(Struct, frozen=True, kw_only=True):
    """One sample. ``kind``: counter or gauge."""

    name: str
    help: str
    kind: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


class Health(Struct, frozen=True, kw_only=True):
    """``reason`` in words for people; required when not ok."""

    ok: bool
    reason: str = ""


class HealthCheck(Struct, frozen=True, kw_only=True):
    """``affects``: "readiness" or "liveness". ``check`` answers from memory."""

    name: str
    affects: str
    check: Callable[[], Health]


class EndpointObserver:
    """Override what you need. Called from the thread that handles the change; an exception other than CalicoError
    is logged and ignored."""

    def creating(self, endpoint: Resource) -> Resource:
        """Before a workload endpoint is first written. Returns it, changed or not; raises CalicoError to refuse it."""
        return endpoint

    def programmed(self, endpoint: LocalWorkload) -> None:
        """The dataplane enforces this endpoint's policy now."""

    def removed(self, endpoint: WorkloadEndpointId) -> None:
        """The endpoint is gone from the node."""


class LocalService(abc.ABC):
    """``name`` routes requests: the socket frame {"service": name, ...} reaches ``handle`` of that service."""

    name: ClassVar[str]

    @abc.abstractmethod
    def handle(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer one request, in a worker thread; JSON-able both ways. A CalicoError is returned to the caller as an
        error object; anything else is logged and answered as an internal error."""

    def start(self) -> None:
        """The agent is in sync."""

    def stop(self) -> None:
        """The agent stops; requests under way have been answered."""


class Controller(abc.ABC):
    @abc.abstractmethod
    def run(self, stop: Callable[[float], bool]) -> None:
        """Work until ``stop(wait_s)`` returns True; it waits up to ``wait_s`` seconds."""


# ── what the factories return ─────────────────────────────────────────────────────────────────────────────────────────


class Watch(abc.ABC):
    """Changes after a revision, each once; those of one kind in the order in which they happened. One reader thread.

    What troubles one kind only (its definition was removed, its reading was forbidden) is logged and tried again there,
    while the changes of the others are delivered."""

    @abc.abstractmethod
    def next(self, timeout_s: float) -> Sequence[Event]:
        """Changes since the last call, [] after ``timeout_s``. Blocks without polling the CPU.
        Raises RevisionTooOld (list again) or DatastoreUnavailable (call again: it resumes with no gap)."""

    @abc.abstractmethod
    def close(self) -> None:
        """Stop; wakes a blocked ``next``, which then returns []. Safe twice."""


class Datastore(abc.ABC):
    """Typed records with revisions. Thread-safe. Every method may raise DatastoreUnavailable (retryable: nothing was
    written, or the write may have happened and a re-read tells). Values are the structs of ``calico_kernel.model``;
    what does not decode comes back as ``Malformed``, which may be written as it is. ``metadata.resourceVersion`` is
    never stored; it is filled on read.

    A store may make some records from objects of another system, as Kubernetes' Pods are workload endpoints:
    ``derived_from`` tells. ``create`` of such a record completes the object, which must be there, with what only we
    know (addresses); ``delete`` takes that back; what the object itself decides is read-only. Such a write raises
    NotFound when the object is missing and NotPermitted when nothing of it may be written."""

    keeps_status: ClassVar[bool] = False
    """Whether status keys (``keys.StatusKey``) have a place here. Without one, lists and watches of them are empty."""

    @abc.abstractmethod
    def create(self, key: Key, value: Value) -> Record:
        """Store a new record. Raises AlreadyExists."""

    @abc.abstractmethod
    def update(self, key: Key, value: Value, *, revision: str) -> Record:
        """Replace if the stored revision is ``revision``. Raises NotFound, RevisionConflict."""

    @abc.abstractmethod
    def put(self, key: Key, value: Value, *, ttl_s: float | None = None) -> Record:
        """Store whatever is there (status reports, IPAM configuration).

        ttl_s: of status keys (``keys.is_status``) only: the record is deleted that many seconds after it was last put,
               or a little later, and a watch delivers that. None: it stays.
        Raises NotPermitted for a status key where ``keeps_status`` is False."""

    @abc.abstractmethod
    def delete(self, key: Key, *, revision: str | None = None) -> Record:
        """Remove, and return what was there. Raises NotFound, RevisionConflict."""

    @abc.abstractmethod
    def get(self, key: Key) -> Record:
        """The value remembers stored fields that are unknown here (``codec.decode(whole=True)``). Raises NotFound."""

    @abc.abstractmethod
    def list(self, queries: Sequence[Query], *, revision: str | None = None) -> Listing:
        """Everything that any query matches, as of one moment, in key order.
        Raises RevisionTooOld when ``revision`` was compacted."""

    def list_stored(self, queries: Sequence[Query]) -> Sequence[tuple[Key, bytes]]:
        """As ``list``, but the stored bytes: a copy must also carry fields that this version does not know. For a store
        that keeps something else than ``model.codec`` writes, this default gives what that would write."""
        from calico_kernel.model import codec

        return [(record.key, codec.encode(record.value)) for record in self.list(queries).records]

    @abc.abstractmethod
    def watch(self, queries: Sequence[Query], *, revision: str) -> Watch:
        """Changes after ``revision``: of a listing, or, for queries of one kind, of a record or event of that kind.
        Raises RevisionTooOld, here or at ``next``."""

    def derived_from(self, key: Key) -> str:
        """What the record of ``key`` is made from, in words of people (``Pod shop/web-1``); "" when it is kept as
        itself, as every record is in a store of our own."""
        return ""

    def close(self) -> None:
        """Give everything back. Safe twice."""


class Ipam(abc.ABC):
    """Hands out addresses: never the same one twice, whatever crashes when. Thread-safe; many processes at once.
    Every method may raise DatastoreUnavailable."""

    @abc.abstractmethod
    def assign(self, request: AssignRequest) -> Assignment:
        """All that was asked, or nothing. Raises PoolExhausted, AddressInUse, IpamError (no pool qualifies)."""

    @abc.abstractmethod
    def release(self, requests: Sequence[ReleaseRequest]) -> Sequence[Address]:
        """Give addresses back; returns those that were not assigned (not an error). Raises RevisionConflict."""

    @abc.abstractmethod
    def release_by_handle(self, handle: str) -> Sequence[Address]:
        """Give back all that a handle holds; returns what it released, [] for an unknown handle."""

    @abc.abstractmethod
    def addresses_by_handle(self, handle: str) -> Sequence[AssignedAddress]:
        """[] for an unknown handle."""

    @abc.abstractmethod
    def inspect(self, address: Address) -> AddressInfo:
        """Who holds the address; ``handle`` None when nobody does."""

    @abc.abstractmethod
    def report(self) -> IpamReport:
        """Usage of every pool and block."""

    @abc.abstractmethod
    def check(self) -> Sequence[IpamProblem]:
        """Inconsistencies among blocks, handles, affinities and pools; [] when there are none. Changes nothing."""

    @abc.abstractmethod
    def collect(self, problems: Sequence[IpamProblem]) -> Sequence[IpamProblem]:
        """Mend what ``check`` called collectable, looking again at each before it is touched; returns those mended."""

    @abc.abstractmethod
    def configuration(self) -> IpamConfig:
        """The configuration in force."""

    @abc.abstractmethod
    def configure(self, config: IpamConfig) -> None:
        """Change it. Raises IpamError for a combination under which nothing could be assigned."""

    @abc.abstractmethod
    def release_pool(self, cidr: str) -> None:
        """A pool is about to be deleted: give up every affinity in it; its empty blocks go, those in use stay."""

    @abc.abstractmethod
    def release_node(self, node: str) -> None:
        """Forget a node: its affinities (blocks still in use lose theirs), and its marker."""


class Failure(Struct, frozen=True, kw_only=True):
    """One thing that could not be applied. The desired state is kept; the agent retries with back-off."""

    subject: str
    reason: str


class Lack(Struct, frozen=True, kw_only=True):
    """Something the host cannot do. ``effect`` says what is done instead (e.g. "rules with SCTP ports deny")."""

    capability: str
    effect: str


class ApplyReport(Struct, frozen=True, kw_only=True):
    """failures: empty means converged. programmed: local workloads whose policy is enforced as of this apply.
    next_check_s: ask for another apply after so long (a timer), None for none. changes: writes made."""

    failures: Sequence[Failure] = ()
    programmed: Iterable[WorkloadEndpointId] = ()
    lacks: Sequence[Lack] = ()
    next_check_s: float | None = None
    changes: int = 0


class Driver(abc.ABC):
    """Shape of every plugin that touches the outside. All methods are called from one thread of its own.

    ``update`` and ``apply`` are called only after the feed is in sync; the first delta is ``full``. ``mode``: what the
    driver is called in messages. An exception from ``apply`` ends that apply, not the agent; it is retried."""

    @abc.abstractmethod
    def update(self, delta: Delta) -> None:
        """Change the desired state. In memory only: must not touch the outside, must not fail."""

    @abc.abstractmethod
    def apply(self) -> ApplyReport:
        """Make the outside agree with the desired state; safe to repeat at any time; smallest possible change."""

    def resync(self) -> None:
        """Distrust what was observed: the next ``apply`` reads it again."""

    def uninstall(self) -> None:
        """Remove all that is ours from the host, and nothing else (``calico node uninstall``). Safe on a clean host."""

    def close(self) -> None:
        """The agent stops: give back resources, leave enforcement as it is."""


class Dataplane(Driver):
    """After ``apply`` reports no failure, packets get the verdict of ``calico_kernel.policy.verdict``. Before the first
    ``apply`` nothing on the host is changed. An update never opens a window: what was denied before and after stays
    denied during. A rule that cannot be expressed denies."""


class EncapsulationDriver(Driver):
    """Keeps tunnel devices and the routes to remote blocks of the modes it serves; leaves nothing behind when no pool
    needs it."""

    modes: ClassVar[frozenset[str]]
    """Of "none", "ipip", "vxlan", "wireguard"."""

    @abc.abstractmethod
    def overhead_bytes(self, version: int) -> int:
        """Bytes to subtract from the underlay MTU for IP ``version``. Pure."""


class RoutingDriver(Driver):
    """Advertises local prefixes and learns remote ones."""

    def peers(self) -> Sequence[Mapping[str, Any]]:
        """BGP sessions for ``calicoctl node status``, each with ``address`` and ``state`` (``Established`` when it is
        up), and ``type`` (``node-to-node mesh``, ``node specific``, ``global``), ``since`` and ``info`` where known.
        Called on any thread; answers from memory."""
        return ()
