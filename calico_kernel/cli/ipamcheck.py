"""``calicoctl ipam check`` and ``release --from-report``: addresses that nobody has, and giving them back.

In:    every block, handle, pool, node and endpoint, as of about one moment; reports of earlier checks.
Out:   what does not agree, in words, and as a report whose fields are those of Calico's (ours and its own are read).

An address is in use when a workload endpoint, a node's tunnel or a Service has it. Whether a Service has one is known
only where the datastore is Kubernetes; elsewhere what is assigned to Services counts as in use.
"""

from __future__ import annotations

import argparse
import ipaddress
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from calico_kernel.cli.output import json_text
from calico_kernel.errors import NotFound, RevisionConflict
from calico_kernel.model.meta import always

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session

WINDOWS_HANDLE = "windows-reserved-ipam-handle"
MOST_NODES = 20
KNOWN_OTHERWISE = frozenset({"address-without-endpoint", "handle-counts-too-much", "block-broken"})
"""Problems of the IPAM plugin that may be one of ours under another name; of those, ours is counted."""


class Allocation(msgspec.Struct, kw_only=True, rename="camel", omit_defaults=True):
    """One address that is assigned. ``in_use``, ``owners``: by what else is stored. ``detail``: of its holder."""

    ip: str
    handle: str = ""
    sequence_number: int | None = None
    pod: str = ""
    namespace: str = ""
    node: str = ""
    type: str = ""
    creation_timestamp: str = ""
    in_use: bool = always(False)
    borrowed: bool = False
    cooling_down: bool = False
    owners: list[str] | None = None


class HandleInfo(msgspec.Struct, frozen=True, kw_only=True):
    ID: str
    UID: str | None = None
    Revision: str = ""


class Report(msgspec.Struct, kw_only=True, rename="camel"):
    """What ``ipam check -o FILE`` writes; ``problems`` (the IPAM plugin's own) are ours alone."""

    version: str = ""
    cluster_guid: str = msgspec.field(name="clusterGUID")
    datastore_locked: bool = False
    cluster_information_revision: str = ""
    cluster_type: str = ""
    allocations: dict[str, list[Allocation]]
    leaked_handles: list[HandleInfo] = msgspec.field(default_factory=list)
    problems: list[dict[str, Any]] = msgspec.field(default_factory=list)


class Picture(msgspec.Struct, kw_only=True):
    """``in_use``: who has an address, by its text. ``detail``: attributes of each allocation, for people."""

    allocations: dict[str, Allocation]
    detail: dict[str, str]
    in_use: dict[str, list[str]]
    handles: dict[str, HandleInfo]
    used_handles: set[str]
    pools: list[Any]
    blocks: list[str]
    broken: list[tuple[str, str]]
    services_known: bool


# ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def look(session: Session) -> Picture:
    from calico_kernel.model.keys import BlockQuery, HandleQuery, Query, ResourceKey, ResourceQuery
    from calico_kernel.model.records import Malformed

    store = session.composition.open_datastore()
    picture = Picture(
        allocations={}, detail={}, in_use={}, handles={}, used_handles=set(), pools=[], blocks=[], broken=[],
        services_known=bool(store.derived_from(ResourceKey("KubernetesService", "default", "kubernetes"))),
    )  # fmt: skip
    found: dict[str, list[Any]] = defaultdict(list)
    queries: list[Query] = [BlockQuery(), HandleQuery(), *(ResourceQuery(kind) for kind in _KINDS)]
    for record in store.list(queries).records:
        found[type(record.key).__name__ if not hasattr(record.key, "kind") else record.key.kind].append(record)
    for record in found["BlockKey"]:
        if isinstance(record.value, Malformed):
            picture.broken.append((record.key.cidr, record.value.reason))
        else:
            _take_block(picture, record.value)
    for record in found["HandleKey"]:
        picture.handles[record.key.handle] = HandleInfo(ID=record.key.handle, Revision=record.revision)
    for kind in _KINDS:
        for record in found[kind]:
            if not isinstance(record.value, Malformed):
                _take_resource(picture, record.value)
    for address, owners in picture.in_use.items():
        if (allocation := picture.allocations.get(address)) is not None:
            allocation.in_use, allocation.owners = True, owners
    return picture


_KINDS = ("IPPool", "Node", "WorkloadEndpoint", "KubernetesService")


