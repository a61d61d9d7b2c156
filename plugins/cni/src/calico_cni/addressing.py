"""Where a workload's addresses come from: Calico's IPAM in process, or an IPAM program.

In:    an invocation, the attachment, its annotations and its namespace's labels.
Out:   an ``Allocation``; what is given back on DEL, on failure and by GC.
"""

from __future__ import annotations

import abc
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from calico_cni import errors
from calico_cni.delegate import Delegates
from calico_cni.errors import CniError
from calico_cni.naming import Attachment
from calico_cni.netconf import Address, Invocation, addresses, annotation_list
from calico_cni.result import Allocation, addresses_of, host_prefix, routes_of
from calico_kernel.errors import RevisionConflict
from calico_kernel.hookspecs import Ipam
from calico_kernel.model.ipam import AssignRequest, ReleaseRequest


@attrs.frozen(kw_only=True)
class Wanted:
    """What to ask for, after configuration, arguments and annotations (pod before namespace)."""

    families: tuple[int, ...]
    pools_ipv4: tuple[str, ...] = ()
    pools_ipv6: tuple[str, ...] = ()
    addresses: tuple[Address, ...] = ()
    namespace_labels: Mapping[str, str] = attrs.field(factory=dict)


def wanted(
    inv: Invocation,
    annotations: Mapping[str, str],
    namespace_annotations: Mapping[str, str],
    namespace_labels: Mapping[str, str],
) -> Wanted:
    """Raises CniError for annotations that make no sense, or that the IPAM type cannot serve."""
    conf = inv.conf
    both = {**namespace_annotations, **annotations}
    exact = annotation_list(annotations, "ipAddrs")
    if exact is not None and conf.ipam.type != "calico-ipam":
        raise CniError(errors.INVALID_CONFIG, f"annotation ipAddrs needs calico-ipam, not {conf.ipam.type}")
    names = annotation_list(both, "ipFamilies")
    families = conf.ipam.families
    if names is not None:
        if not names or not set(names) <= {"IPv4", "IPv6"}:
            raise CniError(
                errors.INVALID_CONFIG, f"annotation ipFamilies: {list(names)} is not a list of IPv4 and IPv6"
            )
        families = tuple(version for version in (4, 6) if f"IPv{version}" in names)
    chosen = addresses("annotation ipAddrs", exact) if exact is not None else conf.addresses
    if not families and not chosen:
        raise CniError(
            errors.INVALID_CONFIG, "ipam: neither assign_ipv4 nor assign_ipv6, so there is no address to give"
        )
    pools4, pools6 = annotation_list(both, "ipv4pools"), annotation_list(both, "ipv6pools")
    return Wanted(
        families=families,
        pools_ipv4=conf.ipam.pools_ipv4 if pools4 is None else pools4,
        pools_ipv6=conf.ipam.pools_ipv6 if pools6 is None else pools6,
        addresses=chosen,
        namespace_labels=namespace_labels,
    )


class AddressSource(abc.ABC):
    """One IPAM type. Raises CniError or CalicoError."""

    @abc.abstractmethod
    def assign(self, inv: Invocation, attachment: Attachment, want: Wanted) -> tuple[Allocation, Callable[[], None]]:
        """Addresses, and what undoes exactly what was done for them."""

    def take_over(self, handle: str, chosen: Sequence[Address]) -> None:
        """Free what was asked for by address and is still held by the pod's former container, whose DEL may come
        later."""
        return

    @abc.abstractmethod
    def release(self, inv: Invocation, attachment: Attachment) -> None:
        """All that the attachment holds; nothing held is fine."""

    @abc.abstractmethod
    def held(self, inv: Invocation, attachment: Attachment, expected: Sequence[str]) -> Sequence[str]:
        """What is wrong with the addresses that the attachment should hold, in words; changes nothing."""


