"""What a question about policy is answered from: the stored resources, or manifests alone.

In:    the composition and the kinds that have a say, or a file or directory.
Out:   resources; what counts as absent, and what has no say, is named on standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from calico_kernel.cli.output import visible
from calico_kernel.errors import CalicoError

if TYPE_CHECKING:
    from calico_kernel.compose import Composition

IRRELEVANT: dict[str, frozenset[str]] = {
    "": frozenset({"ConfigMap", "LimitRange", "PersistentVolume", "PersistentVolumeClaim", "ResourceQuota", "Secret"}),
    "networking.k8s.io": frozenset({"Ingress", "IngressClass"}),
    **dict.fromkeys(
        ("apps", "autoscaling", "batch", "policy", "rbac.authorization.k8s.io", "storage.k8s.io"), frozenset()
    ),
}
"""By API group, the kinds that have no say; none means all of the group. Any other unknown kind may be a mistake."""


def stored(composition: Composition, kinds: Iterable[str]) -> Iterator[Any]:
    """Every stored resource of these kinds. What does not decode is named; a policy among it still denies."""
    from calico_kernel.client.rules import after_read
    from calico_kernel.model.keys import ResourceKey, ResourceQuery
    from calico_kernel.model.records import Malformed

    store = composition.open_datastore()
    for record in store.list([ResourceQuery(kind) for kind in kinds]).records:
        value: Any = record.value
        if not isinstance(value, Malformed):
            yield after_read(value)
            continue
        assert isinstance(record.key, ResourceKey)
        from calico_kernel.client.common import name_of

        kept = "denies in the directions it governs" if value.instead is not None else "counts as absent"
        print(visible(f"{name_of(record.key)} is malformed and {kept}: {value.reason}"), file=sys.stderr)
        if value.instead is not None:
            yield value.instead


def offline(filename: str, *, recursive: bool) -> Iterator[Any]:
    """The resources of manifests, with the tiers that every cluster has. All that is wrong is told at once."""
    from calico_kernel.cli.common import Refused, placed
    from calico_kernel.cli.documents import metadata_name, resource_from
    from calico_kernel.cli.files import read
    from calico_kernel.client import rules
    from calico_kernel.client.setup import TIERS
    from calico_kernel.model.meta import ObjectMeta
    from calico_kernel.model.policy import Tier

    found: list[Any] = []
    wrong: list[str] = []
    for _, documents in read(filename, wrong, recursive=recursive):
        for document in documents:
            if irrelevant(document):
                subject = f"{document.get('kind')}({metadata_name(document)})"
                print(visible(f"{subject} is passed over: it has no say over packets"), file=sys.stderr)
                continue
            try:
                resource = rules.prepare(placed(resource_from(document).resource, ""))
                rules.validate(resource, (), [])
                found.append(resource)
            except CalicoError as exc:
                wrong.append(exc.what)
    if wrong:
        raise Refused("failed to execute command: " + "\n".join(wrong))
    present = {one.metadata.name for one in found if one.kind == "Tier"}
    yield from found
    yield from (Tier(metadata=ObjectMeta(name=name), spec=spec) for name, spec in TIERS.items() if name not in present)


def irrelevant(document: dict[str, Any]) -> bool:
    """A document of Kubernetes that stands beside policies in a directory of manifests and decides nothing."""
    group, _, version = str(document.get("apiVersion", "")).rpartition("/")
    kinds = IRRELEVANT.get(group)
    return kinds is not None and bool(version) and (not kinds or document.get("kind") in kinds)