def _take_block(picture: Picture, block: Any) -> None:
    picture.blocks.append(f"{block.cidr} affinity={block.affinity or '<none>'}")
    first = ipaddress.ip_network(block.cidr).network_address
    owner = (block.affinity or "").removeprefix("host:") if (block.affinity or "").startswith("host:") else ""
    for ordinal, index in enumerate(block.allocations):
        if index is None:
            continue
        address = str(first + ordinal)
        if not 0 <= index < len(block.attributes):
            picture.broken.append((block.cidr, f"{address} points to attributes that are not there"))
            continue
        holder = block.attributes[index]
        said = holder.secondary or {}
        node = said.get("node") or owner
        handle = holder.handle_id or ""
        picture.allocations[address] = Allocation(
            ip=address,
            handle="" if handle == WINDOWS_HANDLE else handle,
            sequence_number=block.sequence_number_for_allocation.get(str(ordinal), 0),
            pod=said.get("pod", ""),
            namespace=said.get("namespace", ""),
            node=node,
            type=said.get("type", ""),
            creation_timestamp=said.get("timestamp", ""),
            borrowed=node != owner,
            cooling_down=holder.released_at is not None,
        )
        attributes = ",".join(f"{key}={value}" for key, value in sorted(said.items()))
        picture.detail[address] = f"Main:{handle or '<none>'} Extra:{attributes}"
        if handle == WINDOWS_HANDLE:
            picture.in_use.setdefault(address, []).append("Reserved for Windows")
        elif handle:
            picture.used_handles.add(handle)
        for_service = "service" in said or handle.startswith("lb-") or (block.affinity or "").startswith("virtual:")
        if for_service and not picture.services_known:
            picture.in_use.setdefault(address, []).append("a Service, which this datastore does not hold")


def _take_resource(picture: Picture, resource: Any) -> None:
    meta = resource.metadata
    if resource.kind == "IPPool":
        picture.pools.append(resource)
    elif resource.kind == "WorkloadEndpoint":
        for network in resource.spec.ip_networks:
            _use(picture, network, f"Workload({meta.namespace}/{meta.name})")
    elif resource.kind == "Node":
        spec = resource.spec
        tunnels = [spec.ipv4_vxlan_tunnel_addr, spec.ipv6_vxlan_tunnel_addr]
        tunnels += [spec.bgp.ipv4_ipip_tunnel_addr] if spec.bgp is not None else []
        if spec.wireguard is not None:
            tunnels += [spec.wireguard.interface_ipv4_address, spec.wireguard.interface_ipv6_address]
        for address in filter(None, tunnels):
            _use(picture, address, f"Node({meta.name})")
    else:
        for ingress in _ingress(resource):
            _use(picture, ingress, f"Service({meta.namespace}/{meta.name})", only_if_assigned=True)


def _ingress(service: Any) -> Iterator[str]:
    balancer = getattr(service.status, "load_balancer", None)
    for one in getattr(balancer, "ingress", ()) or ():
        if one.ip:
            yield one.ip


def _use(picture: Picture, address: str, owner: str, *, only_if_assigned: bool = False) -> None:
    """``only_if_assigned``: others give addresses to Services too."""
    try:
        text = str(ipaddress.ip_interface(address).ip)
    except ValueError:
        return
    if not only_if_assigned or text in picture.allocations:
        picture.in_use.setdefault(text, []).append(owner)


# ── check ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def check(args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli.ipam import _builtin

    picture = look(session)
    plugin_says = list(session.composition.open_ipam().check())
    report = _report(session, picture, [_builtin(problem) for problem in plugin_says])
    path = args.report or (args.output if args.output not in {"", "text", "json"} else "")
    if path:
        with open(path, "w", encoding="utf-8") as file:
            file.write(json_text(report) + "\n")
    if args.output == "json":
        print(json_text(report))
        return 0
    _say(picture, plugin_says, all_ips=args.show_all_ips, problem_ips=args.show_problem_ips or args.show_all_ips)
    return 0


def _report(session: Session, picture: Picture, problems: list[dict[str, Any]]) -> Report:
    from calico_kernel import __version__

    allocations = {address: [one] for address, one in picture.allocations.items()}
    for one in picture.allocations.values():
        one.owners = one.owners or []
    try:
        information = session.client.get("ClusterInformation", "default")
    except NotFound:
        return Report(version=__version__, cluster_guid="", allocations=allocations, problems=problems)
    return Report(
        version=__version__,
        cluster_guid=information.spec.cluster_guid,
        datastore_locked=information.spec.datastore_ready is False,
        cluster_information_revision=information.metadata.resource_version,
        cluster_type=information.spec.cluster_type,
        allocations=allocations,
        leaked_handles=[picture.handles[name] for name in _leaked_handles(picture)],
        problems=problems,
    )


