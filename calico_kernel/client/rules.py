"""What Calico's client does for single kinds beyond storing them.

In:    a resource about to be written, or the key of one about to be deleted.
Out:   the resource with defaults and labels filled in, or an error that names the field or the guard.

    create: before_create -> prepare -> validate -> check_new -> store
    update: before_update -> prepare -> validate -> check_changed -> store
    delete: before_delete -> store
    read:   store -> after_read, and the built-in resources beside what is stored
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from calico_kernel.client.common import key_of, name_of, refusal
from calico_kernel.errors import AlreadyExists, ValidationError
from calico_kernel.model import wellknown
from calico_kernel.model.keys import BlockQuery, ResourceKey
from calico_kernel.model.meta import ObjectMeta, Resource

if TYPE_CHECKING:
    from calico_kernel.client.client import Client
    from calico_kernel.hookspecs import Validator

R = TypeVar("R", bound=Resource)

TIERED = ("NetworkPolicy", "GlobalNetworkPolicy", "StagedNetworkPolicy", "StagedGlobalNetworkPolicy")
ONLY_DEFAULT = frozenset({"KubeControllersConfiguration", "ClusterInformation", "IPAMConfiguration"})
READ_ONLY = frozenset({"ClusterInformation", "BlockAffinity", "LiveMigration"})
"""Kinds that documents may not write; the client's own code does."""


def refuse_read_only(resource: Resource, operation: str) -> None:
    if resource.kind in READ_ONLY:
        raise refusal(operation, resource.kind, "resource is readonly")


# ── create and update ─────────────────────────────────────────────────────────────────────────────────────────────────


def before_create(client: Client, resource: Resource) -> None:
    """Guards that come before any look at the fields."""
    spec: Any = getattr(resource, "spec", None)
    if resource.kind in TIERED:
        client.get("Tier", spec.tier or "default")
    elif resource.kind == "Profile" and resource.metadata.name == wellknown.DEFAULT_ALLOW_PROFILE:
        raise AlreadyExists(
            what=f"resource already exists: Profile({wellknown.DEFAULT_ALLOW_PROFILE})",
            kept="the built-in profile",
            todo="give yours another name",
        )
    elif resource.kind == "Node":
        from calico_kernel.client.setup import ensure_initialized

        ensure_initialized(client)


def before_update(_client: Client, resource: Resource) -> None:
    if resource.kind == "Profile" and resource.metadata.name == wellknown.DEFAULT_ALLOW_PROFILE:
        raise refusal("update", f"Profile({wellknown.DEFAULT_ALLOW_PROFILE})", "it is built in and cannot be changed")


def prepare(resource: R) -> R:
    """Defaults, and the labels that Calico's client keeps itself."""
    from calico_kernel.model.defaults import with_defaults

    return with_defaults(resource)


def validate(resource: Resource, validators: Sequence[Validator], problems: list[tuple[str, str]]) -> None:
    """``problems`` are those found already; the plugins' checks come after the kernel's."""
    from calico_kernel.model.validate import problems as found
    from calico_kernel.selector import parse

    problems = [*problems, *found(resource, selector_check=parse)]
    if resource.kind in ONLY_DEFAULT and resource.metadata.name != "default":
        problems.append(("metadata.name", f"a {resource.kind} can only be called 'default'"))
    if not problems:
        for validator in validators:
            problems += validator.check(resource)
    if problems:
        meta = resource.metadata
        place = f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name
        raise ValidationError(f"{resource.kind}({place})", problems)


def check_new(client: Client, resource: Resource, *, overlap_allowed: bool) -> None:
    """What only a look at the other resources can tell."""
    if resource.kind != "IPPool" or overlap_allowed:
        return
    import ipaddress

    spec: Any = getattr(resource, "spec", None)
    network = ipaddress.ip_network(spec.cidr)
    problems = []
    for other in client.list("IPPool").items:
        if other.metadata.name != resource.metadata.name and _overlap(network, other.spec.cidr):
            problems.append(("spec.cidr", f"{spec.cidr} overlaps with IPPool({other.metadata.name}) {other.spec.cidr}"))
    for record in client.store.list([BlockQuery(network.version)]).records:
        cidr = getattr(record.key, "cidr", "")
        if _overlap(network, cidr) and ipaddress.ip_network(cidr).prefixlen != spec.block_size:
            problems.append(
                ("spec.blockSize", f"{spec.block_size} conflicts with the allocated block {cidr} of another size")
            )
            break
    if problems:
        raise ValidationError(f"IPPool({resource.metadata.name})", problems)


