"""What a lab consists of: racks of nodes, hosts outside, pools, namespaces and workloads. Pure.

In:   a YAML document (``load``), two numbers (``generated``), or nothing (``demo``).
Out:  a ``Topology``, to calico_kernel.lab.network, .hosts and .workloads; it crosses process borders as JSON.

Addresses follow from positions. Rack R has 172.30.R.0/24 and fd00:172:30:R::/64, its router the first address and its
nodes .11 and up; hosts outside have 192.0.2.0/24 and 2001:db8:2::/64. Rack routers meet in one core router, which
knows the outside. The server of the datastore, where there is one, is a host outside: 192.0.2.250 and 2001:db8:2::fa.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Literal, get_args

import msgspec

from calico_kernel.errors import ConfigError

RACKS_MAX = 250
NODES_PER_RACK_MAX = 200
OUTSIDE_MAX = 200
CORE = "core"

Datastore = Literal["sqlite", "etcd", "kubernetes"]
DATASTORES: tuple[Datastore, ...] = get_args(Datastore)
_SERVER_INDEX = 250

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?")


class Workload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One pod. ``ports``: named ports as Kubernetes lists them ({name, protocol, containerPort})."""

    namespace: str
    name: str
    node: str
    labels: dict[str, str] = {}
    service_account: str = ""
    ports: tuple[dict[str, Any], ...] = ()

    @property
    def id(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def netns(self) -> str:
        return f"pod-{self.namespace}-{self.name}"


class Namespace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """``service_accounts``: name -> labels."""

    name: str
    labels: dict[str, str] = {}
    service_accounts: dict[str, dict[str, str]] = {}


class Host(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A node (with a rack) or a host outside (rack ""). Addresses are bare; prefixes are those of its segment."""

    name: str
    rack: str = ""
    ipv4: str
    ipv6: str

    @property
    def netns(self) -> str:
        return f"host-{self.name}"


class Segment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One subnet with its router: a rack, or the outside (router: the core)."""

    name: str
    number: int
    ipv4: str
    ipv6: str

    @property
    def router4(self) -> str:
        return str(IPv4Network(self.ipv4)[1])

    @property
    def router6(self) -> str:
        return str(IPv6Network(self.ipv6)[1])

    def host(self, index: int) -> tuple[str, str]:
        return str(IPv4Network(self.ipv4)[index]), str(IPv6Network(self.ipv6)[index])


class Pool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    name: str
    cidr: str
    vxlan_mode: str = "CrossSubnet"
    nat_outgoing: bool = True


class Topology(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The whole lab. ``mtu_bytes``: of the links between hosts. ``datastore``: the plugin that every node names."""

    racks: tuple[Segment, ...]
    nodes: tuple[Host, ...]
    outside_segment: Segment
    outside: tuple[Host, ...] = ()
    pools: tuple[Pool, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    workloads: tuple[Workload, ...] = ()
    mtu_bytes: int = 1500
    datastore: Datastore = "sqlite"

    @property
    def server(self) -> Host | None:
        """The host outside that the datastore's server has to itself; None for sqlite, a file that all nodes share."""
        if self.datastore == "sqlite":
            return None
        ipv4, ipv6 = self.outside_segment.host(_SERVER_INDEX)
        return Host(name=self.datastore, ipv4=ipv4, ipv6=ipv6)

    def node(self, name: str) -> Host:
        """Raises ConfigError when there is no such node."""
        for host in self.nodes:
            if host.name == name:
                return host
        known = ", ".join(host.name for host in self.nodes)
        raise ConfigError(what=f"the lab has no node {name}", todo=f"name one of: {known}")

    def workload(self, name: str) -> Workload | None:
        """By "namespace/name", or by a name that only one namespace has."""
        if "/" in name:
            return next((each for each in self.workloads if each.id == name), None)
        found = [each for each in self.workloads if each.name == name]
        return found[0] if len(found) == 1 else None

    def place_names(self) -> Iterator[str]:
        """Everything that ``calico lab exec`` accepts."""
        yield from (host.name for host in (*self.nodes, *self.outside))
        if self.server is not None:
            yield self.server.name
        yield from (router_name(rack) for rack in self.racks)
        yield CORE
        yield from (workload.id for workload in self.workloads)


def router_name(rack: Segment) -> str:
    return f"router-{rack.name}"


# ── documents ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class _WorkloadDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    node: str = ""
    labels: dict[str, str] = {}
    service_account: str = ""
    ports: tuple[dict[str, Any], ...] = ()


class _NamespaceDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    labels: dict[str, str] = {}
    service_accounts: dict[str, dict[str, str]] = {}
    workloads: dict[str, _WorkloadDocument] = {}


class _PoolDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    cidr: str
    vxlan_mode: str = "CrossSubnet"
    nat_outgoing: bool = True


def _default_pools() -> dict[str, _PoolDocument]:
    return {"pool4": _PoolDocument(cidr="10.65.0.0/16"), "pool6": _PoolDocument(cidr="fd00:10:65::/48")}


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """The file that ``calico lab up --topology`` takes."""

    racks: dict[str, tuple[str, ...]]
    outside: tuple[str, ...] = ("outside",)
    pools: dict[str, _PoolDocument] = msgspec.field(default_factory=_default_pools)
    namespaces: dict[str, _NamespaceDocument] = {}
    mtu_bytes: int = 1500
    datastore: Datastore = "sqlite"


def load(text: str, *, origin: str = "topology") -> Topology:
    """Read a YAML document. Raises ConfigError naming ``origin`` and the field."""
    import yaml

    try:
        document = msgspec.convert(yaml.safe_load(text), _Document)
    except (yaml.YAMLError, msgspec.ValidationError) as exc:
        raise ConfigError(what=f"{origin} is not a lab topology: {exc}", todo="correct it and run again") from exc
    return _build(document, origin)


def demo() -> Topology:
    """Three nodes in two racks, one host outside, three namespaces of three workloads, spread over the nodes."""
    return load(_DEMO, origin="built-in topology")


def generated(nodes: int, racks: int) -> Topology:
    """``nodes`` nodes dealt over ``racks`` racks, with the workloads of the demo dealt over the nodes."""
    if not 1 <= racks <= nodes:
        raise ConfigError(
            what=f"{nodes} nodes cannot fill {racks} racks", todo="give at least one rack and a node for each rack"
        )
    names = [f"node{number}" for number in range(1, nodes + 1)]
    per_rack = -(-nodes // racks)
    filled = {f"rack{number + 1}": tuple(names[number * per_rack : (number + 1) * per_rack]) for number in range(racks)}
    import yaml

    document = yaml.safe_load(_DEMO)
    document["racks"] = {rack: list(members) for rack, members in filled.items() if members}
    turn = 0
    for namespace in document["namespaces"].values():
        for workload in namespace["workloads"].values():
            workload["node"] = names[turn % nodes]
            turn += 1
    return _build(msgspec.convert(document, _Document), "generated topology")


def with_datastore(topology: Topology, datastore: Datastore) -> Topology:
    """The same lab on another datastore. Raises ConfigError when a host has the name that its server needs."""
    made = msgspec.structs.replace(topology, datastore=datastore)
    if made.server is not None and made.server.name in {host.name for host in (*made.nodes, *made.outside)}:
        raise ConfigError(
            what=f"a host is named {made.server.name}, and so is the datastore's server", todo="rename that host"
        )
    return made


def encode(topology: Topology) -> bytes:
    return msgspec.json.encode(topology)


def decode(data: bytes | Mapping[str, Any]) -> Topology:
    return msgspec.json.decode(data, type=Topology) if isinstance(data, bytes) else msgspec.convert(data, Topology)


def _build(document: _Document, origin: str) -> Topology:
    _check(document, origin)
    racks = tuple(
        Segment(name=name, number=number, ipv4=f"172.30.{number}.0/24", ipv6=f"fd00:172:30:{number}::/64")
        for number, name in enumerate(document.racks, 1)
    )
    nodes = []
    for rack in racks:
        for index, name in enumerate(document.racks[rack.name]):
            ipv4, ipv6 = rack.host(11 + index)
            nodes.append(Host(name=name, rack=rack.name, ipv4=ipv4, ipv6=ipv6))
    outside_segment = Segment(name="outside", number=0, ipv4="192.0.2.0/24", ipv6="2001:db8:2::/64")
    outside = []
    for index, name in enumerate(document.outside):
        ipv4, ipv6 = outside_segment.host(10 + index)
        outside.append(Host(name=name, ipv4=ipv4, ipv6=ipv6))
    workloads = [
        Workload(
            namespace=namespace,
            name=name,
            node=each.node or nodes[number % len(nodes)].name,
            labels=each.labels,
            service_account=each.service_account,
            ports=each.ports,
        )
        for namespace, group in document.namespaces.items()
        for number, (name, each) in enumerate(group.workloads.items())
    ]
    made = Topology(
        racks=racks,
        nodes=tuple(nodes),
        outside_segment=outside_segment,
        outside=tuple(outside),
        pools=tuple(
            Pool(name=name, cidr=each.cidr, vxlan_mode=each.vxlan_mode, nat_outgoing=each.nat_outgoing)
            for name, each in document.pools.items()
        ),
        namespaces=tuple(
            Namespace(name=name, labels=each.labels, service_accounts=each.service_accounts)
            for name, each in document.namespaces.items()
        ),
        workloads=tuple(workloads),
        mtu_bytes=document.mtu_bytes,
    )
    return with_datastore(made, document.datastore)


def _check(document: _Document, origin: str) -> None:
    def refuse(what: str) -> None:
        raise ConfigError(what=f"{origin}: {what}", todo="correct it and run again")

    nodes = [name for members in document.racks.values() for name in members]
    hosts = [*nodes, *document.outside, CORE, *(f"router-{rack}" for rack in document.racks)]
    if not nodes:
        refuse("racks: no node at all")
    if len(document.racks) > RACKS_MAX or any(len(each) > NODES_PER_RACK_MAX for each in document.racks.values()):
        refuse(f"racks: at most {RACKS_MAX} racks of {NODES_PER_RACK_MAX} nodes")
    if len(document.outside) > OUTSIDE_MAX:
        refuse(f"outside: at most {OUTSIDE_MAX} hosts")
    for name in (*document.racks, *hosts, *document.namespaces):
        if not _NAME.fullmatch(name):
            refuse(f"{name!r} is not a name (lower-case letters, digits and '-', at most 32)")
    if len(set(hosts)) != len(hosts):
        refuse("two hosts have the same name")
    if not 1280 <= document.mtu_bytes <= 9000:
        refuse(f"mtuBytes: {document.mtu_bytes} is not within 1280-9000")
    for name, pool in document.pools.items():
        try:
            ip_network(pool.cidr)
        except ValueError as exc:
            refuse(f"pools.{name}.cidr: {exc}")
    for namespace, group in document.namespaces.items():
        for name, workload in group.workloads.items():
            where = f"namespaces.{namespace}.workloads.{name}"
            if not _NAME.fullmatch(name):
                refuse(f"{where}: not a name (lower-case letters, digits and '-', at most 32)")
            if workload.node and workload.node not in nodes:
                refuse(f"{where}.node: no node {workload.node}; there are {', '.join(nodes)}")
            if workload.service_account and workload.service_account not in group.service_accounts:
                refuse(f"{where}.serviceAccount: {workload.service_account} is not among serviceAccounts")


# Every namespace has a workload on each of two nodes of one rack and one in the other rack, so that each recipe meets
# traffic within a node, within a rack, and between racks.
_DEMO = """
racks:
  rack1: [node1, node2]
  rack2: [node3]
outside: [outside]
namespaces:
  shop:
    labels: {team: sales, stage: production}
    serviceAccounts: {frontend: {role: public}, backend: {role: internal}}
    workloads:
      web: {node: node1, labels: {app: web, role: frontend}, serviceAccount: frontend, ports: &ports
        [{name: http, protocol: TCP, containerPort: 80}, {name: dns, protocol: UDP, containerPort: 53}]}
      api: {node: node2, labels: {app: api, role: backend}, serviceAccount: backend, ports: *ports}
      db: {node: node3, labels: {app: db, role: storage}, serviceAccount: backend, ports: *ports}
  office:
    labels: {team: operations, stage: production}
    serviceAccounts: {frontend: {role: public}, backend: {role: internal}}
    workloads:
      web: {node: node2, labels: {app: web, role: frontend}, serviceAccount: frontend, ports: *ports}
      mail: {node: node3, labels: {app: mail, role: backend}, serviceAccount: backend, ports: *ports}
      monitor: {node: node1, labels: {app: monitor, role: monitoring}, serviceAccount: backend, ports: *ports}
  dev:
    labels: {team: engineering, stage: testing}
    serviceAccounts: {frontend: {role: public}, backend: {role: internal}}
    workloads:
      web: {node: node3, labels: {app: web, role: frontend}, serviceAccount: frontend, ports: *ports}
      api: {node: node1, labels: {app: api, role: backend}, serviceAccount: backend, ports: *ports}
      tester: {node: node2, labels: {app: tester, role: monitoring}, serviceAccount: backend, ports: *ports}
"""
