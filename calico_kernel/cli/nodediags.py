"""``calicoctl node diags``: an archive of what helps to find a fault of this node.

In:    the kernel's tables, the agent's own words, logs, configuration. Nothing is changed, the datastore is not opened.
Out:   ``diags-TIME.tar.gz``, readable by its owner alone, and a list of what could not be had.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calico_kernel.cli.bundle import Bundle, stamped
from calico_kernel.cli.progress import Progress
from calico_kernel.errors import CalicoError

if TYPE_CHECKING:
    from calico_kernel.cli.session import Session

COMMANDS: Sequence[tuple[str, str]] = (
    ("system/date", "date"),
    ("system/hostname", "hostname"),
    ("system/uname", "uname -a"),
    ("system/lsmod", "lsmod"),
    ("network/ip-link", "ip -d -s link"),
    ("network/ipv4-addr", "ip -4 addr"),
    ("network/ipv6-addr", "ip -6 addr"),
    ("network/ipv4-route", "ip -4 route show table all"),
    ("network/ipv6-route", "ip -6 route show table all"),
    ("network/ipv4-rule", "ip -4 rule"),
    ("network/ipv6-rule", "ip -6 rule"),
    ("network/ip-neigh", "ip neigh"),
    ("network/bridge-fdb", "bridge fdb show"),
    ("network/tc-qdisc", "tc qdisc show"),
    ("network/ss", "ss -a -n"),
    ("network/conntrack-count", "conntrack -C"),
    ("network/conntrack-stats", "conntrack -S"),
    ("netfilter/iptables-legacy", "iptables-legacy-save -c"),
    ("netfilter/ip6tables-legacy", "ip6tables-legacy-save -c"),
    ("netfilter/iptables-nft", "iptables-nft-save -c"),
    ("netfilter/ip6tables-nft", "ip6tables-nft-save -c"),
    ("netfilter/nft-ruleset", "nft -n -a list ruleset"),
    ("netfilter/ipset", "ipset list"),
    ("logs/journal-calico-node", "journalctl -u calico-node.service --no-pager -n 50000"),
    ("logs/kernel", "journalctl -k --no-pager -n 5000"),
)
LEGACY = "/proc/net/ip_tables_names"
SYSCTLS = ("net/ipv4", "net/ipv6", "net/netfilter", "net/core", "net/bridge")
CONFIGURATION = ("/etc/calico", "/etc/cni/net.d")
POD_LOGS = "/var/log/pods/*calico*"


def run(args: argparse.Namespace, session: Session) -> int:
    from calico_kernel.cli.common import Refused

    if not os.path.isdir(args.output_dir):
        raise Refused(f"--output-dir: there is no directory {args.output_dir}")
    print("Collecting diagnostics")
    steps: list[Callable[[Bundle], None]] = [
        *(lambda bundle, one=one: _command(bundle, *one) for one in COMMANDS),
        _files_of_system,
        _sysctls,
        lambda bundle: _agent(bundle, session),
        lambda bundle: _configuration(bundle, session),
        lambda bundle: _ourselves(bundle, session),
        lambda bundle: _logs(bundle, Path(args.log_dir)),
    ]
    with Bundle(stamped("diags")) as bundle:
        if os.geteuid() != 0:
            bundle.leave_out("tables of netfilter and others", "only root sees them; run this as root")
        with Progress(len(steps), "collected", least=2) as progress:
            for step in steps:
                step(bundle)
                progress.step()
        archive = bundle.finish(Path(args.output_dir))
    say_left_out(bundle)
    print(f"\nDiags saved to {archive}")
    print("Passwords, tokens and private keys are masked; look through it before you give it away.")
    return 0


def say_left_out(bundle: Bundle) -> None:
    from calico_kernel.cli.output import visible

    if bundle.left_out:
        print("Left out:", file=sys.stderr)
    for what, why in bundle.left_out:
        print(visible(f"  {what}: {why}"), file=sys.stderr)


def _command(bundle: Bundle, path: str, command: str) -> None:
    if "-legacy-" in command and not os.path.exists(LEGACY):
        bundle.leave_out(command, "the legacy tables are not in use, and a look would load them")
        return
    bundle.command(f"{path}.txt", command.split())


def _files_of_system(bundle: Bundle) -> None:
    for source in ("/etc/os-release", "/proc/meminfo", "/proc/loadavg", "/proc/mounts", "/proc/net/snmp"):
        bundle.file(f"system/{source.rpartition('/')[2]}", Path(source))
    bundle.file("network/softnet_stat", Path("/proc/net/softnet_stat"), missing_is_fine=True)


def _sysctls(bundle: Bundle) -> None:
    lines = []
    for top in SYSCTLS:
        for directory, below, names in os.walk(f"/proc/sys/{top}"):
            below.sort()
            for name in sorted(names):
                path = f"{directory}/{name}"
                try:
                    value = Path(path).read_text(encoding="utf-8", errors="replace").strip()
                except OSError:  # some are for writing only
                    continue
                lines.append(f"{path.removeprefix('/proc/sys/')} = {value}\n")
    bundle.text("system/sysctl.txt", "".join(lines))


def _agent(bundle: Bundle, session: Session) -> None:
    from calico_kernel.cli.node import asked, health_address

    try:
        agent = session.config.agent
        host, port = health_address(session)
    except CalicoError as exc:
        bundle.leave_out("the agent", exc.what)
        return
    metrics_host = "127.0.0.1" if agent.metrics_host in {"", "0.0.0.0", "::"} else agent.metrics_host
    for path, name, where in (
        ("agent/health.json", "health", (host, port)),
        ("agent/liveness.txt", "liveness", (host, port)),
        ("agent/readiness.txt", "readiness", (host, port)),
        ("agent/metrics.txt", "metrics", (metrics_host, agent.metrics_port)),
    ):
        answered, said = asked(*where, name)
        if answered is None:
            bundle.leave_out(f"/{name} of the agent", said)
        else:
            bundle.text(path, said)
    for directory in (agent.state_dir, agent.run_dir):
        listed = sorted(str(path) for path in Path(directory).rglob("*")) if os.path.isdir(directory) else []
        bundle.text(
            f"agent/files-{directory.strip('/').replace('/', '-')}.txt", "".join(f"{path}\n" for path in listed)
        )


def _configuration(bundle: Bundle, session: Session) -> None:
    from calico_kernel.cli.config import values

    try:
        found = [{"key": key, "value": value, "origin": origin} for key, value, origin in values(session)]
        bundle.text("config/in-force.json", json.dumps(found, indent=2) + "\n")
        path = session.config.path
        if path:
            bundle.file(f"config/{Path(path).name}", Path(path))
    except CalicoError as exc:
        bundle.leave_out("the configuration", exc.what)
    for directory in CONFIGURATION:
        for file in sorted(Path(directory).glob("*")) if os.path.isdir(directory) else []:
            if file.suffix in {".yaml", ".yml", ".cfg", ".conf", ".conflist", ".json", ".env", ".kubeconfig"}:
                bundle.file(f"config{directory}/{file.name}", file)
            elif file.is_file():
                bundle.leave_out(str(file), "only configuration is taken, no certificates and keys")


def _ourselves(bundle: Bundle, session: Session) -> None:
    from calico_kernel import __version__
    from calico_kernel.cli import checksystem, plugins

    versions: dict[str, Any] = {"calicoctl": __version__, "python": sys.version, "arguments": sys.argv[1:2]}
    versions["plugins"] = [plugins.described(*one) for one in plugins.installed()]
    bundle.text("calico/versions.json", json.dumps(versions, indent=2, default=str) + "\n")
    try:
        report = checksystem.as_report(*checksystem.checked(session))
        bundle.text("calico/checksystem.json", json.dumps(report, indent=2) + "\n")
    except CalicoError as exc:
        bundle.leave_out("node checksystem", exc.what)


def _logs(bundle: Bundle, directory: Path) -> None:
    bundle.tree("logs/files", directory)
    for pod in _pods():
        bundle.tree(f"logs/pods/{pod.name}", pod)


def _pods() -> Iterator[Path]:
    yield from (Path(found) for found in sorted(glob.glob(POD_LOGS)))
