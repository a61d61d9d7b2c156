"""Make this node known: an initialised datastore, and a Node resource with the addresses that others reach it by.

In:    the settings and the host's addresses.   Out: ClusterInformation, tiers, Node. Safe to repeat at every start.
Calico: ``node/pkg/lifecycle/startup``. Fields that the configuration does not speak of stay as they are. A Node that is
deleted while its agent runs, or made anew by its kubelet, gets its addresses again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec

from calico_kernel.agent import addresses
from calico_kernel.agent.upkeep import Upkeep
from calico_kernel.client import Client
from calico_kernel.client.setup import ensure_initialized
from calico_kernel.config import AgentSettings
from calico_kernel.errors import AlreadyExists, DatastoreUnavailable, NotFound
from calico_kernel.hookspecs import Datastore
from calico_kernel.model.endpoints import Node, NodeBGPSpec, NodeSpec
from calico_kernel.model.keys import ResourceKey
from calico_kernel.model.meta import ObjectMeta
from calico_kernel.model.nodestate import Delta

log = logging.getLogger(__name__)


def register(store: Datastore, node: str, settings: AgentSettings) -> None:
    """Raises ConfigError for a detection method that does not exist, and what the datastore raises: also
    DatastoreUnavailable while the Node is another system's object (Kubernetes') and that has not made it yet."""
    client = Client(store=store)
    ensure_initialized(client)
    found = addresses.read()
    try:
        stored: Node = client.get("Node", node)
    except NotFound:
        spec = with_addresses(NodeSpec(), settings, found)
        try:
            client.create(Node(metadata=ObjectMeta(name=node), spec=spec))
        except AlreadyExists:
            stored = client.get("Node", node)
        except NotFound as exc:
            raise DatastoreUnavailable(
                what=f"{store.derived_from(ResourceKey('Node', '', node)) or f'Node {node}'} does not exist yet",
                todo="start its kubelet, or give this agent the name that the kubelet registers (CALICO_NODE)",
            ) from exc
        else:
            log.info("registered this node: %s", _said(spec))
            return
    if with_addresses(stored.spec, settings, found) != stored.spec:
        changed = client.change(
            "Node",
            node,
            "",
            lambda node: msgspec.structs.replace(node, spec=with_addresses(node.spec, settings, found)),
        )
        log.info("this node's addresses changed: %s", _said(changed.spec))


class Registration(Upkeep):
    """After the first ``register``: again whenever this node's own addresses changed in the datastore, or went."""

    def __init__(self, node: str, store: Datastore, settings: AgentSettings) -> None:
        super().__init__("registration", node, store)
        self._settings = settings

    def concerns(self, delta: Delta) -> bool:
        changed = (*delta.hosts.upserts, *delta.hosts.removes, *delta.vteps.removes)
        return delta.full or self._node in changed

    def work(self) -> None:
        register(self._store, self._node, self._settings)


def with_addresses(spec: NodeSpec, settings: AgentSettings, found: Iterable[addresses.NodeInterface]) -> NodeSpec:
    """``spec`` with the addresses that the settings ask for. ``keep``: what is stored stays; where nothing is,
    the first address found is taken."""
    usable = list(found)
    bgp = spec.bgp or NodeBGPSpec()
    ipv4 = _chosen(settings.ipv4_address, 4, bgp.ipv4_address, usable)
    ipv6 = _chosen(settings.ipv6_address, 6, bgp.ipv6_address, usable)
    bgp = msgspec.structs.replace(bgp, ipv4_address=ipv4, ipv6_address=ipv6)
    return msgspec.structs.replace(spec, bgp=None if bgp == NodeBGPSpec() else bgp)


def _chosen(method: str, version: int, stored: str, found: Iterable[addresses.NodeInterface]) -> str:
    if method == "keep":
        return stored or addresses.choose("first-found", version, found)
    return addresses.choose(method, version, found)


def _said(spec: NodeSpec) -> str:
    bgp = spec.bgp or NodeBGPSpec()
    return ", ".join(filter(None, (bgp.ipv4_address, bgp.ipv6_address))) or "no address found"
