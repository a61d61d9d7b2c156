"""``calico cni install`` and ``uninstall``: the executable and a network configuration list, for the container runtime.

Environment variables are those of Calico's installer (CNI_NET_DIR, CNI_CONF_NAME, CNI_MTU...); options win over them.
Files are written beside and renamed, so a runtime never sees half of one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Mapping
from importlib import resources
from typing import Any

PROGRAMS = ("calico", "calico-ipam")
"""One executable under two names: a whole network plugin, and IPAM alone for other plugins (bridge, macvlan...)."""


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, help_text in (("install", "write both"), ("uninstall", "remove both")):
        sub = verbs.add_parser(verb, help=help_text)
        env = os.environ.get
        sub.add_argument("--bin-dir", default=env("CNI_BIN_DIR", "/opt/cni/bin"), help="default: %(default)s")
        sub.add_argument("--net-dir", default=env("CNI_NET_DIR", "/etc/cni/net.d"), help="default: %(default)s")
        sub.add_argument("--conf-name", default=env("CNI_CONF_NAME", "10-calico.conflist"), help="default: %(default)s")
        if verb == "uninstall":
            continue
        sub.add_argument("--network", default="k8s-pod-network", help="name of the network (default: %(default)s)")
        sub.add_argument("--cni-version", default="1.0.0", help="version of the list (default: %(default)s)")
        sub.add_argument("--mtu", type=int, default=env("CNI_MTU", "0"), help="0: worked out by the agent")
        sub.add_argument("--ipv6", action="store_true", help="assign an IPv6 address as well")
        sub.add_argument("--ipam", default="calico-ipam", help="IPAM type (default: %(default)s)")
        sub.add_argument("--kubernetes", action="store_true", help="profiles are mirrored from Kubernetes")
        sub.add_argument("--agent-socket", default="", help="when the agent does not serve its usual path")
        sub.add_argument("--python", default=_system_python(), help="interpreter of the executable: %(default)s")
        sub.add_argument("--no-config", action="store_true", help="only the executable")
        sub.add_argument("--no-portmap", action="store_true", help="do not chain the portmap plugin")


def run(arguments: argparse.Namespace) -> int:
    try:
        if arguments.verb == "install":
            install(arguments)
        else:
            uninstall(arguments)
    except OSError as exc:
        sys.stderr.write(f"calico cni {arguments.verb}: {exc.filename}: {exc.strerror}. To do: run it as root.\n")
        return 1
    return 0


def install(arguments: argparse.Namespace) -> None:
    """Says what it wrote. Raises OSError."""
    for name in PROGRAMS:
        _write(os.path.join(arguments.bin_dir, name), program(arguments.python).encode(), 0o755)
    if arguments.no_config:
        return
    path = os.path.join(arguments.net_dir, arguments.conf_name)
    wanted = os.environ.get("CNI_NETWORK_CONFIG") or json.dumps(configuration(arguments), indent=2) + "\n"
    _write(path, wanted.encode(), 0o600)
    old = os.environ.get("CNI_OLD_CONF_NAME")
    if old and old != arguments.conf_name:
        with contextlib.suppress(FileNotFoundError):
            _remove(os.path.join(arguments.net_dir, old))


def uninstall(arguments: argparse.Namespace) -> None:
    """What is gone already is fine. Raises OSError."""
    paths = [os.path.join(arguments.net_dir, arguments.conf_name)]
    paths += [os.path.join(arguments.bin_dir, name) for name in PROGRAMS]
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            _remove(path)


def _remove(path: str) -> None:
    os.unlink(path)
    sys.stdout.write(f"removed {path}\n")


def configuration(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """The list: calico, then portmap for the runtime's port mappings."""
    calico: dict[str, Any] = {"type": "calico", "ipam": {"type": arguments.ipam}}
    if arguments.ipam == "calico-ipam":
        calico["ipam"] |= {"assign_ipv4": "true", "assign_ipv6": "true" if arguments.ipv6 else "false"}
    if arguments.kubernetes:
        calico["policy"] = {"type": "k8s"}
    if arguments.mtu:
        calico["mtu"] = arguments.mtu
    if arguments.agent_socket:
        calico["agent_socket"] = arguments.agent_socket
    plugins = [calico]
    if not arguments.no_portmap:
        plugins.append({"type": "portmap", "snat": True, "capabilities": {"portMappings": True}})
    return {"name": arguments.network, "cniVersion": arguments.cni_version, "plugins": plugins}


def program(python: str) -> str:
    """The executable, for that interpreter."""
    text = resources.files("calico_cni").joinpath("shim.py").read_text(encoding="utf-8")
    return f"#!{python} -IS\n" + text.split("\n", 1)[1]


def _system_python() -> str:
    """The interpreter itself, not a virtual environment's link: it outlives the environment and starts faster."""
    return os.path.realpath(sys.executable)


def _write(path: str, data: bytes, mode: int) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    beside = f"{path}.tmp"
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        os.replace(beside, path)
        sys.stdout.write(f"wrote {path}\n")
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        raise