def _leaked(picture: Picture) -> list[str]:
    return [ip for ip, one in picture.allocations.items() if ip not in picture.in_use and not one.cooling_down]


def _leaked_handles(picture: Picture) -> list[str]:
    return [handle for handle in picture.handles if handle not in picture.used_handles]


def _say(picture: Picture, plugin_says: Sequence[Any], *, all_ips: bool, problem_ips: bool) -> None:
    print("Checking IPAM for inconsistencies...\n")
    print(f"Found {len(picture.blocks)} IPAM blocks.")
    for block in picture.blocks:
        print(f" IPAM block {block}")
    print(f"IPAM blocks record {len(picture.allocations)} allocations.")
    active = [pool for pool in picture.pools if not pool.spec.disabled]
    print(f"Found {len(active)} active IP pools.")
    print(f"Workloads, nodes and services are using {len(picture.in_use)} IPs.\n")
    if all_ips:
        _print_lines(f"{ip} allocated; attrs {picture.detail[ip]}" for ip in picture.allocations)
        _print_lines(f"{ip} belongs to {owner}" for ip, owners in picture.in_use.items() for owner in owners)
    _print_nodes(picture)
    problems = 0

    def found(lines: Sequence[str], what: str, *, counts: bool = True) -> None:
        nonlocal problems
        problems += len(lines) if counts else 0
        if problem_ips:
            _print_lines(lines)
        print(f"Found {len(lines)} {what}.")

    leaked = _leaked(picture)
    found([f"{ip} leaked; attrs {picture.detail[ip]}" for ip in leaked],
          "IPs that are allocated in IPAM but not actually in use")  # fmt: skip
    inside, outside = _without_allocation(picture, active)
    found(outside, "in-use IPs that are not in active IP pools")
    found(inside, "in-use IPs that are in active IP pools but have no corresponding IPAM allocation")
    shared = [f"{ip} has multiple owners: {', '.join(own)}" for ip, own in picture.in_use.items() if len(own) > 1]
    found(shared, "IPs with more than one owner")
    lost = _leaked_handles(picture)
    found([f"{handle} doesn't have any active IPs" for handle in lost], "handles with no matching IPs")
    missing = sorted(picture.used_handles - picture.handles.keys())
    found([f"{handle} is in use in a block but doesn't exist" for handle in missing],
          "handles mentioned in blocks with no matching handle resource", counts=False)  # fmt: skip
    found([f"IPAM block {cidr}: {reason}" for cidr, reason in picture.broken], "invalid IPAM blocks")
    told = {*leaked, *(f"handle {handle}" for handle in lost), *(f"block {cidr}" for cidr, _ in picture.broken)}
    rest = [one for one in plugin_says if one.kind not in KNOWN_OTHERWISE or one.subject not in told]
    found([f"{one.kind}: {one.subject}: {one.detail}" for one in rest], "other inconsistencies")
    print(f"\nCheck complete; found {problems} problems.")


def _print_lines(lines: Iterable[str]) -> None:
    from calico_kernel.cli.output import visible

    for line in lines:
        print(visible(f"  {line}"))


def _print_nodes(picture: Picture) -> None:
    counts = Counter(one.node for one in picture.allocations.values())
    for node, count in counts.most_common(MOST_NODES):
        print(f"  {node or '<none>'} has {count} allocations")
    if counts:
        ordered = sorted(counts.values(), reverse=True)
        print(f"Node with most allocations has {ordered[0]}; median is {ordered[len(ordered) // 2]}\n")


