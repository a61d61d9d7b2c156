"""CNI ADD and DEL as a runtime sees them: ``python -m bench cni --count 64 --parallel 1``.

A namespace for each container (``ip netns add``, not timed), then the installed executable, called as the CNI
specification says; wall time of its process, against the whole agent: SQLite, block IPAM, iptables, policy enforced
before ADD returns. The limits in the same run: the bare start of the executable's interpreter, and ``ptp`` with
``host-local``, which give an address and an interface but no policy, endpoint record or cluster-wide address.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from bench import _common as common
from calico_kernel.testing import node as rig

CNI_PATH = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")


class Runtime:
    """Calls one CNI executable for containers ``first``..., ``parallel`` at a time."""

    def __init__(self, program: str, conf: Mapping[str, Any], prefix: str) -> None:
        self._program, self._conf, self._prefix = program, json.dumps(conf).encode(), prefix

    def namespace(self, number: int) -> str:
        return f"{self._prefix}{number}"

    def call(self, command: str, number: int) -> float:
        """Wall time of one call in milliseconds. Raises SystemExit when it fails."""
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": f"{number:03d}{self._prefix}" + "0" * 50,
            "CNI_NETNS": f"/run/netns/{self.namespace(number)}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": ":".join(CNI_PATH),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={self._prefix}-{number}",
            "PATH": os.environ["PATH"],
        }
        started = time.perf_counter()
        done = subprocess.run([self._program], input=self._conf, env=environment, capture_output=True, check=False)
        took_ms = (time.perf_counter() - started) * 1000
        if done.returncode:
            raise SystemExit(f"{self._program} {command} failed: {done.stdout.decode()} {done.stderr.decode()}")
        return took_ms

    def round(self, command: str, count: int, parallel: int) -> tuple[list[float], float]:
        """(milliseconds of each call, seconds for all)."""
        started = time.perf_counter()
        with ThreadPoolExecutor(parallel) as pool:
            times = list(pool.map(lambda number: self.call(command, number), range(count)))
        return times, time.perf_counter() - started


def percentile(times: Sequence[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def in_namespaces(runtime: Runtime, count: int, work: Callable[[], Any]) -> Any:
    """Run ``work`` with ``count`` namespaces made by ip(8), as a runtime's sandbox is made before ADD."""
    for number in range(count):
        subprocess.run(["ip", "netns", "add", runtime.namespace(number)], check=True)
    try:
        return work()
    finally:
        for number in range(count):
            subprocess.run(["ip", "netns", "del", runtime.namespace(number)], check=False)


def bare_start_ms(python: str) -> float:
    times = []
    for _ in range(20):
        started = time.perf_counter()
        subprocess.run([python, "-I", "-S", "-c", "pass"], check=True)
        times.append((time.perf_counter() - started) * 1000)
    return median(times)


def peer(count: int, parallel: int) -> dict[str, float | None]:
    """``ptp`` with ``host-local``, where they are installed."""
    program = shutil.which("ptp", path=":".join(CNI_PATH))
    if program is None:
        return {"ptp_host_local_add_p50_ms": None}
    ipam = {"type": "host-local", "subnet": "10.99.0.0/16", "dataDir": "/run/bench-host-local"}
    runtime = Runtime(program, {"cniVersion": "1.0.0", "name": "peer", "type": "ptp", "ipam": ipam}, "bp")

    def work() -> dict[str, float | None]:
        times, _ = runtime.round("ADD", count, parallel)
        runtime.round("DEL", count, parallel)
        return {"ptp_host_local_add_p50_ms": round(median(times), 1)}

    found: dict[str, float | None] = in_namespaces(runtime, count, work)
    return found


def installed(node: rig.NodeRig) -> tuple[str, dict[str, Any]]:
    """The executable and its network configuration, as ``calico cni install`` writes them."""
    directory = node.config.parent
    line = ["cni", "install", "--bin-dir", str(directory / "bin"), "--net-dir", str(directory / "net.d")]
    line += ["--agent-socket", str(directory / "run" / "agent.sock"), "--no-portmap"]
    from calico_kernel.cli.calico import main as calico

    with contextlib.redirect_stdout(sys.stderr):
        status = calico(["-c", str(node.config), *line])
    if status:
        raise SystemExit(f"calico cni install: status {status}")
    listed = json.loads(Path(directory / "net.d" / "10-calico.conflist").read_text())
    conf = {**listed["plugins"][0], "name": listed["name"], "cniVersion": listed["cniVersion"]}
    return str(directory / "bin" / "calico"), conf


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench cni", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=64, help="containers (default: 64)")
    parser.add_argument("--parallel", type=int, default=1, help="calls at a time (default: 1)")
    parser.add_argument("--policies", type=int, default=1, help="policies that select every workload (default: 1)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    common.enter_bubble("cni", argv)
    with rig.NodeRig(workloads=0, policy_count=options.policies, progress=not options.json) as node:
        node.start_agent()
        program, conf = installed(node)
        python = Path(program).read_text().split("\n", 1)[0].removeprefix("#!").split()[0]
        runtime = Runtime(program, conf, "bc")

        def work() -> tuple[list[float], float, list[float], float]:
            before = node.agent_cpu_seconds()
            adds, add_s = runtime.round("ADD", options.count, options.parallel)
            used = node.agent_cpu_seconds() - before
            dels, _ = runtime.round("DEL", options.count, options.parallel)
            return adds, add_s, dels, used

        adds, add_s, dels, agent_s = in_namespaces(runtime, options.count, work)
        limits = peer(options.count, options.parallel)
    common.report(
        {
            "count": options.count,
            "parallel": options.parallel,
            "add_p50_ms": round(median(adds), 1),
            "add_p99_ms": round(percentile(adds, 0.99), 1),
            "add_per_s": round(options.count / add_s, 1),
            "del_p50_ms": round(median(dels), 1),
            "agent_cpu_ms_per_add": round(agent_s * 1000 / options.count, 1),
            "bare_python_ms": round(bare_start_ms(python), 1),
            **limits,
            "load_average": round(os.getloadavg()[0], 1),
        },
        as_json=options.json,
    )
    return 0
