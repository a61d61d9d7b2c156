"""The workload endpoint, and the profiles it names: what is written to the datastore, and taken back.

In:    an attachment, its configuration, its addresses.
Out:   records under the keys and names that Calico uses.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Mapping, Sequence

import attrs
from msgspec.structs import replace

from calico_cni import errors
from calico_cni.errors import CniError
from calico_cni.naming import Attachment
from calico_cni.netconf import NetConf, WorkloadPort, addresses, annotation_list, prefix
from calico_cni.result import host_prefix
from calico_kernel.errors import AlreadyExists, NotFound, RevisionConflict
from calico_kernel.hookspecs import Datastore
from calico_kernel.model import kubernetes, names, pods
from calico_kernel.model.cluster import ClusterInformation
from calico_kernel.model.defaults import with_defaults
from calico_kernel.model.endpoints import (
    IPNAT,
    Node,
    WorkloadEndpoint,
    WorkloadEndpointPort,
    WorkloadEndpointSpec,
)
from calico_kernel.model.keys import ResourceKey, ResourceQuery
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.policy import EntityRule, Profile, ProfileSpec, Rule
from calico_kernel.model.records import Record

ATTEMPTS = 6
NETWORK_ANNOTATION = "cni.projectcalico.org/network"
"""On the workload endpoint: the network it was attached to, so that GC of one network leaves the others alone."""


@attrs.frozen
class Stored:
    """A workload endpoint as it is in the datastore."""

    endpoint: WorkloadEndpoint
    revision: str


@attrs.frozen
class EndpointStore:
    """Reads and writes of this plugin. Raises what the datastore raises."""

    store: Datastore

    # ── state of the cluster ──

    def ready(self) -> bool:
        """False while the datastore is locked for migration (``datastoreReady: false``)."""
        found = self._value(ResourceKey("ClusterInformation", "", "default"))
        return not (isinstance(found, ClusterInformation) and found.spec.datastore_ready is False)

    def profile(self, name: str) -> Profile | None:
        found = self._value(ResourceKey("Profile", "", name))
        return found if isinstance(found, Profile) else None

    def pod_cidrs(self, node: str) -> Sequence[str]:
        found = self._value(ResourceKey("Node", "", node))
        return found.status.pod_cidrs if isinstance(found, Node) and found.status is not None else ()

    def has_pool(self) -> bool:
        records = self.store.list([ResourceQuery("IPPool")]).records
        return any(not getattr(getattr(record.value, "spec", None), "disabled", True) for record in records)

    def _value(self, key: ResourceKey) -> object:
        try:
            return self.store.get(key).value
        except NotFound:
            return None

    # ── endpoints ──

    def origin(self, attachment: Attachment) -> str:
        """The object of another system that the endpoint is part of ("Pod shop/web-1"), or ""."""
        return self.store.derived_from(attachment.key)

    def find(self, attachment: Attachment) -> Stored | None:
        try:
            record = self.store.get(attachment.key)
        except NotFound:
            return None
        return _stored(record)

    def of_node(self, node: str) -> list[Stored]:
        records = self.store.list([ResourceQuery("WorkloadEndpoint", name_prefix=_of_node(node))]).records
        found = [stored for stored in map(_stored, records) if stored is not None]
        return [stored for stored in found if stored.endpoint.spec.node == node]

    def write(self, attachment: Attachment, endpoint: WorkloadEndpoint, before: Stored | None) -> Stored:
        """Create, or replace ``before``. Raises RevisionConflict when another wrote in between."""
        if before is None:
            try:
                record = self.store.create(attachment.key, endpoint)
            except AlreadyExists as exc:
                raise RevisionConflict(what=exc.what, todo="read it again, then decide anew") from exc
        else:
            record = self.store.update(attachment.key, endpoint, revision=before.revision)
        return Stored(endpoint, record.revision)

    def put_back(self, attachment: Attachment, written: Stored, before: Stored | None) -> None:
        """Undo ``write``, unless another container's ADD has changed the endpoint since. Where somebody else's object
        carries it, changes of theirs are no reason to leave ours in."""
        with contextlib.suppress(NotFound, RevisionConflict):
            if self.origin(attachment):
                self.remove(attachment)
            elif before is None:
                self.store.delete(attachment.key, revision=written.revision)
            else:
                self.store.update(attachment.key, before.endpoint, revision=written.revision)

    def remove(self, attachment: Attachment) -> Stored | None:
        """Delete the endpoint if it is this container's. Returns what is stored under its name: this container's,
        now deleted; another's, left alone; or None."""
        for attempt in range(ATTEMPTS):
            found = self.find(attachment)
            if found is None or not serves(found, attachment):
                return found
            if not found.endpoint.spec.container_id and self.origin(attachment):
                return found  # nothing was added to it, or a younger pod has its name
            try:
                self.store.delete(attachment.key, revision=found.revision)
            except NotFound:
                return found
            except RevisionConflict:
                if attempt == ATTEMPTS - 1:
                    raise
                continue
            return found
        return None

    # ── profiles ──

    def ensure_profile(self, profile: Profile) -> None:
        """Create it unless there is one of that name, or another system keeps it; an existing one is never touched."""
        key = ResourceKey("Profile", "", profile.metadata.name)
        if not self.store.derived_from(key) and self._value(key) is None:
            with contextlib.suppress(AlreadyExists):
                self.store.create(key, replace(profile, metadata=_born(profile.metadata)))


