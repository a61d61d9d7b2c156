"""Workloads of a lab: a namespace each, attached to their node by a real CNI request, as a container runtime makes it.

In:    Workload values of a Topology, and the LabHost that each lives on.
Out:   ``Attached`` (addresses, interface), to calico_kernel.lab.engine.
Owns:  namespaces named pod-*; everything else about a workload belongs to the CNI plugin and the agent.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from calico_kernel.host import bubble, netns
from calico_kernel.lab.hosts import LAB, LabHost, program
from calico_kernel.lab.network import LabError
from calico_kernel.lab.topology import Workload

NETWORK = "k8s-pod-network"
BIN_DIR, NET_DIR = f"{LAB}/cni/bin", f"{LAB}/cni/net.d"
INTERFACE = "eth0"
TRY_AGAIN = 11  # CNI spec 1.1, "Error": the runtime should repeat the request later
REPEAT_DEADLINE_S = 30.0


@attrs.frozen(kw_only=True)
class Attached:
    """``addresses``: IP version -> bare address. ``add_ms``: wall time of the ADD that succeeded."""

    workload: Workload
    addresses: Mapping[int, str]
    host_interface: str
    add_ms: float


def container_id(workload: Workload) -> str:
    return hashlib.sha256(workload.id.encode()).hexdigest()


def install(host: LabHost, *, versions: Sequence[int]) -> None:
    """Write the executable and the network's configuration list, once for all nodes. Raises LabError."""
    options = ["--bin-dir", BIN_DIR, "--net-dir", NET_DIR, "--network", NETWORK, "--no-portmap"]
    if 6 in versions:
        options.append("--ipv6")
    done = host.run([*program("calico"), "cni", "install", *options])
    if done.returncode:
        raise LabError(what=f"calico cni install failed: {done.stderr.strip()}", todo="reinstall the plugin calico-cni")


def network_config(workload: Workload) -> dict[str, Any]:
    """What the runtime hands to the plugin: its entry of the installed list, with the list's name and version, and what
    a pod has beyond its name as ``args.cni``."""
    name = sorted(os.listdir(NET_DIR))[0]
    with open(f"{NET_DIR}/{name}") as file:
        conf_list = json.load(file)
    args = {
        "labels": [{"key": key, "value": value} for key, value in workload.labels.items()],
        "serviceAccount": workload.service_account,
        "ports": list(workload.ports),
    }
    return {
        **conf_list["plugins"][0],
        "name": conf_list["name"],
        "cniVersion": conf_list["cniVersion"],
        "args": {"cni": args},
    }


def _environment(command: str, workload: Workload) -> dict[str, str]:
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container_id(workload),
        "CNI_NETNS": netns.path_of(workload.netns),
        "CNI_IFNAME": INTERFACE,
        "CNI_PATH": f"{BIN_DIR}:/opt/cni/bin:/usr/lib/cni",
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={workload.namespace};K8S_POD_NAME={workload.name}",
    }


def add(host: LabHost, workload: Workload) -> Attached:
    """Make the namespace and ADD it to the network. Raises LabError with the plugin's message."""
    done, took_ms = _until_answered(host, "ADD", workload)
    return _attached(workload, done.stdout, took_ms)


def remove(host: LabHost, workload: Workload) -> None:
    """DEL, then the namespace. Raises LabError with the plugin's message; the namespace is then kept."""
    _until_answered(host, "DEL", workload)
    netns.delete(workload.netns)


def _until_answered(host: LabHost, command: str, workload: Workload) -> tuple[subprocess.CompletedProcess[str], float]:
    """As a runtime does: repeated while the plugin says "try again later". The milliseconds of the last request.
    Raises LabError."""
    deadline = time.monotonic() + REPEAT_DEADLINE_S
    while True:
        started = time.monotonic()
        done = request(host, command, workload)
        took_ms = (time.monotonic() - started) * 1000
        if done.returncode == 0:
            return done, took_ms
        error = _error_of(done.stdout)
        if error.get("code") != TRY_AGAIN or time.monotonic() > deadline:
            said = error.get("msg") or done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}"
            details = f" ({error['details']})" if error.get("details") else ""
            raise LabError(
                what=f"CNI {command} of {workload.id} on {workload.node} failed: {said}{details}",
                kept="its namespace, and what it has of addresses",
                todo=f"read the agent's log: calico lab logs {workload.node}",
            )
        time.sleep(0.05)


def request(host: LabHost, command: str, workload: Workload) -> subprocess.CompletedProcess[str]:
    """One CNI request, answered as it may be. ADD makes the workload's namespace first, if there is none."""
    if command == "ADD" and workload.netns not in netns.names():
        netns.create(workload.netns)
        netns.run_in(workload.netns, bubble.loopback_up)
    return host.run(
        [f"{BIN_DIR}/calico"],
        text=json.dumps(network_config(workload)),
        environment=_environment(command, workload),
    )


def _error_of(text: str) -> dict[str, Any]:
    try:
        error = json.loads(text)
    except ValueError:
        return {}
    return error if isinstance(error, dict) else {}


def _attached(workload: Workload, text: str, add_ms: float) -> Attached:
    result = _error_of(text)
    addresses: dict[int, str] = {}
    for entry in result.get("ips", []):
        address = ipaddress.ip_interface(entry["address"]).ip
        addresses.setdefault(address.version, str(address))
    if not addresses:
        raise LabError(
            what=f"CNI ADD of {workload.id} returned no address: {text[:500]}",
            todo=f"read the agent's log: calico lab logs {workload.node}",
        )
    interfaces = [each["name"] for each in result.get("interfaces", []) if not each.get("sandbox")]
    return Attached(workload=workload, addresses=addresses, host_interface=next(iter(interfaces), ""), add_ms=add_ms)
