"""``calicoctl node status``: is the agent of this node alive, is it ready, and how are its BGP sessions.

In:    the agent's health server.
Out:   text in the words of Calico's tool, or JSON. Status 1 when no agent answers.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session

PATIENCE_S = 5.0


def configure(_name: str, parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    status = actions.add_parser("status", help="of the agent on this machine")
    status.add_argument("-o", "--output", choices=["text", "json"], default="text")


def run(_name: str, args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli.output import json_text

    agent = session.config.agent
    host = "127.0.0.1" if agent.health_host in {"", "0.0.0.0"} else agent.health_host
    live, live_said = _ask(host, agent.health_port, "liveness")
    ready, ready_said = _ask(host, agent.health_port, "readiness") if live is not None else (None, "")
    if args.output == "json":
        print(
            json_text(
                {
                    "running": live is not None,
                    "live": live,
                    "ready": ready,
                    "liveness": _parsed(live_said),
                    "readiness": _parsed(ready_said),
                }
            )
        )
        return 0 if live is not None else 1
    if live is None:
        print(f"Calico process is not running: {live_said}", file=sys.stderr)
        return 1
    print("Calico process is running.")
    for word, well, said in (("live", live, live_said), ("ready", ready, ready_said)):
        reasons = [line for line in said.splitlines() if line.strip() not in {"", "ok"}]
        print(f"The agent is {'' if well else 'not '}{word}{':' if reasons else '.'}")
        for line in reasons:
            print(f"  {line}")
    return 0


def _ask(host: str, port: int, what: str) -> tuple[bool | None, str]:
    """(its answer, its reasons); None when nobody answers."""
    import http.client

    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
    try:
        connection.request("GET", f"/{what}")
        answer = connection.getresponse()
        return answer.status < 400, answer.read(1 << 20).decode(errors="replace")
    except (OSError, http.client.HTTPException) as exc:
        return None, f"no agent answers at {host}:{port} ({exc or type(exc).__name__})"
    finally:
        connection.close()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text.strip()