def _of_node(node: str) -> str:
    return names.workload_endpoint_prefix(names.EndpointIds(node=node, orchestrator=""))


def serves(stored: Stored, attachment: Attachment) -> bool:
    """Is it this container's? One without container ID counts as anybody's, as in Calico."""
    return stored.endpoint.spec.container_id in ("", attachment.container)


def attachment_of(stored: Stored) -> Attachment | None:
    """Which attachment an endpoint was written for; None when this plugin did not write it."""
    meta, spec = stored.endpoint.metadata, stored.endpoint.spec
    network = meta.annotations.get(NETWORK_ANNOTATION, "")
    if not network or not spec.container_id:
        return None
    return Attachment(
        node=spec.node,
        network=network,
        container=spec.container_id,
        interface=spec.endpoint,
        namespace=meta.namespace,
        pod=spec.pod,
    )


def _stored(record: Record) -> Stored | None:
    return Stored(record.value, record.revision) if isinstance(record.value, WorkloadEndpoint) else None


def _born(meta: ObjectMeta) -> ObjectMeta:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return replace(meta, uid=str(uuid.uuid4()), creation_timestamp=now)


def completed(conf: NetConf, found: WorkloadEndpoint) -> NetConf:
    """The configuration with what the workload's own object says of it, which wins: labels, annotations, ports."""
    spec = found.spec
    ports = (
        WorkloadPort(name=p.name, protocol=str(p.protocol), port=p.port, host_port=p.host_port, host_ip=p.host_ip)
        for p in spec.ports
    )
    return attrs.evolve(
        conf,
        labels=found.metadata.labels,
        annotations={**conf.annotations, **found.metadata.annotations},
        service_account=spec.service_account_name,
        ports=tuple(ports),
    )


