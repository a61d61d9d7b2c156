"""``calicoctl ipam migrate``: take over the addresses that the CNI plugin host-local assigned on this node.

In:    host-local's directory: one file for each address, whose first line is the container; the node's endpoints.
Out:   the same addresses assigned here, each under the handle that this container's DEL will release it by; files that
       were taken over go, so a run that broke off is simply run again.
Order: host-local's own lock is held and the datastore locked meanwhile: nobody may assign an address that is not here
       yet. Of this node, all is moved before its CNI configuration names ``calico-ipam``.

Calico does the same at the start of its node (``calico-ipam -upgrade``); its calicoctl has no such command.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calico_kernel.cli.output import json_text
from calico_kernel.cli.progress import Progress
from calico_kernel.errors import CalicoError, NotFound

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session

LAST_RESERVED, LOCK = "last_reserved_ip", "lock"
MOVED, HERE, STALE, REFUSED = "moved", "here already", "stale", "refused"


def run(args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli.output import visible

    directory = Path(args.directory)
    node = args.node or session.config.node
    if not directory.is_dir():
        print(json_text({"node": node, "addresses": []}) if args.output == "json" else f"{directory} is not there: "
              "host-local has assigned nothing on this node, or all of it was taken over.")  # fmt: skip
        return 0
    network = args.network or directory.name
    found: list[dict[str, str]] = []
    with _nobody_assigns(directory, session, dry_run=args.dry_run):
        endpoints = _endpoints(session, node)
        files = sorted(path for path in directory.iterdir() if _address(path.name) is not None)
        with Progress(len(files), "addresses looked at") as progress:
            for file in files:
                found.append(_take(file, network, node, endpoints, session, dry_run=args.dry_run))
                progress.step()
        found += _tunnels(session, node, dry_run=args.dry_run)
        refused = [one for one in found if one["result"] == REFUSED]
        if not args.dry_run and not refused:
            _clear(directory)
    if args.output == "json":
        print(json_text({"node": node, "addresses": found}))
    else:
        for one in found:
            print(visible(f"{one['address']}: {one['result']}{': ' if one['detail'] else ''}{one['detail']}"))
        moved = sum(one["result"] in {MOVED, HERE} for one in found)
        print(f"{'Would take' if args.dry_run else 'Took'} over {moved} of {len(found)} addresses of node {node}.")
    return 1 if refused else 0


@contextlib.contextmanager
def _nobody_assigns(directory: Path, session: Session, *, dry_run: bool) -> Iterator[None]:
    """host-local waits for its lock; our CNI plugin says "try again later" while the datastore is locked."""
    import fcntl

    from calico_kernel.client import ensure_initialized, lock

    if dry_run:
        yield
        return
    client = session.client
    ensure_initialized(client)
    with (directory / LOCK).open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        was_locked = lock.is_locked(client.store)
        if not was_locked:
            lock.lock(client)
        try:
            yield
        finally:
            if not was_locked:
                lock.unlock(client)


def _endpoints(session: Session, node: str) -> Mapping[Any, Any]:
    """The node's workload endpoints by each of their addresses."""
    return {
        ipaddress.ip_interface(network).ip: endpoint
        for endpoint in session.client.list("WorkloadEndpoint").items
        if endpoint.spec.node == node
        for network in endpoint.spec.ip_networks
    }


def _take(
    file: Path, network: str, node: str, endpoints: Mapping[Any, Any], session: Session, *, dry_run: bool
) -> dict[str, str]:
    from calico_kernel.model.names import cni_handle

    address = _address(file.name)
    endpoint = endpoints.get(address)
    if endpoint is None:
        if not dry_run:
            file.unlink(missing_ok=True)
        return _said(address, STALE, "no workload of this node has it; host-local forgets it")
    container = file.read_text(encoding="utf-8", errors="replace").splitlines()[:1]
    if not container or not container[0].strip():
        return _said(address, REFUSED, f"{file} names no container")
    attributes = {"node": node, "pod": endpoint.spec.pod, "namespace": endpoint.metadata.namespace}
    said = _assign(session, address, cni_handle(network, container[0].strip()), node, attributes, dry_run=dry_run)
    if said["result"] != REFUSED and not dry_run:
        file.unlink(missing_ok=True)
    return said


def _tunnels(session: Session, node: str, *, dry_run: bool) -> list[dict[str, str]]:
    """Tunnel addresses that the node has and IPAM does not know: with host-local they were cut from the podCIDR."""
    try:
        spec = session.client.get("Node", node).spec
    except NotFound:
        return []
    found = []
    for text, word in (
        (spec.bgp.ipv4_ipip_tunnel_addr if spec.bgp is not None else "", "ipip"),
        (spec.ipv4_vxlan_tunnel_addr, "vxlan"),
        (spec.ipv6_vxlan_tunnel_addr, "vxlanV6"),
    ):
        address = _address(text)
        if address is None:
            continue
        handle = f"{'vxlan-v6' if word == 'vxlanV6' else word}-tunnel-addr-{node}"
        attributes = {"node": node, "type": f"{word}TunnelAddress"}
        found.append(_assign(session, address, handle, node, attributes, dry_run=dry_run))
    return found


def _assign(
    session: Session, address: Any, handle: str, node: str, attributes: Mapping[str, str], *, dry_run: bool
) -> dict[str, str]:
    from calico_kernel.model.ipam import AssignRequest

    ipam = session.composition.open_ipam()
    detail = "/".join(filter(None, (attributes.get("namespace"), attributes.get("pod")))) or attributes.get("type", "")
    try:
        holder = ipam.inspect(address).handle
        if holder is not None:
            mine = holder == handle
            return _said(address, HERE if mine else REFUSED, detail if mine else f"{holder} has it already")
        if not dry_run:
            ipam.assign(AssignRequest(handle=handle, node=node, addresses=(address,), attributes=attributes))
    except CalicoError as exc:
        return _said(address, REFUSED, exc.what)
    return _said(address, MOVED, detail)


def _clear(directory: Path) -> None:
    """Nothing of host-local's is left but its bookkeeping."""
    for path in directory.iterdir():
        if path.name.startswith(LAST_RESERVED) or path.name == LOCK:
            path.unlink(missing_ok=True)
    try:
        directory.rmdir()
    except OSError as exc:
        print(f"{directory} stays: {(exc.strerror or str(exc)).lower()}", file=sys.stderr)


def _said(address: Any, result: str, detail: str) -> dict[str, str]:
    return {"address": str(address), "result": result, "detail": detail}


def _address(text: str) -> Any:
    try:
        return ipaddress.ip_address(text) if text else None
    except ValueError:
        return None