@attrs.frozen
class CalicoIpam(AddressSource):
    """The node's IPAM plugin, in process."""

    ipam: Ipam

    def assign(self, inv: Invocation, attachment: Attachment, want: Wanted) -> tuple[Allocation, Callable[[], None]]:
        held = tuple(found.address for found in self.ipam.addresses_by_handle(attachment.handle))
        if held:
            if _satisfies(held, want):  # an ADD that was cut short; its addresses serve
                return _allocation(held), _nothing
            self.ipam.release_by_handle(attachment.handle)
        attributes = {"node": attachment.node, "timestamp": time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC", time.gmtime())}
        if attachment.pod:
            attributes |= {"pod": attachment.pod, "namespace": attachment.namespace}
        given = self.ipam.assign(
            AssignRequest(
                handle=attachment.handle,
                node=attachment.node,
                num_ipv4=int(4 in want.families and not want.addresses),
                num_ipv6=int(6 in want.families and not want.addresses),
                pools_ipv4=want.pools_ipv4,
                pools_ipv6=want.pools_ipv6,
                addresses=want.addresses,
                namespace=attachment.namespace,
                namespace_labels=want.namespace_labels,
                attributes=attributes,
            )
        )

        def undo() -> None:
            self.ipam.release_by_handle(attachment.handle)

        return _allocation(tuple(found.address for found in given.addresses)), undo

    def take_over(self, handle: str, chosen: Sequence[Address]) -> None:
        held = [found for found in self.ipam.addresses_by_handle(handle) if found.address in chosen]
        with contextlib.suppress(RevisionConflict):  # released and given to somebody else meanwhile
            self.ipam.release(
                [
                    ReleaseRequest(address=found.address, handle=handle, sequence_number=found.sequence_number)
                    for found in held
                ]
            )

    def release(self, inv: Invocation, attachment: Attachment) -> None:
        self.ipam.release_by_handle(attachment.handle)
        self.ipam.release_by_handle(attachment.legacy_handle)

    def held(self, inv: Invocation, attachment: Attachment, expected: Sequence[str]) -> Sequence[str]:
        mine = {str(found.address) for found in self.ipam.addresses_by_handle(attachment.handle)}
        return [f"IPAM does not hold {address} for this container" for address in expected if address not in mine]


def _nothing() -> None:
    return None


def _satisfies(held: Sequence[Address], want: Wanted) -> bool:
    if want.addresses:
        return set(held) == set(want.addresses)
    return sorted(address.version for address in held) == sorted(want.families)


def _allocation(found: Sequence[Address]) -> Allocation:
    texts = tuple(str(address) for address in sorted(found, key=lambda address: address.version))
    return Allocation(addresses=texts, routes=tuple({"dst": host_prefix(text)} for text in texts))


@attrs.frozen
class NoIpam(AddressSource):
    """Addresses of the annotation ipAddrsNoIpam: nobody keeps account of them."""

    chosen: tuple[Address, ...]

    def assign(self, inv: Invocation, attachment: Attachment, want: Wanted) -> tuple[Allocation, Callable[[], None]]:
        return _allocation(self.chosen), _nothing

    def release(self, inv: Invocation, attachment: Attachment) -> None:
        return None

    def held(self, inv: Invocation, attachment: Attachment, expected: Sequence[str]) -> Sequence[str]:
        return ()


@attrs.frozen
class Program(AddressSource):
    """Any other IPAM type. ``pod_cidrs``: of this node, for Calico's "usePodCidr" in a host-local configuration."""

    delegates: Delegates
    pod_cidrs: Callable[[], Sequence[str]]

    def assign(self, inv: Invocation, attachment: Attachment, want: Wanted) -> tuple[Allocation, Callable[[], None]]:
        result = self._run(inv, "ADD", self.pod_cidrs)
        found = addresses_of(result)

        def undo() -> None:
            self._run(inv, "DEL", _any_cidr)

        if not found:
            undo()
            raise CniError(errors.DELEGATE, f"IPAM program {inv.conf.ipam.type!r} gave no address")
        dns = result.get("dns")
        return Allocation(
            addresses=found, routes=tuple(routes_of(result)), dns=dns if isinstance(dns, dict) else {}
        ), undo

    def release(self, inv: Invocation, attachment: Attachment) -> None:
        self._run(inv, "DEL", _any_cidr)

    def held(self, inv: Invocation, attachment: Attachment, expected: Sequence[str]) -> Sequence[str]:
        try:
            self._run(inv, "CHECK", self.pod_cidrs)
        except CniError as exc:
            return [str(exc)]
        return ()

    def _run(self, inv: Invocation, command: str, cidrs: Callable[[], Sequence[str]]) -> Mapping[str, Any]:
        conf = dict(inv.conf.raw)
        conf["ipam"] = with_pod_cidrs(conf.get("ipam", {}), cidrs)
        return self.delegates.run(inv.conf.ipam.type, command, inv.environment, inv.path, conf)


def _any_cidr() -> Sequence[str]:
    return ("0.0.0.0/0", "::/0")


def with_pod_cidrs(value: Any, cidrs: Callable[[], Sequence[str]]) -> Any:
    """The IPAM part of a configuration with Calico's "usePodCidr" and "usePodCidrIPv6" replaced by the node's."""
    if isinstance(value, list):
        return [with_pod_cidrs(one, cidrs) for one in value]
    if not isinstance(value, dict):
        return value
    made = {key: with_pod_cidrs(one, cidrs) for key, one in value.items()}
    word = made.get("subnet")
    if isinstance(word, str) and word.lower() in ("usepodcidr", "usepodcidripv6"):
        six = word.lower().endswith("ipv6")
        mine = [cidr for cidr in cidrs() if (":" in cidr) == six]
        if not mine:
            raise CniError(errors.DELEGATE, f"ipam.subnet is {word}, but the node has no such pod CIDR")
        made["subnet"] = mine[0]
    return made
