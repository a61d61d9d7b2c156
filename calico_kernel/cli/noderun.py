"""``calicoctl node run``: the agent of this node in the foreground, with the options of Calico's command.

In:    options; each stands for a setting of the configuration, and is handed on as that setting's variable.
Out:   the agent, in this process, until it is told to stop; with ``--dryrun`` the command that would run.

Calico's command starts a container and returns. Here the program that would be in it is installed already, so it runs
attached, as under ``--init-system``; to have it started at boot is the business of systemd.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from calico_kernel.errors import AlreadyExists, NotFound

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session

METHODS = ("first-found", "can-reach=", "interface=", "skip-interface=", "cidr=")


def run(args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli.common import Refused

    if args.node_image:
        raise Refused("--node-image: no container is started; the agent is the one that is installed with this tool")
    number = _as_number(args.as_number)
    variables = {**_variables(args), **(felix_variables(args.felix_config) if args.felix_config else {})}
    if args.dryrun:
        _explain(args, variables, number, session)
        return 0
    if os.geteuid() != 0:
        raise Refused("Need super user privileges: the agent programs the network of this machine")
    os.environ.update(variables)
    session.reload()
    if number:
        _set_as_number(session, number)
        session.close()
    from calico_kernel.agent import node

    return node.run(session.config)


def _variables(args: argparse.Namespace) -> dict[str, str]:
    """The settings that the options stand for, by the variables that have them."""
    from calico_kernel.cli.common import Refused

    found = {}
    if args.name:
        found["CALICO_NODE"] = args.name
    for version, given, method in (
        (4, args.ip, args.ip_autodetection_method),
        (6, args.ip6, args.ip6_autodetection_method),
    ):
        if not method.startswith(METHODS) or method.endswith("="):
            raise Refused(f"error executing command: invalid IP autodetection method: {method}")
        wanted = "" if given == "autodetect" else given
        if wanted and wanted != "none":
            try:
                right = ipaddress.ip_interface(wanted).version == version
            except ValueError:
                raise Refused(f"error executing command: invalid IP address specified: {wanted}") from None
            if not right:
                raise Refused(f"error executing command: --ip{'' if version == 4 else 6} is wrong IP version")
        if wanted or given == "autodetect" or method != "first-found":
            found[f"CALICO_AGENT_IPV{version}_ADDRESS"] = wanted or method
    if args.backend:
        found["CALICO_ROUTING"] = "" if args.backend == "none" else args.backend
    return found


def _as_number(text: str) -> int:
    """0 for none. ``1.10`` is 65546, as RFC 5396 has it."""
    from calico_kernel.cli.common import Refused

    high, dot, low = text.rpartition(".")
    parts = [high, low] if dot else [low]
    most = 0xFFFF if dot else 0xFFFFFFFF
    if not text:
        return 0
    if not all(part.isascii() and part.isdigit() and int(part) <= most for part in parts):
        raise Refused(f"error executing command: invalid AS Number specified: {text}")
    return (int(high) << 16 if dot else 0) + int(low)


def felix_variables(path: str) -> Mapping[str, str]:
    """The values of felix.cfg as Felix' variables. A variable that is set already wins, as with Felix."""
    from configparser import Error, RawConfigParser

    from calico_kernel.cli.files import FileError

    parser = RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
    except OSError as exc:
        raise FileError(f"open {path}: {(exc.strerror or str(exc)).lower()}") from exc
    except (Error, UnicodeDecodeError) as exc:
        raise FileError(f"{path} is no felix.cfg: {exc}") from exc
    taken = {name.upper() for name in os.environ}
    values = {name: value for section in parser.sections() for name, value in parser.items(section)}
    found = {f"FELIX_{name}".upper(): value for name, value in values.items()}  # Felix minds no capitals there
    return {name: value for name, value in found.items() if name not in taken}


def _set_as_number(session: Session, number: int) -> None:
    """Into this node's resource, which is made if it is not there; the agent adds the addresses."""
    import msgspec

    from calico_kernel.client import ensure_initialized
    from calico_kernel.model.endpoints import Node, NodeBGPSpec, NodeSpec
    from calico_kernel.model.meta import ObjectMeta

    def numbered(node: Any) -> Any:
        bgp = msgspec.structs.replace(node.spec.bgp or NodeBGPSpec(), as_number=number)
        return msgspec.structs.replace(node, spec=msgspec.structs.replace(node.spec, bgp=bgp))

    client, name = session.client, session.config.node
    ensure_initialized(client)
    try:
        client.get("Node", name)
    except NotFound:
        try:
            client.create(numbered(Node(metadata=ObjectMeta(name=name), spec=NodeSpec())))
            return
        except AlreadyExists:
            pass
    client.change("Node", name, "", numbered)


def _explain(args: argparse.Namespace, variables: Mapping[str, str], number: int, session: Session) -> None:
    config = session.config.path
    before = "".join(f"{name}={shlex.quote(value)} " for name, value in sorted(variables.items()))
    after = f" --config {shlex.quote(config)}" if config else ""
    print("Use the following command to start the node agent:\n")
    print(f"{before}calico node run{after}\n")
    if number:
        name = args.name or session.config.node
        patch = f'{{"spec": {{"bgp": {{"asNumber": {number}}}}}}}'
        print(f"and this one, once, for its AS number:\n\ncalicoctl patch node {shlex.quote(name)} -p '{patch}'\n")
    if args.init_system:
        print("With systemd, put the variables into a drop-in (`systemctl edit calico-node`) and use:\n")
        print("systemctl enable --now calico-node\nsystemctl stop calico-node\n")
    else:
        print("If you are running the agent in an init system, use the --init-system flag")
        print("to display the appropriate start and stop commands.")
