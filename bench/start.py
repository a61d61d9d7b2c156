"""Agent start with everything to program: ``python -m bench start --remote 50000 --policies 1100``.

From process start to readiness, with the rules in the kernel; resident memory then. The limit in the same run: the
listing of the same records by the datastore plugin, decoded.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from bench import _common as common
from calico_kernel.model.keys import ResourceQuery
from calico_kernel.testing import node as rig


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench start", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--workloads", type=int, default=50)
    parser.add_argument("--policies", type=int, default=1100)
    parser.add_argument("--remote", type=int, default=50_000)
    common.add_datastore_option(parser)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    common.enter_bubble("start", argv)
    with (
        common.datastore(options.datastore) as store,
        rig.NodeRig(
            workloads=options.workloads,
            policy_count=options.policies,
            remote=options.remote,
            progress=not options.json,
            **store,
        ) as node,
    ):
        seconds = node.start_agent()
        cpu = node.agent_cpu_seconds()
        rss, peak = node.agent_rss_mib(), node.agent_rss_mib(peak=True)
        node.stop_agent()
        again = node.start_agent()
        started = time.monotonic()
        node.store.list([ResourceQuery("WorkloadEndpoint"), ResourceQuery("GlobalNetworkPolicy")])
        listing = time.monotonic() - started
    common.report(
        {
            "datastore": options.datastore,
            "remote": options.remote,
            "policies": options.policies,
            "seconds": round(seconds, 2),
            "cpu_seconds": round(cpu, 2),
            "rss_mib": round(rss, 1),
            "peak_rss_mib": round(peak, 1),
            "restart_seconds": round(again, 2),
            "listing_seconds": round(listing, 4),
            "start_over_listing": round(seconds / listing, 1),
        },
        as_json=options.json,
    )
    return 0