def check_changed(client: Client, resource: Resource) -> None:
    """A pool's prefix and block size are for life; a load balancer pool stays one."""
    if resource.kind != "IPPool":
        return
    import ipaddress

    old: Any = client.get("IPPool", resource.metadata.name).spec
    new: Any = getattr(resource, "spec", None)
    problems = []
    if ipaddress.ip_network(old.cidr, strict=False) != ipaddress.ip_network(new.cidr, strict=False):
        problems.append(("spec.cidr", f"cannot be changed: {old.cidr} to {new.cidr}"))
    if old.block_size != new.block_size:
        problems.append(("spec.blockSize", f"cannot be changed: {old.block_size} to {new.block_size}"))
    if "LoadBalancer" in old.allowed_uses and set(new.allowed_uses) != {"LoadBalancer"}:
        problems.append(("spec.allowedUses", "cannot be changed from LoadBalancer to Workload or Tunnel"))
    if problems:
        raise ValidationError(f"IPPool({resource.metadata.name})", problems)


def _overlap(network: Any, other: str) -> bool:
    import ipaddress

    try:
        found = ipaddress.ip_network(other, strict=False)
    except ValueError:
        return False
    return found.version == network.version and bool(network.overlaps(found))


# ── delete ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def before_delete(client: Client, key: ResourceKey, revision: str | None) -> str | None:
    """Guards and cascades. Returns the revision to delete at."""
    if key.kind in READ_ONLY:
        raise refusal("delete", key.kind, "resource is readonly")
    if key.kind == "Profile" and key.name == wellknown.DEFAULT_ALLOW_PROFILE:
        raise refusal("delete", f"Profile({key.name})", "it is built in and cannot be deleted")
    if key.kind == "Tier":
        _guard_tier(client, key.name)
    if key.kind == "IPPool":
        from calico_kernel.client.pools import retire

        return retire(client, key.name, revision)
    if key.kind == "Node":
        from calico_kernel.client.nodes import clear

        clear(client, key.name)
    return revision


def _guard_tier(client: Client, name: str) -> None:
    if name in wellknown.TIERS:
        raise refusal("delete", f"Tier({name})", f"cannot delete the {name} tier")
    for kind in TIERED:
        for policy in client.list(kind).items:
            if policy.spec.tier == name:
                raise refusal(
                    "delete", f"Tier({name})", f"cannot delete a non-empty tier: it holds {name_of(key_of(policy))}"
                )


# ── read ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def after_read(resource: Any) -> Any:
    """Defaults of what older writers left out: pools, tiers, and the tier label of policies."""
    if resource.kind in {"IPPool", "Tier"}:
        return prepare(resource)
    if resource.kind in TIERED and wellknown.TIER_LABEL not in resource.metadata.labels:
        labels = {**resource.metadata.labels, wellknown.TIER_LABEL: resource.spec.tier or "default"}
        return msgspec.structs.replace(resource, metadata=msgspec.structs.replace(resource.metadata, labels=labels))
    return resource


def built_ins(kind: str) -> list[Any]:
    """Resources that exist without being stored."""
    if kind != "Profile":
        return []
    from calico_kernel.model.policy import Profile, ProfileSpec, Rule

    allow = (Rule(action="Allow"),)
    return [
        Profile(
            metadata=ObjectMeta(name=wellknown.DEFAULT_ALLOW_PROFILE, resource_version="1"),
            spec=ProfileSpec(ingress=allow, egress=allow),
        )
    ]


def built_in(key: ResourceKey) -> Any:
    return next((one for one in built_ins(key.kind) if one.metadata.name == key.name), None)
