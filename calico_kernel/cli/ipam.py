"""``calicoctl ipam show``, ``release``, ``configure`` and ``split``; ``check`` and reports are in ``ipamcheck``, what
brings addresses of another IPAM in ``ipammigrate``.

In:    the IPAM plugin that the configuration names, and the records it keeps.
Out:   the tables and sentences of Calico's tool; the same as JSON with ``-o json``.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from calico_kernel.cli.output import box, json_text, number, share
from calico_kernel.errors import AlreadyExists

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session
    from calico_kernel.model.ipam import IpamConfig


HOST_LOCAL = "/var/lib/cni/networks/k8s-pod-network"
LONGEST_NAME = 240
"""Of a pool that is split: its parts have longer names, and no name is longer than 253."""


def configure(_name: str, parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="how full the pools are, or who has an address")
    show.add_argument("--ip", default="", help="who has this address")
    show.add_argument(
        "--show-blocks", action="store_true", help="every block of the pools, and blocks outside any pool"
    )
    show.add_argument("--show-borrowed", action="store_true", help="addresses taken from another node's block")
    show.add_argument("--show-configuration", action="store_true", help="the configuration in force")
    check = actions.add_parser("check", help="look for inconsistencies; changes nothing")
    check.add_argument("--show-all-ips", action="store_true", help="print every address that is in use")
    check.add_argument("--show-problem-ips", action="store_true", help="print every problem, not only their number")
    check.add_argument("--report", default="", metavar="FILE", help="the same as -o FILE")
    check.add_argument(
        "-o", "--output", default="text", metavar="FILE", help="write a report to FILE; json: print it instead"
    )
    check.add_argument("--kubeconfig", default="", metavar="FILE", help="accepted; nothing but the datastore is asked")
    release = actions.add_parser("release", help="give back an address, or what a report found to be lost")
    release.add_argument("--ip", default="", help="the address")
    release.add_argument(
        "--from-report", action="append", default=[], metavar="FILE", help="what every one of these reports calls lost"
    )
    release.add_argument("--force", action="store_true", help="although the datastore is not locked")
    change = actions.add_parser("configure", help="change the configuration")
    change.add_argument("--strictaffinity", metavar="BOOL", help="true: nodes use their own blocks only")
    change.add_argument("--max-blocks-per-host", type=int, metavar="N", help="0: as many as they need")
    change.add_argument("--kubevirt-ip-persistence", choices=["Enabled", "Disabled"])
    change.add_argument("--ip-cooldown-seconds", type=int, metavar="N", help="before a released address is used again")
    split = actions.add_parser("split", help="divide a pool into equal parts; the datastore must be locked")
    split.add_argument("number", type=int, metavar="NUMBER", help="of parts: a power of two")
    migrate = actions.add_parser("migrate", help="take over the addresses that host-local assigned on this node")
    migrate.add_argument("--directory", default=HOST_LOCAL, metavar="DIR", help=f"of host-local, else {HOST_LOCAL}")
    migrate.add_argument("--node", default="", metavar="NAME", help="else the node of the configuration")
    migrate.add_argument("--network", default="", metavar="NAME", help="of the CNI network, else the directory's name")
    migrate.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    migrate.add_argument("-o", "--output", choices=["text", "json"], default="text")
    which = split.add_mutually_exclusive_group(required=True)
    which.add_argument("--cidr", default="")
    which.add_argument("--name", default="")
    for sub in (show, release):
        sub.add_argument("-o", "--output", choices=["text", "json"], default="text")


def run(_name: str, args: argparse.Namespace, session: Session) -> int:
    actions = {
        "show": _show,
        "check": _check,
        "release": _release,
        "configure": _configure,
        "split": _split,
        "migrate": _migrate,
    }
    return actions[args.action](args, session)


# ── show ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _show(args: argparse.Namespace, session: Session) -> int:
    if args.ip:
        return _show_address(args, session)
    if args.show_configuration:
        return _show_configuration(args, session)
    if args.show_borrowed:
        return _show_borrowed(args, session)
    session.composition.open_datastore()
    report = session.composition.open_ipam().report()
    if args.output == "json":
        print(json_text(_builtin(report)))
        return 0
    rows: list[list[str]] = []
    for pool in report.pools:
        rows.append(_usage("IP Pool", pool))
        rows += [_usage("Block", block) for block in pool.blocks] if args.show_blocks else []
    rows += [_usage("Block", block) for block in report.orphan_blocks] if args.show_blocks else []
    heading = ["GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS RESERVED", "IPS FREE"]
    print(box(heading, rows, right=frozenset({2, 3, 4, 5})), end="")
    return 0


def _usage(grouping: str, of: Any) -> list[str]:
    free = max(0, of.total - of.in_use - of.reserved)
    return [
        grouping,
        of.cidr,
        number(of.total),
        share(of.in_use, of.total),
        share(of.reserved, of.total),
        share(free, of.total),
    ]


def _show_address(args: argparse.Namespace, session: Session) -> int:
    address = _address(args.ip)
    info = session.composition.open_ipam().inspect(address)
    if args.output == "json":
        print(json_text(_builtin(info)))
        return 0
    if info.handle is None and not info.attributes:
        print(f"{address} is not assigned")
        return 0
    print(f"IP {address} is in use")
    print(f"Handle ID: {info.handle or '<none>'}")
    print(_attributes("Active Owner Attributes", info.attributes) or "No Active Owner attributes defined\n", end="")
    print(_attributes("Alternate Owner Attributes", info.alternate_attributes), end="")
    return 0


def _attributes(title: str, found: Mapping[str, str]) -> str:
    return f"{title}:\n" + "".join(f"  {key}: {value}\n" for key, value in sorted(found.items())) if found else ""


def _show_configuration(args: argparse.Namespace, session: Session) -> int:
    config = session.composition.open_ipam().configuration()
    values = [
        ("StrictAffinity", config.strict_affinity),
        ("AutoAllocateBlocks", config.auto_allocate_blocks),
        ("MaxBlocksPerHost", config.max_blocks_per_host),
        ("KubeVirtVMAddressPersistence", config.kube_virt_vm_address_persistence or "Enabled"),
        ("IPCooldownSeconds", config.ip_cooldown_seconds),
    ]
    if args.output == "json":
        print(json_text(dict(values)))
    else:
        print(box(["PROPERTY", "VALUE"], [[name, json.dumps(value)] for name, value in values]), end="")
    return 0


def _show_borrowed(args: argparse.Namespace, session: Session) -> int:
    found = []
    unknown = 0
    for block, address, index in _allocations(session):
        attributes = block.attributes[index].secondary or {}
        owner = (block.affinity or "").partition(":")[2]
        if "node" not in attributes:
            unknown += 1
        elif attributes["node"] != owner:
            namespace = attributes.get("namespace", "")
            named = next((word for word in ("vmi", "pod") if attributes.get(word)), "")
            found.append(
                {
                    "ip": str(address),
                    "borrowingNode": attributes["node"],
                    "block": block.cidr,
                    "blockOwner": owner,
                    "type": named or attributes.get("type", ""),
                    "allocatedTo": f"{namespace}/{attributes[named]}" if named else "",
                }
            )
    if args.output == "json":
        print(json_text(found))
        return 0
    heading = ["IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO"]
    print(box(heading, [list(row.values()) for row in found]), end="")
    if unknown:
        print(
            f"\nNote: found {unknown} IP allocations without an explicit node association. "
            "Unable to determine if they are borrowed."
        )
    return 0


def _allocations(session: Session) -> list[tuple[Any, Any, int]]:
    """(block, address, index of its attributes) of every address in use."""
    from calico_kernel.model.keys import BlockQuery
    from calico_kernel.model.records import Malformed

    found: list[tuple[Any, Any, int]] = []
    for record in session.composition.open_datastore().list([BlockQuery()]).records:
        if isinstance(record.value, Malformed):
            continue
        block: Any = record.value
        first = ipaddress.ip_network(block.cidr).network_address
        found += [
            (block, first + ordinal, index)
            for ordinal, index in enumerate(block.allocations)
            if index is not None and block.attributes[index].released_at is None
        ]
    return found


# ── release ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _release(args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli.common import Refused
    from calico_kernel.model.ipam import ReleaseRequest

    if bool(args.ip) == bool(args.from_report):
        raise Refused("give either --ip or --from-report")
    if args.from_report:
        from calico_kernel.cli import ipamcheck

        return ipamcheck.release_from_reports(args, session)
    address = _address(args.ip)
    missing = session.composition.open_ipam().release([ReleaseRequest(address=address)])
    if missing:
        raise Refused(f"IP address {address} is not assigned")
    if args.output == "json":
        print(json_text({"released": [str(address)]}))
    else:
        print(f"Successfully released IP address {address}")
    return 0


def _migrate(args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli import ipammigrate

    return ipammigrate.run(args, session)


def _check(args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli import ipamcheck

    return ipamcheck.check(args, session)


# ── configure and split ───────────────────────────────────────────────────────────────────────────────────────────────


def _configure(args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli.common import Refused

    changes: dict[str, Any] = {}
    said = []
    if args.strictaffinity is not None:
        if args.strictaffinity.lower() not in {"true", "false"}:
            raise Refused(f"--strictaffinity must be true or false, not {args.strictaffinity!r}")
        changes["strict_affinity"] = args.strictaffinity.lower() == "true"
        said.append(f"Successfully set StrictAffinity to: {args.strictaffinity.lower()}")
    if args.max_blocks_per_host is not None:
        changes["max_blocks_per_host"] = args.max_blocks_per_host
        said.append(f"Successfully set MaxBlocksPerHost to: {args.max_blocks_per_host}")
    if args.kubevirt_ip_persistence is not None:
        changes["kube_virt_vm_address_persistence"] = args.kubevirt_ip_persistence
        said.append(f"Successfully set KubeVirtVMAddressPersistence to: {args.kubevirt_ip_persistence}")
    if args.ip_cooldown_seconds is not None:
        changes["ip_cooldown_seconds"] = args.ip_cooldown_seconds
        said.append(f"Successfully set IPCooldownSeconds to: {args.ip_cooldown_seconds}")
    if not changes:
        raise Refused("at least one setting must be given")
    ipam = session.composition.open_ipam()
    config: IpamConfig = msgspec.structs.replace(ipam.configuration(), **changes)
    ipam.configure(config)
    print("\n".join(said))
    return 0


def _split(args: argparse.Namespace, session: Session) -> int:
    """The pool is disabled, its parts are made, then it goes: addresses in use stay assigned throughout. Broken off,
    the same command goes on where it was."""
    from calico_kernel.cli.common import Refused
    from calico_kernel.cli.datastore import is_locked

    if args.number < 2 or args.number & (args.number - 1):
        raise Refused(f"the number of parts must be a power of two greater than 1, not {args.number}")
    if not is_locked(session):
        raise Refused("datastore must be locked to split a pool; run 'calicoctl datastore migrate lock'")
    client = session.client
    pools = [pool for pool in client.list("IPPool").items if args.name == pool.metadata.name or _same(args.cidr, pool)]
    if len(pools) != 1:
        raise Refused(f"there is no pool {args.name or args.cidr}")
    name = pools[0].metadata.name
    network = ipaddress.ip_network(pools[0].spec.cidr)
    longer = args.number.bit_length() - 1
    if network.prefixlen + longer > pools[0].spec.block_size:
        raise Refused(f"parts of {network} would be smaller than its blocks (/{pools[0].spec.block_size})")
    replace = msgspec.structs.replace
    pool = client.change("IPPool", name, "", lambda pool: replace(pool, spec=replace(pool.spec, disabled=True)))
    pool = client.get("IPPool", name)  # with the fields that are unknown here
    made = []
    for index, part in enumerate(network.subnets(prefixlen_diff=longer)):
        one = _part(pool, f"split-{name[:LONGEST_NAME]}-{index}", str(part))
        try:
            client.create_unsafe(one)
        except AlreadyExists:
            if not _same(str(part), client.get("IPPool", one.metadata.name)):
                raise
        made.append(one)
    client.delete_unsafe("IPPool", name)
    print(f"Successfully split pool {name} into {args.number} parts")
    for one in made:
        print(f"Created {one.metadata.name} with CIDR {one.spec.cidr}.")
    return 0


def _part(pool: Any, name: str, cidr: str) -> Any:
    from calico_kernel.model import unread

    old = pool.metadata
    metadata = type(old)(name=name, labels=old.labels, annotations=old.annotations)
    spec = msgspec.structs.replace(pool.spec, cidr=cidr, disabled=False)
    return unread.carried(pool, msgspec.structs.replace(pool, metadata=metadata, spec=spec))


def _same(cidr: str, pool: Any) -> bool:
    try:
        return bool(cidr) and ipaddress.ip_network(cidr) == ipaddress.ip_network(pool.spec.cidr)
    except ValueError:
        return False


# ── shared ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _address(text: str) -> Any:
    from calico_kernel.cli.common import Refused

    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise Refused(f"invalid IP address {text}") from None


def _builtin(value: Any) -> Any:
    return msgspec.to_builtins(value, builtin_types=(), str_keys=True, enc_hook=str)  # addresses