def _without_allocation(picture: Picture, active: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Addresses in use that IPAM did not assign: those in an active pool, and those in none."""
    networks = [ipaddress.ip_network(pool.spec.cidr) for pool in active]
    inside: list[str] = []
    outside: list[str] = []
    for ip, owners in picture.in_use.items():
        if ip in picture.allocations:
            continue
        address = ipaddress.ip_address(ip)
        into = any(address.version == network.version and address in network for network in networks)
        said = "and in active IPAM pool but has no IPAM allocation" if into else "is not in any active IP pool"
        (inside if into else outside).append(f"{ip} in use by {', '.join(owners)} {said}")
    return inside, outside


# ── release ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def release_from_reports(args: argparse.Namespace, session: Session) -> int:
    """Give back what every report calls lost and nobody took meanwhile."""
    reports = [_read(file) for file in args.from_report]
    _judge(reports, args, session)
    ipam = session.composition.open_ipam()
    released, changed = _release(ipam, _lost_in_all(reports))
    seen = [{(one.get("kind"), one.get("subject")) for one in report.problems} for _, report in reports]
    handles = set.intersection(*({(one.ID, one.Revision) for one in report.leaked_handles} for _, report in reports))
    names = {name for name, _ in handles}
    in_all = set.intersection(*seen)
    mendable = [
        one
        for one in ipam.check()
        if one.collectable
        and ((one.kind, one.subject) in in_all or (one.kind == "handle-counts-too-much" and one.handle in names))
    ]
    mended = ipam.collect(mendable) if mendable else ()
    if args.output == "json":
        from calico_kernel.cli.ipam import _builtin

        collected = [_builtin(one) for one in mended]
        print(json_text({"released": released, "changed": changed, "collected": collected}))
        return 0
    print(
        f"Released {len(released)} IPs successfully"
        if released
        else "The reports agree on no leaked IP that is still there."
    )
    if changed:
        print(f"{len(changed)} addresses of the report were given back, or to others, meanwhile: left alone.")
    print(f"Mended {len(mended)} of {len(mendable)} other problems of the report.")
    return 0


def _read(file: str) -> tuple[str, Report]:
    from calico_kernel.cli.common import Refused

    try:
        with open(file, "rb") as opened:
            return file, msgspec.json.decode(opened.read(), type=Report)
    except OSError as exc:
        raise Refused(f"report {file} cannot be read: {(exc.strerror or str(exc)).lower()}") from exc
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise Refused(f"report {file} is not one that `calicoctl ipam check -o FILE` wrote: {exc}") from exc


def _judge(reports: Sequence[tuple[str, Report]], args: argparse.Namespace, session: Session) -> None:
    """Refuse what may be of another cluster or another time."""
    import sys

    from calico_kernel import __version__
    from calico_kernel.cli.common import Refused

    information = session.client.get("ClusterInformation", "default")
    for file, report in reports:
        if report.cluster_guid != information.spec.cluster_guid:
            raise Refused(f"cluster does not match the provided report ({file}): it is of another cluster")
        if report.version != __version__:
            said = f"the provided report ({file}) was produced by version {report.version}, this is {__version__}"
            if not args.force:
                raise Refused(f"{said}; make a new one, or use --force")
            print(f"WARNING: {said}", file=sys.stderr)
    revision = information.metadata.resource_version
    if not any(report.cluster_information_revision == revision for _, report in reports):
        raise Refused(
            "the provided reports are all stale: at least one must have been made since the datastore was locked; "
            "make a new one"
        )
    if information.spec.datastore_ready is not False:
        if not args.force:
            raise Refused(
                "datastore must be locked to release from reports; run 'calicoctl datastore migrate lock', or use "
                "--force"
            )
        print("WARNING: the datastore is not locked", file=sys.stderr)


def _lost_in_all(reports: Sequence[tuple[str, Report]]) -> list[Allocation]:
    """What no report sees in use, and all see with the same holder."""
    lost: dict[str, Allocation] | None = None
    for _, report in reports:
        found = {
            one.ip: one
            for listed in report.allocations.values()
            for one in listed
            if not one.in_use and not one.cooling_down
        }
        if lost is not None:
            found = {
                ip: one
                for ip, one in found.items()
                if ip in lost and (one.handle, one.sequence_number) == (lost[ip].handle, lost[ip].sequence_number)
            }
        lost = found
    return list((lost or {}).values())


def _release(ipam: Any, lost: Sequence[Allocation]) -> tuple[list[str], list[str]]:
    """(released, left alone because their holder changed or they were free already)."""
    from calico_kernel.model.ipam import ReleaseRequest

    requests = [
        ReleaseRequest(
            address=ipaddress.ip_address(one.ip), handle=one.handle or None, sequence_number=one.sequence_number
        )
        for one in lost
    ]
    try:
        free = set(ipam.release(requests)) if requests else set()
    except RevisionConflict:  # one of them has another holder by now: find out which
        free = set()
        for request in requests:
            try:
                free.update(ipam.release([request]))
            except RevisionConflict:
                free.add(request.address)
    addresses = [request.address for request in requests]
    return [str(one) for one in addresses if one not in free], [str(one) for one in addresses if one in free]
