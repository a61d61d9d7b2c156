"""``calico lab up|run|exec|probe|status|logs|list|down``: the command line of the lab.

In:    arguments.   Out: calls of calico_kernel.lab.client and calico_kernel.lab.runner; text on standard output.
Owns:  nothing. ``COMMAND`` is what the ``calico`` program registers.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from calico_kernel.errors import CalicoError, ConfigError
from calico_kernel.hookspecs import CliCommand

DEFAULT_NAME = "lab"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "A small network of racks, hosts and workloads on this machine, every host with the real agent. Needs no root; "
        "touches nothing of the machine; gone without trace when it ends."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    up = actions.add_parser("up", help="start a lab that stays")
    _name(up)
    _shape(up)
    up.add_argument("--bare", action="store_true", help="wires and hosts only: no agents, no workloads")

    run = actions.add_parser(
        "run", help="apply the policies of a directory, one scenario after the other, and test them"
    )
    run.add_argument("directory", type=Path, metavar="DIR")
    run.add_argument("--name", help="use this running lab (default: one of its own, ended afterwards)")
    _shape(run)
    run.add_argument(
        "--only", action="append", metavar="NAME", help="only scenarios whose name contains this; repeatable"
    )
    run.add_argument("--json", action="store_true", help="one JSON object instead of tables")

    execute = actions.add_parser("exec", help="run a command on a node, workload, router or host outside")
    _name(execute)
    execute.add_argument("place", metavar="PLACE", help="node1, router-rack1, core, outside, or NAMESPACE/WORKLOAD")
    execute.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")

    probe = actions.add_parser("probe", help="send packets from one place to another and see whether they arrive")
    _name(probe)
    probe.add_argument("source", metavar="SRC", help="NAMESPACE/WORKLOAD, a node or a host outside")
    probe.add_argument("target", metavar="DST")
    probe.add_argument("services", nargs="*", metavar="SERVICE", help="tcp/80, udp/53, sctp/5000 or icmp")

    status = actions.add_parser("status", help="what a lab consists of, with addresses")
    _name(status)
    status.add_argument("--json", action="store_true")

    logs = actions.add_parser("logs", help="the end of an agent's log, of the datastore's, or of the lab's own")
    _name(logs)
    logs.add_argument(
        "node", help="a node, the datastore's server (`etcd`, `kubernetes`) where the lab has one, or `lab`"
    )
    logs.add_argument("--lines", type=int, default=100)

    actions.add_parser("list", help="running labs")

    down = actions.add_parser("down", help="end a lab")
    _name(down)
    down.add_argument("--all", action="store_true", help="all of this user's labs")


def _name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", default=DEFAULT_NAME, help=f"which lab (default: {DEFAULT_NAME})")


def _shape(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--topology", type=Path, metavar="FILE", help="YAML: racks, namespaces, workloads, pools")
    parser.add_argument("--nodes", type=int, help="so many nodes, instead of the three of the demo")
    parser.add_argument("--racks", type=int, help="in so many racks")
    parser.add_argument(
        "--datastore",
        choices=("sqlite", "etcd", "kubernetes"),
        help="what the nodes keep their records in; etcd, kubernetes: a server of the lab's own (default: what the "
        "topology says, else sqlite)",
    )


def run(arguments: argparse.Namespace) -> int:
    try:
        return int(_ACTIONS[arguments.action](arguments))
    except CalicoError as exc:
        print(f"calico lab: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("calico lab: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has seen enough; nothing more can be said there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def chosen_topology(arguments: argparse.Namespace) -> Any:
    from calico_kernel.lab import topology

    shape = _chosen_shape(arguments)
    return topology.with_datastore(shape, arguments.datastore) if arguments.datastore else shape


def _chosen_shape(arguments: argparse.Namespace) -> Any:
    from calico_kernel.lab import topology

    if arguments.topology is not None:
        if arguments.nodes is not None or arguments.racks is not None:
            raise ConfigError(what="--topology does not go with --nodes or --racks", todo="give one or the other")
        try:
            text = arguments.topology.read_text()
        except OSError as exc:
            raise ConfigError(what=f"cannot read {arguments.topology}: {exc.strerror}", todo="name a file") from exc
        except UnicodeDecodeError as exc:
            raise ConfigError(what=f"{arguments.topology} is not text", todo="name a YAML file") from exc
        return topology.load(text, origin=str(arguments.topology))
    if arguments.nodes is not None or arguments.racks is not None:
        racks = 1 if arguments.racks is None else arguments.racks
        return topology.generated(racks if arguments.nodes is None else arguments.nodes, racks)
    return topology.demo()


def _up(arguments: argparse.Namespace) -> int:
    from calico_kernel.lab import client

    with client.start(
        chosen_topology(arguments), name=arguments.name, tied=False, agents=not arguments.bare, say=_progress
    ) as lab:
        _print_state(lab.state())
    option = "" if arguments.name == DEFAULT_NAME else f" --name {arguments.name}"
    print(f"\nTry:  calico lab exec{option} node1 -- ip route\nEnd:  calico lab down{option}")
    return 0


def _progress(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def _run(arguments: argparse.Namespace) -> int:
    from calico_kernel.lab import runner

    if arguments.name and arguments.datastore:
        raise ConfigError(
            what=f"--datastore does not go with --name: the lab {arguments.name} has its datastore already",
            todo="leave one of them out",
        )
    return runner.command(arguments, chosen_topology)


def _exec(arguments: argparse.Namespace) -> int:
    from calico_kernel.lab.client import LabClient

    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    LabClient(arguments.name).exec(arguments.place, argv or ["sh"])


def _probe(arguments: argparse.Namespace) -> int:
    """Status 1 when a packet does not get the verdict of the reference evaluator."""
    from calico_kernel.lab import scenarios
    from calico_kernel.lab.client import LabClient

    words = arguments.services or ["tcp/80", "udp/53", "icmp"]
    services = [scenarios.parse_service(word) for word in words]
    with LabClient(arguments.name) as lab:
        addresses = lab.state()["addresses"]
        for place in (arguments.source, arguments.target):
            if place not in addresses:
                raise ConfigError(what=f"{place} has no address here", todo=f"name one of: {', '.join(addresses)}")
        versions = [
            version for version in (4, 6) if all(str(version) in addresses[place] for place in _ends(arguments))
        ]
        carriers = [
            (word, *service, version) for word, service in zip(words, services, strict=True) for version in versions
        ]
        probes = [(arguments.source, arguments.target, *carrier[1:]) for carrier in carriers]
        stored = lab.ask("expect", probes=probes)
        arrived = lab.ask("probe", probes=probes, expected=stored["allowed"], patience_s=1.0)
    rows: list[tuple[str, ...]] = [("SERVICE", "IP", "EXPECTED", "MEASURED", "BECAUSE")]
    words_of = {True: "allowed", False: "denied"}
    for (word, *_, version), want, got, reason in zip(
        carriers, stored["allowed"], arrived, stored["reasons"], strict=True
    ):
        rows.append((word, f"IPv{version}", words_of[want], words_of[got], reason))
    _table(rows)
    return int(stored["allowed"] != arrived)


def _ends(arguments: argparse.Namespace) -> tuple[str, str]:
    return arguments.source, arguments.target


def _status(arguments: argparse.Namespace) -> int:
    from calico_kernel.lab.client import LabClient

    with LabClient(arguments.name) as lab:
        state = lab.state()
    if arguments.json:
        import json

        print(json.dumps(state))
    else:
        _print_state(state)
    return 0


def _print_state(state: Any) -> None:
    from calico_kernel.lab.topology import decode

    topology = decode(state["topology"])
    rows: list[tuple[str, ...]] = [("NODE", "RACK", "IPV4", "IPV6")]
    rows += [(host.name, host.rack or "-", host.ipv4, host.ipv6) for host in (*topology.nodes, *topology.outside)]
    if topology.server is not None:
        rows.append((topology.server.name, "-", topology.server.ipv4, topology.server.ipv6))
    _table(rows)
    if state["interfaces"]:
        rows = [("WORKLOAD", "NODE", "IPV4", "IPV6", "INTERFACE")]
        for each in topology.workloads:
            addresses = state["addresses"].get(each.id, {})
            rows.append(
                (
                    each.id,
                    each.node,
                    addresses.get("4", "-"),
                    addresses.get("6", "-"),
                    state["interfaces"].get(each.id, "-"),
                )
            )
        print()
        _table(rows)


def _table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _logs(arguments: argparse.Namespace) -> int:
    from calico_kernel.lab.client import LabClient

    with LabClient(arguments.name) as lab:
        sys.stdout.write(lab.ask("logs", node=arguments.node, lines=arguments.lines))
    return 0


def _list(_arguments: argparse.Namespace) -> int:
    from calico_kernel.lab import client

    for name in client.names():
        print(name)
    return 0


def _down(arguments: argparse.Namespace) -> int:
    from calico_kernel.lab import client

    for name in client.names() if arguments.all else [arguments.name]:
        with client.LabClient(name) as lab:
            lab.end()
    return 0


_ACTIONS = {
    "up": _up,
    "run": _run,
    "exec": _exec,
    "probe": _probe,
    "status": _status,
    "logs": _logs,
    "list": _list,
    "down": _down,
}

COMMAND = CliCommand(
    program="calico", name="lab", help="a small network on this machine to try things in", configure=configure, run=run
)
