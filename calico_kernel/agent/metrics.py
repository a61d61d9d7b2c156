"""The agent's own metrics, under Felix's names where Felix has them (``felix_*``), else ``calico_*``."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator

from calico_kernel.agent.feed import FeedState
from calico_kernel.agent.loop import LoopState
from calico_kernel.agent.worker import DriverWorker
from calico_kernel.hookspecs import Metric

STARTED = time.time()


def agent_metrics(
    node: str, feed: FeedState, loop: LoopState, stats: dict[str, float], problems: int, workers: Iterable[DriverWorker]
) -> Iterator[Metric]:
    """Samples of this moment. ``stats``: the calculator's own counts, by Felix metric name without ``felix_``."""

    def gauge(name: str, help_text: str, value: float, **labels: str) -> Metric:
        return Metric(name=name, help=help_text, kind="gauge", value=value, labels=labels)

    def counter(name: str, help_text: str, value: float, **labels: str) -> Metric:
        return Metric(name=name, help=help_text, kind="counter", value=value, labels=labels)

    yield gauge("felix_host", "Always 1; names the node.", 1, host=node)
    state = 3 if feed.in_sync and feed.connected else 2 if feed.connected else 1
    yield gauge("felix_resync_state", "Datastore state: 1 waiting, 2 reading, 3 in sync.", state)
    yield counter("felix_resyncs_started", "Times that everything was listed from the datastore.", feed.lists)
    yield counter("felix_calc_graph_updates_processed", "Changes that the calculation took in.", loop.updates)
    yield counter("felix_calc_graph_output_events", "Deltas that the calculation gave out.", loop.deltas)
    yield counter("felix_calc_graph_update_time_seconds_sum", "Seconds spent calculating.", loop.calc_seconds)
    yield counter("felix_calc_graph_update_time_seconds_count", "Changes calculated.", loop.updates)
    for name, value in stats.items():
        yield gauge(f"felix_{name}", "Count kept by the calculation.", value)
    yield gauge("calico_malformed_resources", "Stored resources that count as absent, or policies that deny.", problems)
    for worker in workers:
        seen = worker.state
        failed = seen.failed_applies
        yield counter("calico_driver_applies", "Applies of a driver.", seen.applies, driver=worker.name)
        yield counter("calico_driver_failed_applies", "Applies that left work.", failed, driver=worker.name)
        yield counter("calico_driver_apply_seconds_sum", "Seconds of applies.", seen.total_seconds, driver=worker.name)
        yield gauge("calico_driver_lacks", "Things that the host cannot do.", len(seen.lacks), driver=worker.name)
        if worker.name.startswith("dataplane:"):
            yield counter("felix_int_dataplane_failures", "Applies that left work.", failed)
            yield counter("felix_int_dataplane_apply_time_seconds_sum", "Seconds of applies.", seen.total_seconds)
            yield counter("felix_int_dataplane_apply_time_seconds_count", "Applies.", seen.applies)
            if seen.first_seconds is not None:
                yield gauge(
                    "felix_int_dataplane_initial_resync_time_seconds", "Seconds of the first apply.", seen.first_seconds
                )
    usage = resource.getrusage(resource.RUSAGE_SELF)
    yield counter("process_cpu_seconds_total", "CPU time of the agent.", usage.ru_utime + usage.ru_stime)
    yield gauge("process_resident_memory_bytes", "Resident memory of the agent.", _resident_bytes())
    yield gauge("process_start_time_seconds", "Start of the agent, Unix time.", STARTED)


def _resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()
