"""ADD, DEL, CHECK, GC and STATUS: what each does, in which order, and what is taken back when it fails.

In:    an ``Invocation`` and the namespace's descriptor, from ``calico_cni.service``.
Out:   a result document, or CniError / CalicoError.

ADD: addresses -> interface -> workload endpoint -> policy enforced. DEL: endpoint -> interface -> addresses, so that an
address is free only when nothing uses it any more. Whatever was done before a failure is undone in reverse.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from logging import Logger
from typing import Any

import attrs

from calico_cni import endpoint as endpoints
from calico_cni import errors, result, wiring
from calico_cni.addressing import AddressSource, CalicoIpam, NoIpam, Program, Wanted, wanted
from calico_cni.delegate import Delegates
from calico_cni.endpoint import EndpointStore, Stored, serves
from calico_cni.errors import CniError
from calico_cni.naming import DEFAULT_NAMESPACE, Attachment
from calico_cni.netconf import Invocation, addresses, annotation_list, mac_address
from calico_cni.result import Allocation
from calico_cni.settings import CniSettings
from calico_cni.wiring import DEFAULT_ROUTES, Wiring
from calico_kernel.errors import CalicoError, RevisionConflict
from calico_kernel.hookspecs import Services
from calico_kernel.model import validate
from calico_kernel.model.endpoints import WorkloadEndpoint
from calico_kernel.model.keys import HandleKey, HandleQuery
from calico_kernel.model.kubernetes import namespace_profile_name

_READ_AGAIN_S = 1.0


@attrs.define
class Undo:
    """Steps to take back, last first. One that fails is logged and does not stop the others."""

    log: Logger
    _steps: list[tuple[str, Callable[[], None]]] = attrs.field(factory=list, init=False)

    def add(self, what: str, step: Callable[[], None]) -> None:
        self._steps.append((what, step))

    def run(self) -> None:
        while self._steps:
            what, step = self._steps.pop()
            try:
                step()
            except (CalicoError, CniError, OSError) as exc:
                self.log.warning("could not undo %s after a failed ADD: %s", what, exc)


@attrs.frozen
class Verbs:
    """Stateless but for what it may use; every method may run in many threads at once, for different endpoints."""

    settings: CniSettings
    services: Services
    endpoints: EndpointStore
    delegates: Delegates

    def attachment(self, inv: Invocation) -> Attachment:
        pod, namespace = inv.args.get("K8S_POD_NAME", ""), inv.args.get("K8S_POD_NAMESPACE", "")
        kubernetes = bool(pod and namespace)
        found = Attachment(
            node=inv.conf.node or self.services.node,
            network=inv.conf.name,
            container=inv.container,
            interface=inv.interface,
            namespace=namespace if kubernetes else DEFAULT_NAMESPACE,
            pod=pod if kubernetes else "",
        )
        try:
            found.endpoint_name  # noqa: B018 -- asked for its refusal
        except ValueError as exc:
            raise CniError(errors.INVALID_ENVIRONMENT, f"no workload endpoint can be named for it: {exc}") from None
        return found

    def _source(self, inv: Invocation, annotations: Mapping[str, str]) -> AddressSource:
        exact = annotation_list(annotations, "ipAddrsNoIpam")
        if exact is not None:
            if not inv.conf.addresses_without_ipam:
                raise CniError(errors.INVALID_CONFIG, "annotation ipAddrsNoIpam needs feature_control.ip_addrs_no_ipam")
            if annotation_list(annotations, "ipAddrs") is not None:
                raise CniError(errors.INVALID_CONFIG, "annotations ipAddrs and ipAddrsNoIpam exclude each other")
            return NoIpam(addresses("annotation ipAddrsNoIpam", exact))
        if inv.conf.ipam.type != "calico-ipam":
            node = inv.conf.node or self.services.node
            return Program(self.delegates, lambda: self.endpoints.pod_cidrs(node))
        if self.services.ipam is None:
            raise CniError(errors.INVALID_CONFIG, "ipam.type is calico-ipam, but the node's configuration has no ipam")
        return CalicoIpam(self.services.ipam)

    def _unlocked(self) -> None:
        if not self.endpoints.ready():
            raise CniError(errors.TRY_AGAIN, "try again later: the datastore is locked (datastoreReady is false)")

    # ── ADD ──

    def add(self, inv: Invocation, netns_fd: int) -> Mapping[str, Any]:
        wiring.check_namespace(netns_fd, inv.netns)
        self._unlocked()
        attachment = self.attachment(inv)
        before = self.endpoints.find(attachment)
        if origin := self.endpoints.origin(attachment):
            if before is None:
                raise CniError(errors.TRY_AGAIN, f"try again later: {origin} is not on node {attachment.node}")
            inv = attrs.evolve(inv, conf=endpoints.completed(inv.conf, before.endpoint))
        if before is not None and before.endpoint.spec.container_id == inv.container:
            done = self._repeated(inv, attachment, before, netns_fd)
            if done is not None:
                return done
        undo = Undo(self.services.log)
        try:
            return self._add(inv, attachment, before, netns_fd, undo)
        except BaseException:
            undo.run()
            raise

    def _repeated(
        self, inv: Invocation, attachment: Attachment, before: Stored, netns_fd: int
    ) -> Mapping[str, Any] | None:
        """The same ADD again: when all of it stands, the same answer. None: make what is missing."""
        held = _bare(before.endpoint)
        wires = self._wiring(inv, attachment, held, _kept_mac(inv, before, netns_fd), netns_fd)
        source = self._source(inv, inv.conf.annotations)
        checkable = isinstance(source, CalicoIpam)
        if not held or wiring.differences(wires) or (checkable and source.held(inv, attachment, held)):
            return None
        self._await_policy(inv, attachment, before.revision)
        destinations = tuple(map(result.host_prefix, held)) if checkable else inv.conf.ipam.routes
        routes = tuple({"dst": destination} for destination in destinations)
        return self._answer(inv, wires, Allocation(addresses=held, routes=routes), wiring.mtu_of(wires.host_name))

    def _wanted(self, inv: Invocation, attachment: Attachment) -> Wanted:
        namespace = self.endpoints.profile(namespace_profile_name(attachment.namespace)) if attachment.pod else None
        labels, annotations = endpoints.namespace_facts(namespace)
        return wanted(inv, inv.conf.annotations, annotations, labels)

    def _add(
        self, inv: Invocation, attachment: Attachment, before: Stored | None, netns_fd: int, undo: Undo
    ) -> Mapping[str, Any]:
        conf = inv.conf
        if attachment.node != self.services.node:  # nobody here would ever program it
            raise CniError(
                errors.INVALID_CONFIG, f"nodename: {attachment.node!r} is not this agent's node {self.services.node!r}"
            )
        want = self._wanted(inv, attachment)
        mac = self._mac(inv, before, attachment)
        missing = endpoints.missing_profiles(attachment, conf)
        for profile in missing if attachment.pod else ():
            validate.check(profile)  # the names of its namespace and account come from outside
        for profile in missing:
            self.endpoints.ensure_profile(profile)  # not undone: it is the network's, not this container's

        source = self._source(inv, conf.annotations)
        if before is not None and not serves(before, attachment) and want.addresses:
            former = attrs.evolve(attachment, container=before.endpoint.spec.container_id)
            source.take_over(former.handle, want.addresses)
        allocation, release = source.assign(inv, attachment, want)
        undo.add("its addresses", release)
        wires = self._wiring(inv, attachment, allocation.addresses, mac, netns_fd)
        fresh = endpoints.build(
            attachment,
            conf,
            conf.annotations,
            allocation.addresses,
            host_interface=wires.host_name,
            mac=mac,
            profiles=endpoints.profiles_of(attachment, conf),
            before=before,
        )
        admitted = self.services.admit_endpoint(fresh)
        assert isinstance(admitted, WorkloadEndpoint)
        validate.check(admitted)

        mtu_bytes = wiring.connect(wires)
        undo.add("its interface", lambda: wiring.disconnect(netns_fd, wires.interface, wires.host_name, wires.alias))
        written = self._write(attachment, admitted, before)
        undo.add("its workload endpoint", lambda: self.endpoints.put_back(attachment, written, before))
        self._await_policy(inv, attachment, written.revision)
        return self._answer(inv, wires, allocation, mtu_bytes)

    def _write(self, attachment: Attachment, endpoint: WorkloadEndpoint, before: Stored | None) -> Stored:
        """Others may touch the endpoint (labels mirrored from a pod), so a conflict is read again a few times."""
        for _ in range(endpoints.ATTEMPTS - 1):
            try:
                return self.endpoints.write(attachment, endpoint, before)
            except RevisionConflict:
                former, before = before, self.endpoints.find(attachment)
                self._check_same(attachment, former, before)
        return self.endpoints.write(attachment, endpoint, before)

    def _check_same(self, attachment: Attachment, former: Stored | None, found: Stored | None) -> None:
        """A younger pod of the same name must not get what this container is given."""
        origin = self.endpoints.origin(attachment)
        if origin and former and (found is None or found.endpoint.metadata.uid != former.endpoint.metadata.uid):
            raise CniError(errors.TRY_AGAIN, f"try again later: {origin} was deleted while its network was made")

    def _mac(self, inv: Invocation, before: Stored | None, attachment: Attachment) -> str:
        asked = inv.conf.annotations.get("cni.projectcalico.org/hwAddr", "")
        if asked:
            return mac_address("annotation hwAddr", asked)
        if inv.conf.mac:
            return inv.conf.mac
        if before is not None and before.endpoint.spec.mac and serves(before, attachment):
            return before.endpoint.spec.mac
        return _random_mac()

    def _wiring(self, inv: Invocation, attachment: Attachment, held: Sequence[str], mac: str, netns_fd: int) -> Wiring:
        conf = inv.conf
        destinations = conf.ipam.routes or DEFAULT_ROUTES
        if conf.include_default_routes:
            destinations = tuple(dict.fromkeys((*DEFAULT_ROUTES, *conf.ipam.routes)))
        return Wiring(
            host_name=attachment.host_interface(self.settings.interface_prefix),
            alias=attachment.alias,
            interface=attachment.interface,
            netns_fd=netns_fd,
            mac=mac,
            addresses=tuple(held),
            destinations=destinations,
            mtu_bytes=self._mtu(inv),
            queues=conf.queues,
            ip_forwarding=conf.ip_forwarding,
        )

    def _mtu(self, inv: Invocation) -> int:
        """Network configuration, then settings, then what the agent worked out, then the kernel's default (0)."""
        if inv.conf.mtu or self.settings.mtu:
            return inv.conf.mtu or self.settings.mtu
        path = os.path.join(self.services.state_dir, "mtu")
        try:
            with open(path, encoding="ascii") as file:
                return max(int(file.read().strip() or 0), 0)
        except FileNotFoundError:
            if inv.conf.require_mtu_file:
                raise CniError(errors.TRY_AGAIN, f"try again later: {path} does not exist yet") from None
            return 0
        except (OSError, ValueError) as exc:
            raise CniError(errors.IO_FAILURE, f"{path} cannot be read as a number", str(exc)) from exc

    def _await_policy(self, inv: Invocation, attachment: Attachment, revision: str) -> None:
        """The dataplane reports the revision it enforces. Others may write the endpoint meanwhile (labels mirrored from
        a pod), and a coalesced apply then skips ours: so what is stored is read again from time to time."""
        wait_s = self.settings.policy_wait_s if inv.conf.policy_wait_s is None else inv.conf.policy_wait_s
        deadline = time.monotonic() + wait_s
        while (left := deadline - time.monotonic()) > 0:
            if self.services.await_programmed(attachment.id, revision, min(left, _READ_AGAIN_S)):
                return
            found = self.endpoints.find(attachment)
            if found is None or not serves(found, attachment):
                said = f"{attachment.endpoint_name} was removed while its policy was awaited"
                raise CniError(errors.TRY_AGAIN, f"try again later: {said}")
            revision = found.revision
        if wait_s <= 0:
            return
        said = f"policy of {attachment.endpoint_name} was not programmed within {wait_s:g} s"
        if self.settings.on_policy_timeout == "error":
            raise CniError(errors.TRY_AGAIN, f"try again later: {said}", "the agent's readiness says what holds it up")
        self.services.log.warning("%s; its packets are dropped until it is", said)

    def _answer(self, inv: Invocation, wires: Wiring, allocation: Allocation, mtu_bytes: int) -> Mapping[str, Any]:
        return result.added(
            allocation,
            version=inv.conf.version,
            host_interface=wires.host_name,
            interface=wires.interface,
            mac=wires.mac,
            mtu_bytes=wires.mtu_bytes or mtu_bytes,
            sandbox=inv.netns,
        )

    # ── DEL ──

    def delete(self, inv: Invocation, netns_fd: int | None) -> None:
        if netns_fd is not None:
            if wiring.is_namespace(netns_fd):
                wiring.refuse_own(netns_fd, inv.netns)
            else:  # the file outlived the namespace that was mounted on it
                netns_fd = None
        self._unlocked()
        attachment = self.attachment(inv)
        self._detach(attachment, netns_fd)
        self._source(inv, inv.conf.annotations).release(inv, attachment)

    def _detach(self, attachment: Attachment, netns_fd: int | None) -> None:
        """Remove endpoint and interface; another container's endpoint of the same name stays, with its interface."""
        found = self.endpoints.remove(attachment)
        host_name: str | None = attachment.host_interface(self.settings.interface_prefix)
        if found is not None:
            host_name = found.endpoint.spec.interface_name if serves(found, attachment) else None
        wiring.disconnect(netns_fd, attachment.interface, host_name, attachment.alias)

    # ── IPAM alone ──

    def assign(self, inv: Invocation) -> Mapping[str, Any]:
        """ADD of ``calico-ipam``: addresses for an interface that another plugin makes."""
        self._unlocked()
        attachment = self.attachment(inv)
        allocation, _ = self._source(inv, {}).assign(inv, attachment, self._wanted(inv, attachment))
        return result.assigned(allocation, inv.conf.version)

    def release(self, inv: Invocation) -> None:
        self._unlocked()
        self._source(inv, {}).release(inv, self.attachment(inv))

    def check_held(self, inv: Invocation) -> None:
        expected = result.addresses_of(inv.conf.previous or {})
        wrong = self._source(inv, {}).held(inv, self.attachment(inv), expected)
        if wrong:
            raise CniError(errors.DIFFERS, wrong[0], "; ".join(wrong[1:]))

    # ── CHECK ──

    def check(self, inv: Invocation, netns_fd: int) -> None:
        wiring.check_namespace(netns_fd, inv.netns)
        self._unlocked()
        attachment = self.attachment(inv)
        stored = self.endpoints.find(attachment)
        if stored is None or not serves(stored, attachment):
            raise CniError(errors.UNKNOWN_CONTAINER, f"container {inv.container} has no endpoint on {inv.conf.name}")
        held = _bare(stored.endpoint)
        expected = result.addresses_of(inv.conf.previous or {})
        wires = self._wiring(inv, attachment, held, _kept_mac(inv, stored, netns_fd), netns_fd)
        wrong = [f"prevResult has {a}, the endpoint has not" for a in expected if _same(a) not in map(_same, held)]
        if stored.endpoint.spec.interface_name != wires.host_name:
            wrong.append(f"the endpoint names {stored.endpoint.spec.interface_name}, not {wires.host_name}")
        wrong += wiring.differences(wires)
        wrong += self._source(inv, inv.conf.annotations).held(inv, attachment, held)
        if wrong:
            raise CniError(
                errors.DIFFERS, f"{attachment.endpoint_name} is not as ADD left it: {wrong[0]}", "; ".join(wrong[1:])
            )

    # ── GC and STATUS ──

    def collect(self, inv: Invocation, guard: Callable[[Attachment, Callable[[], None]], None]) -> None:
        """Remove this network's attachments that the runtime does not list. ``guard`` runs a step while no other verb
        works on the same endpoint. Every one is tried; what failed is told at the end."""
        self._unlocked()
        node, valid = inv.conf.node or self.services.node, inv.conf.valid_attachments or frozenset()
        failed: list[str] = []
        for stored in self.endpoints.of_node(node):
            attachment = endpoints.attachment_of(stored)
            if attachment is None or attachment.network != inv.conf.name:
                continue
            if (attachment.container, attachment.interface) in valid:
                continue
            _attempt(failed, attachment, guard, self._collector(inv, attachment))
        if inv.conf.ipam.type == "calico-ipam":
            self._collect_addresses(inv, node, valid, failed, guard)
        else:
            self._collect_elsewhere(inv, failed)
        if failed:
            raise CniError(errors.TRY_AGAIN, f"{len(failed)} attachment(s) could not be removed", "; ".join(failed[:5]))

    def _collector(self, inv: Invocation, attachment: Attachment) -> Callable[[], None]:
        environment = {
            **inv.environment,
            "CNI_CONTAINERID": attachment.container,
            "CNI_IFNAME": attachment.interface,
            "CNI_NETNS": "",
        }
        gone = attrs.evolve(
            inv, container=attachment.container, interface=attachment.interface, netns="", environment=environment
        )

        def step() -> None:
            self._detach(attachment, None)
            self._source(gone, {}).release(gone, attachment)

        return step

    def _collect_addresses(
        self,
        inv: Invocation,
        node: str,
        valid: frozenset[tuple[str, str]],
        failed: list[str],
        guard: Callable[[Attachment, Callable[[], None]], None],
    ) -> None:
        """Addresses of containers that never got an endpoint: an ADD was killed after it was given them."""
        store, ipam = self.services.datastore, self.services.ipam
        if store is None or ipam is None:
            return
        alive = {container for container, _ in valid}
        for record in store.list([HandleQuery()]).records:
            if not isinstance(record.key, HandleKey) or not record.key.handle.startswith(f"{inv.conf.name}."):
                continue
            container = record.key.handle[len(inv.conf.name) + 1 :]
            if container in alive or "." in container:  # with a dot it may be of a network whose name has one
                continue
            held = ipam.addresses_by_handle(record.key.handle)
            if not held or ipam.inspect(held[0].address).attributes.get("node") != node:
                continue
            attachment = Attachment(node=node, network=inv.conf.name, container=container, interface="eth0")
            _attempt(failed, attachment, guard, _releaser(ipam.release_by_handle, record.key.handle))

    def _collect_elsewhere(self, inv: Invocation, failed: list[str]) -> None:
        """An IPAM program that knows GC gets it as well, as the specification asks."""
        if self.delegates.speaks(inv.conf.ipam.type, inv.path, "1.1.0"):
            try:
                self.delegates.run(inv.conf.ipam.type, "GC", inv.environment, inv.path, inv.conf.raw)
            except CniError as exc:
                failed.append(str(exc))

    def status(self, inv: Invocation) -> None:
        """Can ADD be served? Raises CniError 50."""
        if not self.endpoints.ready():
            raise CniError(errors.NOT_AVAILABLE, "the datastore is locked (datastoreReady is false)")
        self._source(inv, {})
        if inv.conf.ipam.type == "calico-ipam":
            if not self.endpoints.has_pool():
                raise CniError(errors.NOT_AVAILABLE, "there is no IP pool that is not disabled", "create an IPPool")
        elif self.delegates.speaks(inv.conf.ipam.type, inv.path, "1.1.0"):
            self.delegates.run(inv.conf.ipam.type, "STATUS", inv.environment, inv.path, inv.conf.raw)


def _attempt(
    failed: list[str],
    attachment: Attachment,
    guard: Callable[[Attachment, Callable[[], None]], None],
    step: Callable[[], None],
) -> None:
    try:
        guard(attachment, step)
    except (CalicoError, CniError) as exc:
        failed.append(f"{attachment.container} {attachment.interface}: {exc}")


def _releaser(release: Callable[[str], object], handle: str) -> Callable[[], None]:
    def step() -> None:
        release(handle)

    return step


def _bare(endpoint: WorkloadEndpoint) -> tuple[str, ...]:
    return tuple(network.partition("/")[0] for network in endpoint.spec.ip_networks)


def _kept_mac(inv: Invocation, stored: Stored, netns_fd: int) -> str:
    """The MAC address that ADD gave; where the endpoint has no place for it, as in a Pod, what the interface has."""
    return stored.endpoint.spec.mac or wiring.mac_of(netns_fd, inv.interface)


def _same(address: str) -> object:
    try:
        return addresses("prevResult", (address,))[0]
    except CniError:
        return address


def _random_mac() -> str:
    first, *rest = os.urandom(6)
    return bytes([(first & 0xFE) | 0x02, *rest]).hex(":")  # unicast, locally administered
