"""What an agent costs that has nothing to do: ``python -m bench idle --workloads 50``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from bench import _common as common
from calico_kernel.testing import node as rig


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench idle", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--workloads", type=int, default=50)
    parser.add_argument("--policies", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    common.enter_bubble("idle", argv)
    with rig.NodeRig(workloads=options.workloads, policy_count=options.policies, progress=not options.json) as node:
        node.start_agent()
        time.sleep(3.0)
        before, started = node.agent_cpu_seconds(), time.monotonic()
        time.sleep(options.seconds)
        cores = (node.agent_cpu_seconds() - before) / (time.monotonic() - started)
        rss = node.agent_rss_mib()
    common.report(
        {"workloads": options.workloads, "cores": round(cores, 4), "rss_mib": round(rss, 1)}, as_json=options.json
    )
    return 0
