"""``calicoctl node``: ``status``, ``diags``, ``checksystem`` and ``run``, on the machine whose node it is.

In:    arguments; of ``status``, what the agent's health server says.
Out:   text in the words of Calico's tool, or JSON. ``status`` has exit status 1 when no agent answers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session

PATIENCE_S = 5.0
LOG_DIR = "/var/log/calico"


def configure(_name: str, parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    status = actions.add_parser("status", help="what the agent on this machine says of itself")
    status.add_argument("-o", "--output", choices=["text", "json"], default="text")
    diags = actions.add_parser("diags", help="collect what helps to find a fault of this node, as a .tar.gz")
    diags.add_argument("--log-dir", default=LOG_DIR, metavar="DIR", help=f"directory of log files, else {LOG_DIR}")
    diags.add_argument("--output-dir", default=".", metavar="DIR", help="where the archive goes, else here")
    check = actions.add_parser("checksystem", help="what this machine has of what the plugins need")
    check.add_argument(
        "-f", "--kernel-config", default="", metavar="FILE", help="configuration of the kernel, plain or gz"
    )
    check.add_argument("-o", "--output", choices=["text", "json"], default="text")
    _configure_run(actions.add_parser("run", help="run the agent of this node in the foreground"))


def _configure_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", "--node", default="", help="name of the node, else that of the configuration")
    parser.add_argument("--ip", default="", help="its IPv4 address (with prefix length), or autodetect")
    parser.add_argument("--ip6", default="", help="its IPv6 address (with prefix length), or autodetect")
    parser.add_argument("--as", dest="as_number", default="", metavar="NUMBER", help="its AS number")
    for version in ("", "6"):
        parser.add_argument(
            f"--ip{version}-autodetection-method", default="first-found", metavar="METHOD",
            help=f"how to find the IPv{version or 4} address",
        )  # fmt: skip
    parser.add_argument("--no-default-ippools", action="store_true", help="accepted; the agent makes no pools anyway")
    parser.add_argument("--felix-config", default="", metavar="FILE", help="felix.cfg, whose [global] values count")
    parser.add_argument("--dryrun", action="store_true", help="say what would run, and run nothing")
    parser.add_argument("--init-system", action="store_true", help="say how the machine's init system runs it")
    parser.add_argument("--log-dir", default=LOG_DIR, help="accepted; the agent logs to standard error")
    parser.add_argument("--node-image", default="", help="no container is started: refused")
    parser.add_argument(
        "--backend", default="", metavar="NAME", help="none, or a routing plugin the configuration names"
    )


def run(_name: str, args: argparse.Namespace, session: Session) -> int:
    if args.action == "status":
        return _status(args, session)
    module = {"diags": "nodediags", "checksystem": "checksystem", "run": "noderun"}[args.action]
    return int(import_module(f"calico_kernel.cli.{module}").run(args, session))


def _status(args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli.output import json_text

    host, port = health_address(session)
    off = None, "agent.health_port is 0 in the configuration, so no agent can be asked"
    health, said = asked(host, port, "health") if port else off
    found = _parsed(said) if health is not None else None
    if not isinstance(found, dict):
        if args.output == "json":
            print(json_text({"running": False, "reason": said.strip()}))
        else:
            print(f"Calico process is not running: {said.strip()}", file=sys.stderr)
        return 1
    if args.output == "json":
        live, ready = (bool(found.get(word, {}).get("ok")) for word in ("liveness", "readiness"))
        print(json_text({"running": True, "live": live, "ready": ready, **found}))
        return 0
    print("Calico process is running.")
    for word, affects in (("live", "liveness"), ("ready", "readiness")):
        _print_health(word, found.get(affects, {}))
    agent = found.get("agent")
    if agent:
        _print_agent(agent, found.get("lacks", []))
    return 0


def health_address(session: Session) -> tuple[str, int]:
    agent = session.config.agent
    return "127.0.0.1" if agent.health_host in {"", "0.0.0.0", "::"} else agent.health_host, agent.health_port


def asked(host: str, port: int, what: str) -> tuple[bool | None, str]:
    """(its answer, its reasons); None when nobody answers."""
    import http.client

    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
    try:
        connection.request("GET", f"/{what}")
        answer = connection.getresponse()
        return answer.status < 400, answer.read(1 << 24).decode(errors="replace")
    except (OSError, http.client.HTTPException) as exc:
        return None, f"no agent answers at {host}:{port} ({exc or type(exc).__name__})"
    finally:
        connection.close()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text.strip()


# ── text ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _print_health(word: str, health: Mapping[str, Any]) -> None:
    reasons = health.get("reasons", [])
    print(f"The agent is {'' if health.get('ok') else 'not '}{word}{':' if reasons else '.'}")
    for one in reasons:
        _say(f"  {one.get('check')}: {one.get('reason')}")


def _print_agent(agent: Mapping[str, Any], lacks: Sequence[Mapping[str, Any]]) -> None:
    from calico_kernel.cli.output import box

    store = agent.get("datastore", {})
    state = "in sync" if store.get("inSync") and store.get("connected") else store.get("trouble") or "not connected"
    plugin = next((name.partition(":")[2] for name in agent.get("plugins", []) if name.startswith("datastore:")), "")
    print()
    _say(f"Node:       {agent.get('node')}, version {agent.get('version')}, since {agent.get('startedAt')}")
    _say(f"Datastore:  {plugin}: {state}{', locked' if store.get('locked') else ''}")
    if agent.get("malformedResources"):
        _say(f"Resources:  {agent['malformedResources']} malformed: they count as absent, policies deny")
    rows = [
        [
            one["name"],
            "converged" if one["converged"] else "not converged",
            str(one["applies"]),
            str(one["failedApplies"]),
            str(one["lacks"]),
        ]
        for one in agent.get("drivers", [])
    ]
    print("\nPlugins that program this node")
    print(box(["PLUGIN", "STATE", "APPLIES", "FAILED", "HOST LACKS"], rows, right=frozenset({2, 3, 4})), end="")
    for one in agent.get("drivers", []):
        for failure in one["failures"]:
            _say(f"  {one['name']}: {failure['subject']}: {failure['reason']}")
    if lacks:
        print("\nWhat this host cannot do")
        rows = [[str(one.get(key, "")) for key in ("driver", "capability", "effect")] for one in lacks]
        print(box(["PLUGIN", "CAPABILITY", "EFFECT"], rows), end="")
    if any(one.get("family") == "routing" for one in agent.get("drivers", [])):
        _print_peers(agent.get("bgpPeers", []))
    else:
        print("\nNo routing plugin is configured: this node speaks no BGP.")
    print()


def _print_peers(peers: Sequence[Mapping[str, Any]]) -> None:
    from calico_kernel.cli.output import box

    for version in ("4", "6"):
        found = [peer for peer in peers if (":" in str(peer.get("address", ""))) == (version == "6")]
        print(f"\nIPv{version} BGP status")
        if not found:
            print(f"No IPv{version} peers found.")
            continue
        keys = ("address", "type", "state", "since", "info")
        heading = ["PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO"]
        print(box(heading, [[str(peer.get(key, "")) for key in keys] for peer in found]), end="")


def _say(text: str) -> None:
    from calico_kernel.cli.output import visible

    print(visible(text))