def build(
    attachment: Attachment,
    conf: NetConf,
    annotations: Mapping[str, str],
    given: Sequence[str],
    *,
    host_interface: str,
    mac: str,
    profiles: Sequence[str],
    before: Stored | None,
) -> WorkloadEndpoint:
    """The endpoint to store. Raises CniError for annotations that cannot be honoured."""
    labels = pods.endpoint_labels(attachment.namespace, conf.labels, conf.service_account)
    labels["projectcalico.org/orchestrator"] = attachment.orchestrator
    ignored: list[tuple[str, str]] = []  # what Calico clamps or leaves out, it leaves out silently
    meta = ObjectMeta(
        name=attachment.endpoint_name,
        namespace=attachment.namespace,
        labels=labels,
        annotations={NETWORK_ANNOTATION: attachment.network},
    )
    if before is None:
        meta = _born(meta)
    else:
        old = before.endpoint.metadata
        meta = replace(meta, uid=old.uid, creation_timestamp=old.creation_timestamp)
    made = WorkloadEndpoint(
        metadata=meta,
        spec=WorkloadEndpointSpec(
            orchestrator=attachment.orchestrator,
            node=attachment.node,
            container_id=attachment.container,
            pod=attachment.pod,
            endpoint=attachment.interface,
            service_account_name=conf.service_account,
            ip_networks=tuple(host_prefix(address) for address in given),
            ip_nats=_floating(conf, annotations, given),
            profiles=tuple(profiles),
            interface_name=host_interface,
            mac=mac,
            ports=tuple(
                WorkloadEndpointPort(
                    name=port.name,
                    protocol=port.protocol,
                    port=port.port,
                    host_port=port.host_port,
                    host_ip=port.host_ip,
                )
                for port in conf.ports
                if port.name or port.host_port
            ),
            allow_spoofed_source_prefixes=tuple(
                prefix("annotation allowedSourcePrefixes", text)
                for text in annotation_list(annotations, "allowedSourcePrefixes") or ()
            ),
            qos_controls=pods.qos_controls(annotations, ignored),
        ),
    )
    return with_defaults(made)


def _floating(conf: NetConf, annotations: Mapping[str, str], given: Sequence[str]) -> tuple[IPNAT, ...]:
    texts = annotation_list(annotations, "floatingIPs")
    if texts is None:
        return ()
    if not conf.floating_addresses:
        raise CniError(errors.INVALID_CONFIG, "annotation floatingIPs needs feature_control.floating_ips")
    pairs = []
    for text in texts:
        external = str(addresses("annotation floatingIPs", (text,))[0])
        inside = [address for address in given if (":" in address) == (":" in external)]
        if not inside:
            raise CniError(errors.INVALID_CONFIG, f"annotation floatingIPs: {external} has no address of its family")
        pairs.append(IPNAT(internal_ip=inside[0], external_ip=external))
    return tuple(pairs)


# ── profiles ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def profiles_of(attachment: Attachment, conf: NetConf) -> tuple[str, ...]:
    if not attachment.pod:
        return (attachment.network,)
    return pods.endpoint_profiles(attachment.namespace, conf.service_account)


def missing_profiles(attachment: Attachment, conf: NetConf) -> tuple[Profile, ...]:
    """What stands in where no Kubernetes is mirrored: the profiles that an endpoint names, as Calico makes them. With
    ``policy.type: k8s`` they are mirrored by others, and until they are, the workload is denied."""
    if conf.policy_type == "k8s":
        return ()
    if attachment.pod:
        made = [kubernetes.namespace_profile(attachment.namespace, {})]
        if conf.service_account:
            made.append(kubernetes.service_account_profile(attachment.namespace, conf.service_account, {}))
        return tuple(made)
    name = attachment.network
    ingress = Rule(action="Allow", source=EntityRule(selector=f"has({name})"))
    spec = ProfileSpec(ingress=(ingress,), egress=(Rule(action="Allow"),), labels_to_apply={name: ""})
    return (Profile(metadata=ObjectMeta(name=name), spec=spec),)


def namespace_facts(profile: Profile | None) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """(labels, annotations) of a namespace, from its profile: labels lose the ``pcns.`` that a mirror puts before."""
    if profile is None:
        return {}, {}
    labels = {
        k.removeprefix("pcns."): text for k, text in profile.spec.labels_to_apply.items() if k.startswith("pcns.")
    }
    return labels, profile.metadata.annotations
